/* What one supervisor was told to do. Filled once from argv (args.c), then read only. */
#ifndef AK_CONFIG_H
#define AK_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>

enum { MAX_BINDS = 64, MAX_PASSED = 64, MAX_ENV = 64, MAX_LIMITS = 16, MAX_GROUPS = 8, MAX_COVERS = 4 };

struct bind {
    const char *source;
    const char *target;
};

struct limit {
    int resource;
    rlim_t value;
};

struct config {
    const char *id;
    int control_fd;
    int log_fd; /* -1: /dev/null */
    bool as_root;
    uid_t uid; /* on the host */
    gid_t gid;
    const char *tree;
    struct bind binds[MAX_BINDS];
    size_t bind_count;
    struct bind covers[MAX_COVERS]; /* both inside; only of who nests */
    size_t cover_count;
    int groups[MAX_GROUPS]; /* open cgroup.procs */
    size_t group_count;
    int passed[MAX_PASSED];
    size_t passed_count;
    char *env[MAX_ENV + 1];
    size_t env_count;
    struct limit limits[MAX_LIMITS];
    size_t limit_count;
    unsigned long tmp_bytes;
    int oom_score_adj;
    bool kvm;
    bool jailer; /* the program confines itself: it gets namespaces of its own and root's rights, and no tree */
    bool nesting;  /* the program makes namespaces of its own: runsc */
    int stdio_fd; /* -1: none; else the program's stdin and stdout */
    const char *remove;
    char **program; /* NULL-terminated; program[0] is a path inside the new root */
};

/* Fills `config`; on a mistake returns what is wrong with it, in words, else NULL. `control_fd` is set as soon as it is known. */
const char *parse_args(struct config *config, int argc, char **argv);

#endif
