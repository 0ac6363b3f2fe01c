#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DIRECTORY_FLAGS (O_PATH | O_DIRECTORY | O_CLOEXEC)

char *decimal(char text[16], uint32_t value)
{
    snprintf(text, 16, "%u", value);
    return text;
}

size_t file_load(const char *path, char *buffer, size_t most)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    size_t have = 0;
    struct stat st;
    if (fd < 0)
        return 0;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        while (have < most) {
            ssize_t got = read(fd, buffer + have, most - have);
            if (got <= 0)
                break;
            have += (size_t)got;
        }
    }
    close(fd);
    return have;
}

static int write_all(int fd, const char *text)
{
    size_t length = strlen(text);
    ssize_t done = write(fd, text, length);
    if (done < 0)
        return errno;
    return (size_t)done == length ? 0 : EIO;
}

int file_store(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return errno;
    int error = write_all(fd, text);
    close(fd);
    return error;
}

int file_replace(const char *path, const char *text, mode_t mode)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.new", path) >= (int)sizeof temporary)
        return ENAMETOOLONG;
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    int fd = open(temporary, flags, mode); /* the umask is zero, so the mode is right already */
    if (fd < 0 && errno == EEXIST && unlink(temporary) == 0)
        fd = open(temporary, flags, mode);
    if (fd < 0)
        return errno;
    int error = write_all(fd, text);
    if (error == 0 && rename(temporary, path) != 0)
        error = errno;
    close(fd);
    if (error != 0)
        unlink(temporary);
    return error;
}

int give_to(int fd, uid_t uid, gid_t gid)
{
    if (geteuid() != 0)
        return 0;
    return fchownat(fd, "", uid, gid, AT_EMPTY_PATH) == 0 ? 0 : errno;
}

int reopen(int fd, int flags)
{
    char link[48];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return open(link, flags | O_CLOEXEC);
}

/* One step down; a directory that is missing is made. Returns a descriptor or -1. */
static int step_down(int parent, const char *name, int extra, bool make, mode_t mode, uid_t uid, gid_t gid)
{
    int fd = openat(parent, name, DIRECTORY_FLAGS | extra);
    if (fd >= 0 || errno != ENOENT || !make)
        return fd;
    if (mkdirat(parent, name, mode) != 0) {
        if (errno != EEXIST)
            return -1;
        return openat(parent, name, DIRECTORY_FLAGS | O_NOFOLLOW);
    }
    fd = openat(parent, name, DIRECTORY_FLAGS | O_NOFOLLOW);
    if (fd < 0)
        return -1;
    /* By descriptor, so that a link put there meanwhile is not handed over; the umask is zero, so the mode is right already. */
    int error = give_to(fd, uid, gid);
    if (error != 0) {
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static int walk(int from, const char *path, int extra, bool make, mode_t mode, uid_t uid, gid_t gid)
{
    char name[NAME_MAX + 1];
    int at = from;
    while (*path != 0) {
        size_t length = strcspn(path, "/");
        if (length > NAME_MAX) {
            errno = ENAMETOOLONG;
            goto failed;
        }
        memcpy(name, path, length);
        name[length] = 0;
        path += length + (path[length] == '/');
        if (length == 0 || strcmp(name, ".") == 0)
            continue;
        int next = step_down(at, name, extra, make, mode, uid, gid);
        if (next < 0)
            goto failed;
        if (at != from)
            close(at);
        at = next;
    }
    return at != from ? at : openat(from, ".", DIRECTORY_FLAGS);
failed:;
    int error = errno;
    if (at != from)
        close(at);
    errno = error;
    return -1;
}

int make_directories(const char *path, mode_t mode, uid_t uid, gid_t gid)
{
    int root = open("/", DIRECTORY_FLAGS);
    if (root < 0)
        return errno;
    int fd = walk(root, path, 0, true, mode, uid, gid);
    int error = fd < 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    close(root);
    return error;
}

int make_parents(const char *path, uid_t uid, gid_t gid)
{
    char parent[PATH_MAX];
    size_t length = strlen(path);
    while (length > 0 && path[length - 1] == '/')
        length--;
    while (length > 0 && path[length - 1] != '/')
        length--;
    if (length >= sizeof parent)
        return ENAMETOOLONG;
    memcpy(parent, path, length);
    parent[length] = 0;
    return make_directories(parent, 0755, uid, gid);
}

/* O_DIRECTORY|O_NOFOLLOW on a symbolic link says ENOTDIR, openat2 says ELOOP: make it one answer. */
static int walk_without_links(int root, const char *relative, bool make, uid_t uid, gid_t gid)
{
    int fd = walk(root, relative, O_NOFOLLOW, make, 0755, uid, gid);
    if (fd < 0 && errno == ENOTDIR)
        errno = ELOOP;
    return fd;
}

int open_beneath(int root, const char *relative, bool make, uid_t uid, gid_t gid)
{
    struct open_how how = {
        .flags = DIRECTORY_FLAGS,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    if (*relative == 0)
        return openat(root, ".", DIRECTORY_FLAGS);
    long fd = syscall(SYS_openat2, root, relative, &how, sizeof how);
    if (fd >= 0)
        return (int)fd;
    /* gVisor and kernels before 5.6 lack openat2, old seccomp profiles say EPERM: then step by step, which also makes what is missing.
     * The caller has already refused "..", so one step down is never a step out. */
    if (errno == ENOSYS || errno == EPERM || (errno == ENOENT && make))
        return walk_without_links(root, relative, make, uid, gid);
    return -1;
}

int open_parent(const char *path, const char **name, char *buffer, size_t room)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (length >= room) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(buffer, path, length);
    buffer[length] = 0;
    char *slash = strrchr(buffer, '/');
    if (!slash || slash[1] == 0 || strcmp(slash + 1, ".") == 0 || strcmp(slash + 1, "..") == 0) {
        errno = EBUSY; /* what unlink, rename and rmdir say about the root and about "." */
        return -1;
    }
    *slash = 0;
    *name = slash + 1;
    return open(buffer[0] ? buffer : "/", DIRECTORY_FLAGS);
}
