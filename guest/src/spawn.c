/* clone(CLONE_VM|CLONE_VFORK): copying page tables is dear in an emulated guest. The child runs on a stack of its own, in our memory, so
 * it may only make system calls and write to *s. It calls the kernel directly where a libc wrapper would tell "all threads" (set*id).
 * This file is compiled without sanitizers: the child never returns, so its stack would stay poisoned. */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_BYTES (64u * 1024u)
#define LAST_SIGNAL 64

static _Alignas(16) char stack[STACK_BYTES];

const char *step_name(enum step step)
{
    static const char *const names[] = {"fork", "cgroup", "rlimit", "user", "cwd", "program"};
    return names[step];
}

static void fail(struct spawn *s, enum step step)
{
    s->step = step;
    s->error = errno;
    _exit(127);
}

void spawn_reset_signals(void)
{
    static const uint64_t plain[4];
    for (int number = 1; number <= LAST_SIGNAL; number++)
        syscall(SYS_rt_sigaction, number, plain, NULL, sizeof(uint64_t));
}

int spawn_close_others(void)
{
    return (int)syscall(SYS_close_range, 3u, (unsigned)INT_MAX, 0u); /* gVisor takes anything above for a negative number */
}

static void become(struct spawn *s)
{
    const struct user *user = s->user;
    if (!s->change_user)
        return;
    if (syscall(SYS_setgroups, user->group_count, user->groups) != 0 ||
        syscall(SYS_setresgid, user->gid, user->gid, user->gid) != 0 ||
        syscall(SYS_setresuid, user->uid, user->uid, user->uid) != 0)
        fail(s, STEP_USER);
}

static void set_limits(struct spawn *s)
{
    for (size_t i = 0; i < s->limit_count; i++)
        if (syscall(SYS_prlimit64, 0, s->limits[i].resource, &s->limits[i].value, NULL) != 0) {
            s->resource = s->limits[i].resource;
            fail(s, STEP_RLIMIT);
        }
}

static void place_descriptors(struct spawn *s)
{
    for (int i = 0; i < 3; i++)
        if (dup2(s->descriptors[i], i) < 0)
            fail(s, STEP_FORK);
    /* All of ours are close-on-exec; this is for what an engine left open in us. Without the call that has to do. */
    spawn_close_others();
}

/* execvp's search, without its fallback to a shell. */
static void execute(struct spawn *s)
{
    char candidate[PATH_MAX];
    const char *name = s->argv[0];
    size_t name_length = strlen(name);
    const char *path = s->path;
    int kept = ENOENT;
    if (strchr(name, '/')) {
        execve(name, s->argv, s->env);
        return;
    }
    errno = ENOENT;
    if (!path || name_length == 0)
        return;
    for (;; path++) {
        size_t length = strcspn(path, ":");
        if (length + name_length + 2 <= sizeof candidate) {
            memcpy(candidate, path, length);
            candidate[length] = '/';
            /* An empty element means the working directory. */
            size_t slash = length > 0 ? 1 : 0;
            memcpy(candidate + length + slash, name, name_length + 1);
            execve(candidate, s->argv, s->env);
            if (errno == EACCES)
                kept = EACCES;
            else if (errno != ENOENT && errno != ENOTDIR)
                return;
        }
        path += length;
        if (*path == 0)
            break;
    }
    errno = kept;
}

/* Longer than any one argument may be (MAX_ARG_STRLEN of linux/binfmts.h): that is E2BIG, for which gVisor says ENAMETOOLONG. */
static bool holds_long_text(const struct spawn *s)
{
    const size_t most = 131072;
    char *const *lists[] = {s->argv, s->env};
    for (size_t i = 0; i < 2; i++)
        for (char *const *at = lists[i]; *at; at++)
            if (strlen(*at) >= most)
                return true;
    return false;
}

static int child(void *argument)
{
    struct spawn *s = argument;
    sigset_t none;
    setsid();
    if (s->cgroup >= 0 && write(s->cgroup, "0\n", 2) != 2)
        fail(s, STEP_CGROUP);
    if (s->reset_oom) {
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (fd >= 0 && write(fd, "0\n", 2) != 2)
            fail(s, STEP_FORK);
    }
    place_descriptors(s);
    set_limits(s);
    become(s);
    /* As the user, so that a directory that the user may not enter is refused. */
    if (chdir(s->cwd) != 0)
        fail(s, STEP_CWD);
    umask(022);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execute(s);
    if (errno == ENAMETOOLONG && holds_long_text(s))
        errno = E2BIG;
    fail(s, STEP_PROGRAM);
    return 127;
}

pid_t spawn(struct spawn *s)
{
    s->error = 0;
    pid_t pid = clone(child, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | SIGCHLD, s);
    if (pid < 0) {
        s->step = STEP_FORK;
        s->error = errno;
        return -1;
    }
    if (s->error == 0)
        return pid;
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return -1;
}
