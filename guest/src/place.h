/* Where this agent finds itself, settled once at start. */
#ifndef AK_PLACE_H
#define AK_PLACE_H

#include <stdbool.h>

struct place {
    bool machine; /* PID 1 of a kernel of its own */
    bool pid1; /* of a machine or of a container */
    bool root;
    bool mounts; /* a kernel of our own, a machine's or gVisor's: what is mounted here stays here */
    bool cgroup; /* commands get cgroups */
    bool gvisor; /* in a sandbox of gVisor's */
    unsigned command_oom_score; /* so that a container out of memory loses commands before its agent */
    const char *transport;
    const char *run_directory; /* where `generation` is kept; NULL for nowhere */
};

extern struct place place;

/* One line for people, on descriptor 2. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

#endif
