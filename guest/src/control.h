/* Channel 0: greeting, refreshing, quiescing, pinging, ending, mounting. */
#ifndef AK_CONTROL_H
#define AK_CONTROL_H

#include <stdbool.h>

#include "link.h"

/* False when the payload is wrong. */
bool control_frame(const struct frame *frame);

#endif
