#ifndef AK_CHILD_H
#define AK_CHILD_H

#include "config.h"

#include <stdnoreturn.h>

/* PID 1 of the new pid namespace: builds its prison, locks it and becomes the program. */
noreturn void become_program(struct config *config);

#endif
