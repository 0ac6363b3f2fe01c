/* Holds the parsers against guest/vectors (see README.md there). Usage: vectors FILE... */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "kinds.h"
#include "link.h"
#include "payload.h"

#define LINE_BYTES 262144u
#define RAW_BYTES 131072u
#define WORDS_MOST 64

static int failures;
static int cases;
static char *words[WORDS_MOST];
static size_t word_count;
static uint8_t raw[RAW_BYTES];
static uint8_t made[RAW_BYTES];
static uint8_t copy[RAW_BYTES];
static struct link the_link;

static void check(bool right, const char *what)
{
    if (right)
        return;
    failures++;
    fprintf(stderr, "wrong: %s (%s %s %s)\n", what, words[0], word_count > 1 ? words[1] : "", word_count > 2 ? words[2] : "");
}

static size_t unhex(const char *text, uint8_t *to)
{
    size_t length = 0;
    if (strcmp(text, "-") == 0)
        return 0;
    for (; text[0] && text[1] && length < RAW_BYTES; text += 2) {
        char pair[3] = {text[0], text[1], 0};
        to[length++] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return length;
}

/* --- fields --- */

/* Decodes %XX in place, up to a separator or the end; returns where it stopped. */
static char *unquote(char *text, char separator, char **rest)
{
    char *to = text;
    char *from = text;
    while (*from && *from != separator) {
        if (*from == '%' && from[1] && from[2]) {
            char pair[3] = {from[1], from[2], 0};
            *to++ = (char)strtoul(pair, NULL, 16);
            from += 3;
        } else {
            *to++ = *from++;
        }
    }
    *rest = *from ? from + 1 : from;
    *to = 0;
    return text;
}

static void put_entry_text(struct writer *w, char *text, char **rest)
{
    char *at;
    put_str(w, unquote(text, '|', &at));
    put_u8(w, (uint8_t)*at);
    at += 2;
    put_u32(w, (uint32_t)strtoul(at, &at, 10));
    put_u64(w, strtoull(at + 1, &at, 10));
    put_u64(w, strtoull(at + 1, &at, 10));
    put_u32(w, (uint32_t)strtoul(at + 1, &at, 10));
    put_u32(w, (uint32_t)strtoul(at + 1, &at, 10));
    *rest = *at ? at + 1 : at;
}

static void put_items(struct writer *w, const char *type, char *value)
{
    char *at = value;
    uint32_t count = (uint32_t)strtoul(at, &at, 10);
    at += *at == ',';
    put_u32(w, count);
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(type, "list") == 0) {
            char *item = at;
            put_str(w, unquote(item, ',', &at));
        } else if (strcmp(type, "limits") == 0) {
            put_u32(w, (uint32_t)strtoul(at, &at, 10));
            put_u64(w, strtoull(at + 1, &at, 10));
            put_u64(w, strtoull(at + 1, &at, 10));
            at += *at == ',';
        } else {
            put_entry_text(w, at, &at);
        }
    }
}

static void put_field(struct writer *w, const char *type, char *value)
{
    char *rest;
    uint8_t bytes[1024];
    if (strcmp(type, "u8") == 0) {
        put_u8(w, (uint8_t)strtoul(value, NULL, 10));
    } else if (strcmp(type, "u32") == 0) {
        put_u32(w, (uint32_t)strtoul(value, NULL, 10));
    } else if (strcmp(type, "u64") == 0) {
        put_u64(w, strtoull(value, NULL, 10));
    } else if (strcmp(type, "str") == 0) {
        put_str(w, unquote(value, 0, &rest));
    } else if (strcmp(type, "entry") == 0) {
        put_entry_text(w, value, &rest);
    } else if (strcmp(type, "hex") == 0) {
        size_t length = strlen(value) <= 2 * sizeof bytes ? unhex(value, bytes) : 0;
        for (size_t i = 0; i < length; i++)
            put_u8(w, bytes[i]);
    } else {
        put_items(w, type, value);
    }
}

/* --- decoding what the host sends --- */

static bool decodes(uint8_t kind, const uint8_t *payload, size_t length)
{
    struct hello hello;
    struct mount_request mount;
    struct exec_request exec;
    struct file_request file;
    memcpy(copy, payload, length);
    if (kind == HELLO)
        return hello_decode(&hello, copy, length);
    if (kind == MOUNT) {
        bool right = mount_decode(&mount, copy, length);
        if (right)
            free(mount.pairs);
        return right;
    }
    if (kind == EXEC) {
        bool right = exec_decode(&exec, copy, length);
        if (right)
            exec_request_free(&exec);
        return right;
    }
    return file_decode(&file, kind, copy, length);
}

static bool has_decoder(uint8_t kind)
{
    return kind == HELLO || kind == MOUNT || kind == EXEC || (kind >= READ && kind <= RENAME);
}

/* Writes what exec_decode found; equal bytes mean that it found everything, where it was. */
static void check_exec(const uint8_t *payload, size_t length)
{
    struct exec_request exec;
    struct writer w = writer_of(made, sizeof made);
    memcpy(copy, payload, length);
    if (!exec_decode(&exec, copy, length)) {
        check(false, "EXEC is decoded");
        return;
    }
    put_u32(&w, exec.flags);
    put_u32(&w, exec.rows);
    put_u32(&w, exec.columns);
    put_u32(&w, exec.argc);
    for (uint32_t i = 0; i < exec.argc; i++)
        put_str(&w, exec.argv[i]);
    put_u32(&w, exec.envc);
    for (uint32_t i = 0; i < exec.envc; i++)
        put_str(&w, exec.env[i]);
    put_str(&w, exec.cwd);
    put_str(&w, exec.user);
    put_u32(&w, exec.limit_count);
    for (uint32_t i = 0; i < exec.limit_count; i++) {
        put_u32(&w, exec.limits[i].resource);
        put_u64(&w, exec.limits[i].soft);
        put_u64(&w, exec.limits[i].hard);
    }
    check(written(&w) == length && memcmp(made, payload, length) == 0, "EXEC's fields");
    check(exec.argv[exec.argc] == NULL && exec.env[exec.envc] == NULL, "EXEC's lists end with NULL");
    exec_request_free(&exec);
}

/* --- the link --- */

static void attach_with(const uint8_t *tag)
{
    uint8_t epoch[EPOCH_BYTES] = {0};
    uint8_t record[RECORD_BYTES];
    uint8_t *where;
    struct frame frame;
    memcpy(epoch, tag, TAG_BYTES);
    record_make(record, MAGIC_ATTACH, epoch);
    link_reset(&the_link);
    link_space(&the_link, &where);
    memcpy(where, record, sizeof record);
    link_fed(&the_link, sizeof record);
    check(link_next(&the_link, &frame) == LINK_BEGINS, "attaching");
}

/* Feeds in pieces of `step`; the last event that was not LINK_WAITS, or that. */
static enum link_event feed(const uint8_t *bytes, size_t length, size_t step, struct frame *frame)
{
    enum link_event event = LINK_WAITS;
    for (size_t at = 0; at < length && event == LINK_WAITS;) {
        uint8_t *where;
        size_t piece = length - at < step ? length - at : step;
        size_t space = link_space(&the_link, &where);
        if (piece > space)
            piece = space;
        memcpy(where, bytes + at, piece);
        link_fed(&the_link, piece);
        at += piece;
        event = link_next(&the_link, frame);
    }
    return event;
}

static const size_t steps[] = {1, 2, 3, 7, 15, 16, 17, 4096, RAW_BYTES};
#define STEP_COUNT (sizeof steps / sizeof *steps)

static void check_record(void)
{
    uint8_t epoch[RAW_BYTES / 1024];
    uint8_t record[RECORD_BYTES];
    struct frame frame;
    size_t length = unhex(words[2], raw);
    if (strcmp(words[0], "not-attach") == 0) {
        for (size_t i = 0; i < STEP_COUNT; i++) {
            link_reset(&the_link);
            check(feed(raw, length, steps[i], &frame) == LINK_WAITS && !the_link.attached, "hunting goes on");
        }
        return;
    }
    unhex(words[1], epoch);
    const char *magic = strcmp(words[0], "attach") == 0 ? MAGIC_ATTACH : MAGIC_ECHO;
    record_make(record, magic, epoch);
    check(length == sizeof record && memcmp(record, raw, length) == 0, "making the record");
    check(record_valid(raw, magic), "the record is valid");
    if (strcmp(words[0], "attach") != 0)
        return;
    for (size_t i = 0; i < STEP_COUNT; i++) {
        link_reset(&the_link);
        memmove(raw + 5, raw, i == 0 ? length : 0);
        memcpy(raw, "AKLIN", 5); /* a false beginning before the record */
        enum link_event event = feed(raw, length + 5, steps[i], &frame);
        check(event == LINK_BEGINS && memcmp(the_link.epoch, epoch, EPOCH_BYTES) == 0, "the epoch");
    }
}

static void check_frame(void)
{
    uint8_t tag[RAW_BYTES / 1024];
    struct frame frame;
    bool from_host = strcmp(words[0], "host") == 0;
    uint8_t kind = (uint8_t)strtoul(words[2], NULL, 10);
    uint32_t channel = (uint32_t)strtoul(words[3], NULL, 10);
    unhex(words[4], tag);
    size_t length = unhex(words[5], raw);
    struct writer w = writer_of(made, sizeof made);
    for (size_t i = 0; i < STEP_COUNT; i++) {
        attach_with(tag);
        check(feed(raw, length, steps[i], &frame) == LINK_FRAME, "it is a frame");
        check(frame.kind == kind && frame.channel == channel && frame.length == length - HEADER_BYTES &&
                  memcmp(frame.payload, raw + HEADER_BYTES, frame.length) == 0,
              "the frame's fields");
    }
    for (size_t i = 6; i < word_count; i++) {
        char *type = words[i];
        char *name = strchr(type, ':');
        char *value = strchr(type, '=');
        *name = 0;
        put_field(&w, type, value + 1);
    }
    uint8_t header[HEADER_BYTES];
    header_make(header, tag, (uint32_t)written(&w), channel, kind);
    check(memcmp(header, raw, HEADER_BYTES) == 0, "making the header");
    check(!w.full && memcmp(made, raw + HEADER_BYTES, written(&w)) == 0, "making the payload");
    if (!from_host)
        return;
    check(channel == 0 ? kind_on_control(kind) : kind_on_channel(kind), "a kind that the host may send");
    if (has_decoder(kind))
        check(decodes(kind, raw + HEADER_BYTES, length - HEADER_BYTES), "the payload is decoded");
    if (kind == EXEC)
        check_exec(raw + HEADER_BYTES, length - HEADER_BYTES);
}

static void check_invalid(void)
{
    uint8_t tag[RAW_BYTES / 1024];
    struct frame frame;
    if (strcmp(words[0], "payload") == 0) {
        size_t length = unhex(words[4], raw);
        check(!decodes((uint8_t)strtoul(words[3], NULL, 10), raw, length), "the payload is refused");
        return;
    }
    unhex(words[2], tag);
    size_t length = unhex(words[3], raw);
    enum link_event wanted = strcmp(words[0], "frame") == 0 ? LINK_LOST : LINK_WAITS;
    for (size_t i = 0; i < STEP_COUNT; i++) {
        attach_with(tag);
        check(feed(raw, length, steps[i], &frame) == wanted, wanted == LINK_LOST ? "a framing error" : "it waits");
    }
}

static void check_line(char *line)
{
    line[strcspn(line, "\n")] = 0;
    if (line[0] == 0 || line[0] == '#')
        return;
    word_count = 0;
    char *rest = NULL;
    for (char *word = strtok_r(line, " ", &rest); word && word_count < WORDS_MOST; word = strtok_r(NULL, " ", &rest))
        words[word_count++] = word;
    cases++;
    if (strcmp(words[0], "host") == 0 || strcmp(words[0], "guest") == 0)
        check_frame();
    else if (strcmp(words[0], "frame") == 0 || strcmp(words[0], "payload") == 0 || strcmp(words[0], "wait") == 0)
        check_invalid();
    else
        check_record();
}

int main(int argc, char **argv)
{
    char *line = malloc(LINE_BYTES);
    for (int i = 1; i < argc && line; i++) {
        FILE *file = fopen(argv[i], "r");
        if (!file) {
            perror(argv[i]);
            return 2;
        }
        while (fgets(line, (int)LINE_BYTES, file))
            check_line(line);
        fclose(file);
    }
    free(line);
    printf("%d vectors, %d wrong\n", cases, failures);
    return failures > 0 || cases == 0 ? 1 : 0;
}
