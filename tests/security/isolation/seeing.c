/* What is seen of the host, of other processes, and of the program's own state. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "probe.h"

static char text[65536];

static void say_file(const char *name, const char *path)
{
    if (load(path, text, sizeof text) < 0) {
        say(name, error_name(errno));
        return;
    }
    text[strcspn(text, "\n")] = 0;
    say(name, text);
}

/* Whether there is anything to read, and not what. */
static void say_readable(const char *name, const char *path)
{
    long length = load(path, text, sizeof text);
    say(name, length < 0 ? error_name(errno) : length == 0 ? "empty" : "readable");
}

/* Addresses are shown as zeros to whoever may not know them. */
static void say_addresses(const char *name, const char *path)
{
    if (load(path, text, sizeof text) <= 0) {
        say_readable(name, path);
        return;
    }
    for (char *line = text; *line != 0; line += strcspn(line, "\n"), line += *line == '\n')
        if (strtoull(line, NULL, 16) != 0) {
            say(name, "addresses");
            return;
        }
    say(name, "zeros");
}

void see_host(void)
{
    struct utsname name;
    if (uname(&name) == 0) {
        say("host.name", name.nodename);
        say("host.kernel", name.release);
        say("host.kernel-build", name.version);
    }
    say_file("host.machine-id", "/etc/machine-id");
    say_file("host.boot-id", "/proc/sys/kernel/random/boot_id");
    say_file("host.command-line", "/proc/cmdline");
    say_file("host.product", "/sys/class/dmi/id/product_name");
    say_file("host.product-uuid", "/sys/class/dmi/id/product_uuid");
    say_file("host.board-serial", "/sys/class/dmi/id/board_serial");
    say_readable("host.kernel-configuration", "/proc/config.gz");
    say_addresses("host.kernel-symbols", "/proc/kallsyms");
    say_addresses("host.io-memory", "/proc/iomem");
    say_readable("host.interrupts", "/proc/interrupts");
    say_readable("host.modules", "/proc/modules");
    say_readable("host.timers", "/proc/timer_list");
    say_readable("host.scheduler", "/proc/sched_debug");
    say_readable("host.memory-image", "/proc/kcore");
    say_readable("host.firmware", "/sys/firmware/acpi/tables/DSDT");
    say_readable("host.kernel-debug", "/sys/kernel/debug/sched/debug");
    say_readable("host.keys", "/proc/keys");
    say_outcome("host.kernel-log", klogctl(3, text, sizeof text));
    list_begin("host.mount-roots");
    if (load("/proc/self/mountinfo", text, sizeof text) > 0) {
        char root[512];
        for (char *line = text; *line != 0; line += strcspn(line, "\n"), line += *line == '\n')
            if (sscanf(line, "%*d %*d %*s %511s", root) == 1 && strcmp(root, "/") != 0)
                list_add(root);
    }
    list_end();
}

void see_processes(void)
{
    char path[300];
    char command[64];
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    list_begin("processes.seen");
    while (proc && (entry = readdir(proc)) != NULL) {
        snprintf(path, sizeof path, "/proc/%s/comm", entry->d_name);
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9' || load(path, command, sizeof command) <= 0)
            continue;
        snprintf(path, sizeof path, "/proc/%.16s/exe", entry->d_name);
        command[strcspn(command, "\n")] = 0;
        list_add(command);
    }
    list_end();
    if (proc)
        closedir(proc);
}

static void say_status(const char *name, const char *field)
{
    static char status[8192];
    size_t length = strlen(field);
    if (load("/proc/self/status", status, sizeof status) > 0)
        for (char *line = status; *line != 0; line += strcspn(line, "\n"), line += *line == '\n')
            if (strncmp(line, field, length) == 0 && line[length] == ':') {
                char *value = line + length + 1;
                value[strcspn(value, "\n")] = 0;
                say(name, value + strspn(value, " \t"));
                return;
            }
    say(name, "not told");
}

void see_itself(void)
{
    static const struct {
        const char *name;
        int resource;
    } limits[] = {
        {"itself.limit-core", RLIMIT_CORE},       {"itself.limit-descriptors", RLIMIT_NOFILE},
        {"itself.limit-locked", RLIMIT_MEMLOCK},  {"itself.limit-realtime", RLIMIT_RTPRIO},
        {"itself.limit-nice", RLIMIT_NICE},
    };
    say_status("itself.uid", "Uid");
    say_status("itself.gid", "Gid");
    say_status("itself.groups", "Groups");
    say_status("itself.capabilities-inheritable", "CapInh");
    say_status("itself.capabilities-permitted", "CapPrm");
    say_status("itself.capabilities-effective", "CapEff");
    say_status("itself.capabilities-bounding", "CapBnd");
    say_status("itself.capabilities-ambient", "CapAmb");
    say_status("itself.no-new-privileges", "NoNewPrivs");
    say_status("itself.seccomp", "Seccomp");
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct rlimit limit;
        char figure[32];
        getrlimit((__typeof__(RLIMIT_CORE))limits[i].resource, &limit);
        snprintf(figure, sizeof figure, "%lld", limit.rlim_max == RLIM_INFINITY ? -1LL : (long long)limit.rlim_max);
        say(limits[i].name, figure);
    }
    list_begin("itself.descriptors");
    for (int fd = 0; fd < 1024; fd++) {
        char number[16];
        snprintf(number, sizeof number, "%d", fd);
        if (fcntl(fd, F_GETFD) >= 0)
            list_add(number);
    }
    list_end();
    list_begin("itself.cgroups");
    if (load("/proc/self/cgroup", text, sizeof text) > 0)
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
            list_add(line);
    list_end();
}
