/* What is there, without its content: STAT and LIST. */
#ifndef AK_LISTING_H
#define AK_LISTING_H

#include <stdbool.h>

#include "job.h"

void stat_file(struct channel *channel, const char *path);
void list_directory(struct channel *channel, const char *path);
/* The next frame of a LIST. True when there is more to do at once. */
bool list_piece(struct job *job);
/* Neither "." nor "..". NULL at the end (errno 0) and on failure. */
struct dirent *next_entry(DIR *directory);

#endif
