#include "payload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"

struct reader reader_of(uint8_t *bytes, size_t length)
{
    return (struct reader){.at = bytes, .end = bytes + length, .wrong = false};
}

const uint8_t *take_exactly(struct reader *r, size_t length)
{
    if (r->wrong || (size_t)(r->end - r->at) < length) {
        r->wrong = true;
        return NULL;
    }
    const uint8_t *at = r->at;
    r->at += length;
    return at;
}

uint8_t take_u8(struct reader *r)
{
    const uint8_t *at = take_exactly(r, 1);
    return at ? *at : 0;
}

uint32_t take_u32(struct reader *r)
{
    const uint8_t *at = take_exactly(r, 4);
    return at ? get_u32(at) : 0;
}

uint64_t take_u64(struct reader *r)
{
    const uint8_t *at = take_exactly(r, 8);
    return at ? get_u64(at) : 0;
}

char *take_str(struct reader *r)
{
    uint32_t length = take_u32(r);
    uint8_t *at = r->at;
    if (!take_exactly(r, length))
        return NULL;
    if (memchr(at, 0, length)) {
        r->wrong = true;
        return NULL;
    }
    memmove(at - 1, at, length);
    at[(ptrdiff_t)length - 1] = 0;
    return (char *)(at - 1);
}

uint32_t take_count(struct reader *r, size_t least)
{
    uint32_t count = take_u32(r);
    if (r->wrong || count > (size_t)(r->end - r->at) / least) {
        r->wrong = true;
        return 0;
    }
    return count;
}

bool taken_exactly(const struct reader *r)
{
    return !r->wrong && r->at == r->end;
}

struct writer writer_of(uint8_t *bytes, size_t most)
{
    return (struct writer){.begin = bytes, .at = bytes, .end = bytes + most, .full = false};
}

static uint8_t *room(struct writer *w, size_t length)
{
    if (w->full || (size_t)(w->end - w->at) < length) {
        w->full = true;
        return NULL;
    }
    uint8_t *at = w->at;
    w->at += length;
    return at;
}

void put_u8(struct writer *w, uint8_t value)
{
    uint8_t *at = room(w, 1);
    if (at)
        *at = value;
}

void put_u32(struct writer *w, uint32_t value)
{
    uint8_t *at = room(w, 4);
    if (at)
        set_u32(at, value);
}

void put_u64(struct writer *w, uint64_t value)
{
    uint8_t *at = room(w, 8);
    if (at)
        set_u64(at, value);
}

void put_str(struct writer *w, const char *text)
{
    size_t length = strlen(text);
    uint8_t *at = room(w, 4 + length);
    if (at) {
        set_u32(at, (uint32_t)length);
        memcpy(at + 4, text, length);
    }
}

size_t written(const struct writer *w)
{
    return (size_t)(w->at - w->begin);
}

bool hello_decode(struct hello *hello, uint8_t *bytes, size_t length)
{
    struct reader r = reader_of(bytes, length);
    hello->generation = take_u32(&r);
    /* Only the first field is promised to stay where it is: a later generation may say more. */
    if (!r.wrong && hello->generation != GENERATION)
        return true;
    hello->entropy = take_exactly(&r, ENTROPY_BYTES);
    hello->clock_ns = take_u64(&r);
    hello->hostname = take_str(&r);
    hello->machine_id = take_exactly(&r, MACHINE_ID_BYTES);
    hello->pids = take_u32(&r);
    return taken_exactly(&r);
}

/* A list of strings as an array that ends with NULL; `extra` more places stay free. */
static char **take_list(struct reader *r, uint32_t *count, size_t extra)
{
    *count = take_count(r, 4);
    if (r->wrong)
        return NULL;
    char **list = calloc((size_t)*count + 1 + extra, sizeof *list);
    if (!list) {
        r->wrong = true;
        errno = ENOMEM;
        return NULL;
    }
    for (uint32_t i = 0; i < *count && !r->wrong; i++)
        list[i] = take_str(r);
    return list;
}

bool mount_decode(struct mount_request *request, uint8_t *bytes, size_t length)
{
    struct reader r = reader_of(bytes, length);
    errno = EBADMSG;
    request->serial = take_str(&r);
    request->filesystem = take_str(&r);
    request->owner = take_u32(&r);
    request->pairs = take_list(&r, &request->count, 0);
    if (taken_exactly(&r))
        return true;
    free(request->pairs);
    request->pairs = NULL;
    return false;
}

static void take_limits(struct reader *r, struct exec_request *request)
{
    request->limit_count = take_count(r, 20);
    if (r->wrong || request->limit_count == 0)
        return;
    request->limits = calloc(request->limit_count, sizeof *request->limits);
    if (!request->limits) {
        r->wrong = true;
        errno = ENOMEM;
        return;
    }
    for (uint32_t i = 0; i < request->limit_count; i++) {
        request->limits[i].resource = take_u32(r);
        request->limits[i].soft = take_u64(r);
        request->limits[i].hard = take_u64(r);
    }
}

bool exec_decode(struct exec_request *request, uint8_t *bytes, size_t length)
{
    struct reader r = reader_of(bytes, length);
    memset(request, 0, sizeof *request);
    errno = EBADMSG;
    request->flags = take_u32(&r);
    request->rows = take_u32(&r);
    request->columns = take_u32(&r);
    request->argv = take_list(&r, &request->argc, 0);
    request->env = take_list(&r, &request->envc, EXTRA_ENV);
    request->cwd = take_str(&r);
    request->user = take_str(&r);
    take_limits(&r, request);
    if (taken_exactly(&r))
        return true;
    exec_request_free(request);
    return false;
}

void exec_request_free(struct exec_request *request)
{
    free(request->argv);
    free(request->env);
    free(request->limits);
    request->argv = request->env = NULL;
    request->limits = NULL;
}

bool file_decode(struct file_request *request, uint8_t kind, uint8_t *bytes, size_t length)
{
    struct reader r = reader_of(bytes, length);
    memset(request, 0, sizeof *request);
    request->path = take_str(&r);
    switch (kind) {
    case READ:
        request->offset = take_u64(&r);
        request->most = take_u64(&r);
        break;
    case WRITE:
    case MKDIR:
        request->mode = take_u32(&r);
        request->flags = take_u32(&r);
        request->owner = take_str(&r);
        break;
    case TAR_IN:
        request->flags = take_u32(&r);
        request->owner = take_str(&r);
        break;
    case REMOVE:
        request->flags = take_u32(&r);
        break;
    case RENAME:
        request->to = take_str(&r);
        break;
    default: /* STAT, LIST: the path alone */
        break;
    }
    return taken_exactly(&r);
}

bool kind_on_control(uint8_t kind)
{
    return kind >= HELLO && kind <= MOUNT;
}

bool kind_on_channel(uint8_t kind)
{
    return (kind >= PART && kind <= CREDIT) || (kind >= READ && kind <= RENAME) || (kind >= DATA && kind <= CANCEL);
}
