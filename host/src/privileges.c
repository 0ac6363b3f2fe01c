#include "privileges.h"

#include "kernel.h"
#include "link.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdlib.h>
#include <sys/prctl.h>

enum { LAST_POSSIBLE_CAPABILITY = 63 };

/* The bounding set first (that needs a capability), then the rest. In a user namespace without an id 0 a change of uid clears nothing by
 * itself (capabilities(7), "effect of user ID changes"), so it is done by hand. */
int keep_capabilities(unsigned long long mask) {
    for (unsigned long capability = 0; capability <= LAST_POSSIBLE_CAPABILITY; capability++) {
        if ((mask >> capability & 1) != 0) continue;
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
            if (errno == EINVAL) break; /* past the last one that this kernel knows */
            return errno;
        }
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0) return errno;
    unsigned int low = (unsigned int)(mask & 0xffffffffU);
    unsigned int high = (unsigned int)(mask >> 32);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2] = {{.effective = low, .permitted = low}, {.effective = high, .permitted = high}};
    if (syscall(SYS_capset, &header, sets) < 0) return errno;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? errno : 0;
}

/* What runsc needs for its prisons, and what it passes on to a sentry whose root is to be somebody (runsc applies a container's
 * capabilities to it). In a user namespace that maps one uid they reach that namespace's own mounts and processes, and nothing of
 * another; not kept are those that talk to devices, modules, the network, the clock or the log. */
#define BIT(capability) (1ULL << (capability))
static const unsigned long long NESTING =
    BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_FOWNER) | BIT(CAP_FSETID) | BIT(CAP_KILL) | BIT(CAP_SETGID) |
    BIT(CAP_SETUID) | BIT(CAP_SETPCAP) | BIT(CAP_SETFCAP) | BIT(CAP_IPC_LOCK) | BIT(CAP_IPC_OWNER) | BIT(CAP_MKNOD) |
    BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_SYS_ADMIN) | BIT(CAP_SYS_CHROOT) | BIT(CAP_SYS_NICE) | BIT(CAP_SYS_PTRACE) | BIT(CAP_SYS_RESOURCE) |
    BIT(CAP_AUDIT_WRITE) | BIT(CAP_LEASE);

void drop_privileges(const struct config *config) {
    if (config->nesting) {
        if (setresgid(0, 0, 0) < 0) fail("setresgid", errno);
        if (setresuid(0, 0, 0) < 0) fail("setresuid", errno);
        int kept = keep_capabilities(NESTING);
        if (kept != 0) fail("capabilities", kept);
        return;
    }
    if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                  SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED | SECBIT_KEEP_CAPS_LOCKED,
              0, 0, 0) < 0)
        fail("securebits", errno);
    if (setresgid(config->gid, config->gid, config->gid) < 0) fail("setresgid", errno);
    if (setresuid(config->uid, config->uid, config->uid) < 0) fail("setresuid", errno);
    int error = keep_capabilities(0);
    if (error != 0) fail("capabilities", error);
}

void apply_limits(const struct config *config) {
    const struct rlimit none = {0, 0};
    if (setrlimit(RLIMIT_CORE, &none) < 0) fail("rlimit", errno);
    for (size_t i = 0; i < config->limit_count; i++) {
        struct rlimit current;
        if (getrlimit(config->limits[i].resource, &current) < 0) fail("rlimit", errno);
        /* Never above the limit that we have: raising it is not ours to do, and lower is what the caller wanted anyway. */
        rlim_t value = config->limits[i].value < current.rlim_max ? config->limits[i].value : current.rlim_max;
        const struct rlimit wanted = {value, value};
        if (setrlimit(config->limits[i].resource, &wanted) < 0) fail("rlimit", errno);
    }
}

static int ascending(const void *left, const void *right) {
    int a = *(const int *)left;
    int b = *(const int *)right;
    return (a > b) - (a < b);
}

static void close_from_to(unsigned int first, unsigned int last) {
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0) return;
    /* An old container runtime's filter may not know close_range(2) (Linux 5.9). */
    struct rlimit limit = {0, 0};
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) limit.rlim_max = 1 << 20;
    unsigned int end = limit.rlim_max < INT_MAX ? (unsigned int)limit.rlim_max : 1U << 20;
    for (unsigned int fd = first; fd <= last && fd < end; fd++) (void)close((int)fd);
}

void close_all_but(int *keep, size_t count) {
    qsort(keep, count, sizeof *keep, ascending);
    unsigned int first = 3;
    for (size_t i = 0; i < count; i++) {
        if (keep[i] < (int)first) continue;
        close_from_to(first, (unsigned int)keep[i] - 1);
        first = (unsigned int)keep[i] + 1;
    }
    close_from_to(first, UINT_MAX);
}
