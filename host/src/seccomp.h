#ifndef AK_SECCOMP_H
#define AK_SECCOMP_H

#include <stddef.h>

struct sock_filter;

enum { FILTER_MOST = 256 };

/* Writes the deny filter into `out` (room for FILTER_MOST); returns how many instructions it has. Pure, so that it can be listed. */
size_t build_filter(struct sock_filter *out);

/* Child, last thing before exec: installs the filter. Returns 0 or an errno. Needs no_new_privs. */
int install_filter(void);

#endif
