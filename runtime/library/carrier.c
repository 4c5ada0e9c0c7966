// Communicators that the caller carries: exchanges made of his functions. What members of a channel tell each other
// before rows travel, a note, says which call each is in and whether one has failed, so that those who are not in the
// same call find out before sizes differ.
#include "runtime/library/carrier.h"

#include <inttypes.h>
#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_common.h"

typedef struct {
    uint32_t mark, failed; // failed: what happened follows
    CommCall call;
    uint32_t sequence; // of calls on the channel
    int32_t rows;      // for the receiver; where counts travel alone, that
    uint32_t part_count;
    uint64_t row_bytes; // of all parts
} Note;

// What has happened at a rank that has failed.
typedef struct {
    int32_t kind, late;
    int64_t rank, step, peer;
    char message[216];
} Notice;

typedef struct {
    Stream stream;
    uint32_t members, own;
    uint64_t *ranks;  // of the plan
    uint32_t *levels; // between this rank and each
    uint32_t sequence;
    bool reported;                    // that this rank has failed
    Note *sent, *got;                 // [members], those of others first to last
    int64_t *send_bytes, *recv_bytes; // [members]
    Pool send_pool, recv_pool;
    CommTally tally;
} Channel;

typedef struct {
    Comm comm; // first
    CarrierLink *link;
    int channels_before; // of the link: numbers of channels go on
    Channel **channels;
    int channel_count;
    CommCounters counters[LEVELS_MAX];
    pthread_mutex_t mutex;
    atomic_bool failed;
    Fault cause; // guarded
} CarrierComm;

enum { NOTE_MARK = 0x68657031 };

// ---- channels --------------------------------------------------------------------------------------

static void channel_free(Channel *channel)
{
    if (!channel)
        return;
    free(channel->ranks);
    free(channel->levels);
    free(channel->sent);
    free(channel->got);
    free(channel->send_bytes);
    free(channel->recv_bytes);
    pool_free(&channel->send_pool);
    pool_free(&channel->recv_pool);
    free(channel->tally.of_peers);
    free(channel);
}

static Channel *channel_make(const Comm *comm, const Group *group, Stream stream)
{
    Channel *channel = calloc(1, sizeof(*channel));
    if (!channel)
        return NULL;
    uint64_t members = group_size(comm->cluster, group);
    channel->stream = stream;
    channel->members = (uint32_t)members;
    channel->own = (uint32_t)group_index(comm->cluster, group, comm->rank);
    channel->ranks = calloc(members, sizeof(*channel->ranks));
    channel->levels = calloc(members, sizeof(*channel->levels));
    channel->sent = calloc(members, sizeof(*channel->sent));
    channel->got = calloc(members, sizeof(*channel->got));
    channel->send_bytes = calloc(members, sizeof(*channel->send_bytes));
    channel->recv_bytes = calloc(members, sizeof(*channel->recv_bytes));
    if (!channel->ranks || !channel->levels || !channel->sent || !channel->got || !channel->send_bytes ||
        !channel->recv_bytes || !comm_tally_create(&channel->tally, channel->members)) {
        channel_free(channel);
        return NULL;
    }
    for (uint32_t m = 0; m < channel->members; m++) {
        channel->ranks[m] = group_member_rank(comm->cluster, group, comm->rank, m);
        channel->levels[m] = comm_level_between(comm->cluster, comm->rank, channel->ranks[m]);
    }
    return channel;
}

static bool is_failed(CarrierComm *comm, Fault *fault)
{
    if (!atomic_load(&comm->failed))
        return false;
    pthread_mutex_lock(&comm->mutex);
    if (fault->kind == FAULT_NONE)
        *fault = comm->cause;
    pthread_mutex_unlock(&comm->mutex);
    return true;
}

static bool carrier_fault(CarrierComm *comm, const char *what, int code, Fault *fault)
{
    const hep_carrier *carrier = &comm->link->carrier;
    const char *why = carrier->why ? carrier->why(comm->link->user) : NULL;
    atomic_store(&comm->link->broken, true);
    if (why)
        fault_set(fault, FAULT_RUN, "%s failed: %.380s", what, why);
    else if (code == HEP_TIMEOUT)
        fault_set(fault, FAULT_RUN, "%s failed: a rank did not come in time", what);
    else
        fault_set(fault, FAULT_RUN, "%s failed (%d)", what, code);
    fault->late = code == HEP_TIMEOUT;
    return false;
}

static bool channel_connect(CarrierComm *comm, const Channel *channel, int number, Fault *fault)
{
    if (channel->members == 1)
        return true;
    int32_t *ranks = calloc(channel->members, sizeof(*ranks));
    if (!ranks)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a channel");
    for (uint32_t m = 0; m < channel->members; m++)
        ranks[m] = (int32_t)cluster_process_of_rank(comm->comm.cluster, channel->ranks[m]);
    const hep_carrier *carrier = &comm->link->carrier;
    int code = carrier->open(comm->link->user, number, ranks, (int)channel->members, (int)channel->own);
    free(ranks);
    return code == 0 || carrier_fault(comm, "opening a channel", code, fault);
}

static int carrier_open(Comm *base, const Group *group, Stream stream, Fault *fault)
{
    CarrierComm *comm = (CarrierComm *)base;
    Channel **channels = realloc(comm->channels, ((size_t)comm->channel_count + 1) * sizeof(*channels));
    if (channels)
        comm->channels = channels;
    Channel *channel = channels ? channel_make(base, group, stream) : NULL;
    if (!channel) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a channel");
        return -1;
    }
    if (!channel_connect(comm, channel, comm->channels_before + comm->channel_count, fault)) {
        channel_free(channel);
        return -1;
    }
    comm->link->channels++;
    comm->channels[comm->channel_count] = channel;
    return comm->channel_count++;
}

// ---- notes -----------------------------------------------------------------------------------------

// Sizes for the carrier: `bytes` for every other member.
static void even_bytes(const Channel *channel, int64_t *bytes, int64_t each)
{
    for (uint32_t m = 0; m < channel->members; m++)
        bytes[m] = m == channel->own ? 0 : each;
}

static bool carry(CarrierComm *comm, int number, const void *send, void *recv, Fault *fault)
{
    const Channel *channel = comm->channels[number];
    int code = comm->link->carrier.exchange(comm->link->user, comm->channels_before + number, send, channel->send_bytes,
                                            recv, channel->recv_bytes);
    return code == 0 || carrier_fault(comm, "an exchange", code, fault);
}

static const Note *note_of(const Channel *channel, uint32_t member)
{
    return &channel->got[member - (member > channel->own)];
}

static bool exchange_notes(CarrierComm *comm, int number, Fault *fault)
{
    Channel *channel = comm->channels[number];
    even_bytes(channel, channel->send_bytes, sizeof(Note));
    even_bytes(channel, channel->recv_bytes, sizeof(Note));
    return carry(comm, number, channel->sent, channel->got, fault);
}

// Of members that have failed, what has happened. True if any has: then `fault` says so.
static bool hear_notices(CarrierComm *comm, int number, const Fault *own, Fault *fault)
{
    Channel *channel = comm->channels[number];
    uint32_t failed = 0;
    for (uint32_t m = 0; m < channel->members; m++) {
        bool from = m != channel->own && note_of(channel, m)->failed;
        failed += from;
        channel->recv_bytes[m] = from ? sizeof(Notice) : 0;
    }
    if (!failed && !own)
        return false;
    Notice notice = {.kind = FAULT_NONE};
    if (own) {
        notice = (Notice){
            .kind = (int32_t)own->kind, .late = own->late, .rank = own->rank, .step = own->step, .peer = own->peer};
        memcpy(notice.message, own->message, sizeof(notice.message) - 1);
    }
    Notice *sent = pool_take(&channel->send_pool, channel->members * sizeof(Notice), fault);
    Notice *got = pool_take(&channel->recv_pool, channel->members * sizeof(Notice), fault);
    if (!sent || !got)
        return true;
    even_bytes(channel, channel->send_bytes, own ? sizeof(Notice) : 0);
    for (uint32_t m = 0; m + 1 < channel->members; m++)
        sent[m] = notice;
    channel->reported = true;
    if (!carry(comm, number, sent, got, fault) || failed == 0)
        return true;
    got[0].message[sizeof(got[0].message) - 1] = '\0';
    bool known = got[0].kind > FAULT_NONE && got[0].kind < FAULT_KIND_COUNT;
    fault_set(fault, known ? (FaultKind)got[0].kind : FAULT_RUN, "%s", got[0].message);
    fault->late = got[0].late;
    fault->rank = got[0].rank;
    fault->step = got[0].step;
    fault->peer = got[0].peer;
    return true;
}

// All members see all notes: they all find out.
static bool note_differs(Channel *channel, uint32_t member, const Note *own, const Note *theirs, Fault *fault)
{
    char here[64], there[64];
    comm_describe_call(&own->call, here, sizeof(here));
    comm_describe_call(&theirs->call, there, sizeof(there));
    uint64_t rank = channel->ranks[member];
    if (theirs->mark != NOTE_MARK)
        fault_set(fault, FAULT_RUN, "what came from rank %" PRIu64 " is no message of this library", rank);
    else if (!comm_calls_equal(&own->call, &theirs->call))
        fault_set(fault, FAULT_MISMATCH, "this rank is in %s, rank %" PRIu64 " in %s", here, rank, there);
    else
        fault_set(fault, FAULT_MISMATCH, "%s here is not the one that rank %" PRIu64 " is in", here, rank);
    fault->peer = (int64_t)rank;
    channel->reported = true;
    return false;
}

static bool check_note(Channel *channel, uint32_t member, const Exchange *exchange, Fault *fault)
{
    const Note *theirs = note_of(channel, member), *own = &channel->sent[0];
    if (theirs->mark != NOTE_MARK || !comm_calls_equal(&own->call, &theirs->call) ||
        theirs->sequence != own->sequence || theirs->part_count != own->part_count ||
        theirs->row_bytes != own->row_bytes)
        return note_differs(channel, member, own, theirs, fault);
    if (exchange->carries != CARRIES_COUNTS && exchange->counts_known && theirs->rows != exchange->recv_counts[member])
        return fault_set(fault, FAULT_MISMATCH,
                         "rank %" PRIu64 " sends %" PRId32 " rows where %" PRId32
                         " were to come: it is in another call",
                         channel->ranks[member], theirs->rows, exchange->recv_counts[member]);
    return true;
}

static void write_notes(Channel *channel, const Exchange *exchange)
{
    Note note = {
        .mark = NOTE_MARK, .call = exchange->call, .sequence = channel->sequence, .part_count = exchange->part_count};
    for (uint32_t p = 0; p < exchange->part_count; p++)
        note.row_bytes += exchange->parts[p].row_bytes;
    const int32_t *counts = exchange->carries == CARRIES_COUNTS ? exchange->parts[0].send : exchange->send_counts;
    for (uint32_t m = 0, at = 0; m < channel->members; m++) {
        note.rows = counts[m];
        if (m != channel->own)
            channel->sent[at++] = note;
    }
}

// What the notes bring: counts.
static void read_notes(const Channel *channel, const Exchange *exchange)
{
    int32_t *counts = exchange->carries == CARRIES_COUNTS ? exchange->parts[0].recv : exchange->recv_counts;
    bool known = (exchange->counts_known || comm_is_fixed(exchange)) && exchange->carries != CARRIES_COUNTS;
    for (uint32_t m = 0; m < channel->members && !known; m++)
        if (m != channel->own)
            counts[m] = note_of(channel, m)->rows;
}

static bool compare_notes(CarrierComm *comm, int number, const Exchange *exchange, Fault *fault)
{
    Channel *channel = comm->channels[number];
    bool known = exchange->counts_known || comm_is_fixed(exchange);
    if (known && exchange->carries != CARRIES_COUNTS && comm->link->carrier.unchecked)
        return true;
    write_notes(channel, exchange);
    if (!exchange_notes(comm, number, fault) || hear_notices(comm, number, NULL, fault))
        return false;
    for (uint32_t m = 0; m < channel->members; m++)
        if (m != channel->own && !check_note(channel, m, exchange, fault))
            return false;
    read_notes(channel, exchange);
    return true;
}

// ---- rows ------------------------------------------------------------------------------------------

typedef CommRows (*RowsOf)(const Exchange *exchange, uint32_t part, uint32_t member, uint32_t own);

// Bytes for the members, or from them.
static uint64_t set_bytes(const Channel *channel, const Exchange *exchange, RowsOf rows_of, int64_t *bytes)
{
    uint64_t total = 0;
    for (uint32_t m = 0; m < channel->members; m++) {
        uint64_t of_member = 0;
        for (uint32_t p = 0; p < exchange->part_count && m != channel->own; p++)
            of_member += exchange->parts[p].row_bytes * rows_of(exchange, p, m, channel->own).count;
        bytes[m] = (int64_t)of_member;
        total += of_member;
    }
    return total;
}

// Parts of a member together, one member's after another's; or back.
static void pack(const Channel *channel, const Exchange *exchange, char *packed)
{
    for (uint32_t m = 0; m < channel->members; m++)
        for (uint32_t p = 0; p < exchange->part_count && m != channel->own; p++) {
            const ExchangePart *part = &exchange->parts[p];
            CommRows rows = comm_rows_to(exchange, p, m, channel->own);
            memcpy(packed, (const char *)part->send + rows.first * part->row_bytes, rows.count * part->row_bytes);
            packed += rows.count * part->row_bytes;
        }
}

static void unpack(const Channel *channel, const Exchange *exchange, const char *packed)
{
    for (uint32_t m = 0; m < channel->members; m++)
        for (uint32_t p = 0; p < exchange->part_count && m != channel->own; p++) {
            const ExchangePart *part = &exchange->parts[p];
            CommRows rows = comm_rows_from(exchange, p, m, channel->own);
            memcpy((char *)part->recv + rows.first * part->row_bytes, packed, rows.count * part->row_bytes);
            packed += rows.count * part->row_bytes;
        }
}

// Rows of one part that lie as the carrier takes them need no copy.
static bool carry_rows(CarrierComm *comm, int number, const Exchange *exchange, Fault *fault)
{
    Channel *channel = comm->channels[number];
    uint64_t out = set_bytes(channel, exchange, comm_rows_to, channel->send_bytes);
    uint64_t in = set_bytes(channel, exchange, comm_rows_from, channel->recv_bytes);
    bool as_is = exchange->part_count == 1 && exchange->send_layout == ROWS_OTHERS;
    bool to_place = exchange->part_count == 1 && exchange->recv_layout == ROWS_OTHERS;
    const void *send = exchange->parts[0].send;
    void *recv = exchange->parts[0].recv;
    if (!as_is) {
        char *packed = pool_take(&channel->send_pool, out + 1, fault);
        if (!packed)
            return false;
        pack(channel, exchange, packed);
        send = packed;
    }
    if (!to_place && !(recv = pool_take(&channel->recv_pool, in + 1, fault)))
        return false;
    if (!carry(comm, number, send, recv, fault))
        return false;
    if (!to_place)
        unpack(channel, exchange, recv);
    return true;
}

// Every member's rows to all.
static bool carry_gather(CarrierComm *comm, int number, const Exchange *exchange, Fault *fault)
{
    const hep_carrier *carrier = &comm->link->carrier;
    for (uint32_t p = 0; p < exchange->part_count; p++) {
        const ExchangePart *part = &exchange->parts[p];
        int64_t bytes = (int64_t)(part->row_bytes * (uint64_t)exchange->send_counts[0]);
        int code = carrier->all_gather(comm->link->user, comm->channels_before + number, part->send, part->recv, bytes);
        if (code != 0)
            return carrier_fault(comm, "an all-gather", code, fault);
    }
    return true;
}

static bool carrier_exchange(Comm *base, int number, const Exchange *exchange, Fault *fault)
{
    CarrierComm *comm = (CarrierComm *)base;
    Channel *channel = comm->channels[number];
    if (is_failed(comm, fault))
        return false;
    if (channel->members == 1)
        return true;
    if (atomic_load(&comm->link->broken))
        return fault_set(fault, FAULT_RUN, "the communicator has failed before");
    for (uint32_t m = 0; m < channel->members; m++) {
        if (m == channel->own)
            continue;
        if (!comm_check_send(exchange, m, channel->ranks[m], fault))
            return false;
        comm_count_exchange(&comm->counters[channel->levels[m]], exchange, m);
    }
    comm_tally_begin(&channel->tally, channel->own, clock_now_s());
    channel->sequence++;
    if (!compare_notes(comm, number, exchange, fault) ||
        !comm_check_receive(exchange, channel->members, channel->own, channel->ranks, fault))
        return false;
    for (uint32_t m = 0; m < channel->members; m++)
        if (m != channel->own)
            comm_tally_came(&channel->tally, m, clock_now_s());
    bool gathers = exchange->send_layout == ROWS_SAME && comm->link->carrier.all_gather;
    bool ok = exchange->carries == CARRIES_COUNTS ||
              (gathers ? carry_gather(comm, number, exchange, fault) : carry_rows(comm, number, exchange, fault));
    comm_tally_end(&channel->tally, comm_tally_of(&channel->tally, exchange), clock_now_s());
    return ok;
}

// ---- the end ---------------------------------------------------------------------------------------

static void carrier_abort(Comm *base, const Fault *cause)
{
    CarrierComm *comm = (CarrierComm *)base;
    pthread_mutex_lock(&comm->mutex);
    bool first = comm->cause.kind == FAULT_NONE;
    if (first)
        comm->cause = *cause;
    atomic_store(&comm->failed, true);
    pthread_mutex_unlock(&comm->mutex);
    if (first && comm->link->carrier.abort)
        comm->link->carrier.abort(comm->link->user, cause->message);
}

static void tell(CarrierComm *comm, int number)
{
    Channel *channel = comm->channels[number];
    Fault cause, ignored = {0};
    pthread_mutex_lock(&comm->mutex);
    cause = comm->cause;
    pthread_mutex_unlock(&comm->mutex);
    if (channel->reported || channel->members == 1 || atomic_load(&comm->link->broken))
        return;
    channel->reported = true;
    for (uint32_t m = 0; m + 1 < channel->members; m++)
        channel->sent[m] = (Note){.mark = NOTE_MARK, .failed = 1};
    if (exchange_notes(comm, number, &ignored))
        (void)hear_notices(comm, number, &cause, &ignored);
}

void carrier_tell(Comm *base, uint32_t streams, const int *first, uint32_t count)
{
    CarrierComm *comm = (CarrierComm *)base;
    if (comm->link->carrier.abort || !atomic_load(&comm->failed))
        return;
    for (uint32_t i = 0; i < count; i++)
        tell(comm, first[i]);
    for (int c = 0; c < comm->channel_count; c++)
        if (streams & 1u << comm->channels[c]->stream)
            tell(comm, c);
}

static void carrier_traffic(Comm *base, CommTraffic totals[LEVELS_MAX], bool reset)
{
    comm_counters_add(((CarrierComm *)base)->counters, totals, reset);
}

static void carrier_times(Comm *base, CommTimes *totals, bool reset)
{
    const CarrierComm *comm = (const CarrierComm *)base;
    for (int c = 0; c < comm->channel_count; c++)
        comm_tally_add(&comm->channels[c]->tally, comm->channels[c]->members, comm->channels[c]->ranks, totals, reset);
}

static const CommOps carrier_ops = {
    .communicator = COMMUNICATOR_COUNT, // none of hep-run's
    .open = carrier_open,
    .exchange = carrier_exchange,
    .abort = carrier_abort,
    .traffic = carrier_traffic,
    .times = carrier_times,
};

// ---- handles ---------------------------------------------------------------------------------------

static Comm *carrier_join(hep_comm *handle, const hep_plan *plan, void **state, Fault *fault)
{
    CarrierLink *link = (CarrierLink *)handle;
    const Cluster *cluster = &plan->plan->cluster;
    CarrierComm *comm = calloc(1, sizeof(*comm));
    *state = NULL;
    if (!comm) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a communicator");
        return NULL;
    }
    comm->comm = (Comm){.ops = &carrier_ops,
                        .timeout_s = handle->timeout_s,
                        .rank = cluster_rank_of_process(cluster, (uint64_t)handle->rank),
                        .size = (uint64_t)handle->ranks,
                        .cluster = cluster};
    comm->link = link;
    comm->channels_before = link->channels;
    pthread_mutex_init(&comm->mutex, NULL);
    return &comm->comm;
}

static void carrier_leave(hep_comm *handle, Comm *base, void *state)
{
    (void)handle;
    (void)state;
    CarrierComm *comm = (CarrierComm *)base;
    if (!comm)
        return;
    for (int c = 0; c < comm->channel_count; c++)
        channel_free(comm->channels[c]);
    free(comm->channels);
    pthread_mutex_destroy(&comm->mutex);
    free(comm);
}

static void carrier_destroy(hep_comm *handle)
{
    CarrierLink *link = (CarrierLink *)handle;
    if (link->release)
        link->release(link->user);
    free(link);
}

static const LinkOps carrier_link_ops = {
    .join = carrier_join, .tell = carrier_tell, .leave = carrier_leave, .destroy = carrier_destroy};

hep_comm *carrier_make(int rank, int ranks, const hep_carrier *carrier, void *user, const hep_comm_options *options,
                       Fault *fault)
{
    CarrierLink *link = calloc(1, sizeof(*link));
    if (!link) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a communicator");
        return NULL;
    }
    link->handle = (hep_comm){.ops = &carrier_link_ops,
                              .rank = rank,
                              .ranks = ranks,
                              .timeout_s = options->timeout_s,
                              .one_thread = carrier->one_thread != 0};
    link->carrier = *carrier;
    link->user = user;
    atomic_init(&link->handle.references, 1);
    return &link->handle;
}

// Many parameters because they are what a communicator is made of: hep.h.
hep_status hep_comm_carrier(int rank, int ranks, const hep_carrier *carrier, void *user,
                            const hep_comm_options *options, hep_comm **comm)
{
    Fault fault = {0};
    hep_carrier taken;
    hep_comm_options given;
    if (!library_given(comm, "comm", &fault))
        return library_end(&fault);
    *comm = NULL;
    if (!library_given(carrier, "carrier", &fault) || !library_take(&taken, carrier, sizeof(taken), &fault) ||
        !link_options(options, &given, false, &fault))
        return library_end(&fault);
    if (!taken.open || !taken.exchange)
        fault_set(&fault, FAULT_USAGE, "a carrier needs 'open' and 'exchange'");
    else if (ranks < 1 || rank < 0 || rank >= ranks)
        fault_set(&fault, FAULT_USAGE, "rank %d of %d", rank, ranks);
    else
        *comm = carrier_make(rank, ranks, &taken, user, &given, &fault);
    return library_end(&fault);
}
