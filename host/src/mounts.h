#ifndef AK_MOUNTS_H
#define AK_MOUNTS_H

#include "config.h"

/* Child, in its own mount and pid namespaces and privileged in the user namespace that owns them: makes a root that holds only what
 * `config` names, moves there, and lets the old one go. Ends the child when it cannot. */
void build_root(const struct config *config);

#endif
