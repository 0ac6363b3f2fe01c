#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "extract.h"
#include "paths.h"
#include "payload.h"
#include "users.h"

/* Directories that a removal keeps open at once; a tree that is deeper is refused (ENAMETOOLONG), not half removed silently. */
#define DEPTH_MOST 256
/* Names removed or listed before other channels get their turn. */
#define NAMES_AT_ONCE 128

struct level {
    DIR *directory;
    char name[NAME_MAX + 1];
};

struct job {
    struct job *next;
    struct channel *channel; /* NULL once it is over: freed by the next step */
    uint8_t kind;
    int fd;
    uint64_t left; /* READ */
    uint64_t moved; /* READ, WRITE: bytes; LIST: entries */
    struct stat st;
    char *path;
    char *temporary; /* WRITE with atomic replacement */
    uint32_t mode;
    uint32_t flags;
    uid_t uid;
    gid_t gid;
    struct extract *extract;
    DIR *listing;
    struct dirent *unsent; /* an entry that did not fit into the frame before */
    int depth;
    struct level *levels;
};

static struct job *jobs;

/* --- beginnings and ends --- */

static struct job *begin(struct channel *channel, uint8_t kind, const char *path)
{
    struct job *job = calloc(1, sizeof *job);
    char *copy = strdup(path);
    if (!job || !copy) {
        free(job);
        free(copy);
        channel_fail(channel, ENOMEM, path, "");
        return NULL;
    }
    job->channel = channel;
    job->kind = kind;
    job->fd = -1;
    job->path = copy;
    job->next = jobs;
    jobs = job;
    channel->job = job;
    return job;
}

static void release(struct job *job)
{
    if (job->temporary)
        unlink(job->temporary);
    if (job->fd >= 0)
        close(job->fd);
    if (job->extract)
        extract_free(job->extract);
    if (job->listing)
        closedir(job->listing);
    for (int i = 0; i < job->depth; i++)
        closedir(job->levels[i].directory);
    free(job->levels);
    free(job->temporary);
    free(job->path);
    free(job);
}

void files_abandon(struct job *job)
{
    job->channel = NULL;
    /* The half-written file goes now, not at the next turn: the host may look for it. */
    if (job->temporary)
        unlink(job->temporary);
    free(job->temporary);
    job->temporary = NULL;
}

static void done(struct channel *channel, const struct writer *payload)
{
    out_frame(&session.out, channel->id, DONE, payload);
    channel_close(channel);
}

/* The answer of requests that are carried out at once. */
static void answer(struct channel *channel, int error, const char *path)
{
    if (error != 0)
        channel_fail(channel, error, "", path);
    else
        done(channel, NULL);
}

static void done_u64(struct job *job, uint64_t value)
{
    uint8_t bytes[8];
    struct writer w = writer_of(bytes, sizeof bytes);
    put_u64(&w, value);
    done(job->channel, &w);
}

static void fail(struct job *job, int error)
{
    channel_fail(job->channel, error, "", job->path);
}

/* --- entries --- */

static uint8_t type_letter(mode_t mode)
{
    return S_ISREG(mode) ? 'f' : S_ISDIR(mode) ? 'd' : S_ISLNK(mode) ? 'l' : 'o';
}

static void put_entry(struct writer *w, const char *name, const struct stat *st)
{
    put_str(w, name);
    put_u8(w, type_letter(st->st_mode));
    put_u32(w, (uint32_t)(st->st_mode & 07777));
    put_u64(w, (uint64_t)st->st_size);
    put_u64(w, st->st_mtime < 0 ? 0 : (uint64_t)st->st_mtime);
    put_u32(w, st->st_uid);
    put_u32(w, st->st_gid);
}

static void stat_file(struct channel *channel, const char *path)
{
    uint8_t bytes[NAME_MAX + 64];
    struct stat st;
    char parent[PATH_MAX];
    const char *name = "/";
    if (fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        channel_fail(channel, errno, "", path);
        return;
    }
    int fd = open_parent(path, &name, parent, sizeof parent);
    if (fd >= 0)
        close(fd);
    struct writer w = writer_of(bytes, sizeof bytes);
    put_entry(&w, name, &st);
    done(channel, &w);
}

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

static void read_file(struct channel *channel, const struct file_request *request)
{
    struct job *job = begin(channel, READ, request->path);
    if (!job)
        return;
    job->left = request->most;
    job->fd = open_regular(request->path, &job->st);
    if (job->fd < 0)
        fail(job, errno);
    else if (request->offset > INT64_MAX || lseek(job->fd, (off_t)request->offset, SEEK_SET) < 0)
        fail(job, EINVAL);
}

static void read_done(struct job *job)
{
    uint8_t bytes[12];
    struct writer w = writer_of(bytes, sizeof bytes);
    put_u64(&w, (uint64_t)job->st.st_size);
    put_u32(&w, (uint32_t)(job->st.st_mode & 07777));
    done(job->channel, &w);
}

static bool read_piece(struct job *job)
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
        fail(job, errno);
    return false;
}

/* --- writing --- */

static int find_owner(struct job *job, const char *owner)
{
    struct user *user = malloc(sizeof *user);
    int error = user ? user_lookup(user, owner) : ENOMEM;
    if (error == 0) {
        job->uid = user->uid;
        job->gid = user->gid;
    }
    free(user);
    return error;
}

/* Makes what is above the last name. */
static int make_parents(const char *path, uid_t uid, gid_t gid)
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

static void write_file(struct channel *channel, const struct file_request *request)
{
    struct job *job = begin(channel, WRITE, request->path);
    if (!job)
        return;
    job->mode = request->mode;
    job->flags = request->flags;
    int error = open_for_writing(job, request->owner);
    if (error != 0)
        fail(job, error);
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

static void write_end(struct job *job)
{
    int error = job->temporary ? put_in_place(job) : 0;
    if (error != 0)
        fail(job, error);
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

static void tar_in(struct channel *channel, const struct file_request *request)
{
    struct job *job = begin(channel, TAR_IN, request->path);
    if (!job)
        return;
    job->flags = request->flags;
    int error = open_target(job, request->owner);
    if (error != 0)
        fail(job, error);
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

/* --- frames of a running job --- */

static void take_data(struct job *job, const struct frame *frame)
{
    struct channel *channel = job->channel;
    if (!channel_received(channel, frame->length))
        return;
    int error = job->kind == WRITE ? write_piece(job, frame->payload, frame->length)
                                   : extract_feed(job->extract, frame->payload, frame->length);
    if (error == 0)
        channel_consumed(channel, frame->length);
    else if (job->kind == WRITE)
        fail(job, error);
    else
        fail_tar(job, error);
}

bool files_frame(struct job *job, const struct frame *frame)
{
    bool takes_data = job->kind == WRITE || job->kind == TAR_IN;
    if (frame->kind == DATA && takes_data) {
        take_data(job, frame);
        return true;
    }
    if (frame->length != 0)
        return false;
    if (frame->kind == CANCEL) {
        fail(job, ECANCELED);
        return true;
    }
    if (frame->kind != END || !takes_data)
        return false;
    if (job->kind == WRITE)
        write_end(job);
    else
        tar_end(job);
    return true;
}

/* --- listing --- */

static void list(struct channel *channel, const char *path)
{
    struct job *job = begin(channel, LIST, path);
    if (!job)
        return;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
    job->listing = fd < 0 ? NULL : fdopendir(fd);
    if (job->listing)
        return;
    int error = errno;
    if (fd >= 0)
        close(fd);
    fail(job, error);
}

static struct dirent *next_entry(DIR *directory)
{
    struct dirent *entry;
    do {
        errno = 0;
        entry = readdir(directory);
    } while (entry && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
    return entry;
}

/* Fills one frame; returns 0, ENOENT when the directory has no more, or another errno. */
static int fill_entries(struct job *job, struct writer *w, uint32_t *count)
{
    for (*count = 0; *count < NAMES_AT_ONCE;) {
        struct stat st;
        struct dirent *entry = next_entry(job->listing);
        if (!entry)
            return errno != 0 ? errno : ENOENT;
        if (fstatat(dirfd(job->listing), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue; /* gone since */
        if (++job->moved > ENTRIES_MOST)
            return E2BIG;
        put_entry(w, entry->d_name, &st);
        ++*count;
    }
    return 0;
}

static bool list_piece(struct job *job)
{
    /* 128 names of 255 bytes with their numbers stay below one frame's 64 KiB. */
    const size_t most = 4 + NAMES_AT_ONCE * (NAME_MAX + 33);
    uint32_t count = 0;
    uint8_t *at = out_takes_bulk(&session.out) ? out_open(&session.out, most) : NULL;
    if (!at)
        return false;
    struct writer w = writer_of(at, most);
    put_u32(&w, 0);
    int error = fill_entries(job, &w, &count);
    struct writer head = writer_of(at, 4);
    put_u32(&head, count);
    if (count > 0 && error != E2BIG)
        out_close(&session.out, job->channel->id, ENTRIES, written(&w));
    if (error == 0)
        return true;
    if (error == ENOENT)
        done(job->channel, NULL);
    else
        fail(job, error);
    return false;
}

/* --- making, removing, renaming --- */

static void make_directory(struct channel *channel, const struct file_request *request)
{
    struct job owner = {0};
    char buffer[PATH_MAX];
    const char *name;
    bool parents = request->flags & MKDIR_PARENTS;
    int error = request->flags & ~(uint32_t)MKDIR_PARENTS ? EINVAL : find_owner(&owner, request->owner);
    if (error == 0 && parents)
        error = make_parents(request->path, owner.uid, owner.gid);
    if (error != 0) {
        answer(channel, error, request->path);
        return;
    }
    int parent = open_parent(request->path, &name, buffer, sizeof buffer);
    if (parent < 0) {
        answer(channel, errno == EBUSY ? (parents ? 0 : EEXIST) : errno, request->path);
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
    answer(channel, error, request->path);
}

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

static void remove_file(struct channel *channel, const struct file_request *request)
{
    char buffer[PATH_MAX];
    const char *name;
    int parent = open_parent(request->path, &name, buffer, sizeof buffer);
    int error = request->flags & ~(uint32_t)REMOVE_TREE ? EINVAL : parent < 0 ? errno : remove_name(parent, name);
    if (error != ENOTEMPTY || !(request->flags & REMOVE_TREE)) {
        if (parent >= 0)
            close(parent);
        answer(channel, error, request->path);
        return;
    }
    struct job *job = begin(channel, REMOVE, request->path);
    if (!job) {
        close(parent);
        return;
    }
    job->fd = parent;
    job->levels = calloc(DEPTH_MOST, sizeof *job->levels);
    error = job->levels ? enter(job, parent, name) : ENOMEM;
    if (error != 0)
        fail(job, error);
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

static bool remove_piece(struct job *job)
{
    for (int i = 0; i < NAMES_AT_ONCE; i++) {
        int error = remove_next(job);
        if (error != 0) {
            fail(job, error);
            return false;
        }
        if (job->depth == 0) {
            done(job->channel, NULL);
            return false;
        }
    }
    return true;
}

/* --- the jobs --- */

static bool piece(struct job *job)
{
    switch (job->kind) {
    case READ:
        return read_piece(job);
    case LIST:
        return list_piece(job);
    case REMOVE:
        return remove_piece(job);
    default: /* driven by the host's frames */
        return false;
    }
}

bool files_step(void)
{
    bool more = false;
    for (struct job **at = &jobs; *at;) {
        struct job *job = *at;
        if (job->channel)
            more = piece(job) || more;
        if (job->channel) {
            at = &job->next;
            continue;
        }
        *at = job->next;
        release(job);
    }
    return more;
}

static void perform(struct channel *channel, uint8_t kind, const struct file_request *request)
{
    switch (kind) {
    case READ:
        read_file(channel, request);
        break;
    case WRITE:
        write_file(channel, request);
        break;
    case TAR_IN:
        tar_in(channel, request);
        break;
    case STAT:
        stat_file(channel, request->path);
        break;
    case LIST:
        list(channel, request->path);
        break;
    case MKDIR:
        make_directory(channel, request);
        break;
    case REMOVE:
        remove_file(channel, request);
        break;
    default:
        answer(channel, rename(request->path, request->to) == 0 ? 0 : errno, request->path);
        break;
    }
}

static int check_path(const char *path)
{
    if (path[0] != '/')
        return EINVAL;
    return strlen(path) < PATH_MAX - 64 ? 0 : ENAMETOOLONG;
}

bool files_open(struct channel *channel, uint8_t kind, uint8_t *bytes, size_t length)
{
    struct file_request request;
    if (!file_decode(&request, kind, bytes, length))
        return false;
    int error = check_path(request.path);
    if (error == 0 && kind == RENAME)
        error = check_path(request.to);
    if (error != 0)
        channel_fail(channel, error, "", request.path);
    else
        perform(channel, kind, &request);
    return true;
}
