/* In gVisor PID 1 can be killed from inside, which no kernel of a machine lets happen: whoever ends it ends the sandbox. */
#ifndef AK_SHIELD_H
#define AK_SHIELD_H

/* The caller, and all that comes from it, cannot signal PID 1: EPERM. Makes system calls only; needs root. 0, or -1 with errno. */
int shield_init(void);

#endif
