/* user_lookup: the files behind users.c. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "paths.h"
#include "place.h"
#include "users.h"

/* Enough for thousands of users; what lies beyond is not looked at. */
#define DATABASE_BYTES (256u * 1024u)

/* A file's times are those of a clock that ticks: what changed so lately may change once more and look the same. */
#define SETTLED_S 2

/* Read once and again when it has changed: a system call is dear in gVisor. Not from the heap: pages that were used once stay, and mapping new
 * ones for each command is dear too. */
struct database {
    const char *path;
    size_t length;
    bool settled;
    struct stat seen;
    char bytes[DATABASE_BYTES];
};

static struct database passwd = {.path = "/etc/passwd"};
static struct database group = {.path = "/etc/group"};

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
           a->st_ctim.tv_nsec == b->st_ctim.tv_nsec && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static struct text load(struct database *database)
{
    struct stat now;
    if (stat(database->path, &now) != 0)
        return (struct text){NULL, 0};
    if (!database->settled || !is_same(&database->seen, &now)) {
        database->seen = now; /* of before the reading: a change meanwhile is one that the next look finds */
        database->settled = time(NULL) - now.st_ctim.tv_sec >= SETTLED_S;
        database->length = file_load(database->path, database->bytes, DATABASE_BYTES);
    }
    return (struct text){database->bytes, database->length};
}

int user_lookup(struct user *user, const char *wanted)
{
    /* An agent without root cannot change users, so "the usual user" is itself. */
    char itself[16];
    if (wanted[0] == 0 && !place.root)
        wanted = decimal(itself, geteuid());
    if (!user_find(user, wanted, load(&passwd), load(&group)))
        return ENOENT;
    return !place.root && user->uid != geteuid() ? EPERM : 0;
}
