#ifndef AK_SPAWN_H
#define AK_SPAWN_H

#include "config.h"

struct child {
    pid_t pid;
    int pidfd;
};

/* Starts the confined program and returns once it runs. What goes wrong is reported on the control descriptor, and false returned. */
bool spawn(struct config *config, struct child *child);

/* Field 22 of /proc/PID/stat: with the boot id it names a process for ever. 0 when it cannot be read. */
unsigned long long start_ticks(pid_t pid);

#endif
