/* The first program of a machine that means ill: it finds the host's port as the agent does, and then does what /mode says. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ATTACH_BYTES = 32, CHECKED_BYTES = 28 };

static size_t load(const char *path, char *text, size_t most)
{
    int fd = open(path, O_RDONLY);
    ssize_t length = fd < 0 ? 0 : read(fd, text, most - 1);
    if (fd >= 0)
        close(fd);
    text[length > 0 ? length : 0] = 0;
    return strlen(text);
}

static void load_modules(void)
{
    static char order[16384];
    load("/modules/order", order, sizeof order);
    for (char *name = strtok(order, "\n"); name; name = strtok(NULL, "\n")) {
        char path[300];
        snprintf(path, sizeof path, "/modules/%.250s", name);
        int fd = open(path, O_RDONLY);
        if (fd >= 0)
            syscall(SYS_finit_module, fd, "", 0);
    }
}

static int open_port(void)
{
    for (;;) {
        for (int number = 0; number < 4; number++) {
            char path[32];
            snprintf(path, sizeof path, "/dev/vport%dp1", number);
            int fd = open(path, O_RDWR);
            if (fd >= 0)
                return fd;
        }
        usleep(5000);
    }
}

static uint32_t crc32(const uint8_t *bytes, size_t length)
{
    uint32_t crc = 0xffffffffU;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320U : crc >> 1;
    }
    return ~crc;
}

static void say(int port, const void *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t sent = write(port, (const char *)bytes + done, length - done);
        if (sent > 0)
            done += (size_t)sent;
        else
            usleep(1000);
    }
}

static void answer_attach(int port, uint8_t epoch_change)
{
    uint8_t record[ATTACH_BYTES];
    for (size_t had = 0; had < sizeof record;) {
        ssize_t got = read(port, record + had, sizeof record - had);
        if (got > 0)
            had += (size_t)got;
        else
            usleep(1000);
    }
    memcpy(record, "AKLINK-ECH1\n", 12);
    record[12] ^= epoch_change;
    uint32_t crc = crc32(record, CHECKED_BYTES);
    memcpy(record + CHECKED_BYTES, &crc, sizeof crc);
    say(port, record, sizeof record);
    /* A frame in the (right) epoch's tag whose length no host may wait for. */
    uint8_t frame[16] = {record[12], record[13], record[14], record[15], 0xff, 0xff, 0xff, 0x7f};
    say(port, frame, sizeof frame);
}

int main(void)
{
    char mode[32];
    static char rubbish[65536];
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    load("/mode", mode, sizeof mode);
    load_modules();
    int port = open_port();
    dprintf(1, "hostile: %s\n", mode);
    if (strcmp(mode, "wrong length") == 0)
        answer_attach(port, 0);
    if (strcmp(mode, "old epoch") == 0)
        answer_attach(port, 1);
    memset(rubbish, 'x', sizeof rubbish);
    while (strcmp(mode, "silence") != 0)
        say(port, rubbish, sizeof rubbish);
    for (;;)
        pause();
}
