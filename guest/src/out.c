#include "out.h"

#include <string.h>

#include "bytes.h"
#include "link.h"

void out_reset(struct out *out)
{
    out->start = out->end = out->begun = out->allowed = 0;
    out->quiet = false;
}

size_t out_waiting(const struct out *out)
{
    return out->end - out->start;
}

bool out_takes_bulk(const struct out *out)
{
    return out_waiting(out) < OUT_BULK_BYTES;
}

bool out_takes_answers(const struct out *out)
{
    return out_waiting(out) < OUT_ANSWER_BYTES;
}

static void compact(struct out *out)
{
    if (out->start == 0)
        return;
    memmove(out->bytes, out->bytes + out->start, out->end - out->start);
    out->end -= out->start;
    out->start = 0;
}

uint8_t *out_open(struct out *out, size_t most)
{
    if (sizeof out->bytes - out->end < HEADER_BYTES + most)
        compact(out);
    /* The two thresholds leave room for whatever one turn of the loop can add; the check holds if they ever do not. */
    if (sizeof out->bytes - out->end < HEADER_BYTES + most)
        return NULL;
    return out->bytes + out->end + HEADER_BYTES;
}

void out_close(struct out *out, uint32_t channel, uint8_t kind, size_t length)
{
    header_make(out->bytes + out->end, out->tag, (uint32_t)length, channel, kind);
    out->end += HEADER_BYTES + length;
}

void out_frame(struct out *out, uint32_t channel, uint8_t kind, const struct writer *payload)
{
    size_t length = payload ? written(payload) : 0;
    uint8_t *at = out_open(out, length);
    if (!at)
        return;
    if (length > 0)
        memcpy(at, payload->begin, length);
    out_close(out, channel, kind, length);
}

void out_drop(struct out *out)
{
    out->end = out->start + out->begun;
    out->quiet = false;
}

void out_echo(struct out *out, const uint8_t epoch[EPOCH_BYTES])
{
    out_drop(out);
    compact(out);
    memcpy(out->tag, epoch, TAG_BYTES);
    record_make(out->bytes + out->end, MAGIC_ECHO, epoch);
    out->end += RECORD_BYTES;
}

void out_quiesce(struct out *out)
{
    compact(out);
    uint8_t *behind = out->bytes + out->begun;
    memmove(behind + HEADER_BYTES, behind, out->end - out->begun);
    header_make(behind, out->tag, 0, 0, QUIESCED);
    out->end += HEADER_BYTES;
    out->quiet = true;
    out->allowed = out->begun + HEADER_BYTES;
}

void out_resume(struct out *out)
{
    out->quiet = false;
}

size_t out_peek(const struct out *out, const uint8_t **bytes)
{
    size_t waiting = out_waiting(out);
    *bytes = out->bytes + out->start;
    return out->quiet && out->allowed < waiting ? out->allowed : waiting;
}

static size_t item_length(const uint8_t *at)
{
    return memcmp(at, MAGIC_ECHO, TAG_BYTES) == 0 ? RECORD_BYTES : HEADER_BYTES + get_u32(at + 4);
}

void out_wrote(struct out *out, size_t count)
{
    if (out->quiet)
        out->allowed -= count;
    while (count > 0) {
        if (out->begun == 0)
            out->begun = item_length(out->bytes + out->start);
        size_t step = count < out->begun ? count : out->begun;
        out->begun -= step;
        out->start += step;
        count -= step;
    }
    if (out->start == out->end)
        out->start = out->end = 0;
}
