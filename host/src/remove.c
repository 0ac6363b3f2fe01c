#include "remove.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEEPEST = 6 }; /* a jail: sandbox, program, id, root, dev, net */

static bool is_dots(const char *name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

/* A real directory of ours, or of the sandbox's own uid, on the file system of its parent. */
static int open_own(int parent, const char *name, dev_t device, uid_t other) {
    struct stat facts;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return -1;
    if (fstat(fd, &facts) == 0 && (facts.st_uid == geteuid() || facts.st_uid == other) && facts.st_dev == device) return fd;
    (void)close(fd);
    return -1;
}

static void empty(int fd, dev_t device, uid_t other, int depth) {
    DIR *directory = fdopendir(fd); /* owns fd from here on */
    if (directory == NULL) {
        (void)close(fd);
        return;
    }
    const struct dirent *entry = NULL;
    while ((entry = readdir(directory)) != NULL) {
        const char *name = entry->d_name;
        if (is_dots(name) || unlinkat(dirfd(directory), name, 0) == 0 || errno != EISDIR || depth == DEEPEST) continue;
        int below = open_own(dirfd(directory), name, device, other);
        if (below < 0) continue;
        empty(below, device, other, depth + 1);
        (void)unlinkat(dirfd(directory), name, AT_REMOVEDIR);
    }
    (void)closedir(directory);
}

void remove_directory(const char *path, uid_t other) {
    char above[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (slash == NULL || (size_t)(slash - path) >= sizeof above) return;
    size_t length = slash == path ? 1 : (size_t)(slash - path);
    memcpy(above, path, length);
    above[length] = '\0';
    struct stat facts;
    int parent = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0) return;
    int fd = fstat(parent, &facts) == 0 ? open_own(parent, slash + 1, facts.st_dev, geteuid()) : -1;
    if (fd >= 0) {
        empty(fd, facts.st_dev, other, 0);
        (void)unlinkat(parent, slash + 1, AT_REMOVEDIR);
    }
    (void)close(parent);
}
