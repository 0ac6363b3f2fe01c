#include "tar.h"

#include <errno.h>
#include <string.h>

/* Offsets of a ustar header (POSIX.1-2017, pax, "ustar Interchange Format"). */
enum {
    AT_NAME = 0,
    AT_MODE = 100,
    AT_SIZE = 124,
    AT_MTIME = 136,
    AT_CHECKSUM = 148,
    AT_TYPE = 156,
    AT_LINK = 157,
    AT_MAGIC = 257,
    AT_PREFIX = 345,
};

void tar_reset(struct tar *tar)
{
    memset(tar, 0, sizeof *tar);
    tar->phase = TAR_HEADER;
}

static enum tar_event wrong(struct tar *tar, int error)
{
    tar->phase = TAR_BROKEN;
    tar->error = error;
    return TAR_WRONG;
}

/* Octal digits, or GNU's base-256 with the top bit set. */
static bool parse_number(const uint8_t *field, size_t length, uint64_t *value)
{
    uint64_t sum = 0;
    size_t i = 0;
    if (field[0] & 0x80) {
        if (field[0] != 0x80)
            return false; /* negative, or beyond 64 bits */
        for (i = 1; i < length; i++) {
            if (sum >> 55)
                return false;
            sum = sum << 8 | field[i];
        }
        *value = sum;
        return true;
    }
    while (i < length && field[i] == ' ')
        i++;
    for (; i < length && field[i] >= '0' && field[i] <= '7'; i++)
        sum = sum << 3 | (uint64_t)(field[i] - '0');
    for (; i < length; i++)
        if (field[i] != ' ' && field[i] != 0)
            return false;
    *value = sum;
    return true;
}

static bool checksum_matches(const uint8_t *block)
{
    uint64_t told;
    uint64_t sum = 0;
    if (!parse_number(block + AT_CHECKSUM, 8, &told))
        return false;
    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += i >= AT_CHECKSUM && i < AT_CHECKSUM + 8 ? ' ' : block[i];
    return sum == told;
}

static size_t copy_field(char *to, const uint8_t *field, size_t length)
{
    const uint8_t *end = memchr(field, 0, length);
    size_t used = end ? (size_t)(end - field) : length;
    memcpy(to, field, used);
    to[used] = 0;
    return used;
}

static void take_names(struct tar *tar)
{
    const uint8_t *block = tar->block;
    if (!tar->has_name) {
        size_t used = 0;
        /* GNU's magic is "ustar  ", and it keeps other things where the prefix would be. */
        if (memcmp(block + AT_MAGIC, "ustar\0", 6) == 0 && block[AT_PREFIX] != 0) {
            used = copy_field(tar->name, block + AT_PREFIX, 155);
            tar->name[used++] = '/';
        }
        copy_field(tar->name + used, block + AT_NAME, 100);
    }
    if (!tar->has_link)
        copy_field(tar->link, block + AT_LINK, 100);
}

static char type_of(const struct tar *tar, uint8_t flag)
{
    size_t length = strlen(tar->name);
    switch (flag) {
    case 0: /* before POSIX, a directory was a file whose name ends with a slash */
    case '0':
        return length > 0 && tar->name[length - 1] == '/' ? 'd' : 'f';
    case '7':
        return 'f';
    case '1':
        return 'h';
    case '2':
        return 'l';
    case '5':
        return 'd';
    default:
        return 'o';
    }
}

static bool is_extension(uint8_t flag)
{
    return flag == 'x' || flag == 'g' || flag == 'L' || flag == 'K';
}

static void expect_content(struct tar *tar, uint64_t size)
{
    tar->left = size;
    tar->padding = (uint32_t)((TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK);
    tar->phase = TAR_CONTENT;
}

static enum tar_event begin_extension(struct tar *tar, uint8_t flag, uint64_t size)
{
    if (size > TAR_EXTENSION_BYTES)
        return wrong(tar, EBADMSG);
    tar->extension_type = (char)flag;
    tar->have = 0;
    expect_content(tar, size);
    tar->phase = TAR_EXTENSION;
    return TAR_WAITS;
}

static enum tar_event begin_member(struct tar *tar)
{
    const uint8_t *block = tar->block;
    uint64_t mode;
    uint64_t size;
    uint64_t modified;
    static const uint8_t zeros[TAR_BLOCK];
    if (memcmp(block, zeros, TAR_BLOCK) == 0) {
        tar->phase = TAR_OVER;
        return TAR_WAITS;
    }
    if (!checksum_matches(block) || !parse_number(block + AT_SIZE, 12, &size) ||
        !parse_number(block + AT_MODE, 8, &mode))
        return wrong(tar, EBADMSG);
    if (is_extension(block[AT_TYPE]))
        return begin_extension(tar, block[AT_TYPE], size);
    if (!parse_number(block + AT_MTIME, 12, &modified) || modified > INT64_MAX)
        modified = 0;
    take_names(tar);
    tar->type = type_of(tar, block[AT_TYPE]);
    tar->mode = (uint32_t)(mode & 07777);
    tar->modified = (int64_t)modified;
    tar->size = tar->has_size ? tar->pax_size : size;
    if (tar->size > INT64_MAX)
        return wrong(tar, EBADMSG);
    tar->has_name = tar->has_link = tar->has_size = false;
    if (tar->type != 'f')
        tar->size = 0; /* POSIX: the size of links and directories says nothing about content */
    expect_content(tar, tar->size);
    tar->end_due = tar->type == 'f';
    return TAR_MEMBER;
}

static bool set_name(char *to, bool *has, const uint8_t *from, size_t length)
{
    if (length >= TAR_NAME_BYTES || memchr(from, 0, length))
        return false;
    memcpy(to, from, length);
    to[length] = 0;
    *has = true;
    return true;
}

static bool set_pax_size(struct tar *tar, const uint8_t *text, size_t length)
{
    uint64_t sum = 0;
    if (length == 0 || length > 18)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        sum = sum * 10 + (uint64_t)(text[i] - '0');
    }
    tar->pax_size = sum;
    tar->has_size = true;
    return true;
}

static bool is_key(const uint8_t *key, size_t length, const char *word)
{
    return length == strlen(word) && memcmp(key, word, length) == 0;
}

/* Records "LENGTH KEY=VALUE\n", where LENGTH counts itself. */
static bool parse_pax(struct tar *tar, const uint8_t *at, size_t length)
{
    while (length > 0) {
        size_t told = 0;
        size_t i = 0;
        for (; i < length && i < 6 && at[i] >= '0' && at[i] <= '9'; i++)
            told = told * 10 + (size_t)(at[i] - '0');
        if (i == 0 || i >= length || at[i] != ' ' || told > length || told < i + 3 || at[told - 1] != '\n')
            return false;
        const uint8_t *key = at + i + 1;
        size_t rest = told - i - 2;
        const uint8_t *equals = memchr(key, '=', rest);
        if (!equals)
            return false;
        size_t key_length = (size_t)(equals - key);
        const uint8_t *value = equals + 1;
        size_t value_length = rest - key_length - 1;
        if (is_key(key, key_length, "path") && !set_name(tar->name, &tar->has_name, value, value_length))
            return false;
        if (is_key(key, key_length, "linkpath") && !set_name(tar->link, &tar->has_link, value, value_length))
            return false;
        if (is_key(key, key_length, "size") && !set_pax_size(tar, value, value_length))
            return false;
        at += told;
        length -= told;
    }
    return true;
}

static bool use_extension(struct tar *tar)
{
    size_t length = tar->have;
    tar->have = 0;
    switch (tar->extension_type) {
    case 'x':
        return parse_pax(tar, tar->extension, length);
    case 'L':
    case 'K':
        while (length > 0 && tar->extension[length - 1] == 0)
            length--; /* GNU counts the final NUL */
        return tar->extension_type == 'L' ? set_name(tar->name, &tar->has_name, tar->extension, length)
                                          : set_name(tar->link, &tar->has_link, tar->extension, length);
    default: /* g: defaults for the archive, none of which is about a path of one member */
        return true;
    }
}

static size_t at_most(size_t have, uint64_t most)
{
    return have < most ? have : (size_t)most;
}

static void advance(const uint8_t **bytes, size_t *length, size_t step)
{
    *bytes += step;
    *length -= step;
}

/* Collects into `buffer` what is still missing of it. */
static size_t collect(struct tar *tar, uint8_t *buffer, uint64_t missing, const uint8_t **bytes, size_t *length)
{
    size_t step = at_most(*length, missing);
    if (step > 0)
        memcpy(buffer + tar->have, *bytes, step);
    tar->have += step;
    advance(bytes, length, step);
    return step;
}

enum tar_event tar_next(struct tar *tar, const uint8_t **bytes, size_t *length, const uint8_t **data, size_t *data_length)
{
    for (;;) {
        size_t step;
        enum tar_event event;
        switch (tar->phase) {
        case TAR_BROKEN:
            return TAR_WRONG;
        case TAR_OVER: /* whatever pads the archive to its record size */
            advance(bytes, length, *length);
            return TAR_WAITS;
        case TAR_HEADER:
            collect(tar, tar->block, TAR_BLOCK - tar->have, bytes, length);
            if (tar->have < TAR_BLOCK)
                return TAR_WAITS;
            tar->have = 0;
            event = begin_member(tar);
            if (event != TAR_WAITS)
                return event;
            break;
        case TAR_EXTENSION:
            tar->left -= collect(tar, tar->extension, tar->left, bytes, length);
            if (tar->left > 0)
                return TAR_WAITS;
            if (!use_extension(tar))
                return wrong(tar, EBADMSG);
            tar->phase = TAR_PADDING;
            break;
        case TAR_CONTENT:
            if (tar->left == 0) {
                tar->phase = TAR_PADDING;
                if (tar->end_due) {
                    tar->end_due = false;
                    return TAR_MEMBER_END;
                }
                break;
            }
            if (*length == 0)
                return TAR_WAITS;
            step = at_most(*length, tar->left);
            *data = *bytes;
            *data_length = step;
            tar->left -= step;
            advance(bytes, length, step);
            return TAR_DATA;
        case TAR_PADDING:
            step = at_most(*length, tar->padding);
            tar->padding -= (uint32_t)step;
            advance(bytes, length, step);
            if (tar->padding > 0)
                return TAR_WAITS;
            tar->phase = TAR_HEADER;
            break;
        }
    }
}

bool tar_complete(const struct tar *tar)
{
    return tar->phase == TAR_OVER;
}

char *tar_clean_path(char *path)
{
    if (path[0] == 0 || path[0] == '/')
        return NULL;
    char *to = path;
    char *from = path;
    /* Joins the components again without "." and doubled slashes; the result is never longer. */
    while (*from != 0) {
        size_t length = strcspn(from, "/");
        if (length == 2 && from[0] == '.' && from[1] == '.')
            return NULL;
        if (length > 0 && !(length == 1 && from[0] == '.')) {
            if (to != path)
                *to++ = '/';
            memmove(to, from, length);
            to += length;
        }
        from += length;
        while (*from == '/')
            from++;
    }
    *to = 0;
    return path;
}
