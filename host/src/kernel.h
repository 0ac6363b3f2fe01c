/* System calls and constants that the C library may not name yet. Numbers come from the kernel's own headers. */
#ifndef AK_KERNEL_H
#define AK_KERNEL_H

#include <linux/mount.h> /* never together with <sys/mount.h>: they clash in glibc before 2.37 */
#include <sys/syscall.h>
#include <unistd.h>

/* <sys/mount.h> has these too; values are ABI. */
#define AK_MS_EMPTY 15UL /* read-only, nosuid, nodev, noexec */
#define AK_MS_BIND 4096UL
#define AK_MS_REC 16384UL
#define AK_MS_PRIVATE (1UL << 18)
#define AK_MNT_DETACH 2
#define AK_AT_RECURSIVE 0x8000

#ifndef SYS_mount_setattr /* 442 on every architecture since the numbers were unified at 403 */
#define SYS_mount_setattr 442
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#endif
