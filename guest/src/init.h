/* The first and the last minute of a machine whose PID 1 we are. */
#ifndef AK_INIT_H
#define AK_INIT_H

/* Modules, root, mounts, cgroups. On failure says why and powers off. */
void init_machine(void);
/* Ends every process and makes disks clean. */
void init_quiet_down(void);
_Noreturn void init_power_off(void);

#endif
