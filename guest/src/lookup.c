/* user_lookup: the files behind users.c. */
#include <errno.h>
#include <unistd.h>

#include "paths.h"
#include "users.h"

/* Enough for thousands of users; what lies beyond is not looked at. */
#define DATABASE_BYTES (256u * 1024u)

/* Not from the heap: pages that were used once stay, and mapping new ones for each command is dear in gVisor. */
static char passwd[DATABASE_BYTES];
static char group[DATABASE_BYTES];

static struct text load(const char *path, char *buffer)
{
    return (struct text){buffer, file_load(path, buffer, DATABASE_BYTES)};
}

int user_lookup(struct user *user, const char *wanted)
{
    /* An agent without root cannot change users, so "the usual user" is itself. */
    char itself[16];
    if (wanted[0] == 0 && geteuid() != 0)
        wanted = decimal(itself, geteuid());
    if (!user_find(user, wanted, load("/etc/passwd", passwd), load("/etc/group", group)))
        return ENOENT;
    return geteuid() != 0 && user->uid != geteuid() ? EPERM : 0;
}
