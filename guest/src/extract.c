#include "extract.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "paths.h"
#include "tar.h"

struct extract {
    struct tar tar;
    int root;
    int file; /* the regular file that is being written, or -1 */
    uid_t uid;
    gid_t gid;
    uint64_t entries;
    char shown[TAR_NAME_BYTES]; /* the member's name as the archive has it, for FAILED */
};

/* A place in the tree: an open parent and the last name in it. */
struct spot {
    int parent;
    const char *name;
};

struct extract *extract_new(int root, uid_t uid, gid_t gid)
{
    struct extract *extract = malloc(sizeof *extract);
    if (!extract)
        return NULL;
    tar_reset(&extract->tar);
    extract->root = root;
    extract->file = -1;
    extract->uid = uid;
    extract->gid = gid;
    extract->entries = 0;
    extract->shown[0] = 0;
    return extract;
}

/* `path` is clean. Going through a symbolic link would be a way out of the directory: EPERM. */
static int find_spot(const struct extract *extract, char *path, bool make, struct spot *spot)
{
    char *slash = strrchr(path, '/');
    spot->name = slash ? slash + 1 : path;
    if (slash)
        *slash = 0;
    spot->parent = open_beneath(extract->root, slash ? path : "", make, extract->uid, extract->gid);
    if (spot->parent >= 0)
        return 0;
    return errno == ELOOP || errno == EXDEV ? EPERM : errno;
}

/* What was there goes, unless it is a directory: writing into it would follow a link or reach a hard link's other name. */
static int clear_spot(const struct spot *spot)
{
    if (unlinkat(spot->parent, spot->name, 0) == 0 || errno == ENOENT)
        return 0;
    return errno == EPERM ? EISDIR : errno;
}

static int begin_file(struct extract *extract, const struct spot *spot)
{
    int error = clear_spot(spot);
    if (error != 0)
        return error;
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    extract->file = openat(spot->parent, spot->name, flags, 0600);
    return extract->file < 0 ? errno : 0;
}

/* The owner first: chown takes bits away that chmod gives. Set-id bits are never given. */
static int end_file(struct extract *extract)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_sec = extract->tar.modified}};
    int error = give_to(extract->file, extract->uid, extract->gid);
    if (error == 0 && fchmod(extract->file, extract->tar.mode & 0777) != 0)
        error = errno;
    if (error == 0 && futimens(extract->file, times) != 0)
        error = errno;
    if (close(extract->file) != 0 && error == 0)
        error = errno;
    extract->file = -1;
    extract->entries++;
    return error;
}

static int make_directory(struct extract *extract, const struct spot *spot)
{
    struct stat st;
    /* Without root a directory must stay writable for the members that follow. */
    mode_t mode = (extract->tar.mode & 01777) | (geteuid() == 0 ? 0 : 0700);
    if (mkdirat(spot->parent, spot->name, 0700) != 0) {
        if (errno != EEXIST)
            return errno;
        if (fstatat(spot->parent, spot->name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            return errno;
        if (S_ISLNK(st.st_mode))
            return EPERM;
        if (!S_ISDIR(st.st_mode))
            return ENOTDIR;
    }
    int fd = openat(spot->parent, spot->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ELOOP ? EPERM : errno;
    int error = give_to(fd, extract->uid, extract->gid);
    if (error == 0 && fchmod(fd, mode) != 0)
        error = errno;
    close(fd);
    extract->entries++;
    return error;
}

/* A link may point anywhere: it is never followed here, and for a program inside it is as good as one that it makes itself. */
static int make_symlink(struct extract *extract, const struct spot *spot)
{
    int error = clear_spot(spot);
    if (error != 0)
        return error;
    if (extract->tar.link[0] == 0)
        return EBADMSG;
    if (symlinkat(extract->tar.link, spot->parent, spot->name) != 0)
        return errno;
    if (geteuid() == 0 && fchownat(spot->parent, spot->name, extract->uid, extract->gid, AT_SYMLINK_NOFOLLOW) != 0)
        return errno;
    extract->entries++;
    return 0;
}

static int make_hard_link(struct extract *extract, const struct spot *spot)
{
    struct spot target;
    struct stat st;
    struct stat there;
    char *path = tar_clean_path(extract->tar.link);
    if (!path || *path == 0)
        return EPERM;
    int error = find_spot(extract, path, false, &target);
    if (error != 0)
        return error;
    if (fstatat(target.parent, target.name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        error = errno;
    else if (!S_ISREG(st.st_mode))
        error = EPERM;
    else if (fstatat(spot->parent, spot->name, &there, AT_SYMLINK_NOFOLLOW) == 0 && there.st_dev == st.st_dev &&
             there.st_ino == st.st_ino)
        error = 0; /* it is that link already; clearing it first could remove the last name */
    else if ((error = clear_spot(spot)) == 0 &&
             linkat(target.parent, target.name, spot->parent, spot->name, 0) != 0)
        error = errno;
    close(target.parent);
    extract->entries += error == 0;
    return error;
}

static int make_member(struct extract *extract, const struct spot *spot)
{
    switch (extract->tar.type) {
    case 'f':
        return begin_file(extract, spot);
    case 'd':
        return make_directory(extract, spot);
    case 'l':
        return make_symlink(extract, spot);
    default:
        return make_hard_link(extract, spot);
    }
}

static int begin_member(struct extract *extract)
{
    struct spot spot;
    memcpy(extract->shown, extract->tar.name, sizeof extract->shown);
    char *path = tar_clean_path(extract->tar.name);
    if (!path || extract->tar.type == 'o')
        return EPERM;
    if (*path == 0) { /* "./": the directory itself, which belongs to the request */
        extract->entries += extract->tar.type == 'd';
        return extract->tar.type == 'd' ? 0 : EPERM;
    }
    int error = find_spot(extract, path, true, &spot);
    if (error != 0)
        return error;
    error = make_member(extract, &spot);
    close(spot.parent);
    return error;
}

static int write_data(const struct extract *extract, const uint8_t *data, size_t length)
{
    while (length > 0) {
        ssize_t done = write(extract->file, data, length);
        if (done < 0 && errno != EINTR)
            return errno;
        if (done > 0) {
            data += done;
            length -= (size_t)done;
        }
    }
    return 0;
}

int extract_feed(struct extract *extract, const uint8_t *bytes, size_t length)
{
    const uint8_t *data = NULL;
    size_t data_length = 0;
    int error = 0;
    while (error == 0) {
        switch (tar_next(&extract->tar, &bytes, &length, &data, &data_length)) {
        case TAR_WAITS:
            return 0;
        case TAR_MEMBER:
            error = begin_member(extract);
            break;
        case TAR_DATA:
            error = write_data(extract, data, data_length);
            break;
        case TAR_MEMBER_END:
            error = end_file(extract);
            break;
        case TAR_WRONG:
            return extract->tar.error;
        }
    }
    return error;
}

int extract_finish(struct extract *extract)
{
    return tar_complete(&extract->tar) ? 0 : EBADMSG;
}

const char *extract_member(const struct extract *extract)
{
    return extract->shown;
}

uint64_t extract_entries(const struct extract *extract)
{
    return extract->entries;
}

void extract_free(struct extract *extract)
{
    if (extract->file >= 0)
        close(extract->file);
    close(extract->root);
    free(extract);
}
