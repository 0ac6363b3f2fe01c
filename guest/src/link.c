#include "link.h"

#include <string.h>

#include "bytes.h"
#include "crc32.h"

static const uint8_t RECORD_TAG[TAG_BYTES] = {'A', 'K', 'L', 'I'};

void link_reset(struct link *link)
{
    link->attached = false;
    link->start = link->end = link->taken = 0;
}

size_t link_space(struct link *link, uint8_t **where)
{
    link->start += link->taken;
    link->taken = 0;
    if (link->start > 0) {
        memmove(link->bytes, link->bytes + link->start, link->end - link->start);
        link->end -= link->start;
        link->start = 0;
    }
    *where = link->bytes + link->end;
    return sizeof link->bytes - link->end;
}

void link_fed(struct link *link, size_t count)
{
    link->end += count;
}

void record_make(uint8_t record[RECORD_BYTES], const char *magic, const uint8_t epoch[EPOCH_BYTES])
{
    memcpy(record, magic, MAGIC_BYTES);
    memcpy(record + MAGIC_BYTES, epoch, EPOCH_BYTES);
    set_u32(record + 28, crc32_of(record, 28));
}

bool record_valid(const uint8_t record[RECORD_BYTES], const char *magic)
{
    return memcmp(record, magic, MAGIC_BYTES) == 0 && memcmp(record + MAGIC_BYTES, RECORD_TAG, TAG_BYTES) != 0 &&
           get_u32(record + 28) == crc32_of(record, 28);
}

void header_make(uint8_t header[HEADER_BYTES], const uint8_t *tag, uint32_t length, uint32_t channel, uint8_t kind)
{
    memcpy(header, tag, TAG_BYTES);
    set_u32(header + 4, length);
    set_u32(header + 8, channel);
    header[12] = kind;
    header[13] = header[14] = header[15] = 0;
}

static enum link_event begin(struct link *link)
{
    memcpy(link->epoch, link->bytes + link->start + MAGIC_BYTES, EPOCH_BYTES);
    link->start += RECORD_BYTES;
    link->attached = true;
    return LINK_BEGINS;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static enum link_event hunt(struct link *link)
{
    for (; link->start < link->end; link->start++) {
        const uint8_t *at = link->bytes + link->start;
        size_t have = link->end - link->start;
        if (memcmp(at, MAGIC_ATTACH, smaller(have, MAGIC_BYTES)) != 0)
            continue;
        if (have < RECORD_BYTES)
            return LINK_WAITS;
        if (record_valid(at, MAGIC_ATTACH))
            return begin(link);
    }
    return LINK_WAITS;
}

static enum link_event lost(struct link *link)
{
    link->attached = false;
    return LINK_LOST;
}

static enum link_event next_record(struct link *link, const uint8_t *at, size_t have)
{
    if (memcmp(at, MAGIC_ATTACH, smaller(have, MAGIC_BYTES)) != 0)
        return lost(link);
    if (have < RECORD_BYTES)
        return LINK_WAITS;
    return record_valid(at, MAGIC_ATTACH) ? begin(link) : lost(link);
}

enum link_event link_next(struct link *link, struct frame *frame)
{
    link->start += link->taken;
    link->taken = 0;
    if (!link->attached)
        return hunt(link);
    uint8_t *at = link->bytes + link->start;
    size_t have = link->end - link->start;
    if (have < TAG_BYTES)
        return LINK_WAITS;
    if (memcmp(at, RECORD_TAG, TAG_BYTES) == 0)
        return next_record(link, at, have);
    if (memcmp(at, link->epoch, TAG_BYTES) != 0)
        return lost(link);
    /* The length is judged as soon as it is there, so that nobody waits for a body that will be refused. */
    if (have >= 8 && get_u32(at + 4) > PAYLOAD_MOST)
        return lost(link);
    if (have < HEADER_BYTES)
        return LINK_WAITS;
    if (at[13] != 0 || at[14] != 0 || at[15] != 0)
        return lost(link);
    frame->length = get_u32(at + 4);
    if (have < HEADER_BYTES + frame->length)
        return LINK_WAITS;
    frame->channel = get_u32(at + 8);
    frame->kind = at[12];
    frame->payload = at + HEADER_BYTES;
    link->taken = HEADER_BYTES + frame->length;
    return LINK_FRAME;
}

void link_lose(struct link *link)
{
    link->attached = false;
    link->taken = 0;
}
