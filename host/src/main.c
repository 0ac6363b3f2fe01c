/* agentkernel-sandbox: starts one program in a prison of its own, and ends it when the daemon ends. See ../README.md. */
#include "config.h"
#include "link.h"
#include "privileges.h"
#include "spawn.h"
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CANNOT = 125 };

static struct config config;

static bool is_stream_socket(int fd) {
    int type = 0;
    socklen_t length = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM;
}

/* Later descriptors must not land on 0, 1 or 2, where the child would overwrite them. */
static void fill_standard_streams(void) {
    int fd = 0;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd < 3);
    if (fd > 2) (void)close(fd);
}

/* The terminal's signals are not for us: only the control descriptor ends a sandbox. */
static void ignore_signals(void) {
    static const int IGNORED[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
    for (size_t i = 0; i < sizeof IGNORED / sizeof *IGNORED; i++) (void)signal(IGNORED[i], SIG_IGN);
    (void)setsid(); /* fails when the caller has done so */
}

/* From here on: wait, kill one child, remove one directory. What was passed would otherwise live as long as we do. */
static void shed(const struct child *child) {
    int keep[] = {config.control_fd, child->pidfd};
    close_all_but(keep, sizeof keep / sizeof *keep);
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++) (void)dup2(nothing, fd);
    (void)close(nothing);
    (void)chdir("/");
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    /* As root, what is left is the right to kill a process of another uid. A user has nothing to shed, and keeps no_new_privs. */
    unsigned long long kept = config.as_root ? 1ULL << CAP_KILL : 0;
    /* A jail's folders belong to its own uid, and go with it. */
    if (config.jailer) kept |= 1ULL << CAP_DAC_OVERRIDE;
    (void)keep_capabilities(kept);
}

int main(int argc, char **argv) {
    fill_standard_streams();
    const char *wrong = parse_args(&config, argc, argv);
    if (wrong == NULL && !is_stream_socket(config.control_fd)) wrong = "--control-fd is no stream socket";
    if (wrong != NULL) {
        if (config.control_fd >= 0) report(config.control_fd, "failed arguments %d %s", EINVAL, wrong);
        (void)fprintf(stderr, "agentkernel-sandbox: %s\n", wrong);
        return CANNOT;
    }
    if (!config.as_root) {
        config.uid = geteuid();
        config.gid = getegid();
    }
    (void)fcntl(config.control_fd, F_SETFD, FD_CLOEXEC);
    (void)prctl(PR_SET_NAME, "ak-sandbox", 0, 0, 0);
    ignore_signals();
    struct child child = {.pid = -1, .pidfd = -1};
    if (!spawn(&config, &child)) return CANNOT;
    unsigned long long ticks = start_ticks(child.pid);
    shed(&child);
    report(config.control_fd, "spawned %ld %llu", (long)child.pid, ticks);
    supervise(&config, &child);
    return 0;
}
