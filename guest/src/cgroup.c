#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "paths.h"

#define TOP "/sys/fs/cgroup"
#define ALL TOP "/agentkernel"
#define PATH_BYTES 96u
/* Most that a list of processes is read of at once: the next look at it finds the rest. */
#define LIST_BYTES 4096u
#define ROUNDS_MOST 100
#define MOMENT_NS 1000000

static const char *counted = ALL; /* the group whose processes are limited */
static const char *parent = ALL; /* where commands have their groups */
static uint32_t ourselves; /* how many of those that count are no command's */
static uint32_t limit; /* of those that count; 0 for none */

static void name_of(char path[PATH_BYTES], uint64_t number, const char *file)
{
    snprintf(path, PATH_BYTES, "%s/%" PRIu64 "%s", parent, number, file);
}

static const char *in_counted(char path[PATH_BYTES], const char *file)
{
    snprintf(path, PATH_BYTES, "%s/%s", counted, file);
    return path;
}

/* What programs, and their files in memory, may take together. Where they may take everything, the kernel drops the pages of all that runs
 * and reads them again, for minutes, before it kills anything; with some room kept free it kills at once. */
static void limit_memory(void)
{
    enum { LEAST_MIB = 16, MOST_MIB = 128, SHARE = 10 };
    struct sysinfo facts;
    char text[16];
    if (sysinfo(&facts) != 0)
        return;
    uint64_t total_mib = (uint64_t)facts.totalram * facts.mem_unit >> 20;
    uint64_t free_mib = (uint64_t)facts.freeram * facts.mem_unit >> 20;
    uint64_t kept_mib = total_mib / SHARE;
    if (kept_mib < LEAST_MIB)
        kept_mib = LEAST_MIB;
    if (kept_mib > MOST_MIB)
        kept_mib = MOST_MIB;
    if (free_mib < 2 * kept_mib || free_mib > UINT32_MAX)
        return;
    char with_unit[sizeof text + 1];
    snprintf(with_unit, sizeof with_unit, "%sM", decimal(text, (uint32_t)(free_mib - kept_mib)));
    file_store(ALL "/memory.max", with_unit);
}

bool cgroup_prepare(void)
{
    /* Each controller on its own: one that the kernel lacks must not take the other with it. */
    file_store(TOP "/cgroup.subtree_control", "+memory");
    int error = file_store(TOP "/cgroup.subtree_control", "+pids");
    if (mkdir(ALL, 0755) != 0 && errno != EEXIST)
        return false;
    file_store(ALL "/cgroup.subtree_control", "+memory");
    file_store(ALL "/cgroup.subtree_control", "+pids");
    limit_memory();
    return error == 0;
}

static bool mount_hierarchy(const char *controller)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, TOP "/%s", controller);
    return mkdir(path, 0755) == 0 && mount("cgroup", path, "cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, controller) == 0;
}

bool cgroup_prepare_gvisor(void)
{
    char path[PATH_BYTES];
    counted = TOP "/pids/agentkernel";
    parent = TOP "/job";
    if (mount("cgroup", TOP, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755") != 0 || !mount_hierarchy("pids") ||
        !mount_hierarchy("job") || mkdir(counted, 0755) != 0)
        return false;
    ourselves = 1;
    return file_store(in_counted(path, "cgroup.procs"), "0") == 0;
}

int cgroup_limit_processes(uint32_t most)
{
    char path[PATH_BYTES];
    char text[16] = "max";
    int error = file_store(in_counted(path, "pids.max"), most > 0 ? decimal(text, most + ourselves) : text);
    if (error == 0)
        limit = most > 0 ? most + ourselves : 0;
    return error;
}

uint32_t cgroup_processes(void)
{
    static int current = -1; /* kept open: a system call is dear in gVisor, and this is asked for each command */
    char path[PATH_BYTES];
    char text[24];
    if (current < 0)
        current = open(in_counted(path, "pids.current"), O_RDONLY | O_CLOEXEC);
    ssize_t length = pread(current, text, sizeof text - 1, 0);
    if (length <= 0)
        return 0;
    text[length] = 0;
    uint32_t count = (uint32_t)strtoul(text, NULL, 10);
    return count >= ourselves ? count - ourselves : 0;
}

bool cgroup_is_full(void)
{
    return limit > 0 && cgroup_processes() + ourselves >= limit;
}

int cgroup_make(uint64_t number)
{
    char path[PATH_BYTES];
    name_of(path, number, "");
    if (mkdir(path, 0755) != 0 && errno != EEXIST)
        return -1;
    name_of(path, number, "/cgroup.procs");
    return open(path, O_WRONLY | O_CLOEXEC);
}

/* Everything listed gets the signal; false when nothing is. */
static bool signal_listed(uint64_t number, int signal)
{
    char path[PATH_BYTES];
    char text[LIST_BYTES];
    name_of(path, number, "/cgroup.procs");
    size_t length = file_load(path, text, sizeof text - 1);
    text[length] = 0;
    for (char *at = text; *at != 0;) {
        char *end;
        pid_t pid = (pid_t)strtol(at, &end, 10);
        if (pid > 1)
            kill(pid, signal);
        if (end == at || *end == 0)
            break;
        at = end + 1;
    }
    return length > 0;
}

/* Where there is no cgroup.kill (kernels before 5.14, gVisor): freeze or stop them, so that nothing forks away, then one by one. */
static void kill_one_by_one(uint64_t number)
{
    const struct timespec moment = {.tv_nsec = MOMENT_NS};
    char path[PATH_BYTES];
    name_of(path, number, "/cgroup.freeze");
    if (file_store(path, "1") != 0)
        for (int round = 0; round < 2; round++)
            signal_listed(number, SIGSTOP);
    for (int round = 0; round < ROUNDS_MOST && signal_listed(number, SIGKILL); round++)
        nanosleep(&moment, NULL);
    file_store(path, "0");
}

void cgroup_kill(uint64_t number)
{
    char path[PATH_BYTES];
    name_of(path, number, "/cgroup.kill");
    if (file_store(path, "1") != 0)
        kill_one_by_one(number);
}

bool cgroup_remove(uint64_t number)
{
    char path[PATH_BYTES];
    name_of(path, number, "");
    return rmdir(path) == 0 || errno == ENOENT;
}
