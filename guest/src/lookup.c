/* user_lookup: the files behind users.c. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "paths.h"
#include "users.h"

/* Enough for thousands of users; what lies beyond is not looked at. */
#define DATABASE_BYTES (256u * 1024u)

static struct text load(const char *path, char *buffer)
{
    return (struct text){buffer, file_load(path, buffer, DATABASE_BYTES)};
}

int user_lookup(struct user *user, const char *wanted)
{
    char *passwd = malloc(DATABASE_BYTES);
    char *group = malloc(DATABASE_BYTES);
    int error = ENOMEM;
    if (passwd && group) {
        /* An agent without root cannot change users, so "the usual user" is itself. */
        char itself[16];
        if (wanted[0] == 0 && geteuid() != 0)
            wanted = decimal(itself, geteuid());
        error = user_find(user, wanted, load("/etc/passwd", passwd), load("/etc/group", group)) ? 0 : ENOENT;
    }
    free(passwd);
    free(group);
    if (error == 0 && geteuid() != 0 && user->uid != geteuid())
        return EPERM;
    return error;
}
