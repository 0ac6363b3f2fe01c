/* Killing by descent, where there is no cgroup to kill: everything below a process, found through /proc. */
#ifndef AK_TREE_H
#define AK_TREE_H

#include <stdint.h>
#include <sys/types.h>

/* Ends all descendants of `root`, but not `root`. They are stopped first, so that what forks can not outrun the walk. */
void tree_kill_below(pid_t root);
/* Processes that /proc shows. */
uint32_t tree_count(void);

#endif
