// The reference forward pass: see reference.h. Weights are made again from the seed, one tensor or
// one expert at a time, rounded to the plan's dtype; everything after that is double.
#include "runtime/check/reference.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/check/reference_codec.h"
#include "runtime/check/reference_math.h"
#include "runtime/check/tolerance.h"
#include "runtime/training/weights.h"

struct Reference {
    const Plan *plan;
    uint64_t seed;
    atomic_bool stopped;
};

// One rank's computation. All rows are [tokens] unless said otherwise.
typedef struct {
    const Plan *plan;
    uint64_t rank;
    const ModelDims *dims;
    const atomic_bool *stopped; // then what is computed does not matter any more
    uint64_t seed, tokens, queries, keys, inner_max;
    double *x;                   // [H]: the caller's
    double *norm, *out;          // [H]
    double *q, *k, *v, *context; // [A], [K], [K], [A]
    double *act, *gate;          // [inner_max]
    double *scores;              // one row: [sequence] or [vocabulary]
    double *weights_of_records;  // [top_k]
    uint64_t *chosen;            // [tokens]: tokens that visit the expert at hand
    float *weights;              // the tensor at hand
    void *stored;                // the same in the plan's dtype
    Tensor mean;                 // of the layer's experts, as stored, where they are sent without it
    double *before;              // [H], x without what the layer's experts add, where rows travel packed; else NULL
    double choice_excess;        // see ReferenceResult
    double packed;               // likewise
} Run;

static bool is_stopped(const Run *run)
{
    return atomic_load_explicit(run->stopped, memory_order_relaxed);
}

// ---- layers ----------------------------------------------------------------------------------

// out [rows][H] = down(activation(up(in))), `weights` as in ir/model.h.
static void feed_forward(Run *run, uint64_t rows, uint64_t inner, const double *in, const float *weights, double *out)
{
    uint64_t hidden = run->dims->hidden;
    bool gated = run->dims->activation == ACTIVATION_SWIGLU;
    reference_multiply(run->stopped, (ProductSize){rows, hidden, inner}, in, weights, run->act);
    weights += hidden * inner;
    if (gated) {
        reference_multiply(run->stopped, (ProductSize){rows, hidden, inner}, in, weights, run->gate);
        weights += hidden * inner;
    }
    for (uint64_t r = 0; r < rows && !is_stopped(run); r++)
        for (uint64_t i = r * inner; i < (r + 1) * inner; i++)
            run->act[i] = reference_activation(run->dims->activation, run->act[i], gated ? run->gate[i] : 0);
    reference_multiply(run->stopped, (ProductSize){rows, inner, hidden}, run->act, weights, out);
}

// ---- weights -----------------------------------------------------------------------------------

static Tensor stored(const Run *run, uint64_t elements)
{
    return (Tensor){.data = run->stored, .dtype = run->dims->dtype, .rows = 1, .cols = elements};
}

// The tensor just made, as the ranks hold it.
static const float *loaded(const Run *run, Tensor tensor)
{
    host_to_f32(tensor.data, tensor.dtype, run->weights, tensor.cols);
    return run->weights;
}

// ---- the network -------------------------------------------------------------------------------

static void embed(Run *run, const int32_t *tokens)
{
    uint64_t hidden = run->dims->hidden, sequence = run->dims->sequence;
    Tensor tensor = stored(run, model_embedding_elements(run->dims));
    weights_fill_embedding(run->dims, run->seed, tensor);
    const float *words = loaded(run, tensor), *positions = words + run->dims->vocabulary * hidden;
    for (uint64_t t = 0; t < run->tokens; t++) {
        const float *word = words + (uint64_t)tokens[t / sequence * (sequence + 1) + t % sequence] * hidden;
        for (uint64_t i = 0; i < hidden; i++)
            run->x[t * hidden + i] = (double)word[i] + (double)positions[t % sequence * hidden + i];
    }
}

// The context of one query of one head: attention over the tokens of its sequence up to itself.
static void attend(Run *run, uint64_t token, uint64_t head)
{
    uint64_t head_dim = run->dims->head_dim, kv_head = head * run->dims->kv_heads / run->dims->heads;
    uint64_t visible = token % run->dims->sequence + 1, first = token + 1 - visible;
    const double *query = run->q + token * run->queries + head * head_dim;
    double *context = run->context + token * run->queries + head * head_dim;
    for (uint64_t i = 0; i < visible; i++) {
        const double *key = run->k + (first + i) * run->keys + kv_head * head_dim;
        run->scores[i] = 0;
        for (uint64_t d = 0; d < head_dim; d++)
            run->scores[i] += query[d] * key[d] / sqrt((double)head_dim);
    }
    reference_softmax(run->scores, visible);
    memset(context, 0, head_dim * sizeof(*context));
    for (uint64_t i = 0; i < visible; i++)
        for (uint64_t d = 0; d < head_dim; d++)
            context[d] += run->scores[i] * run->v[(first + i) * run->keys + kv_head * head_dim + d];
}

static void add_to_x(Run *run)
{
    for (uint64_t i = 0; i < run->tokens * run->dims->hidden; i++)
        run->x[i] += run->out[i];
}

static void attention_layer(Run *run, uint32_t layer)
{
    uint64_t hidden = run->dims->hidden;
    Tensor tensor = stored(run, model_attention_elements(run->dims));
    weights_fill_attention(run->dims, run->seed, layer, tensor);
    const float *norm = loaded(run, tensor), *wq = norm + 2 * hidden, *wk = wq + hidden * run->queries;
    const float *wv = wk + hidden * run->keys, *wo = wv + hidden * run->keys;
    reference_normalise(run->tokens, hidden, run->x, norm, norm + hidden, run->norm);
    reference_multiply(run->stopped, (ProductSize){run->tokens, hidden, run->queries}, run->norm, wq, run->q);
    reference_multiply(run->stopped, (ProductSize){run->tokens, hidden, run->keys}, run->norm, wk, run->k);
    reference_multiply(run->stopped, (ProductSize){run->tokens, hidden, run->keys}, run->norm, wv, run->v);
    for (uint64_t t = 0; t < run->tokens && !is_stopped(run); t++)
        for (uint64_t head = 0; head < run->dims->heads; head++)
            attend(run, t, head);
    reference_multiply(run->stopped, (ProductSize){run->tokens, run->queries, hidden}, run->context, wo, run->out);
    add_to_x(run);
}

static void dense_layer(Run *run, uint32_t layer)
{
    uint64_t hidden = run->dims->hidden;
    Tensor tensor = stored(run, model_ffn_elements(run->dims));
    weights_fill_ffn(run->dims, run->seed, layer, tensor);
    const float *weights = loaded(run, tensor);
    reference_normalise(run->tokens, hidden, run->x, weights, weights + hidden, run->norm);
    feed_forward(run, run->tokens, run->dims->ffn_inner, run->norm, weights + 2 * hidden, run->out);
    add_to_x(run);
}

static double router_logit(const Run *run, uint64_t token, const float *router, uint64_t expert)
{
    uint64_t hidden = run->dims->hidden, experts = run->dims->experts;
    double sum = 0;
    for (uint64_t i = 0; i < hidden; i++)
        sum += run->norm[token * hidden + i] * (double)router[i * experts + expert];
    return sum;
}

static bool is_chosen(const int32_t *chosen, uint64_t top_k, uint64_t expert)
{
    for (uint64_t j = 0; j < top_k; j++)
        if (chosen[j] == (int32_t)expert)
            return true;
    return false;
}

static uint64_t open_groups(const ModelDims *dims, const int32_t *chosen)
{
    uint64_t open = 0;
    for (uint64_t j = 0; j < dims->top_k; j++)
        open |= chosen[j] >= 0 ? model_group_bit(dims, (uint32_t)chosen[j]) : 0;
    return open;
}

// Not chosen, although the groups of the chosen would have allowed it.
static bool is_passed_over(const Run *run, const int32_t *chosen, uint64_t expert)
{
    const ModelDims *dims = run->dims;
    return !is_chosen(chosen, dims->top_k, expert) &&
           model_group_allows(dims, open_groups(dims, chosen), (uint32_t)expert);
}

// By how much the best expert of groups that were not opened exceeds the best of the worst that was: 0 where groups do
// not limit, or where records were dropped, whose groups nobody knows.
static double groups_excess(const Run *run, uint64_t token, const float *router, const int32_t *chosen)
{
    const ModelDims *dims = run->dims;
    double closed = -INFINITY, opened[MODEL_GROUPS_MAX], least = INFINITY;
    uint64_t open = open_groups(dims, chosen);
    for (uint64_t j = 0; j < dims->top_k; j++)
        if (chosen[j] < 0)
            return 0;
    if (!model_limits_groups(dims))
        return 0;
    for (uint32_t g = 0; g < dims->groups; g++)
        opened[g] = -INFINITY;
    for (uint32_t expert = 0; expert < dims->experts; expert++) {
        double logit = router_logit(run, token, router, expert), *of = &opened[expert / (dims->experts / dims->groups)];
        if (!model_group_allows(dims, open, expert))
            closed = fmax(closed, logit);
        else if (open & model_group_bit(dims, expert))
            *of = fmax(*of, logit);
    }
    for (uint32_t g = 0; g < dims->groups; g++)
        least = open >> g & 1 ? fmin(least, opened[g]) : least;
    return fmax(closed - least, 0);
}

// The largest logit below `limit` of the experts that were passed over.
static double next_passed_over(const Run *run, uint64_t token, const float *router, const int32_t *chosen, double limit)
{
    double best = -INFINITY;
    for (uint64_t expert = 0; expert < run->dims->experts; expert++) {
        double logit = is_passed_over(run, chosen, expert) ? router_logit(run, token, router, expert) : limit;
        best = logit < limit ? fmax(best, logit) : best;
    }
    return best;
}

// By how much the best expert that the token passed over exceeds the worst that it chose; dropped records are taken to
// have been of the best. `squares` grows by the squares of the token's logits.
static double token_excess(const Run *run, uint64_t token, const float *router, const int32_t *chosen, double *squares)
{
    uint64_t top_k = run->dims->top_k, dropped = 0, above = 0;
    double least = INFINITY, best = INFINITY;
    for (uint64_t j = 0; j < top_k; j++) {
        dropped += chosen[j] < 0;
        if (chosen[j] >= 0)
            least = fmin(least, router_logit(run, token, router, (uint64_t)chosen[j]));
    }
    for (uint64_t expert = 0; expert < run->dims->experts; expert++) {
        double logit = router_logit(run, token, router, expert);
        *squares += logit * logit;
        above += is_passed_over(run, chosen, expert) && logit > least;
    }
    double excess = groups_excess(run, token, router, chosen);
    if (above <= dropped)
        return excess;
    for (uint64_t n = 0; n <= dropped; n++)
        best = next_passed_over(run, token, router, chosen, best);
    return fmax(best - least, excess);
}

static void follow_choices(Run *run, const float *router, const int32_t *decisions)
{
    double squares = 0, excess = 0, count = (double)run->tokens * run->dims->experts;
    for (uint64_t t = 0; t < run->tokens; t++)
        excess = fmax(excess, token_excess(run, t, router, decisions + t * run->dims->top_k, &squares));
    if (excess > 0)
        run->choice_excess = fmax(run->choice_excess, excess / sqrt(squares / count));
}

// Norm and gate: the weights of the experts that were chosen for each token.
static void gate_layer(Run *run, uint32_t layer, const int32_t *decisions)
{
    uint64_t hidden = run->dims->hidden, top_k = run->dims->top_k;
    Tensor tensor = stored(run, model_router_elements(run->dims));
    weights_fill_router(run->dims, run->seed, layer, tensor);
    const float *norm = loaded(run, tensor), *router = norm + 2 * hidden;
    reference_normalise(run->tokens, hidden, run->x, norm, norm + hidden, run->norm);
    for (uint64_t t = 0; t < run->tokens; t++) {
        double *logits = run->weights_of_records + t * top_k;
        for (uint64_t j = 0; j < top_k; j++) {
            int32_t expert = decisions[t * top_k + j];
            logits[j] = expert < 0 ? -INFINITY : router_logit(run, t, router, (uint64_t)expert);
        }
        reference_softmax(logits, top_k); // NaN when every record was dropped; no expert will read it
    }
    follow_choices(run, router, decisions);
}

// Adds weight x expert(row) of every token that chose `expert` to x. `context` is free and holds the rows.
static void visit_expert(Run *run, const Choice *choice, uint32_t expert, const int32_t *decisions)
{
    uint64_t hidden = run->dims->hidden, pairs = run->tokens * run->dims->top_k, count = 0;
    double *rows = run->context;
    for (uint64_t pair = 0; pair < pairs; pair++) {
        if (decisions[pair] != (int32_t)expert)
            continue;
        memcpy(rows + count * hidden, run->norm + pair / run->dims->top_k * hidden, hidden * sizeof(*rows));
        run->chosen[count++] = pair;
    }
    if (count == 0)
        return;
    Tensor tensor = stored(run, model_expert_elements(run->dims));
    weights_fill_experts(run->dims, run->seed, choice->layer, expert, 1, tensor);
    if (reference_approximates(run->plan) && reference_is_decoded(run->plan, choice->domain, run->rank, expert))
        reference_decode(run->plan, run->mean, tensor);
    feed_forward(run, count, run->dims->inner, rows, loaded(run, tensor), run->out);
    for (uint64_t c = 0; c < count; c++) {
        double *x = run->x + run->chosen[c] / run->dims->top_k * hidden;
        for (uint64_t i = 0; i < hidden; i++)
            x[i] += run->weights_of_records[run->chosen[c]] * run->out[c * hidden + i];
    }
}

// What experts of others added to x is as far off as packing makes it.
static void note_packed(Run *run, const Choice *choice)
{
    double added = 0, whole = 0;
    for (uint64_t i = 0; i < run->tokens * run->dims->hidden; i++) {
        added += (run->x[i] - run->before[i]) * (run->x[i] - run->before[i]);
        whole += run->x[i] * run->x[i];
    }
    run->packed += whole > 0 ? tolerance_packed(run->plan, choice) * added / whole : 0;
}

static void moe_layer(Run *run, const Choice *choice, const int32_t *decisions)
{
    gate_layer(run, choice->layer, decisions);
    if (run->mean.data)
        weights_fill_mean_expert(run->dims, run->seed, choice->layer, run->mean);
    if (run->before)
        memcpy(run->before, run->x, run->tokens * run->dims->hidden * sizeof(*run->before));
    for (uint32_t expert = 0; expert < run->dims->experts && !is_stopped(run); expert++)
        visit_expert(run, choice, expert, decisions);
    if (run->before)
        note_packed(run, choice);
    if (model_shared_inner(run->dims) == 0)
        return;
    Tensor tensor = stored(run, model_shared_elements(run->dims));
    weights_fill_shared(run->dims, run->seed, choice->layer, tensor);
    feed_forward(run, run->tokens, model_shared_inner(run->dims), run->norm, loaded(run, tensor), run->out);
    add_to_x(run);
}

static double mean_loss(Run *run, const int32_t *tokens)
{
    uint64_t hidden = run->dims->hidden, sequence = run->dims->sequence, vocabulary = run->dims->vocabulary;
    Tensor tensor = stored(run, model_embedding_elements(run->dims));
    weights_fill_embedding(run->dims, run->seed, tensor);
    const float *words = loaded(run, tensor), *norm = words + (vocabulary + sequence) * hidden;
    double total = 0;
    reference_normalise(run->tokens, hidden, run->x, norm, norm + hidden, run->norm);
    for (uint64_t t = 0; t < run->tokens && !is_stopped(run); t++) {
        uint64_t next = (uint64_t)tokens[t / sequence * (sequence + 1) + t % sequence + 1];
        for (uint64_t w = 0; w < vocabulary; w++) {
            run->scores[w] = 0;
            for (uint64_t i = 0; i < hidden; i++)
                run->scores[w] += run->norm[t * hidden + i] * (double)words[w * hidden + i];
        }
        double target = run->scores[next];
        total += reference_softmax(run->scores, vocabulary) - target;
    }
    return total / (double)run->tokens;
}

// ---- running -----------------------------------------------------------------------------------

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t largest_tensor(const ModelDims *dims)
{
    uint64_t elements = larger(model_embedding_elements(dims), model_attention_elements(dims));
    elements = larger(elements, larger(model_router_elements(dims), model_expert_elements(dims)));
    elements = larger(elements, dims->ffn_inner ? model_ffn_elements(dims) : 0);
    return larger(elements, model_shared_inner(dims) ? model_shared_elements(dims) : 0);
}

static void run_end(Run *run)
{
    void *owned[] = {run->norm,   run->out,       run->q,      run->k,      run->v,       run->context,
                     run->act,    run->gate,      run->scores, run->chosen, run->weights, run->weights_of_records,
                     run->stored, run->mean.data, run->before};
    for (size_t i = 0; i < COUNT_OF(owned); i++)
        free(owned[i]);
}

static double *doubles_alloc(uint64_t rows, uint64_t cols)
{
    uint64_t count;
    return checked_mul(rows, cols, &count) ? calloc(count, sizeof(double)) : NULL;
}

static bool mean_begin(Run *run)
{
    uint64_t elements = model_expert_elements(run->dims);
    if (!reference_approximates(run->plan) || run->plan->shared_every == 0)
        return true;
    run->mean = (Tensor){calloc(elements, dtype_bytes(run->dims->dtype)), run->dims->dtype, 1, elements};
    return run->mean.data != NULL;
}

static bool run_begin(Run *run, const Reference *reference, uint64_t rank, double *x)
{
    const ModelDims *dims = &reference->plan->model;
    uint64_t tokens = model_tokens(dims), hidden = dims->hidden, elements = largest_tensor(dims);
    uint64_t shared_inner = model_shared_inner(dims);
    *run = (Run){.plan = reference->plan,
                 .rank = rank,
                 .dims = dims,
                 .stopped = &reference->stopped,
                 .seed = reference->seed,
                 .tokens = tokens,
                 .x = x};
    run->queries = (uint64_t)dims->heads * dims->head_dim;
    run->keys = (uint64_t)dims->kv_heads * dims->head_dim;
    run->inner_max = larger(larger(dims->inner, dims->ffn_inner), shared_inner);
    run->norm = doubles_alloc(tokens, hidden);
    run->out = doubles_alloc(tokens, hidden);
    run->before = plan_packs_rows(reference->plan) ? doubles_alloc(tokens, hidden) : NULL;
    run->q = doubles_alloc(tokens, run->queries);
    run->k = doubles_alloc(tokens, run->keys);
    run->v = doubles_alloc(tokens, run->keys);
    run->context = doubles_alloc(tokens, larger(run->queries, hidden)); // of attention, later an expert's rows
    run->act = doubles_alloc(tokens, run->inner_max);
    run->gate = doubles_alloc(tokens, run->inner_max);
    run->scores = doubles_alloc(1, larger(dims->sequence, dims->vocabulary));
    run->weights_of_records = doubles_alloc(tokens, dims->top_k);
    run->chosen = calloc(tokens, sizeof(*run->chosen));
    run->weights = calloc(elements, sizeof(*run->weights));
    run->stored = calloc(elements, dtype_bytes(dims->dtype));
    return run->norm && run->out && run->q && run->k && run->v && run->context && run->act && run->gate &&
           run->scores && run->weights_of_records && run->chosen && run->weights && run->stored &&
           (run->before || !plan_packs_rows(reference->plan)) && mean_begin(run);
}

static bool check_decisions(const Plan *plan, const int32_t *decisions, Fault *fault)
{
    uint64_t tokens = model_tokens(&plan->model), top_k = plan->model.top_k;
    for (uint64_t i = 0; i < plan->choice_count * tokens * top_k; i++) {
        uint64_t first = i / top_k * top_k;
        if (decisions[i] < -1 || decisions[i] >= (int64_t)plan->model.experts)
            return fault_set(fault, FAULT_RUN, "gate chose expert %d of %u", decisions[i], plan->model.experts);
        if (decisions[i] < 0 && plan->capacity == 0)
            return fault_set(fault, FAULT_MISMATCH, "the gate dropped a token, although no capacity was set");
        for (uint64_t j = first; j < i; j++)
            if (decisions[j] == decisions[i] && decisions[i] >= 0)
                return fault_set(fault, FAULT_RUN, "gate chose expert %d twice for one token", decisions[i]);
    }
    return true;
}

bool reference_run(const Reference *reference, const ReferenceInput *input, double *x, ReferenceResult *result,
                   Fault *fault)
{
    const Plan *plan = reference->plan;
    Run run;
    if (!check_decisions(plan, input->decisions, fault))
        return false;
    if (!run_begin(&run, reference, input->rank, x)) {
        run_end(&run);
        return fault_set(fault, FAULT_MEMORY, "out of memory for the reference of rank %llu",
                         (unsigned long long)input->rank);
    }
    embed(&run, input->tokens);
    for (uint32_t layer = 0, moe = 0; layer < plan->model.layers && !is_stopped(&run); layer++) {
        attention_layer(&run, layer);
        if (moe < plan->choice_count && plan->choices[moe].layer == layer) {
            moe_layer(&run, &plan->choices[moe], input->decisions + moe * run.tokens * plan->model.top_k);
            moe++;
        } else {
            dense_layer(&run, layer);
        }
    }
    *result = (ReferenceResult){
        .loss = mean_loss(&run, input->tokens), .choice_excess = run.choice_excess, .packed = run.packed};
    run_end(&run);
    return !is_stopped(&run) || fault_set(fault, FAULT_RUN, "the comparison with the reference was ended");
}

Reference *reference_create(const Plan *plan, uint64_t seed, Fault *fault)
{
    Reference *reference = plan->model.abstract ? NULL : malloc(sizeof(*reference));
    if (!reference) {
        fault_set(fault, plan->model.abstract ? FAULT_RUN : FAULT_MEMORY,
                  plan->model.abstract ? "model '%s' gives volumes, not dimensions: nothing to compute"
                                       : "out of memory for the reference of '%s'",
                  plan->model.name);
        return NULL;
    }
    reference->plan = plan;
    reference->seed = seed;
    atomic_init(&reference->stopped, false);
    return reference;
}

void reference_stop(Reference *reference)
{
    atomic_store(&reference->stopped, true);
}

void reference_destroy(Reference *reference)
{
    free(reference);
}
