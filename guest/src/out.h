/* What waits to be written to the link: a bounded queue of whole records and frames, without I/O. */
#ifndef AK_OUT_H
#define AK_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kinds.h"
#include "payload.h"

/* Program output and file data join only while less than this waits, so that a control answer is never far back. */
#define OUT_BULK_BYTES PAYLOAD_MOST
/* Input is looked at only while less than this waits: what one frame is answered with fits into the rest. */
#define OUT_ANSWER_BYTES (3u * PAYLOAD_MOST)
#define OUT_BYTES (6u * PAYLOAD_MOST)

struct out {
    size_t start;
    size_t end;
    size_t begun; /* bytes still to be written of the item that has been begun */
    bool quiet; /* after `allowed` more bytes nothing is written */
    size_t allowed;
    uint8_t tag[TAG_BYTES];
    uint8_t bytes[OUT_BYTES];
};

void out_reset(struct out *out);
size_t out_waiting(const struct out *out);
/* May program output or file data be queued; may input be looked at? */
bool out_takes_bulk(const struct out *out);
bool out_takes_answers(const struct out *out);
/* Where a payload of at most `most` bytes goes; then out_close says how long it became. */
uint8_t *out_open(struct out *out, size_t most);
void out_close(struct out *out, uint32_t channel, uint8_t kind, size_t length);
void out_frame(struct out *out, uint32_t channel, uint8_t kind, const struct writer *payload);
/* A new epoch: only the item that has been begun stays, and the ECHO follows it. */
void out_echo(struct out *out, const uint8_t epoch[EPOCH_BYTES]);
void out_drop(struct out *out);
/* QUIESCED is put right after the item that has been begun; what is queued behind it waits for RESUME. */
void out_quiesce(struct out *out);
void out_resume(struct out *out);
/* What may be written now, and how much of it was. */
size_t out_peek(const struct out *out, const uint8_t **bytes);
void out_wrote(struct out *out, size_t count);

#endif
