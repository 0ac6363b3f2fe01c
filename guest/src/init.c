#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <net/if.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cgroup.h"
#include "disks.h"
#include "paths.h"
#include "place.h"
#include "users.h"

#define ORDER_BYTES 16384u
#define STAGE "/.agentkernel"
#define WAIT_FOR_ROOT_MS 10000
#define WAIT_STEP_MS 5
#define TERM_GRACE_MS 300

static void pause_ms(long ms)
{
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

_Noreturn void init_power_off(void)
{
    sync();
    /* Without ACPI an x86 machine can not turn itself off, only reset; both end a VMM that was told not to reboot. */
    if (access("/sys/firmware/acpi", F_OK) == 0 || access("/sys/firmware/devicetree", F_OK) == 0)
        reboot(RB_POWER_OFF);
    reboot(RB_AUTOBOOT);
    for (;;)
        pause_ms(1000);
}

__attribute__((format(printf, 1, 2))) static _Noreturn void give_up(const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    say("agent: can not start: %s", line);
    pause_ms(50); /* a serial console empties slowly, and power off does not wait for it */
    init_power_off();
}

static void must_mount(const char *what, const char *where, const char *type, unsigned long flags, const char *options)
{
    if (mkdir(where, 0755) != 0 && errno != EEXIST)
        give_up("mkdir %s: %s", where, strerror(errno));
    if (mount(what, where, type, flags, options) != 0 && errno != EBUSY)
        give_up("mount %s: %s", where, strerror(errno));
}

static bool is_initramfs(void)
{
    struct statfs fs;
    return statfs("/", &fs) == 0 && (fs.f_type == RAMFS_MAGIC || fs.f_type == TMPFS_MAGIC);
}

/* A kernel that found no /dev/console starts us without descriptors; the first ones opened later must not become 0, 1 and 2. */
static void ensure_console(void)
{
    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        int opened = open("/dev/console", O_RDWR | O_NOCTTY);
        if (opened < 0)
            opened = open("/dev/null", O_RDWR);
        if (opened >= 0 && opened != fd) {
            dup2(opened, fd);
            close(opened);
        }
    }
}

/* --- modules --- */

static void load_module(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "/modules/%.200s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        say("agent: module %s: %s", name, strerror(errno));
        return;
    }
    /* One that does not fit this machine is not the end: what needs it will say so. */
    if (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST && errno != ENODEV)
        say("agent: module %s: %s", name, strerror(errno));
    close(fd);
}

static void load_modules(void)
{
    static char order[ORDER_BYTES];
    size_t length = file_load("/modules/order", order, sizeof order - 1);
    order[length] = 0;
    char *rest = NULL;
    for (char *line = strtok_r(order, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        if (*line != '#')
            load_module(line);
}

/* --- root --- */

static void root_device(char device[64])
{
    char line[4096];
    static const char key[] = "agentkernel.root=";
    size_t length = file_load("/proc/cmdline", line, sizeof line - 1);
    line[length] = 0;
    snprintf(device, 64, "/dev/vda");
    char *found = strstr(line, key);
    if (found && (found == line || found[-1] == ' ')) {
        found += sizeof key - 1;
        found[strcspn(found, " \n")] = 0;
        snprintf(device, 64, "%.63s", found);
    }
}

static void wait_for(const char *device)
{
    struct stat st;
    for (int waited = 0; waited < WAIT_FOR_ROOT_MS; waited += WAIT_STEP_MS) {
        if (stat(device, &st) == 0 && S_ISBLK(st.st_mode))
            return;
        pause_ms(WAIT_STEP_MS);
    }
    give_up("no root device %s", device);
}

static void mount_image(const char *device, const char *where)
{
    static const char *const types[] = {"erofs", "squashfs"};
    int errors[2];
    for (int i = 0; i < 2; i++) {
        if (mount(device, where, types[i], MS_RDONLY | MS_NODEV, NULL) == 0)
            return;
        errors[i] = errno;
    }
    give_up("root %s: erofs: %s; squashfs: %s", device, strerror(errors[0]), strerror(errors[1]));
}

static void assemble_root(const char *device)
{
    wait_for(device);
    mkdir(STAGE, 0700);
    mkdir(STAGE "/image", 0755);
    mkdir(STAGE "/root", 0755);
    mount_image(device, STAGE "/image");
    must_mount("tmpfs", STAGE "/writable", "tmpfs", 0, "mode=0700");
    mkdir(STAGE "/writable/upper", 0755);
    mkdir(STAGE "/writable/work", 0700);
    if (mount("root", STAGE "/root", "overlay", 0,
              "lowerdir=" STAGE "/image,upperdir=" STAGE "/writable/upper,workdir=" STAGE "/writable/work") != 0)
        give_up("overlay: %s", strerror(errno));
    /* The overlay holds its layers itself: detached, nobody reaches them by another way. */
    umount2(STAGE "/image", MNT_DETACH);
    umount2(STAGE "/writable", MNT_DETACH);
}

static void move_to(const char *from, const char *to)
{
    if (mkdir(to, 0755) != 0 && errno != EEXIST)
        give_up("mkdir %s: %s", to, strerror(errno));
    if (mount(from, to, NULL, MS_MOVE, NULL) != 0)
        give_up("move %s: %s", from, strerror(errno));
}

/* The initramfs occupies memory until its files are gone. Like switch_root(8), other file systems are left alone: the one to keep is mounted
 * below. Takes over the descriptor. */
static void empty(int fd, dev_t device)
{
    DIR *directory = fdopendir(fd);
    struct dirent *entry;
    if (!directory) {
        close(fd);
        return;
    }
    while ((entry = readdir(directory))) {
        struct stat st;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            fstatat(dirfd(directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || st.st_dev != device)
            continue;
        if (S_ISDIR(st.st_mode)) {
            int child = openat(dirfd(directory), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (child >= 0)
                empty(child, device);
        }
        unlinkat(dirfd(directory), entry->d_name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
    }
    closedir(directory);
}

static void switch_root(void)
{
    struct stat st;
    static const char *const kept[] = {"/proc", "/sys", "/dev"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        char to[64];
        snprintf(to, sizeof to, STAGE "/root%s", kept[i]);
        move_to(kept[i], to);
    }
    int old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (chdir(STAGE "/root") != 0 || old < 0 || fstat(old, &st) != 0)
        give_up("switch to the root: %s", strerror(errno));
    empty(old, st.st_dev);
    if (mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
        give_up("switch to the root: %s", strerror(errno));
}

/* --- what programs expect --- */

static void link_devices(void)
{
    static const char *const links[][2] = {
        {"/proc/self/fd", "/dev/fd"},
        {"/proc/self/fd/0", "/dev/stdin"},
        {"/proc/self/fd/1", "/dev/stdout"},
        {"/proc/self/fd/2", "/dev/stderr"},
    };
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (symlink(links[i][0], links[i][1]) != 0 && errno != EEXIST)
            say("agent: %s: %s", links[i][1], strerror(errno));
}

static void own_directory(const char *path)
{
    if ((mkdir(path, 0755) != 0 && errno != EEXIST) || lchown(path, SANDBOX_ID, SANDBOX_ID) != 0)
        say("agent: %s: %s", path, strerror(errno));
}

static void mount_usual(void)
{
    const unsigned long safe = MS_NOSUID | MS_NODEV;
    must_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666");
    must_mount("tmpfs", "/dev/shm", "tmpfs", safe, "mode=1777");
    must_mount("tmpfs", "/tmp", "tmpfs", safe, "mode=1777");
    must_mount("tmpfs", "/run", "tmpfs", safe, "mode=0755");
    mkdir("/run/agentkernel", 0755);
    link_devices();
    own_directory("/home/sandbox");
    own_directory("/workspace");
    own_directory("/scratch");
}

static void raise_loopback(void)
{
    struct ifreq request;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    memset(&request, 0, sizeof request);
    memcpy(request.ifr_name, "lo", sizeof "lo");
    if (fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
        request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
        ioctl(fd, SIOCSIFFLAGS, &request);
    }
    if (fd >= 0)
        close(fd);
}

void init_machine(void)
{
    bool initramfs = is_initramfs();
    char device[64];
    must_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    must_mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    must_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
    ensure_console();
    reboot(RB_DISABLE_CAD);
    load_modules();
    root_device(device);
    /* "none": a machine that only proves that machines work here; it stays in the initramfs. */
    if (initramfs && strcmp(device, "none") != 0) {
        assemble_root(device);
        switch_root();
    }
    mount_usual();
    if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0 || errno == EBUSY)
        place.cgroup = cgroup_prepare();
    if (!place.cgroup)
        say("agent: no cgroups: commands are ended by walking their descendants");
    raise_loopback();
    file_store("/proc/self/oom_score_adj", "-1000");
}

static bool wait_for_silence(int most_ms)
{
    for (int waited = 0; waited < most_ms; waited += 10) {
        pid_t pid;
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
        }
        if (pid < 0 && errno == ECHILD)
            return true;
        pause_ms(10);
    }
    return false;
}

void init_quiet_down(void)
{
    kill(-1, SIGTERM);
    if (!wait_for_silence(TERM_GRACE_MS)) {
        kill(-1, SIGKILL);
        wait_for_silence(TERM_GRACE_MS);
    }
    sync();
    disks_release();
}
