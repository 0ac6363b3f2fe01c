#ifndef AK_REMOVE_H
#define AK_REMOVE_H

#include <sys/types.h>

/* Removes a directory of this user's and all in it, also what belongs to `other`, as far as that goes: links are removed, never followed, other file systems and
 * anything deeper than a few levels are left. */
void remove_directory(const char *path, uid_t other);

#endif
