/* One new process, without copying page tables: the child borrows our memory until it has executed its program. */
#ifndef AK_SPAWN_H
#define AK_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "users.h"

enum step { STEP_FORK, STEP_CGROUP, STEP_RLIMIT, STEP_USER, STEP_CWD, STEP_PROGRAM };

struct limit {
    unsigned resource;
    struct rlimit value;
};

struct spawn {
    char *const *argv;
    char *const *env;
    const char *path; /* value of PATH in env, or NULL */
    const char *cwd;
    const struct user *user;
    bool change_user;
    bool reset_oom; /* our own oom_score_adj is not for children */
    unsigned oom_score; /* what a keeper gives to its program */
    int descriptors[3];
    int cgroup; /* open cgroup.procs, or -1 */
    const struct limit *limits;
    size_t limit_count;
    /* set on failure */
    enum step step;
    int error;
    unsigned resource; /* the limit that failed */
};

/* Once, at the start: what is ignored here would be inherited. By the system call: the C library refuses to touch the two signals that it keeps
 * for itself, and one of them arrives ignored from whoever was started by glibc's posix_spawn (make, for one). All zero is the default in the
 * kernel's structure, whatever its order. */
void spawn_reset_signals(void);
/* Closes all but the first three descriptors. 0, or -1 where the kernel lacks the call (Linux before 5.9). */
int spawn_close_others(void);
/* The pid, or -1 with step and error set. */
pid_t spawn(struct spawn *s);
const char *step_name(enum step step);

#endif
