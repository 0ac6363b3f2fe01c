/* One command that was started, as long as anything of it is left; the table of them is in exec.c. */
#ifndef AK_RUN_H
#define AK_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "keeper.h"
#include "loop.h"
#include "session.h"

struct output {
    struct source source;
    struct run *run;
    uint8_t kind;
    size_t left; /* once the program has ended: what its pipe held then and is still to be sent */
};

struct run {
    struct run *next;
    struct channel *channel; /* NULL once it is closed */
    pid_t pid;
    pid_t keeper; /* 0 when there is none */
    bool ended;
    struct ending ending;
    struct output outputs[2];
    struct source input;
    struct source report;
    uint8_t *held; /* input that the program has not taken, WINDOW_BYTES of room */
    size_t held_at;
    size_t held_end;
    bool input_over;
    uint8_t *ring; /* output of a program whose channel was closed */
    size_t ring_at;
    bool has_cgroup;
    bool removal_due; /* something has ended since the cgroup was last found busy */
    uint64_t cgroup;
};

/* No more may be started. */
bool runs_are_full(void);
/* Takes over our ends of the pipes (-1 for none) and what was kept. NULL when there is no memory. */
struct run *run_adopt(struct channel *channel, const int ours[3], const struct kept *kept);

#define OF(source, type, member) ((type *)(void *)((char *)(source) - offsetof(type, member)))

#endif
