/* A file request that goes on piece by piece, and what all file requests are answered with; in files.c. */
#ifndef AK_JOB_H
#define AK_JOB_H

#include <dirent.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "payload.h"
#include "session.h"

/* Names removed or listed before other channels get their turn. */
#define NAMES_AT_ONCE 128

struct extract;
struct level;

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
    int depth;
    struct level *levels; /* REMOVE: the directories it is in */
};

/* The job is on the channel; NULL, with the channel failed, when there is no memory. */
struct job *job_begin(struct channel *channel, uint8_t kind, const char *path);
/* FAILED with the job's path; the job is over. */
void job_fail(struct job *job, int error);
/* DONE, and the channel is closed. */
void files_done(struct channel *channel, const struct writer *payload);
/* The answer of requests that are carried out at once. */
void files_answer(struct channel *channel, int error, const char *path);
/* Who is to own what the job makes. Returns 0 or an errno. */
int find_owner(struct job *job, const char *owner);

#endif
