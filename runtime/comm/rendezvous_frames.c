// Whole frames over a socket, and the words for who is at its other end.
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#include "runtime/base/clock.h"
#include "runtime/comm/rendezvous_internal.h"

int rendezvous_poll_ms(double until_s)
{
    double left_s = until_s - clock_now_s();
    return left_s <= 0 ? 0 : (int)fmin(left_s * 1e3 + 1, 1e6);
}

bool frame_send(int socket, FrameKind kind, bool failed, const void *data, uint64_t bytes)
{
    FrameHeader header = {.kind = kind, .failed = failed, .bytes = bytes};
    const char *pieces[] = {(const char *)&header, data};
    uint64_t sizes[] = {sizeof(header), bytes};
    for (int p = 0; p < 2; p++) {
        for (uint64_t done = 0; done < sizes[p];) {
            ssize_t sent = send(socket, pieces[p] + done, sizes[p] - done, MSG_NOSIGNAL);
            if (sent < 0 && errno == EINTR)
                continue;
            if (sent <= 0)
                return false;
            done += (uint64_t)sent;
        }
    }
    return true;
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

void rendezvous_describe(const Rendezvous *rendezvous, uint64_t rank, char *out, size_t size)
{
    const Place *place = &rendezvous->places[rank];
    snprintf(out, size, "process %" PRId64 " on %s", place->pid, place->host);
}
