#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    int resource;
} LIMITS[] = {
    {"as", RLIMIT_AS},         {"core", RLIMIT_CORE},     {"cpu", RLIMIT_CPU},     {"data", RLIMIT_DATA},   {"fsize", RLIMIT_FSIZE},
    {"memlock", RLIMIT_MEMLOCK}, {"nofile", RLIMIT_NOFILE}, {"nproc", RLIMIT_NPROC}, {"stack", RLIMIT_STACK},
};

static bool number(const char *text, unsigned long most, unsigned long *value) {
    char *end = NULL;
    if (*text < '0' || *text > '9') return false; /* strtoul takes blanks and signs */
    errno = 0;
    *value = strtoul(text, &end, 10);
    return errno == 0 && *end == '\0' && *value <= most;
}

static const char *descriptor(const char *text, int *fd) {
    unsigned long value = 0;
    if (!number(text, INT_MAX, &value) || value < 3) return "a descriptor is a number above 2";
    if (fcntl((int)value, F_GETFD) < 0) return "a descriptor that was named is not open";
    *fd = (int)value;
    return NULL;
}

static const char *limit(struct config *config, const char *text) {
    const char *equals = strchr(text, '=');
    unsigned long value = 0;
    if (equals == NULL || !number(equals + 1, ULONG_MAX, &value)) return "--rlimit is NAME=NUMBER";
    if (config->limit_count == MAX_LIMITS) return "too many --rlimit";
    for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++) {
        size_t length = strlen(LIMITS[i].name);
        if (length == (size_t)(equals - text) && strncmp(LIMITS[i].name, text, length) == 0) {
            config->limits[config->limit_count++] = (struct limit){LIMITS[i].resource, (rlim_t)value};
            return NULL;
        }
    }
    return "--rlimit names an unknown limit";
}

static const char *identity(const char *text, unsigned int *value) {
    unsigned long parsed = 0;
    /* 0 would be the host's root, and (uid_t)-1 means "leave as it is" to setresuid(2). */
    if (!number(text, UINT_MAX - 1, &parsed) || parsed == 0) return "--uid and --gid are numbers above 0";
    *value = (unsigned int)parsed;
    return NULL;
}

static const char *size_option(const char *text, unsigned long *bytes) {
    return number(text, 1UL << 40, bytes) ? NULL : "--tmp-bytes is a number of bytes";
}

static const char *bind_option(struct config *config, const char *source, const char *target) {
    if (source[0] != '/' || target[0] != '/') return "--bind takes two absolute paths";
    if (config->bind_count == MAX_BINDS) return "too many --bind";
    config->binds[config->bind_count++] = (struct bind){source, target};
    return NULL;
}

static const char *cover_option(struct config *config, const char *source, const char *target) {
    if (source[0] != '/' || target[0] != '/') return "--cover takes two absolute paths";
    if (config->cover_count == MAX_COVERS) return "too many --cover";
    config->covers[config->cover_count++] = (struct bind){source, target};
    return NULL;
}

static const char *group_option(struct config *config, const char *text) {
    if (config->group_count == MAX_GROUPS) return "too many --cgroup-fd";
    const char *wrong = descriptor(text, &config->groups[config->group_count]);
    if (wrong == NULL) config->group_count++;
    return wrong;
}

static const char *env_option(struct config *config, char *text) {
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text) return "--env is NAME=VALUE";
    if (config->env_count == MAX_ENV) return "too many --env";
    config->env[config->env_count++] = text;
    return NULL;
}

static const char *pass_option(struct config *config, const char *text) {
    if (config->passed_count == MAX_PASSED) return "too many --pass";
    const char *wrong = descriptor(text, &config->passed[config->passed_count]);
    if (wrong == NULL) config->passed_count++;
    return wrong;
}

static const char *profile_option(struct config *config, const char *text) {
    config->nesting = strcmp(text, "nesting") == 0;
    return config->nesting || strcmp(text, "strict") == 0 ? NULL : "--profile is strict or nesting";
}

static const char *oom_option(struct config *config, const char *text) {
    unsigned long value = 0;
    if (!number(text, 1000, &value)) return "--oom-score-adj is 0 to 1000";
    config->oom_score_adj = (int)value;
    return NULL;
}

/* Options with one value. */
static const char *option(struct config *config, const char *name, char *value) {
    if (strcmp(name, "--control-fd") == 0) return descriptor(value, &config->control_fd);
    if (strcmp(name, "--log-fd") == 0) return descriptor(value, &config->log_fd);
    if (strcmp(name, "--uid") == 0) return identity(value, &config->uid);
    if (strcmp(name, "--gid") == 0) return identity(value, &config->gid);
    if (strcmp(name, "--pass") == 0) return pass_option(config, value);
    if (strcmp(name, "--env") == 0) return env_option(config, value);
    if (strcmp(name, "--rlimit") == 0) return limit(config, value);
    if (strcmp(name, "--tmp-bytes") == 0) return size_option(value, &config->tmp_bytes);
    if (strcmp(name, "--oom-score-adj") == 0) return oom_option(config, value);
    if (strcmp(name, "--profile") == 0) return profile_option(config, value);
    if (strcmp(name, "--cgroup-fd") == 0) return group_option(config, value);
    if (strcmp(name, "--stdio-fd") == 0) return descriptor(value, &config->stdio_fd);
    if (strcmp(name, "--tree") == 0) {
        config->tree = value;
        return value[0] == '/' ? NULL : "--tree takes an absolute path";
    }
    if (strcmp(name, "--remove") == 0) {
        config->remove = value;
        return NULL;
    }
    return "unknown option";
}

static const char *id_is_sound(const char *id) {
    size_t length = strlen(id);
    if (length < 8 || length > 64) return "the id has 8 to 64 characters";
    return strspn(id, "0123456789abcdefghijklmnopqrstuvwxyz-") == length ? NULL : "the id is made of 0-9, a-z and -";
}

/* A mistyped --remove would delete something of the user's: the id must stand in the path, and nothing may climb. */
static const char *remove_is_sound(const struct config *config) {
    const char *path = config->remove;
    if (path == NULL) return NULL;
    size_t length = strlen(path);
    if (path[0] != '/' || length >= PATH_MAX || path[length - 1] == '/') return "--remove is an absolute path without a final slash";
    if (strstr(path, "/../") != NULL || strstr(path, "/./") != NULL) return "--remove holds no dots";
    return strstr(path, config->id) != NULL ? NULL : "--remove must have the id in its path";
}

static const char *is_complete(const struct config *config) {
    bool root = geteuid() == 0;
    if (config->control_fd < 0) return "--control-fd is missing";
    if (config->program == NULL) return "-- PROGRAM is missing";
    if (config->program[0][0] != '/') return "PROGRAM is an absolute path inside the new root";
    if (config->as_root != root) return root ? "root must give --uid and --gid" : "only root may give --uid and --gid";
    if (root && (config->uid == 0 || config->gid == 0)) return "--uid and --gid go together";
    if (config->jailer) {
        if (!root) return "--jailer is for root";
        if (config->tree != NULL || config->bind_count != 0 || config->kvm || config->passed_count != 0)
            return "--jailer goes with no --tree, --bind, --kvm or --pass";
        if (config->nesting) return "--jailer goes with no --profile";
        return remove_is_sound(config);
    }
    if (config->tree == NULL && config->bind_count == 0) return "neither --tree nor --bind was given";
    if (config->cover_count > 0 && !config->nesting) return "--cover goes with --profile nesting";
    return remove_is_sound(config);
}

const char *parse_args(struct config *config, int argc, char **argv) {
    *config = (struct config){.control_fd = -1, .log_fd = -1, .stdio_fd = -1, .tmp_bytes = 1UL << 20, .oom_score_adj = 500};
    if (argc < 2) return "usage: agentkernel-sandbox ID --control-fd N [OPTION]... -- PROGRAM [ARG]...";
    config->id = argv[1];
    const char *wrong = NULL; /* the first mistake; reading on finds --control-fd, where it is reported */
    for (int i = 2; i < argc; i++) {
        const char *mistake = NULL;
        if (strcmp(argv[i], "--") == 0) {
            config->program = i + 1 < argc ? argv + i + 1 : NULL;
            break;
        }
        if (strcmp(argv[i], "--kvm") == 0) {
            config->kvm = true;
        } else if (strcmp(argv[i], "--jailer") == 0) {
            config->jailer = true;
        } else if (strcmp(argv[i], "--bind") == 0 && i + 2 < argc) {
            mistake = bind_option(config, argv[i + 1], argv[i + 2]);
            i += 2;
        } else if (strcmp(argv[i], "--cover") == 0 && i + 2 < argc) {
            mistake = cover_option(config, argv[i + 1], argv[i + 2]);
            i += 2;
        } else if (i + 1 < argc) {
            mistake = option(config, argv[i], argv[i + 1]);
            i++;
        } else {
            mistake = "an option lacks its value";
        }
        if (wrong == NULL) wrong = mistake;
    }
    config->as_root = config->uid != 0 || config->gid != 0;
    if (wrong == NULL) wrong = id_is_sound(config->id);
    return wrong != NULL ? wrong : is_complete(config);
}
