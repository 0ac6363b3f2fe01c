/* One cgroup per command, and one for all that holds the limit of processes, where the kernel is our own: a machine's or gVisor's. */
#ifndef AK_CGROUP_H
#define AK_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

/* Mounts nothing: /sys/fs/cgroup must be there. False when it is not usable. */
bool cgroup_prepare(void);
/* In gVisor, whose kernel has version 1 only and both hierarchies from the start: pids has one group for all, which we are in and commands are
 * born in, because what is further below is not counted; job has one per command, for nothing but to know whose descendants are whose. The
 * limit does not hold: the kernel charges a fork to any one of its seven hierarchies, so that one at the limit fails now and then; what is
 * certain is that we start nothing more. Source: gVisor, pkg/sentry/kernel/task_cgroup.go, chargeLocked. */
bool cgroup_prepare_gvisor(void);
/* 0 for no limit. Returns 0 or an errno. */
int cgroup_limit_processes(uint32_t most);
/* Moving into a cgroup is not stopped by its pids.max, only forking is: so whoever adds a command asks first. */
bool cgroup_is_full(void);
/* How many processes commands have now. */
uint32_t cgroup_processes(void);
/* Makes cgroup `number`; returns its open cgroup.procs or -1. */
int cgroup_make(uint64_t number);
void cgroup_kill(uint64_t number);
/* True once it is gone: it can not be removed while something lives in it. */
bool cgroup_remove(uint64_t number);

#endif
