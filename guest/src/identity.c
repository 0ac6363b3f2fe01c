#include "identity.h"

#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "paths.h"
#include "place.h"

#ifndef RNDRESEEDCRNG
#define RNDRESEEDCRNG _IO('R', 0x07)
#endif

static uint64_t count;

uint64_t identity_count(void)
{
    return count;
}

/* Clones of one template hold the same generator state: until this they return the same "random" bytes. A container's randomness is its host's,
 * and gVisor asks its host for each byte. */
static void mix(const uint8_t *entropy)
{
    if (!place.machine)
        return;
    /* struct rand_pool_info with its array given a size */
    struct {
        int entropy_count;
        int buf_size;
        uint8_t bytes[ENTROPY_BYTES];
    } pool;
    int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return;
    memset(&pool, 0, sizeof pool);
    pool.entropy_count = 8 * (int)ENTROPY_BYTES;
    pool.buf_size = (int)ENTROPY_BYTES;
    memcpy(pool.bytes, entropy, ENTROPY_BYTES);
    /* Without privilege the bytes still go in, uncounted. */
    if (ioctl(fd, RNDADDENTROPY, &pool) != 0 && write(fd, entropy, ENTROPY_BYTES) < 0)
        say("agent: the kernel took no entropy");
    ioctl(fd, RNDRESEEDCRNG);
    close(fd);
    explicit_bzero(&pool, sizeof pool);
}

static bool set_clock(uint64_t clock_ns)
{
    struct timespec now = {
        .tv_sec = (time_t)(clock_ns / 1000000000u),
        .tv_nsec = (long)(clock_ns % 1000000000u),
    };
    /* A container shares its clock with the host, so only a machine may even try. */
    return place.machine && clock_settime(CLOCK_REALTIME, &now) == 0;
}

/* Puts "127.0.1.1 NAME" in place of the line that an earlier greeting put there. */
static void set_hosts(const char *hostname)
{
    static const char head[] = "127.0.1.1\t";
    char old[16384];
    char new[sizeof old + 300];
    size_t length = file_load("/etc/hosts", old, sizeof old - 1);
    size_t used = 0;
    if (length == sizeof old - 1)
        return;
    old[length] = 0;
    if (length == 0)
        used = (size_t)snprintf(new, sizeof new, "127.0.0.1\tlocalhost\n::1\tlocalhost\n");
    for (char *line = old; *line != 0;) {
        size_t span = strcspn(line, "\n");
        span += line[span] == '\n';
        if (strncmp(line, head, sizeof head - 1) != 0) {
            memcpy(new + used, line, span);
            used += span;
        }
        line += span;
    }
    if (used > 0 && new[used - 1] != '\n')
        new[used++] = '\n';
    snprintf(new + used, sizeof new - used, "%s%.255s\n", head, hostname);
    file_replace("/etc/hosts", new, 0644);
}

static bool set_hostname(const char *hostname)
{
    char line[80];
    size_t length = strlen(hostname);
    if (length == 0 || length > 64)
        return false;
    /* A container is usually born with the name that it is to have, and may not change it. */
    bool so_already = gethostname(line, sizeof line) == 0 && strcmp(line, hostname) == 0;
    if (!place.pid1)
        return so_already;
    if (!so_already && sethostname(hostname, length) != 0)
        return false;
    snprintf(line, sizeof line, "%s\n", hostname);
    file_replace("/etc/hostname", line, 0644);
    set_hosts(hostname);
    return true;
}

/* Without root /etc is not ours to write: an image of ours has a link there to a file in our own directory. */
static void set_machine_id(const uint8_t *id)
{
    char line[2 * MACHINE_ID_BYTES + 2];
    char path[256] = "/etc/machine-id";
    if (!place.pid1)
        return;
    if (!place.root)
        snprintf(path, sizeof path, "%s/machine-id", place.run_directory);
    for (size_t i = 0; i < MACHINE_ID_BYTES; i++)
        snprintf(line + 2 * i, 3, "%02x", id[i]);
    line[2 * MACHINE_ID_BYTES] = '\n';
    line[2 * MACHINE_ID_BYTES + 1] = 0;
    file_replace(path, line, 0444);
}

static size_t new_uuid(char line[64])
{
    size_t length = file_load("/proc/sys/kernel/random/uuid", line, 63);
    uint8_t b[16];
    if (length > 0 || getrandom(b, sizeof b, 0) != (ssize_t)sizeof b)
        return length;
    /* gVisor has no such file. Version 4, as in RFC 9562. */
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    return (size_t)snprintf(line, 64, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\n", b[0], b[1], b[2], b[3], b[4],
                            b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

/* The kernel draws its boot id once, so every clone of a template would show the same. A file with another one is laid over it; written in
 * place afterwards, because the mount holds that very file. */
static void set_boot_id(void)
{
    static bool laid;
    static const char shown[] = "/proc/sys/kernel/random/boot_id";
    char path[256];
    char line[64];
    if (!place.mounts || !place.run_directory)
        return;
    size_t length = new_uuid(line);
    snprintf(path, sizeof path, "%s/boot_id", place.run_directory);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0444);
    if (fd < 0)
        return;
    bool written = write(fd, line, length) == (ssize_t)length;
    close(fd);
    if (written && !laid)
        laid = mount(path, shown, NULL, MS_BIND, NULL) == 0;
}

static void bump(void)
{
    char path[256];
    char line[24];
    count++;
    if (!place.run_directory)
        return;
    snprintf(path, sizeof path, "%s/generation", place.run_directory);
    snprintf(line, sizeof line, "%llu\n", (unsigned long long)count);
    file_replace(path, line, 0644);
}

struct identity identity_take(const struct hello *hello)
{
    struct identity done;
    mix(hello->entropy);
    done.clock = set_clock(hello->clock_ns);
    done.hostname = set_hostname(hello->hostname);
    set_machine_id(hello->machine_id);
    set_boot_id();
    bump();
    return done;
}

void identity_refresh(uint64_t clock_ns, const uint8_t *entropy)
{
    mix(entropy);
    set_clock(clock_ns);
    bump();
}
