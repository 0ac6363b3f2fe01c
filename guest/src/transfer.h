/* Content of files, in pieces under the window: READ, WRITE with or without atomic replacement, TAR_IN. */
#ifndef AK_TRANSFER_H
#define AK_TRANSFER_H

#include <stdbool.h>

#include "job.h"
#include "link.h"

void read_file(struct channel *channel, const struct file_request *request);
void write_file(struct channel *channel, const struct file_request *request);
void tar_in(struct channel *channel, const struct file_request *request);
/* The next piece of a READ. True when there is more to do at once. */
bool read_piece(struct job *job);
/* DATA and END of a WRITE or a TAR_IN. */
void transfer_data(struct job *job, const struct frame *frame);
void transfer_end(struct job *job);

#endif
