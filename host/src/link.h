/* The private socket between supervisor and child while the child builds its own prison, and the way both report failure. */
#ifndef AK_LINK_H
#define AK_LINK_H

#include <stdnoreturn.h>
#include <sys/types.h>

enum { STEP_BYTES = 48 };

/* One message, child to supervisor. `step` empty: "I am in my user namespace, write my maps". */
struct message {
    int error;
    char step[STEP_BYTES];
};

/* The child's end; set once in the child. */
extern int link_fd;

/* Child: tells the supervisor which step failed with which errno, and ends. */
noreturn void fail(const char *step, int error);

/* Child: asks the supervisor to write the id maps and waits until it has. */
void ask_for_maps(void);

/* Child: ends at once if the supervisor is already gone. */
void end_if_orphaned(void);

/* Status lines to the daemon. A daemon that is gone is no error. */
void report(int fd, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
