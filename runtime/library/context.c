// Contexts: made of a plan and a communicator, and what they have counted.
#include "runtime/library/context.h"

#include <inttypes.h>
#include <stdlib.h>

#include "runtime/base/clock.h"

// ---- creation --------------------------------------------------------------------------------------

static bool check_plan(const Plan *plan, Fault *fault)
{
    const char *what = NULL;
    if (plan->model.abstract)
        what = "abstract workloads: the plan has volumes, no tensors";
    else if (plan->exchange == EXCHANGE_PADDED)
        what = "plans with padded exchanges; compile with 'exchange = counted'";
    else if (coding_encodes(&plan->experts) || coding_encodes(&plan->dense))
        what = "plans that compress experts or gradients; compile with 'codec = dense' and without 'gradient'";
    else if (plan->model.expert_bits != 0)
        what = "experts that are stored in fewer bits than a dtype has";
    return !what || fault_set(fault, FAULT_INFEASIBLE, "this version of the library does not execute %s", what);
}

static bool open_channel(const hep_context *context, Group group, Stream stream, Meeting *meeting, Fault *fault)
{
    Comm *comm = context->comm;
    *meeting = (Meeting){.comm = comm, .place = engine_group_place(context->plan, &group, context->rank)};
    meeting->channel = comm->ops->open(comm, &group, stream, fault);
    return meeting->channel >= 0;
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
    hop->table = (RouteTable){.member_of_expert = of->map->member_of_expert[level],
                              .experts = context->plan->model.experts,
                              .members = hop->meeting.place.members,
                              .own = hop->meeting.place.own};
    return true;
}

// Of experts, which two threads of the context move; of dense weights, moved by the caller's alone.
static bool open_crossing(const hep_context *context, uint32_t level, uint32_t domain, bool dense, Crossing *crossing,
                          Fault *fault)
{
    *crossing = (Crossing){.level = level};
    Stream stream = dense ? STREAM_EXCHANGE : STREAM_MIGRATE;
    Group group = {.kind = GROUP_GATHER, .level = (int32_t)level, .domain = domain};
    if (!open_channel(context, group, stream, &crossing->gather, fault))
        return false;
    crossing->home = crossing->gather;
    if (!dense && !open_channel(context, group, STREAM_SYNC, &crossing->home, fault))
        return false;
    crossing->members = crossing->gather.place.members;
    crossing->own = crossing->gather.place.own;
    return true;
}

static bool open_gather(hep_context *context, uint32_t layer, uint32_t level, Fault *fault)
{
    Layer *of = &context->layers[layer];
    uint32_t domain = of->choice->domain[level];
    Crossing *crossing = &of->crossings[of->crossing_count++];
    for (uint32_t k = 0; k < layer; k++)
        for (uint32_t c = 0; c < context->layers[k].crossing_count; c++) {
            const Crossing *other = &context->layers[k].crossings[c];
            if (other->level == level && other->members == domain)
                *crossing = *other;
        }
    return crossing->members || open_crossing(context, level, domain, false, crossing, fault);
}

static bool open_layer(hep_context *context, uint32_t index, Fault *fault)
{
    const Plan *plan = context->plan;
    Layer *layer = &context->layers[index];
    layer->choice = &plan->choices[index];
    layer->map = expert_map_of_layer(&context->maps, plan, (int32_t)layer->choice->layer);
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
    return true;
}

static bool open_dense(hep_context *context, Fault *fault)
{
    const Cluster *cluster = &context->plan->cluster;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        uint32_t count = cluster->levels[l].count;
        if (count > 1 && !open_crossing(context, l, count, true, &context->dense[context->dense_count++], fault))
            return false;
    }
    return true;
}

// What all ranks must have in common.
typedef struct {
    uint64_t digest, max_tokens, abi;
} Terms;

static bool agree(hep_context *context, Fault *fault)
{
    uint64_t ranks = context->comm->size;
    Terms *all = calloc(ranks, sizeof(*all));
    if (!all)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a context");
    Group world = {.kind = GROUP_WORLD, .level = NONE, .domain = 1};
    Meeting meeting = {.comm = context->comm,
                       .place = {.own = (uint32_t)context->rank, .members = (uint32_t)ranks},
                       .call = {.purpose = CALL_OF_CREATE, .layer = NONE}};
    context->world = meeting.channel = context->comm->ops->open(context->comm, &world, STREAM_EXCHANGE, fault);
    all[context->rank] = (Terms){.digest = context->handle->digest, .max_tokens = context->max_tokens, .abi = HEP_ABI};
    Terms own = all[context->rank];
    MovedShards terms = {.count = 1,
                         .shard = {{.data = &own, .dtype = DTYPE_U8, .rows = 1, .cols = sizeof(own)}},
                         .gathered = {{.data = all, .dtype = DTYPE_U8, .rows = ranks, .cols = sizeof(own)}},
                         .counts = context->counts};
    bool ok = context->world >= 0 && host_move_gather(&meeting, &terms, fault);
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

static bool create_parts(hep_context *context, Fault *fault)
{
    uint64_t ranks = context->comm->size;
    uint32_t layers = context->plan->choice_count;
    context->layers = calloc(layers + 1, sizeof(*context->layers));
    context->queue = calloc(layers + 1, sizeof(*context->queue));
    context->counts = calloc(2 * ranks, sizeof(*context->counts));
    context->gather_counts = calloc(2 * ranks, sizeof(*context->counts));
    context->return_counts = calloc(2 * ranks, sizeof(*context->counts));
    context->returns_end = &context->returns;
    context->store = store_create();
    context->kinds = calloc(context->plan->buffer_count + 1, sizeof(*context->kinds));
    if (!context->store || !context->kinds || !context->layers || !context->queue || !context->counts ||
        !context->gather_counts || !context->return_counts ||
        !expert_maps_create(&context->maps, context->plan, context->rank))
        return fault_set(fault, FAULT_MEMORY, "out of memory for a context");
    bundle_kinds(context->plan, context->kinds);
    for (uint32_t k = 0; k < layers; k++)
        if (!open_layer(context, k, fault))
            return false;
    return open_dense(context, fault) && agree(context, fault) && experts_start(context, fault);
}

static void context_free(hep_context *context)
{
    experts_stop(context);
    context->link.handle->ops->leave(context->link.handle, context->comm, context->link.state);
    link_drop(context->link.handle);
    for (uint32_t k = 0; context->layers && k < context->plan->choice_count; k++)
        free(context->layers[k].kept);
    free(context->layers);
    free(context->queue);
    free(context->kinds);
    free(context->counts);
    free(context->gather_counts);
    free(context->return_counts);
    free(context->gather_pool.memory);
    free(context->return_pool.memory);
    free(context->caller_pool.memory);
    store_close(context->store);
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
    *context = (hep_context){.handle = plan_keep(plan), .plan = plan->plan, .max_tokens = max_tokens};
    context->rank = cluster_rank_of_process(&plan->plan->cluster, (uint64_t)comm->rank);
    context->link.handle = comm;
    atomic_fetch_add(&comm->references, 1);
    pthread_mutex_init(&context->mutex, NULL);
    clock_cond_init(&context->changed);
    context->comm = comm->ops->join(comm, plan, &context->link.state, fault);
    if (context->comm && create_parts(context, fault))
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
    context->comm->ops->traffic(context->comm, totals, reset);
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        uint64_t gathered =
            reset ? atomic_exchange(&context->dense_gathered[l], 0) : atomic_load(&context->dense_gathered[l]);
        uint64_t returned =
            reset ? atomic_exchange(&context->dense_returned[l], 0) : atomic_load(&context->dense_returned[l]);
        filled[l] = (hep_traffic){.exchange = (double)totals[l].exchange_bytes,
                                  .routing = (double)totals[l].routing_bytes,
                                  .padding = (double)totals[l].padding_bytes,
                                  .gather = (double)(totals[l].gather_bytes - gathered),
                                  .reduce = (double)(totals[l].reduce_bytes - returned),
                                  .dense_gather = (double)gathered,
                                  .dense_reduce = (double)returned};
    }
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

// ---- state of codecs: none yet ---------------------------------------------------------------------

hep_status hep_state_bytes(hep_context *context, uint64_t *bytes)
{
    Fault fault = {0};
    if (!library_given(context, "context", &fault) || !library_given(bytes, "bytes", &fault))
        return library_end(&fault);
    *bytes = 0; // contexts of plans with codecs are not created
    return HEP_OK;
}

static hep_status check_state(const hep_context *context, uint64_t size)
{
    Fault fault = {0};
    if (library_given(context, "context", &fault) && size != 0)
        fault_set(&fault, FAULT_USAGE, "%" PRIu64 " bytes of state: the plan has none", size);
    return library_end(&fault);
}

hep_status hep_state_save(hep_context *context, void *bytes, uint64_t size, void *stream)
{
    (void)bytes;
    (void)stream;
    return check_state(context, size);
}

hep_status hep_state_load(hep_context *context, const void *bytes, uint64_t size, void *stream)
{
    (void)bytes;
    (void)stream;
    return check_state(context, size);
}
