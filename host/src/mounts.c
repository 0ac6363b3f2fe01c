/* The new root, made with the descriptor based mount calls of Linux 5.2 and mount_setattr(2) of 5.12: no path is looked up twice, and a
 * tree below a home of mode 0700 is opened before privileges go, so that the unprivileged program never has to pass through that home. */
#include "mounts.h"

#include "kernel.h"
#include "link.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int root_fd = -1;

static void set_attributes(int mount, unsigned int flags, unsigned long long attributes, const char *step) {
    struct mount_attr change = {.attr_set = attributes, .propagation = AK_MS_PRIVATE};
    if (syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH | flags, &change, sizeof change) < 0) fail(step, errno);
}

static void attach(int mount, int directory, const char *target, const char *step) {
    if (syscall(SYS_move_mount, mount, "", directory, target, MOVE_MOUNT_F_EMPTY_PATH) < 0) fail(step, errno);
}

static void set(int context, const char *key, const char *value, const char *step) {
    if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, key, value, 0) < 0) fail(step, errno);
}

static int make_mount(int context, unsigned int attributes, const char *step) {
    if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) fail(step, errno);
    int mount = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes);
    if (mount < 0) fail(step, errno);
    (void)close(context);
    return mount;
}

static int file_system(const char *type, const char *step) {
    int context = (int)syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
    if (context < 0) fail(step, errno);
    return context;
}

static void set_number(int context, const char *key, unsigned long value, const char *step) {
    char text[24];
    (void)snprintf(text, sizeof text, "%lu", value);
    set(context, key, text, step);
}

/* Covers "/": lookups of the old root still start below the cover until pivot_root. */
static void make_root(void) {
    int context = file_system("tmpfs", "root");
    set(context, "mode", "0755", "root");
    set(context, "size", "256k", "root");
    set(context, "nr_inodes", "1024", "root");
    /* Not nodev: /dev/kvm may be made here. Nothing can be made later: it is read-only by then. */
    root_fd = make_mount(context, MOUNT_ATTR_NOSUID, "root");
    attach(root_fd, AT_FDCWD, "/", "root");
}

/* Files are for real where /tmp is big; a small one is for a program's own needs. Each inode costs the kernel about a KiB. */
enum { TMP_BYTES_PER_INODE = 16384, TMP_LEAST_INODES = 1024 };

static void mount_tmp(const struct config *config) {
    int context = file_system("tmpfs", "tmp");
    set(context, "mode", "0700", "tmp");
    bool mapped = config->nesting && !config->as_root; /* then we are in the namespace where that user is called 0 */
    set_number(context, "uid", mapped ? 0 : config->uid, "tmp");
    set_number(context, "gid", mapped ? 0 : config->gid, "tmp");
    set_number(context, "size", config->tmp_bytes, "tmp");
    unsigned long inodes = config->tmp_bytes / TMP_BYTES_PER_INODE;
    set_number(context, "nr_inodes", inodes < TMP_LEAST_INODES ? TMP_LEAST_INODES : inodes, "tmp");
    int mount = make_mount(context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, "tmp");
    attach(mount, root_fd, "tmp", "tmp");
    (void)close(mount);
}

/* Only the directories of processes: no cpuinfo, no sysctl, no kallsyms. Read-only does not hinder /proc/self/fd/N, which opens the
 * file behind it through that file's own mount. */
static void mount_proc(const struct config *config) {
    int context = file_system("proc", "proc");
    if (!config->nesting) { /* who mounts a /proc of its own must see all of one (mount_namespaces(7), restrictions) */
        set(context, "subset", "pid", "proc");
        set(context, "hidepid", "invisible", "proc");
    }
    /* Maps of ids are written there. What the host's root owns stays closed to this uid all the same. */
    unsigned int read_only = config->nesting ? 0 : MOUNT_ATTR_RDONLY;
    int mount = make_mount(context, read_only | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, "proc");
    attach(mount, root_fd, "proc", "proc");
    (void)close(mount);
}

static void make_directory(int parent, const char *name, const char *step) {
    if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST) fail(step, errno);
}

static void make_file(int parent, const char *name, const char *step) {
    int fd = openat(parent, name, O_CREAT | O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0444);
    if (fd < 0) fail(step, errno);
    (void)close(fd);
}

static void copy_link(int source_directory, const char *source, int target_directory, const char *name, const char *step) {
    char text[PATH_MAX];
    ssize_t length = readlinkat(source_directory, source, text, sizeof text - 1);
    if (length < 0) fail(step, errno);
    text[length] = '\0';
    if (symlinkat(text, target_directory, name) < 0 && errno != EEXIST) fail(step, errno);
}

/* One thing of the host, at `name` in `target_directory`: directories and files are bound, links are copied, all else is left out. */
static void bring(int source_directory, const char *source, int target_directory, const char *name, unsigned long long attributes,
                  const char *step) {
    struct stat facts;
    if (fstatat(source_directory, source, &facts, AT_SYMLINK_NOFOLLOW) < 0) fail(step, errno);
    if (S_ISLNK(facts.st_mode)) {
        copy_link(source_directory, source, target_directory, name, step);
        return;
    }
    bool device = S_ISCHR(facts.st_mode) && (attributes & MOUNT_ATTR_NODEV) == 0;
    if (!S_ISDIR(facts.st_mode) && !S_ISREG(facts.st_mode) && !device) return;
    /* Recursive: a user namespace may not bind a tree without what is mounted (and locked) below it. */
    int mount = (int)syscall(SYS_open_tree, source_directory, source,
                             OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW | AK_AT_RECURSIVE);
    if (mount < 0) fail(step, errno);
    set_attributes(mount, AK_AT_RECURSIVE, attributes, step);
    if (S_ISDIR(facts.st_mode)) {
        make_directory(target_directory, name, step);
    } else {
        make_file(target_directory, name, step);
    }
    attach(mount, target_directory, name, step);
    (void)close(mount);
}

enum { BOUND = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV };

static bool is_ours(const char *name) {
    static const char *const OURS[] = {".", "..", "dev", "proc", "run", "sys", "tmp"};
    for (size_t i = 0; i < sizeof OURS / sizeof *OURS; i++) {
        if (strcmp(name, OURS[i]) == 0) return true;
    }
    return false;
}

/* The tree's entries rather than the tree: /dev, /proc and /tmp need places that a read-only tree may lack. */
static void bring_tree(const char *tree) {
    DIR *directory = opendir(tree);
    if (directory == NULL) fail("tree", errno);
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(directory);
        if (entry == NULL && errno != 0) fail("tree", errno);
        if (entry == NULL) break;
        if (!is_ours(entry->d_name)) bring(dirfd(directory), entry->d_name, root_fd, entry->d_name, BOUND, "tree");
    }
    (void)closedir(directory);
}

/* Makes the directories above `target` and returns the last one; never through a link, so never out of the new root. */
static int parent_of(const char *target, const char **name) {
    int parent = openat(root_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0) fail("bind", errno);
    for (;;) {
        while (*target == '/') target++;
        const char *slash = strchr(target, '/');
        if (slash == NULL) break;
        char part[NAME_MAX + 1];
        size_t length = (size_t)(slash - target);
        if (length > NAME_MAX) fail("bind", ENAMETOOLONG);
        memcpy(part, target, length);
        part[length] = '\0';
        if (strcmp(part, "..") == 0) fail("bind", EINVAL);
        make_directory(parent, part, "bind");
        int next = openat(parent, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0) fail("bind", errno);
        (void)close(parent);
        parent = next;
        target = slash;
    }
    if (*target == '\0' || strcmp(target, "..") == 0) fail("bind", EINVAL);
    *name = target;
    return parent;
}

static void bring_binds(const struct config *config) {
    for (size_t i = 0; i < config->bind_count; i++) {
        const char *name = NULL;
        int parent = parent_of(config->binds[i].target, &name);
        bring(AT_FDCWD, config->binds[i].source, parent, name, BOUND, "bind");
        (void)close(parent);
    }
}

/* A node of the VM's own where we may make one: then the uid needs no group that can open the host's. A user without root opens it by
 * the groups that the user has. */
static void bring_kvm(const struct config *config) {
    struct stat facts;
    if (stat("/dev/kvm", &facts) < 0) fail("kvm", errno);
    if (config->as_root && mknodat(root_fd, "dev/kvm", S_IFCHR | 0600, facts.st_rdev) == 0) {
        if (fchownat(root_fd, "dev/kvm", config->uid, config->gid, AT_SYMLINK_NOFOLLOW) < 0) fail("kvm", errno);
        return;
    }
    bring(AT_FDCWD, "/dev/kvm", root_fd, "dev/kvm", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, "kvm");
}

static void bring_devices(const struct config *config) {
    static const char *const DEVICES[] = {"dev/full", "dev/null", "dev/random", "dev/urandom", "dev/zero"};
    for (size_t i = 0; i < sizeof DEVICES / sizeof *DEVICES; i++) {
        char source[32];
        (void)snprintf(source, sizeof source, "/%s", DEVICES[i]);
        /* A device is written through a read-only mount all the same. */
        bring(AT_FDCWD, source, root_fd, DEVICES[i], MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, "dev");
    }
    if (config->kvm) bring_kvm(config);
}

/* pivot_root(2), NOTES: with both arguments "." the old root ends on top of the new one and is unmounted from there. */
static void leave_old_root(void) {
    if (fchdir(root_fd) < 0) fail("pivot_root", errno);
    if (syscall(SYS_pivot_root, ".", ".") < 0) fail("pivot_root", errno);
    if (syscall(SYS_umount2, ".", AK_MNT_DETACH) < 0) fail("pivot_root", errno);
    if (chdir("/") < 0) fail("pivot_root", errno);
}

void build_root(const struct config *config) {
    static const char *const PLACES[] = {"dev", "proc", "tmp"};
    /* First of all: what happens to mounts from here on stays in this namespace. */
    if (syscall(SYS_mount, NULL, "/", NULL, AK_MS_REC | AK_MS_PRIVATE, NULL) < 0) fail("private mounts", errno);
    make_root();
    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) make_directory(root_fd, PLACES[i], "root");
    if (config->tree != NULL) bring_tree(config->tree);
    bring_binds(config);
    bring_devices(config);
    mount_tmp(config);
    mount_proc(config);
    set_attributes(root_fd, 0, MOUNT_ATTR_RDONLY, "root");
    leave_old_root();
    (void)close(root_fd);
}

void cover_settings(const struct config *config) {
    if (syscall(SYS_mount, "none", "/proc/sys/net", "tmpfs", AK_MS_EMPTY, "size=4k") < 0)
        fail("/proc/sys/net", errno);
    for (size_t i = 0; i < config->cover_count; i++) {
        const struct bind *cover = &config->covers[i];
        if (syscall(SYS_mount, cover->source, cover->target, NULL, AK_MS_BIND, NULL) < 0) fail("cover", errno);
    }
}
