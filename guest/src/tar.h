/* Tar archives, without I/O: bytes in, members and their data out. ustar, pax (path, linkpath, size), GNU long names. */
#ifndef AK_TAR_H
#define AK_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TAR_BLOCK 512u
#define TAR_NAME_BYTES 4096u
#define TAR_EXTENSION_BYTES (64u * 1024u)

enum tar_event {
    TAR_WAITS, /* for more bytes */
    TAR_MEMBER, /* name, link, mode, size, type are set */
    TAR_DATA, /* a piece of the member's content */
    TAR_MEMBER_END, /* of a regular file */
    TAR_WRONG, /* error is set; the parser stays here */
};

enum tar_phase { TAR_HEADER, TAR_EXTENSION, TAR_CONTENT, TAR_PADDING, TAR_OVER, TAR_BROKEN };

struct tar {
    enum tar_phase phase;
    int error;
    char type; /* f d l h, or o for what is never extracted */
    uint32_t mode;
    uint64_t size;
    int64_t modified;
    char name[TAR_NAME_BYTES];
    char link[TAR_NAME_BYTES];
    /* the rest is the parser's own */
    char extension_type;
    bool end_due;
    bool has_name;
    bool has_link;
    bool has_size;
    uint64_t pax_size;
    uint64_t left; /* bytes of content or padding to come */
    uint32_t padding;
    size_t have;
    uint8_t block[TAR_BLOCK];
    uint8_t extension[TAR_EXTENSION_BYTES];
};

void tar_reset(struct tar *tar);
/* Takes from *bytes what it needs. After TAR_DATA, *data and *data_length are a piece of the input. */
enum tar_event tar_next(struct tar *tar, const uint8_t **bytes, size_t *length, const uint8_t **data, size_t *data_length);
/* May the input end here? */
bool tar_complete(const struct tar *tar);
/* A relative path without "..": leading "./" and trailing "/" are cut off. NULL when it is absolute, climbs, or is too odd. */
char *tar_clean_path(char *path);

#endif
