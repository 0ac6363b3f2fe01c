/* One input against every parser that sees a peer's bytes. The first byte chooses, the second says in what pieces they arrive. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "link.h"
#include "out.h"
#include "payload.h"
#include "tar.h"
#include "users.h"

#define INPUT_MOST (512u * 1024u)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct link the_link;
static struct out the_out;
static struct tar the_tar;

static void must(int right)
{
    if (!right)
        abort();
}

/* A copy of exactly that size, so that the sanitizer sees one byte too many. */
static uint8_t *exact(const uint8_t *bytes, size_t length)
{
    uint8_t *copy = malloc(length > 0 ? length : 1);
    must(copy != NULL);
    if (length > 0)
        memcpy(copy, bytes, length);
    return copy;
}

static void decode(uint8_t kind, const uint8_t *bytes, size_t length)
{
    uint8_t *copy = exact(bytes, length);
    struct hello hello;
    struct mount_request mount;
    struct exec_request exec;
    struct file_request file;
    if (kind == HELLO) {
        if (hello_decode(&hello, copy, length) && hello.generation == GENERATION)
            must(strlen(hello.hostname) < length);
    } else if (kind == MOUNT) {
        if (mount_decode(&mount, copy, length)) {
            for (uint32_t i = 0; i < mount.count; i++)
                must(strlen(mount.pairs[i]) < length);
            free(mount.pairs);
        }
    } else if (kind == EXEC) {
        if (exec_decode(&exec, copy, length)) {
            for (uint32_t i = 0; i < exec.argc; i++)
                must(strlen(exec.argv[i]) < length);
            must(exec.argv[exec.argc] == NULL && exec.env[exec.envc + EXTRA_ENV] == NULL);
            exec_request_free(&exec);
        }
    } else if (file_decode(&file, kind, copy, length)) {
        must(strlen(file.path) < length);
    }
    free(copy);
}

/* Answers some of what arrives, so that the outgoing queue meets every order of events too. */
static void react(enum link_event event, const struct frame *frame)
{
    const uint8_t *bytes;
    size_t count;
    if (event == LINK_BEGINS)
        out_echo(&the_out, the_link.epoch);
    if (event == LINK_LOST)
        out_drop(&the_out);
    if (event == LINK_FRAME) {
        must(frame->length <= PAYLOAD_MOST);
        if (frame->kind == PING && out_takes_answers(&the_out)) {
            struct writer w = writer_of(frame->payload, frame->length);
            w.at = w.end;
            out_frame(&the_out, frame->channel, PONG, &w);
        }
        if (frame->kind == QUIESCE && !the_out.quiet && out_takes_answers(&the_out))
            out_quiesce(&the_out);
        if (frame->kind == RESUME)
            out_resume(&the_out);
        if (frame->kind == KILL)
            link_lose(&the_link);
        decode(frame->kind, frame->payload, frame->length);
    }
    count = out_peek(&the_out, &bytes);
    out_wrote(&the_out, count > 0 ? count - count / 3 : 0);
}

static void fuzz_link(const uint8_t *data, size_t size, size_t step)
{
    struct frame frame;
    static const uint8_t epoch[EPOCH_BYTES] = {1, 2, 3, 4};
    uint8_t *where;
    link_reset(&the_link);
    out_reset(&the_out);
    link_space(&the_link, &where);
    record_make(where, MAGIC_ATTACH, epoch);
    link_fed(&the_link, RECORD_BYTES);
    while (size > 0) {
        size_t space = link_space(&the_link, &where);
        size_t piece = size < step ? size : step;
        if (piece > space)
            piece = space;
        must(piece > 0); /* a parser that waits must leave room, else nothing would ever move again */
        memcpy(where, data, piece);
        link_fed(&the_link, piece);
        data += piece;
        size -= piece;
        enum link_event event;
        while ((event = link_next(&the_link, &frame)) != LINK_WAITS)
            react(event, &frame);
    }
}

static void fuzz_tar(const uint8_t *data, size_t size, size_t step)
{
    tar_reset(&the_tar);
    while (size > 0) {
        size_t piece = size < step ? size : step;
        uint8_t *copy = exact(data, piece);
        const uint8_t *at = copy;
        const uint8_t *content = NULL;
        size_t rest = piece;
        size_t length = 0;
        enum tar_event event;
        while ((event = tar_next(&the_tar, &at, &rest, &content, &length)) != TAR_WAITS && event != TAR_WRONG) {
            must(strlen(the_tar.name) < sizeof the_tar.name && strlen(the_tar.link) < sizeof the_tar.link);
            if (event == TAR_DATA)
                must(content >= copy && content + length <= copy + piece);
            if (event == TAR_MEMBER) {
                char name[TAR_NAME_BYTES];
                memcpy(name, the_tar.name, sizeof name);
                char *clean = tar_clean_path(name);
                must(!clean || (*clean != '/' && !strstr(clean, "/../") && strncmp(clean, "../", 3) != 0));
            }
        }
        free(copy);
        if (event == TAR_WRONG)
            return;
        must(rest == 0);
        data += piece;
        size -= piece;
    }
}

static void fuzz_users(const uint8_t *data, size_t size, size_t step)
{
    struct user user;
    char wanted[16];
    size_t half = size / 2;
    size_t length = step < sizeof wanted ? step : sizeof wanted - 1;
    if (length > size)
        length = size;
    memcpy(wanted, data, length);
    wanted[length] = 0;
    uint8_t *passwd = exact(data, half);
    uint8_t *group = exact(data + half, size - half);
    user_find(&user, wanted, (struct text){(char *)passwd, half}, (struct text){(char *)group, size - half});
    user_find(&user, "a", (struct text){(char *)passwd, half}, (struct text){(char *)group, size - half});
    must(user.group_count <= GROUPS_MOST);
    free(passwd);
    free(group);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > INPUT_MOST)
        return 0;
    size_t step = data[1] == 0 ? size : data[1];
    switch (data[0] & 3) {
    case 0:
        fuzz_link(data + 2, size - 2, step);
        break;
    case 1:
        fuzz_tar(data + 2, size - 2, step);
        break;
    case 2:
        fuzz_users(data + 2, size - 2, step);
        break;
    default:
        decode(data[1], data + 2, size - 2);
        break;
    }
    return 0;
}
