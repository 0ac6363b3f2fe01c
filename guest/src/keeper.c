#include "keeper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct started {
    pid_t pid;
    enum step step;
    int error;
    unsigned resource;
};

/* The keeper is a copy of the agent, so it holds the agent's pipes too; kept open, they would never reach their end. */
static void drop_descriptors(int report)
{
    if (report != 0)
        dup2(report, 0);
    for (int fd = 1; fd < 3; fd++)
        dup2(0, fd);
    if (syscall(SYS_close_range, 3u, ~0u, 0u) == 0)
        return;
    /* gVisor has no close_range(2), and counting up to a limit of 65536 takes it a second. */
    DIR *directory = opendir("/proc/self/fd");
    if (directory) {
        struct dirent *entry;
        while ((entry = readdir(directory))) {
            int fd = atoi(entry->d_name);
            if (fd >= 3 && fd != dirfd(directory))
                close(fd);
        }
        closedir(directory);
        return;
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    for (int fd = 3; (rlim_t)fd < limit.rlim_cur; fd++)
        close(fd);
}

static _Noreturn void keep(struct spawn *s, int report)
{
    struct started started;
    struct ending ending;
    memset(&started, 0, sizeof started);
    memset(&ending, 0, sizeof ending);
    prctl(PR_SET_NAME, "agent-keeper");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    started.pid = spawn(s);
    started.step = s->step;
    started.error = s->error;
    started.resource = s->resource;
    if (write(report, &started, sizeof started) != (ssize_t)sizeof started || started.pid < 0)
        _exit(0);
    drop_descriptors(report);
    for (;;) {
        pid_t pid = wait4(-1, &ending.status, 0, &ending.usage);
        if (pid == started.pid)
            break;
        if (pid < 0 && errno != EINTR)
            _exit(1);
    }
    ssize_t told = write(0, &ending, sizeof ending);
    /* What the command left behind goes to the agent now and lives until the sandbox ends. */
    _exit(told == (ssize_t)sizeof ending ? 0 : 1);
}

int keeper_start(struct kept *kept, struct spawn *s)
{
    int pipes[2];
    struct started started;
    s->step = STEP_FORK;
    if (pipe2(pipes, O_CLOEXEC) != 0) {
        s->error = errno;
        return -1;
    }
    pid_t keeper = fork();
    if (keeper == 0)
        keep(s, pipes[1]);
    s->error = errno;
    close(pipes[1]);
    if (keeper < 0) {
        close(pipes[0]);
        return -1;
    }
    ssize_t got;
    while ((got = read(pipes[0], &started, sizeof started)) < 0 && errno == EINTR) {
    }
    if (got == (ssize_t)sizeof started && started.pid > 0) {
        fcntl(pipes[0], F_SETFL, O_NONBLOCK);
        *kept = (struct kept){.keeper = keeper, .pid = started.pid, .report = pipes[0]};
        return 0;
    }
    s->error = ESRCH; /* the keeper was killed before it could say anything */
    if (got == (ssize_t)sizeof started) {
        s->step = started.step;
        s->error = started.error;
        s->resource = started.resource;
    }
    close(pipes[0]);
    while (waitpid(keeper, NULL, 0) < 0 && errno == EINTR) {
    }
    return -1;
}
