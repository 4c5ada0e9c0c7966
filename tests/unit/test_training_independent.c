// Training against an implementation that shares no code with it: the network written scalar by scalar in double on a
// tape, which is differentiated backwards by the chain rule alone, and AdamW from its paper. One rank trains ten steps;
// the whole model's gradient, losses, and weights in the end are compared.
// builds: dev fast
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "ir/unroll.h"
#include "runtime/comm/comm_threads.h"
#include "runtime/engine/engine_host_internal.h"
#include "runtime/training/data.h"
#include "runtime/training/initial.h"
#include "runtime/training/training.h"
#include "specs.h"

// ---- the tape --------------------------------------------------------------------------------------

typedef struct {
    double value, gradient, partial[2];
    uint32_t parent[2];
} Node;

typedef uint32_t Ref;

static Node *tape;
static uint32_t tape_count, tape_room;

static Ref record(double value, Ref a, double by_a, Ref b, double by_b)
{
    if (tape_count == tape_room) {
        tape_room = tape_room ? 2 * tape_room : 1 << 16;
        tape = realloc(tape, tape_room * sizeof(*tape));
    }
    tape[tape_count] = (Node){.value = value, .partial = {by_a, by_b}, .parent = {a, b}};
    return tape_count++;
}

static double value(Ref a)
{
    return tape[a].value;
}

static Ref constant(double number)
{
    return record(number, 0, 0, 0, 0);
}

static Ref add(Ref a, Ref b)
{
    return record(value(a) + value(b), a, 1, b, 1);
}

static Ref multiply(Ref a, Ref b)
{
    return record(value(a) * value(b), a, value(b), b, value(a));
}

static Ref scale(Ref a, double by)
{
    return record(value(a) * by, a, by, 0, 0);
}

static Ref exponential(Ref a)
{
    return record(exp(value(a)), a, exp(value(a)), 0, 0);
}

static Ref power(Ref a, double exponent)
{
    return record(pow(value(a), exponent), a, exponent * pow(value(a), exponent - 1), 0, 0);
}

static Ref logarithm(Ref a)
{
    return record(log(value(a)), a, 1 / value(a), 0, 0);
}

static Ref hyperbolic_tangent(Ref a)
{
    double t = tanh(value(a));
    return record(t, a, 1 - t * t, 0, 0);
}

static Ref divide(Ref a, Ref b)
{
    return multiply(a, power(b, -1));
}

static void differentiate(Ref of)
{
    tape[of].gradient = 1;
    for (uint32_t i = of + 1; i-- > 0;)
        for (int p = 0; p < 2; p++)
            tape[tape[i].parent[p]].gradient += tape[i].gradient * tape[i].partial[p];
}

// ---- the network -----------------------------------------------------------------------------------

enum { WIDTH_MAX = 64, WEIGHTS_MAX = 16, STEPS = 10 };

// One weight buffer: its values and moments, and where they are on this step's tape.
typedef struct {
    const char *name;
    uint64_t elements;
    Ref first;
    double *values, *m, *v;
    int32_t buffer, gradient; // in the plan
} Weights;

typedef struct {
    ModelDims dims;
    double balance;
    Weights weights[WEIGHTS_MAX];
    uint32_t count;
} Network;

static Ref weights_of(const Network *net, const char *kind, uint32_t layer)
{
    char name[64];
    snprintf(name, sizeof(name), "L%u.%s", layer, kind);
    for (uint32_t w = 0; w < net->count; w++)
        if (strcmp(net->weights[w].name, layer == UINT32_MAX ? kind : name) == 0)
            return net->weights[w].first;
    cr_assert_fail("no weights '%s'", name);
    return 0;
}

// Of attention: norm, queries, keys, values, output.
static uint64_t attention_weights(const ModelDims *d)
{
    uint64_t queries = d->heads * d->head_dim, keys = d->kv_heads * d->head_dim;
    return 2 * d->hidden + d->hidden * (queries + 2 * keys) + queries * d->hidden;
}

// Dense weights of a layer: attention, then norm and router with the shared experts, or norm and feed-forward part.
static Ref second_norm(const Network *net, uint32_t layer)
{
    return weights_of(net, "dense", layer) + (Ref)attention_weights(&net->dims);
}

// Norm gains and biases do not decay: two a layer, one before the logits.
static bool decays(const Network *net, const Weights *of, uint64_t index)
{
    uint64_t norm = 2 * net->dims.hidden, second = attention_weights(&net->dims);
    if (strcmp(of->name, "embedding") == 0)
        return index < (net->dims.vocabulary + net->dims.sequence) * (uint64_t)net->dims.hidden;
    return strstr(of->name, "experts") || (index >= norm && (index < second || index >= second + norm));
}

static void normalise(uint64_t width, const Ref *x, Ref gain, Ref *out)
{
    Ref mean = constant(0), variance = constant(0);
    for (uint64_t i = 0; i < width; i++)
        mean = add(mean, scale(x[i], 1 / (double)width));
    for (uint64_t i = 0; i < width; i++) {
        Ref off = add(x[i], scale(mean, -1));
        variance = add(variance, scale(multiply(off, off), 1 / (double)width));
    }
    Ref inverse = power(add(variance, constant(1e-5)), -0.5);
    for (uint64_t i = 0; i < width; i++) {
        Ref centred = multiply(add(x[i], scale(mean, -1)), inverse);
        out[i] = add(multiply(centred, gain + (Ref)i), gain + (Ref)(width + i));
    }
}

// out [m] = in [k] matrix [k][m]
static void product(uint64_t k, uint64_t m, const Ref *in, Ref matrix, Ref *out)
{
    for (uint64_t j = 0; j < m; j++) {
        out[j] = constant(0);
        for (uint64_t i = 0; i < k; i++)
            out[j] = add(out[j], multiply(in[i], matrix + (Ref)(i * m + j)));
    }
}

static void softmax(uint64_t count, Ref *values)
{
    double max = -INFINITY;
    Ref sum = constant(0);
    for (uint64_t i = 0; i < count; i++)
        max = fmax(max, value(values[i]));
    for (uint64_t i = 0; i < count; i++) {
        values[i] = exponential(add(values[i], constant(-max)));
        sum = add(sum, values[i]);
    }
    for (uint64_t i = 0; i < count; i++)
        values[i] = divide(values[i], sum);
}

static Ref gelu(Ref up)
{
    Ref cube = multiply(up, multiply(up, up));
    Ref inside = scale(add(up, scale(cube, 0.044715)), sqrt(2 / 3.14159265358979323846));
    return scale(multiply(up, add(constant(1), hyperbolic_tangent(inside))), 0.5);
}

static Ref swish(Ref gate)
{
    return divide(gate, add(constant(1), exponential(scale(gate, -1))));
}

// Adds `weight` times the feed-forward network's output to x.
static void add_feed_forward(const ModelDims *dims, uint64_t inner, const Ref *in, Ref matrices, Ref weight, Ref *x)
{
    uint64_t hidden = dims->hidden;
    bool gated = dims->activation == ACTIVATION_SWIGLU;
    Ref up[WIDTH_MAX], gate[WIDTH_MAX], out[WIDTH_MAX];
    product(hidden, inner, in, matrices, up);
    if (gated)
        product(hidden, inner, in, matrices + (Ref)(hidden * inner), gate);
    for (uint64_t i = 0; i < inner; i++)
        up[i] = gated ? multiply(up[i], swish(gate[i])) : gelu(up[i]);
    product(inner, hidden, up, matrices + (Ref)((gated ? 2 : 1) * hidden * inner), out);
    for (uint64_t i = 0; i < hidden; i++)
        x[i] = add(x[i], multiply(weight, out[i]));
}

static void attention(const Network *net, uint32_t layer, Ref x[][WIDTH_MAX])
{
    const ModelDims *d = &net->dims;
    uint64_t hidden = d->hidden, queries = d->heads * d->head_dim, keys = d->kv_heads * d->head_dim;
    Ref norm = weights_of(net, "dense", layer), wq = norm + (Ref)(2 * hidden), wk = wq + (Ref)(hidden * queries);
    Ref wv = wk + (Ref)(hidden * keys), wo = wv + (Ref)(hidden * keys);
    Ref q[WIDTH_MAX][WIDTH_MAX], k[WIDTH_MAX][WIDTH_MAX], v[WIDTH_MAX][WIDTH_MAX], normed[WIDTH_MAX];
    for (uint64_t t = 0; t < model_tokens(d); t++) {
        normalise(hidden, x[t], norm, normed);
        product(hidden, queries, normed, wq, q[t]);
        product(hidden, keys, normed, wk, k[t]);
        product(hidden, keys, normed, wv, v[t]);
    }
    for (uint64_t t = 0; t < model_tokens(d); t++) {
        Ref context[WIDTH_MAX], out[WIDTH_MAX];
        uint64_t visible = t % d->sequence + 1, first = t + 1 - visible;
        for (uint64_t c = 0; c < queries; c++) {
            uint64_t head = c / d->head_dim, at = head * d->kv_heads / d->heads * d->head_dim;
            Ref scores[WIDTH_MAX];
            for (uint64_t s = 0; s < visible; s++) {
                scores[s] = constant(0);
                for (uint64_t i = 0; i < d->head_dim; i++)
                    scores[s] = add(scores[s], multiply(q[t][head * d->head_dim + i], k[first + s][at + i]));
                scores[s] = scale(scores[s], 1 / sqrt((double)d->head_dim));
            }
            softmax(visible, scores);
            context[c] = constant(0);
            for (uint64_t s = 0; s < visible; s++)
                context[c] = add(context[c], multiply(scores[s], v[first + s][at + c % d->head_dim]));
        }
        product(queries, hidden, context, wo, out);
        for (uint64_t i = 0; i < hidden; i++)
            x[t][i] = add(x[t][i], out[i]);
    }
}

static void choose(uint64_t experts, uint64_t top_k, const Ref *logits, uint64_t *chosen)
{
    for (uint64_t j = 0; j < top_k; j++) {
        chosen[j] = UINT64_MAX;
        for (uint64_t e = 0; e < experts; e++) {
            bool taken = false;
            for (uint64_t i = 0; i < j; i++)
                taken |= chosen[i] == e;
            if (!taken && (chosen[j] == UINT64_MAX || value(logits[e]) > value(logits[chosen[j]])))
                chosen[j] = e;
        }
    }
}

// Returns the balance loss.
static Ref experts(const Network *net, uint32_t layer, Ref x[][WIDTH_MAX])
{
    const ModelDims *d = &net->dims;
    uint64_t hidden = d->hidden, each = model_expert_elements(d), tokens = model_tokens(d);
    Ref norm = second_norm(net, layer), all = weights_of(net, "experts", layer), balance = constant(0);
    Ref share[WIDTH_MAX];
    double visits[WIDTH_MAX] = {0};
    for (uint64_t e = 0; e < d->experts; e++)
        share[e] = constant(0);
    for (uint64_t t = 0; t < tokens; t++) {
        Ref rows[WIDTH_MAX], logits[WIDTH_MAX], weights[WIDTH_MAX];
        uint64_t chosen[WIDTH_MAX];
        normalise(hidden, x[t], norm, rows);
        product(hidden, d->experts, rows, norm + (Ref)(2 * hidden), logits);
        choose(d->experts, d->top_k, logits, chosen);
        for (uint64_t j = 0; j < d->top_k; j++)
            weights[j] = logits[chosen[j]];
        softmax(d->top_k, weights);
        for (uint64_t j = 0; j < d->top_k; j++) {
            add_feed_forward(d, d->inner, rows, all + (Ref)(chosen[j] * each), weights[j], x[t]);
            visits[chosen[j]]++;
        }
        if (d->shared_experts)
            add_feed_forward(d, (uint64_t)d->shared_experts * d->inner, rows, norm + (Ref)(hidden * (2 + d->experts)),
                             constant(1), x[t]);
        softmax(d->experts, logits);
        for (uint64_t e = 0; e < d->experts; e++)
            share[e] = add(share[e], scale(logits[e], 1 / (double)tokens));
    }
    for (uint64_t e = 0; e < d->experts; e++)
        balance = add(balance, scale(share[e], visits[e] / (double)(tokens * d->top_k)));
    return scale(balance, net->balance * d->experts);
}

// The cross-entropy, and, for the gradient, that with the balance losses.
static Ref forward(const Network *net, const int32_t *tokens, double *cross_entropy)
{
    const ModelDims *d = &net->dims;
    static Ref x[WIDTH_MAX][WIDTH_MAX];
    uint64_t hidden = d->hidden, count = model_tokens(d);
    Ref words = weights_of(net, "embedding", UINT32_MAX), positions = words + d->vocabulary * (Ref)hidden;
    Ref loss = constant(0), balance = constant(0);
    for (uint64_t t = 0; t < count; t++)
        for (uint64_t i = 0; i < hidden; i++)
            x[t][i] =
                add(words + (Ref)tokens[t / d->sequence * (d->sequence + 1) + t % d->sequence] * (Ref)hidden + (Ref)i,
                    positions + (Ref)(t % d->sequence * hidden + i));
    for (uint32_t k = 0; k < d->layers; k++) {
        attention(net, k, x);
        if (k == 0) { // the first is dense, the others have experts
            Ref ffn = second_norm(net, k), normed[WIDTH_MAX];
            for (uint64_t t = 0; t < count; t++) {
                normalise(hidden, x[t], ffn, normed);
                add_feed_forward(d, d->ffn_inner, normed, ffn + (Ref)(2 * hidden), constant(1), x[t]);
            }
        } else {
            balance = add(balance, experts(net, k, x));
        }
    }
    Ref norm = positions + (Ref)(d->sequence * hidden);
    for (uint64_t t = 0; t < count; t++) {
        Ref normed[WIDTH_MAX], logits[WIDTH_MAX];
        normalise(hidden, x[t], norm, normed);
        for (uint64_t w = 0; w < d->vocabulary; w++) {
            logits[w] = constant(0);
            for (uint64_t i = 0; i < hidden; i++)
                logits[w] = add(logits[w], multiply(normed[i], words + (Ref)(w * hidden + i)));
        }
        softmax(d->vocabulary, logits);
        int32_t next = tokens[t / d->sequence * (d->sequence + 1) + t % d->sequence + 1];
        loss = add(loss, scale(logarithm(logits[next]), -1 / (double)count));
    }
    *cross_entropy = value(loss);
    return add(loss, balance);
}

// ---- a step ----------------------------------------------------------------------------------------

// Forward, backward, and AdamW (Loshchilov and Hutter, algorithm 2) with the gradient's norm limited.
static double step(Network *net, const TrainingSettings *settings, uint64_t t, const int32_t *tokens)
{
    double loss, squares = 0;
    tape_count = 0;
    constant(0); // what absent parents name
    for (uint32_t w = 0; w < net->count; w++) {
        net->weights[w].first = tape_count;
        for (uint64_t i = 0; i < net->weights[w].elements; i++)
            constant(net->weights[w].values[i]);
    }
    differentiate(forward(net, tokens, &loss));
    for (uint32_t w = 0; w < net->count; w++)
        for (uint64_t i = 0; i < net->weights[w].elements; i++)
            squares += pow(tape[net->weights[w].first + i].gradient, 2);
    double norm = sqrt(squares), shrink = norm > settings->clip ? settings->clip / norm : 1;
    double rate = settings->learning_rate * fmin(1, (double)t / settings->warmup);
    for (uint32_t w = 0; w < net->count; w++)
        for (uint64_t i = 0; i < net->weights[w].elements; i++) {
            Weights *of = &net->weights[w];
            double g = tape[of->first + i].gradient * shrink;
            of->m[i] = settings->beta1 * of->m[i] + (1 - settings->beta1) * g;
            of->v[i] = settings->beta2 * of->v[i] + (1 - settings->beta2) * g * g;
            double m = of->m[i] / (1 - pow(settings->beta1, (double)t));
            double v = of->v[i] / (1 - pow(settings->beta2, (double)t));
            double decay = decays(net, of, i) ? settings->weight_decay : 0;
            of->values[i] -= rate * (m / (sqrt(v) + settings->epsilon) + decay * of->values[i]);
        }
    return loss;
}

// ---- the engine ------------------------------------------------------------------------------------

static float *place_of(const Engine *engine, int32_t buffer)
{
    const HostEngine *host = (const HostEngine *)engine;
    return (float *)(host->memory + host->plan->buffers[buffer].offset);
}

static void network_create(Network *net, const Plan *plan, const Engine *engine)
{
    for (uint32_t s = 0; s < plan->step_count; s++) {
        StepBuffers of_step = step_buffers(plan, &plan->steps[s]);
        int32_t weights = of_step.optimizer.weights, gradient = of_step.optimizer.gradient;
        if (plan->steps[s].op != OP_OPTIMIZER)
            continue;
        const Buffer *buffer = &plan->buffers[weights];
        uint64_t elements = buffer->rows * buffer->cols;
        cr_assert(net->count < WEIGHTS_MAX && buffer->dtype == DTYPE_F32);
        Weights *of = &net->weights[net->count++];
        *of = (Weights){.name = buffer->name, .elements = elements, .buffer = weights, .gradient = gradient};
        of->values = calloc(3 * elements, sizeof(*of->values));
        of->m = of->values + elements;
        of->v = of->m + elements;
        for (uint64_t i = 0; i < elements; i++)
            of->values[i] = (double)place_of(engine, weights)[i];
    }
}

// Largest difference over the tensor's largest value.
static double worst(const float *have, const double *want, uint64_t count)
{
    double off = 0, largest = 0;
    for (uint64_t i = 0; i < count; i++) {
        off = fmax(off, fabs((double)have[i] - want[i]));
        largest = fmax(largest, fabs(want[i]));
    }
    return off / fmax(largest, 1e-30);
}

// The engine's are sums over the micro-batches.
static void compare_gradients(const Network *net, const Engine *engine, uint32_t micro_batches)
{
    for (uint32_t w = 0; w < net->count; w++) {
        const Weights *of = &net->weights[w];
        double *want = malloc(of->elements * sizeof(*want));
        for (uint64_t i = 0; i < of->elements; i++)
            want[i] = micro_batches * tape[of->first + i].gradient;
        // Sums of some hundred products in f32: 100 half-units in the last place.
        double off = worst(place_of(engine, of->gradient), want, of->elements);
        cr_expect_leq(off, 100 * 6e-8, "gradient of %s: off by %g of its largest", of->name, off);
        free(want);
    }
}

static void train(Spec *spec)
{
    double bytes;
    Arena *arena = arena_create();
    Workload *work = workload_derive(spec, arena);
    Config config = {.domain = {1}};
    Plan *lowered = lower_uniform(work, &config, DISPATCH_DEDUP, &bytes);
    cr_assert_not_null(lowered);
    const Plan *plan = plan_unroll_all(lowered, arena);
    uint64_t micro_batch = plan->model.batch * (plan->model.sequence + 1ull);
    uint32_t micro_batches = plan->micro_batches;
    Fault fault = {0};
    ThreadWorld *world = thread_world_create(&plan->cluster, NULL, 30);
    Initial initial = {.plan = plan, .seed = 3};
    EngineOptions options = {.fill = initial_fill, .fill_context = &initial, .training = plan->training};
    int32_t *tokens = calloc(micro_batches * micro_batch, sizeof(*tokens));
    Engine *engine = host_engine.create(plan, thread_world_comm(world, 0), &options, &fault);
    cr_assert_not_null(engine, "%s", fault.message);
    Network net = {.dims = plan->model, .balance = plan->training.balance};
    net.dims.batch *= micro_batches; // to the tape it is one batch
    network_create(&net, plan, engine);
    for (uint64_t t = 1; t <= STEPS; t++) {
        double rate = training_rate(&plan->training, t - 1);
        cr_assert(data_fill(&(Data){0}, &net.dims, &(DataBatch){.seed = 3, .iteration = t - 1}, tokens, &(Fault){0}));
        host_engine.begin(engine, &(EngineIteration){.tokens = tokens, .update = t, .learning_rate = (float)rate});
        for (uint32_t s = 0; s < plan->step_count; s++)
            cr_assert(host_engine.execute(engine, s, &fault), "%s", fault.message);
        EngineResult result = host_engine.result(engine);
        double loss = step(&net, &plan->training, t, tokens);
        cr_expect_lt(fabs(result.loss - loss), 1e-5 * loss, "step %d: %.9g, not %.9g", (int)t, result.loss, loss);
        if (t == 1)
            compare_gradients(&net, engine, micro_batches);
    }
    for (uint32_t w = 0; w < net.count; w++) {
        // Ten steps of `rate`; with epsilon far above the gradients' rounding each is off by little of itself. How
        // little depends on the order in which BLAS and compiler add: 1e-5 with some, 4e-5 with others.
        double off = worst(place_of(engine, net.weights[w].buffer), net.weights[w].values, net.weights[w].elements);
        cr_expect_leq(off, 1e-4, "%s: off by %g of its largest", net.weights[w].name, off);
        free(net.weights[w].values);
    }
    free(tokens);
    host_engine.destroy(engine);
    thread_world_destroy(world);
    plan_destroy(lowered);
    arena_destroy(arena);
    free(tape);
    tape = NULL;
    tape_room = 0;
}

static Spec spec_one_rank(void)
{
    Spec spec = spec_small_gpt((uint32_t[3]){1, 0, 0}, 4, 2);
    spec.plan.pass = PASS_TRAINING;
    spec.model.first_dense = 1;
    spec.model.layers = 3;
    spec.model.hidden = 8;
    spec.model.head_dim = 4;
    spec.model.kv_heads = 1;
    spec.model.vocabulary = 11;
    spec.model.sequence = 6;
    spec.model.inner = 12;
    spec.model.ffn_inner = 10;
    spec.training = (TrainingSettings){.learning_rate = 0.01,
                                       .beta1 = 0.9,
                                       .beta2 = 0.95,
                                       .epsilon = 1e-3,
                                       .weight_decay = 0.1,
                                       .warmup = 3,
                                       .clip = 0.7,
                                       .balance = 0.02};
    return spec;
}

Test(training_independent, gelu_experts, .timeout = 60)
{
    Spec spec = spec_one_rank();
    train(&spec);
}

Test(training_independent, gated_and_shared_experts, .timeout = 60)
{
    Spec spec = spec_one_rank();
    spec.model.activation = ACTIVATION_SWIGLU;
    spec.model.shared_experts = 1;
    spec.model.top_k = 3;
    train(&spec);
}

// Three micro-batches are one batch to the tape. The load-balancing loss is a batch's by nature.
Test(training_independent, micro_batches, .timeout = 60)
{
    Spec spec = spec_one_rank();
    spec.plan.micro_batches = 3;
    spec.training.balance = 0;
    train(&spec);
}

Test(training_independent, micro_batches_computed_again, .timeout = 60)
{
    Spec spec = spec_one_rank();
    spec.model.activation = ACTIVATION_SWIGLU;
    spec.model.shared_experts = 1;
    spec.model.top_k = 3;
    spec.model.batch = 1;
    spec.plan.micro_batches = 2;
    spec.plan.recomputes = true;
    spec.plan.regather_dense = true;
    spec.training.balance = 0;
    train(&spec);
}
