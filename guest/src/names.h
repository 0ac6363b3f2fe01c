/* Changing directories: MKDIR, and REMOVE with all that is below. */
#ifndef AK_NAMES_H
#define AK_NAMES_H

#include <stdbool.h>

#include "job.h"

void make_directory(struct channel *channel, const struct file_request *request);
void remove_file(struct channel *channel, const struct file_request *request);
/* Some more names of a REMOVE. True when there is more to do at once. */
bool remove_piece(struct job *job);
/* The job is over: close the directories it is in. */
void remove_forget(struct job *job);

#endif
