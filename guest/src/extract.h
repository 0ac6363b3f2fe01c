/* Writing a tar archive's members below one directory, whatever the archive says. */
#ifndef AK_EXTRACT_H
#define AK_EXTRACT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct extract;

/* Takes over `root`, a descriptor of the directory. NULL when there is no memory. */
struct extract *extract_new(int root, uid_t uid, gid_t gid);
/* 0 or an errno; extract_member then names who is to blame. */
int extract_feed(struct extract *extract, const uint8_t *bytes, size_t length);
/* The input has ended: EBADMSG when the archive has not. */
int extract_finish(struct extract *extract);
const char *extract_member(const struct extract *extract);
uint64_t extract_entries(const struct extract *extract);
void extract_free(struct extract *extract);

#endif
