#ifndef AK_SECCOMP_H
#define AK_SECCOMP_H

#include <stdbool.h>
#include <stddef.h>

struct sock_filter;

enum { FILTER_MOST = 256 };

/* For programs that make namespaces of their own (`nesting`) the calls for that are left in.
 * Writes the deny filter into `out` (room for FILTER_MOST); returns how many instructions it has. Pure, so that it can be listed. */
size_t build_filter(struct sock_filter *out, bool nesting);

/* Child, last thing before exec: installs the filter. Returns 0 or an errno. Needs no_new_privs. */
int install_filter(bool nesting);

#endif
