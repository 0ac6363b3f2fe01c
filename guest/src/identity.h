/* What makes one clone differ from another: randomness, time, names. */
#ifndef AK_IDENTITY_H
#define AK_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "payload.h"

struct identity {
    bool clock; /* could be set */
    bool hostname;
};

struct identity identity_take(const struct hello *hello);
void identity_refresh(uint64_t clock_ns, const uint8_t *entropy);
/* How many times either was done. */
uint64_t identity_count(void);

#endif
