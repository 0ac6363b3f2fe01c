/* The event loop: descriptors and who cares about them. */
#ifndef AK_LOOP_H
#define AK_LOOP_H

#include <stdint.h>
#include <sys/epoll.h>

struct source {
    int fd; /* -1 when there is none */
    uint32_t watched;
    void (*ready)(struct source *source, uint32_t events);
};

void loop_prepare(void);
/* Watch for these events from now on; 0 takes the descriptor out, since EPOLLHUP can not be masked otherwise. */
void loop_watch(struct source *source, uint32_t events);
/* Stop watching, and close. */
void loop_close(struct source *source);
/* Wait and call whoever is ready; -1 waits without end. */
void loop_turn(int timeout_ms);

#endif
