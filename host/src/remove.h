#ifndef AK_REMOVE_H
#define AK_REMOVE_H

/* Removes a directory of this user's and all in it, as far as that goes: links are removed, never followed, other file systems and
 * anything deeper than a few levels are left. */
void remove_directory(const char *path);

#endif
