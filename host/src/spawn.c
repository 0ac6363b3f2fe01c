#include "spawn.h"

#include "child.h"
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const int NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;

/* The first number in a file of /proc/sys, or `missing`. */
static long setting(const char *path, long missing) {
    char text[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return missing;
    ssize_t length = read(fd, text, sizeof text - 1);
    (void)close(fd);
    return length > 0 ? strtol(text, NULL, 10) : missing;
}

/* Which switch of the host keeps this user from making namespaces; kernels say only EPERM or ENOSPC. */
static const char *why_forbidden(const struct config *config, int error) {
    if (error == ENOSYS) return ": Linux 5.12 or later is needed";
    if (error != EPERM && error != EACCES && error != ENOSPC && error != EINVAL) return "";
    if (setting("/proc/sys/user/max_user_namespaces", 1) == 0) return ": user.max_user_namespaces is 0";
    if (config->as_root) return error == EPERM ? ": root here lacks CAP_SYS_ADMIN, as in an unprivileged container" : "";
    if (setting("/proc/sys/kernel/unprivileged_userns_clone", 1) == 0) return ": kernel.unprivileged_userns_clone is 0";
    if (setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0) != 0)
        return ": kernel.apparmor_restrict_unprivileged_userns is 1";
    return error == EPERM ? ": unprivileged user namespaces are forbidden, or this is a container that hides parts of /proc" : "";
}

static void report_failure(const struct config *config, const char *step, int error) {
    report(config->control_fd, "failed %s %d %s%s", step, error, strerror(error), why_forbidden(config, error));
}

static bool write_file(pid_t pid, const char *name, const char *content) {
    char path[48];
    (void)snprintf(path, sizeof path, "/proc/%ld/%s", (long)pid, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t length = (ssize_t)strlen(content);
    ssize_t written = write(fd, content, (size_t)length);
    int error = errno;
    (void)close(fd);
    errno = error;
    return written == length;
}

/* One id each: nothing else of the host has a name in there. The same inside as outside, but 0 for who is to make namespaces. */
static const char *prepare(const struct config *config, pid_t pid) {
    char map[48];
    char score[16];
    (void)snprintf(score, sizeof score, "%d", config->oom_score_adj);
    if (!write_file(pid, "oom_score_adj", score)) return "oom_score_adj";
    if (!write_file(pid, "setgroups", "deny")) return "setgroups";
    (void)snprintf(map, sizeof map, "%u %u 1", config->nesting ? 0 : config->gid, config->gid);
    if (!write_file(pid, "gid_map", map)) return "gid_map";
    (void)snprintf(map, sizeof map, "%u %u 1", config->nesting ? 0 : config->uid, config->uid);
    return write_file(pid, "uid_map", map) ? NULL : "uid_map";
}

unsigned long long start_ticks(pid_t pid) {
    char path[32];
    char text[1024];
    (void)snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    (void)close(fd);
    if (length <= 0) return 0;
    text[length] = '\0';
    char *field = strrchr(text, ')'); /* the name before it may hold anything */
    for (int i = 2; field != NULL && i < 22; i++) field = strchr(field + 1, ' ');
    return field == NULL ? 0 : strtoull(field + 1, NULL, 10);
}

/* A fork into new namespaces, by the plain system call: libc's clone() wants a stack and fork() takes no flags. */
static pid_t fork_into(int flags, int *pidfd) {
    uint64_t all = (uint64_t)(unsigned int)(flags | CLONE_PIDFD | SIGCHLD);
    return (pid_t)syscall(SYS_clone, all, 0UL, pidfd, 0UL, 0UL);
}

/* Serves the child until it has become the program (its end of the link is closed by exec) or has failed. */
static bool serve(const struct config *config, int link, pid_t pid) {
    for (;;) {
        struct message message;
        ssize_t got = recv(link, &message, sizeof message, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) return true;
        if (got != (ssize_t)sizeof message) {
            report_failure(config, "link", got < 0 ? errno : EPROTO);
            return false;
        }
        if (message.step[0] != '\0') {
            message.step[STEP_BYTES - 1] = '\0';
            report_failure(config, message.step, message.error);
            return false;
        }
        const char *step = prepare(config, pid);
        if (step == NULL && send(link, "", 1, MSG_NOSIGNAL) != 1) step = "link";
        if (step != NULL) {
            report_failure(config, step, errno);
            return false;
        }
    }
}

bool spawn(struct config *config, struct child *child) {
    int link[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) < 0) {
        report_failure(config, "link", errno);
        return false;
    }
    int flags = config->group_count > 0 ? NAMESPACES & ~CLONE_NEWCGROUP : NAMESPACES; /* the child makes that one itself */
    child->pid = fork_into(config->as_root ? flags : flags | CLONE_NEWUSER, &child->pidfd);
    if (child->pid < 0) {
        report_failure(config, "namespaces", errno);
        return false;
    }
    if (child->pid == 0) {
        (void)close(link[0]);
        link_fd = link[1];
        become_program(config);
    }
    (void)close(link[1]);
    bool running = serve(config, link[0], child->pid);
    (void)close(link[0]);
    if (!running) {
        (void)kill(child->pid, SIGKILL);
        (void)waitpid(child->pid, NULL, 0);
    }
    return running;
}
