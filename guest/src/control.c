#include "control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cgroup.h"
#include "disks.h"
#include "identity.h"
#include "paths.h"
#include "payload.h"
#include "place.h"
#include "session.h"
#include "tree.h"

#define AGENT_VERSION "agentkernel-agent/1"
#define ANSWER_BYTES 4096u

static uint64_t meminfo_kib(const char *name)
{
    char text[2048];
    size_t length = file_load("/proc/meminfo", text, sizeof text - 1);
    text[length] = 0;
    const char *line = strstr(text, name);
    return line ? strtoull(line + strlen(name), NULL, 10) : 0;
}

struct feature {
    const char *name;
    bool offered;
};

static void put_features(struct writer *w, const struct feature *features, size_t count, bool offered)
{
    uint32_t matching = 0;
    for (size_t i = 0; i < count; i++)
        matching += features[i].offered == offered;
    put_u32(w, matching);
    for (size_t i = 0; i < count; i++)
        if (features[i].offered == offered)
            put_str(w, features[i].name);
}

static void put_fact(struct writer *w, const char *key, const char *value)
{
    char line[256];
    snprintf(line, sizeof line, "%s=%s", key, value);
    put_str(w, line);
}

static void put_facts(struct writer *w)
{
    struct utsname name;
    char boot[40];
    char memory[24];
    size_t length = file_load("/proc/sys/kernel/random/boot_id", boot, sizeof boot - 1);
    boot[length] = 0;
    boot[strcspn(boot, "\n")] = 0;
    snprintf(memory, sizeof memory, "%llu", (unsigned long long)meminfo_kib("MemTotal:"));
    if (uname(&name) != 0)
        memset(&name, 0, sizeof name);
    put_u32(w, 7);
    put_fact(w, "arch", name.machine);
    put_fact(w, "kernel", name.release);
    put_fact(w, "boot_id", boot);
    put_fact(w, "pid1", place.pid1 ? "yes" : "no");
    put_fact(w, "transport", place.transport);
    put_fact(w, "agent", AGENT_VERSION);
    put_fact(w, "memory_kib", memory);
}

static void welcome(const struct identity *done)
{
    uint8_t bytes[ANSWER_BYTES];
    struct writer w = writer_of(bytes, sizeof bytes);
    const struct feature features[] = {
        {"exec", true},          {"stdin", true},           {"signal", true},         {"user-root", place.root},
        {"files", true},         {"tar-in", true},          {"pty", false},           {"tar-out", false},
        {"stream", false},       {"cgroup", place.cgroup},  {"mount", place.mounts},  {"clock", done->clock},
        {"hostname", done->hostname},
    };
    size_t count = sizeof features / sizeof *features;
    put_u32(&w, GENERATION);
    put_features(&w, features, count, true);
    put_features(&w, features, count, false);
    put_facts(&w);
    out_frame(&session.out, 0, WELCOME, &w);
}

/* A generation that we do not know: say ours, do nothing, and stay ungreeted. */
static void disagree(void)
{
    uint8_t bytes[16];
    struct writer w = writer_of(bytes, sizeof bytes);
    put_u32(&w, GENERATION);
    for (int list = 0; list < 3; list++)
        put_u32(&w, 0);
    out_frame(&session.out, 0, WELCOME, &w);
}

static bool greet(const struct frame *frame)
{
    struct hello hello;
    if (!hello_decode(&hello, frame->payload, frame->length))
        return false;
    if (hello.generation != GENERATION) {
        disagree();
        return true;
    }
    struct identity done = identity_take(&hello);
    if (place.cgroup && cgroup_limit_processes(hello.pids) != 0)
        say("agent: the limit of processes could not be set");
    session.greeted = true;
    welcome(&done);
    return true;
}

static bool refresh(const struct frame *frame)
{
    uint8_t bytes[8];
    struct reader r = reader_of(frame->payload, frame->length);
    uint64_t clock_ns = take_u64(&r);
    const uint8_t *entropy = take_exactly(&r, ENTROPY_BYTES);
    if (!taken_exactly(&r))
        return false;
    identity_refresh(clock_ns, entropy);
    struct writer w = writer_of(bytes, sizeof bytes);
    put_u64(&w, identity_count());
    out_frame(&session.out, 0, REFRESHED, &w);
    return true;
}

static uint32_t open_channels(void)
{
    uint32_t count = 0;
    for (size_t i = 0; i < CHANNELS_MOST; i++)
        count += session.channels[i].state != CHANNEL_FREE;
    return count;
}

static bool pong(const struct frame *frame)
{
    uint8_t bytes[24];
    struct reader r = reader_of(frame->payload, frame->length);
    uint64_t nonce = take_u64(&r);
    if (!taken_exactly(&r))
        return false;
    struct writer w = writer_of(bytes, sizeof bytes);
    put_u64(&w, nonce);
    put_u32(&w, place.machine && place.cgroup ? cgroup_processes() : tree_count());
    put_u64(&w, meminfo_kib("MemAvailable:"));
    put_u32(&w, open_channels());
    out_frame(&session.out, 0, PONG, &w);
    return true;
}

static bool mount_disk(const struct frame *frame)
{
    struct mount_request request;
    char what[DISK_WHAT_BYTES] = "mount";
    uint8_t bytes[DISK_WHAT_BYTES + 8];
    if (!mount_decode(&request, frame->payload, frame->length))
        return false;
    int error = place.mounts ? disk_mount(&request, what) : ENOTSUP;
    free(request.pairs);
    if (error == 0)
        what[0] = 0;
    struct writer w = writer_of(bytes, sizeof bytes);
    put_u32(&w, (uint32_t)error);
    put_str(&w, what);
    out_frame(&session.out, 0, MOUNTED, &w);
    return true;
}

bool control_frame(const struct frame *frame)
{
    switch (frame->kind) {
    case HELLO:
        return greet(frame);
    case REFRESH:
        return refresh(frame);
    case PING:
        return pong(frame);
    case MOUNT:
        return mount_disk(frame);
    default:
        break;
    }
    if (frame->length != 0)
        return false;
    if (frame->kind == QUIESCE) {
        session.quiesced = true;
        out_quiesce(&session.out);
    } else if (frame->kind == RESUME) {
        session.quiesced = false;
        out_resume(&session.out);
    } else {
        session.ending = true;
    }
    return true;
}
