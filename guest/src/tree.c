#include "tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Linux's default pid_max; a table of this size costs memory only as far as it is used. */
#define PROCESSES_MOST 32768u
/* Two walks in a row that find nothing new end the loop; this many end it against something that we can not stop (a foreign uid). */
#define WALKS_MOST 200
#define KILLS_MOST 400

struct process {
    pid_t pid;
    pid_t parent;
    pid_t group;
    pid_t session;
    bool gone;
    bool ours;
};

static struct process table[PROCESSES_MOST];
static pid_t stopped[PROCESSES_MOST];

/* Fields 3 to 6 of /proc/PID/stat; the name before them may hold anything, so they begin after the last ')'. */
static bool look(const char *pid, struct process *process)
{
    char path[32];
    char text[512];
    snprintf(path, sizeof path, "/proc/%.12s/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got <= 0)
        return false;
    text[got] = 0;
    const char *end = strrchr(text, ')');
    if (!end || strlen(end) < 5)
        return false;
    process->pid = (pid_t)strtol(pid, NULL, 10);
    process->gone = end[2] == 'Z' || end[2] == 'X';
    char *next;
    process->parent = (pid_t)strtol(end + 4, &next, 10);
    process->group = (pid_t)strtol(next, &next, 10);
    process->session = (pid_t)strtol(next, NULL, 10);
    process->ours = false;
    return true;
}

static size_t scan(void)
{
    DIR *directory = opendir("/proc");
    struct dirent *entry;
    size_t count = 0;
    if (!directory)
        return 0;
    while (count < PROCESSES_MOST && (entry = readdir(directory)))
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && look(entry->d_name, &table[count]))
            count++;
    closedir(directory);
    return count;
}

uint32_t tree_count(void)
{
    DIR *directory = opendir("/proc");
    struct dirent *entry;
    uint32_t count = 0;
    if (!directory)
        return 0;
    while ((entry = readdir(directory)))
        count += entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
    closedir(directory);
    return count;
}

static bool is_ours(pid_t pid, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (table[i].pid == pid)
            return table[i].ours;
    return false;
}

static void mark_below(pid_t root, size_t count)
{
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < count; i++)
            if (!table[i].ours && (table[i].parent == root || is_ours(table[i].parent, count)))
                more = table[i].ours = true;
    }
}

static bool was_stopped(pid_t pid, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (stopped[i] == pid)
            return true;
    return false;
}

/* To it, and in one stroke to all of its group, those included that it has just forked: one at a time, a bomb is as quick as we are, and where it
 * has made us slow, quicker. Only a command's descendants are in its sessions' groups. */
static void signal_all(const struct process *process, int number)
{
    kill(process->pid, number);
    if (process->group > 1 && process->session != getsid(0))
        kill(-process->group, number);
}

static bool stop_new(pid_t root, size_t *known)
{
    size_t count = scan();
    bool found = false;
    mark_below(root, count);
    for (size_t i = 0; i < count; i++)
        if (table[i].ours && !table[i].gone && !was_stopped(table[i].pid, *known) && *known < PROCESSES_MOST) {
            signal_all(&table[i], SIGSTOP);
            stopped[(*known)++] = table[i].pid;
            found = true;
        }
    return found;
}

static bool kill_found(pid_t root)
{
    size_t count = scan();
    bool found = false;
    mark_below(root, count);
    for (size_t i = 0; i < count; i++)
        if (table[i].ours && !table[i].gone) {
            signal_all(&table[i], SIGKILL);
            found = true;
        }
    return found;
}

void tree_kill_below(pid_t root)
{
    const struct timespec moment = {.tv_nsec = 1000000};
    size_t known = 0;
    int idle = 0;
    for (int walk = 0; walk < WALKS_MOST && idle < 2; walk++)
        idle = stop_new(root, &known) ? 0 : idle + 1;
    /* SIGKILL needs no SIGCONT. A process in the middle of dying is still listed, so this waits for it. */
    for (int round = 0; round < KILLS_MOST && kill_found(root); round++)
        nanosleep(&moment, NULL);
}
