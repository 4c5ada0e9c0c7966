// Joining: rank 0 listens (rendezvous_admit.c), the others connect, introduce themselves, prove that they are of the
// job and are told who is there. What goes over the connections afterwards is in rendezvous_calls.c.
#include "runtime/comm/rendezvous.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/comm/rendezvous_internal.h"

static const double retry_s = 0.05, slack_s = 2, farewell_s = 1;
enum { SIZE_MAX_RANKS = 65536, INTRODUCTIONS_MAX = 20 };

static Place own_place(void)
{
    Place place = {.pid = getpid()};
    gethostname(place.host, sizeof(place.host) - 1);
    return place;
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

static Welcome not_answered(const Launch *launch, Fault *fault)
{
    fault_set(fault, FAULT_RUN, "rank 0 at %s port %u did not answer: is that port another program's?", launch->host,
              launch->port);
    return WELCOME_FAILED;
}

// Whose answer this is, is not known: it is told apart by its number alone.
static Welcome refused(const Launch *launch, int socket, uint64_t bytes, double until_s, Fault *fault)
{
    uint32_t reason;
    if (bytes != sizeof(reason) || !frame_receive(socket, &reason, sizeof(reason), until_s))
        return not_answered(launch, fault);
    if (reason == REFUSED_SECRET)
        fault_set(
            fault, FAULT_RUN,
            "rank 0 at %s port %u is of another job: set HEP_JOB_SECRET alike for all processes, or MASTER_PORT to "
            "a port of this job's own",
            launch->host, launch->port);
    else
        fault_set(fault, FAULT_RUN, "rank 0 at %s port %u is another version of hep-run", launch->host, launch->port);
    return WELCOME_FAILED;
}

static bool prove(const Rendezvous *rendezvous, int socket, Said *said, double until_s)
{
    unsigned char proof[SECRET_BYTES];
    if (!frame_receive(socket, said->challenge, SECRET_BYTES, until_s))
        return false;
    job_secret_prove(&rendezvous->launch.secret, PROVES_MEMBER, said, sizeof(*said), proof);
    return frame_send(socket, FRAME_PROOF, false, proof, sizeof(proof));
}

// What follows is believed once rank 0 has proved to know the secret, too.
static bool first_proves(const Rendezvous *rendezvous, int socket, const Said *said, double until_s)
{
    unsigned char proof[SECRET_BYTES], expected[SECRET_BYTES];
    job_secret_prove(&rendezvous->launch.secret, PROVES_FIRST, said, sizeof(*said), expected);
    return frame_receive(socket, proof, sizeof(proof), until_s) && job_secret_equal(proof, expected);
}

static Welcome be_welcomed(Rendezvous *rendezvous, int socket, const Said *said, double until_s, Fault *fault)
{
    const Launch *launch = &rendezvous->launch;
    uint64_t places = launch->size * sizeof(Place);
    char cause_text[sizeof(Fault)];
    FrameHeader header;
    if (!frame_receive(socket, &header, sizeof(header), until_s))
        return not_answered(launch, fault);
    if (header.kind == FRAME_REFUSED)
        return refused(launch, socket, header.bytes, until_s, fault);
    if (header.kind != FRAME_WELCOME || !first_proves(rendezvous, socket, said, until_s))
        return not_answered(launch, fault);
    if (header.failed && header.bytes == SECRET_BYTES + sizeof(cause_text) &&
        frame_receive(socket, cause_text, sizeof(cause_text), until_s)) {
        Fault cause = rendezvous_clean_fault(cause_text);
        *fault = (Fault){.kind = cause.kind, .rank = -1, .step = -1, .peer = -1}; // rank 0 reports it
        return WELCOME_FAILED;
    }
    if (header.failed || header.bytes != SECRET_BYTES + places ||
        !frame_receive(socket, rendezvous->places, places, until_s))
        return not_answered(launch, fault);
    for (uint64_t r = 0; r < launch->size; r++)
        rendezvous_clean_place(&rendezvous->places[r]);
    return WELCOME_GOT;
}

Welcome rendezvous_introduce(Rendezvous *rendezvous, int socket, double until_s, Fault *fault)
{
    const Launch *launch = &rendezvous->launch;
    FrameHeader header;
    Said said = {.hello = {.magic = HELLO_MAGIC,
                           .version = PROTOCOL_VERSION,
                           .fault_bytes = sizeof(Fault),
                           .rank = launch->rank,
                           .size = launch->size,
                           .place = own_place()}};
    if (!job_secret_challenge(said.hello.challenge, fault))
        return WELCOME_FAILED;
    if (!frame_send(socket, FRAME_HELLO, false, &said.hello, sizeof(said.hello)) ||
        !frame_receive(socket, &header, sizeof(header), until_s))
        return clock_now_s() < until_s ? WELCOME_CLOSED : not_answered(launch, fault);
    if (header.kind == FRAME_REFUSED)
        return refused(launch, socket, header.bytes, until_s, fault);
    if (header.kind != FRAME_CHALLENGE || header.bytes != SECRET_BYTES || !prove(rendezvous, socket, &said, until_s))
        return not_answered(launch, fault);
    return be_welcomed(rendezvous, socket, &said, until_s, fault);
}

// Rank 0 closes a connection that says nothing in time, or too many others do: who is not heard comes again.
static bool join_first(Rendezvous *rendezvous, Fault *fault)
{
    Peer *first = &rendezvous->peers[0];
    double until_s = clock_now_s() + rendezvous->timeout_s;
    for (int attempt = 0; attempt < INTRODUCTIONS_MAX; attempt++) {
        first->socket = connect_to_first(&rendezvous->launch, fmax(until_s - clock_now_s(), retry_s), fault);
        if (first->socket < 0)
            return false;
        rendezvous_socket_prepare(first->socket, rendezvous->timeout_s);
        Welcome welcome = rendezvous_introduce(rendezvous, first->socket, until_s + slack_s, fault);
        if (welcome != WELCOME_CLOSED)
            return welcome == WELCOME_GOT;
        close(first->socket);
        first->socket = -1;
        clock_sleep_until(clock_now_s() + retry_s);
    }
    return not_answered(&rendezvous->launch, fault) == WELCOME_GOT;
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
        rendezvous->sign_of_life = calloc(1, sizeof(Sign) + launch->size * sizeof(Standing));
    }
    if (!rendezvous->places || !rendezvous->peers || !rendezvous->standings || !rendezvous->standings_s ||
        !rendezvous->sign_of_life)
        return fault_set(fault, FAULT_MEMORY, "out of memory for %" PRIu64 " ranks", launch->size);
    for (uint64_t p = 0; p < rendezvous->peer_count; p++)
        rendezvous->peers[p] = (Peer){.socket = -1, .rank = launch->rank > 0 ? 0 : p + 1};
    rendezvous->places[launch->rank] = own_place();
    return true;
}

static bool join(Rendezvous *rendezvous, Fault *fault)
{
    if (rendezvous->launch.rank == 0)
        return rendezvous_gather_all(rendezvous, fault);
    return join_first(rendezvous, fault);
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
    free(rendezvous->sign_of_life);
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
