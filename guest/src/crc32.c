/* CRC-32 (IEEE 802.3, reflected), bit by bit: it only ever sees 28 bytes, so a table would cost more than it saves. */
#include "crc32.h"

uint32_t crc32_of(const uint8_t *bytes, size_t length)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}
