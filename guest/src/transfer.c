#include "transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "extract.h"
#include "paths.h"

/* --- reading --- */

/* O_PATH first: opening a device can do things, and a FIFO would wait. Only what turned out to be a regular file is opened. */
static int open_regular(const char *path, struct stat *st)
{
    int place_fd = open(path, O_PATH | O_CLOEXEC);
    if (place_fd < 0)
        return -1;
    int fd = -1;
    if (fstat(place_fd, st) == 0) {
        if (S_ISREG(st->st_mode))
            fd = reopen(place_fd, O_RDONLY | O_NONBLOCK | O_NOCTTY);
        else
            errno = S_ISDIR(st->st_mode) ? EISDIR : EINVAL;
    }
    int error = errno;
    close(place_fd);
    errno = error;
    return fd;
}

void read_file(struct channel *channel, const struct file_request *request)
{
    struct job *job = job_begin(channel, READ, request->path);
    if (!job)
        return;
    job->left = request->most;
    job->fd = open_regular(request->path, &job->st);
    if (job->fd < 0)
        job_fail(job, errno);
    else if (request->offset > INT64_MAX || lseek(job->fd, (off_t)request->offset, SEEK_SET) < 0)
        job_fail(job, EINVAL);
}

static void read_done(struct job *job)
{
    uint8_t bytes[12];
    struct writer w = writer_of(bytes, sizeof bytes);
    put_u64(&w, (uint64_t)job->st.st_size);
    put_u32(&w, (uint32_t)(job->st.st_mode & 07777));
    files_done(job->channel, &w);
}

bool read_piece(struct job *job)
{
    if (job->left == 0) {
        read_done(job);
        return false;
    }
    size_t most = channel_allows(job->channel);
    if (job->left < most)
        most = (size_t)job->left;
    uint8_t *at = most > 0 ? out_open(&session.out, most) : NULL;
    if (!at)
        return false;
    ssize_t got = read(job->fd, at, most);
    if (got > 0) {
        channel_sent(job->channel, DATA_BACK, (size_t)got);
        job->left -= (uint64_t)got;
        return true;
    }
    if (got == 0)
        read_done(job);
    else
        job_fail(job, errno);
    return false;
}

/* --- writing --- */

static int open_temporary(struct job *job)
{
    uint64_t number;
    size_t length = strlen(job->path);
    size_t room = length + 40;
    if (getrandom(&number, sizeof number, GRND_NONBLOCK) != (ssize_t)sizeof number)
        number = (uint64_t)getpid() << 32 | job->channel->id;
    char *temporary = malloc(room);
    if (!temporary)
        return ENOMEM;
    size_t directory = length;
    while (directory > 0 && job->path[directory - 1] != '/')
        directory--;
    snprintf(temporary, room, "%.*s.ak-%016llx.tmp", (int)directory, job->path, (unsigned long long)number);
    job->fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (job->fd < 0) {
        int error = errno;
        free(temporary);
        return error;
    }
    job->temporary = temporary;
    return 0;
}

static int check_existing(const char *path, bool must_be_new)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? 0 : errno;
    if (S_ISDIR(st.st_mode))
        return EISDIR;
    if (must_be_new)
        return EEXIST;
    return S_ISREG(st.st_mode) || S_ISLNK(st.st_mode) ? 0 : EINVAL;
}

/* Owner and mode are given to what is made; a file that is there keeps its own. */
static int dress(const struct job *job)
{
    int error = give_to(job->fd, job->uid, job->gid);
    if (error == 0 && fchmod(job->fd, job->mode & 07777) != 0)
        error = errno;
    return error;
}

static int open_in_place(struct job *job)
{
    int flags = O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    if (job->flags & WRITE_APPEND)
        flags |= O_APPEND;
    job->fd = open(job->path, flags | O_CREAT | O_EXCL, 0600);
    if (job->fd >= 0)
        return dress(job);
    if (errno != EEXIST || (job->flags & WRITE_NEW))
        return errno;
    job->fd = open(job->path, flags);
    if (job->fd < 0)
        return errno;
    if (fstat(job->fd, &job->st) != 0 || !S_ISREG(job->st.st_mode))
        return EINVAL;
    if (!(job->flags & WRITE_APPEND) && ftruncate(job->fd, 0) != 0)
        return errno;
    return 0;
}

static int open_for_writing(struct job *job, const char *owner)
{
    const uint32_t known = WRITE_ATOMIC | WRITE_APPEND | WRITE_PARENTS | WRITE_NEW;
    if ((job->flags & ~known) || (job->flags & (WRITE_ATOMIC | WRITE_APPEND)) == (WRITE_ATOMIC | WRITE_APPEND))
        return EINVAL;
    int error = find_owner(job, owner);
    if (error == 0 && (job->flags & WRITE_PARENTS))
        error = make_parents(job->path, job->uid, job->gid);
    if (error == 0)
        error = check_existing(job->path, job->flags & WRITE_NEW);
    if (error == 0)
        error = job->flags & WRITE_ATOMIC ? open_temporary(job) : open_in_place(job);
    return error;
}

void write_file(struct channel *channel, const struct file_request *request)
{
    struct job *job = job_begin(channel, WRITE, request->path);
    if (!job)
        return;
    job->mode = request->mode;
    job->flags = request->flags;
    int error = open_for_writing(job, request->owner);
    if (error != 0)
        job_fail(job, error);
}

static int put_in_place(struct job *job)
{
    int error = dress(job);
    if (error != 0)
        return error;
    if (job->flags & WRITE_NEW) /* a link, unlike a rename, never replaces: whoever came first meanwhile stays */
        return link(job->temporary, job->path) == 0 ? 0 : errno;
    if (rename(job->temporary, job->path) != 0)
        return errno;
    free(job->temporary);
    job->temporary = NULL;
    return 0;
}

static void done_u64(struct job *job, uint64_t value)
{
    uint8_t bytes[8];
    struct writer w = writer_of(bytes, sizeof bytes);
    put_u64(&w, value);
    files_done(job->channel, &w);
}

static void write_end(struct job *job)
{
    int error = job->temporary ? put_in_place(job) : 0;
    if (error != 0)
        job_fail(job, error);
    else
        done_u64(job, job->moved);
}

static int write_piece(struct job *job, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t wrote = write(job->fd, bytes, length);
        if (wrote < 0 && errno != EINTR)
            return errno;
        if (wrote > 0) {
            bytes += wrote;
            length -= (size_t)wrote;
            job->moved += (uint64_t)wrote;
        }
    }
    return 0;
}

/* --- tar --- */

static int open_target(struct job *job, const char *owner)
{
    if (job->flags != 0)
        return EINVAL;
    int error = find_owner(job, owner);
    if (error == 0)
        error = make_directories(job->path, 0755, job->uid, job->gid);
    if (error != 0)
        return error;
    int root = open(job->path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (root < 0)
        return errno;
    job->extract = extract_new(root, job->uid, job->gid);
    if (job->extract)
        return 0;
    close(root);
    return ENOMEM;
}

void tar_in(struct channel *channel, const struct file_request *request)
{
    struct job *job = job_begin(channel, TAR_IN, request->path);
    if (!job)
        return;
    job->flags = request->flags;
    int error = open_target(job, request->owner);
    if (error != 0)
        job_fail(job, error);
}

static void fail_tar(struct job *job, int error)
{
    const char *member = extract_member(job->extract);
    channel_fail(job->channel, error, "", *member ? member : job->path);
}

static void tar_end(struct job *job)
{
    int error = extract_finish(job->extract);
    if (error != 0)
        fail_tar(job, error);
    else
        done_u64(job, extract_entries(job->extract));
}

/* --- frames of either --- */

void transfer_data(struct job *job, const struct frame *frame)
{
    struct channel *channel = job->channel;
    if (!channel_received(channel, frame->length))
        return;
    int error = job->kind == WRITE ? write_piece(job, frame->payload, frame->length)
                                   : extract_feed(job->extract, frame->payload, frame->length);
    if (error == 0)
        channel_consumed(channel, frame->length);
    else if (job->kind == WRITE)
        job_fail(job, error);
    else
        fail_tar(job, error);
}

void transfer_end(struct job *job)
{
    if (job->kind == WRITE)
        write_end(job);
    else
        tar_end(job);
}
