/* Where there is no cgroup, each command gets a keeper: a process between it and the agent that is the subreaper of its descendants, so that
 * daemonised children of one command are never taken for those of another. */
#ifndef AK_KEEPER_H
#define AK_KEEPER_H

#include <sys/resource.h>
#include <sys/types.h>

#include "spawn.h"

/* What a keeper hears when the agent is gone. Anybody may send it: the keeper looks whether it is so. */
#define KEEPER_BEREFT SIGHUP

struct ending {
    int status; /* as of wait4 */
    struct rusage usage;
};

struct kept {
    pid_t keeper;
    pid_t pid;
    int report; /* one struct ending is read from here */
};

/* 0, or -1 with s->step and s->error set. */
int keeper_start(struct kept *kept, struct spawn *s);

#endif
