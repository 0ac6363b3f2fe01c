/* Sockets, namespaces, mounts, and what the kernel offers beyond files. Arguments are such that the kernel, after it has looked at privilege, refuses
 * them for another reason: EPERM and ENOSYS are refusals, EINVAL and the like mean that a better argument would have been taken. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif

void try_sockets(void)
{
    static const struct {
        const char *name;
        int family;
    } families[] = {
        {"unix", 1}, {"inet", 2}, {"inet6", 10}, {"key", 15}, {"netlink", 16}, {"packet", 17}, {"rds", 21}, {"can", 29}, {"tipc", 30},
        {"bluetooth", 31}, {"rxrpc", 33}, {"alg", 38}, {"vsock", 40}, {"kcm", 41}, {"qipcrtr", 42}, {"smc", 43}, {"xdp", 44},
    };
    static const char *const types[] = {"", "stream", "datagram", "raw", "rdm", "seqpacket"};
    char word[64];
    list_begin("sockets.opened");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        for (int type = 1; type <= 5; type++) {
            int fd = socket(families[i].family, type | SOCK_CLOEXEC, 0);
            if (fd < 0)
                continue;
            snprintf(word, sizeof word, "%s %s", families[i].name, types[type]);
            list_add(word);
            close(fd);
        }
    list_end();
    list_begin("sockets.netlink");
    for (int protocol = 0; protocol < 23; protocol++) {
        int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
        snprintf(word, sizeof word, "%d", protocol);
        if (fd >= 0) {
            list_add(word);
            close(fd);
        }
    }
    list_end();
    struct {
        unsigned short family, reserved;
        unsigned int port, cid;
        unsigned char zero[4];
    } host = {.family = 40, .port = 1024, .cid = 2};
    int fd = socket(40, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    say_outcome("sockets.vsock-to-host", fd < 0 ? -1 : connect(fd, (struct sockaddr *)&host, sizeof host));
    if (fd >= 0)
        close(fd);
}

static int flag;
static const char *entered;

static long try_unshare(void) { return unshare(flag); }
static long try_unshare_as_root_of_its_own(void) { return unshare(CLONE_NEWUSER | flag); }
static long try_setns(void)
{
    int fd = open(entered, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -1 : setns(fd, 0);
}
static long try_clone3(void) { return syscall(SYS_clone3, NULL, 0); }
static long try_mount(void) { return mount("none", "/tmp", "no-such-file-system", 0, NULL); }
static long try_bind(void) { return mount("/usr", "/tmp", NULL, MS_BIND, NULL) ? -1 : umount2("/tmp", MNT_DETACH); }
static long try_remount(void) { return mount(NULL, "/usr/bin", NULL, MS_REMOUNT | MS_BIND, NULL); }
static long try_umount(void) { return umount2("/usr/bin", 0); }
static long try_fsopen(void) { return syscall(SYS_fsopen, "tmpfs", 0); }
static long try_open_tree(void) { return syscall(SYS_open_tree, AT_FDCWD, "/usr", 1 /* OPEN_TREE_CLONE */); }
static long try_pivot_root(void) { return syscall(SYS_pivot_root, "/usr", "/usr"); }
static long try_chroot(void) { return chroot("/usr"); }

void try_namespaces_and_mounts(void)
{
    static const struct {
        const char *name, *file;
        int flag;
    } kinds[] = {
        {"user", "user", CLONE_NEWUSER}, {"mount", "mnt", CLONE_NEWNS},   {"pid", "pid", CLONE_NEWPID},
        {"network", "net", CLONE_NEWNET}, {"ipc", "ipc", CLONE_NEWIPC},   {"uts", "uts", CLONE_NEWUTS},
        {"cgroup", "cgroup", CLONE_NEWCGROUP}, {"time", "time", CLONE_NEWTIME},
    };
    char name[64];
    char path[64];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        flag = kinds[i].flag;
        snprintf(name, sizeof name, "namespaces.new-%s", kinds[i].name);
        say_attempt(name, try_unshare);
        if (flag != CLONE_NEWUSER) {
            snprintf(name, sizeof name, "namespaces.new-user-and-%s", kinds[i].name);
            say_attempt(name, try_unshare_as_root_of_its_own);
        }
        snprintf(path, sizeof path, "/proc/1/ns/%s", kinds[i].file);
        entered = path;
        snprintf(name, sizeof name, "namespaces.enter-%s", kinds[i].name);
        say_attempt(name, try_setns);
    }
    say_attempt("namespaces.clone3", try_clone3);
    say_attempt("mounts.mount", try_mount);
    say_attempt("mounts.bind", try_bind);
    say_attempt("mounts.remount", try_remount);
    say_attempt("mounts.unmount", try_umount);
    say_attempt("mounts.fsopen", try_fsopen);
    say_attempt("mounts.open-tree", try_open_tree);
    say_attempt("mounts.pivot-root", try_pivot_root);
    say_attempt("mounts.chroot", try_chroot);
}

static long try_bpf_map(void)
{
    unsigned int wanted[18] = {2 /* array */, 4, 8, 1};
    return syscall(SYS_bpf, 0 /* BPF_MAP_CREATE */, wanted, sizeof wanted);
}
static long try_perf(void)
{
    unsigned char wanted[128] = {0};
    wanted[0] = 1; /* software event */
    wanted[4] = sizeof wanted;
    return syscall(SYS_perf_event_open, wanted, -1, 0, -1, 0);
}
static long try_perf_itself(void)
{
    unsigned char wanted[128] = {0};
    wanted[0] = 1;
    wanted[4] = sizeof wanted;
    wanted[40] = 0x61; /* disabled, without kernel and hypervisor */
    return syscall(SYS_perf_event_open, wanted, 0, -1, -1, 0);
}
static long try_io_uring(void)
{
    unsigned char parameters[120] = {0};
    return syscall(SYS_io_uring_setup, 1, parameters);
}
static long try_userfaultfd(void) { return syscall(SYS_userfaultfd, O_CLOEXEC); }
static long try_userfaultfd_of_user(void) { return syscall(SYS_userfaultfd, O_CLOEXEC | 1); }
static long try_add_key(void) { return syscall(SYS_add_key, "user", "isolation-probe", "x", 1, -1 /* thread keyring */); }
static long try_session_keyring(void) { return syscall(SYS_keyctl, 0, -3, 0); }
static long try_request_key(void) { return syscall(SYS_request_key, "user", "isolation-probe-none", NULL, 0); }
static long try_kexec(void) { return syscall(SYS_kexec_load, 0, 17, NULL, ~0UL); }
static long try_module(void) { return syscall(SYS_init_module, "", 0, ""); }
static long try_module_by_file(void) { return syscall(SYS_finit_module, -1, "", 0); }
static long try_remove_module(void) { return syscall(SYS_delete_module, "no-such-module", O_NONBLOCK); }
static long try_handle(void)
{
    struct {
        unsigned int bytes;
        int type;
        unsigned char handle[128];
    } root = {.bytes = 128};
    int mount_id = 0;
    if (syscall(SYS_name_to_handle_at, AT_FDCWD, "/usr", &root, &mount_id, 0) != 0)
        root.bytes = 8;
    return syscall(SYS_open_by_handle_at, AT_FDCWD, &root, O_RDONLY);
}
static long try_reboot(void) { return syscall(SYS_reboot, 0, 0, 0, NULL); }
static long try_swap(void) { return syscall(SYS_swapoff, "/usr/bin"); }
static long try_accounting(void) { return syscall(SYS_acct, "/usr/bin"); }
static long try_clock(void)
{
    struct timespec never = {.tv_sec = 0, .tv_nsec = 2000000000};
    struct timespec now;
    if (syscall(SYS_clock_settime, CLOCK_REALTIME, &never) == 0 || errno != EINVAL)
        return -1;
    /* The kernel looks at the time before it looks at privilege: so set what it is. */
    return clock_gettime(CLOCK_REALTIME, &now) ? -1 : clock_settime(CLOCK_REALTIME, &now);
}
static long try_host_name(void)
{
    char name[65] = "";
    return gethostname(name, sizeof name) ? -1 : sethostname(name, strlen(name));
}
static long try_nice(void) { return syscall(SYS_setpriority, 0, 0, -10); }
static long try_realtime(void)
{
    struct sched_param priority = {.sched_priority = 1};
    return syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &priority);
}
static long try_fanotify(void) { return syscall(SYS_fanotify_init, 0, O_RDONLY); }
static long try_become_root(void) { return syscall(SYS_setresuid, 0, 0, 0); }
static long try_become_other(void) { return syscall(SYS_setresuid, 1234, 1234, 1234); }
#ifdef SYS_iopl
static long try_ports(void) { return syscall(SYS_iopl, 3); }
#else
static long try_ports(void) { return errno = ENOSYS, -1; }
#endif

void try_kernel(void)
{
    static const struct {
        const char *name;
        long (*attempt)(void);
    } attempts[] = {
        {"kernel.bpf", try_bpf_map}, {"kernel.perf-of-all", try_perf}, {"kernel.perf-of-itself", try_perf_itself},
        {"kernel.io-uring", try_io_uring}, {"kernel.userfaultfd", try_userfaultfd},
        {"kernel.userfaultfd-of-user-faults", try_userfaultfd_of_user}, {"kernel.add-key", try_add_key},
        {"kernel.session-keyring", try_session_keyring}, {"kernel.request-key", try_request_key}, {"kernel.kexec", try_kexec},
        {"kernel.load-module", try_module}, {"kernel.load-module-by-file", try_module_by_file},
        {"kernel.remove-module", try_remove_module}, {"kernel.open-by-handle", try_handle}, {"kernel.reboot", try_reboot},
        {"kernel.swap", try_swap}, {"kernel.accounting", try_accounting}, {"kernel.set-clock", try_clock},
        {"kernel.set-host-name", try_host_name}, {"kernel.raise-priority", try_nice}, {"kernel.realtime", try_realtime},
        {"kernel.fanotify", try_fanotify}, {"kernel.become-root", try_become_root}, {"kernel.become-other", try_become_other},
        {"kernel.io-ports", try_ports},
    };
    for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++)
        say_attempt(attempts[i].name, attempts[i].attempt);
}

static long try_trace_agent(void) { return ptrace(PTRACE_SEIZE, 1, NULL, NULL); }
static long try_agents_descriptor(void)
{
    int agent = (int)syscall(SYS_pidfd_open, 1, 0);
    return agent < 0 ? -1 : syscall(SYS_pidfd_getfd, agent, 0, 0);
}
static long try_agents_memory(void)
{
    int fd = open("/proc/1/mem", O_RDONLY | O_CLOEXEC);
    return fd;
}
static long try_agents_folder(void) { return open("/proc/1/fd/0", O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY); }
static long try_agents_root(void) { return open("/proc/1/root/etc", O_RDONLY | O_CLOEXEC); }
static long try_agents_environment(void)
{
    char text[64];
    return load("/proc/1/environ", text, sizeof text);
}
static long try_compare_with_agent(void) { return syscall(SYS_kcmp, getpid(), 1, 0, 0, 0); }

void try_agent(void)
{
    say_attempt("agent.trace", try_trace_agent);
    say_attempt("agent.descriptor", try_agents_descriptor);
    say_attempt("agent.memory", try_agents_memory);
    say_attempt("agent.descriptor-by-name", try_agents_folder);
    say_attempt("agent.root", try_agents_root);
    say_attempt("agent.environment", try_agents_environment);
    say_attempt("agent.compare", try_compare_with_agent);
    list_begin("agent.ports");
    DIR *ports = opendir("/dev/virtio-ports");
    struct dirent *entry;
    while (ports && (entry = readdir(ports)) != NULL) {
        char path[300];
        snprintf(path, sizeof path, "/dev/virtio-ports/%s", entry->d_name);
        int fd = entry->d_name[0] == '.' ? -1 : open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0) {
            list_add(entry->d_name);
            close(fd);
        }
    }
    if (ports)
        closedir(ports);
    list_end();
}
