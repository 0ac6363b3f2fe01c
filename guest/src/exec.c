#include "exec.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bytes.h"
#include "cgroup.h"
#include "keeper.h"
#include "loop.h"
#include "payload.h"
#include "run.h"
#include "start.h"
#include "streams.h"
#include "tree.h"

/* Commands whose channel is closed but whose children still hold a pipe or a cgroup count too. */
#define RUNS_MOST 512u

static struct run *runs;
static size_t run_count;

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

/* --- the table --- */

bool runs_are_full(void)
{
    return run_count >= RUNS_MOST;
}

struct run *run_adopt(struct channel *channel, const int ours[3], const struct kept *kept)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run)
        return NULL;
    run->channel = channel;
    run->pid = kept->pid;
    run->keeper = kept->keeper;
    run->input = (struct source){.fd = ours[0], .ready = input_ready};
    run->report = (struct source){.fd = kept->report, .ready = report_ready};
    for (int i = 0; i < 2; i++)
        run->outputs[i] = (struct output){
            .source = {.fd = ours[i + 1], .ready = output_ready},
            .run = run,
            .kind = i == 0 ? STDOUT : STDERR,
        };
    run->next = runs;
    runs = run;
    run_count++;
    return run;
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
    for (struct run *run = runs; run; run = run->next) {
        if (run->ended && run->channel && run->outputs[0].left == 0 && run->outputs[1].left == 0 &&
            out_takes_answers(&session.out))
            send_exit(run);
        watch(run);
    }
}

void exec_forget(void)
{
    for (struct run **at = &runs; *at;) {
        struct run *run = *at;
        if (!is_over(run)) {
            at = &run->next;
            continue;
        }
        *at = run->next;
        run_count--;
        free(run->ring);
        free(run);
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
        kill(run->keeper, SIGCONT); /* its command may have stopped it, and it has to tell the end */
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

/* --- opening --- */

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
