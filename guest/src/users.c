#include "users.h"

#include <string.h>

struct field {
    const char *at;
    size_t length;
};

/* The next line, without its end; false when there is none. */
static bool next_line(struct text *rest, struct field *line)
{
    if (rest->length == 0)
        return false;
    const char *end = memchr(rest->at, '\n', rest->length);
    line->at = rest->at;
    line->length = end ? (size_t)(end - rest->at) : rest->length;
    size_t used = line->length + (end ? 1 : 0);
    rest->at += used;
    rest->length -= used;
    return true;
}

static size_t split(struct field line, char separator, struct field *fields, size_t most)
{
    size_t count = 0;
    while (count < most) {
        const char *end = memchr(line.at, separator, line.length);
        size_t length = end ? (size_t)(end - line.at) : line.length;
        fields[count++] = (struct field){line.at, length};
        if (!end)
            break;
        line.at += length + 1;
        line.length -= length + 1;
    }
    return count;
}

static bool number(struct field text, uint32_t *value)
{
    uint64_t sum = 0;
    if (text.length == 0 || text.length > 10)
        return false;
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
        sum = sum * 10 + (uint64_t)(text.at[i] - '0');
    }
    /* (uid_t)-1 means "leave it" to setresuid, so it is nobody's number. */
    if (sum >= UINT32_MAX)
        return false;
    *value = (uint32_t)sum;
    return true;
}

static bool same(struct field text, const char *word)
{
    return text.length == strlen(word) && memcmp(text.at, word, text.length) == 0;
}

static bool copy(char *to, size_t room, struct field from)
{
    if (from.length >= room || memchr(from.at, 0, from.length))
        return false;
    memcpy(to, from.at, from.length);
    to[from.length] = 0;
    return true;
}

/* The passwd line with that name, or with that uid when name is NULL. */
static bool find_line(struct user *user, struct text passwd, const char *name, uint32_t uid)
{
    struct field line;
    struct field f[7];
    while (next_line(&passwd, &line)) {
        uint32_t its_uid;
        uint32_t its_gid;
        if (split(line, ':', f, 7) < 7 || !number(f[2], &its_uid) || !number(f[3], &its_gid))
            continue;
        if (name ? !same(f[0], name) : its_uid != uid)
            continue;
        if (!copy(user->name, sizeof user->name, f[0]) || !copy(user->home, sizeof user->home, f[5]))
            continue;
        user->uid = its_uid;
        user->gid = its_gid;
        return true;
    }
    return false;
}

static void join_groups(struct user *user, struct text group)
{
    struct field line;
    struct field f[4];
    user->groups[user->group_count++] = user->gid; /* as initgroups(3) does */
    while (user->group_count < GROUPS_MOST && next_line(&group, &line)) {
        uint32_t gid;
        if (split(line, ':', f, 4) < 4 || !number(f[2], &gid) || gid == user->gid)
            continue;
        struct field rest = f[3];
        struct field member;
        for (bool more = rest.length > 0; more;) {
            more = split(rest, ',', &member, 1) == 1 && member.length < rest.length;
            if (same(member, user->name)) {
                user->groups[user->group_count++] = gid;
                break;
            }
            if (more) {
                rest.at += member.length + 1;
                rest.length -= member.length + 1;
            }
        }
    }
}

static void unknown(struct user *user, uint32_t uid)
{
    char digits[11];
    size_t at = sizeof digits;
    uint32_t rest = uid;
    user->uid = user->gid = uid;
    if (uid == SANDBOX_ID) {
        memcpy(user->name, "sandbox", sizeof "sandbox");
        memcpy(user->home, "/home/sandbox", sizeof "/home/sandbox");
        return;
    }
    digits[--at] = 0;
    do
        digits[--at] = (char)('0' + rest % 10);
    while ((rest /= 10) > 0);
    memcpy(user->name, digits + at, sizeof digits - at);
    memcpy(user->home, "/", sizeof "/");
}

bool user_find(struct user *user, const char *wanted, struct text passwd, struct text group)
{
    struct field whole = {wanted, strlen(wanted)};
    struct field parts[2];
    uint32_t uid = SANDBOX_ID;
    uint32_t gid = 0;
    memset(user, 0, sizeof *user);
    if (memchr(wanted, ':', whole.length)) {
        if (split(whole, ':', parts, 2) != 2 || !number(parts[0], &uid) || !number(parts[1], &gid))
            return false;
        if (!find_line(user, passwd, NULL, uid))
            unknown(user, uid);
        user->gid = user->groups[user->group_count++] = gid; /* who names a group gets that one and no others */
        return true;
    }
    if (whole.length == 0 || number(whole, &uid)) {
        if (!find_line(user, passwd, NULL, uid))
            unknown(user, uid);
    } else if (!find_line(user, passwd, wanted, 0)) {
        return false;
    }
    join_groups(user, group);
    return true;
}
