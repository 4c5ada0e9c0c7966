// Whole frames over a socket, and the words for who is at its other end.
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "runtime/base/clock.h"
#include "runtime/comm/rendezvous_internal.h"

int rendezvous_poll_ms(double until_s)
{
    double left_s = until_s - clock_now_s();
    return left_s <= 0 ? 0 : (int)fmin(left_s * 1e3 + 1, 1e6);
}

static bool send_whole(int socket, const void *data, uint64_t bytes)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t sent = send(socket, (const char *)data + done, bytes - done, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false;
        done += (uint64_t)sent;
    }
    return true;
}

bool frame_send(int socket, FrameKind kind, bool failed, const void *data, uint64_t bytes)
{
    FrameHeader header = {.kind = kind, .failed = failed, .bytes = bytes};
    return send_whole(socket, &header, sizeof(header)) && send_whole(socket, data, bytes);
}

bool frame_send_welcome(int socket, bool failed, const unsigned char proof[SECRET_BYTES], const void *data,
                        uint64_t bytes)
{
    FrameHeader header = {.kind = FRAME_WELCOME, .failed = failed, .bytes = SECRET_BYTES + bytes};
    return send_whole(socket, &header, sizeof(header)) && send_whole(socket, proof, SECRET_BYTES) &&
           send_whole(socket, data, bytes);
}

bool frame_receive(int socket, void *data, uint64_t bytes, double until_s)
{
    for (uint64_t done = 0; done < bytes;) {
        struct pollfd readable = {.fd = socket, .events = POLLIN};
        int ready = poll(&readable, 1, rendezvous_poll_ms(until_s));
        if (ready == 0 || (ready < 0 && errno != EINTR))
            return false;
        ssize_t received = ready > 0 ? recv(socket, (char *)data + done, bytes - done, 0) : 0;
        if (ready > 0 && received <= 0)
            return false;
        done += (uint64_t)received;
    }
    return true;
}

void rendezvous_socket_prepare(int socket, double timeout_s)
{
    int on = 1;
    struct timeval limit = {.tv_sec = (time_t)timeout_s + 1};
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

void rendezvous_clean(char *text, size_t size)
{
    text[size - 1] = '\0';
    for (unsigned char *c = (unsigned char *)text; *c; c++)
        if (*c < 0x20 || *c == 0x7F || (c[0] == 0xC2 && c[1] >= 0x80 && c[1] < 0xA0)) // of ASCII, and of UTF-8
            *c = '?';
}

void rendezvous_clean_place(Place *place)
{
    rendezvous_clean(place->host, sizeof(place->host));
}

Fault rendezvous_clean_fault(const void *bytes)
{
    Fault fault;
    unsigned char told; // which of another process is any byte
    memcpy(&told, (const char *)bytes + offsetof(Fault, peer_told), sizeof(told));
    memcpy(&fault, bytes, sizeof(fault));
    fault.peer_told = told == 1;
    if ((unsigned)fault.kind >= FAULT_KIND_COUNT || fault.kind == FAULT_NONE)
        fault.kind = FAULT_RUN;
    rendezvous_clean(fault.message, sizeof(fault.message));
    return fault;
}

void rendezvous_describe(const Rendezvous *rendezvous, uint64_t rank, char *out, size_t size)
{
    const Place *place = &rendezvous->places[rank];
    snprintf(out, size, "process %" PRId64 " on %s", place->pid, place->host);
}
