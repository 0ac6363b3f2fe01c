#include "supervise.h"

#include "link.h"
#include "remove.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum command { NOTHING, KEEP, KILL, DAEMON_GONE };

static enum command next_command(int fd) {
    char byte = 0;
    ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return NOTHING;
    if (got <= 0) return DAEMON_GONE; /* ECONNRESET too: the daemon died with our report unread */
    switch (byte) {
    case 'K': return KEEP;
    case 'X': return KILL;
    default: return NOTHING;
    }
}

static void report_end(int fd, int status) {
    if (WIFSIGNALED(status)) {
        report(fd, "exited signal %d", WTERMSIG(status));
    } else {
        report(fd, "exited code %d", WEXITSTATUS(status));
    }
}

/* PID 1 of its namespace: the kernel kills all the others with it, and lets us reap it only after they are gone. */
static int reap(const struct child *child) {
    int status = 0;
    while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

static bool daemon_is_gone(int fd) {
    for (;;) {
        enum command command = next_command(fd);
        if (command == DAEMON_GONE) return true;
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        if (poll(&poll_fd, 1, 0) <= 0) return false;
    }
}

void supervise(const struct config *config, const struct child *child) {
    struct pollfd watched[2] = {{.fd = config->control_fd, .events = POLLIN}, {.fd = child->pidfd, .events = POLLIN}};
    bool keep = false;
    bool gone = false;
    while ((watched[1].revents & POLLIN) == 0) {
        if (poll(watched, 2, -1) < 0) {
            watched[1].revents = 0;
            continue;
        }
        if (gone || watched[0].revents == 0) continue;
        enum command command = next_command(config->control_fd);
        if (command == KEEP) keep = true;
        if (command == DAEMON_GONE) {
            gone = true;
            watched[0].fd = -1; /* poll(2) passes over it */
        }
        if (command == KILL || (gone && !keep)) (void)kill(child->pid, SIGKILL);
    }
    int status = reap(child);
    if (!gone) gone = daemon_is_gone(config->control_fd);
    /* A living daemon removes what it made, and a kept sandbox's files belong to the next daemon. */
    if (gone && !keep && config->remove != NULL) remove_directory(config->remove, config->jailer ? config->uid : geteuid());
    report_end(config->control_fd, status);
}
