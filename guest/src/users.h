/* Who a command runs as, from the text of passwd and group. Static glibc cannot load NSS modules, so getpwnam is no choice. */
#ifndef AK_USERS_H
#define AK_USERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GROUPS_MOST 64u
#define USER_NAME_BYTES 64u
#define HOME_BYTES 1024u
#define SANDBOX_ID 1000u

struct user {
    uint32_t uid;
    uint32_t gid;
    uint32_t groups[GROUPS_MOST];
    size_t group_count;
    char name[USER_NAME_BYTES];
    char home[HOME_BYTES];
};

struct text {
    const char *at;
    size_t length;
};

/* `wanted`: a name, uid, uid:gid, or empty for uid 1000. False when a name is unknown or a number is none. */
bool user_find(struct user *user, const char *wanted, struct text passwd, struct text group);
/* The same, reading /etc/passwd and /etc/group. Returns 0 or an errno. */
int user_lookup(struct user *user, const char *wanted);

#endif
