// Collectives between threads. A member posts what it sends, every receiver copies its share out of the sender's
// buffer chunk by chunk as peers arrive, and a sender leaves when all have taken theirs. So a member is never more
// than one call ahead, and posts need no queue.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_threads_internal.h"

// One member's side of one collective.
typedef struct {
    ThreadComm *comm;
    Channel *channel;
    uint32_t own;
    Member *member;
    uint32_t left; // peers whose rows have not been taken
    uint64_t messages;
    double end_s, overhead_s; // of the emulated transfers
    Fault *fault;
} Call;

static void channel_describe(const Call *call, char *out, size_t size)
{
    comm_describe_group(&call->comm->world->cluster, &call->channel->group, out, size);
}

// Who keeps this member waiting: a peer that has not posted, or one that has not taken its share.
static bool call_timeout(Call *call)
{
    const Channel *channel = call->channel;
    uint64_t sequence = call->member->post.sequence;
    uint32_t missing = 0, first = call->own;
    for (uint32_t m = 0; m < channel->member_count; m++) {
        const Member *peer = &channel->members[m];
        bool arrived = peer->post.sequence >= sequence;
        bool taken = arrived && peer->flows && peer->flows[call->own].state == FLOW_TAKEN;
        if (m == call->own || (call->left > 0 ? arrived : taken))
            continue;
        if (missing++ == 0)
            first = m;
    }
    char group[128], others[48] = "";
    channel_describe(call, group, sizeof(group));
    if (missing > 1)
        snprintf(others, sizeof(others), " (nor did %" PRIu32 " more)", missing - 1);
    fault_set(call->fault, FAULT_RUN,
              "rank %" PRIu64 " did not %s in %s%s, and for %g s no rank moved or computed anything",
              channel->ranks[first], call->left > 0 ? "arrive" : "take its rows", group, others,
              call->comm->world->timeout_s);
    call->fault->late = true;
    thread_world_tell_peer(call->comm->world, channel->ranks[first], channel->stream, call->fault);
    return false;
}

// Waits for a change of this member or, if finite, until `until_s`; the channel's mutex is held.
// False with a fault when the world was aborted or nothing has moved for too long.
static bool call_wait(Call *call, double until_s)
{
    ThreadWorld *world = call->comm->world;
    if (thread_world_aborted(world, call->fault))
        return false;
    double deadline_s = atomic_load(&world->progress_s) + world->timeout_s;
    if (!isfinite(until_s) && clock_now_s() >= deadline_s) {
        if (!thread_world_lives(world))
            return call_timeout(call);
        deadline_s = atomic_load(&world->progress_s) + world->timeout_s;
    }
    struct timespec until = clock_timespec(isfinite(until_s) ? until_s : deadline_s);
    pthread_cond_timedwait(&call->member->changed, &call->channel->mutex, &until);
    return !thread_world_aborted(world, call->fault);
}

// ---- the two collectives ---------------------------------------------------------------------

static bool call_mismatch(const Call *call, uint32_t peer, const char *what, uint64_t own, uint64_t theirs)
{
    char group[128];
    channel_describe(call, group, sizeof(group));
    fault_set(call->fault, FAULT_RUN, "%s differs in %s: %" PRIu64 " here, %" PRIu64 " at rank %" PRIu64, what, group,
              own, theirs, call->channel->ranks[peer]);
    call->fault->peer = (int64_t)call->channel->ranks[peer];
    return false;
}

static bool call_differs(const Call *call, uint32_t peer, const CommCall *own, const CommCall *theirs)
{
    char here[64], there[64];
    comm_describe_call(own, here, sizeof(here));
    comm_describe_call(theirs, there, sizeof(there));
    uint64_t rank = call->channel->ranks[peer];
    if (strcmp(here, there) == 0)
        fault_set(call->fault, FAULT_MISMATCH, "%s here is not the one that rank %" PRIu64 " is in", here, rank);
    else
        fault_set(call->fault, FAULT_MISMATCH, "this rank is in %s, rank %" PRIu64 " in %s", here, rank, there);
    call->fault->peer = (int64_t)rank;
    return false;
}

// Do both sides speak of the same call? The counts of one that has failed may be gone.
static bool call_match(const Call *call, uint32_t peer)
{
    const Post *own = &call->member->post, *other = &call->channel->members[peer].post;
    if (!comm_calls_equal(&own->exchange.call, &other->exchange.call))
        return call_differs(call, peer, &own->exchange.call, &other->exchange.call);
    if (own->exchange.part_count != other->exchange.part_count)
        return call_mismatch(call, peer, "the number of parts", own->exchange.part_count, other->exchange.part_count);
    for (uint32_t p = 0; p < own->exchange.part_count; p++) {
        uint64_t here = own->exchange.parts[p].row_bytes, there = other->exchange.parts[p].row_bytes;
        if (here != there)
            return call_mismatch(call, peer, "the size of a row", here, there);
        here = own->exchange.parts[p].fixed_rows, there = other->exchange.parts[p].fixed_rows;
        if (here != there)
            return call_mismatch(call, peer, "the number of rows", here, there);
    }
    if (comm_is_fixed(&own->exchange) || other->withdrawn)
        return true;
    if (own->exchange.counts_known != other->exchange.counts_known)
        return call_mismatch(call, peer, "whether counts are known", own->exchange.counts_known,
                             other->exchange.counts_known);
    int32_t here = own->exchange.recv_counts[peer], there = other->exchange.send_counts[call->own];
    if (own->exchange.counts_known && here != there)
        return call_mismatch(call, peer, "the number of rows", (uint64_t)here, (uint64_t)there);
    return true;
}

static void flow_begin_chunk(const Call *call, Flow *flow)
{
    LinkEmulation *links = call->comm->world->links;
    uint64_t rest = flow->total - flow->moved;
    flow->chunk = links && flow->link.chunk_bytes < rest ? flow->link.chunk_bytes : rest;
    if (links && flow->chunk > 0)
        flow->ready_s = links_flow_reserve(links, &flow->link, flow->chunk);
}

// Points the flow from `peer` at its bytes. The channel's mutex is held; the peer has posted.
static void flow_aim(const Call *call, uint32_t peer, Flow *flow)
{
    const Post *own = &call->member->post, *other = &call->channel->members[peer].post;
    flow->moved = flow->total = 0;
    memset(flow->bytes, 0, sizeof(flow->bytes));
    const Exchange *exchange = &own->exchange;
    for (uint32_t p = 0; p < exchange->part_count; p++) {
        uint64_t row_bytes = exchange->parts[p].row_bytes;
        CommRows source = comm_rows_to(&other->exchange, p, call->own, peer);
        CommRows target = comm_rows_from(exchange, p, peer, call->own);
        flow->source[p] = (const char *)other->exchange.parts[p].send + source.first * row_bytes;
        flow->target[p] = (char *)exchange->parts[p].recv + target.first * row_bytes;
        flow->bytes[p] = target.count * row_bytes;
        flow->total += flow->bytes[p];
    }
    flow->total += comm_sends_counts(exchange) ? sizeof(int32_t) : 0;
}

static bool flow_begin(Call *call, uint32_t peer, double start_s)
{
    if (!call_match(call, peer))
        return false;
    Flow *flow = &call->member->flows[peer];
    comm_tally_came(&call->member->tally, peer, call->channel->members[peer].post.posted_s);
    flow_aim(call, peer, flow);
    flow->state = FLOW_MOVING;
    flow->ready_s = start_s;
    if (call->comm->world->links) {
        const Channel *channel = call->channel;
        links_flow_begin(call->comm->world->links, &flow->link, channel->ranks[peer], channel->ranks[call->own],
                         flow->total, start_s);
    }
    flow_begin_chunk(call, flow);
    return true;
}

static bool exchange_check_capacity(const Call *call, const Exchange *exchange)
{
    const Channel *channel = call->channel;
    return comm_check_receive(exchange, channel->member_count, call->own, channel->ranks, call->fault);
}

// Counts go ahead of rows, as MPI sends them: a message to each peer, and the farthest one's latency.
static double counts_s(const Call *call)
{
    const Channel *channel = call->channel;
    double latency_s = 0, overhead_s = 0;
    for (uint32_t m = 0; call->comm->world->links && m < channel->member_count; m++) {
        LinkFlow way;
        if (m == call->own)
            continue;
        links_flow_begin(call->comm->world->links, &way, channel->ranks[m], channel->ranks[call->own], 0, 0);
        latency_s = fmax(latency_s, way.latency_s);
        overhead_s += way.overhead_s;
    }
    return latency_s + overhead_s;
}

// Where rows go depends on the counts of all peers: nothing moves before the last of them has come.
static bool call_admit_counted(Call *call)
{
    Channel *channel = call->channel;
    Exchange *exchange = &call->member->post.exchange;
    double start_s = call->member->post.posted_s;
    for (uint32_t m = 0; m < channel->member_count; m++) {
        const Post *post = &channel->members[m].post;
        if (post->sequence != call->member->post.sequence)
            return true;
        if (post->withdrawn)
            return call_match(call, m);
        start_s = fmax(start_s, post->posted_s);
    }
    for (uint32_t m = 0; m < channel->member_count; m++) {
        if (m == call->own)
            continue;
        if (!call_match(call, m))
            return false;
        exchange->recv_counts[m] = channel->members[m].post.exchange.send_counts[call->own];
    }
    if (!exchange_check_capacity(call, exchange))
        return false;
    start_s += counts_s(call);
    for (uint32_t m = 0; m < channel->member_count; m++) {
        if (m != call->own && !flow_begin(call, m, start_s))
            return false;
    }
    return true;
}

// Begins the flows of peers that have come. A flow starts when both sides are there.
static bool call_admit(Call *call)
{
    const Post *own = &call->member->post;
    bool counted = comm_sends_counts(&own->exchange);
    for (uint32_t m = 0; m < call->channel->member_count; m++) {
        const Post *post = &call->channel->members[m].post;
        if (m == call->own || call->member->flows[m].state != FLOW_WAITING || post->sequence != own->sequence)
            continue;
        if (counted)
            return call_admit_counted(call);
        if (post->withdrawn && !call_match(call, m))
            return false;
        if (post->withdrawn) // the failure is on its way
            continue;
        if (!flow_begin(call, m, fmax(own->posted_s, post->posted_s)))
            return false;
    }
    return true;
}

static void flow_copy(Flow *flow)
{
    uint64_t begin = flow->moved, end = flow->moved + flow->chunk;
    for (uint32_t p = 0; p < EXCHANGE_PARTS_MAX && begin < end; p++) {
        uint64_t bytes = flow->bytes[p] < end ? flow->bytes[p] : end;
        if (begin < bytes) {
            memcpy(flow->target[p] + begin, flow->source[p] + begin, bytes - begin);
            begin = bytes;
        }
        begin -= bytes;
        end -= bytes;
    }
    flow->moved += flow->chunk;
}

static Flow *call_next_flow(const Call *call, uint32_t *peer)
{
    Flow *next = NULL;
    for (uint32_t m = 0; m < call->channel->member_count; m++) {
        Flow *flow = &call->member->flows[m];
        if (m != call->own && flow->state == FLOW_MOVING && (!next || flow->ready_s < next->ready_s)) {
            next = flow;
            *peer = m;
        }
    }
    return next;
}

static void call_take(Call *call, Flow *flow, uint32_t peer)
{
    flow->state = FLOW_TAKEN;
    call->left--;
    if (flow->total > 0) {
        comm_tally_delivered(&call->member->tally, peer, clock_now_s());
        call->messages++;
        call->end_s = fmax(call->end_s, flow->link.clock_s + flow->link.latency_s);
        call->overhead_s = flow->link.overhead_s;
    }
    Member *sender = &call->channel->members[peer];
    if (--sender->post.pending == 0)
        pthread_cond_signal(&sender->changed);
}

// All chunks of a flow but the last may be copied this much early: fewer wake-ups, same end.
static const double run_ahead_s = 0.2e-3;

// Copies the chunk that is ready first, or waits for it. The channel's mutex is held.
static bool call_advance(Call *call)
{
    uint32_t peer = 0;
    Flow *flow = call_next_flow(call, &peer);
    if (!flow)
        return call_wait(call, INFINITY);
    ThreadWorld *world = call->comm->world;
    Member *sender = &call->channel->members[peer];
    if (thread_world_aborted(world, call->fault))
        return false;
    if (sender->post.withdrawn)
        return call_wait(call, INFINITY);
    double now_s = clock_now_s(), ahead_s = flow->moved + flow->chunk < flow->total ? run_ahead_s : 0;
    if (world->links && flow->ready_s > now_s + ahead_s)
        return call_wait(call, flow->ready_s);
    flow->copying = true;
    pthread_mutex_unlock(&call->channel->mutex);
    flow_copy(flow);
    atomic_store(&world->progress_s, now_s);
    bool taken = flow->moved == flow->total;
    if (!taken)
        flow_begin_chunk(call, flow);
    pthread_mutex_lock(&call->channel->mutex);
    flow->copying = false;
    if (sender->post.withdrawn)
        pthread_cond_signal(&sender->changed);
    if (taken)
        call_take(call, flow, peer);
    return true;
}

// A call that fails leaves when nobody reads any more what it sends.
static void call_withdraw(Call *call)
{
    call->member->post.withdrawn = true;
    for (uint32_t m = 0; m < call->channel->member_count; m++) {
        const Member *peer = &call->channel->members[m]; // without flows until it opens the channel
        while (m != call->own && peer->flows && peer->flows[call->own].copying)
            pthread_cond_wait(&call->member->changed, &call->channel->mutex);
    }
}

static void call_post(Call *call, const Post *post)
{
    Channel *channel = call->channel;
    uint64_t sequence = call->member->post.sequence + 1;
    call->member->post = *post;
    call->member->post.sequence = sequence;
    call->member->post.posted_s = clock_now_s();
    call->member->post.pending = call->left;
    atomic_store(&call->comm->world->progress_s, call->member->post.posted_s);
    for (uint32_t m = 0; m < channel->member_count; m++) {
        call->member->flows[m].state = FLOW_WAITING;
        if (m != call->own)
            pthread_cond_signal(&channel->members[m].changed);
    }
}

static bool call_transfer(Call *call)
{
    const Post *post = &call->member->post;
    if (post->exchange.counts_known && !exchange_check_capacity(call, &post->exchange))
        return false;
    while (call->left > 0) {
        if (!call_admit(call) || !call_advance(call))
            return false;
    }
    while (post->pending > 0) {
        if (!call_wait(call, INFINITY))
            return false;
    }
    if (call->comm->world->links && call->messages > 0) {
        call->end_s += call->overhead_s * (double)call->messages;
        while (clock_now_s() < call->end_s) {
            if (!call_wait(call, call->end_s))
                return false;
        }
    }
    return true;
}

static bool call_run(ThreadComm *comm, int handle, const Post *post, Fault *fault)
{
    if (thread_world_aborted(comm->world, fault))
        return false;
    Channel *channel = comm->handles[handle].channel;
    uint32_t own = comm->handles[handle].own;
    Call call = {.comm = comm, .channel = channel, .own = own, .member = &channel->members[own], .fault = fault};
    call.left = channel->member_count - 1;
    pthread_mutex_lock(&channel->mutex);
    call_post(&call, post);
    CommTally *tally = &call.member->tally;
    comm_tally_begin(tally, own, call.member->post.posted_s);
    bool ok = call_transfer(&call);
    if (!ok)
        call_withdraw(&call);
    comm_tally_end(tally, comm_tally_of(tally, &post->exchange), clock_now_s());
    pthread_mutex_unlock(&channel->mutex);
    return ok;
}

bool threads_exchange(Comm *base, int handle, const Exchange *exchange, Fault *fault)
{
    ThreadComm *comm = (ThreadComm *)base;
    const Handle *at = &comm->handles[handle];
    for (uint32_t m = 0; m < at->channel->member_count; m++) {
        if (m == at->own)
            continue;
        if (!comm_check_send(exchange, m, at->channel->ranks[m], fault))
            return false;
        comm_count_exchange(&comm->counters[at->channel->members[at->own].flows[m].level], exchange, m);
    }
    if (!call_run(comm, handle, &(Post){.exchange = *exchange}, fault))
        return false;
    for (uint32_t m = 0; m < at->channel->member_count; m++)
        if (m != at->own)
            comm_count_received(&comm->counters[at->channel->members[at->own].flows[m].level], exchange, m);
    return true;
}
