// Joining: rank 0 listens, the others connect, introduce themselves and are told who is there. What goes over the
// connections afterwards is in rendezvous_calls.c.
#include "runtime/comm/rendezvous.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/comm/rendezvous_internal.h"

static const double retry_s = 0.05, introduction_s = 5, slack_s = 2, farewell_s = 1;
enum { SIZE_MAX_RANKS = 65536 };

static void socket_prepare(int socket, double timeout_s)
{
    int on = 1;
    struct timeval limit = {.tv_sec = (time_t)timeout_s + 1};
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static Place own_place(void)
{
    Place place = {.pid = getpid()};
    gethostname(place.host, sizeof(place.host) - 1);
    return place;
}

// ---- rank 0 ----------------------------------------------------------------------------------

static int listen_at(uint16_t port, Fault *fault)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    char service[8];
    int listener = -1, error = 0, on = 1, off = 0;
    snprintf(service, sizeof(service), "%u", port);
    if (getaddrinfo(NULL, service, &hints, &list) != 0)
        list = NULL;
    for (int family = AF_INET6; listener < 0 && list; family = AF_INET) { // the former takes both kinds
        for (struct addrinfo *at = list; at && listener < 0; at = at->ai_next) {
            listener = at->ai_family == family ? socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
            if (listener < 0)
                continue;
            setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
            if (family == AF_INET6)
                setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
            if (bind(listener, at->ai_addr, at->ai_addrlen) == 0 && listen(listener, 1024) == 0)
                continue;
            error = errno;
            close(listener);
            listener = -1;
        }
        if (family == AF_INET)
            break;
    }
    if (list)
        freeaddrinfo(list);
    if (listener < 0)
        fault_set(fault, FAULT_RUN, "rank 0 cannot listen at port %u: %s: set MASTER_PORT to a free one", port,
                  strerror(error));
    return listener;
}

static bool admit_hello(Rendezvous *rendezvous, int socket, const Hello *hello, Fault *fault)
{
    const Launch *launch = &rendezvous->launch;
    if (hello->fault_bytes != sizeof(Fault))
        return fault_set(fault, FAULT_RUN, "the process on %.*s is another version of hep-run", PLACE_HOST_MAX,
                         hello->place.host);
    if (hello->size != launch->size)
        return fault_set(fault, FAULT_RUN,
                         "process %" PRId64 " on %.*s was told of %" PRIu64 " processes, rank 0 of %" PRIu64
                         ": launch all together",
                         hello->place.pid, PLACE_HOST_MAX, hello->place.host, hello->size, launch->size);
    Peer *peer = hello->rank > 0 && hello->rank < launch->size ? &rendezvous->peers[hello->rank - 1] : NULL;
    if (!peer || peer->socket >= 0)
        return fault_set(fault, FAULT_RUN, "process %" PRId64 " on %.*s claims to be rank %" PRIu64 ", as another does",
                         hello->place.pid, PLACE_HOST_MAX, hello->place.host, hello->rank);
    peer->socket = socket;
    rendezvous->places[hello->rank] = hello->place;
    rendezvous->places[hello->rank].host[PLACE_HOST_MAX - 1] = '\0';
    return true;
}

// One that says nothing, or something else, is none of ours.
static bool admit(Rendezvous *rendezvous, int socket, uint64_t *joined, Fault *fault)
{
    FrameHeader header;
    Hello hello;
    double until_s = clock_now_s() + introduction_s;
    socket_prepare(socket, rendezvous->timeout_s);
    if (!frame_receive(socket, &header, sizeof(header), until_s) || header.kind != FRAME_HELLO ||
        header.bytes != sizeof(hello) || !frame_receive(socket, &hello, sizeof(hello), until_s) ||
        hello.magic != HELLO_MAGIC) {
        close(socket);
        return true;
    }
    if (admit_hello(rendezvous, socket, &hello, fault)) {
        (*joined)++;
        return true;
    }
    bool sent = frame_send(socket, FRAME_WELCOME, true, fault, sizeof(*fault));
    (void)sent; // the fault is reported either way
    close(socket);
    return false;
}

static bool missing_fault(const Rendezvous *rendezvous, uint64_t joined, Fault *fault)
{
    uint64_t first = 0, missing = rendezvous->peer_count - joined;
    while (rendezvous->peers[first].socket >= 0)
        first++;
    char more[48] = "";
    if (missing > 1)
        snprintf(more, sizeof(more), " (nor did %" PRIu64 " more)", missing - 1);
    fault_set(fault, FAULT_RUN,
              "rank %" PRIu64 " of %" PRIu64 " did not come to %s port %u within %g s%s: look at that process, its "
              "machine and the network",
              first + 1, rendezvous->launch.size, rendezvous->launch.host, rendezvous->launch.port,
              rendezvous->timeout_s, more);
    fault->peer = (int64_t)first + 1;
    return false;
}

static bool welcome_all(Rendezvous *rendezvous, bool ok, Fault *fault)
{
    for (uint64_t p = 0; p < rendezvous->peer_count; p++) {
        const void *data = ok ? (const void *)rendezvous->places : fault;
        uint64_t bytes = ok ? rendezvous->launch.size * sizeof(Place) : sizeof(*fault);
        if (rendezvous->peers[p].socket >= 0 &&
            !frame_send(rendezvous->peers[p].socket, FRAME_WELCOME, !ok, data, bytes) && ok)
            return fault_set(fault, FAULT_RUN, "rank %" PRIu64 " left before all had come", p + 1);
    }
    return ok;
}

static bool gather_all(Rendezvous *rendezvous, Fault *fault)
{
    double until_s = clock_now_s() + rendezvous->timeout_s;
    int listener = rendezvous->peer_count > 0 ? listen_at(rendezvous->launch.port, fault) : -1;
    uint64_t joined = 0;
    bool ok = rendezvous->peer_count == 0 || listener >= 0;
    while (ok && joined < rendezvous->peer_count) {
        struct pollfd waiting = {.fd = listener, .events = POLLIN};
        int ready = poll(&waiting, 1, rendezvous_poll_ms(until_s));
        if (ready == 0 || clock_now_s() > until_s)
            ok = missing_fault(rendezvous, joined, fault);
        int peer = ok && ready > 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (peer >= 0)
            ok = admit(rendezvous, peer, &joined, fault);
    }
    if (listener >= 0)
        close(listener);
    return welcome_all(rendezvous, ok, fault);
}

// ---- the others ------------------------------------------------------------------------------

static int connect_once(const struct addrinfo *at, double until_s, int *error)
{
    int peer = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, at->ai_protocol);
    *error = errno;
    if (peer < 0)
        return -1;
    bool connected = connect(peer, at->ai_addr, at->ai_addrlen) == 0;
    *error = errno;
    if (!connected && errno == EINPROGRESS) {
        struct pollfd writable = {.fd = peer, .events = POLLOUT};
        socklen_t length = sizeof(*error);
        *error = ETIMEDOUT;
        connected = poll(&writable, 1, rendezvous_poll_ms(until_s)) > 0 &&
                    getsockopt(peer, SOL_SOCKET, SO_ERROR, error, &length) == 0 && *error == 0;
    }
    if (connected && fcntl(peer, F_SETFL, fcntl(peer, F_GETFL) & ~O_NONBLOCK) == 0)
        return peer;
    close(peer);
    return -1;
}

static int connect_to_first(const Launch *launch, double timeout_s, Fault *fault)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
    char service[8];
    const char *reason = "";
    double until_s = clock_now_s() + timeout_s;
    int peer = -1;
    snprintf(service, sizeof(service), "%u", launch->port);
    while (peer < 0 && clock_now_s() < until_s) {
        int error = getaddrinfo(launch->host, service, &hints, &list), system = 0;
        reason = gai_strerror(error);
        for (struct addrinfo *at = error == 0 ? list : NULL; at && peer < 0; at = at->ai_next) {
            peer = connect_once(at, until_s, &system);
            reason = strerror(system);
        }
        if (error == 0)
            freeaddrinfo(list);
        if (peer < 0)
            clock_sleep_until(fmin(clock_now_s() + retry_s, until_s));
    }
    if (peer < 0)
        fault_set(fault, FAULT_RUN, "no rank 0 at %s port %u within %g s: %s", launch->host, launch->port, timeout_s,
                  reason);
    return peer;
}

static bool be_welcomed(Rendezvous *rendezvous, Fault *fault)
{
    const Launch *launch = &rendezvous->launch;
    double until_s = clock_now_s() + rendezvous->timeout_s + slack_s;
    int first = rendezvous->peers[0].socket;
    Hello hello = {.magic = HELLO_MAGIC,
                   .fault_bytes = sizeof(Fault),
                   .rank = launch->rank,
                   .size = launch->size,
                   .place = own_place()};
    FrameHeader header;
    Fault told;
    bool answered = frame_send(first, FRAME_HELLO, false, &hello, sizeof(hello)) &&
                    frame_receive(first, &header, sizeof(header), until_s) && header.kind == FRAME_WELCOME;
    if (answered && header.failed && header.bytes == sizeof(told) &&
        frame_receive(first, &told, sizeof(told), until_s)) {
        *fault = (Fault){.kind = told.kind, .rank = -1, .step = -1, .peer = -1}; // rank 0 reports it
        return false;
    }
    if (answered && !header.failed && header.bytes == launch->size * sizeof(Place) &&
        frame_receive(first, rendezvous->places, header.bytes, until_s))
        return true;
    return fault_set(fault, FAULT_RUN, "rank 0 at %s port %u did not answer: is that port another program's?",
                     launch->host, launch->port);
}

// ---- both ------------------------------------------------------------------------------------

static bool memory_create(Rendezvous *rendezvous, Fault *fault)
{
    const Launch *launch = &rendezvous->launch;
    rendezvous->peer_count = launch->rank > 0 ? 1 : launch->size - 1;
    if (launch->size <= SIZE_MAX_RANKS) {
        rendezvous->places = calloc(launch->size, sizeof(*rendezvous->places));
        rendezvous->peers = calloc(rendezvous->peer_count + 1, sizeof(*rendezvous->peers));
    }
    if (launch->size <= SIZE_MAX_RANKS) {
        rendezvous->standings = calloc(launch->size, sizeof(*rendezvous->standings));
        rendezvous->standings_s = calloc(launch->size, sizeof(*rendezvous->standings_s));
        rendezvous->told_standings = calloc(launch->size, sizeof(*rendezvous->told_standings));
    }
    if (!rendezvous->places || !rendezvous->peers || !rendezvous->standings || !rendezvous->standings_s ||
        !rendezvous->told_standings)
        return fault_set(fault, FAULT_MEMORY, "out of memory for %" PRIu64 " ranks", launch->size);
    for (uint64_t p = 0; p < rendezvous->peer_count; p++)
        rendezvous->peers[p] = (Peer){.socket = -1, .rank = launch->rank > 0 ? 0 : p + 1};
    rendezvous->places[launch->rank] = own_place();
    return true;
}

static bool join(Rendezvous *rendezvous, Fault *fault)
{
    if (rendezvous->launch.rank == 0)
        return gather_all(rendezvous, fault);
    rendezvous->peers[0].socket = connect_to_first(&rendezvous->launch, rendezvous->timeout_s, fault);
    if (rendezvous->peers[0].socket < 0)
        return false;
    socket_prepare(rendezvous->peers[0].socket, rendezvous->timeout_s);
    return be_welcomed(rendezvous, fault);
}

Rendezvous *rendezvous_create(const Launch *launch, double timeout_s, Fault *fault)
{
    Rendezvous *rendezvous = calloc(1, sizeof(*rendezvous));
    if (!rendezvous) {
        fault_set(fault, FAULT_MEMORY, "out of memory");
        return NULL;
    }
    rendezvous->launch = *launch;
    rendezvous->timeout_s = timeout_s;
    rendezvous->wake[0] = rendezvous->wake[1] = -1;
    pthread_mutex_init(&rendezvous->mutex, NULL);
    pthread_mutex_init(&rendezvous->send_mutex, NULL);
    clock_cond_init(&rendezvous->changed);
    if (memory_create(rendezvous, fault) && join(rendezvous, fault) && rendezvous_read_begin(rendezvous, fault))
        return rendezvous;
    rendezvous_destroy(rendezvous);
    return NULL;
}

// Says farewell and listens until the other side has: what it sent last is not to be lost.
static void peers_close(Rendezvous *rendezvous)
{
    char rest;
    double until_s = clock_now_s() + farewell_s;
    for (uint64_t p = 0; p < rendezvous->peer_count; p++) {
        Peer *peer = &rendezvous->peers[p];
        peer->gone = peer->gone || peer->socket < 0 || !frame_send(peer->socket, FRAME_LEFT, false, NULL, 0) ||
                     shutdown(peer->socket, SHUT_WR) != 0;
    }
    for (uint64_t p = 0; p < rendezvous->peer_count; p++) {
        Peer *peer = &rendezvous->peers[p];
        while (!peer->gone && frame_receive(peer->socket, &rest, 1, until_s))
            continue;
        if (peer->socket >= 0)
            close(peer->socket);
        free(peer->data);
    }
}

void rendezvous_destroy(Rendezvous *rendezvous)
{
    if (!rendezvous)
        return;
    rendezvous_read_end(rendezvous);
    if (rendezvous->peers)
        peers_close(rendezvous);
    pthread_cond_destroy(&rendezvous->changed);
    pthread_mutex_destroy(&rendezvous->mutex);
    pthread_mutex_destroy(&rendezvous->send_mutex);
    free(rendezvous->places);
    free(rendezvous->standings);
    free(rendezvous->standings_s);
    free(rendezvous->told_standings);
    free(rendezvous->peers);
    free(rendezvous);
}

uint64_t rendezvous_machine_size(const Rendezvous *rendezvous)
{
    uint64_t count = 0;
    for (uint64_t r = 0; r < rendezvous->launch.size; r++)
        count += strcmp(rendezvous->places[r].host, rendezvous->places[rendezvous->launch.rank].host) == 0;
    return count;
}
