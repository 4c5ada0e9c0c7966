// Rank 0's side of joining: listens, and admits the processes of the job one by one. Whoever else connects is a
// stranger: all who have not proved yet that they know the job's secret are heard side by side, each for a limited
// time; what they say is bounded, believed in nothing, and ends nothing but their connection.
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/comm/rendezvous_internal.h"

static const double introduction_s = 5, breath_s = 0.05;
enum { BACKLOG = 1024 };

// ---- listening -------------------------------------------------------------------------------

static int listen_on(const struct addrinfo *at, int *error)
{
    int on = 1, off = 0, listener = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener >= 0) {
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (at->ai_family == AF_INET6)
            setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
        if (bind(listener, at->ai_addr, at->ai_addrlen) == 0 && listen(listener, BACKLOG) == 0)
            return listener;
    }
    *error = errno;
    if (listener >= 0)
        close(listener);
    return -1;
}

static int listen_on_all(const char *service, int *error)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    int listener = -1;
    if (getaddrinfo(NULL, service, &hints, &list) != 0)
        return -1;
    for (int pass = 0; pass < 2 && listener < 0; pass++) // IPv6 first, which takes both kinds
        for (struct addrinfo *at = list; at && listener < 0; at = at->ai_next)
            if (at->ai_family == (pass == 0 ? AF_INET6 : AF_INET))
                listener = listen_on(at, error);
    freeaddrinfo(list);
    return listener;
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
    return address->sa_family == AF_INET &&
           ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

// At the address by which the others look for rank 0 and no other; at all where that is not this machine's (a name that
// means something else here: 127.0.1.1 of /etc/hosts, an address that a router translates).
static int listen_at(const Launch *launch, Fault *fault)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
    struct addrinfo numeric = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *same;
    char service[8];
    int listener = -1, error = EADDRNOTAVAIL;
    snprintf(service, sizeof(service), "%u", launch->port);
    bool literal = strcmp(launch->host, "localhost") == 0;
    if (!literal && getaddrinfo(launch->host, service, &numeric, &same) == 0) {
        literal = true;
        freeaddrinfo(same);
    }
    if (getaddrinfo(launch->host, service, &hints, &list) != 0)
        list = NULL;
    for (struct addrinfo *at = list; at && listener < 0; at = at->ai_next)
        if (literal || !is_loopback(at->ai_addr))
            listener = listen_on(at, &error);
    if (list)
        freeaddrinfo(list);
    if (listener < 0 && error == EADDRNOTAVAIL)
        listener = listen_on_all(service, &error);
    if (listener < 0)
        fault_set(fault, FAULT_RUN, "rank 0 cannot listen at %s port %u: %s: set MASTER_PORT to a free one",
                  launch->host, launch->port, strerrordesc_np(error));
    return listener;
}

// ---- who has not proved anything yet ---------------------------------------------------------

static void refuse(Rendezvous *rendezvous, Candidate *candidate, RefusedFor reason)
{
    static const char *const words[] = {[REFUSED_SILENT] = "it did not introduce itself in time",
                                        [REFUSED_NONSENSE] = "it is no process of this program",
                                        [REFUSED_VERSION] = "it is another version of hep-run",
                                        [REFUSED_SECRET] = "it does not know the secret of this job"};
    char host[64] = "an unknown address";
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    if (getpeername(candidate->socket, (struct sockaddr *)&address, &length) == 0)
        getnameinfo((struct sockaddr *)&address, length, host, sizeof(host), NULL, 0, NI_NUMERICHOST);
    rendezvous->refused++;
    snprintf(rendezvous->refusal, sizeof(rendezvous->refusal), "%s: %s", host, words[reason]);
    uint32_t code = reason;
    bool sent = reason >= REFUSED_VERSION && frame_send(candidate->socket, FRAME_REFUSED, false, &code, sizeof(code));
    (void)sent; // it learns it by the connection's end
    close(candidate->socket);
    candidate->socket = -1;
}

// It knows the secret: what is wrong now is a mistake of the job, and ends it.
static bool admit(Rendezvous *rendezvous, const Candidate *candidate, Fault *fault)
{
    const Launch *launch = &rendezvous->launch;
    const Hello *hello = &candidate->hello;
    Place place = hello->place;
    rendezvous_clean(place.host, sizeof(place.host));
    if (hello->size != launch->size)
        return fault_set(fault, FAULT_RUN,
                         "process %" PRId64 " on %s was told of %" PRIu64 " processes, rank 0 of %" PRIu64
                         ": launch all together",
                         place.pid, place.host, hello->size, launch->size);
    Peer *peer = hello->rank > 0 && hello->rank < launch->size ? &rendezvous->peers[hello->rank - 1] : NULL;
    if (!peer || peer->socket >= 0)
        return fault_set(fault, FAULT_RUN, "process %" PRId64 " on %s claims to be rank %" PRIu64 ", as another does",
                         place.pid, place.host, hello->rank);
    peer->socket = candidate->socket;
    memcpy(peer->proof, candidate->answer, SECRET_BYTES);
    rendezvous->places[hello->rank] = place;
    return true;
}

// What comes next of it: false until all of that is there.
static bool candidate_read(Candidate *candidate, bool *ended)
{
    uint64_t body = candidate->challenged ? sizeof(candidate->proof) : sizeof(candidate->hello);
    while (!*ended && candidate->read < sizeof(FrameHeader) + body) {
        bool in_header = candidate->read < sizeof(FrameHeader);
        uint64_t at = in_header ? candidate->read : candidate->read - sizeof(FrameHeader);
        char *to = in_header               ? (char *)&candidate->header
                   : candidate->challenged ? (char *)candidate->proof
                                           : (char *)&candidate->hello;
        ssize_t received =
            recv(candidate->socket, to + at, (in_header ? sizeof(FrameHeader) : body) - at, MSG_DONTWAIT);
        if (received < 0 && (errno == EAGAIN || errno == EINTR))
            return false;
        *ended = received <= 0;
        candidate->read += received > 0 ? (uint64_t)received : 0;
        FrameKind kind = candidate->challenged ? FRAME_PROOF : FRAME_HELLO;
        if (candidate->read >= sizeof(FrameHeader) &&
            (candidate->header.kind != (uint32_t)kind || candidate->header.bytes != body))
            return true;
    }
    return !*ended;
}

static bool candidate_challenge(Candidate *candidate, Fault *fault)
{
    candidate->challenged = true;
    candidate->read = 0;
    return job_secret_challenge(candidate->said.challenge, fault) &&
           frame_send(candidate->socket, FRAME_CHALLENGE, false, candidate->said.challenge, SECRET_BYTES);
}

static bool candidate_proves(const Rendezvous *rendezvous, Candidate *candidate)
{
    unsigned char expected[SECRET_BYTES];
    candidate->said.hello = candidate->hello;
    job_secret_prove(&rendezvous->launch.secret, PROVES_MEMBER, &candidate->said, sizeof(candidate->said), expected);
    job_secret_prove(&rendezvous->launch.secret, PROVES_FIRST, &candidate->said, sizeof(candidate->said),
                     candidate->answer);
    return job_secret_equal(candidate->proof, expected);
}

// Of a whole message, or what is none.
static void candidate_hear(Rendezvous *rendezvous, Candidate *candidate, uint64_t *joined, Fault *fault)
{
    Fault unsaid = {0};
    bool complete = candidate->read == sizeof(FrameHeader) + candidate->header.bytes;
    if (!candidate->challenged) {
        bool is_hello = candidate->header.kind == FRAME_HELLO;
        if (!complete || candidate->hello.magic != HELLO_MAGIC)
            refuse(rendezvous, candidate, is_hello && !complete ? REFUSED_VERSION : REFUSED_NONSENSE);
        else if (candidate->hello.version != PROTOCOL_VERSION || candidate->hello.fault_bytes != sizeof(Fault))
            refuse(rendezvous, candidate, REFUSED_VERSION);
        else if (!candidate_challenge(candidate, &unsaid))
            refuse(rendezvous, candidate, REFUSED_SILENT);
    } else if (!complete) {
        refuse(rendezvous, candidate, REFUSED_NONSENSE);
    } else if (!candidate_proves(rendezvous, candidate)) {
        refuse(rendezvous, candidate, REFUSED_SECRET);
    } else if (admit(rendezvous, candidate, fault)) {
        candidate->socket = -1; // the peer's from now on
        (*joined)++;
    } else {
        bool sent = frame_send_welcome(candidate->socket, true, candidate->answer, fault, sizeof(*fault));
        (void)sent; // the fault is reported either way
        close(candidate->socket);
        candidate->socket = -1;
    }
}

bool rendezvous_candidate_turn(Rendezvous *rendezvous, Candidate *candidate, uint64_t *joined, Fault *fault)
{
    bool ended = false;
    while (candidate->socket >= 0 && fault->kind == FAULT_NONE && candidate_read(candidate, &ended))
        candidate_hear(rendezvous, candidate, joined, fault);
    if (ended && candidate->socket >= 0)
        refuse(rendezvous, candidate, REFUSED_NONSENSE);
    else if (candidate->socket >= 0 && clock_now_s() > candidate->until_s)
        refuse(rendezvous, candidate, REFUSED_SILENT);
    return fault->kind == FAULT_NONE;
}

// ---- all of them -----------------------------------------------------------------------------

typedef struct {
    Candidate *candidates; // [CANDIDATES_MAX], oldest first
    struct pollfd *polled; // [CANDIDATES_MAX + 1]
    uint64_t count;
} Hall;

// As many as there are. Where there is no place left, the oldest has had its chance.
static void hall_let_in(Rendezvous *rendezvous, Hall *hall, int listener)
{
    int peer;
    while ((peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        if (hall->count == CANDIDATES_MAX) {
            refuse(rendezvous, &hall->candidates[0], REFUSED_SILENT);
            memmove(hall->candidates, hall->candidates + 1, --hall->count * sizeof(*hall->candidates));
        }
        rendezvous_socket_prepare(peer, rendezvous->timeout_s);
        hall->candidates[hall->count++] = (Candidate){.socket = peer, .until_s = clock_now_s() + introduction_s};
    }
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) // too many open files: not all at once
        clock_sleep_until(clock_now_s() + breath_s);
}

static bool hall_turn(Rendezvous *rendezvous, Hall *hall, int listener, uint64_t *joined, Fault *fault)
{
    uint64_t kept = 0;
    hall_let_in(rendezvous, hall, listener);
    for (uint64_t c = 0; c < hall->count; c++) {
        bool ok =
            fault->kind != FAULT_NONE || rendezvous_candidate_turn(rendezvous, &hall->candidates[c], joined, fault);
        (void)ok; // the fault says so
        if (hall->candidates[c].socket >= 0)
            hall->candidates[kept++] = hall->candidates[c];
    }
    hall->count = kept;
    return fault->kind == FAULT_NONE;
}

static void hall_wait(Hall *hall, int listener, double until_s)
{
    hall->polled[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    for (uint64_t c = 0; c < hall->count; c++) {
        hall->polled[c + 1] = (struct pollfd){.fd = hall->candidates[c].socket, .events = POLLIN};
        until_s = fmin(until_s, hall->candidates[c].until_s);
    }
    poll(hall->polled, hall->count + 1, rendezvous_poll_ms(until_s));
}

static bool missing_fault(const Rendezvous *rendezvous, uint64_t joined, Fault *fault)
{
    uint64_t first = 0, missing = rendezvous->peer_count - joined;
    while (rendezvous->peers[first].socket >= 0)
        first++;
    char more[48] = "", refused[REFUSAL_MAX + 96] = "";
    if (missing > 1)
        snprintf(more, sizeof(more), " (nor did %" PRIu64 " more)", missing - 1);
    if (rendezvous->refused > 0)
        snprintf(refused, sizeof(refused), "; of %" PRIu64 " refused %s, the last came from %s", rendezvous->refused,
                 rendezvous->refused == 1 ? "connection" : "connections", rendezvous->refusal);
    fault_set(fault, FAULT_RUN,
              "rank %" PRIu64 " of %" PRIu64 " did not come to %s port %u within %g s%s: look at that process, its "
              "machine and the network%s",
              first + 1, rendezvous->launch.size, rendezvous->launch.host, rendezvous->launch.port,
              rendezvous->timeout_s, more, refused);
    fault->peer = (int64_t)first + 1;
    return false;
}

static bool welcome_all(Rendezvous *rendezvous, bool ok, Fault *fault)
{
    for (uint64_t p = 0; p < rendezvous->peer_count; p++) {
        const Peer *peer = &rendezvous->peers[p];
        const void *data = ok ? (const void *)rendezvous->places : fault;
        uint64_t bytes = ok ? rendezvous->launch.size * sizeof(Place) : sizeof(*fault);
        if (peer->socket >= 0 && !frame_send_welcome(peer->socket, !ok, peer->proof, data, bytes) && ok)
            return fault_set(fault, FAULT_RUN, "rank %" PRIu64 " left before all had come", p + 1);
    }
    return ok;
}

static bool admit_all(Rendezvous *rendezvous, int listener, Hall *hall, Fault *fault)
{
    double until_s = clock_now_s() + rendezvous->timeout_s;
    uint64_t joined = 0;
    while (joined < rendezvous->peer_count) {
        if (clock_now_s() > until_s)
            return missing_fault(rendezvous, joined, fault);
        hall_wait(hall, listener, until_s);
        if (!hall_turn(rendezvous, hall, listener, &joined, fault))
            return false;
    }
    return true;
}

bool rendezvous_gather_all(Rendezvous *rendezvous, Fault *fault)
{
    if (rendezvous->peer_count == 0)
        return true;
    Hall hall = {.candidates = calloc(CANDIDATES_MAX, sizeof(*hall.candidates)),
                 .polled = calloc(CANDIDATES_MAX + 1, sizeof(*hall.polled))};
    bool ok = (hall.candidates && hall.polled) || fault_set(fault, FAULT_MEMORY, "out of memory");
    int listener = ok ? listen_at(&rendezvous->launch, fault) : -1;
    ok = listener >= 0 && admit_all(rendezvous, listener, &hall, fault);
    for (uint64_t c = 0; c < hall.count; c++)
        close(hall.candidates[c].socket);
    if (listener >= 0)
        close(listener);
    free(hall.candidates);
    free(hall.polled);
    return welcome_all(rendezvous, ok, fault);
}
