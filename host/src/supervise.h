#ifndef AK_SUPERVISE_H
#define AK_SUPERVISE_H

#include "config.h"
#include "spawn.h"

/* Watches daemon and program to the end of the program, which it reports; tidies up if the daemon is gone. */
void supervise(const struct config *config, const struct child *child);

#endif
