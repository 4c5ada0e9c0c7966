/* An MoE layer under a plan, forward and backward, on ranks that are threads: what a training does with libhep, without
 * the training. Every expert e multiplies a row by e + 1, so that results can be checked by eye.
 *
 *   hepc samples/laptop_training.hep -o plan.hepb
 *   cc moe.c $(pkg-config --cflags --libs hep) -lpthread -o moe && ./moe plan.hepb
 */
#include <hep.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 8, RANKS_MAX = 64 };

typedef struct {
    const hep_plan *plan;
    hep_comm *comm;
    hep_facts facts;
    int rank;
    double wrong; /* largest error */
} Rank;

static void check(const hep_context *context, hep_status status)
{
    hep_error error = {.struct_bytes = sizeof(error)};
    if (status == HEP_OK)
        return;
    hep_last_error(context, &error);
    fprintf(stderr, "moe: %s: %s\n", hep_status_name(status), error.message);
    exit(1);
}

static hep_tensor tensor(void *data, int64_t rows, int64_t cols, int32_t dtype)
{
    hep_tensor out = {.data = data, .rows = rows, .cols = cols, .dtype = dtype};
    return out;
}

static float *floats(int64_t count)
{
    float *memory = calloc((size_t)count + 1, sizeof(float));
    if (!memory)
        exit(1);
    return memory;
}

static void note(Rank *rank, double is, double expected)
{
    double error = is > expected ? is - expected : expected - is;
    rank->wrong = error > rank->wrong ? error : rank->wrong;
}

/* Parameters of the experts that this rank owns, holds, and has gradients for: one tensor each, a row per expert. */
typedef struct {
    int first, held, own_first, own;
    float *mine, *full, *grads, *dfull;
} Weights;

static Weights bind(Rank *rank, hep_context *context, int layer)
{
    Weights w;
    int64_t elements = rank->facts.expert_elements, owned, count;
    check(NULL, hep_plan_held(rank->plan, layer, rank->rank, &w.first, &w.held));
    check(NULL, hep_plan_owned(rank->plan, layer, rank->rank, &owned, &count));
    w.own_first = (int)(owned / elements);
    w.own = (int)(count / elements); /* whole experts: hep_layer.own */
    w.mine = floats(w.own * elements);
    w.grads = floats(w.own * elements);
    w.full = floats(w.held * elements);
    w.dfull = floats(w.held * elements);
    for (int64_t i = 0; i < w.own * elements; i++)
        w.mine[i] = (float)(w.own_first + i / elements + 1);
    hep_tensor own = tensor(w.mine, w.own, elements, HEP_F32), grads = tensor(w.grads, w.own, elements, HEP_F32),
               full = tensor(w.full, w.held, elements, HEP_F32);
    check(context, hep_bind(context, layer, 1, &own, &grads, &full));
    return w;
}

/* The experts' part: results = sum over a row's experts of weight x expert(row), and back. */
static void apply(const Weights *w, int64_t elements, const float *weights, const int32_t *experts, int64_t records,
                  const float *x, int hidden, float *results)
{
    for (int h = 0; h < hidden; h++)
        results[h] = 0;
    for (int64_t k = 0; k < records; k++)
        for (int h = 0; h < hidden && experts[k] < w->held; h++)
            results[h] += weights[k] * w->full[experts[k] * elements] * x[h];
}

static void layer_run(Rank *rank, hep_context *context, int layer, Weights *w)
{
    const hep_facts *facts = &rank->facts;
    int hidden = facts->hidden, top_k = facts->top_k;
    float *x = floats(TOKENS * hidden), *gates = floats(TOKENS * top_k), *out = floats(TOKENS * hidden);
    int32_t *choice = malloc((size_t)(TOKENS * top_k) * sizeof(*choice));
    for (int i = 0; i < TOKENS * top_k; i++) {
        choice[i] = (rank->rank + i) % facts->experts; /* the gate's: here by hand */
        gates[i] = 0.5f;
    }
    for (int i = 0; i < TOKENS * hidden; i++)
        x[i] = 1;
    hep_tensor tx = tensor(x, TOKENS, hidden, HEP_F32), tc = tensor(choice, TOKENS, top_k, HEP_I32),
               tg = tensor(gates, TOKENS, top_k, HEP_F32), to = tensor(out, TOKENS, hidden, HEP_F32);
    hep_route *route;
    int64_t rows, records;
    check(context, hep_gathered(context, layer, 0, NULL));
    check(context, hep_dispatch(context, layer, &tx, &tc, &tg, 0, NULL, &route));
    check(context, hep_route_rows(route, &rows, &records, NULL));
    float *rx = floats(rows * hidden), *rw = floats(rows * records), *results = floats(rows * hidden);
    int32_t *re = malloc((size_t)(rows * records + 1) * sizeof(*re));
    hep_tensor trx = tensor(rx, rows, hidden, HEP_F32), tre = tensor(re, rows, records, HEP_I32),
               trw = tensor(rw, rows, records, HEP_F32), tr = tensor(results, rows, hidden, HEP_F32);
    check(context, hep_dispatch_finish(route, &trx, &tre, &trw, NULL));
    for (int64_t r = 0; r < rows; r++)
        apply(w, facts->expert_elements, rw + r * records, re + r * records, records, rx + r * hidden, hidden,
              results + r * hidden);
    check(context, hep_combine(route, &tr, &to, NULL));
    for (int t = 0; t < TOKENS; t++) {
        double expected = 0;
        for (int k = 0; k < top_k; k++)
            expected += 0.5 * (choice[t * top_k + k] + 1);
        note(rank, out[t * hidden], expected);
    }

    /* Backward: the gradient of every result is 1. */
    check(context, hep_combine_backward(route, &tx, &tr, NULL)); /* x is all ones, too */
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < records; k++)
            if (re[r * records + k] < w->held) /* d(sum)/d(weight of the expert): here all in its first element */
                w->dfull[re[r * records + k] * facts->expert_elements] +=
                    rw[r * records + k] * rx[r * hidden] * results[r * hidden];
    for (int64_t r = 0; r < rows; r++)
        for (int h = 0; h < hidden; h++)
            rx[r * hidden + h] = 0; /* gradients of rows and of gate weights: left out here */
    for (int64_t i = 0; i < rows * records; i++)
        rw[i] = 0;
    check(context, hep_dispatch_backward(route, &trx, &trw, &to, &tg, NULL));
    hep_route_free(route);
    free(x), free(gates), free(out), free(choice), free(rx), free(rw), free(results), free(re);
}

static void *rank_run(void *argument)
{
    Rank *rank = argument;
    hep_context *context;
    hep_options options = {.struct_bytes = sizeof(options), .max_tokens = TOKENS};
    Weights *weights = calloc((size_t)rank->facts.moe_layers, sizeof(*weights));
    int64_t elements = rank->facts.expert_elements;
    check(NULL, hep_create(rank->plan, rank->comm, &options, &context));
    for (int k = 0; k < rank->facts.moe_layers; k++)
        weights[k] = bind(rank, context, k);
    check(context, hep_begin(context, 0, NULL)); /* all gathers start here, in the background */
    for (int k = 0; k < rank->facts.moe_layers; k++) {
        hep_tensor dfull;
        layer_run(rank, context, k, &weights[k]);
        check(context, hep_used(context, k, 0, NULL));
        dfull = tensor(weights[k].dfull, weights[k].held, elements, HEP_F32);
        check(context, hep_return(context, k, 1, &dfull, 1.0 / rank->facts.ranks, NULL));
    }
    check(context, hep_finish(context, NULL)); /* grads are complete: the optimizer's turn */
    for (int k = 0; k < rank->facts.moe_layers; k++)
        for (int e = 0; e < weights[k].own; e++) /* every rank names each expert as often, at weight 0.5 */
            note(rank, weights[k].grads[e * elements], 0.5 * TOKENS * rank->facts.top_k / (double)rank->facts.experts);
    hep_destroy(context);
    for (int k = 0; k < rank->facts.moe_layers; k++)
        free(weights[k].mine), free(weights[k].full), free(weights[k].grads), free(weights[k].dfull);
    free(weights);
    return NULL;
}

int main(int argc, char *argv[])
{
    hep_plan *plan;
    hep_facts facts = {.struct_bytes = sizeof(facts)};
    hep_comm *comms[RANKS_MAX];
    pthread_t threads[RANKS_MAX];
    static Rank ranks[RANKS_MAX];
    double wrong = 0;
    if (argc != 2) {
        fprintf(stderr, "usage: moe PLAN.hepb\n");
        return 2;
    }
    check(NULL, hep_plan_read(argv[1], &plan));
    check(NULL, hep_plan_facts(plan, &facts));
    if (facts.ranks > RANKS_MAX || facts.dtype != HEP_F32 || !facts.training) {
        fprintf(stderr, "moe: expected a training plan in f32 for at most %d ranks\n", RANKS_MAX);
        return 1;
    }
    check(NULL, hep_comm_threads(facts.ranks, NULL, comms));
    for (int r = 0; r < facts.ranks; r++) {
        ranks[r] = (Rank){.plan = plan, .comm = comms[r], .facts = facts, .rank = r};
        pthread_create(&threads[r], NULL, rank_run, &ranks[r]);
    }
    for (int r = 0; r < facts.ranks; r++) {
        pthread_join(threads[r], NULL);
        hep_comm_free(comms[r]);
        wrong = ranks[r].wrong > wrong ? ranks[r].wrong : wrong;
    }
    hep_plan_free(plan);
    printf("%d ranks, %d layers: largest error %g\n", (int)facts.ranks, (int)facts.moe_layers, wrong);
    return wrong > 1e-4;
}
