#include "streams.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where output goes that nobody may see any more. */
static uint8_t scratch[RING_BYTES];

/* --- output --- */

static void keep_in_ring(struct run *run, const uint8_t *bytes, size_t length)
{
    size_t first = RING_BYTES - run->ring_at;
    if (length < first)
        first = length;
    memcpy(run->ring + run->ring_at, bytes, first);
    memcpy(run->ring, bytes + first, length - first);
    run->ring_at = (run->ring_at + length) % RING_BYTES;
}

static void finish_output(struct output *output)
{
    loop_close(&output->source);
    output->left = 0;
}

static void drain(struct output *output)
{
    ssize_t got = read(output->source.fd, scratch, sizeof scratch);
    if (got > 0 && output->run->ring)
        keep_in_ring(output->run, scratch, (size_t)got);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        finish_output(output);
}

size_t may_send(const struct output *output)
{
    const struct run *run = output->run;
    size_t most = channel_allows(run->channel);
    return run->ended && output->left < most ? output->left : most;
}

void output_ready(struct source *source, uint32_t events)
{
    struct output *output = OF(source, struct output, source);
    (void)events;
    if (!output->run->channel) {
        drain(output);
        return;
    }
    size_t most = may_send(output);
    uint8_t *at = most > 0 ? out_open(&session.out, most) : NULL;
    if (!at)
        return;
    ssize_t got = read(source->fd, at, most);
    if (got > 0) {
        channel_sent(output->run->channel, output->kind, (size_t)got);
        if (output->run->ended)
            output->left -= (size_t)got;
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        finish_output(output);
    }
}

/* --- input --- */

void end_input(struct run *run)
{
    loop_close(&run->input);
    if (run->channel)
        channel_consumed(run->channel, run->held_end - run->held_at);
    run->held_at = run->held_end = 0;
    free(run->held);
    run->held = NULL;
}

static void feed_input(struct run *run)
{
    while (run->held_at < run->held_end) {
        ssize_t done = write(run->input.fd, run->held + run->held_at, run->held_end - run->held_at);
        if (done < 0) {
            if (errno != EAGAIN && errno != EINTR)
                end_input(run); /* EPIPE: the program wants no more, so the rest counts as taken */
            return;
        }
        run->held_at += (size_t)done;
        if (run->channel)
            channel_consumed(run->channel, (size_t)done);
    }
    run->held_at = run->held_end = 0;
    if (run->input_over)
        end_input(run);
}

void input_ready(struct source *source, uint32_t events)
{
    (void)events;
    feed_input(OF(source, struct run, input));
}

void take_input(struct run *run, const struct frame *frame)
{
    struct channel *channel = run->channel;
    size_t length = frame->length;
    if (!channel_received(channel, length))
        return;
    if (run->input.fd < 0 || run->input_over || length == 0) {
        channel_consumed(channel, length);
        return;
    }
    if (!run->held)
        run->held = malloc(WINDOW_BYTES);
    if (!run->held) {
        end_input(run);
        channel_consumed(channel, length);
        return;
    }
    if (length > WINDOW_BYTES - run->held_end) {
        /* It fits: what is held here was never given back, so the window has counted it. */
        memmove(run->held, run->held + run->held_at, run->held_end - run->held_at);
        run->held_end -= run->held_at;
        run->held_at = 0;
    }
    memcpy(run->held + run->held_end, frame->payload, length);
    run->held_end += length;
    feed_input(run);
}
