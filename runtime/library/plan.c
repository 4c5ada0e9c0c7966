// Plans of the library: loading, and what callers ask of one before they create a context with it.
#include "runtime/library/library.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/base/text.h"
#include "ir/binary.h"
#include "ir/bundle.h"
#include "ir/exchange.h"
#include "ir/load/plan_file.h"
#include "ir/unroll.h"

// ---- loading ---------------------------------------------------------------------------------------

enum { PLAN_BYTES_MAX = 1 << 30 };

// FNV-1a: plans that differ are to be told apart by ranks that mean the same one.
static uint64_t digest_of(const uint8_t *bytes, size_t length)
{
    uint64_t digest = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++)
        digest = (digest ^ bytes[i]) * 0x100000001b3u;
    return digest;
}

typedef struct {
    const char *name;
    const char *data; // NUL-terminated after `length`
    size_t length;
    hep_plan *out;
    bool ok;
    Fault *fault;
} Loading;

// The first of the findings is the message.
static void report_findings(const Diag *diag, Fault *fault)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (!out) {
        fault_set(fault, FAULT_MEMORY, "out of memory");
        return;
    }
    diag_print(diag, out, false);
    fclose(out);
    size_t more = diag_error_count(diag) - 1;
    const char *line = strncmp(text, "error: ", 7) == 0 ? text + 7 : text;
    int end = (int)strcspn(line, "\n");
    if (more)
        fault_set(fault, FAULT_INPUT, "%.*s (and %zu more)", end > 400 ? 400 : end, line, more);
    else
        fault_set(fault, FAULT_INPUT, "%.*s", end, line);
    free(text);
}

static void load(void *context)
{
    Loading *loading = context;
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    Plan *plan = plan_load(loading->name, loading->data, loading->length, diag);
    uint8_t *bytes = NULL;
    size_t length = 0;
    if (!plan) {
        report_findings(diag, loading->fault);
    } else if (plan->sync.every > 0) {
        fault_set(loading->fault, FAULT_INPUT,
                  "the plan has local steps, in which weights are no shares of all ranks: hep-run executes those");
        plan_destroy(plan);
    } else if (plan_encode(plan, &bytes, &length, loading->fault)) {
        loading->out->plan = plan;
        loading->out->digest = digest_of(bytes, length);
        loading->ok = true;
        free(bytes);
    } else {
        plan_destroy(plan);
    }
    arena_destroy(arena);
}

static bool plan_from(const char *name, const char *data, size_t length, hep_plan **out, Fault *fault)
{
    *out = calloc(1, sizeof(**out));
    if (!*out)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a plan");
    atomic_init(&(*out)->references, 1);
    Loading loading = {.name = name, .data = data, .length = length, .out = *out, .fault = fault};
    if (memory_guard(load, &loading, fault) && loading.ok)
        return true;
    free(*out);
    *out = NULL;
    return false;
}

typedef struct {
    const char *path;
    char *data;
    size_t length;
    Fault *fault;
} Reading;

static void read_bytes(void *context)
{
    Reading *reading = context;
    reading->data = file_read(reading->path, PLAN_BYTES_MAX, &reading->length, reading->fault);
}

hep_status hep_plan_read(const char *path, hep_plan **plan)
{
    Fault fault = {0};
    if (!library_given(plan, "plan", &fault))
        return library_end(&fault);
    *plan = NULL;
    if (!library_given(path, "path", &fault))
        return library_end(&fault);
    Reading reading = {.path = strcmp(path, "-") == 0 ? "./-" : path, .fault = &fault};
    if (memory_guard(read_bytes, &reading, &fault) && reading.data) {
        if (!plan_from(path, reading.data, reading.length, plan, &fault) && fault.kind != FAULT_INPUT)
            fault_prefix(&fault, "%.200s", path);
    } else {
        fault_prefix(&fault, "%.200s", path);
    }
    free(reading.data);
    return library_end(&fault);
}

hep_status hep_plan_parse(const void *bytes, size_t size, hep_plan **plan)
{
    Fault fault = {0};
    if (!library_given(plan, "plan", &fault))
        return library_end(&fault);
    *plan = NULL;
    if (!library_given(bytes, "bytes", &fault))
        return library_end(&fault);
    char *copy = size < PLAN_BYTES_MAX ? malloc(size + 1) : NULL;
    if (copy) {
        memcpy(copy, bytes, size);
        copy[size] = '\0';
        if (!plan_from("plan", copy, size, plan, &fault))
            *plan = NULL;
    } else {
        fault_set(&fault, FAULT_MEMORY, "out of memory for a plan of %zu bytes", size);
    }
    free(copy);
    return library_end(&fault);
}

hep_plan *plan_keep(const hep_plan *plan)
{
    hep_plan *kept = (hep_plan *)plan; // what is counted is no part of the plan
    atomic_fetch_add(&kept->references, 1);
    return kept;
}

void hep_plan_free(hep_plan *plan)
{
    if (!plan || atomic_fetch_sub(&plan->references, 1) != 1)
        return;
    plan_destroy(plan->plan);
    free(plan);
}

uint64_t hep_plan_digest(const hep_plan *plan)
{
    return plan ? plan->digest : 0;
}

// ---- facts -----------------------------------------------------------------------------------------

hep_status hep_plan_facts(const hep_plan *handle, hep_facts *facts)
{
    Fault fault = {0};
    if (!library_given(handle, "plan", &fault))
        return library_end(&fault);
    const Plan *plan = handle->plan;
    const ModelDims *model = &plan->model;
    hep_facts filled = {.ranks = (int32_t)cluster_gpus(&plan->cluster),
                        .levels = (int32_t)plan->cluster.level_count,
                        .layers = (int32_t)model->layers,
                        .moe_layers = (int32_t)plan->choice_count,
                        .hidden = (int32_t)model->hidden,
                        .inner = (int32_t)model->inner,
                        .experts = (int32_t)model->experts,
                        .top_k = (int32_t)model->top_k,
                        .dtype = (int32_t)model->dtype,
                        .training = plan->pass == PASS_TRAINING,
                        .dispatch = (int32_t)plan->dispatch,
                        .padded = plan->exchange == EXCHANGE_PADDED,
                        .codec = (int32_t)plan->experts.codec,
                        .micro_batches = (int32_t)plan->micro_batches,
                        .recompute = plan->recompute,
                        .groups = (int32_t)plan->group_count,
                        .replica_levels = (int32_t)plan->replica_levels,
                        .prefetch_slots = (int32_t)plan->replica_slots,
                        .tokens = (int64_t)model_tokens(model),
                        .expert_elements = (int64_t)model_expert_elements(model),
                        .iteration_s = plan->iteration_s,
                        .memory_bytes = plan_memory_bytes(plan),
                        .codec_ratio = plan->experts.ratio,
                        .gradient_ratio = plan->experts.gradient_ratio,
                        .gradient = (int32_t)plan->experts.gradient,
                        .dense_codec = (int32_t)plan->dense.codec,
                        .dense_gradient = (int32_t)plan->dense.gradient,
                        .whole_iterations = (int32_t)plan->whole_iterations,
                        .capacity = plan->capacity};
    for (uint32_t way = 0; way < TOKEN_WAYS; way++)
        filled.row_formats[way] = (int32_t)plan->tokens[way];
    if (!library_give(facts, &filled, sizeof(filled), &fault))
        return library_end(&fault);
    return HEP_OK;
}

static bool check_level(const hep_plan *handle, int level, Fault *fault)
{
    if (!library_given(handle, "plan", fault))
        return false;
    uint32_t levels = handle->plan->cluster.level_count;
    return (level >= 0 && (uint32_t)level < levels) ||
           fault_set(fault, FAULT_USAGE, "level %d: the plan's cluster has %" PRIu32 " levels, from 0", level, levels);
}

hep_status hep_plan_level(const hep_plan *handle, int level, hep_level *facts)
{
    Fault fault = {0};
    if (!check_level(handle, level, &fault))
        return library_end(&fault);
    const Level *from = &handle->plan->cluster.levels[level];
    hep_level filled = {.count = (int32_t)from->count,
                        .bandwidth_bytes_per_s = from->bandwidth_bytes_per_s,
                        .latency_s = from->latency_s,
                        .name = from->name};
    return library_give(facts, &filled, sizeof(filled), &fault) ? HEP_OK : library_end(&fault);
}

hep_status hep_plan_traffic(const hep_plan *handle, int level, hep_traffic *traffic)
{
    Fault fault = {0};
    if (!check_level(handle, level, &fault))
        return library_end(&fault);
    hep_traffic filled = {0};
    if (handle->plan->strategy_count) {
        const Traffic *from = &handle->plan->strategies[0].traffic[level];
        filled = (hep_traffic){.exchange = from->exchange_bytes,
                               .routing = from->routing_bytes,
                               .padding = from->padding_bytes,
                               .gather = from->gather_bytes,
                               .reduce = from->reduce_bytes,
                               .dense_gather = from->dense_gather_bytes,
                               .dense_reduce = from->dense_reduce_bytes};
    }
    return library_give(traffic, &filled, sizeof(filled), &fault) ? HEP_OK : library_end(&fault);
}

const Choice *library_choice(const Plan *plan, int moe_layer, Fault *fault)
{
    if (moe_layer >= 0 && (uint32_t)moe_layer < plan->choice_count)
        return &plan->choices[moe_layer];
    fault_set(fault, FAULT_USAGE, "layer %d: the plan has %" PRIu32 " layers with experts, counted from 0", moe_layer,
              plan->choice_count);
    return NULL;
}

// Predicted, of an iteration: each step alone.
static void add_times(const Plan *plan, uint32_t layer, hep_layer *facts)
{
    WeightKind *kinds = calloc(plan->buffer_count + 1, sizeof(*kinds));
    if (!kinds)
        memory_exhausted();
    bundle_kinds(plan, kinds);
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        if (step->layer == NONE || (uint32_t)step->layer != layer)
            continue;
        OpShape shape = op_info((int)step->op)->shape;
        int32_t sent = step_operands(plan, step)[0];
        double time_s = step->cost_s * plan_step_runs(plan, step);
        if (shape == SHAPE_EXCHANGE)
            facts->exchange_s += time_s;
        else if (shape == SHAPE_LOCAL || (sent != NONE && kinds[sent] == WEIGHT_DENSE))
            continue;
        else if (shape == SHAPE_GATHER)
            facts->gather_s += time_s;
        else
            facts->return_s += time_s;
    }
    free(kinds);
}

typedef struct {
    const Plan *plan;
    const Choice *choice;
    hep_layer facts;
} LayerFacts;

static void find_layer(void *context)
{
    LayerFacts *out = context;
    const Plan *plan = out->plan;
    const Choice *choice = out->choice;
    ExpertShares shares = plan_expert_shares(plan, choice->domain);
    ShareShape share = plan_share_shape(plan);
    out->facts = (hep_layer){.model_layer = (int32_t)choice->layer,
                             .own = share.whole ? (int32_t)share.rows : 0,
                             .gathered = (int32_t)shares.block_experts,
                             .regather = choice->regather,
                             .once = (int32_t)choice->once,
                             .own_elements = (int64_t)(share.rows * share.cols)};
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        uint32_t domain = choice->domain[l];
        out->facts.domain[l] = (int32_t)domain;
        out->facts.hops += plan->cluster.levels[l].count > domain;
        out->facts.gathers += l >= plan->replica_levels && domain > 1;
    }
    add_times(plan, choice->layer, &out->facts);
}

hep_status hep_plan_layer(const hep_plan *handle, int moe_layer, hep_layer *facts)
{
    Fault fault = {0};
    if (!library_given(handle, "plan", &fault))
        return library_end(&fault);
    LayerFacts found = {.plan = handle->plan, .choice = library_choice(handle->plan, moe_layer, &fault)};
    if (!found.choice || !memory_guard(find_layer, &found, &fault) ||
        !library_give(facts, &found.facts, sizeof(found.facts), &fault))
        return library_end(&fault);
    return HEP_OK;
}

// ---- placement -------------------------------------------------------------------------------------

// The plan's rank of a communicator's, which is a process; false and a fault where there is none.
static bool check_rank(const Plan *plan, int rank, uint64_t *out, Fault *fault)
{
    uint64_t ranks = cluster_gpus(&plan->cluster);
    if (rank < 0 || (uint64_t)rank >= ranks)
        return fault_set(fault, FAULT_USAGE, "rank %d: the plan is for %" PRIu64 " ranks", rank, ranks);
    *out = cluster_rank_of_process(&plan->cluster, (uint64_t)rank);
    return true;
}

static bool find_shares(const hep_plan *handle, int moe_layer, int rank, ExpertShares *shares, uint64_t *of)
{
    Fault fault = {0};
    const Choice *choice =
        library_given(handle, "plan", &fault) ? library_choice(handle->plan, moe_layer, &fault) : NULL;
    if (!choice || !check_rank(handle->plan, rank, of, &fault)) {
        (void)library_end(&fault);
        return false;
    }
    *shares = plan_expert_shares(handle->plan, choice->domain);
    return true;
}

hep_status hep_plan_held(const hep_plan *handle, int moe_layer, int rank, int *first, int *count)
{
    ExpertShares shares;
    uint64_t of = 0;
    if (!find_shares(handle, moe_layer, rank, &shares, &of))
        return HEP_BAD_ARGUMENT;
    if (first)
        *first = (int)(share_place(&shares, of) * shares.block_experts);
    if (count)
        *count = (int)shares.block_experts;
    return HEP_OK;
}

hep_status hep_plan_owned(const hep_plan *handle, int moe_layer, int rank, int64_t *first, int64_t *count)
{
    ExpertShares shares;
    uint64_t of = 0;
    if (!find_shares(handle, moe_layer, rank, &shares, &of))
        return HEP_BAD_ARGUMENT;
    ElementRange owned = share_owned(&shares, of);
    if (first)
        *first = (int64_t)owned.first;
    if (count)
        *count = (int64_t)owned.count;
    return HEP_OK;
}

int hep_plan_owner(const hep_plan *handle, int moe_layer, int expert)
{
    ExpertShares shares;
    uint64_t of = 0;
    if (!find_shares(handle, moe_layer, 0, &shares, &of) || expert < 0 ||
        (uint32_t)expert >= handle->plan->model.experts)
        return -1;
    uint64_t element = (uint64_t)expert * shares.expert_elements;
    int found = -1;
    for (uint64_t rank = 0; rank < cluster_gpus(&handle->plan->cluster); rank++) {
        ElementRange owned = share_owned(&shares, rank);
        int process = (int)cluster_process_of_rank(&handle->plan->cluster, rank);
        if (owned.first <= element && element - owned.first < owned.count && (found < 0 || process < found))
            found = process;
    }
    return found;
}

int64_t hep_plan_rows_bound(const hep_plan *handle, int moe_layer, int64_t tokens)
{
    Fault fault = {0};
    const Choice *choice =
        library_given(handle, "plan", &fault) ? library_choice(handle->plan, moe_layer, &fault) : NULL;
    if (choice && tokens < 0)
        fault_set(&fault, FAULT_USAGE, "%" PRId64 " tokens", tokens);
    if (library_end(&fault) != HEP_OK)
        return -1;
    const Plan *plan = handle->plan;
    ModelDims model = plan->model;
    model.sequence = (uint32_t)(tokens < UINT32_MAX ? tokens : UINT32_MAX);
    model.batch = 1;
    // Where messages are counted, what a capacity drops is the caller's to say.
    double rows = (double)tokens, capacity = plan->exchange == EXCHANGE_PADDED ? plan->capacity : 0;
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        double members = plan->cluster.levels[l].count / choice->domain[l];
        if (members > 1)
            rows = members * exchange_rows_bound(&plan->cluster, &model, plan->dispatch, capacity, choice->domain, l);
    }
    return rows < 0x1p62 ? (int64_t)rows : INT64_MAX;
}
