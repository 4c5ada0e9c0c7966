// libhep with ranks that are threads: results, gradients and bytes of MoE layers under plans of many shapes, against
// the same layers in one place; gathers, returns, dense bundles; and callers that do what they should not.
//
// builds: dev  seconds: 5
#include "moe_worker.h"

#include <pthread.h>

#include "compiled.h"
#include "fixed_plans.h"
#include "hub.h"
#include "kernels/host/kernels.h"

static const char *const description =
    "cluster c { level dc { count = 2  bandwidth = 1 Gbit/s  latency = 1 ms }\n"
    "            level gpu { count = 4  bandwidth = 10 Gbit/s  latency = 10 us }\n"
    "            device { compute = 1 TFLOP/s  memory = 8 GB  memory_bandwidth = 100 GB/s } }\n"
    "model m { layers = 2  hidden = 16  heads = 2  vocabulary = 64  sequence = 8  batch = 1  dtype = %s\n"
    "          moe { experts = %d  top_k = 2  inner = 8  activation = gelu } }\n"
    "plan { pass = %s  dispatch = %s %s }\n";

enum {
    HIDDEN = MOE_WORKER_HIDDEN,
    INNER = MOE_WORKER_INNER,
    RANKS = 8,
    LAYERS = MOE_WORKER_LAYERS,
    ELEMENTS = MOE_WORKER_ELEMENTS
};

static uint32_t prefetch = PREFETCH_UNLIMITED;
static const char *dtype = "f32";
static const char *tokens = ""; // keys of rows that travel packed, or of padded messages
static bool is_padded;
static const double *row_bytes = NULL; // [4] by way; NULL: f32

static hep_plan *plan_make(const MoeCase *of, const char *domain)
{
    char text[1024], keys[200] = "";
    if (of->training)
        snprintf(keys, sizeof(keys), "micro_batches = %d  %s", of->micro_batches, tokens);
    snprintf(text, sizeof(text), description, dtype, of->experts, of->training ? "training" : "forward",
             of->naive ? "naive" : "dedup", keys);
    Compiled compiled = compiled_with(text, domain, prefetch);
    return plan_handed_over(&compiled);
}

// ---- all ranks -------------------------------------------------------------------------------------

// Rows of a message at a level, of the definition: what all ranks together have at most that meet there, each as many
// as it has tokens, or its experts there take.
static double message_rows(const MoeCase *of, int level)
{
    double sources = 1, places = 1;
    for (int l = 0; l <= level; l++) {
        sources *= l < level ? of->counts[l] / of->domain[l] : 1;
        places *= of->counts[l] / of->domain[l];
    }
    double inside = of->experts / places, most = inside < of->top_k ? inside : of->top_k;
    double own = MOE_TOKENS_MAX * (of->naive ? most : 1);
    return sources * (own < of->capacity * inside ? own : of->capacity * inside);
}

// Every message is as long as it can get, in every direction; counts go with it.
static void check_padded(const MoeCase *of, const MoeWorker workers[])
{
    for (int l = 0; l < of->levels; l++) {
        double messages = of->counts[l] / of->domain[l] - 1, rows = messages * message_rows(of, l), sent = 0;
        int ways = of->training ? 4 : 2, calls = LAYERS * of->micro_batches, per_row = of->naive ? 1 : of->top_k;
        for (int r = 0; r < RANKS; r++) {
            const hep_traffic *is = &workers[r].traffic[l];
            double routing = rows * per_row * 8 + messages * 4;
            routing += of->training ? messages * 4 + rows * per_row * 4 : 0;
            cr_assert_eq(is->exchange, calls * ways * rows * HIDDEN * 4, "level %d: %g bytes of rows, not %g", l,
                         is->exchange, calls * ways * rows * HIDDEN * 4);
            cr_assert_eq(is->routing, calls * routing, "level %d: %g bytes of routing, not %g", l, is->routing,
                         calls * routing);
            sent += is->exchange - is->padding;
        }
        double full = 0;
        for (int r = 0; r < RANKS; r++)
            for (int call = 0; call < calls; call++)
                full += moe_sent(of, call % LAYERS, call / LAYERS, r).rows[l];
        cr_assert_eq(sent, full * ways * HIDDEN * 4, "level %d: %g bytes are no padding, not %g", l, sent,
                     full * ways * HIDDEN * 4);
    }
}

// Rows that a rank sends in a dispatch come back in a combine, sent by others: a pair of exchanges sends what the rank
// sends and what it receives. Over all ranks both are the same.
static void check_traffic(const MoeCase *of, const MoeWorker workers[])
{
    int per_row = of->naive ? 1 : of->top_k;
    double bytes = 0;
    for (int way = 0; way < (of->training ? 4 : 2); way++)
        bytes += row_bytes ? row_bytes[way] : HIDDEN * 4;
    for (int l = 0; l < of->levels; l++) {
        double rows = 0, messages = 0, exchange = 0, routing = 0;
        for (int r = 0; r < RANKS; r++) {
            exchange += workers[r].traffic[l].exchange;
            routing += workers[r].traffic[l].routing;
            for (int k = 0; k < LAYERS; k++)
                for (int micro = 0; micro < of->micro_batches; micro++) {
                    MoeSent sent = moe_sent(of, k, micro, r);
                    rows += (double)sent.rows[l];
                    messages += (double)sent.messages[l];
                }
        }
        cr_assert_eq(exchange, rows * bytes, "level %d: %g bytes of rows, not %g", l, exchange, rows * bytes);
        // Out: 8 bytes a record, 4 a message; back: gradients of gate weights, and counts once more.
        double expected = rows * per_row * 8 + messages * 4 + (of->training ? messages * 4 + rows * per_row * 4 : 0);
        cr_assert_eq(routing, expected, "level %d: %g bytes of routing, not %g", l, routing, expected);
    }
}

// Every rank sends its share, and what outer levels brought of others', to the other members of a level; once more in
// the backward pass over levels that are gathered `again`. Replica levels, the first ones, are not crossed.
static void check_weights(const MoeCase *of, const hep_plan *plan, const MoeWorker *worker)
{
    int owners = RANKS;
    for (int l = 0; l < of->replica_levels; l++)
        owners /= of->counts[l];
    double share = (double)of->experts / owners * 2 * ELEMENTS * sizeof(float), together = 1;
    for (int l = 0; l < of->levels; l++) {
        hep_traffic planned = {.struct_bytes = sizeof(planned)};
        bool crossed = l >= of->replica_levels;
        double once = crossed ? LAYERS * share * together * (of->domain[l] - 1) : 0;
        double gathered = l >= of->once ? 2 * once : once;
        cr_assert_eq(hep_plan_traffic(plan, l, &planned), HEP_OK);
        cr_assert_eq(worker->traffic[l].gather, gathered, "level %d: %g bytes of experts, not %g", l,
                     worker->traffic[l].gather, gathered);
        cr_assert_eq(worker->traffic[l].reduce, of->training ? once : 0);
        cr_assert_float_eq(planned.gather, gathered, 1e-6 * gathered, "level %d: %g planned", l, planned.gather);
        cr_assert_float_eq(planned.reduce, of->training ? once : 0, 1e-6 * once);
        together *= crossed ? of->domain[l] : 1;
    }
}

typedef enum {
    OVER_THREADS,
    OVER_HUB,
    OVER_HUB_GATHERING,
    OVER_HUB_UNCHECKED,
    OVER_HUB_IN_ONE_THREAD,
    OVER_COUNT
} Over;

static Hub hub;
static HubRank hub_ranks[RANKS];

static void make_comms(Over over, double timeout_s, hep_comm *comms[RANKS])
{
    hep_comm_options options = {.struct_bytes = sizeof(options), .device = -1, .timeout_s = timeout_s};
    if (over == OVER_THREADS) {
        cr_assert_eq(hep_comm_threads(RANKS, &options, comms), HEP_OK);
        return;
    }
    hub_init(&hub, timeout_s);
    memset(hub_ranks, 0, sizeof(hub_ranks));
    hep_carrier carrier = {.struct_bytes = sizeof(carrier),
                           .one_thread = over == OVER_HUB_IN_ONE_THREAD,
                           .unchecked = over == OVER_HUB_UNCHECKED,
                           .open = hub_open,
                           .exchange = hub_exchange,
                           .all_gather = over == OVER_HUB_GATHERING ? hub_all_gather : NULL,
                           .why = hub_why};
    for (int r = 0; r < RANKS; r++) {
        hub_ranks[r].hub = &hub;
        cr_assert_eq(hep_comm_carrier(r, RANKS, &carrier, &hub_ranks[r], &options, &comms[r]), HEP_OK);
    }
}

static void run_case(const MoeCase *of, const char *domain, Over over)
{
    hep_plan *plan = plan_make(of, domain);
    hep_comm *comms[RANKS];
    static MoeWorker workers[RANKS];
    pthread_t threads[RANKS];
    double *dup[LAYERS], *ddown[LAYERS];
    memset(workers, 0, sizeof(workers));
    make_comms(over, 20, comms);
    for (int k = 0; k < LAYERS; k++) {
        dup[k] = calloc((size_t)of->experts * ELEMENTS, sizeof(double));
        ddown[k] = calloc((size_t)of->experts * ELEMENTS, sizeof(double));
    }
    for (int r = 0; r < RANKS; r++) {
        workers[r] = (MoeWorker){.rank = {.of = of, .rank = r}, .plan = plan, .comm = comms[r]};
        for (int k = 0; k < LAYERS; k++) {
            workers[r].dup[k] = dup[k];
            workers[r].ddown[k] = ddown[k];
            for (int micro = 0; micro < of->micro_batches; micro++)
                workers[r].answers[k][micro] = moe_answer(of, k, micro, r, dup[k], ddown[k]);
        }
    }
    for (int r = 0; r < RANKS; r++)
        pthread_create(&threads[r], NULL, moe_worker_run, &workers[r]);
    for (int r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
    for (int r = 0; r < RANKS; r++)
        cr_expect(!workers[r].rank.problem[0], "%s, %s %s: %s", domain, of->naive ? "naive" : "dedup", tokens,
                  workers[r].rank.problem);
    if (is_padded)
        check_padded(of, workers);
    else
        check_traffic(of, workers);
    for (int r = 0; r < RANKS; r++) {
        check_weights(of, plan, &workers[r]);
        moe_worker_free(&workers[r]);
        for (int k = 0; k < LAYERS; k++)
            for (int micro = 0; micro < of->micro_batches; micro++)
                moe_answer_free(&workers[r].answers[k][micro]);
    }
    for (int k = 0; k < LAYERS; k++) {
        free(dup[k]);
        free(ddown[k]);
    }
    hep_plan_free(plan);
}

static const int some_tokens[RANKS] = {5, 0, 7, 3, 16, 1, 0, 8};
static const struct {
    const char *text;
    int domain[2];
} domains[] = {{"dc=1,gpu=1", {1, 1}}, {"dc=2,gpu=1", {2, 1}}, {"dc=1,gpu=4", {1, 4}},
               {"dc=2,gpu=2", {2, 2}}, {"dc=1,gpu=2", {1, 2}}, {"dc=2,gpu=4", {2, 4}}};

static MoeCase case_of(size_t domain)
{
    return (MoeCase){.levels = 2,
                     .counts = {2, 4},
                     .domain = {domains[domain].domain[0], domains[domain].domain[1]},
                     .layers = LAYERS,
                     .hidden = HIDDEN,
                     .inner = INNER,
                     .experts = 16,
                     .top_k = 2,
                     .micro_batches = 2,
                     .training = true,
                     .once = 2,
                     .tokens = some_tokens,
                     .tolerance = 1e-5};
}

Test(library, layers_compute_what_they_do_in_one_place)
{
    for (size_t d = 0; d < COUNT_OF(domains); d++)
        for (int kind = 0; kind < 4; kind++) {
            MoeCase of = case_of(d);
            of.naive = kind % 2;
            of.expanded = kind / 2;
            of.wide_indices = kind == 1 || kind == 2;
            run_case(&of, domains[d].text, OVER_THREADS);
        }
}

Test(library, carriers_bring_the_same)
{
    for (int over = OVER_HUB; over < OVER_COUNT; over++)
        for (size_t d = 0; d < COUNT_OF(domains); d++) {
            MoeCase of = case_of(d);
            of.naive = (int)d % 2;
            run_case(&of, domains[d].text, (Over)over);
            cr_assert_eq(hub.mismatches, 0);
        }
}

static TokenFormat row_format;

// What arrives of a row.
static void pack_row(float *row, int hidden)
{
    char packed[4 * MOE_HIDDEN_MAX];
    uint64_t bytes = token_row_bytes(row_format, (uint64_t)hidden, DTYPE_F32);
    Tensor rows = {.data = row, .dtype = DTYPE_F32, .rows = 1, .cols = (uint64_t)hidden},
           as_packed = {.data = packed, .dtype = DTYPE_U8, .rows = 1, .cols = bytes};
    host_encode_rows(row_format, 1, rows, as_packed);
    host_decode_rows(row_format, 1, as_packed, rows);
}

// A row of 16 elements takes 16 bytes, or 8, and a scale, up to a multiple of 4. What goes out is packed once, before
// the first exchange; on the way back every level's part is.
Test(library, rows_may_travel_packed)
{
    static const double out[4] = {20, 64, 64, 20}, shorter[4] = {12, 64, 64, 12}, all[4] = {20, 20, 20, 20};
    const struct {
        const char *keys;
        TokenFormat format;
        const double *bytes;
        double tolerance;
    } cases[] = {{"tokens { dispatch = int8  combine_gradient = int8 }", TOKENS_INT8, out, 1e-5},
                 {"tokens { dispatch = fp8  combine_gradient = fp8 }", TOKENS_FP8, out, 1e-5},
                 {"tokens { dispatch = int4  combine_gradient = int4 }", TOKENS_INT4, shorter, 1e-5},
                 {"tokens = int8", TOKENS_INT8, all, 0.02}};
    for (size_t c = 0; c < COUNT_OF(cases); c++)
        for (size_t d = 0; d + 1 < COUNT_OF(domains); d++) {
            MoeCase of = case_of(d);
            of.naive = (c + d) % 2;
            of.expanded = (c + d) / 2 % 2;
            of.tolerance = cases[c].tolerance;
            of.packs = pack_row;
            of.packs_x = of.packs_dout = true;
            row_format = cases[c].format;
            tokens = cases[c].keys;
            row_bytes = cases[c].bytes;
            run_case(&of, domains[d].text, d % 2 ? OVER_HUB : OVER_THREADS);
        }
    // Where nothing is exchanged nothing is packed.
    MoeCase none = case_of(5);
    run_case(&none, domains[5].text, OVER_THREADS);
}

// Messages of one size, whatever is sent. Experts take 16 x 2 / 16 records from a rank at most, or 3 times as many;
// what is beyond that is dropped. A capacity drops where messages are counted, too.
Test(library, messages_may_be_padded)
{
    for (size_t form = 0; form < 3; form++)
        for (size_t d = 0; d < COUNT_OF(domains); d++) {
            MoeCase of = case_of(d);
            of.naive = (form + d) % 2;
            of.expanded = (form + d) / 2 % 2;
            of.capacity = form < 2 ? 2 : 6;
            is_padded = form > 0;
            tokens = of.capacity == 6 ? "capacity = 3  exchange = padded"
                     : is_padded      ? "capacity = 1  exchange = padded"
                                      : "capacity = 1";
            run_case(&of, domains[d].text, d % 2 ? OVER_HUB : OVER_THREADS);
        }
}

// Shares that begin and end inside of experts: 12 experts on 8 ranks.
Test(library, experts_are_owned_in_pieces)
{
    for (int over = 0; over < 2; over++)
        for (size_t d = 3; d < COUNT_OF(domains); d++) {
            MoeCase of = case_of(d);
            of.experts = 12;
            of.micro_batches = 1;
            run_case(&of, domains[d].text, (Over)over);
        }
}

// What is dropped after the forward pass is gathered again, but for what came over the outermost levels; with as many
// layers at a time as there are slots.
Test(library, experts_are_gathered_again)
{
    const struct {
        const char *domain;
        int once;
    } cases[] = {{"dc=2,gpu=2,once=none", 0}, {"dc=2,gpu=2,once=dc", 1}, {"dc=2,gpu=4,once=dc", 1}};
    for (uint32_t slots = 0; slots < 2; slots++)
        for (size_t c = 0; c < COUNT_OF(cases); c++)
            for (int experts = 12; experts <= 16; experts += 4) {
                MoeCase of = case_of(c == 2 ? 5 : 3);
                of.once = cases[c].once;
                of.experts = experts;
                of.micro_batches = 1;
                prefetch = slots ? 0 : PREFETCH_UNLIMITED;
                run_case(&of, cases[c].domain, OVER_THREADS);
            }
}

Test(library, forward_plans_begin_with_replicas)
{
    MoeCase of = case_of(1);
    of.training = false;
    of.experts = 4;
    of.micro_batches = 1;
    of.replica_levels = 1;
    run_case(&of, domains[1].text, OVER_THREADS);
}

// ---- dense weights ---------------------------------------------------------------------------------

typedef struct {
    hep_plan *plan;
    hep_comm *comm;
    int rank;
    const char *problem;
} Dense;

enum { BUNDLE = 100 }; // 13 elements a rank, rounded up to 16: the last ranks' are padding

static float bundle_element(int64_t index)
{
    return index < BUNDLE ? (float)index + 0.5f : 0;
}

static void *dense_run(void *argument)
{
    Dense *dense = argument;
    hep_context *context = NULL;
    float share[16], full[RANKS * 16], sum[16] = {0};
    int64_t elements = 0, first = 0;
    hep_traffic traffic[2] = {{.struct_bytes = sizeof(traffic[0])}};
    bool ok = hep_create(dense->plan, dense->comm, NULL, &context) == HEP_OK &&
              hep_dense_share(context, BUNDLE, &elements, &first) == HEP_OK && elements == 16;
    for (int64_t i = 0; i < 16; i++)
        share[i] = bundle_element(first + i);
    hep_tensor own = moe_tensor(share, 1, 16, HEP_F32), all = moe_tensor(full, 1, RANKS * 16, HEP_F32),
               back = moe_tensor(sum, 1, 16, HEP_F32);
    ok = ok && hep_dense_gather(context, &own, &all, NULL) == HEP_OK;
    for (int64_t i = 0; ok && i < RANKS * 16; i++)
        if (full[i] != bundle_element(i))
            dense->problem = "a gathered element";
    for (int64_t i = 0; i < RANKS * 16; i++)
        full[i] = bundle_element(i) * (float)(dense->rank + 1);
    ok = ok && hep_dense_return(context, &all, 0.5, &back, NULL) == HEP_OK;
    for (int64_t i = 0; ok && i < 16; i++)
        if (sum[i] != bundle_element(first + i) * 18) // (1 + ... + 8) / 2
            dense->problem = "a returned sum";
    // Outermost first: 16 elements to the other data centre, 32 to each of three others inside.
    ok = ok && hep_count(context, traffic, NULL, 0) == HEP_OK;
    if (ok && (traffic[0].dense_gather != 64 || traffic[1].dense_gather != 384 || traffic[0].dense_reduce != 64 ||
               traffic[1].dense_reduce != 384 || traffic[0].gather != 0 || traffic[1].reduce != 0))
        dense->problem = "bytes";
    if (!ok)
        dense->problem = "a call";
    hep_destroy(context);
    hep_comm_free(dense->comm);
    return NULL;
}

Test(library, dense_bundles_are_owned_in_equal_shares)
{
    MoeCase of = case_of(0);
    hep_plan *plan = plan_make(&of, domains[0].text);
    for (int over = 0; over < 2; over++) {
        Dense ranks[RANKS];
        hep_comm *comms[RANKS];
        pthread_t threads[RANKS];
        make_comms((Over)over, 20, comms);
        for (int r = 0; r < RANKS; r++) {
            ranks[r] = (Dense){.plan = plan, .comm = comms[r], .rank = r};
            pthread_create(&threads[r], NULL, dense_run, &ranks[r]);
        }
        for (int r = 0; r < RANKS; r++) {
            pthread_join(threads[r], NULL);
            cr_assert_null(ranks[r].problem, "rank %d: %s", r, ranks[r].problem);
        }
    }
    hep_plan_free(plan);
}

// ---- 16 bits ---------------------------------------------------------------------------------------

typedef struct {
    hep_plan *plan;
    hep_comm *comm;
    int rank;
    const char *problem;
} Half;

// bf16 of small whole numbers, which are exact.
static uint16_t half_of(int number)
{
    float value = (float)number;
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return (uint16_t)(bits >> 16);
}

enum { HALF_TOKENS = 4, HALF_EXPERT = 2 * ELEMENTS, HALF_HELD = 4, HALF_OWN = 2 };

// Experts give back their rows: a token's result is as many times itself as it has experts.
static bool half_rows(Half *half, hep_context *context)
{
    uint16_t x[HALF_TOKENS * HIDDEN], out[HALF_TOKENS * HIDDEN], rows[RANKS * HALF_TOKENS * 2 * HIDDEN];
    float gates[HALF_TOKENS * 2] = {0}, weights[RANKS * HALF_TOKENS * 4];
    int32_t experts[HALF_TOKENS * 2], slots[RANKS * HALF_TOKENS * 4];
    for (int i = 0; i < HALF_TOKENS * HIDDEN; i++)
        x[i] = half_of((half->rank * 7 + i) % 100);
    for (int i = 0; i < HALF_TOKENS * 2; i++)
        experts[i] = (half->rank + i * 5) % 16;
    hep_tensor tx = moe_tensor(x, HALF_TOKENS, HIDDEN, HEP_BF16), te = moe_tensor(experts, HALF_TOKENS, 2, HEP_I32),
               tg = moe_tensor(gates, HALF_TOKENS, 2, HEP_F32), to = moe_tensor(out, HALF_TOKENS, HIDDEN, HEP_BF16);
    hep_route *route;
    int64_t count, records;
    if (hep_dispatch(context, 0, &tx, &te, &tg, HEP_EXPANDED, NULL, &route) != HEP_OK)
        return false;
    bool ok = hep_route_rows(route, &count, &records, NULL) == HEP_OK;
    hep_tensor rx = moe_tensor(rows, count, HIDDEN, HEP_BF16), re = moe_tensor(slots, count, records, HEP_I32),
               rw = moe_tensor(weights, count, records, HEP_F32);
    ok =
        ok && hep_dispatch_finish(route, &rx, &re, &rw, NULL) == HEP_OK && hep_combine(route, &rx, &to, NULL) == HEP_OK;
    hep_route_free(route);
    for (int i = 0; i < HALF_TOKENS * HIDDEN && ok; i++)
        if (out[i] != half_of(2 * ((half->rank * 7 + i) % 100)))
            half->problem = "a result";
    return ok;
}

static bool half_weights(Half *half, hep_context *context)
{
    static uint16_t own[RANKS][LAYERS][HALF_OWN * HALF_EXPERT], full[RANKS][LAYERS][HALF_HELD * HALF_EXPERT];
    float grads[LAYERS][HALF_OWN * HALF_EXPERT] = {0};
    int first, held;
    bool ok = true;
    for (int k = 0; k < LAYERS && ok; k++) {
        for (int i = 0; i < HALF_OWN * HALF_EXPERT; i++)
            own[half->rank][k][i] = half_of(half->rank * 2 + i / HALF_EXPERT + 1);
        hep_tensor to = moe_tensor(own[half->rank][k], HALF_OWN, HALF_EXPERT, HEP_BF16),
                   tg = moe_tensor(grads[k], HALF_OWN, HALF_EXPERT, HEP_F32),
                   tf = moe_tensor(full[half->rank][k], HALF_HELD, HALF_EXPERT, HEP_BF16);
        ok = hep_bind(context, k, 1, &to, &tg, &tf) == HEP_OK;
    }
    ok = ok && hep_begin(context, 0, NULL) == HEP_OK && hep_gathered(context, 0, 0, NULL) == HEP_OK &&
         hep_gathered(context, 1, 0, NULL) == HEP_OK &&
         hep_plan_held(half->plan, 0, half->rank, &first, &held) == HEP_OK && held == HALF_HELD;
    for (int i = 0; i < HALF_HELD * HALF_EXPERT && ok; i++)
        if (full[half->rank][0][i] != half_of(first + i / HALF_EXPERT + 1))
            half->problem = "a weight";
    hep_tensor sent = moe_tensor(full[half->rank][0], HALF_HELD, HALF_EXPERT, HEP_BF16);
    ok = ok && hep_return(context, 0, 1, &sent, 0.25, NULL) == HEP_OK && hep_finish(context, NULL) == HEP_OK;
    for (int i = 0; i < HALF_OWN * HALF_EXPERT && ok; i++) // both holders of an expert sent its number
        if (grads[0][i] != 0.5f * (float)(half->rank * 2 + i / HALF_EXPERT + 1))
            half->problem = "a gradient";
    return ok;
}

static void *half_run(void *argument)
{
    Half *half = argument;
    hep_context *context = NULL;
    bool ok = hep_create(half->plan, half->comm, NULL, &context) == HEP_OK && half_weights(half, context) &&
              half_rows(half, context);
    if (!ok)
        half->problem = "a call";
    hep_destroy(context);
    hep_comm_free(half->comm);
    return NULL;
}

Test(library, rows_and_weights_may_have_16_bits)
{
    MoeCase of = case_of(4); // dc=1, gpu=2: 4 experts held, 2 owned
    Half ranks[RANKS];
    hep_comm *comms[RANKS];
    pthread_t threads[RANKS];
    dtype = "bf16";
    hep_plan *plan = plan_make(&of, domains[4].text);
    make_comms(OVER_THREADS, 20, comms);
    for (int r = 0; r < RANKS; r++) {
        ranks[r] = (Half){.plan = plan, .comm = comms[r], .rank = r};
        pthread_create(&threads[r], NULL, half_run, &ranks[r]);
    }
    for (int r = 0; r < RANKS; r++) {
        pthread_join(threads[r], NULL);
        cr_assert_null(ranks[r].problem, "rank %d: %s", r, ranks[r].problem);
    }
    hep_plan_free(plan);
}
