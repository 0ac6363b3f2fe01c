#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bytes.h"
#include "cgroup.h"
#include "keeper.h"
#include "loop.h"
#include "paths.h"
#include "payload.h"
#include "place.h"
#include "spawn.h"
#include "tree.h"

/* Commands whose channel is closed but whose children still hold a pipe or a cgroup count too. */
#define RUNS_MOST 512u
#define LIMITS_MOST 32u
#define DESCRIPTORS_DEFAULT 1024u
#define KNOWN_FLAGS (EXEC_STDIN | EXEC_TERMINAL | EXEC_MAKE_CWD)

struct output {
    struct source source;
    struct run *run;
    uint8_t kind;
    size_t left; /* once the program has ended: what its pipe held then and is still to be sent */
};

struct run {
    struct run *next;
    struct channel *channel; /* NULL once it is closed */
    pid_t pid;
    pid_t keeper; /* 0 when there is none */
    bool ended;
    struct ending ending;
    struct output outputs[2];
    struct source input;
    struct source report;
    uint8_t *held; /* input that the program has not taken, WINDOW_BYTES of room */
    size_t held_at;
    size_t held_end;
    bool input_over;
    uint8_t *ring; /* output of a program whose channel was closed */
    size_t ring_at;
    bool has_cgroup;
    bool removal_due; /* something has ended since the cgroup was last found busy */
    uint64_t cgroup;
};

static struct run *runs;
static size_t run_count;
static uint64_t cgroup_number;
/* Where output goes that nobody may see any more. */
static uint8_t scratch[RING_BYTES];

#define OF(source, type, member) ((type *)(void *)((char *)(source) - offsetof(type, member)))

/* --- output --- */

static void keep_in_ring(struct run *run, const uint8_t *bytes, size_t length)
{
    size_t first = RING_BYTES - run->ring_at;
    if (length < first)
        first = length;
    memcpy(run->ring + run->ring_at, bytes, first);
    memcpy(run->ring, bytes + first, length - first);
    run->ring_at = (run->ring_at + length) % RING_BYTES;
}

static void finish_output(struct output *output)
{
    loop_close(&output->source);
    output->left = 0;
}

static void drain(struct output *output)
{
    ssize_t got = read(output->source.fd, scratch, sizeof scratch);
    if (got > 0 && output->run->ring)
        keep_in_ring(output->run, scratch, (size_t)got);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        finish_output(output);
}

static size_t may_send(const struct output *output)
{
    const struct run *run = output->run;
    size_t most = channel_allows(run->channel);
    return run->ended && output->left < most ? output->left : most;
}

static void output_ready(struct source *source, uint32_t events)
{
    struct output *output = OF(source, struct output, source);
    (void)events;
    if (!output->run->channel) {
        drain(output);
        return;
    }
    size_t most = may_send(output);
    uint8_t *at = most > 0 ? out_open(&session.out, most) : NULL;
    if (!at)
        return;
    ssize_t got = read(source->fd, at, most);
    if (got > 0) {
        channel_sent(output->run->channel, output->kind, (size_t)got);
        if (output->run->ended)
            output->left -= (size_t)got;
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        finish_output(output);
    }
}

/* --- input --- */

static void end_input(struct run *run)
{
    loop_close(&run->input);
    if (run->channel)
        channel_consumed(run->channel, run->held_end - run->held_at);
    run->held_at = run->held_end = 0;
    free(run->held);
    run->held = NULL;
}

static void feed_input(struct run *run)
{
    while (run->held_at < run->held_end) {
        ssize_t done = write(run->input.fd, run->held + run->held_at, run->held_end - run->held_at);
        if (done < 0) {
            if (errno != EAGAIN && errno != EINTR)
                end_input(run); /* EPIPE: the program wants no more, so the rest counts as taken */
            return;
        }
        run->held_at += (size_t)done;
        if (run->channel)
            channel_consumed(run->channel, (size_t)done);
    }
    run->held_at = run->held_end = 0;
    if (run->input_over)
        end_input(run);
}

static void input_ready(struct source *source, uint32_t events)
{
    (void)events;
    feed_input(OF(source, struct run, input));
}

static void take_input(struct run *run, const struct frame *frame)
{
    struct channel *channel = run->channel;
    size_t length = frame->length;
    if (!channel_received(channel, length))
        return;
    if (run->input.fd < 0 || run->input_over || length == 0) {
        channel_consumed(channel, length);
        return;
    }
    if (!run->held)
        run->held = malloc(WINDOW_BYTES);
    if (!run->held) {
        end_input(run);
        channel_consumed(channel, length);
        return;
    }
    if (length > WINDOW_BYTES - run->held_end) {
        /* It fits: what is held here was never given back, so the window has counted it. */
        memmove(run->held, run->held + run->held_at, run->held_end - run->held_at);
        run->held_end -= run->held_at;
        run->held_at = 0;
    }
    memcpy(run->held + run->held_end, frame->payload, length);
    run->held_end += length;
    feed_input(run);
}

/* --- ending --- */

static void ended(struct run *run, const struct ending *ending)
{
    if (run->ended)
        return;
    run->ended = true;
    run->ending = *ending;
    loop_close(&run->report);
    end_input(run);
    for (int i = 0; i < 2; i++) {
        int held = 0;
        if (run->outputs[i].source.fd >= 0 && ioctl(run->outputs[i].source.fd, FIONREAD, &held) == 0 && held > 0)
            run->outputs[i].left = (size_t)held;
    }
}

static void take_report(struct run *run)
{
    struct ending ending;
    ssize_t got = read(run->report.fd, &ending, sizeof ending);
    if (got == (ssize_t)sizeof ending)
        ended(run, &ending);
    else if (got == 0)
        loop_close(&run->report);
}

static void report_ready(struct source *source, uint32_t events)
{
    (void)events;
    take_report(OF(source, struct run, report));
}

/* A keeper that was killed by what it kept: its program is our child now, or was collected with nobody told. */
static void keeper_died(struct run *run)
{
    if (run->report.fd >= 0)
        take_report(run);
    run->keeper = 0;
    if (!run->ended && kill(run->pid, 0) != 0 && errno == ESRCH) {
        struct ending unknown;
        memset(&unknown, 0, sizeof unknown);
        unknown.status = SIGKILL;
        ended(run, &unknown);
    }
}

void exec_reap(void)
{
    struct ending ending;
    memset(&ending, 0, sizeof ending);
    for (;;) {
        pid_t pid = wait4(-1, &ending.status, WNOHANG, &ending.usage);
        if (pid <= 0)
            return;
        for (struct run *run = runs; run; run = run->next) {
            run->removal_due = true;
            if (run->keeper == pid)
                keeper_died(run);
            else if (run->pid == pid && !run->ended)
                ended(run, &ending);
        }
    }
}

static uint64_t microseconds(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000u + (uint64_t)time.tv_usec;
}

static void send_exit(struct run *run)
{
    uint8_t bytes[32];
    struct writer w = writer_of(bytes, sizeof bytes);
    int status = run->ending.status;
    put_u8(&w, WIFSIGNALED(status) ? 1 : 0);
    put_u32(&w, (uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
    put_u64(&w, microseconds(run->ending.usage.ru_utime));
    put_u64(&w, microseconds(run->ending.usage.ru_stime));
    put_u64(&w, (uint64_t)run->ending.usage.ru_maxrss);
    out_frame(&session.out, run->channel->id, EXIT, &w);
    channel_close(run->channel);
}

void exec_detach(struct run *run)
{
    run->channel = NULL;
    end_input(run);
    if (!run->ended && !run->ring)
        run->ring = calloc(1, RING_BYTES); /* without memory the output is discarded, which nobody can tell yet */
}

static bool is_over(struct run *run)
{
    if (!run->ended || run->channel || run->outputs[0].source.fd >= 0 || run->outputs[1].source.fd >= 0)
        return false;
    if (run->has_cgroup && run->removal_due && cgroup_remove(run->cgroup))
        run->has_cgroup = false;
    run->removal_due = false;
    return !run->has_cgroup;
}

static void watch(struct run *run)
{
    for (int i = 0; i < 2; i++) {
        struct output *output = &run->outputs[i];
        loop_watch(&output->source, !run->channel || may_send(output) > 0 ? EPOLLIN : 0);
    }
    loop_watch(&run->input, run->held_at < run->held_end ? EPOLLOUT : 0);
    loop_watch(&run->report, EPOLLIN);
}

void exec_step(void)
{
    for (struct run **at = &runs; *at;) {
        struct run *run = *at;
        if (run->ended && run->channel && run->outputs[0].left == 0 && run->outputs[1].left == 0 &&
            out_takes_answers(&session.out))
            send_exit(run);
        if (is_over(run)) {
            *at = run->next;
            run_count--;
            free(run->ring);
            free(run);
            continue;
        }
        watch(run);
        at = &run->next;
    }
}

/* --- frames for a running command --- */

static void end_tree(struct run *run)
{
    if (run->ended)
        return;
    if (run->has_cgroup) {
        cgroup_kill(run->cgroup);
    } else if (run->keeper > 0) {
        tree_kill_below(run->keeper);
    } else {
        kill(run->pid, SIGSTOP);
        tree_kill_below(run->pid);
        kill(run->pid, SIGKILL);
    }
}

bool exec_frame(struct run *run, const struct frame *frame)
{
    uint32_t number;
    switch (frame->kind) {
    case STDIN:
        take_input(run, frame);
        return true;
    case STDIN_END:
        if (frame->length != 0)
            return false;
        run->input_over = true;
        if (run->input.fd >= 0 && run->held_at == run->held_end)
            end_input(run);
        return true;
    case SIGNAL:
        if (frame->length != 4)
            return false;
        number = get_u32(frame->payload);
        if (!run->ended && number >= 1 && number < (uint32_t)NSIG)
            kill(-run->pid, (int)number);
        return true;
    case RESIZE: /* there is no terminal to resize */
        return frame->length == 8;
    case KILL:
        if (frame->length != 0)
            return false;
        end_tree(run);
        return true;
    default:
        return false;
    }
}

void exec_kill_all(void)
{
    tree_kill_below(getpid());
    exec_reap();
}

/* --- starting --- */

/* Six ends: what the program gets, and what we keep (-1 for none). */
struct pipes {
    int theirs[3];
    int ours[3];
};

static void close_all(int *descriptors)
{
    for (int i = 0; i < 3; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
}

static bool open_pipes(struct pipes *pipes, bool with_stdin)
{
    for (int i = 0; i < 3; i++)
        pipes->theirs[i] = pipes->ours[i] = -1;
    for (int i = 0; i < 3; i++) {
        int pair[2];
        if (i == 0 && !with_stdin) {
            pipes->theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
            if (pipes->theirs[0] < 0)
                return false;
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
    struct rlimit own;
    int count = 0;
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

static struct run *adopt(struct channel *channel, const struct pipes *pipes, const struct kept *kept)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run)
        return NULL;
    run->channel = channel;
    run->pid = kept->pid;
    run->keeper = kept->keeper;
    run->input = (struct source){.fd = pipes->ours[0], .ready = input_ready};
    run->report = (struct source){.fd = kept->report, .ready = report_ready};
    for (int i = 0; i < 2; i++)
        run->outputs[i] = (struct output){
            .source = {.fd = pipes->ours[i + 1], .ready = output_ready},
            .run = run,
            .kind = i == 0 ? STDOUT : STDERR,
        };
    run->next = runs;
    runs = run;
    run_count++;
    return run;
}

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
    if (run_count >= RUNS_MOST || (place.cgroup && cgroup_is_full()))
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
    struct run *run = failed ? NULL : adopt(channel, &pipes, &kept);
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

static void prepare_and_start(struct channel *channel, struct exec_request *request)
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
        .limits = limits,
        .limit_count = (size_t)limit_count,
    };
    start(channel, request, &s);
}

bool exec_open(struct channel *channel, uint8_t *bytes, size_t length)
{
    struct exec_request request;
    if (!exec_decode(&request, bytes, length)) {
        if (errno != ENOMEM)
            return false;
        channel_fail(channel, ENOMEM, "request", "");
        return true;
    }
    prepare_and_start(channel, &request);
    exec_request_free(&request);
    return true;
}
