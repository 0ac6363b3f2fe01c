#include "loop.h"

#include <stdlib.h>
#include <unistd.h>

#define EVENTS_AT_ONCE 32

static int epoll = -1;

void loop_prepare(void)
{
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        abort();
}

void loop_watch(struct source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (source->fd < 0 || source->watched == events)
        return;
    int change = source->watched == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    if (epoll_ctl(epoll, change, source->fd, &event) == 0)
        source->watched = events;
}

void loop_close(struct source *source)
{
    if (source->fd < 0)
        return;
    loop_watch(source, 0);
    close(source->fd);
    source->fd = -1;
    source->watched = 0;
}

void loop_turn(int timeout_ms)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = epoll_wait(epoll, events, EVENTS_AT_ONCE, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct source *source = events[i].data.ptr;
        /* One that came earlier in this turn may have closed it; memory is freed between turns only. */
        if (source->fd >= 0 && source->watched != 0)
            source->ready(source, events[i].events);
    }
}
