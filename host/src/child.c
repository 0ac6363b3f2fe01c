#include "child.h"

#include "link.h"
#include "mounts.h"
#include "privileges.h"
#include "seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Ignored signals and a mask would survive exec, and both the daemon and the supervisor ignore some. */
static void reset_signals(void) {
    for (int number = 1; number < NSIG; number++) (void)signal(number, SIG_DFL);
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void name_host(void) {
    static const char NAME[] = "sandbox";
    if (sethostname(NAME, sizeof NAME - 1) < 0) fail("hostname", errno);
    if (setdomainname("", 0) < 0) fail("hostname", errno);
}

/* As root the user namespace comes last: mounts and the other namespaces stay owned by the host's root, so that even a program that
 * regained every capability in its own user namespace would have none over them. */
static void enter_user_namespace(const struct config *config) {
    if (setgroups(0, NULL) < 0) fail("setgroups", errno);
    /* Whoever makes mounts of its own needs a namespace to make them in; those of the host's root stay locked in it. */
    if (unshare(config->nesting ? CLONE_NEWUSER | CLONE_NEWNS : CLONE_NEWUSER) < 0) fail("user namespace", errno);
    ask_for_maps();
}

/* Before anything is allocated that counts. The supervisor stays outside: it must not stand still with the program. */
static void enter_groups(const struct config *config) {
    for (size_t i = 0; i < config->group_count; i++) {
        if (write(config->groups[i], "0", 1) != 1) fail("cgroup", errno);
    }
    /* A namespace of cgroups has the group for its top that its maker is in. */
    if (unshare(CLONE_NEWCGROUP) < 0) fail("cgroup", errno);
}

static void redirect(int from, int to) {
    if (dup2(from, to) < 0) fail("standard streams", errno);
}

static void connect_streams(const struct config *config) {
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nothing < 0) fail("/dev/null", errno);
    int log = config->log_fd >= 0 ? config->log_fd : nothing;
    redirect(config->stdio_fd >= 0 ? config->stdio_fd : nothing, STDIN_FILENO);
    redirect(config->stdio_fd >= 0 ? config->stdio_fd : log, STDOUT_FILENO);
    redirect(log, STDERR_FILENO);
}

/* Passed descriptors keep their numbers. The link stays until exec closes it, which is how the supervisor learns of success. */
static void keep_descriptors(const struct config *config) {
    int keep[MAX_PASSED + 1];
    for (size_t i = 0; i < config->passed_count; i++) {
        keep[i] = config->passed[i];
        if (fcntl(keep[i], F_SETFD, 0) < 0) fail("descriptors", errno);
    }
    keep[config->passed_count] = link_fd;
    close_all_but(keep, config->passed_count + 1);
}

static void write_own(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) fail(path, errno);
    (void)close(fd);
}

/* A jailer builds the prison itself, with rights that nothing here would leave it: device nodes, mounts, a change of ids. It gets the
 * namespaces that it would not make, and sees its own processes only; what it mounts is seen by nobody else. Its change of ids clears the
 * parent death signal, so a supervisor that is killed does not take it along: see reap() in drivers/confine. */
static noreturn void become_jailer(const struct config *config) {
    char score[16];
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) fail("mounts", errno);
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0) fail("proc", errno);
    (void)snprintf(score, sizeof score, "%d", config->oom_score_adj);
    write_own("/proc/self/oom_score_adj", score);
    connect_streams(config);
    keep_descriptors(config);
    apply_limits(config);
    (void)umask(022);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) fail("no_new_privs", errno);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) fail("parent death signal", errno);
    end_if_orphaned();
    (void)execve(config->program[0], config->program, config->env);
    fail("exec", errno);
}

noreturn void become_program(struct config *config) {
    (void)umask(0);
    reset_signals();
    if (setsid() < 0) fail("setsid", errno);
    if (!config->as_root) ask_for_maps();
    if (config->group_count > 0) enter_groups(config);
    name_host();
    if (config->jailer) become_jailer(config);
    build_root(config);
    if (config->as_root) enter_user_namespace(config);
    if (config->nesting) cover_settings(config);
    connect_streams(config);
    keep_descriptors(config);
    apply_limits(config);
    (void)umask(077);
    drop_privileges(config);
    /* After the last change of ids, which clears it (prctl(2)). The supervisor has one thread, so that its end is what is meant. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) fail("parent death signal", errno);
    end_if_orphaned();
    /* Until exec nobody of this uid may look into what is still a copy of the supervisor. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) fail("dumpable", errno);
    int error = install_filter(config->nesting);
    if (error != 0) fail("seccomp", error);
    (void)execve(config->program[0], config->program, config->env);
    fail("exec", errno);
}
