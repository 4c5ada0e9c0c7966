// Any bytes as what comes over a connection of the rendezvous: to rank 0 from a stranger, from somebody who knows the
// secret, from a process that was admitted; from rank 0 to a process that joins, and to one that has. The first byte
// says which. Whatever comes, the connection ends in order, and what is kept of it is text.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/comm/rendezvous_internal.h"

enum { RANKS = 3, BYTES_MAX = 60000 };
typedef enum { STRANGER, KNOWING, TO_FIRST, FROM_FIRST, JOINING, ROLES } Role;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Rendezvous *create(uint64_t rank)
{
    Rendezvous *rendezvous = calloc(1, sizeof(*rendezvous));
    rendezvous->launch = (Launch){.launcher = "fuzz", .rank = rank, .size = RANKS, .host = "localhost", .port = 1};
    rendezvous->timeout_s = 1;
    rendezvous->peer_count = rank > 0 ? 1 : RANKS - 1;
    rendezvous->places = calloc(RANKS, sizeof(*rendezvous->places));
    rendezvous->standings = calloc(RANKS, sizeof(*rendezvous->standings));
    rendezvous->standings_s = calloc(RANKS, sizeof(*rendezvous->standings_s));
    rendezvous->peers = calloc(RANKS, sizeof(*rendezvous->peers));
    for (uint64_t p = 0; p < RANKS; p++)
        rendezvous->peers[p] = (Peer){.socket = -1, .rank = rank > 0 ? 0 : p + 1};
    pthread_mutex_init(&rendezvous->mutex, NULL);
    pthread_mutex_init(&rendezvous->send_mutex, NULL);
    clock_cond_init(&rendezvous->changed);
    return rendezvous;
}

static void check_text(const char *text, size_t size)
{
    size_t length = strnlen(text, size);
    if (length == size)
        abort();
    for (size_t c = 0; c < length; c++)
        if ((unsigned char)text[c] < 0x20 || text[c] == 0x7F)
            abort();
}

static void destroy(Rendezvous *rendezvous)
{
    for (uint64_t r = 0; r < RANKS; r++)
        check_text(rendezvous->places[r].host, sizeof(rendezvous->places[r].host));
    check_text(rendezvous->cause.message, sizeof(rendezvous->cause.message));
    for (uint64_t p = 0; p < RANKS; p++) {
        if (rendezvous->peers[p].socket >= 0)
            close(rendezvous->peers[p].socket);
        free(rendezvous->peers[p].data);
    }
    free(rendezvous->places);
    free(rendezvous->standings);
    free(rendezvous->standings_s);
    free(rendezvous->peers);
    pthread_cond_destroy(&rendezvous->changed);
    pthread_mutex_destroy(&rendezvous->mutex);
    pthread_mutex_destroy(&rendezvous->send_mutex);
    free(rendezvous);
}

static void put(int socket, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t sent = send(socket, (const char *)data + done, size - done, MSG_NOSIGNAL);
        if (sent <= 0)
            return; // the other side has closed
        done += (size_t)sent;
    }
}

static void be_heard(Rendezvous *rendezvous, const int sockets[2], bool knowing, const uint8_t *data, size_t size)
{
    Candidate candidate = {.socket = sockets[0], .until_s = clock_now_s() + 1000};
    uint64_t joined = 0;
    Fault fault = {0};
    FrameHeader header = {.kind = FRAME_HELLO, .bytes = sizeof(Hello)};
    Said said = {0};
    unsigned char proof[SECRET_BYTES];
    memcpy(&said.hello, data, size < sizeof(Hello) ? size : sizeof(Hello));
    said.hello.magic = HELLO_MAGIC;
    said.hello.version = PROTOCOL_VERSION;
    said.hello.fault_bytes = sizeof(Fault);
    if (knowing) {
        put(sockets[1], &header, sizeof(header));
        put(sockets[1], &said.hello, sizeof(said.hello));
        bool ok = rendezvous_candidate_turn(rendezvous, &candidate, &joined, &fault);
        if (!ok || recv(sockets[1], &header, sizeof(header), MSG_WAITALL) != sizeof(header) ||
            header.kind != FRAME_CHALLENGE || recv(sockets[1], said.challenge, SECRET_BYTES, 0) != SECRET_BYTES)
            abort();
        job_secret_prove(&rendezvous->launch.secret, PROVES_MEMBER, &said, sizeof(said), proof);
        header = (FrameHeader){.kind = FRAME_PROOF, .bytes = sizeof(proof)};
        put(sockets[1], &header, sizeof(header));
        put(sockets[1], proof, sizeof(proof));
    } else {
        put(sockets[1], data, size);
    }
    shutdown(sockets[1], SHUT_WR);
    bool ok = rendezvous_candidate_turn(rendezvous, &candidate, &joined, &fault);
    if (candidate.socket >= 0 || (joined > 0) != (ok && knowing) || (!ok && !knowing))
        abort();
    if (!ok)
        check_text(fault.message, sizeof(fault.message));
}

static void be_read(Rendezvous *rendezvous, const int sockets[2], const uint8_t *data, size_t size)
{
    Peer *peer = &rendezvous->peers[0];
    peer->socket = sockets[0];
    put(sockets[1], data, size);
    shutdown(sockets[1], SHUT_WR);
    pthread_mutex_lock(&rendezvous->mutex);
    for (uint64_t p = 1; p < RANKS; p++)
        rendezvous->peers[p].gone = true;
    while (!peer->gone && !peer->left) {
        rendezvous_peer_read(rendezvous, peer);
        if (peer->full) // somebody has taken it
            peer->header_read = peer->read = 0;
        peer->full = false;
    }
    pthread_mutex_unlock(&rendezvous->mutex);
}

static void join(Rendezvous *rendezvous, const int sockets[2], const uint8_t *data, size_t size)
{
    Fault fault = {0};
    put(sockets[1], data, size);
    shutdown(sockets[1], SHUT_WR);
    if (rendezvous_introduce(rendezvous, sockets[0], clock_now_s() + 1000, &fault) == WELCOME_GOT)
        abort(); // it did not know the secret
    close(sockets[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int sockets[2];
    if (size == 0 || size > BYTES_MAX || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0)
        return 0;
    Role role = data[0] % ROLES;
    Rendezvous *rendezvous = create(role == FROM_FIRST || role == JOINING ? 1 : 0);
    if (role == JOINING)
        join(rendezvous, sockets, data + 1, size - 1);
    else if (role == TO_FIRST || role == FROM_FIRST)
        be_read(rendezvous, sockets, data + 1, size - 1);
    else
        be_heard(rendezvous, sockets, role == KNOWING, data + 1, size - 1);
    close(sockets[1]);
    destroy(rendezvous);
    return 0;
}
