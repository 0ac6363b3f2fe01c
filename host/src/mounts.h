#ifndef AK_MOUNTS_H
#define AK_MOUNTS_H

#include "config.h"

/* Child, in its own mount and pid namespaces and privileged in the user namespace that owns them: makes a root that holds only what
 * `config` names, moves there, and lets the old one go. Ends the child when it cannot. */
void build_root(const struct config *config);

/* Child that will nest, in the user namespace it keeps: nothing of the host's network settings is seen, and other
 * files in place of what --cover names. Apart, because a cover that
 * belonged to the host's root would be locked, and a /proc with a locked cover cannot be mounted anew. */
void cover_settings(const struct config *config);

#endif
