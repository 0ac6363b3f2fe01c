#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "control.h"
#include "exec.h"
#include "files.h"

/* Long enough for any path; FAILED must fit beside whatever else one turn queues. */
#define WHAT_BYTES 4352u
/* Credit is given back in pieces of this size: a quarter of the window. */
#define CREDIT_BYTES (WINDOW_BYTES / 4)

struct session session;

void session_prepare(void)
{
    link_reset(&session.in);
    out_reset(&session.out);
}

/* --- channels --- */

static struct channel *find(uint32_t id)
{
    for (size_t i = 0; i < CHANNELS_MOST; i++)
        if (session.channels[i].state != CHANNEL_FREE && session.channels[i].id == id)
            return &session.channels[i];
    return NULL;
}

static struct channel *open_channel(uint32_t id)
{
    session.highest = id;
    for (size_t i = 0; i < CHANNELS_MOST; i++) {
        struct channel *channel = &session.channels[i];
        if (channel->state != CHANNEL_FREE)
            continue;
        memset(channel, 0, sizeof *channel);
        channel->id = id;
        channel->credit = WINDOW_BYTES;
        return channel;
    }
    return NULL;
}

static void drop_parts(struct channel *channel)
{
    session.parts_total -= channel->parts_length;
    free(channel->parts);
    channel->parts = NULL;
    channel->parts_length = 0;
}

void channel_close(struct channel *channel)
{
    struct run *run = channel->run;
    struct job *job = channel->job;
    drop_parts(channel);
    channel->state = CHANNEL_FREE;
    channel->run = NULL;
    channel->job = NULL;
    if (run)
        exec_detach(run);
    if (job)
        files_abandon(job);
}

static void close_channels(void)
{
    for (size_t i = 0; i < CHANNELS_MOST; i++)
        if (session.channels[i].state != CHANNEL_FREE)
            channel_close(&session.channels[i]);
    session.highest = 0;
}

static void put_failed(uint32_t id, int error, const char *what, const char *name)
{
    uint8_t bytes[WHAT_BYTES + 8];
    char text[WHAT_BYTES];
    size_t used = strlen(what);
    size_t rest = strlen(name);
    if (rest > sizeof text - used - 1)
        rest = sizeof text - used - 1;
    memcpy(text, what, used);
    memcpy(text + used, name, rest);
    text[used + rest] = 0;
    struct writer w = writer_of(bytes, sizeof bytes);
    put_u32(&w, (uint32_t)error);
    put_str(&w, text);
    out_frame(&session.out, id, FAILED, &w);
}

void channel_fail(struct channel *channel, int error, const char *what, const char *name)
{
    put_failed(channel->id, error, what, name);
    channel_close(channel);
}

size_t channel_allows(const struct channel *channel)
{
    if (!out_takes_bulk(&session.out))
        return 0;
    return channel->credit < PAYLOAD_MOST ? channel->credit : PAYLOAD_MOST;
}

void channel_sent(struct channel *channel, uint8_t kind, size_t length)
{
    channel->credit -= (uint32_t)length;
    out_close(&session.out, channel->id, kind, length);
}

bool channel_received(struct channel *channel, size_t length)
{
    if (length > WINDOW_BYTES - channel->held) {
        channel_fail(channel, EOVERFLOW, "window", "");
        return false;
    }
    channel->held += (uint32_t)length;
    return true;
}

void channel_consumed(struct channel *channel, size_t length)
{
    uint8_t bytes[4];
    channel->owed += (uint32_t)length;
    if (channel->owed < CREDIT_BYTES)
        return;
    struct writer w = writer_of(bytes, sizeof bytes);
    put_u32(&w, channel->owed);
    out_frame(&session.out, channel->id, CREDIT_BACK, &w);
    channel->held -= channel->owed;
    channel->owed = 0;
}

/* --- frames --- */

static void forget(void)
{
    close_channels();
    session.greeted = session.quiesced = false;
}

void session_lose(void)
{
    link_lose(&session.in);
    out_drop(&session.out);
    forget();
}

void session_reset(void)
{
    link_reset(&session.in);
    out_reset(&session.out);
    forget();
}

static void begin_epoch(void)
{
    forget();
    out_echo(&session.out, session.in.epoch);
}

static void take_part(struct channel *channel, const struct frame *frame)
{
    size_t length = frame->length;
    if (length > PARTS_OF_ONE_MOST - channel->parts_length || length > PARTS_OF_ALL_MOST - session.parts_total) {
        channel_fail(channel, E2BIG, "request", "");
        return;
    }
    channel->state = CHANNEL_PARTS;
    if (length == 0)
        return;
    uint8_t *grown = realloc(channel->parts, channel->parts_length + length);
    if (!grown) {
        channel_fail(channel, ENOMEM, "request", "");
        return;
    }
    memcpy(grown + channel->parts_length, frame->payload, length);
    channel->parts = grown;
    channel->parts_length += length;
    session.parts_total += length;
}

/* The EXEC frame ends what its PARTs began; the last piece may take the whole over one part's limit. */
static void take_exec(struct channel *channel, const struct frame *frame)
{
    uint8_t *bytes = frame->payload;
    size_t length = frame->length;
    uint8_t *whole = NULL;
    if (channel->parts) {
        length += channel->parts_length;
        whole = realloc(channel->parts, length + 1);
        if (!whole) {
            channel_fail(channel, ENOMEM, "request", "");
            return;
        }
        memcpy(whole + channel->parts_length, frame->payload, frame->length);
        session.parts_total -= channel->parts_length;
        channel->parts = NULL;
        channel->parts_length = 0;
        bytes = whole;
    }
    channel->state = CHANNEL_EXEC;
    bool right = exec_open(channel, bytes, length);
    free(whole);
    if (!right)
        session_lose();
}

static void open_with(const struct frame *frame)
{
    struct channel *channel = open_channel(frame->channel);
    if (!channel) {
        put_failed(frame->channel, EMFILE, "channels", "");
        return;
    }
    if (frame->kind == PART) {
        take_part(channel, frame);
    } else if (frame->kind == EXEC) {
        take_exec(channel, frame);
    } else {
        channel->state = CHANNEL_FILE;
        if (!files_open(channel, frame->kind, frame->payload, frame->length))
            session_lose();
    }
}

static bool opens(uint8_t kind)
{
    return kind == PART || kind == EXEC || (kind >= READ && kind <= RENAME);
}

static bool take_credit(struct channel *channel, const struct frame *frame)
{
    if (frame->length != 4)
        return false;
    uint32_t bytes = get_u32(frame->payload);
    uint32_t lent = WINDOW_BYTES - channel->credit;
    channel->credit += bytes < lent ? bytes : lent;
    return true;
}

static bool on_parts(struct channel *channel, const struct frame *frame)
{
    if (frame->kind == PART)
        take_part(channel, frame);
    else if (frame->kind == EXEC)
        take_exec(channel, frame);
    else if (frame->kind == CANCEL && frame->length == 0)
        channel_fail(channel, ECANCELED, "", "");
    else
        return false;
    return true;
}

static void on_channel(const struct frame *frame)
{
    struct channel *channel = find(frame->channel);
    bool right = kind_on_channel(frame->kind);
    if (right && channel) {
        if (frame->kind == CREDIT && channel->state != CHANNEL_PARTS)
            right = take_credit(channel, frame);
        else if (channel->state == CHANNEL_EXEC)
            right = exec_frame(channel->run, frame);
        else if (channel->state == CHANNEL_FILE)
            right = files_frame(channel->job, frame);
        else
            right = on_parts(channel, frame);
    } else if (right && opens(frame->kind) && frame->channel > session.highest) {
        open_with(frame);
    }
    if (!right)
        session_lose();
}

static void on_frame(const struct frame *frame)
{
    if (session.quiesced && !(frame->channel == 0 && frame->kind == RESUME))
        session_lose();
    else if (!session.greeted && !(frame->channel == 0 && frame->kind == HELLO))
        session_lose();
    else if (frame->channel != 0)
        on_channel(frame);
    else if (!kind_on_control(frame->kind) || !control_frame(frame))
        session_lose();
}

bool session_step(void)
{
    struct frame frame;
    while (out_takes_answers(&session.out)) {
        switch (link_next(&session.in, &frame)) {
        case LINK_WAITS:
            return false;
        case LINK_BEGINS:
            begin_epoch();
            break;
        case LINK_FRAME:
            on_frame(&frame);
            break;
        case LINK_LOST:
            session_lose();
            break;
        }
        if (session.ending)
            return false;
    }
    return true;
}
