/* Runs inside a sandbox and says what it can see and do there, as JSON. It is built to harm nothing where something is allowed: it opens and does not
 * write, gives arguments that the kernel refuses after it has looked at privilege, and undoes what succeeds. It refuses to run outside a sandbox
 * all the same, because on a host much would succeed. */
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define TOKEN "/scratch/isolation-probe.token"
#define GENERATION "/run/agentkernel/generation"
#define NOT_A_SANDBOX 3

static bool first = true;
static bool first_word;

const char *error_name(int number)
{
    static char other[16];
    static const struct {
        int number;
        const char *name;
    } names[] = {
        {EPERM, "EPERM"}, {ENOENT, "ENOENT"}, {ESRCH, "ESRCH"}, {EINTR, "EINTR"}, {EIO, "EIO"}, {ENXIO, "ENXIO"}, {E2BIG, "E2BIG"},
        {ENOEXEC, "ENOEXEC"}, {EBADF, "EBADF"}, {ECHILD, "ECHILD"}, {EAGAIN, "EAGAIN"}, {ENOMEM, "ENOMEM"}, {EACCES, "EACCES"},
        {EFAULT, "EFAULT"}, {ENOTBLK, "ENOTBLK"}, {EBUSY, "EBUSY"}, {EEXIST, "EEXIST"}, {EXDEV, "EXDEV"}, {ENODEV, "ENODEV"},
        {ENOTDIR, "ENOTDIR"}, {EISDIR, "EISDIR"}, {EINVAL, "EINVAL"}, {ENOTTY, "ENOTTY"}, {ENOSPC, "ENOSPC"}, {EROFS, "EROFS"},
        {EPIPE, "EPIPE"}, {ENOSYS, "ENOSYS"}, {EOPNOTSUPP, "EOPNOTSUPP"}, {EAFNOSUPPORT, "EAFNOSUPPORT"},
        {EPROTONOSUPPORT, "EPROTONOSUPPORT"}, {ESOCKTNOSUPPORT, "ESOCKTNOSUPPORT"}, {EUSERS, "EUSERS"}, {ENOPKG, "ENOPKG"},
        {ENOKEY, "ENOKEY"}, {EDQUOT, "EDQUOT"}, {ESTALE, "ESTALE"}, {ELOOP, "ELOOP"}, {ECONNREFUSED, "ECONNREFUSED"},
        {EPROTOTYPE, "EPROTOTYPE"}, {ETIMEDOUT, "ETIMEDOUT"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].number == number)
            return names[i].name;
    snprintf(other, sizeof other, "E%d", number);
    return other;
}

static void put_text(const char *text)
{
    putchar('"');
    for (size_t i = 0; text[i] != 0 && i < 4000; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\')
            putchar('\\');
        putchar(c < 32 || c > 126 ? (c == '\n' || c == '\t' ? ' ' : '?') : c);
    }
    putchar('"');
}

static void put_name(const char *name)
{
    printf(first ? "\n" : ",\n");
    first = false;
    put_text(name);
    printf(": ");
}

void say(const char *name, const char *text)
{
    put_name(name);
    put_text(text);
    fflush(stdout);
}

void say_outcome(const char *name, long value)
{
    say(name, value >= 0 ? "ok" : error_name(errno));
}

void say_attempt(const char *name, long (*attempt)(void))
{
    char text[32];
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(5);
        long value = attempt();
        _exit(value >= 0 ? 0 : errno);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0) {
        say_outcome(name, -1);
    } else if (WIFSIGNALED(status)) {
        snprintf(text, sizeof text, "killed %d", WTERMSIG(status));
        say(name, text);
    } else {
        say(name, WEXITSTATUS(status) == 0 ? "ok" : error_name(WEXITSTATUS(status)));
    }
}

void list_begin(const char *name)
{
    put_name(name);
    putchar('[');
    first_word = true;
}

void list_add(const char *word)
{
    if (!first_word)
        printf(", ");
    first_word = false;
    put_text(word);
}

void list_end(void)
{
    putchar(']');
    fflush(stdout);
}

long load(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size_t used = 0;
    ssize_t got = -1;
    if (fd < 0)
        return -1;
    while (used + 1 < room && (got = read(fd, text + used, room - 1 - used)) > 0)
        used += (size_t)got;
    int error = errno;
    close(fd);
    text[used] = 0;
    errno = error;
    return got < 0 && used == 0 ? -1 : (long)used;
}

/* A sandbox has all of these, and nothing else does: the caller's token on the private disk, the agent's generation file, and a name of
 * our form which is both the kernel's and the file's. */
static const char *not_a_sandbox(const char *token)
{
    char text[256];
    struct utsname name;
    if (load(TOKEN, text, sizeof text) < 16 || strcmp(text, token) != 0)
        return "no token of its caller's in " TOKEN;
    if (access(GENERATION, R_OK) != 0)
        return "no " GENERATION;
    if (uname(&name) != 0 || strncmp(name.nodename, "sandbox-", 8) != 0)
        return "the host name is no sandbox's";
    if (load("/etc/hostname", text, sizeof text) < 0 || strncmp(text, name.nodename, strlen(name.nodename)) != 0)
        return "the host name is not the one in /etc/hostname";
    return NULL;
}

int main(int argc, char **argv)
{
    const char *objection = not_a_sandbox(argc == 2 ? argv[1] : "");
    if (objection) {
        fprintf(stderr, "isolation probe: this is no sandbox: %s\n", objection);
        return NOT_A_SANDBOX;
    }
    signal(SIGPIPE, SIG_IGN);
    printf("{");
    see_host();
    see_processes();
    see_itself();
    try_writing();
    try_devices();
    try_sockets();
    try_namespaces_and_mounts();
    try_kernel();
    try_agent();
    printf("\n}\n");
    return 0;
}
