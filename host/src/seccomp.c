/* A deny filter of our own under whatever filter the program brings (QEMU's -sandbox stacks on top of it). Everything not named is
 * allowed: the list is what a VMM or a WebAssembly worker never needs and what kernel bugs are found in. Source for the choice:
 * the default profile of container engines and the findings in docs (AF_VSOCK was open everywhere despite "no network"). */
#include "seccomp.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#else
#error "no seccomp architecture known for this machine"
#endif

/* Numbers of the unified table (asm-generic/unistd.h, the same on every architecture) that old headers lack. */
enum { NR_QUOTACTL_FD = 443, NR_OPEN_TREE_ATTR = 467, NR_MOUNT_SETATTR = 442, NR_PROCESS_MADVISE = 440, NR_MEMFD_SECRET = 447 };

/* What makes namespaces and their mounts, and what a tracer of its own children needs; for runsc, whose platform is such a tracer. */
static const unsigned int DENIED_UNLESS_NESTING[] = {
    SYS_ptrace, SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_unshare, SYS_setns, SYS_sethostname,
};

static const unsigned int DENIED[] = {
    /* other processes */
    SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_pidfd_getfd, NR_PROCESS_MADVISE,
    /* mounts and namespaces */
    SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_move_mount, SYS_open_tree,
    NR_MOUNT_SETATTR, NR_OPEN_TREE_ATTR, SYS_swapon, SYS_swapoff, SYS_quotactl, NR_QUOTACTL_FD,
    /* keyrings */
    SYS_keyctl, SYS_add_key, SYS_request_key,
    /* code and tracing in the kernel */
    SYS_bpf, SYS_perf_event_open, SYS_kexec_load, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_syslog, SYS_acct,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
    /* handing work to the kernel that no filter sees */
    SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_userfaultfd,
    /* files past all paths */
    SYS_open_by_handle_at, SYS_name_to_handle_at, SYS_fanotify_init, NR_MEMFD_SECRET,
    /* the machine */
    SYS_reboot, SYS_settimeofday, SYS_clock_settime, SYS_clock_adjtime, SYS_adjtimex, SYS_setdomainname,
    SYS_vhangup,
#if defined(__x86_64__)
    SYS_iopl, SYS_ioperm, SYS_modify_ldt,
#endif
};

enum {
    NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET,
    X32_BIT = 0x40000000,
};

static size_t used;
static struct sock_filter *program;

static void emit(uint16_t code, uint32_t value, uint8_t if_true, uint8_t if_false) {
    program[used++] = (struct sock_filter){code, if_true, if_false, value};
}

static void load(size_t offset) { emit(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0); }

static void answer(uint32_t verdict) { emit(BPF_RET | BPF_K, verdict, 0, 0); }

/* On a match runs the next instruction, else skips `skip`. */
static void when_equal(uint32_t value, uint8_t skip) { emit(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip); }

static void refuse_foreign_calls(void) {
    load(offsetof(struct seccomp_data, arch));
    emit(BPF_JMP | BPF_JEQ | BPF_K, NATIVE_ARCH, 1, 0); /* i386 calls have other numbers: they would pass unseen */
    answer(SECCOMP_RET_KILL_PROCESS);
    load(offsetof(struct seccomp_data, nr));
#if defined(__x86_64__)
    emit(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
    answer(SECCOMP_RET_ERRNO | ENOSYS);
#endif
}

/* Sockets are made in the one family that needs no network: anything else (AF_VSOCK, AF_PACKET, AF_ALG, AF_NETLINK, and AF_INET with the
 * protocols that load modules) has to be passed in. The families that come are 32 bit ints, the upper half of the argument is not read
 * by the kernel either. */
static void refuse_families(unsigned int number) {
    when_equal(number, 4);
    load(offsetof(struct seccomp_data, args[0]));
    emit(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 0, 1);
    answer(SECCOMP_RET_ALLOW);
    answer(SECCOMP_RET_ERRNO | EAFNOSUPPORT);
}

static void refuse_namespaces(bool nesting) {
    /* The flags of clone3 lie in memory, which no filter can read; C libraries fall back to clone on ENOSYS. */
    when_equal(SYS_clone3, 1);
    answer(SECCOMP_RET_ERRNO | ENOSYS);
    if (nesting) return;
    when_equal(SYS_clone, 4);
    load(offsetof(struct seccomp_data, args[0])); /* the flags come first on x86-64 and aarch64 */
    emit(BPF_JMP | BPF_JSET | BPF_K, NAMESPACES, 0, 1);
    answer(SECCOMP_RET_ERRNO | EPERM);
    answer(SECCOMP_RET_ALLOW);
}

size_t build_filter(struct sock_filter *out, bool nesting) {
    size_t count = sizeof DENIED / sizeof *DENIED;
    size_t more = nesting ? 0 : sizeof DENIED_UNLESS_NESTING / sizeof *DENIED_UNLESS_NESTING;
    program = out;
    used = 0;
    refuse_foreign_calls();
    refuse_families(SYS_socket);
    refuse_families(SYS_socketpair);
    refuse_namespaces(nesting);
    for (size_t i = 0; i < count + more; i++) {
        unsigned int number = i < count ? DENIED[i] : DENIED_UNLESS_NESTING[i - count];
        emit(BPF_JMP | BPF_JEQ | BPF_K, number, (uint8_t)(count + more - i), 0); /* to the EPERM below */
    }
    answer(SECCOMP_RET_ALLOW);
    answer(SECCOMP_RET_ERRNO | EPERM);
    return used;
}

int install_filter(bool nesting) {
    static struct sock_filter filter[FILTER_MOST];
    _Static_assert(sizeof DENIED / sizeof *DENIED + sizeof DENIED_UNLESS_NESTING / sizeof *DENIED_UNLESS_NESTING < 200, "jump offsets are 8 bits, and FILTER_MOST must hold it all");
    struct sock_fprog description = {.len = (unsigned short)build_filter(filter, nesting), .filter = filter};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &description, 0, 0) < 0 ? errno : 0;
}
