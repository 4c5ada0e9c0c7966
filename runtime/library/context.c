// Contexts: made of a plan and a communicator, and what they have counted.
#include "runtime/library/context.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "ir/exchange.h"
#include "runtime/base/clock.h"
#include "runtime/library/coded.h"
#include "runtime/library/order.h"

// ---- creation --------------------------------------------------------------------------------------

static bool check_plan(const Plan *plan, Fault *fault)
{
    const char *what = NULL;
    if (plan->model.abstract)
        what = "abstract workloads: the plan has volumes, no tensors";
    else if (plan->model.expert_bits != 0)
        what = "experts that are stored in fewer bits than a dtype has";
    return !what || fault_set(fault, FAULT_INFEASIBLE, "this version of the library does not execute %s", what);
}

static bool open_channel(const hep_context *context, Group group, Stream stream, Meeting *meeting, Fault *fault)
{
    Comm *comm = context->comm;
    *meeting = (Meeting){
        .comm = comm, .place = engine_group_place(context->plan, &group, context->rank), .ops = context->moves};
    meeting->channel = comm->ops->open(comm, &group, stream, fault);
    return meeting->channel >= 0;
}

// The plan's model with as many tokens as a rank may have.
static ModelDims dims_of(const hep_context *context)
{
    ModelDims dims = context->plan->model;
    dims.sequence = (uint32_t)context->max_tokens;
    dims.batch = 1;
    return dims;
}

// Rows of every message at a level, where messages are padded.
static bool find_message_rows(const hep_context *context, const Choice *choice, uint32_t level, uint64_t *out,
                              Fault *fault)
{
    const Plan *plan = context->plan;
    ModelDims dims = dims_of(context);
    *out = 0;
    if (plan->exchange != EXCHANGE_PADDED)
        return true;
    double rows = exchange_rows_bound(&plan->cluster, &dims, plan->dispatch, plan->capacity, choice->domain, level);
    *out = rows < INT32_MAX ? (uint64_t)rows : 0;
    return rows * plan->cluster.levels[level].count * dims.top_k < INT32_MAX ||
           fault_set(fault, FAULT_INFEASIBLE, "padded messages of %.0f rows are too large", rows);
}

// Where a GPU has what `places` are on the host.
static const int32_t *places_there(const hep_context *context, const int32_t *places)
{
    return context->device ? context->places_of_experts + (places - context->maps.memory) : places;
}

// Layers with the same domain size at a level meet on the same channels.
static bool open_hop(hep_context *context, uint32_t layer, uint32_t level, Fault *fault)
{
    Layer *of = &context->layers[layer];
    uint32_t domain = of->choice->domain[level];
    Group group = {.kind = GROUP_EXCHANGE, .level = (int32_t)level, .domain = domain};
    Hop *hop = &of->hops[of->hop_count++];
    hop->level = level;
    for (uint32_t k = 0; k < layer; k++)
        for (uint32_t h = 0; h < context->layers[k].hop_count; h++)
            if (context->layers[k].hops[h].level == level && context->layers[k].choice->domain[level] == domain)
                hop->meeting = context->layers[k].hops[h].meeting;
    if (!hop->meeting.comm && !open_channel(context, group, STREAM_EXCHANGE, &hop->meeting, fault))
        return false;
    if (!find_message_rows(context, of->choice, level, &hop->meeting.place.message_rows, fault))
        return false;
    hop->table = (RouteTable){.member_of_expert = of->map->member_of_expert[level],
                              .experts = context->plan->model.experts,
                              .members = hop->meeting.place.members,
                              .own = hop->meeting.place.own,
                              .place_rows = hop->meeting.place.message_rows};
    hop->of_rows = hop->table;
    hop->of_rows.member_of_expert = places_there(context, hop->table.member_of_expert);
    return true;
}

// A layer's crossing of as many workers of the level; NULL: none has been opened yet.
static const Crossing *find_crossing(const hep_context *context, uint32_t layers, uint32_t level, uint32_t members)
{
    for (uint32_t k = 0; k < layers; k++)
        for (uint32_t c = 0; c < context->layers[k].crossing_count; c++) {
            const Crossing *crossing = &context->layers[k].crossings[c];
            if (crossing->level == level && crossing->members == members)
                return crossing;
        }
    return NULL;
}

static bool open_gather(hep_context *context, uint32_t layer, uint32_t level, Fault *fault)
{
    Layer *of = &context->layers[layer];
    uint32_t domain = of->choice->domain[level];
    Crossing *crossing = &of->crossings[of->crossing_count++];
    const Crossing *other = find_crossing(context, layer, level, domain);
    if (other) {
        *crossing = *other;
        return true;
    }
    Group group = {.kind = GROUP_GATHER, .level = (int32_t)level, .domain = domain};
    *crossing = (Crossing){.level = level};
    if (!open_channel(context, group, STREAM_MIGRATE, &crossing->gather, fault) ||
        !open_channel(context, group, STREAM_SYNC, &crossing->home, fault))
        return false;
    crossing->members = crossing->gather.place.members;
    crossing->own = crossing->gather.place.own;
    return true;
}

// What its codec remembers.
static bool make_coded(hep_context *context, Layer *layer, Fault *fault)
{
    const Plan *plan = context->plan;
    CodedShape shape = {.coding = &plan->experts,
                        .level_count = plan->cluster.level_count,
                        .crossing_count = layer->crossing_count,
                        .crossings = layer->crossings,
                        .rows = layer->shares.rows,
                        .cols = layer->shares.cols,
                        .dtype = plan->model.dtype,
                        .has_mean = codec_info(plan->experts.codec)->has_mean && plan->shared_every > 0,
                        .moves = context->moves,
                        .lane = &context->gather_lane};
    return coded_make(&layer->coded, &shape, fault);
}

static bool open_layer(hep_context *context, uint32_t index, Fault *fault)
{
    const Plan *plan = context->plan;
    Layer *layer = &context->layers[index];
    layer->choice = &plan->choices[index];
    layer->map = expert_map_of_layer(&context->maps, plan, (int32_t)layer->choice->layer);
    layer->slots = places_there(context, layer->map->slot_of_expert);
    layer->shares = plan_expert_shares(plan, layer->choice->domain);
    layer->whole = plan_share_shape(plan).whole;
    layer->own_slot = share_slot(&layer->shares, context->rank);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        uint32_t domain = layer->choice->domain[l];
        if (plan->cluster.levels[l].count > domain && !open_hop(context, index, l, fault))
            return false;
        if (l >= plan->replica_levels && domain > 1 && !open_gather(context, index, l, fault))
            return false;
    }
    return make_coded(context, layer, fault);
}

// Dense weights go both ways in the thread that returns gradients.
static bool open_dense(hep_context *context, Fault *fault)
{
    const Cluster *cluster = &context->plan->cluster;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        uint32_t count = cluster->levels[l].count;
        if (count == 1)
            continue;
        Crossing *crossing = &context->dense[context->dense_count++];
        const Crossing *experts = find_crossing(context, context->plan->choice_count, l, count);
        Group group = {.kind = GROUP_GATHER, .level = (int32_t)l, .domain = count};
        *crossing = experts ? *experts : (Crossing){.level = l};
        if (!experts && !open_channel(context, group, STREAM_SYNC, &crossing->home, fault))
            return false;
        crossing->gather = crossing->home;
        crossing->members = crossing->home.place.members;
        crossing->own = crossing->home.place.own;
    }
    return true;
}

// Where the mean of all experts is summed, if a layer subtracts it.
static bool open_sums(hep_context *context, Fault *fault)
{
    const Cluster *cluster = &context->plan->cluster;
    bool sums = false;
    for (uint32_t k = 0; k < context->plan->choice_count; k++)
        sums = sums || context->layers[k].coded.mean.data;
    for (uint32_t l = cluster->level_count; sums && l-- > context->plan->replica_levels;) {
        Group group = {.kind = GROUP_LEVEL, .level = (int32_t)l, .domain = 1};
        if (cluster->levels[l].count > 1 &&
            !open_channel(context, group, STREAM_MIGRATE, &context->sums[context->sum_count++], fault))
            return false;
    }
    return true;
}

// What all ranks must have in common.
typedef struct {
    uint64_t digest, max_tokens, abi;
} Terms;

static bool gather_terms(hep_context *context, const Terms *own, Terms *all, Fault *fault)
{
    const MoveOps *moves = context->moves;
    uint64_t ranks = context->comm->size;
    Terms *moved = store_take(context->store, (ranks + 1) * sizeof(*moved), fault);
    Group world = {.kind = GROUP_WORLD, .level = NONE, .domain = 1};
    Meeting meeting = {.comm = context->comm,
                       .place = {.own = (uint32_t)context->rank, .members = (uint32_t)ranks},
                       .call = {.purpose = CALL_OF_CREATE, .layer = NONE},
                       .ops = moves,
                       .queue = context->gather_lane.queue};
    if (!moved)
        return false;
    context->world = meeting.channel = context->comm->ops->open(context->comm, &world, STREAM_EXCHANGE, fault);
    MovedShards terms = {.count = 1,
                         .shard = {{.data = moved + ranks, .dtype = DTYPE_U8, .rows = 1, .cols = sizeof(*own)}},
                         .gathered = {{.data = moved, .dtype = DTYPE_U8, .rows = ranks, .cols = sizeof(*own)}},
                         .counts = context->caller_lane.counts};
    bool ok = context->world >= 0 && moves->put(meeting.queue, moved + ranks, own, sizeof(*own), fault) &&
              move_gather(&meeting, &terms, fault) &&
              moves->bring(meeting.queue, all, moved, ranks * sizeof(*own), fault);
    store_give(context->store, moved);
    return ok;
}

static bool agree(hep_context *context, Fault *fault)
{
    uint64_t ranks = context->comm->size;
    Terms *all = calloc(ranks, sizeof(*all));
    if (!all)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a context");
    Terms own = {.digest = context->handle->digest, .max_tokens = context->max_tokens, .abi = HEP_ABI};
    bool ok = gather_terms(context, &own, all, fault);
    for (uint64_t r = 0; r < ranks && ok; r++) {
        if (all[r].digest != own.digest)
            ok = fault_set(fault, FAULT_INPUT, "rank %" PRId64 " has another plan",
                           context_process(context, (int64_t)r));
        else if (all[r].max_tokens != own.max_tokens || all[r].abi != own.abi)
            ok = fault_set(fault, FAULT_USAGE, "rank %" PRId64 " has other options, or another version of the library",
                           context_process(context, (int64_t)r));
        if (!ok)
            fault->peer = (int64_t)r;
    }
    free(all);
    CommTraffic of_terms[LEVELS_MAX] = {0};
    context->comm->ops->traffic(context->comm, of_terms, true); // not the plan's
    return ok;
}

static void lane_begin(hep_context *context, Lane *lane, MoveLane which)
{
    lane->counts = calloc(2 * context->comm->size, sizeof(*lane->counts));
    lane->queue = context->device ? context->device->queue(context->mover, which) : NULL;
    lane->sums.moves = lane->block.moves = lane->packets.moves = context->moves;
}

static bool create_lanes(hep_context *context, Fault *fault)
{
    if (context->device) {
        if (!context->device->create(context->comm, &context->mover, fault))
            return false;
        context->device->enter(context->mover);
    }
    lane_begin(context, &context->caller_lane, LANE_CALLER);
    lane_begin(context, &context->gather_lane, LANE_GATHERS);
    lane_begin(context, &context->courier_lane, LANE_RETURNS);
    context->store = store_create(context->moves);
    context->host_store = context->device ? store_create(&host_moves) : context->store;
    if (context->host_store && !context->device)
        store_keep(context->host_store);
    return (context->store && context->host_store && context->caller_lane.counts && context->gather_lane.counts &&
            context->courier_lane.counts) ||
           fault_set(fault, FAULT_MEMORY, "out of memory for a context");
}

static bool create_maps(hep_context *context, Fault *fault)
{
    const Plan *plan = context->plan;
    uint64_t bytes = 0;
    if (!expert_maps_create(&context->maps, plan, context->rank))
        return fault_set(fault, FAULT_MEMORY, "out of memory for a context");
    bytes = engine_map_entries(plan) * context->maps.map_count * sizeof(*context->maps.memory);
    if (!context->device || bytes == 0)
        return true;
    context->places_of_experts = store_take(context->store, bytes, fault);
    return context->places_of_experts &&
           context->moves->put(context->gather_lane.queue, context->places_of_experts, context->maps.memory, bytes,
                               fault) &&
           order_settle(context, fault);
}

static bool create_parts(hep_context *context, Fault *fault)
{
    uint32_t layers = context->plan->choice_count;
    context->layers = calloc(layers + 1, sizeof(*context->layers));
    context->queue = calloc(layers + 1, sizeof(*context->queue));
    context->jobs_end = &context->jobs;
    context->taken = calloc(context->plan->model.experts + 1, sizeof(*context->taken));
    ModelDims dims = dims_of(context);
    if (context->plan->capacity > 0)
        context->capacity_rows =
            (uint64_t)ceil(context->plan->capacity * (double)model_tokens(&dims) * dims.top_k / dims.experts);
    context->kinds = calloc(context->plan->buffer_count + 1, sizeof(*context->kinds));
    if (!context->taken || !context->kinds || !context->layers || !context->queue)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a context");
    if (!create_lanes(context, fault) || !create_maps(context, fault))
        return false;
    bundle_kinds(context->plan, context->kinds);
    for (uint32_t k = 0; k < layers; k++)
        if (!open_layer(context, k, fault))
            return false;
    return open_dense(context, fault) && open_sums(context, fault) && agree(context, fault) &&
           experts_start(context, fault);
}

static void lane_free(Lane *lane)
{
    pool_free(&lane->sums);
    pool_free(&lane->block);
    pool_free(&lane->packets);
    free(lane->counts);
}

static void free_weights(hep_context *context)
{
    for (uint32_t k = 0; context->layers && k < context->plan->choice_count; k++) {
        context->moves->release(context->layers[k].kept);
        coded_free(&context->layers[k].coded);
        order_forget(context, context->layers[k].arrived);
    }
    for (uint32_t b = 0; b < context->bundle_count; b++) {
        if (context->bundles[b]) {
            coded_free(&context->bundles[b]->coded);
            order_forget(context, context->bundles[b]->done);
        }
        free(context->bundles[b]);
    }
    free(context->layers);
    free(context->bundles);
}

static void context_free(hep_context *context)
{
    experts_stop(context);
    if (context->device)
        context->device->destroy(context->mover);
    context->link.handle->ops->leave(context->link.handle, context->comm, context->link.state);
    free_weights(context);
    MoveMark *marks[] = {context->begun, context->released, context->given, context->settled};
    for (size_t m = 0; m < COUNT_OF(marks); m++)
        order_forget(context, marks[m]);
    link_drop(context->link.handle);
    free(context->queue);
    free(context->kinds);
    free(context->taken);
    lane_free(&context->caller_lane);
    lane_free(&context->gather_lane);
    lane_free(&context->courier_lane);
    if (context->store)
        store_give(context->store, context->places_of_experts);
    store_close(context->store);
    store_close(context->host_store);
    store_drop(context->host_store);
    store_drop(context->store);
    expert_maps_destroy(&context->maps);
    pthread_mutex_destroy(&context->mutex);
    pthread_cond_destroy(&context->changed);
    hep_plan_free(context->handle);
    free(context);
}

// Of which little is there when joining fails.
static hep_context *context_make(const hep_plan *plan, hep_comm *comm, uint64_t max_tokens, Fault *fault)
{
    hep_context *context = calloc(1, sizeof(*context));
    if (!context) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a context");
        return NULL;
    }
    *context = (hep_context){.handle = plan_keep(plan),
                             .plan = plan->plan,
                             .max_tokens = max_tokens,
                             .device = comm->device,
                             .moves = comm->device ? comm->device->moves : &host_moves};
    context->rank = cluster_rank_of_process(&plan->plan->cluster, (uint64_t)comm->rank);
    context->link.handle = comm;
    atomic_fetch_add(&comm->references, 1);
    pthread_mutex_init(&context->mutex, NULL);
    clock_cond_init(&context->changed);
    context->comm = comm->ops->join(comm, plan, &context->link.state, fault);
    bool ok = context->comm && create_parts(context, fault);
    if (context->mover)
        context->device->leave(context->mover);
    if (ok)
        return context;
    if (fault->rank < 0)
        fault->rank = (int64_t)context->rank;
    if (context->comm) {
        context->comm->ops->abort(context->comm, fault);
        atomic_store(&context->failed, true);
        context_tell(context, ALL_STREAMS);
    }
    context_free(context);
    return NULL;
}

static bool check_creation(const hep_plan *plan, const hep_comm *comm, const hep_options *options, Fault *fault)
{
    if (!library_given(plan, "plan", fault) || !library_given(comm, "comm", fault))
        return false;
    uint64_t ranks = cluster_gpus(&plan->plan->cluster);
    if (ranks != (uint64_t)comm->ranks)
        return fault_set(fault, FAULT_INPUT, "the plan is for %" PRIu64 " ranks, the communicator has %d", ranks,
                         comm->ranks);
    if (options->max_tokens < 0 || options->max_tokens > INT32_MAX)
        return fault_set(fault, FAULT_USAGE, "'max_tokens' is %" PRId64, options->max_tokens);
    return check_plan(plan->plan, fault);
}

hep_status hep_create(const hep_plan *plan, hep_comm *comm, const hep_options *options, hep_context **context)
{
    Fault fault = {0};
    hep_options taken;
    if (!library_given(context, "context", &fault))
        return library_end(&fault);
    *context = NULL;
    if (!library_take(&taken, options, sizeof(taken), &fault) || !check_creation(plan, comm, &taken, &fault)) {
        if (comm && comm->ops->refuse)
            comm->ops->refuse(comm, &fault);
        return library_end(&fault);
    }
    uint64_t tokens = taken.max_tokens ? (uint64_t)taken.max_tokens : model_tokens(&plan->plan->model);
    *context = context_make(plan, comm, tokens, &fault);
    return library_end(&fault);
}

void hep_destroy(hep_context *context)
{
    if (context)
        context_free(context);
}

// ---- counters --------------------------------------------------------------------------------------

static void count_levels(hep_context *context, hep_traffic filled[LEVELS_MAX], bool reset)
{
    CommTraffic totals[LEVELS_MAX] = {0};
    uint64_t gathered[LEVELS_MAX], returned[LEVELS_MAX];
    for (uint32_t l = 0; l < LEVELS_MAX; l++) { // before the totals, which so are never less
        gathered[l] =
            reset ? atomic_exchange(&context->dense_gathered[l], 0) : atomic_load(&context->dense_gathered[l]);
        returned[l] =
            reset ? atomic_exchange(&context->dense_returned[l], 0) : atomic_load(&context->dense_returned[l]);
    }
    context->comm->ops->traffic(context->comm, totals, reset);
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        filled[l] = (hep_traffic){.exchange = (double)totals[l].exchange_bytes,
                                  .routing = (double)totals[l].routing_bytes,
                                  .padding = (double)totals[l].padding_bytes,
                                  .gather = (double)totals[l].gather_bytes - (double)gathered[l],
                                  .reduce = (double)totals[l].reduce_bytes - (double)returned[l],
                                  .dense_gather = (double)gathered[l],
                                  .dense_reduce = (double)returned[l]};
}

static bool count_times(hep_context *context, hep_times *times, bool reset, Fault *fault)
{
    double *of_ranks = calloc(2 * context->comm->size, sizeof(*of_ranks));
    if (!of_ranks)
        return fault_set(fault, FAULT_MEMORY, "out of memory for times");
    CommTimes totals = {.late_s = of_ranks, .last_s = of_ranks + context->comm->size};
    context->comm->ops->times(context->comm, &totals, reset);
    free(of_ranks);
    pthread_mutex_lock(&context->mutex);
    hep_times filled = {.exchange_late_s = totals.exchange.late_s,
                        .exchange_s = totals.exchange.transfer_s,
                        .gather_late_s = totals.gather.late_s,
                        .gather_s = totals.gather.transfer_s,
                        .waited_s = context->waited_s};
    context->waited_s = reset ? 0 : context->waited_s;
    pthread_mutex_unlock(&context->mutex);
    return library_give(times, &filled, sizeof(filled), fault);
}

hep_status hep_count(hep_context *context, hep_traffic *levels, hep_times *times, int reset)
{
    Fault fault = {0};
    if (!library_given(context, "context", &fault))
        return library_end(&fault);
    if (times && !count_times(context, times, reset != 0, &fault))
        return library_end(&fault);
    hep_traffic filled[LEVELS_MAX];
    if (!levels)
        return HEP_OK;
    count_levels(context, filled, reset != 0);
    uint32_t bytes;
    memcpy(&bytes, levels, sizeof(bytes));
    for (uint32_t l = 0; l < context->plan->cluster.level_count; l++) {
        char *level = (char *)levels + (size_t)l * bytes;
        memcpy(level, &bytes, sizeof(bytes));
        if (!library_give(level, &filled[l], sizeof(filled[l]), &fault))
            return library_end(&fault);
    }
    return HEP_OK;
}
