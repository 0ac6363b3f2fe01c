/* Says what the kernel answers: one line "ACTION = RESULT" per argument. `call:NAME` is NAME, and `number:N` call N, with every argument -1, which no call takes for
 * good, so that it does no harm where it is allowed; calls.h, which the test writes, has the numbers. Runs in a container only. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct {
    const char *name;
    long number;
} calls[] = {
#include "calls.h"
    {NULL, 0},
};

static const char *action;

static void outcome(long value) { dprintf(1, "%s = %s\n", action, value >= 0 ? "ok" : strerrorname_np(errno)); }

static void call(const char *name) {
    for (int i = 0; calls[i].name != NULL; i++)
        if (strcmp(calls[i].name, name) == 0) {
            outcome(syscall(calls[i].number, -1L, -1L, -1L, -1L, -1L, -1L));
            return;
        }
    dprintf(1, "%s = absent\n", action);
}

static void child(unsigned long flags) {
    long pid = syscall(SYS_clone, flags | SIGCHLD, 0L, 0L, 0L, 0L);
    if (pid == 0) _exit(0);
    outcome(pid);
    if (pid > 0) waitpid((pid_t)pid, NULL, __WALL);
}

static void trace(void) {
    pid_t pid = fork();
    if (pid == 0) _exit(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0 && raise(SIGSTOP) == 0 ? 0 : 1);
    int status = 0;
    waitpid(pid, &status, WUNTRACED);
    if (!WIFSTOPPED(status)) errno = EPERM;
    outcome(WIFSTOPPED(status) ? 0 : -1);
    if (WIFSTOPPED(status)) {
        ptrace(PTRACE_CONT, pid, 0, 0);
        waitpid(pid, &status, 0);
    }
}

#ifdef __x86_64__
/* getpid by the 32-bit door. */
static void foreign(void) {
    pid_t pid = fork();
    if (pid == 0) {
        long result = 20;
        __asm__ volatile("int $0x80" : "+a"(result) : : "memory");
        _exit(result > 0 || result == -ENOSYS ? 0 : 1);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    dprintf(1, "%s = %s\n", action, WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "ok");
}
#endif

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        action = argv[i];
        char *rest = strchr(argv[i], ':');
        unsigned long first = 0;
        unsigned long second = 0;
        if (rest != NULL) {
            char *next = NULL;
            first = strtoul(++rest, &next, 0);
            if (*next == ':') second = strtoul(next + 1, NULL, 0);
        }
        if (strncmp(action, "call:", 5) == 0) call(rest);
        else if (strncmp(action, "number:", 7) == 0) outcome(syscall((long)first, -1L, -1L, -1L, -1L, -1L, -1L));
        else if (strncmp(action, "socket:", 7) == 0) outcome(syscall(SYS_socket, first, (long)SOCK_RAW, second));
        else if (strncmp(action, "stream:", 7) == 0) outcome(syscall(SYS_socket, first, (long)SOCK_STREAM, second));
        else if (strncmp(action, "pair:", 5) == 0) {
            int pair[2];
            outcome(syscall(SYS_socketpair, first, (long)SOCK_STREAM, 0L, pair));
        } else if (strncmp(action, "clone:", 6) == 0) child(first);
        else if (strncmp(action, "personality:", 12) == 0) outcome(syscall(SYS_personality, first));
        else if (strcmp(action, "trace") == 0) trace();
#ifdef __x86_64__
        else if (strcmp(action, "foreign") == 0) foreign();
#endif
        else return 2;
    }
    return 0;
}
