/* The conversation: epochs, greeting, control frames, and the table of channels. */
#ifndef AK_SESSION_H
#define AK_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "link.h"
#include "out.h"

struct run;
struct job;

enum channel_state { CHANNEL_FREE, CHANNEL_PARTS, CHANNEL_EXEC, CHANNEL_FILE };

struct channel {
    enum channel_state state;
    uint32_t id;
    uint32_t credit; /* bytes that may still be sent to the host */
    uint32_t held; /* bytes received and not yet given back */
    uint32_t owed; /* of those, consumed */
    uint8_t *parts;
    size_t parts_length;
    struct run *run;
    struct job *job;
};

struct session {
    struct link in;
    struct out out;
    bool greeted;
    bool quiesced;
    bool ending; /* SHUTDOWN was asked for */
    uint32_t highest; /* channel opened so far in this epoch */
    size_t parts_total;
    struct channel channels[CHANNELS_MOST];
};

extern struct session session;

void session_prepare(void);
/* The stream is new or gone: forget what was under way. */
void session_reset(void);
/* Acts on the bytes that the link holds, as far as answers can be queued. True when it stopped for lack of room. */
bool session_step(void);
/* A framing error: close all channels, hunt. */
void session_lose(void);

/* How many bytes of output or file data may go out on this channel now. */
size_t channel_allows(const struct channel *channel);
/* A place for a frame of at most `most` bytes; channel_sent accounts for it. */
void channel_sent(struct channel *channel, uint8_t kind, size_t length);
/* False, with the channel closed, when the host overran its window. */
bool channel_received(struct channel *channel, size_t length);
void channel_consumed(struct channel *channel, size_t length);
/* FAILED, and the channel is closed. `what` is cut when it is very long. */
void channel_fail(struct channel *channel, int error, const char *what, const char *name);
void channel_close(struct channel *channel);

#endif
