// libhep and callers that do what they should not: every rank gets an error that says what was wrong, none waits for
// ever, and nothing is read or written that is not the caller's.
//
// builds: dev  seconds: 4
#include "moe_client.h"

#include <pthread.h>
#include <unistd.h>

#include "fixed_plans.h"
#include "hub.h"

enum { RANKS = 4, HIDDEN = 16, TOKENS = 4 };

typedef struct Ranks Ranks;

typedef struct {
    Ranks *all;
    int index;
    hep_context *context;
    hep_comm *comm;
    hep_status status; // of the call that failed
    hep_error error;
    double ended_s;
    // What hep_dispatch takes, and what it brings:
    float x[TOKENS * HIDDEN], gates[TOKENS * 2], out[TOKENS * HIDDEN], rows[64 * HIDDEN], weights[128];
    int32_t experts[TOKENS * 2], slots[128];
} One;

struct Ranks {
    hep_plan *plan;
    hep_status (*body)(One *one);
    bool over_hub;
    Hub hub;
    HubRank hub_ranks[RANKS];
    One ones[RANKS];
};

static void *one_run(void *argument)
{
    One *one = argument;
    Ranks *all = one->all;
    one->status = hep_create(all->plan, one->comm, NULL, &one->context);
    one->error.struct_bytes = sizeof(one->error);
    if (one->status == HEP_OK)
        one->status = all->body(one);
    hep_last_error(one->context, &one->error);
    one->ended_s = clock_now_s();
    hep_destroy(one->context);
    hep_comm_free(one->comm);
    return NULL;
}

static const double timeout_s = 1.5;

static void ranks_run(Ranks *all, hep_status (*body)(One *one))
{
    pthread_t threads[RANKS];
    hep_comm *comms[RANKS];
    hep_comm_options options = {.struct_bytes = sizeof(options), .device = -1, .timeout_s = timeout_s};
    hep_carrier carrier = {.struct_bytes = sizeof(carrier), .open = hub_open, .exchange = hub_exchange, .why = hub_why};
    all->body = body;
    hub_init(&all->hub, timeout_s);
    if (!all->over_hub)
        cr_assert_eq(hep_comm_threads(RANKS, &options, comms), HEP_OK);
    for (int r = 0; r < RANKS; r++) {
        all->hub_ranks[r] = (HubRank){.hub = &all->hub};
        if (all->over_hub)
            cr_assert_eq(hep_comm_carrier(r, RANKS, &carrier, &all->hub_ranks[r], &options, &comms[r]), HEP_OK);
        all->ones[r] = (One){.all = all, .index = r, .comm = comms[r]};
        for (int t = 0; t < TOKENS; t++) {
            all->ones[r].experts[2 * t] = (r + t) % 8;
            all->ones[r].experts[2 * t + 1] = (r + t + 3) % 8;
        }
    }
    double begin_s = clock_now_s();
    for (int r = 0; r < RANKS; r++)
        pthread_create(&threads[r], NULL, one_run, &all->ones[r]);
    for (int r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
    cr_assert_lt(clock_now_s() - begin_s, 20 * timeout_s);
    cr_assert_eq(all->hub.mismatches, 0, "sizes differed before the library had found out");
}

// ---- a well-behaved rank, and parts of it ----------------------------------------------------------

static hep_tensor tensor(void *data, int64_t rows, int64_t cols, hep_dtype dtype)
{
    return moe_tensor(data, rows, cols, dtype);
}

static hep_status dispatch(One *one, int layer, hep_route **route)
{
    hep_tensor x = tensor(one->x, TOKENS, HIDDEN, HEP_F32), experts = tensor(one->experts, TOKENS, 2, HEP_I32),
               gates = tensor(one->gates, TOKENS, 2, HEP_F32);
    return hep_dispatch(one->context, layer, &x, &experts, &gates, 0, NULL, route);
}

static hep_status dispatch_finish(One *one, hep_route *route)
{
    int64_t rows, records;
    hep_status status = hep_route_rows(route, &rows, &records, NULL);
    cr_assert_leq(rows, 64);
    hep_tensor x = tensor(one->rows, rows, HIDDEN, HEP_F32), slots = tensor(one->slots, rows, records, HEP_I32),
               weights = tensor(one->weights, rows, records, HEP_F32);
    return status ? status : hep_dispatch_finish(route, &x, &slots, &weights, NULL);
}

static hep_status combine(One *one, hep_route *route)
{
    int64_t rows;
    hep_status status = hep_route_rows(route, &rows, NULL, NULL);
    hep_tensor results = tensor(one->rows, rows, HIDDEN, HEP_F32), out = tensor(one->out, TOKENS, HIDDEN, HEP_F32);
    return status ? status : hep_combine(route, &results, &out, NULL);
}

static hep_status layer(One *one, int index)
{
    hep_route *route = NULL;
    hep_status status = dispatch(one, index, &route);
    status = status ? status : dispatch_finish(one, route);
    status = status ? status : combine(one, route);
    hep_route_free(route);
    return status;
}

static hep_status iteration(One *one)
{
    for (int k = 0; k < 2; k++) {
        hep_status status = layer(one, k);
        if (status)
            return status;
    }
    return HEP_OK;
}

static bool is_culprit(const One *one)
{
    return one->index == 2;
}

// All fail with that status, and with the culprit's words; it is told who it was.
static void expect(Ranks *all, hep_status (*body)(One *one), hep_status status, const char *words)
{
    for (int over = 0; over < 2; over++) {
        all->over_hub = over;
        ranks_run(all, body);
        for (int r = 0; r < RANKS; r++) {
            const One *one = &all->ones[r];
            cr_expect_eq(one->status, status, "rank %d, %s: '%s' (%s), expected '%s'", r, over ? "hub" : "threads",
                         hep_status_name(one->status), one->error.message, hep_status_name(status));
            cr_expect(strstr(one->error.message, words), "rank %d, %s: '%s' does not say '%s'", r,
                      over ? "hub" : "threads", one->error.message, words);
        }
    }
}

// ---- what they do ----------------------------------------------------------------------------------

static hep_status wrong_dtype(One *one)
{
    hep_route *route = NULL;
    hep_tensor x = tensor(one->x, TOKENS, HIDDEN, is_culprit(one) ? HEP_BF16 : HEP_F32),
               experts = tensor(one->experts, TOKENS, 2, HEP_I32), gates = tensor(one->gates, TOKENS, 2, HEP_F32);
    hep_status status = hep_dispatch(one->context, 0, &x, &experts, &gates, 0, NULL, &route);
    status = status ? status : dispatch_finish(one, route);
    hep_route_free(route);
    return status;
}

static hep_status wrong_expert(One *one)
{
    if (is_culprit(one))
        one->experts[3] = 8;
    return iteration(one);
}

// 8 tokens of 2 experts, of 8: 2 of every expert's.
static hep_status chooses_one_expert(One *one)
{
    for (int t = 0; t < TOKENS && is_culprit(one); t++)
        one->experts[2 * t] = 5;
    return iteration(one);
}

static hep_status skips_a_layer(One *one)
{
    return is_culprit(one) ? layer(one, 1) : iteration(one);
}

static hep_status skips_combine(One *one)
{
    if (!is_culprit(one))
        return iteration(one);
    hep_route *route = NULL;
    hep_status status = dispatch(one, 0, &route);
    status = status ? status : dispatch_finish(one, route);
    hep_route_free(route);
    return status ? status : iteration(one);
}

static hep_status aborts(One *one)
{
    if (!is_culprit(one))
        return iteration(one);
    hep_abort(one->context, "the optimizer ran out of ideas");
    return iteration(one);
}

static hep_status combines_too_early(One *one)
{
    hep_route *route = NULL;
    hep_status status = dispatch(one, 0, &route);
    if (!is_culprit(one))
        status = status ? status : dispatch_finish(one, route);
    status = status ? status : combine(one, route);
    hep_route_free(route);
    return status;
}

static hep_status goes_back_in_a_forward_plan(One *one)
{
    hep_route *route = NULL;
    hep_status status = dispatch(one, 0, &route);
    status = status ? status : dispatch_finish(one, route);
    hep_tensor any = tensor(one->rows, 1, HIDDEN, HEP_F32);
    status = status ? status : hep_combine_backward(route, &any, &any, NULL);
    hep_route_free(route);
    return status;
}

static hep_status begins_unbound(One *one)
{
    return is_culprit(one) ? hep_begin(one->context, 0, NULL) : iteration(one);
}

static hep_status waits_for_nothing(One *one)
{
    return is_culprit(one) ? hep_gathered(one->context, 1, 0, NULL) : iteration(one);
}

// Another thread comes while this one waits for the culprit, who does not come.
static void *intrude(void *argument)
{
    One *one = argument;
    usleep(100000);
    return hep_gathered(one->context, 0, 0, NULL) == HEP_BAD_CALL ? NULL : argument;
}

static hep_status two_threads(One *one)
{
    if (!is_culprit(one)) {
        pthread_t thread;
        void *wrong;
        if (one->index != 0)
            return iteration(one);
        pthread_create(&thread, NULL, intrude, one);
        hep_status status = iteration(one);
        pthread_join(thread, &wrong);
        cr_expect_null(wrong, "a second thread may enter");
        return status;
    }
    usleep(400000);
    return iteration(one);
}

Test(library_faults, wrong_calls_of_one_rank_fail_on_all)
{
    static Ranks all;
    all.plan = fixed_plan(FORWARD_EP);
    expect(&all, wrong_dtype, HEP_BAD_ARGUMENT, "'x' is bf16, expected f32");
    expect(&all, wrong_expert, HEP_BAD_ARGUMENT, "token 1 names expert 8 of 8");
    expect(&all, skips_a_layer, HEP_BAD_CALL, "this rank is in hep_dispatch of layer ");
    expect(&all, skips_combine, HEP_BAD_CALL, "this rank is in hep_");
    expect(&all, aborts, HEP_ABORTED, "the optimizer ran out of ideas");
    expect(&all, combines_too_early, HEP_BAD_CALL, "hep_dispatch_finish was not called for this route");
    expect(&all, goes_back_in_a_forward_plan, HEP_BAD_CALL, "the plan has no backward pass");
    expect(&all, begins_unbound, HEP_BAD_CALL, "layer 0 is not bound");
    expect(&all, waits_for_nothing, HEP_BAD_CALL, "hep_begin did not start a gather of layer 1");
    expect(&all, two_threads, HEP_BAD_CALL, "another thread is inside a call of this context");
    hep_plan_free(all.plan);
}

Test(library_faults, choices_beyond_padded_messages_fail_on_all)
{
    static Ranks all;
    all.plan = fixed_plan(FORWARD_PADDED);
    expect(&all, chooses_one_expert, HEP_BAD_ARGUMENT, "expert 5 is chosen more than 2 times by tokens of this rank");
    hep_plan_free(all.plan);
}

// ---- ranks that do not come ------------------------------------------------------------------------

static hep_status stays_away(One *one)
{
    return is_culprit(one) ? HEP_OK : iteration(one);
}

Test(library_faults, a_rank_that_does_not_come_is_waited_for_as_long_as_was_said)
{
    static Ranks all;
    all.plan = fixed_plan(FORWARD_EP);
    for (int over = 0; over < 2; over++) {
        all.over_hub = over;
        ranks_run(&all, stays_away);
        for (int r = 0; r < RANKS; r++)
            if (r != 2)
                cr_expect_eq(all.ones[r].status, over ? HEP_COMM : HEP_TIMEOUT, "rank %d: %s", r,
                             all.ones[r].error.message);
        cr_expect_eq(all.ones[2].status, HEP_OK);
        cr_expect_geq(all.ones[3].error.step, 0, "no word of the step");
        cr_expect(strstr(all.ones[3].error.message, over ? "the hub has waited long enough" : " did not arrive in "),
                  "%s", all.ones[3].error.message);
    }
    hep_plan_free(all.plan);
}

// ---- contexts --------------------------------------------------------------------------------------

typedef struct {
    hep_plan *plan;
    hep_comm *comm;
    hep_context *context;
    hep_options options;
    hep_status status;
} Creation;

static void *create_run(void *argument)
{
    Creation *creation = argument;
    creation->status = hep_create(creation->plan, creation->comm, &creation->options, &creation->context);
    return NULL;
}

static void create_all(Creation creations[RANKS], hep_plan *own, hep_plan *other, int64_t other_tokens)
{
    pthread_t threads[RANKS];
    hep_comm *comms[RANKS];
    hep_comm_options options = {.struct_bytes = sizeof(options), .device = -1, .timeout_s = 20};
    cr_assert_eq(hep_comm_threads(RANKS, &options, comms), HEP_OK);
    for (int r = 0; r < RANKS; r++) {
        creations[r] = (Creation){.plan = r == 1 ? other : own, .comm = comms[r]};
        creations[r].options =
            (hep_options){.struct_bytes = sizeof(hep_options), .max_tokens = r == 1 ? other_tokens : 0};
        pthread_create(&threads[r], NULL, create_run, &creations[r]);
    }
    for (int r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
    for (int r = 0; r < RANKS; r++) {
        hep_destroy(creations[r].context);
        hep_comm_free(comms[r]);
    }
}

Test(library_faults, ranks_have_to_agree_before_they_begin)
{
    Creation creations[RANKS];
    hep_plan *own = fixed_plan(FORWARD_EP), *other = fixed_plan(FORWARD_GATHER), *small = fixed_plan(FORWARD_ONE);
    const struct {
        hep_plan *other;
        int64_t tokens;
        hep_status status;
    } cases[] = {{own, 0, HEP_OK},           {other, 0, HEP_BAD_PLAN},    {small, 0, HEP_BAD_PLAN},
                 {own, 5, HEP_BAD_ARGUMENT}, {NULL, 0, HEP_BAD_ARGUMENT}, {own, -1, HEP_BAD_ARGUMENT}};
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        create_all(creations, own, cases[c].other, cases[c].tokens);
        for (int r = 0; r < RANKS; r++)
            cr_expect_eq(creations[r].status, cases[c].status, "case %zu, rank %d: %s", c, r,
                         hep_status_name(creations[r].status));
    }
    hep_plan_free(own);
    hep_plan_free(other);
    hep_plan_free(small);
}

// ---- one rank, any arguments -----------------------------------------------------------------------

static uint32_t dice(uint32_t *state, uint32_t sides)
{
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % sides;
}

// What is right three times out of four.
static hep_tensor odd_tensor(uint32_t *state, void *data, int64_t rows, int64_t cols, hep_dtype dtype)
{
    static const int64_t sizes[] = {-1, 0, 1, 3, INT32_MAX, INT64_MAX, INT64_MIN};
    hep_tensor out = moe_tensor(data, rows, cols, dtype);
    switch (dice(state, 24)) {
    case 0:
        out.rows = sizes[dice(state, 7)];
        break;
    case 1:
        out.cols = sizes[dice(state, 7)];
        break;
    case 2:
        out.dtype = (int32_t)dice(state, 9) - 1;
        break;
    case 3:
        out.stride = sizes[dice(state, 7)];
        break;
    case 4:
        out.data = NULL;
        break;
    default:
        break;
    }
    if (out.data && out.rows > rows && out.cols == cols && out.dtype == (int32_t)dtype)
        out.rows = rows; // more than there is cannot be found out
    return out;
}

static hep_tensor *maybe(uint32_t *state, hep_tensor *tensor_or_null)
{
    return dice(state, 40) ? tensor_or_null : NULL;
}

typedef struct {
    float x[TOKENS * HIDDEN], gates[TOKENS * 2], rows[TOKENS * 2 * HIDDEN], weights[TOKENS * 4], full[2][8 * 128];
    int64_t experts[TOKENS * 2], slots[TOKENS * 4];
} Memory;

// The route, which may be freed after its context.
static hep_route *any_layer(hep_context *context, Memory *memory, uint32_t *state)
{
    hep_route *route = NULL;
    int64_t rows = 0, records = 0;
    for (int i = 0; i < TOKENS * 2; i++)
        memory->experts[i] = dice(state, 60) ? dice(state, 8) : (int64_t)dice(state, 100) - 50;
    hep_tensor x = odd_tensor(state, memory->x, TOKENS, HIDDEN, HEP_F32),
               experts = odd_tensor(state, memory->experts, TOKENS, 2, HEP_I64),
               gates = odd_tensor(state, memory->gates, TOKENS, 2, HEP_F32);
    int flags = dice(state, 30) ? (dice(state, 2) ? HEP_EXPANDED : 0) : (int)dice(state, 64);
    (void)hep_dispatch(context, dice(state, 20) ? 0 : (int)dice(state, 9) - 4, maybe(state, &x), maybe(state, &experts),
                       maybe(state, &gates), flags, NULL, dice(state, 40) ? &route : NULL);
    (void)hep_route_rows(route, &rows, dice(state, 9) ? &records : NULL, NULL);
    hep_tensor to = odd_tensor(state, memory->rows, rows, HIDDEN, HEP_F32),
               slots = odd_tensor(state, memory->slots, rows, records, HEP_I64),
               weights = odd_tensor(state, memory->weights, rows, records, HEP_F32);
    if (dice(state, 15))
        (void)hep_dispatch_finish(route, maybe(state, &to), maybe(state, &slots), maybe(state, &weights), NULL);
    (void)hep_combine(route, maybe(state, &to), maybe(state, &x), NULL);
    (void)hep_combine_backward(route, maybe(state, &x), maybe(state, &to), NULL);
    (void)hep_dispatch_backward(route, maybe(state, &to), maybe(state, &weights), maybe(state, &x),
                                maybe(state, &gates), NULL);
    return route;
}

static void any_weights(hep_context *context, Memory *memory, uint32_t *state)
{
    hep_tensor full[2] = {odd_tensor(state, memory->full[0], 8, 128, HEP_F32),
                          odd_tensor(state, memory->full[1], 8, 128, HEP_F32)};
    int count = dice(state, 20) ? 2 : (int)dice(state, 30) - 8;
    if (count > 2 || count == 1)
        count = 99;
    for (int k = 0; k < 2; k++)
        (void)hep_bind(context, dice(state, 20) ? k : (int)dice(state, 9) - 4, count, full, full,
                       dice(state, 40) ? full : NULL);
    (void)hep_begin(context, dice(state, 10) ? 0 : (int)dice(state, 64), NULL);
    for (int k = 0; k < 2; k++) {
        (void)hep_gathered(context, dice(state, 20) ? k : (int)dice(state, 9) - 4, 0, NULL);
        (void)hep_used(context, dice(state, 20) ? k : (int)dice(state, 9) - 4, 0, NULL);
        (void)hep_return(context, k, count, full, 1, NULL);
    }
    (void)hep_finish(context, NULL);
    hep_tensor share = odd_tensor(state, memory->x, 1, 16, HEP_F32),
               all = odd_tensor(state, memory->rows, 1, 16, HEP_F32);
    (void)hep_dense_gather(context, maybe(state, &share), maybe(state, &all), NULL);
    (void)hep_dense_return(context, maybe(state, &all), 2, maybe(state, &share), NULL);
    int bundle = dice(state, 15) ? 1 : (int)dice(state, 9) - 4;
    (void)hep_dense_bind(context, bundle, maybe(state, &share), dice(state, 9) ? &share : NULL, maybe(state, &all));
    (void)hep_dense_begin(context, 1, dice(state, 9) ? 0 : (int)dice(state, 16), NULL);
    (void)hep_dense_gathered(context, dice(state, 9) ? 1 : 2, NULL);
    (void)hep_dense_send(context, 1, maybe(state, &all), 2, NULL);
    (void)hep_finish(context, NULL);
    uint64_t bytes = 1;
    (void)hep_state_bytes(context, dice(state, 9) ? &bytes : NULL);
    (void)hep_state_save(context, memory->rows, bytes, NULL);
    (void)hep_state_load(context, dice(state, 9) ? memory->rows : NULL, bytes, NULL);
}

Test(library_faults, arguments_of_all_kinds_end_in_a_status)
{
    static Memory memory;
    hep_plan *plan = fixed_plan(TRAINING_ONE);
    uint32_t state = 1;
    int through = 0;
    for (int round = 0; round < 400; round++) {
        hep_comm *comm;
        hep_context *context = NULL;
        cr_assert_eq(hep_comm_threads(1, NULL, &comm), HEP_OK);
        cr_assert_eq(hep_create(plan, comm, NULL, &context), HEP_OK);
        hep_route *route = NULL;
        if (round % 2)
            route = any_layer(context, &memory, &state);
        else
            any_weights(context, &memory, &state);
        hep_error error = {.struct_bytes = sizeof(error)};
        hep_last_error(context, &error);
        through += error.status == HEP_OK;
        cr_assert(error.status == HEP_OK || error.message[0], "an error without words");
        hep_destroy(context);
        hep_route_free(route);
        hep_comm_free(comm);
    }
    cr_assert_gt(through, 40, "hardly any call was right");
    cr_assert_lt(through, 360, "hardly any call was wrong");
    hep_plan_free(plan);
}

Test(library_faults, nothing_is_taken_for_something)
{
    hep_plan *plan = fixed_plan(FORWARD_ONE);
    hep_facts facts = {.struct_bytes = 0};
    hep_layer layer_facts = {.struct_bytes = sizeof(layer_facts)};
    hep_error error = {.struct_bytes = sizeof(error)};
    cr_assert_eq(hep_plan_facts(plan, &facts), HEP_BAD_ARGUMENT);
    hep_last_error(NULL, &error);
    cr_assert_str_eq(error.message, "'struct_bytes' is not set");
    cr_assert_eq(hep_plan_facts(NULL, &facts), HEP_BAD_ARGUMENT);
    cr_assert_eq(hep_plan_facts(plan, NULL), HEP_BAD_ARGUMENT);
    cr_assert_eq(hep_plan_layer(plan, 2, &layer_facts), HEP_BAD_ARGUMENT);
    cr_assert_eq(hep_plan_layer(plan, -1, &layer_facts), HEP_BAD_ARGUMENT);
    cr_assert_eq(hep_plan_owner(plan, 0, 8), -1);
    cr_assert_eq(hep_plan_owner(NULL, 0, 0), -1);
    cr_assert_eq(hep_plan_rows_bound(plan, 0, -1), -1);
    hep_plan_free(plan);
    cr_assert_eq(hep_plan_read(NULL, &plan), HEP_BAD_ARGUMENT);
    cr_assert_null(plan);
    cr_assert_eq(hep_plan_read("x", NULL), HEP_BAD_ARGUMENT);
    cr_assert_eq(hep_plan_parse("hep_plan", 8, &plan), HEP_BAD_PLAN);
    cr_assert_eq(hep_plan_parse(NULL, 8, &plan), HEP_BAD_ARGUMENT);
    cr_assert_eq(hep_comm_threads(0, NULL, (hep_comm *[1]){NULL}), HEP_BAD_ARGUMENT);
    cr_assert_eq(hep_comm_threads(1, NULL, NULL), HEP_BAD_ARGUMENT);
    cr_assert_eq(hep_create(NULL, NULL, NULL, NULL), HEP_BAD_ARGUMENT);
    cr_assert_eq(hep_begin(NULL, 0, NULL), HEP_BAD_ARGUMENT);
    cr_assert_eq(hep_combine(NULL, NULL, NULL, NULL), HEP_BAD_ARGUMENT);
    hep_abort(NULL, NULL);
    hep_destroy(NULL);
    hep_comm_free(NULL);
    hep_plan_free(NULL);
    hep_route_free(NULL);
    hep_route_keep(NULL);
    cr_assert_str_eq(hep_status_name((hep_status)99), "unknown status");
}

// A caller that was built when structs were shorter gets what it knows.
Test(library_faults, structs_grow_at_their_ends)
{
    hep_plan *plan = fixed_plan(FORWARD_ONE);
    union {
        hep_facts facts;
        unsigned char bytes[sizeof(hep_facts)];
    } out;
    memset(&out, 0xEE, sizeof(out));
    out.facts.struct_bytes = 12;
    cr_assert_eq(hep_plan_facts(plan, &out.facts), HEP_OK);
    cr_assert_eq(out.facts.ranks, 1);
    cr_assert_eq(out.facts.levels, 1);
    for (size_t i = 12; i < sizeof(out); i++)
        cr_assert_eq(out.bytes[i], 0xEE);
    hep_plan_free(plan);
}
