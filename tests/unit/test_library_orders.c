// libhep and ranks that call in other orders than each other: calls left out, repeated, swapped, of other layers, put
// in at random. Whatever they do, every rank ends with a status in time; if one fails, those that still need it do,
// too.
//
// builds: dev  seconds: 15
#include "moe_client.h"

#include <pthread.h>

#include "compiled.h"
#include "effort.h"
#include "fixed_plans.h"
#include "hub.h"

enum {
    RANKS = 4,
    LAYERS = 2,
    HIDDEN = 16,
    ELEMENTS = 128,
    TOKENS = 4,
    ROWS = RANKS * TOKENS * 2,
    EXPERTS = 8,
    SHARE = 8
};

// X(NAME, has a layer)
#define CALLS(X)                                                                                                       \
    X(BEGIN, 0)                                                                                                        \
    X(BEGIN_SAME, 0)                                                                                                   \
    X(BEGIN_BACK, 0)                                                                                                   \
    X(GATHERED, 1)                                                                                                     \
    X(GATHERED_BACK, 1)                                                                                                \
    X(USED, 1)                                                                                                         \
    X(USED_BACK, 1)                                                                                                    \
    X(DISPATCH, 1)                                                                                                     \
    X(ARRIVE, 1)                                                                                                       \
    X(COMBINE, 1)                                                                                                      \
    X(COMBINE_BACK, 1)                                                                                                 \
    X(DISPATCH_BACK, 1)                                                                                                \
    X(RETURN, 1)                                                                                                       \
    X(FINISH, 0)                                                                                                       \
    X(DENSE_BEGIN, 0)                                                                                                  \
    X(DENSE_GATHERED, 0)                                                                                               \
    X(DENSE_SEND, 0)                                                                                                   \
    X(DENSE_GATHER, 0)                                                                                                 \
    X(SAVE, 0)                                                                                                         \
    X(FORGET, 0)
#define X(name, layer) CALL_##name,
typedef enum { CALLS(X) CALL_COUNT } CallKind;
#undef X

typedef struct {
    CallKind kind;
    int layer;
} Call;

enum { PROGRAM_MAX = 96 };

typedef struct {
    int count;
    Call calls[PROGRAM_MAX];
} Program;

static void add(Program *program, CallKind kind, int layer)
{
    cr_assert_lt(program->count, PROGRAM_MAX - 8);
    program->calls[program->count++] = (Call){kind, layer};
}

static Program right_program(void)
{
    Program program = {0};
    for (int iteration = 0; iteration < 2; iteration++) {
        add(&program, CALL_BEGIN, 0);
        add(&program, CALL_DENSE_BEGIN, 0);
        for (int k = 0; k < LAYERS; k++) {
            static const CallKind forward[] = {CALL_GATHERED, CALL_DISPATCH, CALL_ARRIVE, CALL_COMBINE, CALL_USED};
            for (size_t i = 0; i < COUNT_OF(forward); i++)
                add(&program, forward[i], k);
        }
        add(&program, CALL_DENSE_GATHERED, 0);
        add(&program, CALL_BEGIN_BACK, 0);
        for (int k = LAYERS; k-- > 0;) {
            static const CallKind back[] = {CALL_GATHERED_BACK, CALL_COMBINE_BACK, CALL_DISPATCH_BACK, CALL_USED_BACK,
                                            CALL_RETURN};
            for (size_t i = 0; i < COUNT_OF(back); i++)
                add(&program, back[i], k);
        }
        add(&program, CALL_DENSE_SEND, 0);
        add(&program, CALL_FINISH, 0);
    }
    return program;
}

static uint32_t dice(uint32_t *state, uint32_t sides)
{
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % sides;
}

static void insert(Program *program, int at, Call call)
{
    memmove(program->calls + at + 1, program->calls + at, (size_t)(program->count - at) * sizeof(call));
    program->calls[at] = call;
    program->count++;
}

static void mutate(Program *program, uint32_t *state)
{
    int at = (int)dice(state, (uint32_t)program->count - 1);
    Call *call = &program->calls[at], kept = *call;
    switch (dice(state, 5)) {
    case 0:
        memmove(call, call + 1, (size_t)(program->count - at - 1) * sizeof(*call));
        program->count--;
        break;
    case 1:
        insert(program, at, kept);
        break;
    case 2:
        *call = call[1];
        call[1] = kept;
        break;
    case 3:
        call->layer = 1 - call->layer;
        break;
    default:
        insert(program, at, (Call){(CallKind)dice(state, CALL_COUNT), (int)dice(state, LAYERS)});
        break;
    }
}

// ---- a rank ----------------------------------------------------------------------------------------

typedef struct {
    hep_plan *plan;
    hep_comm *comm;
    int rank, ended_at; // calls that were right
    Program program;
    hep_context *context;
    hep_route *routes[LAYERS];
    hep_status status;
    hep_error error;
    float x[TOKENS * HIDDEN], out[TOKENS * HIDDEN], gates[TOKENS * 2], rows[ROWS * HIDDEN], weights[ROWS * 2];
    int32_t experts[TOKENS * 2], slots[ROWS * 2];
    float own[LAYERS][EXPERTS * 2 * ELEMENTS], full[LAYERS][EXPERTS * 2 * ELEMENTS];
    float sent[LAYERS][EXPERTS * 2 * ELEMENTS], grads[LAYERS][EXPERTS * 2 * ELEMENTS];
    float share[SHARE], grad[SHARE], all[RANKS * SHARE], sent_all[RANKS * SHARE];
    char state[1 << 20];
} Rank;

static hep_tensor f32(float *data, int64_t rows, int64_t cols)
{
    return moe_tensor(data, rows, cols, HEP_F32);
}

static hep_status dispatch(Rank *rank, int layer)
{
    hep_tensor x = f32(rank->x, TOKENS, HIDDEN), gates = f32(rank->gates, TOKENS, 2),
               experts = moe_tensor(rank->experts, TOKENS, 2, HEP_I32);
    hep_route_free(rank->routes[layer]);
    rank->routes[layer] = NULL;
    return hep_dispatch(rank->context, layer, &x, &experts, &gates, 0, NULL, &rank->routes[layer]);
}

static hep_status with_route(Rank *rank, CallKind kind, hep_route *route)
{
    int64_t rows = 0, records = 0;
    hep_status status = hep_route_rows(route, &rows, &records, NULL);
    if (status != HEP_OK)
        return status;
    cr_assert_leq(rows, ROWS);
    hep_tensor tokens = f32(rank->x, TOKENS, HIDDEN), out = f32(rank->out, TOKENS, HIDDEN),
               gates = f32(rank->gates, TOKENS, 2), arrived = f32(rank->rows, rows, HIDDEN),
               weights = f32(rank->weights, rows, records), slots = moe_tensor(rank->slots, rows, records, HEP_I32);
    switch (kind) {
    case CALL_ARRIVE:
        return hep_dispatch_finish(route, &arrived, &slots, &weights, NULL);
    case CALL_COMBINE:
        return hep_combine(route, &arrived, &out, NULL);
    case CALL_COMBINE_BACK:
        return hep_combine_backward(route, &tokens, &arrived, NULL);
    default:
        return hep_dispatch_backward(route, &arrived, &weights, &out, &gates, NULL);
    }
}

static hep_status save(Rank *rank)
{
    uint64_t bytes = 0;
    hep_status status = hep_state_bytes(rank->context, &bytes);
    cr_assert_leq(bytes, sizeof(rank->state));
    return status ? status : hep_state_save(rank->context, rank->state, bytes, NULL);
}

static hep_status run_call(Rank *rank, Call call)
{
    hep_context *context = rank->context;
    int k = call.layer;
    hep_tensor sent = f32(rank->sent[k], EXPERTS / 2, 2 * ELEMENTS), sent_all = f32(rank->sent_all, 1, RANKS * SHARE),
               share = f32(rank->share, 1, SHARE), all = f32(rank->all, 1, RANKS * SHARE);
    switch (call.kind) {
    case CALL_BEGIN:
        return hep_begin(context, 0, NULL);
    case CALL_BEGIN_SAME:
        return hep_begin(context, HEP_WEIGHTS_SAME, NULL);
    case CALL_BEGIN_BACK:
        return hep_begin(context, HEP_BACKWARD, NULL);
    case CALL_GATHERED:
        return hep_gathered(context, k, 0, NULL);
    case CALL_GATHERED_BACK:
        return hep_gathered(context, k, HEP_BACKWARD, NULL);
    case CALL_USED:
        return hep_used(context, k, 0, NULL);
    case CALL_USED_BACK:
        return hep_used(context, k, HEP_BACKWARD, NULL);
    case CALL_DISPATCH:
        return dispatch(rank, k);
    case CALL_ARRIVE:
    case CALL_COMBINE:
    case CALL_COMBINE_BACK:
    case CALL_DISPATCH_BACK:
        return with_route(rank, call.kind, rank->routes[k]);
    case CALL_RETURN:
        return hep_return(context, k, 1, &sent, 1, NULL);
    case CALL_FINISH:
        return hep_finish(context, NULL);
    case CALL_DENSE_BEGIN:
        return hep_dense_begin(context, 0, 0, NULL);
    case CALL_DENSE_GATHERED:
        return hep_dense_gathered(context, 0, NULL);
    case CALL_DENSE_SEND:
        return hep_dense_send(context, 0, &sent_all, 1, NULL);
    case CALL_DENSE_GATHER:
        return hep_dense_gather(context, &share, &all, NULL);
    case CALL_SAVE:
        return save(rank);
    case CALL_FORGET:
        return hep_state_load(context, NULL, 0, NULL);
    case CALL_COUNT:
        break;
    }
    return HEP_INTERNAL;
}

static hep_status bind_all(Rank *rank)
{
    hep_status status = HEP_OK;
    for (int k = 0; k < LAYERS && status == HEP_OK; k++) {
        hep_tensor own = f32(rank->own[k], EXPERTS / RANKS, 2 * ELEMENTS),
                   full = f32(rank->full[k], EXPERTS / 2, 2 * ELEMENTS),
                   grads = f32(rank->grads[k], EXPERTS / RANKS, 2 * ELEMENTS);
        status = hep_bind(rank->context, k, 1, &own, &grads, &full);
    }
    hep_tensor share = f32(rank->share, 1, SHARE), grad = f32(rank->grad, 1, SHARE),
               all = f32(rank->all, 1, RANKS * SHARE);
    return status ? status : hep_dense_bind(rank->context, 0, &share, &grad, &all);
}

static void *rank_run(void *argument)
{
    Rank *rank = argument;
    rank->status = hep_create(rank->plan, rank->comm, NULL, &rank->context);
    if (rank->status == HEP_OK)
        rank->status = bind_all(rank);
    for (rank->ended_at = 0; rank->status == HEP_OK && rank->ended_at < rank->program.count; rank->ended_at++)
        rank->status = run_call(rank, rank->program.calls[rank->ended_at]);
    rank->error.struct_bytes = sizeof(rank->error);
    hep_last_error(rank->status == HEP_BAD_ARGUMENT ? NULL : rank->context, &rank->error);
    for (int k = 0; k < LAYERS; k++)
        hep_route_free(rank->routes[k]);
    hep_destroy(rank->context);
    hep_comm_free(rank->comm);
    return NULL;
}

// ---- all of them -----------------------------------------------------------------------------------

static Hub hub;
static HubRank hub_ranks[RANKS];

static void make_comms(bool over_hub, double timeout_s, hep_comm *comms[RANKS])
{
    hep_comm_options options = {.struct_bytes = sizeof(options), .device = -1, .timeout_s = timeout_s};
    hep_carrier carrier = {.struct_bytes = sizeof(carrier), .open = hub_open, .exchange = hub_exchange, .why = hub_why};
    hub_init(&hub, timeout_s);
    memset(hub_ranks, 0, sizeof(hub_ranks));
    if (!over_hub)
        cr_assert_eq(hep_comm_threads(RANKS, &options, comms), HEP_OK);
    for (int r = 0; r < RANKS && over_hub; r++) {
        hub_ranks[r].hub = &hub;
        cr_assert_eq(hep_comm_carrier(r, RANKS, &carrier, &hub_ranks[r], &options, &comms[r]), HEP_OK);
    }
}

// Two data centres of two: rows travel between these, experts inside; half of the plans compress and gather again.
static hep_plan *make_plan(bool compresses)
{
    char text[1024];
    snprintf(text, sizeof(text),
             "cluster c { level dc { count = 2  bandwidth = 1 Gbit/s  latency = 1 ms }\n"
             "  level gpu { count = 2  bandwidth = 10 Gbit/s  latency = 10 us }\n"
             "  device { compute = 1 TFLOP/s  memory = 8 GB  memory_bandwidth = 100 GB/s } }\n"
             "model m { layers = 2  hidden = 16  heads = 2  vocabulary = 64  sequence = 8  batch = 1  dtype = f32\n"
             "  moe { experts = 8  top_k = 2  inner = 8  activation = gelu } }\n"
             "plan { pass = training  %s }\n",
             compresses ? "migration { codec = q4  gradient = q4 }" : "");
    Compiled compiled = compiled_from(text, compresses ? "dc=1,gpu=2" : "dc=1,gpu=2,once=none");
    return plan_handed_over(&compiled);
}

static Rank ranks[RANKS];

static void run_all(hep_plan *plan, bool over_hub, double timeout_s, const Program programs[RANKS])
{
    hep_comm *comms[RANKS];
    pthread_t threads[RANKS];
    make_comms(over_hub, timeout_s, comms);
    for (int r = 0; r < RANKS; r++) {
        memset(&ranks[r], 0, sizeof(ranks[r]));
        ranks[r].plan = plan;
        ranks[r].comm = comms[r];
        ranks[r].rank = r;
        ranks[r].program = programs[r];
        for (int t = 0; t < TOKENS * 2; t++)
            ranks[r].experts[t] = (r + t * 3) % EXPERTS;
        pthread_create(&threads[r], NULL, rank_run, &ranks[r]);
    }
    for (int r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
}

static void describe(uint32_t round)
{
    for (int r = 0; r < RANKS; r++)
        fprintf(stderr, "round %u, rank %d: %s after %d of %d calls: %s\n", round, r, hep_status_name(ranks[r].status),
                ranks[r].ended_at, ranks[r].program.count, ranks[r].error.message);
}

// All calls of an iteration that is alike everywhere are right.
Test(library_orders, one_order_is_right)
{
    Program programs[RANKS] = {right_program(), right_program(), right_program(), right_program()};
    for (int form = 0; form < 4; form++) {
        hep_plan *plan = make_plan(form % 2);
        run_all(plan, form / 2, 30, programs);
        for (int r = 0; r < RANKS; r++)
            cr_assert_eq(ranks[r].status, HEP_OK, "form %d, rank %d: call %d: %s", form, r, ranks[r].ended_at,
                         ranks[r].error.message);
        hep_plan_free(plan);
    }
}

Test(library_orders, other_orders_end_in_time)
{
    static const double timeout_s = 0.3;
    const uint32_t rounds = INSTANCES(320);
    hep_plan *plans[2] = {make_plan(false), make_plan(true)};
    uint32_t all_failed = 0, all_right = 0, state = 17;
    for (uint32_t round = 0; round < rounds; round++) {
        Program programs[RANKS];
        int culprits = dice(&state, 4) ? 1 : 1 + (int)dice(&state, RANKS);
        for (int r = 0; r < RANKS; r++)
            programs[r] = right_program();
        for (int c = 0; c < culprits; c++)
            for (uint32_t edits = 1 + dice(&state, 2), of = dice(&state, RANKS); edits-- > 0;)
                mutate(&programs[of], &state);
        double begin_s = clock_now_s();
        run_all(plans[round % 2], round / 2 % 2, timeout_s, programs);
        int failed = 0;
        for (int r = 0; r < RANKS; r++) {
            failed += ranks[r].status != HEP_OK;
            if (ranks[r].status != HEP_OK && !ranks[r].error.message[0])
                describe(round);
            cr_assert(ranks[r].status == HEP_OK || ranks[r].error.message[0], "round %u: an error without words",
                      round);
            cr_assert_neq(ranks[r].status, HEP_INTERNAL, "round %u: %s", round, ranks[r].error.message);
            cr_assert_eq(hub.mismatches, 0, "round %u: sizes differed before the library had found out", round);
        }
        if (clock_now_s() - begin_s > 30)
            describe(round);
        cr_assert_lt(clock_now_s() - begin_s, 30, "round %u took %g s", round, clock_now_s() - begin_s);
        all_failed += failed == RANKS;
        all_right += failed == 0;
    }
    // Most edits are found out by everybody; some change nothing that others see.
    cr_assert_gt(all_failed, rounds / 2, "%u of %u", all_failed, rounds);
    cr_assert_gt(all_right, 0);
    hep_plan_free(plans[0]);
    hep_plan_free(plans[1]);
}
