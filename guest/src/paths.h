/* Opening, making and naming things in a file system that somebody hostile may be changing at the same time. */
#ifndef AK_PATHS_H
#define AK_PATHS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The first bytes of a regular or proc file; 0 when it cannot be read. Not NUL-terminated. */
size_t file_load(const char *path, char *buffer, size_t most);
/* Write a small file whole, in place. Returns 0 or an errno. */
int file_store(const char *path, const char *text);
/* The same by a new file and a rename, so that a reader sees the old text or the new one. */
int file_replace(const char *path, const char *text, mode_t mode);
char *decimal(char text[16], uint32_t value);
/* Make every missing directory of an absolute path; what it makes belongs to uid and gid. */
int make_directories(const char *path, mode_t mode, uid_t uid, gid_t gid);
/* Makes what is above the last name. */
int make_parents(const char *path, uid_t uid, gid_t gid);
/* A directory below `root`, never through a symbolic link (ELOOP) nor out of it; missing ones are made when asked. */
int open_beneath(int root, const char *relative, bool make, uid_t uid, gid_t gid);
/* Turn an O_PATH descriptor into an open file. */
int reopen(int fd, int flags);
/* Hand a new file over; without root there is nothing to hand over. Returns 0 or an errno. */
int give_to(int fd, uid_t uid, gid_t gid);
/* Parent directory (opened) and last name of an absolute path; `name` points into the path. Returns a descriptor or -1. */
int open_parent(const char *path, const char **name, char *buffer, size_t room);

#endif
