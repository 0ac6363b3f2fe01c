/* Files of /proc, /sys and /dev: what can be opened for writing. Nothing is written. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "probe.h"

#define DEEPEST 7
#define MOST_NAMED 12
#define MOST_FILES 60000

static int named;
static int looked_at;

static bool opens(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
    if (fd < 0)
        return false;
    close(fd);
    return true;
}

static void walk(const char *folder, int depth, void (*look)(const char *path, const struct stat *status))
{
    char path[1024];
    struct stat status;
    struct dirent *entry;
    DIR *directory = depth < DEEPEST ? opendir(folder) : NULL;
    while (directory && looked_at < MOST_FILES && (entry = readdir(directory)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= sizeof path || lstat(path, &status) != 0)
            continue;
        looked_at++;
        if (S_ISDIR(status.st_mode))
            walk(path, depth + 1, look);
        else
            look(path, &status);
    }
    if (directory)
        closedir(directory);
}

static void look_writable(const char *path, const struct stat *status)
{
    if (S_ISREG(status->st_mode) && opens(path, O_WRONLY) && named++ < MOST_NAMED)
        list_add(path);
}

static void list_writable(const char *name, const char *folder)
{
    named = looked_at = 0;
    list_begin(name);
    walk(folder, 0, look_writable);
    list_end();
}

static long lower_oom_score(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -1 : write(fd, "-1000", 5);
}

void try_writing(void)
{
    static const char *const switches[] = {
        "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/panic_on_oom",
        "/proc/sys/fs/binfmt_misc/register", "/proc/irq/0/smp_affinity", "/proc/1/oom_score_adj", "/proc/1/mem", "/proc/kcore",
        "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/security/apparmor/.load", "/proc/acpi/wakeup",
    };
    char name[128];
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++) {
        int fd = open(switches[i], O_WRONLY | O_CLOEXEC);
        snprintf(name, sizeof name, "write.%s", switches[i]);
        say_outcome(name, fd);
        if (fd >= 0)
            close(fd);
    }
    list_writable("write.any-of-proc-sys", "/proc/sys");
    list_writable("write.any-of-sys", "/sys");
    say_attempt("write.lower-oom-score", lower_oom_score);
    int made = mkdir("/sys/fs/cgroup/isolation-probe", 0755);
    say_outcome("write.new-cgroup", made);
    if (made == 0)
        rmdir("/sys/fs/cgroup/isolation-probe");
    made = open("/isolation-probe", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    say_outcome("write.root-folder", made);
    if (made >= 0) {
        close(made);
        unlink("/isolation-probe");
    }
}

static void look_device(const char *path, const struct stat *status)
{
    char words[1200];
    /* To open a watchdog starts it. */
    if (!(S_ISCHR(status->st_mode) || S_ISBLK(status->st_mode)) || strstr(path, "watchdog"))
        return;
    bool writable = opens(path, O_WRONLY);
    bool readable = opens(path, O_RDONLY);
    if (writable || readable) {
        snprintf(words, sizeof words, "%s %s%s", path, readable ? "r" : "", writable ? "w" : "");
        list_add(words);
    }
}

static long make_node(mode_t kind, unsigned int major, unsigned int minor)
{
    static const char path[] = "/tmp/isolation-probe-node";
    long made = mknod(path, kind | 0600, makedev(major, minor));
    long opened = made == 0 ? open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
    int error = errno;
    if (opened >= 0)
        close((int)opened);
    if (made == 0)
        unlink(path);
    errno = error;
    return opened;
}

void try_devices(void)
{
    looked_at = 0;
    list_begin("devices.opened");
    walk("/dev", 0, look_device);
    list_end();
    say_outcome("devices.make-memory", make_node(S_IFCHR, 1, 1));
    say_outcome("devices.make-disk", make_node(S_IFBLK, 8, 0));
    say_outcome("devices.make-disk-of-a-guest", make_node(S_IFBLK, 254, 0));
}
