// What goes over the connections once all have joined: calls, signs of life, causes of failure. See
// rendezvous_internal.h for who reads and who waits.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/comm/rendezvous_internal.h"

// After the first cause: time for the ends of connections to show who is gone, and for rank 0 to pass it on.
static const double settle_s = 0.3, told_s = 2;
enum { FRAME_BYTES_MAX = 1 << 30, PIECE_BYTES = 64 << 10, SIGNS_PER_TIMEOUT = 4 };
static const double busy_share = 2e-3; // of a processor, from which on a process counts as doing something

static bool is_first(const Rendezvous *rendezvous)
{
    return rendezvous->launch.rank == 0;
}

// ---- failing ---------------------------------------------------------------------------------

// The mutex is held. The first cause with a message wins; one that names no step is completed by the first that does.
static bool note_cause(Rendezvous *rendezvous, const Fault *cause)
{
    Fault *kept = &rendezvous->cause;
    bool is_new = kept->kind == FAULT_NONE || (!kept->message[0] && cause->message[0]);
    if (is_new) {
        rendezvous->failed_s = kept->kind == FAULT_NONE ? clock_now_s() : rendezvous->failed_s;
        *kept = *cause;
    } else if (kept->step < 0 && kept->rank < 0 && cause->step >= 0) {
        kept->step = cause->step;
        kept->rank = cause->rank;
    }
    atomic_store(&rendezvous->aborted, true);
    pthread_cond_broadcast(&rendezvous->changed);
    return is_new;
}

static void pass_on(Rendezvous *rendezvous, const Fault *cause)
{
    pthread_mutex_lock(&rendezvous->send_mutex);
    for (uint64_t p = 0; p < rendezvous->peer_count; p++) {
        Peer *peer = &rendezvous->peers[p];
        bool sent = peer->gone || peer->left || frame_send(peer->socket, FRAME_ABORT, false, cause, sizeof(*cause));
        (void)sent; // who cannot be reached learns it by the connection's end
    }
    pthread_mutex_unlock(&rendezvous->send_mutex);
}

void rendezvous_abort(Rendezvous *rendezvous, const Fault *cause)
{
    Fault known = *cause;
    if (known.kind == FAULT_NONE)
        known.kind = FAULT_RUN;
    pthread_mutex_lock(&rendezvous->mutex);
    bool is_new = note_cause(rendezvous, &known);
    pthread_mutex_unlock(&rendezvous->mutex);
    if (is_new)
        pass_on(rendezvous, &known);
}

bool rendezvous_aborted(Rendezvous *rendezvous, Fault *fault)
{
    if (!atomic_load_explicit(&rendezvous->aborted, memory_order_relaxed))
        return false;
    pthread_mutex_lock(&rendezvous->mutex);
    if (fault->kind == FAULT_NONE)
        *fault = rendezvous->cause;
    pthread_mutex_unlock(&rendezvous->mutex);
    return true;
}

static void append_gone(const Rendezvous *rendezvous, Fault *fault)
{
    for (uint64_t p = 0; p < rendezvous->peer_count; p++) {
        char place[96];
        size_t length = strlen(fault->message);
        if (!rendezvous->peers[p].gone || strstr(fault->message, "is gone"))
            continue;
        rendezvous_describe(rendezvous, rendezvous->peers[p].rank, place, sizeof(place));
        snprintf(fault->message + length, sizeof(fault->message) - length, "; rank %" PRIu64 ", %s, is gone",
                 rendezvous->peers[p].rank, place);
    }
}

void rendezvous_settle(Rendezvous *rendezvous, Fault *fault)
{
    rendezvous_abort(rendezvous, fault);
    pthread_mutex_lock(&rendezvous->mutex);
    const Peer *first = is_first(rendezvous) ? NULL : &rendezvous->peers[0];
    double until_s = rendezvous->failed_s + (first ? told_s : settle_s);
    while (clock_now_s() < until_s && !rendezvous->told_cause && !(first && first->gone)) {
        struct timespec until = clock_timespec(until_s);
        pthread_cond_timedwait(&rendezvous->changed, &rendezvous->mutex, &until);
    }
    *fault = rendezvous->cause;
    if (!first || (rendezvous->launch.rank == 1 && !rendezvous->told_cause))
        append_gone(rendezvous, fault);
    else
        fault->message[0] = '\0';
    pthread_mutex_unlock(&rendezvous->mutex);
}

// ---- reading ---------------------------------------------------------------------------------

// The mutex is held.
static void peer_failed(Rendezvous *rendezvous, const Peer *peer, const char *how)
{
    Fault fault = {0};
    char place[96];
    rendezvous_describe(rendezvous, peer->rank, place, sizeof(place));
    fault_set(&fault, FAULT_RUN, "rank %" PRIu64 ", %s, %s", peer->rank, place, how);
    fault.peer = (int64_t)peer->rank;
    bool is_new = note_cause(rendezvous, &fault);
    pthread_mutex_unlock(&rendezvous->mutex);
    if (is_new)
        pass_on(rendezvous, &fault);
    pthread_mutex_lock(&rendezvous->mutex);
}

static void peer_ended(Rendezvous *rendezvous, Peer *peer, const char *how)
{
    peer->gone = true;
    peer_failed(rendezvous, peer, how);
}

static bool frame_is_sane(const Rendezvous *rendezvous, const FrameHeader *header)
{
    switch (header->kind) {
    case FRAME_PART:
        return is_first(rendezvous) && header->bytes <= FRAME_BYTES_MAX;
    case FRAME_ALL:
        return !is_first(rendezvous) && header->bytes <= (uint64_t)FRAME_BYTES_MAX * 2;
    case FRAME_ABORT:
        return header->bytes == sizeof(Fault);
    case FRAME_ALIVE:
        return header->bytes == sizeof(Sign) + (is_first(rendezvous) ? 1 : rendezvous->launch.size) * sizeof(Standing);
    case FRAME_LEFT:
        return header->bytes == 0;
    }
    return false;
}

// ---- where ranks stand -----------------------------------------------------------------------

// The mutex is held.
static void standing_keep(Rendezvous *rendezvous, uint64_t rank, const Standing *standing)
{
    rendezvous->standings[rank] = *standing;
    rendezvous->standings_s[rank] = clock_now_s();
}

static Standing standing_now(const Rendezvous *rendezvous, uint64_t rank)
{
    Standing standing = rendezvous->standings[rank];
    standing.still_s += clock_now_s() - rendezvous->standings_s[rank];
    return standing;
}

void rendezvous_stand(Rendezvous *rendezvous, const Standing *standing)
{
    pthread_mutex_lock(&rendezvous->mutex);
    standing_keep(rendezvous, rendezvous->launch.rank, standing);
    pthread_mutex_unlock(&rendezvous->mutex);
}

Standing rendezvous_standing(Rendezvous *rendezvous, uint64_t rank)
{
    pthread_mutex_lock(&rendezvous->mutex);
    Standing standing = standing_now(rendezvous, rank);
    pthread_mutex_unlock(&rendezvous->mutex);
    return standing;
}

// What a sign of life says: of rank 0 about all, of others about themselves. The mutex is held.
static uint64_t standings_fill(Rendezvous *rendezvous)
{
    uint64_t first = is_first(rendezvous) ? 0 : rendezvous->launch.rank;
    uint64_t count = is_first(rendezvous) ? rendezvous->launch.size : 1;
    Sign sign = {.idle_s = rendezvous->waits ? 0 : clock_now_s() - rendezvous->busy_s};
    memcpy(rendezvous->sign_of_life, &sign, sizeof(sign));
    for (uint64_t r = 0; r < count; r++) {
        Standing standing = standing_now(rendezvous, first + r);
        memcpy(rendezvous->sign_of_life + sizeof(sign) + r * sizeof(standing), &standing, sizeof(standing));
    }
    return sizeof(sign) + count * sizeof(Standing);
}

// The mutex is held.
static void standings_take(Rendezvous *rendezvous, Peer *peer)
{
    Standing standing;
    Sign sign;
    memcpy(&sign, peer->data, sizeof(sign));
    peer->idle_s = sign.idle_s;
    uint64_t count = is_first(rendezvous) ? 1 : rendezvous->launch.size;
    for (uint64_t r = 0; r < count; r++) {
        uint64_t rank = is_first(rendezvous) ? peer->rank : r;
        memcpy(&standing, peer->data + sizeof(sign) + r * sizeof(standing), sizeof(standing));
        if (rank != rendezvous->launch.rank)
            standing_keep(rendezvous, rank, &standing);
    }
}

// A frame is complete; the mutex is held.
static void frame_take(Rendezvous *rendezvous, Peer *peer)
{
    Fault cause;
    switch ((FrameKind)peer->header.kind) {
    case FRAME_PART:
    case FRAME_ALL:
        peer->full = true;
        pthread_cond_broadcast(&rendezvous->changed);
        break;
    case FRAME_ABORT:
        cause = rendezvous_clean_fault(peer->data);
        rendezvous->told_cause = rendezvous->told_cause || !is_first(rendezvous);
        if (!note_cause(rendezvous, &cause) || !is_first(rendezvous))
            break;
        pthread_mutex_unlock(&rendezvous->mutex);
        pass_on(rendezvous, &cause);
        pthread_mutex_lock(&rendezvous->mutex);
        break;
    case FRAME_LEFT:
        peer->left = true;
        pthread_cond_broadcast(&rendezvous->changed);
        break;
    case FRAME_ALIVE:
        standings_take(rendezvous, peer);
        break;
    case FRAME_HELLO:
    case FRAME_CHALLENGE:
    case FRAME_PROOF:
    case FRAME_REFUSED:
    case FRAME_WELCOME:
        break;
    }
    peer->header_read = peer->read = 0;
}

// Memory for more of the frame: no more at a time than has come, whatever its header says.
static bool peer_reserve(Peer *peer)
{
    uint64_t wanted = peer->read < PIECE_BYTES / 2 ? PIECE_BYTES : 2 * peer->read;
    uint64_t bytes = wanted < peer->header.bytes ? wanted : peer->header.bytes;
    if (peer->read < peer->capacity || bytes <= peer->capacity)
        return true;
    char *data = realloc(peer->data, bytes);
    if (data) {
        peer->data = data;
        peer->capacity = bytes;
    }
    return data;
}

// Takes what has come, as far as it goes. The mutex is held: others look at the peer only while it is full.
void rendezvous_peer_read(Rendezvous *rendezvous, Peer *peer)
{
    while (!peer->gone && !peer->left && !peer->full) {
        bool in_header = peer->header_read < sizeof(peer->header);
        uint64_t end = peer->header.bytes < peer->capacity ? peer->header.bytes : peer->capacity;
        char *to = in_header ? (char *)&peer->header + peer->header_read : peer->data + peer->read;
        uint64_t want = in_header ? sizeof(peer->header) - peer->header_read : end - peer->read;
        ssize_t received = want > 0 ? recv(peer->socket, to, want, MSG_DONTWAIT) : 0;
        if (received < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (want > 0 && received <= 0) {
            peer_ended(rendezvous, peer, "is gone: killed or crashed; look at its messages and the kernel's log");
            return;
        }
        peer->heard_s = clock_now_s();
        *(in_header ? &peer->header_read : &peer->read) += (uint64_t)received;
        if (peer->header_read < sizeof(peer->header))
            continue;
        if ((in_header && !frame_is_sane(rendezvous, &peer->header)) || !peer_reserve(peer))
            peer_ended(rendezvous, peer, "sent what is no message of this program");
        else if (peer->read == peer->header.bytes)
            frame_take(rendezvous, peer);
    }
}

static double clock_read_s(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// Has this process computed since it was last looked, this thread apart? The mutex is held.
static void look_for_work(Rendezvous *rendezvous, double *computed_s, double now_s, double passed_s)
{
    double total_s = clock_read_s(CLOCK_PROCESS_CPUTIME_ID) - clock_read_s(CLOCK_THREAD_CPUTIME_ID);
    if (total_s - *computed_s > busy_share * passed_s)
        rendezvous->busy_s = now_s;
    *computed_s = total_s;
}

// Sends signs of life, and looks for those of others unless this process itself was stopped meanwhile.
static void look_for_life(Rendezvous *rendezvous, double *last_s, double *computed_s, double period_s)
{
    double now_s = clock_now_s(), before_s = *last_s;
    if (now_s - before_s < period_s)
        return;
    *last_s = now_s;
    look_for_work(rendezvous, computed_s, now_s, now_s - before_s);
    uint64_t bytes = standings_fill(rendezvous);
    for (uint64_t p = 0; p < rendezvous->peer_count; p++) {
        Peer *peer = &rendezvous->peers[p];
        if (peer->gone || peer->left)
            continue;
        if (now_s - before_s > 2 * period_s)
            peer->heard_s = now_s;
        if (now_s - peer->heard_s > rendezvous->timeout_s && !peer->full) {
            char how[64];
            snprintf(how, sizeof(how), "gave no sign of life for %g s", rendezvous->timeout_s);
            peer_ended(rendezvous, peer, how);
            continue;
        }
        pthread_mutex_unlock(&rendezvous->mutex);
        pthread_mutex_lock(&rendezvous->send_mutex);
        bool sent = frame_send(peer->socket, FRAME_ALIVE, false, rendezvous->sign_of_life, bytes);
        (void)sent; // its end shows when it is read
        pthread_mutex_unlock(&rendezvous->send_mutex);
        pthread_mutex_lock(&rendezvous->mutex);
    }
}

static uint64_t poll_fill(Rendezvous *rendezvous, struct pollfd *polled)
{
    uint64_t count = 0;
    polled[count++] = (struct pollfd){.fd = rendezvous->wake[0], .events = POLLIN};
    for (uint64_t p = 0; p < rendezvous->peer_count; p++) {
        const Peer *peer = &rendezvous->peers[p];
        bool reads = !peer->gone && !peer->left && !peer->full;
        polled[count++] = (struct pollfd){.fd = reads ? peer->socket : -1, .events = POLLIN};
    }
    return count;
}

static void *reader_main(void *argument)
{
    Rendezvous *rendezvous = argument;
    struct pollfd *polled = calloc(rendezvous->peer_count + 1, sizeof(*polled));
    double period_s = rendezvous->timeout_s / SIGNS_PER_TIMEOUT, last_s = clock_now_s(), computed_s = 0;
    char woken[64];
    pthread_mutex_lock(&rendezvous->mutex);
    while (polled && !rendezvous->quit) {
        uint64_t count = poll_fill(rendezvous, polled);
        pthread_mutex_unlock(&rendezvous->mutex);
        int ready = poll(polled, count, (int)fmin(period_s * 1e3 + 1, 1e6));
        ssize_t drained = ready > 0 && polled[0].revents ? read(rendezvous->wake[0], woken, sizeof(woken)) : 0;
        (void)drained; // how often it was woken does not matter
        pthread_mutex_lock(&rendezvous->mutex);
        for (uint64_t p = 0; ready > 0 && p < rendezvous->peer_count; p++)
            if (polled[p + 1].revents)
                rendezvous_peer_read(rendezvous, &rendezvous->peers[p]);
        look_for_life(rendezvous, &last_s, &computed_s, period_s);
    }
    pthread_mutex_unlock(&rendezvous->mutex);
    free(polled);
    return NULL;
}

static void reader_wake(Rendezvous *rendezvous)
{
    ssize_t written = write(rendezvous->wake[1], "", 1);
    (void)written; // a full pipe wakes it, too
}

bool rendezvous_read_begin(Rendezvous *rendezvous, Fault *fault)
{
    for (uint64_t p = 0; p < rendezvous->peer_count; p++)
        rendezvous->peers[p].heard_s = clock_now_s();
    rendezvous->busy_s = clock_now_s();
    if (pipe2(rendezvous->wake, O_CLOEXEC | O_NONBLOCK) != 0)
        return fault_set(fault, FAULT_RUN, "cannot make a pipe: %s", strerror(errno));
    int error = pthread_create(&rendezvous->reader, NULL, reader_main, rendezvous);
    rendezvous->reading = error == 0;
    return error == 0 ||
           fault_set(fault, FAULT_RUN, "cannot start a thread that listens to the ranks: %s", strerror(error));
}

void rendezvous_read_end(Rendezvous *rendezvous)
{
    if (rendezvous->reading) {
        pthread_mutex_lock(&rendezvous->mutex);
        rendezvous->quit = true;
        pthread_mutex_unlock(&rendezvous->mutex);
        reader_wake(rendezvous);
        pthread_join(rendezvous->reader, NULL);
    }
    for (int end = 0; end < 2; end++)
        if (rendezvous->wake[end] >= 0)
            close(rendezvous->wake[end]);
}

// ---- calls -----------------------------------------------------------------------------------

static bool send_to(Rendezvous *rendezvous, Peer *peer, FrameKind kind, const void *data, uint64_t bytes, Fault *fault)
{
    pthread_mutex_lock(&rendezvous->send_mutex);
    bool sent = frame_send(peer->socket, kind, false, data, bytes);
    pthread_mutex_unlock(&rendezvous->send_mutex);
    if (!sent && !rendezvous_aborted(rendezvous, fault))
        fault_set(fault, FAULT_RUN, "cannot send to rank %" PRIu64 ": its connection has ended", peer->rank);
    return sent;
}

// Copies what has come from the peer once it is there.
static bool take_from(Rendezvous *rendezvous, Peer *peer, void *out, uint64_t bytes, Fault *fault)
{
    double began_s = clock_now_s();
    pthread_mutex_lock(&rendezvous->mutex);
    rendezvous->waits = true;
    while (!peer->full && !peer->left && rendezvous->cause.kind == FAULT_NONE) {
        struct timespec until = clock_timespec(clock_now_s() + rendezvous->timeout_s / SIGNS_PER_TIMEOUT);
        pthread_cond_timedwait(&rendezvous->changed, &rendezvous->mutex, &until);
        if (!peer->full && !peer->left && rendezvous->cause.kind == FAULT_NONE &&
            clock_now_s() - began_s > rendezvous->timeout_s && peer->idle_s > rendezvous->timeout_s)
            peer_failed(rendezvous, peer,
                        "runs, but has done nothing for longer than the time limit: look at what it waits for");
    }
    rendezvous->waits = false;
    rendezvous->busy_s = clock_now_s();
    bool ok = peer->full && rendezvous->cause.kind == FAULT_NONE;
    if (ok && peer->header.bytes == bytes)
        memcpy(out, peer->data, bytes);
    else if (ok)
        ok = fault_set(fault, FAULT_RUN, "rank %" PRIu64 " takes part in another call: %" PRIu64 " bytes, not %" PRIu64,
                       peer->rank, peer->header.bytes, bytes);
    else if (rendezvous->cause.kind != FAULT_NONE && fault->kind == FAULT_NONE)
        *fault = rendezvous->cause;
    else
        fault_set(fault, FAULT_RUN, "rank %" PRIu64 " has ended before the others", peer->rank);
    peer->full = false;
    peer->header_read = peer->read = 0;
    pthread_mutex_unlock(&rendezvous->mutex);
    reader_wake(rendezvous);
    return ok;
}

bool rendezvous_all_gather(Rendezvous *rendezvous, const void *own, void *all, uint64_t bytes, Fault *fault)
{
    uint64_t size = rendezvous->launch.size;
    if (rendezvous_aborted(rendezvous, fault))
        return false;
    if (!is_first(rendezvous))
        return send_to(rendezvous, &rendezvous->peers[0], FRAME_PART, own, bytes, fault) &&
               take_from(rendezvous, &rendezvous->peers[0], all, size * bytes, fault);
    memmove(all, own, bytes);
    for (uint64_t p = 0; p < rendezvous->peer_count; p++)
        if (!take_from(rendezvous, &rendezvous->peers[p], (char *)all + (p + 1) * bytes, bytes, fault))
            return false;
    for (uint64_t p = 0; p < rendezvous->peer_count; p++)
        if (!send_to(rendezvous, &rendezvous->peers[p], FRAME_ALL, all, size * bytes, fault))
            return false;
    return true;
}

bool rendezvous_broadcast(Rendezvous *rendezvous, void *data, uint64_t bytes, Fault *fault)
{
    if (rendezvous_aborted(rendezvous, fault))
        return false;
    if (!is_first(rendezvous))
        return take_from(rendezvous, &rendezvous->peers[0], data, bytes, fault);
    for (uint64_t p = 0; p < rendezvous->peer_count; p++)
        if (!send_to(rendezvous, &rendezvous->peers[p], FRAME_ALL, data, bytes, fault))
            return false;
    return true;
}
