#ifndef AK_PRIVILEGES_H
#define AK_PRIVILEGES_H

#include "config.h"

/* Child, privileged in its user namespace: ids, groups, capabilities and the right to gain any are gone when it returns. */
void drop_privileges(const struct config *config);

/* Keeps only the capabilities in `mask` for this process. Returns 0 or an errno. */
int keep_capabilities(unsigned long long mask);

/* Resource limits; a core file never. */
void apply_limits(const struct config *config);

/* Closes everything above 2 but `keep` (sorted in place). */
void close_all_but(int *keep, size_t count);

#endif
