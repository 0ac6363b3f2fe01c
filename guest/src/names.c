#include "names.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "listing.h"
#include "paths.h"

/* Directories that a removal keeps open at once; a tree that is deeper is refused (ENAMETOOLONG), not half removed silently. */
#define DEPTH_MOST 256

struct level {
    DIR *directory;
    char name[NAME_MAX + 1];
};

/* --- making --- */

void make_directory(struct channel *channel, const struct file_request *request)
{
    struct job owner = {0};
    char buffer[PATH_MAX];
    const char *name;
    bool parents = request->flags & MKDIR_PARENTS;
    int error = request->flags & ~(uint32_t)MKDIR_PARENTS ? EINVAL : find_owner(&owner, request->owner);
    if (error == 0 && parents)
        error = make_parents(request->path, owner.uid, owner.gid);
    if (error != 0) {
        files_answer(channel, error, request->path);
        return;
    }
    int parent = open_parent(request->path, &name, buffer, sizeof buffer);
    if (parent < 0) {
        files_answer(channel, errno == EBUSY ? (parents ? 0 : EEXIST) : errno, request->path);
        return;
    }
    struct stat st;
    if (mkdirat(parent, name, request->mode & 01777) == 0) {
        int fd = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        error = fd < 0 ? errno : give_to(fd, owner.uid, owner.gid);
        if (fd >= 0)
            close(fd);
    } else {
        error = errno;
        if (error == EEXIST && parents && fstatat(parent, name, &st, 0) == 0 && S_ISDIR(st.st_mode))
            error = 0;
    }
    close(parent);
    files_answer(channel, error, request->path);
}

/* --- removing --- */

static int remove_name(int parent, const char *name)
{
    if (unlinkat(parent, name, 0) == 0)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return errno;
    return unlinkat(parent, name, AT_REMOVEDIR) == 0 ? 0 : errno;
}

static int enter(struct job *job, int parent, const char *name)
{
    if (job->depth == DEPTH_MOST)
        return ENAMETOOLONG;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (!directory) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        return error;
    }
    struct level *level = &job->levels[job->depth++];
    level->directory = directory;
    snprintf(level->name, sizeof level->name, "%s", name);
    return 0;
}

/* An emptied directory goes; 0 or an errno. */
static int leave(struct job *job)
{
    struct level *level = &job->levels[--job->depth];
    closedir(level->directory);
    int parent = job->depth == 0 ? job->fd : dirfd(job->levels[job->depth - 1].directory);
    return unlinkat(parent, level->name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : errno;
}

void remove_file(struct channel *channel, const struct file_request *request)
{
    char buffer[PATH_MAX];
    const char *name;
    int parent = open_parent(request->path, &name, buffer, sizeof buffer);
    int error = request->flags & ~(uint32_t)REMOVE_TREE ? EINVAL : parent < 0 ? errno : remove_name(parent, name);
    if (error != ENOTEMPTY || !(request->flags & REMOVE_TREE)) {
        if (parent >= 0)
            close(parent);
        files_answer(channel, error, request->path);
        return;
    }
    struct job *job = job_begin(channel, REMOVE, request->path);
    if (!job) {
        close(parent);
        return;
    }
    job->fd = parent;
    job->levels = calloc(DEPTH_MOST, sizeof *job->levels);
    error = job->levels ? enter(job, parent, name) : ENOMEM;
    if (error != 0)
        job_fail(job, error);
}

static int remove_next(struct job *job)
{
    DIR *directory = job->levels[job->depth - 1].directory;
    struct dirent *entry = next_entry(directory);
    if (!entry)
        return errno != 0 ? errno : leave(job);
    int error = remove_name(dirfd(directory), entry->d_name);
    if (error == ENOTEMPTY || error == EEXIST)
        error = enter(job, dirfd(directory), entry->d_name);
    return error == ENOENT ? 0 : error;
}

bool remove_piece(struct job *job)
{
    for (int i = 0; i < NAMES_AT_ONCE; i++) {
        int error = remove_next(job);
        if (error != 0) {
            job_fail(job, error);
            return false;
        }
        if (job->depth == 0) {
            files_done(job->channel, NULL);
            return false;
        }
    }
    return true;
}

void remove_forget(struct job *job)
{
    for (int i = 0; i < job->depth; i++)
        closedir(job->levels[i].directory);
    free(job->levels);
}
