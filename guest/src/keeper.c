#include "keeper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "paths.h"
#include "tree.h"

/* A keeper that has said nothing for so long may have been stopped. */
#define STOPPED_MS 20

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
    if (spawn_close_others() == 0)
        return;
    /* Counting up to a limit of 65536 takes long. */
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

/* From outside: a process that is not dumpable may not write its own, and until it has executed its program the new one is none. It cannot be
 * done for a program that its user may not read; that one then counts like the agent. */
static void offer_to_oom(pid_t pid, unsigned score)
{
    char path[48];
    char text[16];
    snprintf(path, sizeof path, "/proc/%ld/oom_score_adj", (long)pid);
    file_store(path, decimal(text, score));
}

/* Until nothing is left of the command. What it daemonised lives until the sandbox ends, and dies with the agent: an agent that was killed
 * outside of a pid namespace would leave it behind. */
static _Noreturn void attend(pid_t agent, pid_t program)
{
    struct ending ending;
    sigset_t heard;
    memset(&ending, 0, sizeof ending);
    sigemptyset(&heard);
    sigaddset(&heard, SIGCHLD);
    sigaddset(&heard, KEEPER_BEREFT);
    for (;;) {
        pid_t pid;
        while ((pid = wait4(-1, &ending.status, WNOHANG, &ending.usage)) > 0)
            if (pid == program && write(0, &ending, sizeof ending) != (ssize_t)sizeof ending)
                break;
        if (pid < 0 && errno == ECHILD)
            _exit(0);
        if (getppid() != agent) {
            tree_kill_below(getpid());
            _exit(1);
        }
        sigwaitinfo(&heard, NULL); /* all signals are blocked, so one that came meanwhile is waiting */
    }
}

static _Noreturn void keep(struct spawn *s, int report, pid_t agent)
{
    struct started started;
    memset(&started, 0, sizeof started);
    prctl(PR_SET_NAME, "agent-keeper");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, KEEPER_BEREFT);
    started.pid = spawn(s);
    started.step = s->step;
    started.error = s->error;
    started.resource = s->resource;
    if (write(report, &started, sizeof started) != (ssize_t)sizeof started || started.pid < 0)
        _exit(0);
    offer_to_oom(started.pid, s->oom_score);
    drop_descriptors(report);
    attend(agent, started.pid);
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
    pid_t agent = getpid();
    pid_t keeper = fork();
    if (keeper == 0)
        keep(s, pipes[1], agent);
    s->error = errno;
    close(pipes[1]);
    if (keeper < 0) {
        close(pipes[0]);
        return -1;
    }
    /* The program may run before its keeper goes on, and stop it: the agent must not wait for that one for ever. */
    struct pollfd told = {.fd = pipes[0], .events = POLLIN};
    while (poll(&told, 1, STOPPED_MS) <= 0)
        kill(keeper, SIGCONT);
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
