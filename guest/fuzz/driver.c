/* Runs parsers.c where libFuzzer is not to be had: seeds that are nearly right, mutated from a fixed start, for a bounded time.
 * Usage: fuzz SECONDS [FILE...]; with files it replays them and stops. A failing input is left in fuzz-crash.bin. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kinds.h"
#include "link.h"
#include "payload.h"
#include "tar.h"

#define INPUT_BYTES 8192u
#define SEEDS_MOST 128

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __asan_on_error(void);

struct input {
    size_t length;
    uint8_t bytes[INPUT_BYTES];
};

static struct input seeds[SEEDS_MOST];
static size_t seed_count;
static struct input current;
static uint64_t state = 0x9e3779b97f4a7c15u;

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static size_t below(size_t most)
{
    return most > 0 ? (size_t)(next_random() % most) : 0;
}

static void keep_input(void)
{
    FILE *file = fopen("fuzz-crash.bin", "w");
    if (!file)
        return;
    fwrite(current.bytes, 1, current.length, file);
    fclose(file);
}

void __asan_on_error(void)
{
    keep_input();
}

static void on_abort(int number)
{
    keep_input();
    fprintf(stderr, "fuzz: a check failed; the input is in fuzz-crash.bin\n");
    _exit(128 + number);
}

static struct input *seed(uint8_t parser, uint8_t step)
{
    struct input *input = &seeds[seed_count++];
    input->bytes[0] = parser;
    input->bytes[1] = step;
    input->length = 2;
    return input;
}

static size_t sample_payload(uint8_t kind, uint8_t *bytes)
{
    struct writer w = writer_of(bytes, 512);
    for (size_t i = 0; i < 3; i++)
        put_u32(&w, kind == HELLO ? 1 : 0);
    if (kind >= READ || kind == MOUNT)
        w.at = w.begin;
    put_u32(&w, kind == EXEC ? 2 : 4);
    if (kind >= READ || kind == MOUNT)
        w.at = w.begin;
    put_str(&w, "/a/path");
    put_str(&w, "ext4");
    put_u32(&w, 1);
    put_str(&w, "NAME=value");
    put_str(&w, "/");
    put_str(&w, "root");
    put_u32(&w, 0);
    return written(&w);
}

static void seed_links(void)
{
    static const uint8_t tag[TAG_BYTES] = {1, 2, 3, 4};
    uint8_t payload[512];
    uint8_t epoch[EPOCH_BYTES] = {9, 9, 9, 9};
    struct input *all = seed(0, 0);
    for (uint8_t kind = HELLO; kind <= CANCEL; kind++) {
        size_t length = sample_payload(kind, payload);
        if (!kind_on_control(kind) && !kind_on_channel(kind))
            continue;
        struct input *one = seed(3, kind);
        memcpy(one->bytes + one->length, payload, length);
        one->length += length;
        if (all->length + HEADER_BYTES + length > INPUT_BYTES / 2)
            continue;
        header_make(all->bytes + all->length, tag, (uint32_t)length, kind, kind);
        memcpy(all->bytes + all->length + HEADER_BYTES, payload, length);
        all->length += HEADER_BYTES + length;
    }
    record_make(all->bytes + all->length, MAGIC_ATTACH, epoch);
    all->length += RECORD_BYTES;
}

static void add_member(struct input *to, uint8_t flag, const char *name, const char *content)
{
    uint8_t *block = to->bytes + to->length;
    size_t length = strlen(content);
    unsigned sum = 0;
    if (to->length + 2 * TAR_BLOCK > INPUT_BYTES)
        return;
    memset(block, 0, 2 * TAR_BLOCK);
    snprintf((char *)block, 100, "%s", name);
    memcpy(block + 100, "0000644", 8);
    snprintf((char *)block + 124, 12, "%011o", (unsigned)length);
    memcpy(block + 136, "00000000000", 12);
    block[156] = flag;
    memcpy(block + 157, "target", 7);
    memcpy(block + 257, "ustar\00000", 8);
    memset(block + 148, ' ', 8);
    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += block[i];
    snprintf((char *)block + 148, 8, "%06o", sum & 0777777u);
    memcpy(block + TAR_BLOCK, content, length);
    to->length += length > 0 ? 2 * TAR_BLOCK : TAR_BLOCK;
}

static void seed_tars(void)
{
    for (uint8_t step = 0; step < 8; step++) {
        struct input *tar = seed(1, (uint8_t)(step * 37));
        add_member(tar, 'x', "pax", "17 path=some/name\n18 linkpath=a/link\n10 size=5\n");
        add_member(tar, '0', "short", "12345");
        add_member(tar, 'L', "././@LongLink", "a/very/long/name/../that/climbs");
        add_member(tar, '5', "directory/", "");
        add_member(tar, '2', "./link", "");
        add_member(tar, '1', "../hard", "");
    }
}

static void seed_users(void)
{
    static const char text[] = "a:x:1000:1000::/home/a:/bin/sh\nb:x:4294967295:0:::\nroot:x:0:0:root:/root:/bin/sh\n"
                               "x:x:5:a,b\ny:x:6:\nz:x:7:b,a\nw:x:8:aa,a,\n";
    for (uint8_t step = 1; step < 12; step++) {
        struct input *users = seed(2, step);
        memcpy(users->bytes + 2, text, sizeof text - 1);
        users->length += sizeof text - 1;
    }
}

static void mutate(void)
{
    static const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff, 'A', '/', '.', '0', '7', ' ', '\n', ':', '='};
    for (size_t round = 1 + below(6); round > 0; round--) {
        size_t at = below(current.length);
        size_t span = 1 + below(16);
        switch (below(6)) {
        case 0:
            current.bytes[at] ^= (uint8_t)(1u << below(8));
            break;
        case 1:
            current.bytes[at] = odd[below(sizeof odd)];
            break;
        case 2: /* cut out */
            if (at + span < current.length) {
                memmove(current.bytes + at, current.bytes + at + span, current.length - at - span);
                current.length -= span;
            }
            break;
        case 3: /* repeat */
            if (at + span <= current.length && current.length + span <= INPUT_BYTES) {
                memmove(current.bytes + at + span, current.bytes + at, current.length - at);
                current.length += span;
            }
            break;
        case 4: /* splice another seed's end on */
        {
            const struct input *other = &seeds[below(seed_count)];
            size_t from = below(other->length);
            size_t length = other->length - from;
            if (at + length <= INPUT_BYTES) {
                memcpy(current.bytes + at, other->bytes + from, length);
                current.length = at + length;
            }
            break;
        }
        default:
            current.length = at + 1;
            break;
        }
        if (current.length < 2)
            current.length = 2;
    }
}

/* Nearly every mutated header would die at its checksum; half of them are given a right one, so that what lies behind is reached. */
static void mend_checksums(void)
{
    for (size_t at = 2; at + TAR_BLOCK <= current.length; at += TAR_BLOCK) {
        uint8_t *block = current.bytes + at;
        unsigned sum = 0;
        if (memcmp(block + 257, "ustar", 5) != 0)
            continue;
        memset(block + 148, ' ', 8);
        for (size_t i = 0; i < TAR_BLOCK; i++)
            sum += block[i];
        snprintf((char *)block + 148, 8, "%06o", sum & 0777777u);
    }
}

static int replay(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return 2;
    current.length = fread(current.bytes, 1, INPUT_BYTES, file);
    fclose(file);
    return LLVMFuzzerTestOneInput(current.bytes, current.length);
}

int main(int argc, char **argv)
{
    signal(SIGABRT, on_abort);
    for (int i = 2; i < argc; i++)
        if (replay(argv[i]) != 0)
            return 2;
    if (argc > 2)
        return 0;
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 5;
    struct timespec begin;
    struct timespec now;
    unsigned long runs = 0;
    seed_links();
    seed_tars();
    seed_users();
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        for (int i = 0; i < 500; i++, runs++) {
            current = seeds[below(seed_count)];
            mutate();
            if ((current.bytes[0] & 3) == 1 && below(2) == 0)
                mend_checksums();
            LLVMFuzzerTestOneInput(current.bytes, current.length);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((double)(now.tv_sec - begin.tv_sec) + (double)(now.tv_nsec - begin.tv_nsec) / 1e9 < seconds);
    printf("fuzz: %lu inputs, no failure\n", runs);
    return 0;
}
