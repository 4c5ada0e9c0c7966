// Communicators of processes that a launcher started, or that know each other, without MPI: they find each other as
// hep-run's do (rendezvous.h), and connect, member by member, for each channel. A carrier of our own: what is sent is
// written as sockets take it, what comes is read as it comes, until both are through or nothing has moved for too long.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/comm/rendezvous.h"
#include "runtime/library/carrier.h"

enum { CHANNELS_MAX = 4096, LOOK_MS = 50 };
static const double introduction_s = 5;

// IPv4 or IPv6.
typedef union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} Address;

typedef struct {
    uint32_t from, to, channel;
} Purpose;

// What a process says when it connects to another.
typedef struct {
    Purpose purpose;
    unsigned char proof[SECRET_BYTES];
} Hello;

// A connection that came before its channel was opened.
typedef struct Visitor {
    struct Visitor *next;
    Purpose purpose;
    int socket;
} Visitor;

typedef struct {
    int members, own;
    int *sockets;          // [members]
    int32_t *ranks;        // [members]
    struct pollfd *polled; // [members]
    int64_t *sent, *got;   // [members] bytes, of the exchange under way
} TcpChannel;

typedef struct {
    Rendezvous *rendezvous;
    uint32_t rank, size;
    double timeout_s;
    int listener;
    Secret token;    // of this communicator
    Address *places; // [size] where each listens
    Visitor *visitors;
    TcpChannel *channels[CHANNELS_MAX];
} TcpLink;

static _Thread_local char why[256];

static const char *tcp_why(void *user)
{
    (void)user;
    return why[0] ? why : NULL;
}

static int failed(const char *what, int32_t rank, int error)
{
    snprintf(why, sizeof(why), "%s rank %d: %s", what, (int)rank, strerror(error));
    return HEP_COMM;
}

// Has another process died, or too much time passed?
static int check_others(const TcpLink *link, double since_s)
{
    Fault fault = {0};
    if (rendezvous_aborted(link->rendezvous, &fault)) {
        snprintf(why, sizeof(why), "%.250s", fault.message[0] ? fault.message : "another process has failed");
        return HEP_COMM;
    }
    if (clock_now_s() < since_s + link->timeout_s)
        return 0;
    snprintf(why, sizeof(why), "a rank did not come for %g s", link->timeout_s);
    return HEP_TIMEOUT;
}

// ---- connecting ------------------------------------------------------------------------------------

static void prove(const TcpLink *link, Hello *hello)
{
    job_secret_prove(&link->token, "a member of a channel", &hello->purpose, sizeof(hello->purpose), hello->proof);
}

static void prepare(int socket)
{
    int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK);
}

static socklen_t address_bytes(const Address *address)
{
    return address->any.sa_family == AF_INET ? sizeof(address->v4) : sizeof(address->v6);
}

// The others' listeners exist: what is connected waits there until it is accepted.
static int connect_to(const TcpLink *link, int channel, int32_t rank, int *out)
{
    Hello hello = {.purpose = {.from = link->rank, .to = (uint32_t)rank, .channel = (uint32_t)channel}};
    const Address *at = &link->places[rank];
    int peer = socket(at->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = (time_t)link->timeout_s + 1};
    if (peer < 0)
        return failed("a socket for", rank, errno);
    setsockopt(peer, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)); // of connecting, too
    prove(link, &hello);
    if (connect(peer, &at->any, address_bytes(at)) != 0 ||
        send(peer, &hello, sizeof(hello), MSG_NOSIGNAL) != sizeof(hello)) {
        int code = failed("connecting to", rank, errno);
        close(peer);
        return code;
    }
    prepare(peer);
    *out = peer;
    return 0;
}

static bool hear_hello(const TcpLink *link, int peer, Hello *hello)
{
    size_t got = 0;
    double until_s = clock_now_s() + introduction_s;
    struct pollfd readable = {.fd = peer, .events = POLLIN};
    while (got < sizeof(*hello)) {
        double left_s = until_s - clock_now_s();
        ssize_t more = 0;
        if (left_s <= 0 || poll(&readable, 1, (int)(left_s * 1e3) + 1) < 0)
            return false;
        more = recv(peer, (char *)hello + got, sizeof(*hello) - got, MSG_DONTWAIT);
        if (more == 0 || (more < 0 && errno != EAGAIN && errno != EINTR))
            return false;
        got += more > 0 ? (size_t)more : 0;
    }
    Hello expected = {.purpose = hello->purpose};
    prove(link, &expected);
    return hello->purpose.to == link->rank && job_secret_equal(hello->proof, expected.proof);
}

// Lets one connection in; those that are none of this communicator's are closed.
static int let_in(TcpLink *link)
{
    Hello hello;
    int peer = accept4(link->listener, NULL, NULL, SOCK_CLOEXEC);
    if (peer < 0)
        return 0;
    Visitor *visitor = hear_hello(link, peer, &hello) ? malloc(sizeof(*visitor)) : NULL;
    if (!visitor) {
        close(peer);
        return 0;
    }
    prepare(peer);
    *visitor = (Visitor){.next = link->visitors, .purpose = hello.purpose, .socket = peer};
    link->visitors = visitor;
    return 0;
}

static int await_from(TcpLink *link, int channel, int32_t rank, int *out)
{
    double since_s = clock_now_s();
    for (;;) {
        for (Visitor **at = &link->visitors; *at; at = &(*at)->next) {
            Visitor *visitor = *at;
            if (visitor->purpose.from != (uint32_t)rank || visitor->purpose.channel != (uint32_t)channel)
                continue;
            *out = visitor->socket;
            *at = visitor->next;
            free(visitor);
            return 0;
        }
        struct pollfd readable = {.fd = link->listener, .events = POLLIN};
        int code = poll(&readable, 1, LOOK_MS) > 0 ? let_in(link) : check_others(link, since_s);
        if (code)
            return code;
    }
}

// ---- channels --------------------------------------------------------------------------------------

static void channel_free(TcpChannel *channel)
{
    if (!channel)
        return;
    for (int m = 0; m < channel->members && channel->sockets; m++)
        if (channel->sockets[m] >= 0)
            close(channel->sockets[m]);
    free(channel->sockets);
    free(channel->ranks);
    free(channel->polled);
    free(channel->sent);
    free(channel->got);
    free(channel);
}

static TcpChannel *channel_make(const int32_t *ranks, int count, int own)
{
    TcpChannel *channel = calloc(1, sizeof(*channel));
    if (!channel)
        return NULL;
    *channel = (TcpChannel){.members = count, .own = own};
    channel->sockets = malloc((size_t)count * sizeof(*channel->sockets));
    channel->ranks = malloc((size_t)count * sizeof(*channel->ranks));
    channel->polled = calloc((size_t)count, sizeof(*channel->polled));
    channel->sent = calloc((size_t)count, sizeof(*channel->sent));
    channel->got = calloc((size_t)count, sizeof(*channel->got));
    for (int m = 0; m < count && channel->sockets; m++)
        channel->sockets[m] = -1;
    if (channel->sockets && channel->ranks && channel->polled && channel->sent && channel->got) {
        memcpy(channel->ranks, ranks, (size_t)count * sizeof(*ranks));
        return channel;
    }
    channel_free(channel);
    return NULL;
}

static int tcp_open(void *user, int number, const int32_t *ranks, int count, int own)
{
    TcpLink *link = user;
    why[0] = '\0';
    TcpChannel *channel = number < CHANNELS_MAX ? channel_make(ranks, count, own) : NULL;
    int code = channel ? 0 : HEP_NO_MEMORY;
    for (int m = 0; m < own && code == 0; m++)
        code = connect_to(link, number, ranks[m], &channel->sockets[m]);
    for (int m = own + 1; m < count && code == 0; m++)
        code = await_from(link, number, ranks[m], &channel->sockets[m]);
    if (code)
        channel_free(channel);
    else
        link->channels[number] = channel;
    return code;
}

// ---- exchanges -------------------------------------------------------------------------------------

// An exchange as it goes on.
typedef struct {
    TcpChannel *channel;
    const char *send;
    char *recv;
    const int64_t *send_bytes, *recv_bytes;
    bool moved; // in the last turn
    bool done;
} Going;

// Writes and reads what one member's socket takes and has.
static int turn_member(Going *going, int m, int64_t send_at, int64_t recv_at)
{
    TcpChannel *channel = going->channel;
    int64_t out = going->send_bytes[m] - channel->sent[m], in = going->recv_bytes[m] - channel->got[m];
    if (out > 0) {
        ssize_t sent = send(channel->sockets[m], going->send + send_at + channel->sent[m], (size_t)out,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            return failed("sending to", channel->ranks[m], errno);
        channel->sent[m] += sent > 0 ? sent : 0;
        going->moved = going->moved || sent > 0;
    }
    if (in > 0) {
        ssize_t got = recv(channel->sockets[m], going->recv + recv_at + channel->got[m], (size_t)in, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            return failed("receiving from", channel->ranks[m], got == 0 ? ECONNRESET : errno);
        channel->got[m] += got > 0 ? got : 0;
        going->moved = going->moved || got > 0;
    }
    out = going->send_bytes[m] - channel->sent[m];
    in = going->recv_bytes[m] - channel->got[m];
    channel->polled[m] = (struct pollfd){.fd = out > 0 || in > 0 ? channel->sockets[m] : -1,
                                         .events = (short)((out > 0 ? POLLOUT : 0) | (in > 0 ? POLLIN : 0))};
    going->done = going->done && out == 0 && in == 0;
    return 0;
}

static int turn(Going *going)
{
    int code = 0;
    int64_t send_at = 0, recv_at = 0;
    going->moved = false;
    going->done = true;
    for (int m = 0; m < going->channel->members && code == 0; m++) {
        if (m != going->channel->own)
            code = turn_member(going, m, send_at, recv_at);
        send_at += going->send_bytes[m];
        recv_at += going->recv_bytes[m];
    }
    return code;
}

static int tcp_exchange(void *user, int number, const void *send, const int64_t *send_bytes, void *recv,
                        const int64_t *recv_bytes)
{
    TcpLink *link = user;
    TcpChannel *channel = link->channels[number];
    Going going = {.channel = channel, .send = send, .recv = recv, .send_bytes = send_bytes, .recv_bytes = recv_bytes};
    double moved_s = clock_now_s();
    why[0] = '\0';
    memset(channel->sent, 0, (size_t)channel->members * sizeof(*channel->sent));
    memset(channel->got, 0, (size_t)channel->members * sizeof(*channel->got));
    channel->polled[channel->own] = (struct pollfd){.fd = -1};
    for (;;) {
        int code = turn(&going);
        if (code || going.done)
            return code;
        if (going.moved)
            moved_s = clock_now_s();
        else if (poll(channel->polled, (nfds_t)channel->members, LOOK_MS) <= 0 && (code = check_others(link, moved_s)))
            return code;
    }
}

// ---- handles ---------------------------------------------------------------------------------------

static void tcp_release(void *user)
{
    TcpLink *link = user;
    for (int c = 0; c < CHANNELS_MAX; c++)
        channel_free(link->channels[c]);
    while (link->visitors) {
        Visitor *visitor = link->visitors;
        link->visitors = visitor->next;
        close(visitor->socket);
        free(visitor);
    }
    if (link->listener >= 0)
        close(link->listener);
    rendezvous_destroy(link->rendezvous);
    free(link->places);
    free(link);
}

// The address by which this machine reaches rank 0, and is reached.
static bool find_own_address(const Launch *launch, Address *own, Fault *fault)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM}, *list = NULL;
    char service[8];
    bool found = false;
    snprintf(service, sizeof(service), "%u", launch->port);
    int error = getaddrinfo(launch->host, service, &hints, &list);
    for (struct addrinfo *at = error == 0 ? list : NULL; at && !found; at = at->ai_next) {
        socklen_t length = sizeof(*own);
        int probe = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol); // sends nothing
        found = probe >= 0 && connect(probe, at->ai_addr, at->ai_addrlen) == 0 &&
                getsockname(probe, &own->any, &length) == 0;
        if (probe >= 0)
            close(probe);
    }
    if (error == 0)
        freeaddrinfo(list);
    return found || fault_set(fault, FAULT_RUN, "no way to rank 0 at %s", launch->host);
}

// At that address alone, at whatever port is free.
static bool listen_at(TcpLink *link, Address *own, Fault *fault)
{
    socklen_t length = address_bytes(own);
    in_port_t *port = own->any.sa_family == AF_INET ? &own->v4.sin_port : &own->v6.sin6_port;
    *port = 0;
    link->listener = socket(own->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return (link->listener >= 0 && bind(link->listener, &own->any, length) == 0 &&
            listen(link->listener, SOMAXCONN) == 0 && getsockname(link->listener, &own->any, &length) == 0) ||
           fault_set(fault, FAULT_RUN, "no port to listen at: %s", strerror(errno));
}

static bool join(TcpLink *link, const Launch *launch, double timeout_s, Fault *fault)
{
    Address own = {0};
    link->rank = (uint32_t)launch->rank;
    link->size = (uint32_t)launch->size;
    link->rendezvous = rendezvous_create(launch, timeout_s, fault);
    if (!link->rendezvous)
        return false;
    link->places = calloc(launch->size, sizeof(*link->places));
    if (!link->places)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a communicator");
    if (!find_own_address(launch, &own, fault) || !listen_at(link, &own, fault) ||
        (link->rank == 0 && !job_secret_challenge(link->token.bytes, fault))) {
        rendezvous_abort(link->rendezvous, fault);
        return false;
    }
    return rendezvous_broadcast(link->rendezvous, &link->token, sizeof(link->token), fault) &&
           rendezvous_all_gather(link->rendezvous, &own, link->places, sizeof(own), fault);
}

static const double known_s = 60; // in which processes that know each other come

static hep_comm *make(const Launch *launch, const hep_comm_options *options, double join_s, Fault *fault)
{
    hep_carrier carrier = {.open = tcp_open, .exchange = tcp_exchange, .why = tcp_why};
    TcpLink *link = calloc(1, sizeof(*link));
    if (!link) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a communicator");
        return NULL;
    }
    link->listener = -1;
    link->timeout_s = options->timeout_s;
    hep_comm *comm = NULL;
    if (join(link, launch, join_s, fault))
        comm = carrier_make((int)launch->rank, (int)launch->size, &carrier, link, options, fault);
    if (comm)
        ((CarrierLink *)comm)->release = tcp_release;
    else
        tcp_release(link);
    return comm;
}

hep_status hep_comm_tcp(const hep_comm_options *options, hep_comm **comm)
{
    Fault fault = {0};
    hep_comm_options given;
    Launch launch;
    if (library_given(comm, "comm", &fault)) {
        *comm = NULL;
        if (link_options(options, &given, false, &fault) && launch_find(&launch, &fault))
            *comm = make(&launch, &given, given.timeout_s, &fault);
    }
    return library_end(&fault);
}

// Where hep_comm_tcp_at is told to meet.
typedef struct {
    int rank, ranks, port;
    const char *host;
    const uint8_t *secret;
} Place;

static bool take_place(const Place *place, Launch *launch, Fault *fault)
{
    if (!library_given(place->host, "host", fault) || !library_given(place->secret, "secret", fault))
        return false;
    if (place->ranks < 1 || place->rank < 0 || place->rank >= place->ranks)
        return fault_set(fault, FAULT_USAGE, "rank %d of %d", place->rank, place->ranks);
    if (place->port < 1 || place->port > UINT16_MAX || strlen(place->host) >= RENDEZVOUS_HOST_MAX)
        return fault_set(fault, FAULT_USAGE, "rank 0 at '%.100s', port %d", place->host, place->port);
    *launch = (Launch){.launcher = "hep_comm_tcp_at",
                       .rank = (uint64_t)place->rank,
                       .size = (uint64_t)place->ranks,
                       .port = (uint16_t)place->port};
    snprintf(launch->host, sizeof(launch->host), "%s", place->host);
    memcpy(launch->secret.bytes, place->secret, SECRET_BYTES);
    return true;
}

// Many parameters because they are what processes have to know to meet: hep.h.
hep_status hep_comm_tcp_at(int rank, int ranks, const char *host, int port, const uint8_t secret[32],
                           const hep_comm_options *options, hep_comm **comm)
{
    Fault fault = {0};
    hep_comm_options given;
    Launch launch;
    Place place = {.rank = rank, .ranks = ranks, .port = port, .host = host, .secret = secret};
    if (library_given(comm, "comm", &fault)) {
        *comm = NULL;
        if (link_options(options, &given, false, &fault) && take_place(&place, &launch, &fault))
            *comm = make(&launch, &given, given.timeout_s < known_s ? given.timeout_s : known_s, &fault);
    }
    return library_end(&fault);
}
