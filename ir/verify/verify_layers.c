// The verifier's properties of MoE layers: how rows reach their experts and return, how experts
// are gathered and their gradients go home.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ir/bundle.h"
#include "ir/codec.h"
#include "ir/unroll.h"
#include "ir/verify/verify_parts.h"

// Steps of one layer that a property is about, in plan order, beside what it expects.
typedef struct {
    Op op;
    int32_t level; // NONE for local ops
} Expected;

enum { EXPECTED_MAX = 5 * LEVELS_MAX + 2 };

typedef struct {
    uint32_t *steps; // indices, layer by layer
    uint32_t *first; // [layers + 1]
} LayerIndex;

static LayerIndex index_layers(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    uint32_t layers = plan->model.layers;
    LayerIndex index = {
        .steps = arena_alloc_array(verifier->scratch, plan->step_count, sizeof(*index.steps)),
        .first = arena_alloc_array(verifier->scratch, (size_t)layers + 2, sizeof(*index.first)),
    };
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (plan->steps[i].layer != NONE)
            index.first[plan->steps[i].layer + 2]++;
    for (uint32_t k = 0; k < layers; k++)
        index.first[k + 2] += index.first[k + 1];
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (plan->steps[i].layer != NONE)
            index.steps[index.first[plan->steps[i].layer + 1]++] = i;
    return index;
}

static const char *describe(const Plan *plan, Op op, int32_t level, char out[96])
{
    if (level == NONE)
        snprintf(out, 96, "'%s'", op_info((int)op)->name);
    else
        snprintf(out, 96, "'%s' over level '%.40s'", op_info((int)op)->name, plan->cluster.levels[level].name);
    return out;
}

// ---- exchange ----------------------------------------------------------------------------------

static bool exchanges_at(const Plan *plan, const Choice *choice, uint32_t level)
{
    return plan->cluster.levels[level].count > choice->domain[level];
}

static uint32_t expect_way_out(const Plan *plan, const Choice *choice, Expected *out)
{
    uint32_t count = 0;
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        if (exchanges_at(plan, choice, l))
            out[count++] = (Expected){OP_DISPATCH, (int32_t)l};
    return count;
}

// Out level by level, through the experts, back in reverse.
static uint32_t expect_pass(const Plan *plan, const Choice *choice, Op expert, Op combine, Expected *out)
{
    uint32_t count = expect_way_out(plan, choice, out), levels = plan->cluster.level_count;
    out[count++] = (Expected){expert, NONE};
    for (uint32_t l = levels; l-- > 0;)
        if (exchanges_at(plan, choice, l))
            out[count++] = (Expected){combine, (int32_t)l};
    return count;
}

static bool is_on_the_way(const Step *step)
{
    return step_info(step)->shape == SHAPE_EXCHANGE || step->op == OP_EXPERT || step->op == OP_EXPERT_BACKWARD;
}

static int32_t operand_of(const Plan *plan, uint32_t step, Operand operand)
{
    return step_operand(plan, &plan->steps[step], operand);
}

// Rows come back by the counts they went out with. Backward combines return along the forward
// dispatch, whose counts they use.
static void verify_return(Verifier *verifier, uint32_t dispatch, uint32_t combine)
{
    static const Operand shared[] = {OPERAND_send_counts, OPERAND_next_counts};
    for (size_t i = 0; i < COUNT_OF(shared); i++) {
        int32_t out = operand_of(verifier->plan, dispatch, shared[i]);
        if (operand_of(verifier->plan, combine, shared[i]) != out)
            verify_fail(verifier, PROPERTY_EXCHANGE, combine,
                        "returns rows by other '%s' than step %" PRIu32 " sent them with", operand_name(shared[i]),
                        dispatch);
    }
}

// What a combine returns, unpacked where it travels packed.
static int32_t returned_rows(const Plan *plan, const uint32_t *steps, uint32_t count, uint32_t combine)
{
    int32_t returned = operand_of(plan, combine, OPERAND_returned);
    for (uint32_t i = 0; i < count; i++)
        if (plan->steps[steps[i]].op == OP_DECODE_ROWS && operand_of(plan, steps[i], OPERAND_packed_rows) == returned)
            return operand_of(plan, steps[i], OPERAND_rows);
    return returned;
}

// Rows that leave at `dispatch` were split off by a route step before it, and what returns at
// `combine` is put back by an unroute step after it that knows where each row came from.
static void verify_routing(Verifier *verifier, const uint32_t *steps, uint32_t count, uint32_t dispatch,
                           uint32_t combine)
{
    const Plan *plan = verifier->plan;
    int32_t route = NONE, unroute = NONE, returned = returned_rows(plan, steps, count, combine);
    for (uint32_t i = 0; i < count; i++) {
        Op op = plan->steps[steps[i]].op;
        if (op == OP_ROUTE &&
            operand_of(plan, steps[i], OPERAND_send_rows) == operand_of(plan, dispatch, OPERAND_send_rows)) {
            route = (int32_t)steps[i];
        } else if (op == OP_UNROUTE && operand_of(plan, steps[i], OPERAND_returned) == returned) {
            unroute = (int32_t)steps[i];
        }
    }
    if (route == NONE || unroute == NONE) {
        verify_fail(verifier, PROPERTY_EXCHANGE, route == NONE ? dispatch : combine, "no '%s' step %s its rows",
                    route == NONE ? "route" : "unroute", route == NONE ? "prepares" : "puts back");
        return;
    }
    static const Operand sent[] = {OPERAND_next_rows, OPERAND_next_records, OPERAND_send_records, OPERAND_send_counts};
    for (size_t i = 0; i < COUNT_OF(sent); i++)
        if (operand_of(plan, (uint32_t)route, sent[i]) != operand_of(plan, dispatch, sent[i]))
            verify_fail(verifier, PROPERTY_EXCHANGE, dispatch, "'%s' is not that of its 'route' step %" PRId32,
                        operand_name(sent[i]), route);
    static const Operand kept[] = {OPERAND_origin, OPERAND_send_counts, OPERAND_counts};
    for (size_t i = 0; i < COUNT_OF(kept); i++)
        if (operand_of(plan, (uint32_t)route, kept[i]) != operand_of(plan, (uint32_t)unroute, kept[i]))
            verify_fail(verifier, PROPERTY_EXCHANGE, unroute, "'%s' is not that of its 'route' step %" PRId32,
                        operand_name(kept[i]), route);
}

// Gradients go the way the rows went: `dispatch` sent those, `out` sends gradients of results, `back` returns those of
// rows.
static void verify_gradients(Verifier *verifier, uint32_t dispatch, uint32_t out, uint32_t back)
{
    verify_return(verifier, dispatch, back);
    if (operand_of(verifier->plan, out, OPERAND_send_counts) !=
        operand_of(verifier->plan, dispatch, OPERAND_send_counts))
        verify_fail(verifier, PROPERTY_EXCHANGE, out,
                    "sends gradients by other 'send_counts' than step %" PRIu32 " sent the rows with", dispatch);
}

// `found` has exactly the expected steps of one or two passes; `half` of them are a way out. Where activations are
// computed again, so is another one between the passes, and gradients go that way.
static void verify_ways(Verifier *verifier, const uint32_t *steps, uint32_t count, const uint32_t *found, uint32_t half)
{
    const Plan *plan = verifier->plan;
    uint32_t again = 2 * half + 1, backward = again + (plan->recompute ? half : 0);
    for (uint32_t i = 0; i < half; i++) {
        uint32_t dispatch = found[i], combine = found[2 * half - i];
        verify_return(verifier, dispatch, combine);
        verify_routing(verifier, steps, count, dispatch, combine);
        if (plan->pass == PASS_TRAINING)
            verify_gradients(verifier, plan->recompute ? found[again + i] : dispatch, found[backward + i],
                             found[backward + 2 * half - i]);
    }
}

static void verify_exchange(Verifier *verifier, const Choice *choice, const uint32_t *steps, uint32_t count)
{
    const Plan *plan = verifier->plan;
    Expected expected[EXPECTED_MAX];
    bool training = plan->pass == PASS_TRAINING;
    uint32_t wanted = expect_pass(plan, choice, OP_EXPERT, OP_COMBINE, expected), half = wanted / 2;
    if (training && plan->recompute)
        wanted += expect_way_out(plan, choice, expected + wanted);
    if (training)
        wanted += expect_pass(plan, choice, OP_EXPERT_BACKWARD, OP_COMBINE_BACKWARD, expected + wanted);
    uint32_t found[EXPECTED_MAX], matched = 0;
    for (uint32_t i = 0; i < count; i++) {
        const Step *step = &plan->steps[steps[i]];
        if (!is_on_the_way(step))
            continue;
        char want[96], have[96];
        if (matched == wanted || step->op != expected[matched].op || step->level != expected[matched].level) {
            verify_fail(verifier, PROPERTY_EXCHANGE, steps[i], "layer %" PRIu32 ": found %s: expected %s",
                        choice->layer, describe(plan, step->op, step->level, have),
                        matched == wanted ? "no more"
                                          : describe(plan, expected[matched].op, expected[matched].level, want));
            return;
        }
        if (step->group != NONE && plan->groups[step->group].domain != choice->domain[step->level])
            verify_fail(verifier, PROPERTY_EXCHANGE, steps[i],
                        "the domain size is %" PRIu32 ", and the layer's choice is %" PRIu32,
                        plan->groups[step->group].domain, choice->domain[step->level]);
        if (matched && !order_before(verifier->order, found[matched - 1], steps[i]))
            verify_fail(verifier, PROPERTY_EXCHANGE, steps[i],
                        "does not wait for step %" PRIu32 ", the one before on the rows' way", found[matched - 1]);
        found[matched++] = steps[i];
    }
    if (matched < wanted) {
        char want[96];
        verify_fail(verifier, PROPERTY_EXCHANGE, NONE, "layer %" PRIu32 " misses %s", choice->layer,
                    describe(plan, expected[matched].op, expected[matched].level, want));
    } else if (!plan->model.abstract) {
        verify_ways(verifier, steps, count, found, half);
    }
}

// ---- gather ------------------------------------------------------------------------------------

static bool gathers_at(const Plan *plan, const Choice *choice, uint32_t level)
{
    return level >= plan->replica_levels && choice->domain[level] > 1;
}

// Levels in the order of `rounds` gathers (ascending), or of the way back (descending).
static uint32_t expect_gathers(const Plan *plan, const Choice *choice, OpShape shape, int32_t out[2 * LEVELS_MAX])
{
    uint32_t count = 0, levels = plan->cluster.level_count;
    bool training = plan->pass == PASS_TRAINING;
    int rounds = shape == SHAPE_GATHER ? (training && choice->regather ? 2 : 1) : training ? 1 : 0;
    for (int round = 0; round < rounds; round++) {
        for (uint32_t i = 0; i < levels; i++) {
            uint32_t level = shape == SHAPE_GATHER ? i : levels - 1 - i;
            if (gathers_at(plan, choice, level) && (round == 0 || level >= choice->once))
                out[count++] = (int32_t)level;
        }
    }
    return count;
}

// Of those, how many are the first round.
static uint32_t count_first_round(const Plan *plan, const Choice *choice)
{
    uint32_t count = 0;
    for (uint32_t level = 0; level < plan->cluster.level_count; level++)
        count += gathers_at(plan, choice, level);
    return count;
}

// What experts and their gradients cross a level with.
static Op migration_op(const Plan *plan, OpShape shape, int32_t level)
{
    bool packets = plan->experts.gradient != GRADIENT_DENSE && level < (int32_t)plan_coded_levels(plan);
    return shape == SHAPE_GATHER ? OP_GATHER : packets ? OP_RETURN_PACKETS : OP_REDUCE_SCATTER;
}

// Whether packets are decoded between two steps: the flow follows them.
static bool decodes_between(const Plan *plan, const Step *before, const Step *step)
{
    int32_t coded = (int32_t)plan_coded_levels(plan);
    bool gathered = step->op == OP_GATHER && codec_info(plan->experts.codec)->encodes;
    return step->op == OP_RETURN_PACKETS || (gathered && before->level < coded && step->level >= coded);
}

// What one level gathered is the next level's shard; on the way back, what one level summed is what
// the next one sums.
static void verify_gather_link(Verifier *verifier, uint32_t before, uint32_t step)
{
    const Plan *plan = verifier->plan;
    bool gather = step_info(&plan->steps[step])->shape == SHAPE_GATHER;
    int32_t from = operand_of(plan, before, gather ? OPERAND_gathered : OPERAND_shard);
    if (operand_of(plan, step, gather ? OPERAND_shard : OPERAND_gathered) != from)
        verify_fail(verifier, PROPERTY_GATHER, step, "does not continue with what step %" PRIu32 " left", before);
}

// Between the levels that each lap crosses and those crossed once, gradients of all laps are added up: flow follows
// them.
static bool leaves_laps(const Verifier *verifier, const Choice *choice, uint32_t before, uint32_t step)
{
    const Step *steps = verifier->plan->steps;
    int32_t once = (int32_t)plan_gradient_levels(verifier->plan, choice);
    return step_info(&steps[step])->shape == SHAPE_SCATTER && plan_laps(verifier->written).count > 1 &&
           steps[step].level < once && steps[before].level >= once;
}

static const char *describe_migration(const Plan *plan, OpShape shape, int32_t level, char text[96])
{
    return describe(plan, migration_op(plan, shape, level), level, text);
}

static void verify_gathers(Verifier *verifier, const Choice *choice, const uint32_t *steps, uint32_t count,
                           OpShape shape)
{
    const Plan *plan = verifier->plan;
    int32_t expected[2 * LEVELS_MAX];
    uint32_t wanted = expect_gathers(plan, choice, shape, expected), matched = 0, before = 0;
    char text[96];
    for (uint32_t i = 0; i < count; i++) {
        const Step *step = &plan->steps[steps[i]];
        if (step_info(step)->shape != shape || verify_carries_dense(verifier, step))
            continue;
        if (matched == wanted || step->level != expected[matched] ||
            step->op != migration_op(plan, shape, step->level)) {
            verify_fail(verifier, PROPERTY_GATHER, steps[i],
                        "layer %" PRIu32 ": found '%s' over level '%.40s': expected %s", choice->layer,
                        step_info(step)->name, plan->cluster.levels[step->level].name,
                        matched == wanted ? "no more" : describe_migration(plan, shape, expected[matched], text));
            return;
        }
        if (plan->groups[step->group].domain != choice->domain[step->level])
            verify_fail(verifier, PROPERTY_GATHER, steps[i],
                        "the domain size is %" PRIu32 ", and the layer's choice is %" PRIu32,
                        plan->groups[step->group].domain, choice->domain[step->level]);
        if (matched > 0 && matched != count_first_round(plan, choice) && !plan->model.abstract && // not a round's first
            !decodes_between(plan, &plan->steps[before], step) && !leaves_laps(verifier, choice, before, steps[i]))
            verify_gather_link(verifier, before, steps[i]);
        before = steps[i];
        matched++;
    }
    if (matched < wanted)
        verify_fail(verifier, PROPERTY_GATHER, NONE, "layer %" PRIu32 " misses %s", choice->layer,
                    describe_migration(plan, shape, expected[matched], text));
}

static const uint32_t *find_op(const Plan *plan, const uint32_t *steps, uint32_t count, Op op)
{
    for (uint32_t i = 0; i < count; i++)
        if (plan->steps[steps[i]].op == op)
            return &steps[i];
    return NULL;
}

static void expect_before(Verifier *verifier, uint32_t before, uint32_t step)
{
    if (!order_before(verifier->order, before, step))
        verify_fail(verifier, PROPERTY_GATHER, step, "does not wait for step %" PRIu32 ", '%s'", before,
                    step_info(&verifier->plan->steps[before])->name);
}

static bool gathers_experts(const Verifier *verifier, uint32_t step)
{
    const Step *of = &verifier->plan->steps[step];
    return step_info(of)->shape == SHAPE_GATHER && !verify_carries_dense(verifier, of);
}

// Experts are computed with what was gathered, and their gradients go home when they are there. With buffers
// `reads` sees this too; abstract plans have none.
static void verify_gather_order(Verifier *verifier, const uint32_t *steps, uint32_t count)
{
    const Plan *plan = verifier->plan;
    const uint32_t *forward = find_op(plan, steps, count, OP_EXPERT);
    const uint32_t *backward = find_op(plan, steps, count, OP_EXPERT_BACKWARD);
    const Choice *choice = verify_find_choice(plan, plan->steps[steps[0]].layer);
    uint32_t rounds = 0, first_round = count_first_round(plan, choice);
    for (uint32_t i = 0; i < count; i++) {
        OpShape shape = step_info(&plan->steps[steps[i]])->shape;
        if (gathers_experts(verifier, steps[i])) {
            const uint32_t *reader = rounds++ < first_round ? forward : backward;
            expect_before(verifier, steps[i], *reader);
        } else if (shape == SHAPE_SCATTER && !verify_carries_dense(verifier, &plan->steps[steps[i]])) {
            expect_before(verifier, *backward, steps[i]);
        }
    }
}

// Steps of MoE layers in layers that are none.
static void verify_dense_layer(Verifier *verifier, uint32_t layer, const uint32_t *steps, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const Step *step = &verifier->plan->steps[steps[i]];
        OpShape shape = step_info(step)->shape;
        bool carries = (shape == SHAPE_GATHER || shape == SHAPE_SCATTER) && !verify_carries_dense(verifier, step);
        if (is_on_the_way(step) || carries)
            verify_fail(verifier, is_on_the_way(step) ? PROPERTY_EXCHANGE : PROPERTY_GATHER, steps[i],
                        "layer %" PRIu32 " is no MoE layer and has a '%s' step", layer, step_info(step)->name);
    }
}

static void verify_steps_without_layer(Verifier *verifier)
{
    for (uint32_t i = 0; i < verifier->plan->step_count; i++) {
        const Step *step = &verifier->plan->steps[i];
        OpShape shape = step_info(step)->shape;
        bool carries = (shape == SHAPE_GATHER || shape == SHAPE_SCATTER) && !verify_carries_dense(verifier, step);
        if (step->layer == NONE && (is_on_the_way(step) || carries))
            verify_fail(verifier, is_on_the_way(step) ? PROPERTY_EXCHANGE : PROPERTY_GATHER, i,
                        "op '%s' names no layer", step_info(step)->name);
    }
}

// ---- dense weights -------------------------------------------------------------------------------

static void verify_dense_count(Verifier *verifier, uint32_t layer, const char *what, uint32_t found, uint32_t expected)
{
    if (found == expected)
        return;
    if (layer < verifier->plan->model.layers)
        verify_fail(verifier, PROPERTY_GATHER, NONE, "layer %" PRIu32 " %s in %" PRIu32 " steps, expected %" PRIu32,
                    layer, what, found, expected);
    else
        verify_fail(verifier, PROPERTY_GATHER, NONE,
                    "the embedding: the network %s in %" PRIu32 " steps, expected %" PRIu32, what, found, expected);
}

// Shares of dense weights, and their gradients, travel among all workers of a level: once over every level, or twice
// where weights are gathered again; the embedding's gradient, too, where it is. In which order, flow says.
static void verify_dense(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    uint32_t layers = plan->model.layers, levels = plan_shared_levels(plan);
    uint32_t wide = (uint32_t)__builtin_popcount(levels);
    uint32_t inside = (uint32_t)__builtin_popcount(levels >> plan->once_dense);
    uint32_t again = plan->regather_dense ? inside : 0, halves = plan->regather_embedding ? inside : 0;
    uint32_t *gathers = arena_alloc_array(verifier->scratch, 2 * ((size_t)layers + 1), sizeof(*gathers));
    uint32_t *returns = gathers + layers + 1;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        if (!verify_carries_dense(verifier, step))
            continue;
        const Level *level = &plan->cluster.levels[step->level];
        if (plan->groups[step->group].domain != level->count)
            verify_fail(verifier, PROPERTY_GATHER, i,
                        "dense weights are shared out over all %" PRIu32 " workers of level '%.40s', and the domain"
                        " size is %" PRIu32,
                        level->count, level->name, plan->groups[step->group].domain);
        bool packets = plan->dense.gradient != GRADIENT_DENSE &&
                       step->level < (int32_t)coding_levels(&plan->dense, plan->cluster.level_count);
        if (step->op != OP_GATHER && step->op != (packets ? OP_RETURN_PACKETS : OP_REDUCE_SCATTER))
            verify_fail(verifier, PROPERTY_GATHER, i, "gradients of dense weights return as '%s' over level '%.40s'",
                        packets ? gradient_name(plan->dense.gradient) : gradient_name(GRADIENT_DENSE), level->name);
        (step->op == OP_GATHER ? gathers : returns)[step->layer == NONE ? layers : (uint32_t)step->layer]++;
    }
    for (uint32_t k = 0; k <= layers && plan->pass == PASS_TRAINING && !plan->model.abstract; k++) {
        verify_dense_count(verifier, k, "gathers dense weights", gathers[k], wide + (k < layers ? again : halves));
        verify_dense_count(verifier, k, "returns dense gradients", returns[k], wide + (k < layers ? 0 : halves));
    }
}

// ---- how often levels are crossed -----------------------------------------------------------------

// Outermost levels that a layer's weights, or their gradients, cross once per iteration.
static uint32_t once_levels(const Verifier *verifier, const Step *step)
{
    const Plan *plan = verifier->plan;
    uint32_t levels = plan->cluster.level_count;
    bool gathers = step_info(step)->shape == SHAPE_GATHER;
    if (verify_carries_dense(verifier, step))
        return !gathers ? plan_dense_gradient_levels(plan) : plan->regather_dense ? plan->once_dense : levels;
    const Choice *choice = verify_find_choice(plan, step->layer);
    return !gathers ? plan_gradient_levels(plan, choice) : choice->regather ? choice->once : levels;
}

// Over levels inside the boundary of several laps what is gathered, or returned, is so in every lap; over those outside
// once.
static void verify_boundaries(Verifier *verifier)
{
    const Plan *written = verifier->written;
    bool several = plan_laps(written).count > 1;
    for (uint32_t i = 0; i < written->step_count && written->micro_batches > 1; i++) {
        const Step *step = &written->steps[i];
        OpShape shape = step_info(step)->shape;
        if (step->layer == NONE || (shape != SHAPE_GATHER && shape != SHAPE_SCATTER))
            continue;
        bool inside = several && (uint32_t)step->level >= once_levels(verifier, &verifier->plan->steps[i]);
        if (step_repeats(step) != inside)
            verify_fail(verifier, PROPERTY_GATHER, i, "runs '%s' over level '%.40s': expected %s",
                        step_when_name(step->when), written->cluster.levels[step->level].name,
                        inside ? "once in every lap" : "once per iteration");
    }
}

// ---- slots for replicas --------------------------------------------------------------------------

// The steps of one pass that use a layer's experts: forward in the order of MoE layers, backward in reverse.
typedef struct {
    uint32_t count, *steps;
} Uses;

static Uses find_uses(const Verifier *verifier, Op op)
{
    const Plan *plan = verifier->plan;
    Uses uses = {.steps = arena_alloc_array(verifier->scratch, plan->step_count, sizeof(*uses.steps))};
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (plan->steps[i].op == op)
            uses.steps[uses.count++] = i;
    return uses;
}

// Where replicas are dropped after use, a gather waits until its pass has room: for the use that lies `replica_slots`
// before the one it gathers for.
static void verify_replica_slots(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    if (plan->replica_slots == 0)
        return;
    Uses forward = find_uses(verifier, OP_EXPERT), backward = find_uses(verifier, OP_EXPERT_BACKWARD);
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        const Choice *choice = gathers_experts(verifier, i) ? verify_find_choice(plan, step->layer) : NULL;
        bool kept = choice && plan->pass == PASS_TRAINING && (!choice->regather || step->level < (int32_t)choice->once);
        if (!choice || kept)
            continue;
        uint32_t place = (uint32_t)(choice - plan->choices);
        bool again = place < forward.count && forward.steps[place] < i;
        const Uses *uses = again ? &backward : &forward;
        uint32_t use = again ? plan->choice_count - 1 - place : place;
        if (use < plan->replica_slots || use - plan->replica_slots >= uses->count)
            continue;
        uint32_t before = uses->steps[use - plan->replica_slots];
        if (!order_before(verifier->order, before, i))
            verify_fail(verifier, PROPERTY_GATHER, i,
                        "does not wait for step %" PRIu32 ": there is room for the experts of %" PRIu32 " layers",
                        before, plan->replica_slots);
    }
}

void verify_layers(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    LayerIndex index = index_layers(verifier);
    verify_steps_without_layer(verifier);
    verify_dense(verifier);
    for (uint32_t k = 0; k < plan->model.layers; k++) {
        const uint32_t *steps = index.steps + index.first[k];
        uint32_t count = index.first[k + 1] - index.first[k];
        const Choice *choice = verify_find_choice(plan, (int32_t)k);
        if (!choice) {
            verify_dense_layer(verifier, k, steps, count);
            continue;
        }
        verify_exchange(verifier, choice, steps, count);
        verify_gathers(verifier, choice, steps, count, SHAPE_GATHER);
        verify_gathers(verifier, choice, steps, count, SHAPE_SCATTER);
        if (!verifier->report->total) { // all are there
            verify_gather_order(verifier, steps, count);
        }
    }
    if (!verifier->report->total)
        verify_boundaries(verifier);
    if (!verifier->report->total)
        verify_replica_slots(verifier);
}
