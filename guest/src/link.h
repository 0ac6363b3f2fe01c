/* The guest link's bytes, without I/O: what came in becomes attach records and frames (PROTOCOL.md 1 and 2). */
#ifndef AK_LINK_H
#define AK_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kinds.h"

/* Room for the longest frame and as much again, so that one read can fetch a burst of small ones. */
#define LINK_BYTES (HEADER_BYTES + 2u * PAYLOAD_MOST)

struct link {
    bool attached;
    uint8_t epoch[EPOCH_BYTES];
    size_t start; /* first byte not yet given away */
    size_t end;
    size_t taken; /* length of the frame given last: still there, so that a refusal can hunt through it */
    uint8_t bytes[LINK_BYTES];
};

struct frame {
    uint32_t channel;
    uint8_t kind;
    uint32_t length;
    uint8_t *payload; /* inside the link's buffer, until the next call */
};

enum link_event {
    LINK_WAITS, /* for more bytes */
    LINK_BEGINS, /* an ATTACH: link->epoch is new */
    LINK_FRAME,
    LINK_LOST, /* a framing error: it hunts now */
};

void link_reset(struct link *link);
/* Where to put new bytes, and how many fit. */
size_t link_space(struct link *link, uint8_t **where);
void link_fed(struct link *link, size_t count);
enum link_event link_next(struct link *link, struct frame *frame);
/* The frame given last was not acceptable: hunt, beginning with its first byte. */
void link_lose(struct link *link);

void record_make(uint8_t record[RECORD_BYTES], const char *magic, const uint8_t epoch[EPOCH_BYTES]);
bool record_valid(const uint8_t record[RECORD_BYTES], const char *magic);
void header_make(uint8_t header[HEADER_BYTES], const uint8_t *tag, uint32_t length, uint32_t channel, uint8_t kind);

#define MAGIC_BYTES 12u
#define MAGIC_ATTACH "AKLINK-ATT1\n"
#define MAGIC_ECHO "AKLINK-ECH1\n"

#endif
