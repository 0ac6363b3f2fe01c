/* Commands: started on a channel, outliving it when they must. */
#ifndef AK_EXEC_H
#define AK_EXEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "link.h"
#include "session.h"

/* Start what the request says, or fail the channel. False when the request is malformed. */
bool exec_open(struct channel *channel, uint8_t *bytes, size_t length);
/* False when the frame does not fit a command. */
bool exec_frame(struct run *run, const struct frame *frame);
/* The channel is gone; the program goes on. */
void exec_detach(struct run *run);
/* Collect every child that has ended. */
void exec_reap(void);
/* Send what is due, watch what matters. */
void exec_step(void);
/* Free what is over: when its end has been written, so that nobody waits for that. */
void exec_forget(void);
/* End everything that was ever started. */
void exec_kill_all(void);

#endif
