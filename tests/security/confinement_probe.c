/* Runs inside (and, as the control, outside) a confinement and says what it can do: one line "ACTION = RESULT" per argument. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static const char *action;

static void say(const char *result) { dprintf(1, "%s = %s\n", action, result); }

static void outcome(long value) { say(value >= 0 ? "ok" : strerrorname_np(errno)); }

static void list(const char *path) {
    DIR *directory = opendir(path);
    if (directory == NULL) {
        outcome(-1);
        return;
    }
    char all[2048] = "";
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        if (entry->d_name[0] == '.') continue;
        strncat(all, entry->d_name, sizeof all - strlen(all) - 2);
        strcat(all, " ");
    }
    closedir(directory);
    say(all);
}

static void content(const char *path) {
    static char text[8192];
    int fd = open(path, O_RDONLY);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (length < 0) {
        outcome(-1);
        return;
    }
    text[length] = '\0';
    for (char *c = text; *c; c++) {
        if (*c == '\n') *c = '|';
    }
    say(text);
    close(fd);
}

static void descriptors(void) {
    char all[512] = "";
    for (int fd = 0; fd < 4096; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) sprintf(all + strlen(all), "%d ", fd);
    }
    say(all);
}

static void environment(void) {
    char all[1024] = "";
    for (char **one = environ; *one; one++) sprintf(all + strlen(all), "%.200s ", *one);
    say(all);
}

static void ids(void) {
    char text[64];
    struct utsname name;
    uname(&name);
    mode_t mask = umask(0);
    snprintf(text, sizeof text, "pid %d sid %d umask %03o host %.20s", getpid(), getsid(0), mask, name.nodename);
    say(text);
}

static void limits(void) {
    struct rlimit core, files, processes, locked;
    char text[128];
    getrlimit(RLIMIT_CORE, &core);
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_NPROC, &processes);
    getrlimit(RLIMIT_MEMLOCK, &locked);
    snprintf(text, sizeof text, "core %ld nofile %ld nproc %ld memlock %ld", (long)core.rlim_max, (long)files.rlim_max,
             (long)processes.rlim_max, (long)locked.rlim_max);
    say(text);
}

/* In a child, so that what it gains or breaks ends with it. */
static void in_child(long (*attempt)(void)) {
    pid_t child = fork();
    if (child == 0) {
        long value = attempt();
        _exit(value >= 0 ? 0 : errno);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0) {
        outcome(-1);
    } else if (WIFSIGNALED(status)) {
        say(sigabbrev_np(WTERMSIG(status)));
    } else {
        say(WEXITSTATUS(status) == 0 ? "ok" : strerrorname_np(WEXITSTATUS(status)));
    }
}

static long try_fork(void) { return 0; }
static long try_user_namespace(void) {
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return child;
}
static long try_mount_in_own_namespace(void) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) return -1;
    return syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0);
}
static long try_signals_are_default(void) {
    for (int number = 1; number < 32; number++) {
        struct sigaction current;
        if (sigaction(number, NULL, &current) == 0 && current.sa_handler != SIG_DFL) return errno = EBUSY, -1;
    }
    return 0;
}
static long try_trace(void) { return syscall(SYS_ptrace, 0x4206 /* PTRACE_SEIZE */, getppid(), 0, 0); }
static long try_fork_bomb(void) {
    for (int i = 0; i < 5000; i++) {
        pid_t child = fork();
        if (child < 0) return -1;
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            pause();
        }
    }
    return 0;
}
#if defined(__x86_64__)
static long try_i386(void) {
    long value = 20; /* getpid in the i386 table, writev in the x86-64 one */
    __asm__ volatile("int $0x80" : "+a"(value) : : "memory");
    return value > 0 ? 0 : -1;
}
#else
static long try_i386(void) { return raise(SIGSYS); }
#endif

static void kvm(void) {
    int fd = open("/dev/kvm", O_RDWR);
    if (fd < 0) {
        outcome(-1);
    } else {
        outcome(ioctl(fd, KVM_GET_API_VERSION, 0) == KVM_API_VERSION ? 0 : -1);
        close(fd);
    }
}

static void system_call(char *text) {
    long number = strtol(text, &text, 10);
    long arguments[6] = {0};
    for (int i = 0; i < 6 && *text == ','; i++) arguments[i] = strtol(text + 1, &text, 10);
    outcome(syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]));
}

static void open_socket(char *text) {
    int family = (int)strtol(text, &text, 10);
    int type = (int)strtol(text + 1, &text, 10);
    int fd = socket(family, type, (int)strtol(text + 1, &text, 10));
    outcome(fd);
    close(fd);
}

static void map_shared(const char *path) {
    int fd = open(path, O_RDWR);
    void *place = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (place != MAP_FAILED) *(volatile char *)place = 1;
    outcome(place == MAP_FAILED ? -1 : 0);
    close(fd);
}

static void flood(void) {
    char block[1024];
    memset(block, 'x', sizeof block);
    for (int i = 0; i < 4096; i++) {
        if (write(1, block, sizeof block) < 0) return;
    }
}

static void leave_children(void) {
    for (int i = 0; i < 3; i++) {
        if (fork() == 0) {
            setsid();
            pause();
        }
    }
    say("ok");
}

static void act(char *value) {
    if (strcmp(action, "fds") == 0) descriptors();
    else if (strcmp(action, "env") == 0) environment();
    else if (strcmp(action, "ids") == 0) ids();
    else if (strcmp(action, "limits") == 0) limits();
    else if (strcmp(action, "kvm") == 0) kvm();
    else if (strcmp(action, "fork") == 0) in_child(try_fork);
    else if (strcmp(action, "user namespace") == 0) in_child(try_user_namespace);
    else if (strcmp(action, "mount in own namespace") == 0) in_child(try_mount_in_own_namespace);
    else if (strcmp(action, "signals") == 0) in_child(try_signals_are_default);
    else if (strcmp(action, "trace") == 0) in_child(try_trace);
    else if (strcmp(action, "fork bomb") == 0) in_child(try_fork_bomb);
    else if (strcmp(action, "i386") == 0) in_child(try_i386);
    else if (strcmp(action, "children") == 0) leave_children();
    else if (strcmp(action, "flood") == 0) flood();
    else if (strcmp(action, "crash") == 0) __builtin_trap();
    else if (strcmp(action, "sleep") == 0) for (;;) pause();
    else if (strncmp(action, "exit:", 5) == 0) _exit(atoi(value));
    else if (strncmp(action, "ls:", 3) == 0) list(value);
    else if (strncmp(action, "read:", 5) == 0) content(value);
    else if (strncmp(action, "create:", 7) == 0) outcome(open(value, O_CREAT | O_WRONLY, 0600));
    else if (strncmp(action, "write:", 6) == 0) outcome(open(value, O_WRONLY));
    else if (strncmp(action, "map:", 4) == 0) map_shared(value);
    else if (strncmp(action, "node:", 5) == 0) outcome(mknod(value, S_IFCHR | 0600, 0x103));
    else if (strncmp(action, "signal:", 7) == 0) outcome(kill(atoi(value), 0));
    else if (strncmp(action, "socket:", 7) == 0) open_socket(value);
    else if (strncmp(action, "call:", 5) == 0) system_call(value);
    else say("unknown action");
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        action = argv[i];
        char *colon = strchr(argv[i], ':');
        act(colon == NULL ? argv[i] : colon + 1);
    }
    return 0;
}
