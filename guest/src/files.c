#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "extract.h"
#include "job.h"
#include "listing.h"
#include "names.h"
#include "transfer.h"
#include "users.h"

static struct job *jobs;

/* --- beginnings and ends --- */

struct job *job_begin(struct channel *channel, uint8_t kind, const char *path)
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
    remove_forget(job);
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

void files_done(struct channel *channel, const struct writer *payload)
{
    out_frame(&session.out, channel->id, DONE, payload);
    channel_close(channel);
}

void files_answer(struct channel *channel, int error, const char *path)
{
    if (error != 0)
        channel_fail(channel, error, "", path);
    else
        files_done(channel, NULL);
}

void job_fail(struct job *job, int error)
{
    channel_fail(job->channel, error, "", job->path);
}

int find_owner(struct job *job, const char *owner)
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

/* --- frames of a running job --- */

bool files_frame(struct job *job, const struct frame *frame)
{
    bool takes_data = job->kind == WRITE || job->kind == TAR_IN;
    if (frame->kind == DATA && takes_data) {
        transfer_data(job, frame);
        return true;
    }
    if (frame->length != 0)
        return false;
    if (frame->kind == CANCEL) {
        job_fail(job, ECANCELED);
        return true;
    }
    if (frame->kind != END || !takes_data)
        return false;
    transfer_end(job);
    return true;
}

/* --- requests --- */

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
        list_directory(channel, request->path);
        break;
    case MKDIR:
        make_directory(channel, request);
        break;
    case REMOVE:
        remove_file(channel, request);
        break;
    default:
        files_answer(channel, rename(request->path, request->to) == 0 ? 0 : errno, request->path);
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
