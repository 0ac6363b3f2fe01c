#include "start.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cgroup.h"
#include "keeper.h"
#include "paths.h"
#include "place.h"
#include "run.h"
#include "spawn.h"

#define LIMITS_MOST 32u
#define DESCRIPTORS_DEFAULT 1024u
#define KNOWN_FLAGS (EXEC_STDIN | EXEC_TERMINAL | EXEC_MAKE_CWD)

static uint64_t cgroup_number;
static int nothing = -1; /* /dev/null, which one command after another gets as its input */

/* --- the request --- */

static const char *value_of(char *const *env, const char *name)
{
    size_t length = strlen(name);
    for (; *env; env++)
        if (strncmp(*env, name, length) == 0 && (*env)[length] == '=')
            return *env + length + 1;
    return NULL;
}

/* exec_decode left room for these three. */
static void complete_environment(struct exec_request *request, const struct user *user, char lines[EXTRA_ENV][HOME_BYTES + 8])
{
    static const char *const names[EXTRA_ENV] = {"HOME", "USER", "LOGNAME"};
    for (uint32_t i = 0; i < EXTRA_ENV; i++) {
        if (value_of(request->env, names[i]))
            continue;
        snprintf(lines[i], HOME_BYTES + 8, "%s=%s", names[i], i == 0 ? user->home : user->name);
        request->env[request->envc++] = lines[i];
    }
}

/* The default for descriptors first, so that the request can say otherwise. Returns how many, or -1 for a number that is no limit. */
static int gather_limits(const struct exec_request *request, struct limit limits[LIMITS_MOST + 1])
{
    static struct rlimit own; /* settled once at start */
    int count = 0;
    if (own.rlim_max == 0)
        getrlimit(RLIMIT_NOFILE, &own);
    limits[count].resource = RLIMIT_NOFILE;
    limits[count].value.rlim_cur = limits[count].value.rlim_max =
        own.rlim_max < DESCRIPTORS_DEFAULT ? own.rlim_max : DESCRIPTORS_DEFAULT;
    count++;
    if (request->limit_count > LIMITS_MOST)
        return -1;
    for (uint32_t i = 0; i < request->limit_count; i++) {
        const struct rlimit_request *asked = &request->limits[i];
        if (asked->resource >= RLIM_NLIMITS)
            return -1;
        /* Asked for explicitly: it replaces the default, which without privilege could not be raised again. */
        struct limit *to = asked->resource == RLIMIT_NOFILE ? &limits[0] : &limits[count++];
        to->resource = asked->resource;
        to->value.rlim_cur = (rlim_t)asked->soft;
        to->value.rlim_max = (rlim_t)asked->hard;
    }
    return count;
}

/* --- pipes --- */

/* Six ends: what the program gets, and what we keep (-1 for none). */
struct pipes {
    int theirs[3];
    int ours[3];
};

static void close_all(int *descriptors)
{
    for (int i = 0; i < 3; i++)
        if (descriptors[i] >= 0 && descriptors[i] != nothing)
            close(descriptors[i]);
}

static bool open_pipes(struct pipes *pipes, bool with_stdin)
{
    for (int i = 0; i < 3; i++)
        pipes->theirs[i] = pipes->ours[i] = -1;
    for (int i = 0; i < 3; i++) {
        int pair[2];
        if (i == 0 && !with_stdin) {
            if (nothing < 0)
                nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
            if (nothing < 0)
                return false;
            pipes->theirs[0] = nothing;
            continue;
        }
        if (pipe2(pair, O_CLOEXEC) != 0)
            return false;
        pipes->theirs[i] = pair[i == 0 ? 0 : 1];
        pipes->ours[i] = pair[i == 0 ? 1 : 0];
        fcntl(pipes->ours[i], F_SETFL, O_NONBLOCK);
    }
    return true;
}

/* --- the new process --- */

static void send_started(const struct channel *channel, pid_t pid)
{
    uint8_t bytes[4];
    struct writer w = writer_of(bytes, sizeof bytes);
    put_u32(&w, (uint32_t)pid);
    out_frame(&session.out, channel->id, STARTED, &w);
}

static void fail_start(struct channel *channel, const struct spawn *s, const struct exec_request *request)
{
    char number[16];
    char what[16];
    const char *name = "";
    switch (s->step) {
    case STEP_RLIMIT:
        name = decimal(number, s->resource);
        break;
    case STEP_USER:
        name = request->user;
        break;
    case STEP_CWD:
        name = request->cwd;
        break;
    case STEP_PROGRAM:
        name = request->argv[0];
        break;
    case STEP_FORK:
    case STEP_CGROUP:
        break;
    }
    snprintf(what, sizeof what, "%s: ", step_name(s->step == STEP_CGROUP ? STEP_FORK : s->step));
    channel_fail(channel, s->error, what, name);
}

/* Everything up to the new process; 0 or -1 with s->step and s->error. */
static int launch(struct spawn *s, struct kept *kept, uint64_t *cgroup)
{
    *kept = (struct kept){.keeper = 0, .pid = -1, .report = -1};
    s->cgroup = -1;
    s->step = STEP_FORK;
    s->error = EAGAIN;
    if (runs_are_full() || (place.cgroup && cgroup_is_full()))
        return -1;
    if (!place.cgroup)
        return keeper_start(kept, s);
    *cgroup = ++cgroup_number;
    s->cgroup = cgroup_make(*cgroup);
    if (s->cgroup < 0) {
        s->error = errno;
        return -1;
    }
    kept->pid = spawn(s);
    close(s->cgroup);
    if (kept->pid < 0)
        cgroup_remove(*cgroup);
    return kept->pid < 0 ? -1 : 0;
}

static void start(struct channel *channel, struct exec_request *request, struct spawn *s)
{
    struct pipes pipes;
    struct kept kept;
    uint64_t cgroup = 0;
    s->step = STEP_FORK;
    if (!open_pipes(&pipes, request->flags & EXEC_STDIN)) {
        s->error = errno;
        close_all(pipes.theirs);
        close_all(pipes.ours);
        fail_start(channel, s, request);
        return;
    }
    memcpy(s->descriptors, pipes.theirs, sizeof s->descriptors);
    int failed = launch(s, &kept, &cgroup);
    close_all(pipes.theirs);
    struct run *run = failed ? NULL : run_adopt(channel, pipes.ours, &kept);
    if (!run) {
        if (!failed) { /* no memory for the record: nobody could ever end it, so it ends now */
            kill(kept.pid, SIGKILL);
            s->step = STEP_FORK;
            s->error = ENOMEM;
        }
        close_all(pipes.ours);
        fail_start(channel, s, request);
        return;
    }
    run->has_cgroup = place.cgroup;
    run->cgroup = cgroup;
    channel->run = run;
    send_started(channel, kept.pid);
}

void prepare_and_start(struct channel *channel, struct exec_request *request)
{
    struct user user;
    struct limit limits[LIMITS_MOST + 1];
    char lines[EXTRA_ENV][HOME_BYTES + 8];
    if (request->argc == 0 || (request->flags & ~(uint32_t)KNOWN_FLAGS)) {
        channel_fail(channel, EINVAL, request->argc == 0 ? "argv" : "flags", "");
        return;
    }
    if (request->flags & EXEC_TERMINAL) {
        channel_fail(channel, ENOTSUP, "pty", "");
        return;
    }
    int error = user_lookup(&user, request->user);
    if (error != 0) {
        channel_fail(channel, error, "user: ", request->user);
        return;
    }
    int limit_count = gather_limits(request, limits);
    if (limit_count < 0) {
        channel_fail(channel, EINVAL, "rlimit: ", "");
        return;
    }
    if (request->flags & EXEC_MAKE_CWD) {
        error = make_directories(request->cwd, 0755, user.uid, user.gid);
        if (error != 0) {
            channel_fail(channel, error, "cwd: ", request->cwd);
            return;
        }
    }
    complete_environment(request, &user, lines);
    struct spawn s = {
        .argv = request->argv,
        .env = request->env,
        .path = value_of(request->env, "PATH"),
        .cwd = request->cwd,
        .user = &user,
        .change_user = place.root,
        .reset_oom = place.machine,
        .oom_score = place.command_oom_score,
        .limits = limits,
        .limit_count = (size_t)limit_count,
    };
    start(channel, request, &s);
}
