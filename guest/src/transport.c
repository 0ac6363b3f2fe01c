#include "transport.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* after sys/socket.h: it needs sa_family_t */
#include <linux/vm_sockets.h>

#include "loop.h"
#include "paths.h"
#include "place.h"
#include "session.h"

#define PORT_NAME "org.agentkernel"
#define VSOCK_PORT 52000u
#define SEARCH_MS 10000
#define SEARCH_STEP_MS 5
/* A hung-up port is looked at this often in case its wake-up was missed; the wake-up itself comes by epoll's edge. */
#define RETRY_MS 100

#define CLOSED_LOOKS 5

enum sort { SORT_PORT, SORT_LISTENER, SORT_PIPE };

static enum sort sort;
static bool connected; /* there is a peer, as far as we know */
static bool open_seen; /* a port: the kernel has agreed that the host side is open */
static int closed_looks; /* a port: how often in a row it was found closed */
static bool over;
static bool readable;
static bool vsock;
static struct source input = {.fd = -1};
static struct source output = {.fd = -1}; /* descriptor 1 with --stdio, else unused */
static struct source listener = {.fd = -1};

static void input_ready(struct source *source, uint32_t events)
{
    (void)source;
    (void)events;
    readable = true;
    /* A port that hung up wakes us when it is opened again; whether it was, the next read tells. */
    connected = true;
}

static void output_ready(struct source *source, uint32_t events)
{
    (void)source;
    (void)events;
}

static void set_nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void lost(void)
{
    session_reset();
    connected = readable = open_seen = false;
    if (sort == SORT_LISTENER)
        loop_close(&input);
    if (sort == SORT_PIPE)
        over = true;
}

/* --- finding --- */

bool transport_stdio(void)
{
    /* Moved away, so that nothing else that runs in this process can talk into the link. */
    input.fd = fcntl(0, F_DUPFD_CLOEXEC, 3);
    output.fd = fcntl(1, F_DUPFD_CLOEXEC, 3);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (input.fd < 0 || output.fd < 0 || null < 0)
        return false;
    dup2(null, 0);
    dup2(null, 1);
    close(null);
    set_nonblocking(input.fd);
    set_nonblocking(output.fd);
    input.ready = input_ready;
    output.ready = output_ready;
    sort = SORT_PIPE;
    connected = readable = true;
    place.transport = "stdio";
    return true;
}

/* The newest peer wins: an old one may be a connection that died without telling. */
static void accept_peer(struct source *source, uint32_t events)
{
    struct sockaddr_vm peer = {0};
    socklen_t length = sizeof peer;
    (void)events;
    int fd = accept4(source->fd, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    /* Programs in here reach vsock too, by loopback; only the host may speak. */
    if (vsock && peer.svm_cid != VMADDR_CID_HOST) {
        close(fd);
        return;
    }
    if (input.fd >= 0)
        lost();
    input.fd = fd;
    input.ready = input_ready;
    connected = readable = true;
}

static bool listen_on(const struct sockaddr *address, socklen_t length)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    if (bind(fd, address, length) != 0 || listen(fd, 4) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return false;
    }
    listener.fd = fd;
    listener.ready = accept_peer;
    sort = SORT_LISTENER;
    loop_watch(&listener, EPOLLIN);
    return true;
}

bool transport_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
        unlink(path); /* of an agent that is gone */
    mode_t before = umask(0177);
    bool listening = listen_on((const struct sockaddr *)&address, sizeof address);
    umask(before);
    place.transport = "socket";
    return listening;
}

static bool listen_on_vsock(void)
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = VSOCK_PORT};
    vsock = true;
    if (access("/dev/vsock", F_OK) != 0 || !listen_on((const struct sockaddr *)&address, sizeof address))
        return vsock = false;
    place.transport = "vsock";
    return true;
}

/* devtmpfs makes /dev/vportNpM under the name that sysfs has; there is no udev to make a nicer one. */
static bool open_port(void)
{
    DIR *directory = opendir("/sys/class/virtio-ports");
    struct dirent *entry;
    if (!directory)
        return false;
    while (input.fd < 0 && (entry = readdir(directory))) {
        char path[320];
        char name[64];
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        size_t length = file_load(path, name, sizeof name - 1);
        name[length] = 0;
        name[strcspn(name, "\n")] = 0;
        if (strcmp(name, PORT_NAME) != 0)
            continue;
        snprintf(path, sizeof path, "/dev/%s", entry->d_name);
        input.fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    }
    closedir(directory);
    if (input.fd < 0)
        return false;
    input.ready = input_ready;
    sort = SORT_PORT;
    connected = readable = true;
    place.transport = "virtio-serial";
    return true;
}

bool transport_find(void)
{
    const struct timespec step = {.tv_nsec = SEARCH_STEP_MS * 1000000};
    for (int waited = 0; waited < SEARCH_MS; waited += SEARCH_STEP_MS) {
        /* A port's name arrives some time after the driver, so a vsock device alone must not win the race at once. */
        if (open_port() || (waited >= 100 && listen_on_vsock()))
            return true;
        nanosleep(&step, NULL);
    }
    errno = ENODEV;
    return false;
}

/* --- moving bytes --- */

static void read_some(void)
{
    uint8_t *where;
    size_t space = link_space(&session.in, &where);
    if (space == 0)
        return;
    ssize_t got = read(input.fd, where, space);
    if (got > 0) {
        link_fed(&session.in, (size_t)got);
        return;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        readable = false;
        open_seen = true;
        return;
    }
    /* A virtio port reads 0 while the host side is closed, and stays a port. But data and the news that the host has opened it travel in
     * different queues, so the first bytes can be here before it: then this is no end, and what they began must not be forgotten. */
    if (sort == SORT_PORT && !open_seen)
        connected = readable = false;
    else
        lost();
}

static int output_descriptor(void)
{
    return sort == SORT_PIPE ? output.fd : input.fd;
}

/* False when the stream took less than there was. */
static bool write_some(void)
{
    const uint8_t *bytes;
    size_t count;
    while ((count = out_peek(&session.out, &bytes)) > 0) {
        ssize_t done = write(output_descriptor(), bytes, count);
        if (done <= 0) {
            if (done < 0 && errno != EAGAIN && errno != EINTR && sort != SORT_PORT)
                lost();
            return false;
        }
        out_wrote(&session.out, (size_t)done);
    }
    return true;
}

/* Reading is by edge: a port whose host went away reports EPOLLHUP for ever, which a level would turn into a busy loop. */
void transport_step(bool may_read)
{
    bool all = true;
    if (may_read && readable && connected && input.fd >= 0)
        read_some();
    if (connected && output_descriptor() >= 0)
        all = write_some();
    if (sort == SORT_PIPE) {
        loop_watch(&input, over ? 0 : EPOLLIN | EPOLLET);
        loop_watch(&output, all || over ? 0 : EPOLLOUT);
    } else if (input.fd >= 0) {
        loop_watch(&input, EPOLLIN | EPOLLET | (all ? 0 : EPOLLOUT));
    }
}

int transport_patience(void)
{
    if (sort == SORT_PORT && !connected) {
        struct pollfd port = {.fd = input.fd, .events = POLLIN};
        if (poll(&port, 1, 0) >= 0 && !(port.revents & POLLHUP)) {
            connected = readable = open_seen = true;
            closed_looks = 0;
            return 0;
        }
        if (++closed_looks == CLOSED_LOOKS)
            session_reset(); /* who sent those first bytes has gone again */
        return RETRY_MS;
    }
    return readable && connected && input.fd >= 0 ? 0 : -1;
}

bool transport_over(void)
{
    return over;
}

void transport_flush(int most_ms)
{
    const uint8_t *bytes;
    while (connected && out_peek(&session.out, &bytes) > 0 && most_ms > 0) {
        struct pollfd port = {.fd = output_descriptor(), .events = POLLOUT};
        if (!write_some() && !over) {
            poll(&port, 1, 20);
            most_ms -= 20;
        }
    }
}
