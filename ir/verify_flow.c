// The verifier's property of flow: what every buffer holds, followed step by step through the whole
// schedule. A value is symbolic ("rows of layer 3 that crossed level dc"), so that one walk speaks for every
// rank and every routing. Why this proves delivery is written in docs/ir.md. Owns what ops make of values;
// relies on reads and races (any order that the edges allow gives the values of the plan's order), and on
// exchange and gather (groups are those of the choices). Abstract plans have no buffers and no flow.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ir/verify_parts.h"

// X(NAME, "as messages call it")
#define HOLDINGS(X)                                                                                                    \
    X(NOTHING, "nothing") X(TOKENS, "tokens") X(WEIGHT, "weights") X(UPDATED, "updated weights")                       \
    X(STATE, "optimizer state") X(PACKET, "encoded experts") X(INPUT_ROWS, "the input")                                \
    X(ATTENDED, "the attention's output") X(ROWS, "rows") X(RECORDS, "records") X(OWN_ROWS, "rows that stay")          \
    X(OWN_RECORDS, "records that stay") X(SENT_ROWS, "rows to send") X(SENT_RECORDS, "records to send")                \
    X(SEND_COUNTS, "counts of rows sent") X(NEXT_COUNTS, "counts of rows received") X(ORIGIN, "origins of rows")       \
    X(RESULTS, "results") X(RETURNED, "returned results") X(SHARED_RESULTS, "results of the shared experts")           \
    X(LOSS, "the loss") X(DINPUT, "the gradient of the input") X(DATTENDED, "the gradient of the attention's output")  \
    X(DRESULTS, "gradients of results") X(OWN_DRESULTS, "gradients of results that stay")                              \
    X(SENT_DRESULTS, "gradients of results to send") X(DROWS, "gradients of rows")                                     \
    X(DRECORDS, "gradients of records") X(RETURNED_DROWS, "returned gradients of rows")                                \
    X(RETURNED_DRECORDS, "returned gradients of records") X(DSHARED_ROWS, "gradients of the shared experts' rows")     \
    X(DEXPERTS, "gradients of held experts") X(GRADIENT, "the gradient") X(HALF_GRADIENT, "a part of the gradient")    \
    X(COUNTS_AGAIN, "counts of gradients received")
#define X(name, text) HOLDS_##name,
typedef enum { HOLDINGS(X) HOLDING_COUNT } Holding;
#undef X
static const char *const holding_names[] = {
#define X(name, text) text,
    HOLDINGS(X)
#undef X
};

typedef struct {
    Holding holds;
    int32_t layer;   // of rows and the like; `INPUT_ROWS` of layer `layers` is the network's output
    uint32_t levels; // one bit each: crossed by the rows, gathered by experts, summed over by gradients
    int32_t from;    // the step that counted or ordered rows, the buffer of weights
} Value;

// Weights of a layer, by the operand that reads them.
static const char *const weight_names[] = {"embedding", "attention", "router", "ffn", "shared", "experts"};
enum { WEIGHT_NAMES = COUNT_OF(weight_names), EXPERTS = WEIGHT_NAMES - 1 };

// What a layer's way out laid down for the way back.
typedef struct {
    int32_t route[LEVELS_MAX], dispatch[LEVELS_MAX];
    int32_t weights[WEIGHT_NAMES]; // buffers
    uint32_t exchanged, gathered;  // levels, of the choice
} LayerFlow;

typedef struct {
    Verifier *verifier;
    const Plan *plan;
    Value *values;      // [buffers]
    LayerFlow *layers;  // [layers + 1]; the last is the network's own
    uint32_t step;
    uint32_t all, replicas; // levels that gradients of dense weights, and of experts, are summed over
} Flow;

static int32_t find_operand(const Flow *flow, const char *name)
{
    const Step *step = &flow->plan->steps[flow->step];
    const OpInfo *info = step_info(step);
    for (uint32_t k = 0; k < info->operand_count; k++)
        if (strcmp(info->operands[k].name, name) == 0)
            return step_operands(flow->plan, step)[k];
    return NONE;
}

static Value value_of(const Flow *flow, const char *operand)
{
    int32_t buffer = find_operand(flow, operand);
    return buffer == NONE ? (Value){.from = NONE} : flow->values[buffer];
}

static const char *describe_value(const Flow *flow, Value value, char out[160])
{
    int length = snprintf(out, 160, "%s", holding_names[value.holds]);
    if (value.holds != HOLDS_NOTHING && value.layer != NONE)
        length += snprintf(out + length, 160 - (size_t)length, " of layer %" PRId32, value.layer);
    for (uint32_t l = 0; l < flow->plan->cluster.level_count && length < 120; l++)
        if (value.levels >> l & 1)
            length += snprintf(out + length, 160 - (size_t)length, ", over '%.16s'",
                               flow->plan->cluster.levels[l].name);
    if (value.from == NONE)
        return out;
    if (value.holds == HOLDS_WEIGHT || value.holds == HOLDS_UPDATED || value.holds == HOLDS_PACKET ||
        value.holds == HOLDS_DEXPERTS || value.holds == HOLDS_GRADIENT || value.holds == HOLDS_HALF_GRADIENT)
        snprintf(out + length, 160 - (size_t)length, " ('%.16s')", flow->plan->buffers[value.from].name);
    else
        snprintf(out + length, 160 - (size_t)length, ", from step %" PRId32, value.from);
    return out;
}

static bool value_equal(Value a, Value b)
{
    return a.holds == b.holds && a.layer == b.layer && a.levels == b.levels && a.from == b.from;
}

static void take(const Flow *flow, const char *operand, Value expected)
{
    int32_t buffer = find_operand(flow, operand);
    if (buffer != NONE && value_equal(flow->values[buffer], expected))
        return;
    char have[160], want[160];
    describe_value(flow, expected, want);
    if (buffer == NONE)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "misses operand '%s': expected %s", operand, want);
    else
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "operand '%s', '%.40s', holds %s: expected %s", operand,
                    flow->plan->buffers[buffer].name, describe_value(flow, flow->values[buffer], have), want);
}

static void take_none(const Flow *flow, const char *operand)
{
    if (find_operand(flow, operand) != NONE)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "operand '%s' is '%.40s': expected none", operand,
                    flow->plan->buffers[find_operand(flow, operand)].name);
}

static void give(Flow *flow, const char *operand, Value value)
{
    int32_t buffer = find_operand(flow, operand);
    if (buffer != NONE)
        flow->values[buffer] = value;
}

static Value plain(Holding holds, int32_t layer)
{
    return (Value){.holds = holds, .layer = layer, .from = NONE};
}

static Value staged(Holding holds, int32_t layer, uint32_t levels)
{
    return (Value){.holds = holds, .layer = layer, .levels = levels, .from = NONE};
}

static Value split(Holding holds, int32_t layer, uint32_t levels, int32_t route)
{
    return (Value){.holds = holds, .layer = layer, .levels = levels, .from = route};
}

static int32_t last_level(uint32_t levels)
{
    int32_t last = NONE;
    for (int32_t l = 0; l < LEVELS_MAX; l++)
        if (levels >> l & 1)
            last = l;
    return last;
}

static LayerFlow *layer_of(const Flow *flow)
{
    int32_t layer = flow->plan->steps[flow->step].layer;
    return &flow->layers[layer == NONE ? (int32_t)flow->plan->model.layers : layer];
}

static void take_tokens(const Flow *flow)
{
    take(flow, "tokens", plain(HOLDS_TOKENS, NONE));
}

// One buffer is the layer's weights of that name throughout, and was not updated yet.
static int32_t take_weights(Flow *flow, uint32_t name)
{
    LayerFlow *layer = layer_of(flow);
    const char *operand = weight_names[name];
    for (uint32_t other = 0; layer->weights[name] == NONE && other < WEIGHT_NAMES; other++)
        if (layer->weights[other] == find_operand(flow, operand))
            verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the layer's '%s' are its '%s', too", operand,
                        weight_names[other]);
    if (layer->weights[name] == NONE)
        layer->weights[name] = value_of(flow, operand).from;
    uint32_t gathered = name == EXPERTS && flow->plan->steps[flow->step].op != OP_ENCODE ? layer->gathered : 0;
    take(flow, operand, split(HOLDS_WEIGHT, flow->plan->steps[flow->step].layer, gathered, layer->weights[name]));
    return layer->weights[name];
}

// Returns the buffer of the weights called `name`, of which `operand` is the gradient.
static void give_gradient(Flow *flow, uint32_t name, const char *operand, Holding holds)
{
    give(flow, operand, split(holds, flow->plan->steps[flow->step].layer, 0, take_weights(flow, name)));
}

enum { EMBEDDING, ATTENTION, ROUTER, FFN, SHARED };

// Counts that say how full the stage is: those of the exchange it came by.
static void take_stage_counts(const Flow *flow, uint32_t levels, int32_t k)
{
    if (levels == 0) {
        take_none(flow, "counts");
        return;
    }
    int32_t dispatch = layer_of(flow)->dispatch[last_level(levels)];
    take(flow, "counts", split(HOLDS_NEXT_COUNTS, k, levels, dispatch));
}

// Gradients of results in a stage; before anything was sent, those of the next layer's input.
static Value result_gradients(int32_t k, uint32_t levels)
{
    return levels ? staged(HOLDS_DRESULTS, k, levels) : plain(HOLDS_DINPUT, k + 1);
}

// ---- the rows' way -------------------------------------------------------------------------------

static void flow_route(Flow *flow, int32_t k)
{
    uint32_t levels = value_of(flow, "rows").levels;
    int32_t step = (int32_t)flow->step;
    take(flow, "rows", staged(HOLDS_ROWS, k, levels));
    take(flow, "records", staged(HOLDS_RECORDS, k, levels));
    take_stage_counts(flow, levels, k);
    give(flow, "next_rows", split(HOLDS_OWN_ROWS, k, levels, step));
    give(flow, "next_records", split(HOLDS_OWN_RECORDS, k, levels, step));
    give(flow, "send_rows", split(HOLDS_SENT_ROWS, k, levels, step));
    give(flow, "send_records", split(HOLDS_SENT_RECORDS, k, levels, step));
    give(flow, "send_counts", split(HOLDS_SEND_COUNTS, k, levels, step));
    give(flow, "origin", split(HOLDS_ORIGIN, k, levels, step));
}

// Rows and their records; or, without records, gradients the way the rows went.
static void flow_dispatch(Flow *flow, int32_t k, uint32_t level)
{
    LayerFlow *layer = layer_of(flow);
    Value sent = value_of(flow, "send_rows");
    uint32_t levels = sent.levels, after = levels | 1u << level;
    bool rows = find_operand(flow, "send_records") != NONE;
    if (rows)
        layer->route[level] = sent.from;
    int32_t route = layer->route[level];
    take(flow, "send_rows", split(rows ? HOLDS_SENT_ROWS : HOLDS_SENT_DRESULTS, k, levels, route));
    take(flow, "next_rows", split(rows ? HOLDS_OWN_ROWS : HOLDS_OWN_DRESULTS, k, levels, route));
    take(flow, "send_counts", split(HOLDS_SEND_COUNTS, k, levels, route));
    if (levels >> level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the rows crossed this level, or one inside it, before");
    if (rows) {
        layer->dispatch[level] = (int32_t)flow->step;
        take(flow, "send_records", split(HOLDS_SENT_RECORDS, k, levels, route));
        take(flow, "next_records", split(HOLDS_OWN_RECORDS, k, levels, route));
        give(flow, "next_records", staged(HOLDS_RECORDS, k, after));
    } else {
        take_none(flow, "next_records");
    }
    give(flow, "next_rows", staged(rows ? HOLDS_ROWS : HOLDS_DRESULTS, k, after));
    give(flow, "next_counts", split(rows ? HOLDS_NEXT_COUNTS : HOLDS_COUNTS_AGAIN, k, after, (int32_t)flow->step));
}

static void flow_expert(Flow *flow, int32_t k, bool backward)
{
    uint32_t levels = layer_of(flow)->exchanged;
    take(flow, "rows", staged(HOLDS_ROWS, k, levels));
    take(flow, "records", staged(HOLDS_RECORDS, k, levels));
    take_stage_counts(flow, levels, k);
    int32_t weights = take_weights(flow, EXPERTS);
    if (!backward) {
        give(flow, "results", staged(HOLDS_RESULTS, k, levels));
        return;
    }
    take(flow, "dresults", result_gradients(k, levels));
    give(flow, "drows", staged(HOLDS_DROWS, k, levels));
    give(flow, "drecords", staged(HOLDS_DRECORDS, k, levels));
    bool owned = layer_of(flow)->gathered == 0;
    give(flow, "dexperts", split(owned ? HOLDS_GRADIENT : HOLDS_DEXPERTS, k, layer_of(flow)->gathered, weights));
}

// What a way back at `level` needs of the way out: the counts of both ends.
static uint32_t take_ways(const Flow *flow, int32_t k, const char *rows, Holding holds, uint32_t level)
{
    uint32_t levels = value_of(flow, rows).levels;
    take(flow, rows, staged(holds, k, levels));
    if (last_level(levels) != (int32_t)level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the level is not the last that the rows crossed");
    LayerFlow *layer = layer_of(flow);
    take(flow, "next_counts", split(HOLDS_NEXT_COUNTS, k, levels, layer->dispatch[level]));
    take(flow, "send_counts", split(HOLDS_SEND_COUNTS, k, levels & ~(1u << level), layer->route[level]));
    return levels;
}

static void flow_combine(Flow *flow, int32_t k, uint32_t level)
{
    uint32_t levels = take_ways(flow, k, "results", HOLDS_RESULTS, level);
    give(flow, "returned", staged(HOLDS_RETURNED, k, levels));
}

static void flow_combine_backward(Flow *flow, int32_t k, uint32_t level)
{
    uint32_t levels = take_ways(flow, k, "drows", HOLDS_DROWS, level);
    take(flow, "drecords", staged(HOLDS_DRECORDS, k, levels));
    give(flow, "returned", staged(HOLDS_RETURNED_DROWS, k, levels));
    give(flow, "returned_records", staged(HOLDS_RETURNED_DRECORDS, k, levels));
}

// The stage that rows of a stage came from, put together again by what its route step wrote.
static uint32_t take_origin(const Flow *flow, int32_t k, uint32_t levels)
{
    int32_t level = last_level(levels);
    if (level == NONE) {
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "puts back rows that were not sent");
        return 0;
    }
    uint32_t before = levels & ~(1u << level);
    take(flow, "send_counts", split(HOLDS_SEND_COUNTS, k, before, layer_of(flow)->route[level]));
    take(flow, "origin", split(HOLDS_ORIGIN, k, before, layer_of(flow)->route[level]));
    take_stage_counts(flow, before, k);
    return before;
}

static void flow_unroute(Flow *flow, int32_t k)
{
    uint32_t levels = value_of(flow, "results").levels;
    take(flow, "results", staged(HOLDS_RESULTS, k, levels));
    take(flow, "returned", staged(HOLDS_RETURNED, k, levels));
    give(flow, "rows", staged(HOLDS_RESULTS, k, take_origin(flow, k, levels)));
}

static void flow_route_backward(Flow *flow, int32_t k)
{
    uint32_t levels = value_of(flow, "drows_next").levels;
    take(flow, "drows_next", staged(HOLDS_DROWS, k, levels));
    take(flow, "drecords_next", staged(HOLDS_DRECORDS, k, levels));
    take(flow, "returned", staged(HOLDS_RETURNED_DROWS, k, levels));
    take(flow, "returned_records", staged(HOLDS_RETURNED_DRECORDS, k, levels));
    uint32_t before = take_origin(flow, k, levels);
    give(flow, "drows", staged(HOLDS_DROWS, k, before));
    give(flow, "drecords", staged(HOLDS_DRECORDS, k, before));
}

static void flow_unroute_backward(Flow *flow, int32_t k)
{
    Value sent = value_of(flow, "drows");
    uint32_t levels = sent.holds == HOLDS_DINPUT ? 0 : sent.levels;
    int32_t route = value_of(flow, "send_counts").from;
    take(flow, "drows", result_gradients(k, levels));
    take(flow, "send_counts", split(HOLDS_SEND_COUNTS, k, levels, route));
    take(flow, "origin", split(HOLDS_ORIGIN, k, levels, route));
    give(flow, "dresults", split(HOLDS_OWN_DRESULTS, k, levels, route));
    give(flow, "send_rows", split(HOLDS_SENT_DRESULTS, k, levels, route));
}

// ---- the experts' way ----------------------------------------------------------------------------

static void flow_gather(Flow *flow, int32_t k, uint32_t level)
{
    Value shard = value_of(flow, "shard");
    LayerFlow *layer = layer_of(flow);
    if (shard.holds == HOLDS_WEIGHT && layer->weights[EXPERTS] == NONE)
        layer->weights[EXPERTS] = shard.from;
    Holding holds = shard.holds == HOLDS_PACKET ? HOLDS_PACKET : HOLDS_WEIGHT;
    take(flow, "shard", split(holds, k, shard.levels, layer->weights[EXPERTS]));
    if (shard.levels >> level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "this level, or one inside it, was gathered before");
    give(flow, "gathered", split(holds, k, shard.levels | 1u << level, layer->weights[EXPERTS]));
}

static void flow_reduce_scatter(Flow *flow, int32_t k, uint32_t level)
{
    Value gathered = value_of(flow, "gathered");
    int32_t weights = layer_of(flow)->weights[EXPERTS];
    take(flow, "gathered", split(HOLDS_DEXPERTS, k, gathered.levels, weights));
    if (last_level(gathered.levels) != (int32_t)level)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the level is not the last that was gathered");
    uint32_t left = gathered.levels & ~(1u << level);
    give(flow, "shard", split(left ? HOLDS_DEXPERTS : HOLDS_GRADIENT, k, left, weights));
}

static void flow_all_reduce(Flow *flow)
{
    const Step *step = &flow->plan->steps[flow->step];
    Value gradient = value_of(flow, "gradient");
    uint32_t over = flow->all & (step->level == NONE ? flow->all : 1u << step->level);
    take(flow, "gradient", split(HOLDS_GRADIENT, step->layer, gradient.levels, gradient.from));
    if (gradient.levels & over)
        verify_fail(flow->verifier, PROPERTY_FLOW, flow->step, "the gradient was summed over this level before");
    gradient.levels |= over;
    give(flow, "gradient", gradient);
}

static void flow_optimizer(Flow *flow)
{
    int32_t layer = flow->plan->steps[flow->step].layer, weights = find_operand(flow, "weights");
    uint32_t over = layer_of(flow)->weights[EXPERTS] == weights ? flow->replicas : flow->all;
    take(flow, "weights", split(HOLDS_WEIGHT, layer, 0, weights));
    take(flow, "gradient", split(HOLDS_GRADIENT, layer, over, weights));
    take(flow, "state", plain(HOLDS_STATE, layer));
    give(flow, "weights", split(HOLDS_UPDATED, layer, 0, weights));
    give(flow, "state", plain(HOLDS_NOTHING, layer)); // of this step's weights from now on
}

// ---- the network --------------------------------------------------------------------------------

static void flow_embed(Flow *flow)
{
    take_tokens(flow);
    take_weights(flow, EMBEDDING);
    give(flow, "x", plain(HOLDS_INPUT_ROWS, 0));
}

static void flow_pre_expert(Flow *flow, int32_t k)
{
    take(flow, "x", plain(HOLDS_INPUT_ROWS, k));
    take_weights(flow, ATTENTION);
    give(flow, "y", plain(HOLDS_ATTENDED, k));
}

static void flow_ffn(Flow *flow, int32_t k)
{
    take(flow, "x", plain(HOLDS_ATTENDED, k));
    take_weights(flow, FFN);
    give(flow, "y", plain(HOLDS_INPUT_ROWS, k + 1));
}

static void flow_gate(Flow *flow, int32_t k)
{
    take(flow, "x", plain(HOLDS_ATTENDED, k));
    take_weights(flow, ROUTER);
    give(flow, "rows", staged(HOLDS_ROWS, k, 0));
    give(flow, "records", staged(HOLDS_RECORDS, k, 0));
}

static void flow_shared_expert(Flow *flow, int32_t k)
{
    take(flow, "rows", staged(HOLDS_ROWS, k, 0));
    take_weights(flow, SHARED);
    give(flow, "results", plain(HOLDS_SHARED_RESULTS, k));
}

static void flow_residual(Flow *flow, int32_t k)
{
    take(flow, "x", plain(HOLDS_ATTENDED, k));
    take(flow, "results", staged(HOLDS_RESULTS, k, 0));
    if (flow->plan->model.shared_experts)
        take(flow, "shared", plain(HOLDS_SHARED_RESULTS, k));
    else
        take_none(flow, "shared");
    give(flow, "y", plain(HOLDS_INPUT_ROWS, k + 1));
}

static void flow_loss(Flow *flow)
{
    take(flow, "x", plain(HOLDS_INPUT_ROWS, (int32_t)flow->plan->model.layers));
    take_tokens(flow);
    take_weights(flow, EMBEDDING);
    give(flow, "loss", plain(HOLDS_LOSS, NONE));
}

static void flow_loss_backward(Flow *flow)
{
    take(flow, "x", plain(HOLDS_INPUT_ROWS, (int32_t)flow->plan->model.layers));
    take_tokens(flow);
    give_gradient(flow, EMBEDDING, "dembedding", HOLDS_HALF_GRADIENT); // the tied embedding's other use is first
    give(flow, "dx", plain(HOLDS_DINPUT, (int32_t)flow->plan->model.layers));
}

static void flow_shared_expert_backward(Flow *flow, int32_t k)
{
    take(flow, "rows", staged(HOLDS_ROWS, k, 0));
    take(flow, "dx", plain(HOLDS_DINPUT, k + 1));
    give_gradient(flow, SHARED, "dshared", HOLDS_GRADIENT);
    give(flow, "drows", plain(HOLDS_DSHARED_ROWS, k));
}

static void flow_gate_backward(Flow *flow, int32_t k)
{
    take(flow, "x", plain(HOLDS_ATTENDED, k));
    take(flow, "records", staged(HOLDS_RECORDS, k, 0));
    take(flow, "drows", staged(HOLDS_DROWS, k, 0));
    take(flow, "drecords", staged(HOLDS_DRECORDS, k, 0));
    if (flow->plan->model.shared_experts)
        take(flow, "dshared", plain(HOLDS_DSHARED_ROWS, k));
    else
        take_none(flow, "dshared");
    take(flow, "dx", plain(HOLDS_DINPUT, k + 1));
    give_gradient(flow, ROUTER, "drouter", HOLDS_GRADIENT);
    give(flow, "dx", plain(HOLDS_DATTENDED, k));
}

static void flow_ffn_backward(Flow *flow, int32_t k)
{
    take(flow, "x", plain(HOLDS_ATTENDED, k));
    take(flow, "dx", plain(HOLDS_DINPUT, k + 1));
    give_gradient(flow, FFN, "dffn", HOLDS_GRADIENT);
    give(flow, "dx", plain(HOLDS_DATTENDED, k));
}

static void flow_pre_expert_backward(Flow *flow, int32_t k)
{
    take(flow, "x", plain(HOLDS_INPUT_ROWS, k));
    take(flow, "dx", plain(HOLDS_DATTENDED, k));
    give_gradient(flow, ATTENTION, "dattention", HOLDS_GRADIENT);
    give(flow, "dx", plain(HOLDS_DINPUT, k));
}

static void flow_embed_backward(Flow *flow)
{
    Value half = split(HOLDS_HALF_GRADIENT, NONE, 0, layer_of(flow)->weights[EMBEDDING]);
    take_tokens(flow);
    take(flow, "dx", plain(HOLDS_DINPUT, 0));
    take(flow, "dembedding", half);
    half.holds = HOLDS_GRADIENT;
    give(flow, "dembedding", half);
}

static void flow_encode(Flow *flow, int32_t k)
{
    give(flow, "packet", split(HOLDS_PACKET, k, 0, take_weights(flow, EXPERTS)));
}

static void flow_decode(Flow *flow, int32_t k)
{
    const LayerFlow *layer = layer_of(flow);
    take(flow, "packet", split(HOLDS_PACKET, k, layer->gathered, layer->weights[EXPERTS]));
    give(flow, "experts", split(HOLDS_WEIGHT, k, layer->gathered, layer->weights[EXPERTS]));
}

static void flow_step(Flow *flow)
{
    const Step *step = &flow->plan->steps[flow->step];
    int32_t k = step->layer;
    uint32_t level = step->level == NONE ? 0 : (uint32_t)step->level;
    switch (step->op) {
    case OP_EMBED:
        flow_embed(flow);
        return;
    case OP_PRE_EXPERT:
        flow_pre_expert(flow, k);
        return;
    case OP_FFN:
        flow_ffn(flow, k);
        return;
    case OP_GATE:
        flow_gate(flow, k);
        return;
    case OP_ROUTE:
        flow_route(flow, k);
        return;
    case OP_DISPATCH:
        flow_dispatch(flow, k, level);
        return;
    case OP_EXPERT:
        flow_expert(flow, k, false);
        return;
    case OP_COMBINE:
        flow_combine(flow, k, level);
        return;
    case OP_UNROUTE:
        flow_unroute(flow, k);
        return;
    case OP_SHARED_EXPERT:
        flow_shared_expert(flow, k);
        return;
    case OP_RESIDUAL:
        flow_residual(flow, k);
        return;
    case OP_LOSS:
        flow_loss(flow);
        return;
    case OP_ENCODE:
        flow_encode(flow, k);
        return;
    case OP_GATHER:
        flow_gather(flow, k, level);
        return;
    case OP_DECODE:
        flow_decode(flow, k);
        return;
    case OP_LOSS_BACKWARD:
        flow_loss_backward(flow);
        return;
    case OP_UNROUTE_BACKWARD:
        flow_unroute_backward(flow, k);
        return;
    case OP_EXPERT_BACKWARD:
        flow_expert(flow, k, true);
        return;
    case OP_COMBINE_BACKWARD:
        flow_combine_backward(flow, k, level);
        return;
    case OP_ROUTE_BACKWARD:
        flow_route_backward(flow, k);
        return;
    case OP_GATE_BACKWARD:
        flow_gate_backward(flow, k);
        return;
    case OP_SHARED_EXPERT_BACKWARD:
        flow_shared_expert_backward(flow, k);
        return;
    case OP_FFN_BACKWARD:
        flow_ffn_backward(flow, k);
        return;
    case OP_PRE_EXPERT_BACKWARD:
        flow_pre_expert_backward(flow, k);
        return;
    case OP_EMBED_BACKWARD:
        flow_embed_backward(flow);
        return;
    case OP_REDUCE_SCATTER:
        flow_reduce_scatter(flow, k, level);
        return;
    case OP_ALL_REDUCE:
        flow_all_reduce(flow);
        return;
    case OP_OPTIMIZER:
        flow_optimizer(flow);
        return;
    }
}

static void begin(Flow *flow)
{
    const Plan *plan = flow->plan;
    const Cluster *cluster = &plan->cluster;
    for (uint32_t l = 0; l < cluster->level_count; l++)
        if (cluster->levels[l].count > 1)
            flow->all |= 1u << l;
    flow->replicas = flow->all & ((1u << plan->replica_levels) - 1);
    for (uint32_t k = 0; k <= plan->model.layers; k++) {
        LayerFlow *layer = &flow->layers[k];
        memset(layer, 0xff, sizeof *layer); // NONE
        layer->exchanged = layer->gathered = 0;
        const Choice *choice = k < plan->model.layers ? verify_find_choice(plan, (int32_t)k) : NULL;
        for (uint32_t l = 0; choice && l < cluster->level_count; l++) {
            layer->exchanged |= (uint32_t)(cluster->levels[l].count > choice->domain[l]) << l;
            layer->gathered |= (uint32_t)(l >= plan->replica_levels && choice->domain[l] > 1) << l;
        }
    }
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        const Buffer *buffer = &plan->buffers[b];
        flow->values[b] = plain(HOLDS_NOTHING, buffer->layer);
        if (buffer->kind == BUFFER_WEIGHT)
            flow->values[b] = split(HOLDS_WEIGHT, buffer->layer, 0, (int32_t)b);
        else if (buffer->kind == BUFFER_INPUT)
            flow->values[b].holds = HOLDS_TOKENS;
        else if (buffer->kind == BUFFER_STATE)
            flow->values[b].holds = HOLDS_STATE;
    }
}

// Training updates every weight once; both passes end with a loss.
static void verify_end(const Flow *flow)
{
    bool loss = false;
    for (uint32_t b = 0; b < flow->plan->buffer_count; b++) {
        loss |= flow->values[b].holds == HOLDS_LOSS;
        bool updated = flow->values[b].holds == HOLDS_UPDATED;
        if (flow->plan->buffers[b].kind == BUFFER_WEIGHT && updated != (flow->plan->pass == PASS_TRAINING))
            verify_fail(flow->verifier, PROPERTY_FLOW, NONE, "'%.40s' is %s when the iteration ends",
                        flow->plan->buffers[b].name, updated ? "updated by a forward pass" : "not updated");
    }
    if (!loss)
        verify_fail(flow->verifier, PROPERTY_FLOW, NONE, "the schedule ends without a loss");
}

void verify_flow(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    if (plan->model.abstract || verifier->report->total) // values follow edges and groups that are in order
        return;
    Flow flow = {.verifier = verifier, .plan = plan,
                 .values = arena_alloc_array(verifier->scratch, plan->buffer_count, sizeof(Value)),
                 .layers = arena_alloc_array(verifier->scratch, (size_t)plan->model.layers + 1, sizeof(LayerFlow))};
    begin(&flow);
    for (flow.step = 0; flow.step < plan->step_count; flow.step++)
        flow_step(&flow);
    verify_end(&flow);
}
