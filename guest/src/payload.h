/* The fields of payloads, without I/O. A reader that met anything wrong stays wrong, so callers check once, at the end. */
#ifndef AK_PAYLOAD_H
#define AK_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kinds.h"

struct reader {
    uint8_t *at;
    uint8_t *end;
    bool wrong;
};

struct reader reader_of(uint8_t *bytes, size_t length);
uint8_t take_u8(struct reader *r);
uint32_t take_u32(struct reader *r);
uint64_t take_u64(struct reader *r);
const uint8_t *take_exactly(struct reader *r, size_t length);
/* A NUL-terminated string inside the payload: it is moved one byte down, over its own length field. */
char *take_str(struct reader *r);
/* The number of items, each of which needs at least `least` bytes of what remains. */
uint32_t take_count(struct reader *r, size_t least);
/* True when the payload was right and used up. */
bool taken_exactly(const struct reader *r);

struct writer {
    uint8_t *begin;
    uint8_t *at;
    uint8_t *end;
    bool full;
};

struct writer writer_of(uint8_t *bytes, size_t most);
void put_u8(struct writer *w, uint8_t value);
void put_u32(struct writer *w, uint32_t value);
void put_u64(struct writer *w, uint64_t value);
void put_str(struct writer *w, const char *text);
size_t written(const struct writer *w);

struct hello {
    uint32_t generation;
    const uint8_t *entropy;
    uint64_t clock_ns;
    const char *hostname;
    const uint8_t *machine_id;
    uint32_t pids;
};

struct mount_request {
    const char *serial;
    const char *filesystem;
    uint32_t owner;
    uint32_t count;
    char **pairs; /* allocated: free it */
};

struct rlimit_request {
    uint32_t resource;
    uint64_t soft;
    uint64_t hard;
};

/* Everything that an EXEC says. The strings lie in the payload, the arrays are allocated: exec_request_free. */
struct exec_request {
    uint32_t flags;
    uint32_t rows;
    uint32_t columns;
    uint32_t argc;
    char **argv; /* ends with NULL */
    uint32_t envc;
    char **env; /* ends with NULL, with room for EXTRA_ENV more */
    const char *cwd;
    const char *user;
    uint32_t limit_count;
    struct rlimit_request *limits;
};

#define EXTRA_ENV 3u

/* The requests of PROTOCOL.md 7 in one shape; absent fields are zero or NULL. */
struct file_request {
    char *path;
    char *to;
    char *owner;
    uint64_t offset;
    uint64_t most;
    uint32_t mode;
    uint32_t flags;
};

bool hello_decode(struct hello *hello, uint8_t *bytes, size_t length);
/* False with errno ENOMEM or, for a payload that is wrong, EBADMSG. */
bool mount_decode(struct mount_request *request, uint8_t *bytes, size_t length);
bool exec_decode(struct exec_request *request, uint8_t *bytes, size_t length);
void exec_request_free(struct exec_request *request);
bool file_decode(struct file_request *request, uint8_t kind, uint8_t *bytes, size_t length);
/* Is it a kind that the host may send, on control (channel 0) or on another channel? */
bool kind_on_control(uint8_t kind);
bool kind_on_channel(uint8_t kind);

#endif
