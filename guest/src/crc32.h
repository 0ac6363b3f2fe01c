#ifndef AK_CRC32_H
#define AK_CRC32_H
#include <stddef.h>
#include <stdint.h>
uint32_t crc32_of(const uint8_t *bytes, size_t length);
#endif
