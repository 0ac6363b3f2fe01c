/* What the parts of the probe share: one JSON object on standard output, one member per fact. */
#ifndef PROBE_H
#define PROBE_H

#include <stdbool.h>
#include <stddef.h>

/* A fact as text, bounded, with what JSON does not take replaced. */
void say(const char *name, const char *text);
/* "ok", or the name of errno. */
void say_outcome(const char *name, long value);
/* The same for an attempt that runs in a child, so that what it gains or breaks ends with it; "killed N" by a signal. */
void say_attempt(const char *name, long (*attempt)(void));

/* A list of words. */
void list_begin(const char *name);
void list_add(const char *word);
void list_end(void);

const char *error_name(int number);
/* Up to `room` bytes of a file, terminated; -1 with errno. */
long load(const char *path, char *text, size_t room);

void see_host(void);
void see_processes(void);
void see_itself(void);
void try_writing(void);
void try_devices(void);
void try_sockets(void);
void try_namespaces_and_mounts(void);
void try_kernel(void);
void try_agent(void);

#endif
