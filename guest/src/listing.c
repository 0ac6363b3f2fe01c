#include "listing.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "paths.h"

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

void stat_file(struct channel *channel, const char *path)
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
    files_done(channel, &w);
}

void list_directory(struct channel *channel, const char *path)
{
    struct job *job = job_begin(channel, LIST, path);
    if (!job)
        return;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
    job->listing = fd < 0 ? NULL : fdopendir(fd);
    if (job->listing)
        return;
    int error = errno;
    if (fd >= 0)
        close(fd);
    job_fail(job, error);
}

struct dirent *next_entry(DIR *directory)
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

bool list_piece(struct job *job)
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
        files_done(job->channel, NULL);
    else
        job_fail(job, error);
    return false;
}
