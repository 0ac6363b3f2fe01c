#include "link.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int link_fd = -1;

void fail(const char *step, int error) {
    struct message message = {.error = error};
    (void)snprintf(message.step, sizeof message.step, "%s", step);
    (void)send(link_fd, &message, sizeof message, MSG_NOSIGNAL);
    _exit(125);
}

void ask_for_maps(void) {
    struct message message = {0};
    char answer = 0;
    if (send(link_fd, &message, sizeof message, MSG_NOSIGNAL) != (ssize_t)sizeof message) _exit(125);
    ssize_t got = 0;
    do {
        got = recv(link_fd, &answer, 1, 0);
    } while (got < 0 && errno == EINTR);
    if (got != 1) _exit(125);
}

void end_if_orphaned(void) {
    char byte = 0;
    ssize_t got = recv(link_fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    if (got >= 0 || errno != EAGAIN) _exit(125);
}

void report(int fd, const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length < 0) return;
    size_t used = (size_t)length < sizeof line - 1 ? (size_t)length : sizeof line - 2;
    for (size_t i = 0; i < used; i++) {
        if (line[i] == '\n') line[i] = ' '; /* one report, one line */
    }
    line[used++] = '\n';
    ssize_t sent = send(fd, line, used, MSG_NOSIGNAL);
    if (sent < 0 && errno == ENOTSOCK) sent = write(fd, line, used); /* not reached in use: main refuses other descriptors */
    (void)sent;
}
