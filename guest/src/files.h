/* File requests (PROTOCOL.md 7): what is short is done at once, what is long goes on piece by piece as a job. */
#ifndef AK_FILES_H
#define AK_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "link.h"
#include "session.h"

/* False when the request is malformed. */
bool files_open(struct channel *channel, uint8_t kind, uint8_t *bytes, size_t length);
/* False when the frame does not fit the job. */
bool files_frame(struct job *job, const struct frame *frame);
/* The channel is gone: undo what is half done. */
void files_abandon(struct job *job);
/* One piece of each job. True when there is more to do at once. */
bool files_step(void);

#endif
