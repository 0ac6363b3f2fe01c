/* The agent: one thread, one loop. What is decided where is in guest/README.md. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup.h"
#include "confinement.h"
#include "exec.h"
#include "files.h"
#include "init.h"
#include "loop.h"
#include "paths.h"
#include "place.h"
#include "session.h"
#include "shield.h"
#include "spawn.h"
#include "transport.h"

#define FLUSH_MS 2000
#define SIGNALS_AT_ONCE 4
/* Descriptors for 512 commands' pipes; a container's own limit may be lower. */
#define DESCRIPTORS_WANTED 65536u

/* How much more a command offers itself to the kernel when memory runs out, and the most that there is. */
#define COMMAND_OOM_MORE 500
#define OOM_MOST 1000

struct place place;
static bool told_to_end;

void say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;
    size_t used = (size_t)length < sizeof line - 1 ? (size_t)length : sizeof line - 2;
    line[used++] = '\n';
    ssize_t ignored = write(2, line, used);
    (void)ignored;
}

static void signal_ready(struct source *source, uint32_t events)
{
    struct signalfd_siginfo infos[SIGNALS_AT_ONCE];
    ssize_t got;
    (void)events;
    do {
        got = read(source->fd, infos, sizeof infos);
        for (ssize_t i = 0; i < got / (ssize_t)sizeof *infos; i++)
            if (infos[i].ssi_signo == SIGTERM || infos[i].ssi_signo == SIGINT)
                told_to_end = !place.machine;
    } while (got == (ssize_t)sizeof infos);
    exec_reap();
}

/* Blocked rather than ignored: an ignored signal would be inherited, a blocked one only makes write() say EPIPE. */
static void prepare_signals(struct source *signals)
{
    sigset_t all;
    sigset_t heard;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&heard);
    sigaddset(&heard, SIGCHLD);
    sigaddset(&heard, SIGTERM);
    sigaddset(&heard, SIGINT);
    /* Whoever started us may have ignored SIGCHLD, and then nobody could be waited for; and 64 calls for each command are too many. */
    spawn_reset_signals();
    signals->fd = signalfd(-1, &heard, SFD_CLOEXEC | SFD_NONBLOCK);
    signals->ready = signal_ready;
    loop_watch(signals, EPOLLIN);
}

/* Of what a container's commands get from us. Processes are the control group's to bound: the other limit counts an uid's, in all containers together. */
static void bound_descriptors_and_cores(void)
{
    struct rlimit none = {0, 0};
    if (!place.machine && !place.root)
        setrlimit(RLIMIT_CORE, &none); /* a core's file, or the host's program for cores, is the host's business */
    struct rlimit limit;
    struct rlimit wanted = {DESCRIPTORS_WANTED, DESCRIPTORS_WANTED};
    if (setrlimit(RLIMIT_NOFILE, &wanted) == 0 || getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* In a container commands run as our own uid. Not dumpable, they can neither trace us nor open our memory and descriptors; keepers inherit it, and
 * what is executed is ordinary again. */
static void guard_ourselves(void)
{
    char text[16];
    size_t length = file_load("/proc/self/oom_score_adj", text, sizeof text - 1);
    text[length] = 0;
    long score = strtol(text, NULL, 10) + COMMAND_OOM_MORE;
    place.command_oom_score = (unsigned)(score > OOM_MOST ? OOM_MOST : score < 0 ? 0 : score);
    prctl(PR_SET_DUMPABLE, 0);
}

static bool prepare_transport(int argc, char **argv, int at)
{
    if (at < argc && strcmp(argv[at], "--stdio") == 0)
        return transport_stdio();
    if (at + 1 < argc && strcmp(argv[at], "--socket") == 0)
        return transport_socket(argv[at + 1]);
    return transport_find();
}

static void finish(void)
{
    if (place.machine)
        init_quiet_down();
    else
        exec_kill_all(); /* a container's files are in its host's kernel, which lives on: nothing to sync */
    if (session.ending) {
        out_frame(&session.out, 0, ENDING, NULL);
        transport_flush(FLUSH_MS);
    }
    if (place.machine)
        init_power_off();
}

static void run(void)
{
    while (!told_to_end) {
        transport_step(!session_step());
        bool stuck = session_step(); /* what was just read */
        bool busy = files_step();
        exec_step();
        transport_step(false);
        exec_forget();
        int patience = busy ? 0 : transport_patience();
        if (transport_over() || session.ending)
            break;
        if (stuck && !busy && !out_takes_answers(&session.out))
            patience = -1; /* until the host takes some of its answers */
        else if (stuck)
            patience = 0;
        loop_turn(patience);
    }
}

static int usage(void)
{
    say("usage: agent [--run-directory DIRECTORY] --stdio | --socket PATH     (without arguments: as PID 1 of a machine)\n"
        "       agent --confinement [PATH...]     (says how the kernel holds it)");
    return 2;
}

int main(int argc, char **argv)
{
    struct source signals = {.fd = -1};
    int at = 1;
    if (argc > 1 && strcmp(argv[1], "--confinement") == 0)
        return confinement_report(argv + 2);
    place.pid1 = getpid() == 1;
    place.root = geteuid() == 0;
    place.run_directory = place.pid1 ? "/run/agentkernel" : NULL;
    if (at + 1 < argc && strcmp(argv[at], "--run-directory") == 0) {
        place.run_directory = argv[at + 1];
        at += 2;
    }
    bool told = at < argc && argv[at][0] == '-' && argv[at][1] == '-';
    /* A kernel hands words of its command line to init, so anything without dashes is no argument of ours. */
    place.machine = place.pid1 && !told;
    if (!told && !place.pid1)
        return usage();
    umask(0);
    guard_ourselves();
    if (place.machine)
        init_machine();
    else
        spawn_close_others();
    if (!place.machine && place.pid1 && place.root)
        place.gvisor = place.cgroup = cgroup_prepare_gvisor();
    if (place.gvisor && shield_init() != 0) {
        say("agent: no shield: %s", strerror(errno));
        return 1;
    }
    place.mounts = place.machine || place.gvisor;
    if (place.run_directory)
        mkdir(place.run_directory, 0755);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    bound_descriptors_and_cores();
    loop_prepare();
    prepare_signals(&signals);
    session_prepare();
    if (!prepare_transport(argc, argv, at)) {
        say("agent: no transport: %s", strerror(errno));
        if (place.machine)
            init_power_off();
        return 1;
    }
    /* gVisor lets whoever is inside open the host's descriptors by way of /proc/1/fd: this one ends in what the daemon reads of a dead sandbox. */
    if (place.gvisor)
        dup2(0, 2);
    run();
    finish();
    return 0;
}
