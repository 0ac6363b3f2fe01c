/* Little-endian integers at unaligned places. */
#ifndef AK_BYTES_H
#define AK_BYTES_H

#include <stdint.h>

static inline uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t get_u64(const uint8_t *at)
{
    return (uint64_t)get_u32(at) | (uint64_t)get_u32(at + 4) << 32;
}

static inline void set_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static inline void set_u64(uint8_t *at, uint64_t value)
{
    set_u32(at, (uint32_t)value);
    set_u32(at + 4, (uint32_t)(value >> 32));
}

#endif
