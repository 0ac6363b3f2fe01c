/* The stream below the link: a virtio port, vsock, a Unix socket, or descriptors 0 and 1. */
#ifndef AK_TRANSPORT_H
#define AK_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>

/* Each returns false with errno when there is no such thing here. */
bool transport_stdio(void);
bool transport_socket(const char *path);
/* Virtio port or vsock, whichever the machine has, waiting for it for a bounded time. */
bool transport_find(void);
/* Read what there is, as far as the link has room; write what the queue allows. */
void transport_step(bool may_read);
/* How long the loop may sleep on the transport's account, -1 for as long as it likes. */
int transport_patience(void);
/* True once the stream of an agent that has only one is at its end. */
bool transport_over(void);
/* Write what is queued, for a bounded time. */
void transport_flush(int most_ms);

#endif
