// Mutation tests of the verifier: good plans of many shapes, broken systematically. Every mutant must violate a
// property meant for its kind, or be shown harmless by a rule that looks at the plan alone. A table of kills per kind
// and property is printed. Plans broken by hand, with exact messages, are in test_ir_verify.c.
// builds: dev  seconds: 7
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/planner.h"
#include "ir/order.h"
#include "ir/verify/verify.h"
#include "lowered.h"
#include "specs.h"

// X(NAME, "text"): what is done to a plan
#define MUTATORS(X)                                                                                                    \
    X(DROP_EDGE, "drop an edge")                                                                                       \
    X(CHANGE_OPERAND, "change an operand")                                                                             \
    X(SHIFT_GROUP, "shift a group")                                                                                    \
    X(RETARGET_LEVEL, "retarget a level")                                                                              \
    X(RETARGET_LAYER, "retarget a layer")                                                                              \
    X(SHRINK_BUFFER, "shrink a buffer")                                                                                \
    X(FREE_EARLY, "free early")                                                                                        \
    X(ALTER_BYTES, "alter bytes")                                                                                      \
    X(MOVE_BYTES, "move bytes elsewhere")                                                                              \
    X(CHANGE_CHOICE, "change a choice")                                                                                \
    X(DUPLICATE_STEP, "duplicate a send")                                                                              \
    X(DROP_STEP, "drop a send")                                                                                        \
    X(SWAP_STEPS, "swap two collectives")
#define X(name, text) MUTATE_##name,
typedef enum { MUTATORS(X) MUTATOR_COUNT } Mutator;
#undef X
static const char *const mutator_names[] = {
#define X(name, text) text,
    MUTATORS(X)
#undef X
};

#define P(name) (1u << PROPERTY_##name)
// The properties that a kind of mutant is meant for; more than one where the site decides.
static const uint32_t meant[MUTATOR_COUNT] = {
    [MUTATE_DROP_EDGE] = P(READS) | P(RACES) | P(MEMORY) | P(EXCHANGE) | P(GATHER),
    [MUTATE_CHANGE_OPERAND] =
        P(OPERANDS) | P(SIZES) | P(READS) | P(RACES) | P(MEMORY) | P(EXCHANGE) | P(GATHER) | P(FLOW),
    [MUTATE_SHIFT_GROUP] = P(STEPS) | P(OPERANDS) | P(EXCHANGE) | P(GATHER),
    [MUTATE_RETARGET_LEVEL] = P(STEPS),
    [MUTATE_RETARGET_LAYER] = P(OPERANDS) | P(SIZES) | P(EXCHANGE) | P(GATHER) | P(FLOW),
    [MUTATE_SHRINK_BUFFER] = P(OPERANDS) | P(SIZES),
    [MUTATE_FREE_EARLY] = P(MEMORY),
    [MUTATE_ALTER_BYTES] = P(TRAFFIC),
    [MUTATE_MOVE_BYTES] = P(TRAFFIC),
    [MUTATE_CHANGE_CHOICE] = P(CHOICES) | P(OPERANDS) | P(EXCHANGE) | P(GATHER),
    [MUTATE_DUPLICATE_STEP] = P(EXCHANGE) | P(GATHER) | P(FLOW),
    [MUTATE_DROP_STEP] = P(READS) | P(RACES) | P(MEMORY) | P(EXCHANGE) | P(GATHER) | P(FLOW),
    [MUTATE_SWAP_STEPS] = P(READS) | P(RACES) | P(MEMORY) | P(EXCHANGE) | P(GATHER) | P(FLOW),
};

typedef struct {
    uint32_t mutants, killed, harmless, survived, by[PROPERTY_COUNT];
} Score;

typedef struct {
    const Plan *good;
    Plan bad; // shallow: what a mutator changes is a copy in `arena`
    Arena *arena;
    Score *scores;
} Trial;

static void *copy_of(Arena *arena, const void *items, size_t count, size_t size)
{
    void *copy = arena_alloc_array(arena, count + 1, size);
    if (count)
        memcpy(copy, items, count * size);
    return copy;
}

static Plan *start(Trial *trial)
{
    const Plan *good = trial->good;
    arena_destroy(trial->arena);
    trial->arena = arena_create();
    trial->bad = *good;
    trial->bad.steps = copy_of(trial->arena, good->steps, good->step_count, sizeof(Step));
    trial->bad.buffers = copy_of(trial->arena, good->buffers, good->buffer_count, sizeof(Buffer));
    trial->bad.choices = copy_of(trial->arena, good->choices, good->choice_count, sizeof(Choice));
    trial->bad.operands = copy_of(trial->arena, good->operands, good->operand_count, sizeof(int32_t));
    trial->bad.after = copy_of(trial->arena, good->after, good->after_count, sizeof(uint32_t));
    return &trial->bad;
}

static void judge(Trial *trial, Mutator mutator, bool harmless, const char *site)
{
    Score *score = &trial->scores[mutator];
    VerifyReport report;
    score->mutants++;
    if (plan_verify(&trial->bad, &report)) {
        score->harmless += harmless;
        score->survived += !harmless;
        if (!harmless)
            fprintf(stderr, "survivor: %s of %s\n", mutator_names[mutator], site);
        return;
    }
    // A plan that promises room for so many layers' experts keeps to it, even where their memory is not used again.
    bool promised = strstr(report.items[0].message, "there is room for the experts of") != NULL;
    cr_assert(!harmless || promised || mutator == MUTATE_CHANGE_OPERAND, "%s of %s: harmless, yet refused: %s",
              mutator_names[mutator], site, report.items[0].message);
    uint32_t found = 0;
    for (uint32_t i = 0; i < verify_report_count(&report); i++)
        found |= 1u << report.items[i].property;
    score->killed++;
    for (int p = 0; p < PROPERTY_COUNT; p++)
        score->by[p] += found >> p & 1;
    cr_expect(found & meant[mutator], "%s of %s: refused for '%s' alone: %s", mutator_names[mutator], site,
              property_name(report.items[0].property), report.items[0].message);
}

// ---- harmless by rule ----------------------------------------------------------------------------

static bool overlap(const Buffer *a, const Buffer *b)
{
    return a->offset < b->offset + buffer_bytes(b) && b->offset < a->offset + buffer_bytes(a);
}

static bool conflict(const Plan *plan, uint32_t i, uint32_t j)
{
    const Step *a = &plan->steps[i], *b = &plan->steps[j];
    if (a->op == OP_ALL_REDUCE && b->op == OP_ALL_REDUCE) // sums of one gradient over two levels commute
        return false;
    const OpInfo *x = op_info((int)a->op), *y = op_info((int)b->op);
    for (uint32_t k = 0; k < x->operand_count; k++)
        for (uint32_t m = 0; m < y->operand_count; m++) {
            int32_t p = step_operands(plan, a)[k], q = step_operands(plan, b)[m];
            bool writes = x->operands[k].role != ROLE_IN || y->operands[m].role != ROLE_IN;
            if (p != NONE && q != NONE && writes && overlap(&plan->buffers[p], &plan->buffers[q]))
                return true;
        }
    return false;
}

// Two steps that touch the same bytes, one of them writing, are ordered as before: nothing can tell the plans apart.
// Step i of the good plan is step `place[i]` of the other.
static bool same_meaning(const Plan *good, const Plan *bad, const uint32_t *place)
{
    Arena *arena = arena_create();
    const Order *before = order_create(good, arena), *after = order_create(bad, arena);
    bool same = true;
    for (uint32_t i = 0; i < good->step_count && same; i++)
        for (uint32_t j = i + 1; j < good->step_count && same; j++)
            same = order_before(before, i, j) == order_before(after, place[i], place[j]) || !conflict(good, i, j);
    arena_destroy(arena);
    return same;
}

// Is what the step leaves in the buffer read before it is written again?
static bool read_later(const Plan *plan, uint32_t step, int32_t buffer)
{
    for (uint32_t i = step + 1; i < plan->step_count; i++) {
        const OpInfo *info = op_info((int)plan->steps[i].op);
        for (uint32_t k = 0; k < info->operand_count; k++)
            if (step_operands(plan, &plan->steps[i])[k] == buffer)
                return info->operands[k].role != ROLE_OUT;
    }
    return false;
}

// The latest step before `step` that writes the buffer; NONE without one.
static int64_t last_writer(const Plan *plan, uint32_t step, int32_t buffer)
{
    for (uint32_t i = step; i-- > 0;)
        for (uint32_t k = 0; k < op_info((int)plan->steps[i].op)->operand_count; k++)
            if (step_operands(plan, &plan->steps[i])[k] == buffer &&
                op_info((int)plan->steps[i].op)->operands[k].role != ROLE_IN)
                return i;
    return NONE;
}

// Do two buffers hold the same: made by the same op of the same inputs, which did not change in between?
static bool same_value(const Plan *plan, uint32_t step, int32_t a, int32_t b)
{
    int64_t x = last_writer(plan, step, a), y = last_writer(plan, step, b);
    if (x == NONE || y == NONE || plan->steps[x].op != plan->steps[y].op)
        return false;
    const OpInfo *info = op_info((int)plan->steps[x].op);
    for (uint32_t k = 0; k < info->operand_count; k++) {
        int32_t input = step_operands(plan, &plan->steps[x])[k];
        if ((info->operands[k].role == ROLE_INOUT || info->operands[k].role == ROLE_PART) && input != NONE)
            return false;
        if (info->operands[k].role == ROLE_IN &&
            (input != step_operands(plan, &plan->steps[y])[k] ||
             (input != NONE && last_writer(plan, (uint32_t)x, input) != last_writer(plan, (uint32_t)y, input))))
            return false;
    }
    return true;
}

// ---- mutators ------------------------------------------------------------------------------------

static const char *step_name(const Trial *trial, uint32_t step)
{
    return op_info((int)trial->good->steps[step].op)->name;
}

static bool sends(const Step *step)
{
    return op_info((int)step->op)->shape != SHAPE_LOCAL;
}

static const uint32_t *identity(Trial *trial)
{
    uint32_t *place = arena_alloc_array(trial->arena, trial->good->step_count, sizeof(*place));
    for (uint32_t i = 0; i < trial->good->step_count; i++)
        place[i] = i;
    return place;
}

static void drop_edges(Trial *trial)
{
    for (uint32_t s = 0; s < trial->good->step_count; s++)
        for (uint32_t k = 0; k < trial->good->steps[s].after_count; k++) {
            Plan *bad = start(trial);
            uint32_t *after = bad->after + bad->steps[s].after_first;
            after[k] = after[--bad->steps[s].after_count];
            judge(trial, MUTATE_DROP_EDGE, same_meaning(trial->good, bad, identity(trial)), step_name(trial, s));
        }
}

static void change_operand(Trial *trial, uint32_t s, uint32_t k)
{
    const Plan *good = trial->good;
    const OpInfo *info = op_info((int)good->steps[s].op);
    uint32_t place = good->steps[s].operand_first + k, tried = 0;
    int32_t old = good->operands[place];
    if (old == NONE)
        return;
    const Buffer *was = &good->buffers[old];
    for (uint32_t b = 0; b < good->buffer_count && tried < 3; b++) {
        const Buffer *now = &good->buffers[b];
        if ((int32_t)b == old || now->dtype != was->dtype || now->rows != was->rows || now->cols != was->cols)
            continue;
        start(trial)->operands[place] = (int32_t)b;
        tried++;
        bool unread = info->operands[k].role == ROLE_OUT && !read_later(good, s, old);
        bool same = info->operands[k].role == ROLE_IN && same_value(good, s, old, (int32_t)b);
        judge(trial, MUTATE_CHANGE_OPERAND, unread || same, info->operands[k].name);
    }
}

static void change_operands(Trial *trial)
{
    for (uint32_t s = 0; s < trial->good->step_count; s++)
        for (uint32_t k = 0; k < op_info((int)trial->good->steps[s].op)->operand_count; k++)
            change_operand(trial, s, k);
}

static void retarget(Trial *trial)
{
    const Plan *good = trial->good;
    for (uint32_t s = 0; s < good->step_count; s++) {
        const Step *step = &good->steps[s];
        for (uint32_t g = 0; g < good->group_count && sends(step); g++)
            if ((int32_t)g != step->group) {
                start(trial)->steps[s].group = (int32_t)g;
                judge(trial, MUTATE_SHIFT_GROUP, false, step_name(trial, s));
            }
        for (int32_t l = 0; l < (int32_t)good->cluster.level_count && sends(step); l++)
            if (l != step->level) {
                start(trial)->steps[s].level = l;
                judge(trial, MUTATE_RETARGET_LEVEL, false, step_name(trial, s));
            }
        if (step->layer != NONE) {
            start(trial)->steps[s].layer = (step->layer + 1) % (int32_t)good->model.layers;
            judge(trial, MUTATE_RETARGET_LAYER, good->model.layers == 1, step_name(trial, s));
        }
        if (sends(step) && step->bytes > 0) {
            start(trial)->steps[s].bytes *= 1.25;
            judge(trial, MUTATE_ALTER_BYTES, false, step_name(trial, s));
        }
    }
}

static void move_share(Trial *trial, uint32_t from, uint32_t to)
{
    Plan *bad = start(trial);
    double moved = bad->steps[from].bytes / 8;
    bad->steps[from].bytes -= moved;
    bad->steps[to].bytes += moved;
    judge(trial, MUTATE_MOVE_BYTES, false, step_name(trial, from));
}

// What a level carries stays the same, in every kind of transfer: from every step to the next of its kind, and to
// the last.
static void move_bytes(Trial *trial)
{
    const Plan *good = trial->good;
    for (uint32_t s = 0; s < good->step_count; s++) {
        uint32_t next = NONE, last = NONE;
        for (uint32_t i = s + 1; i < good->step_count; i++)
            if (sends(&good->steps[i]) && good->steps[i].level == good->steps[s].level &&
                op_info((int)good->steps[i].op)->shape == op_info((int)good->steps[s].op)->shape) {
                next = next == (uint32_t)NONE ? i : next;
                last = i;
            }
        if (!sends(&good->steps[s]) || next == (uint32_t)NONE)
            continue;
        move_share(trial, s, next);
        if (last != next)
            move_share(trial, s, last);
    }
}

static void change_buffers(Trial *trial)
{
    const Plan *good = trial->good;
    for (uint32_t b = 0; b < good->buffer_count; b++) {
        Buffer *buffer = &start(trial)->buffers[b];
        *(buffer->rows > 1 ? &buffer->rows : &buffer->cols) -= 1;
        judge(trial, MUTATE_SHRINK_BUFFER, false, good->buffers[b].name);
    }
    for (uint32_t s = 0; s < good->step_count; s++) {
        const OpInfo *info = op_info((int)good->steps[s].op);
        const int32_t *operands = step_operands(good, &good->steps[s]);
        for (uint32_t k = 1; k < info->operand_count; k++)
            if (operands[k] != NONE && operands[k - 1] != NONE && operands[k] != operands[k - 1]) {
                Plan *bad = start(trial);
                bad->buffers[operands[k]].offset = bad->buffers[operands[k - 1]].offset;
                judge(trial, MUTATE_FREE_EARLY, false, step_name(trial, s));
            }
    }
}

static void change_choices(Trial *trial)
{
    const Plan *good = trial->good;
    for (uint32_t c = 0; c < good->choice_count; c++)
        for (uint32_t l = 0; l < good->cluster.level_count; l++)
            for (uint32_t domain = 1; domain <= good->cluster.levels[l].count; domain++)
                if (domain != good->choices[c].domain[l]) {
                    start(trial)->choices[c].domain[l] = domain;
                    judge(trial, MUTATE_CHANGE_CHOICE, false, good->cluster.levels[l].name);
                }
}

static void shift_edges(Plan *plan, uint32_t from, int32_t by)
{
    for (uint32_t i = 0; i < plan->after_count; i++)
        plan->after[i] += (uint32_t)(plan->after[i] >= from ? by : 0);
}

static void add_and_drop_steps(Trial *trial)
{
    for (uint32_t s = 0; s < trial->good->step_count; s++) {
        if (!sends(&trial->good->steps[s]))
            continue;
        Plan *bad = start(trial);
        memmove(bad->steps + s + 1, bad->steps + s, (bad->step_count++ - s) * sizeof(Step));
        shift_edges(bad, s, 1);
        bad->steps[s].after_count = bad->steps[s + 1].after_count;
        judge(trial, MUTATE_DUPLICATE_STEP, false, step_name(trial, s));
        bad = start(trial);
        for (uint32_t i = s + 1; i < bad->step_count; i++) // what waited for it waits for nothing in its place
            for (uint32_t k = bad->steps[i].after_count; k-- > 0;)
                if (bad->after[bad->steps[i].after_first + k] == s)
                    bad->after[bad->steps[i].after_first + k] =
                        bad->after[bad->steps[i].after_first + --bad->steps[i].after_count];
        shift_edges(bad, s, -1);
        memmove(bad->steps + s, bad->steps + s + 1, (--bad->step_count - s) * sizeof(Step));
        judge(trial, MUTATE_DROP_STEP, false, step_name(trial, s));
    }
}

// A collective trades places with the next one of its stream; edges stay with the places.
static void swap_steps(Trial *trial)
{
    const Plan *good = trial->good;
    for (uint32_t s = 0; s < good->step_count; s++) {
        uint32_t next = s + 1;
        while (next < good->step_count && (!sends(&good->steps[next]) || op_info((int)good->steps[next].op)->stream !=
                                                                             op_info((int)good->steps[s].op)->stream))
            next++;
        if (!sends(&good->steps[s]) || next == good->step_count)
            continue;
        Plan *bad = start(trial);
        Step first = bad->steps[s], second = bad->steps[next];
        bad->steps[s] = second;
        bad->steps[next] = first;
        bad->steps[s].after_first = first.after_first;
        bad->steps[s].after_count = first.after_count;
        bad->steps[next].after_first = second.after_first;
        bad->steps[next].after_count = second.after_count;
        uint32_t *place = (uint32_t *)identity(trial);
        place[s] = next;
        place[next] = s;
        judge(trial, MUTATE_SWAP_STEPS, same_meaning(good, bad, place), step_name(trial, s));
    }
}

// ---- plans ---------------------------------------------------------------------------------------

static void try_plan(const Plan *plan, Score *scores)
{
    VerifyReport report;
    bool valid = plan_verify(plan, &report);
    cr_assert(valid, "%s", report.items[0].message);
    Trial trial = {.good = plan, .arena = arena_create(), .scores = scores};
    drop_edges(&trial);
    change_operands(&trial);
    retarget(&trial);
    move_bytes(&trial);
    change_buffers(&trial);
    change_choices(&trial);
    add_and_drop_steps(&trial);
    swap_steps(&trial);
    arena_destroy(trial.arena);
}

static void print_scores(const Score *scores)
{
    printf("%-22s %8s %8s %9s  killed by\n", "# mutation", "mutants", "killed", "harmless");
    for (int m = 0; m < MUTATOR_COUNT; m++) {
        printf("%-22s %8u %8u %9u ", mutator_names[m], scores[m].mutants, scores[m].killed, scores[m].harmless);
        for (int p = 0; p < PROPERTY_COUNT; p++)
            if (scores[m].by[p])
                printf(" %s %u", property_name((Property)p), scores[m].by[p]);
        printf("\n");
    }
}

static Spec shape(int i)
{
    static const uint32_t counts[][3] = {{2, 4, 0}, {2, 2, 2}, {2, 2, 0}};
    Spec spec = spec_small_gpt(counts[i % 3], i % 3 == 2 ? 8 : 16, 2);
    spec.plan.pass = i % 2 ? PASS_TRAINING : PASS_FORWARD;
    spec.plan.dispatch = i % 4 < 2 ? DISPATCH_DEDUP : DISPATCH_NAIVE;
    spec.plan.codec = i == 1 || i == 4 ? CODEC_SR : CODEC_DENSE;
    spec.plan.ratio = spec.plan.codec == CODEC_SR ? 7.5 : 1;
    spec.plan.capacity = i == 3 ? 1.5 : 0;
    spec.plan.exchange = i == 1 || i == 4 ? EXCHANGE_PADDED : EXCHANGE_COUNTED;
    spec.plan.capacity = spec.plan.exchange == EXCHANGE_PADDED ? 1.25 : spec.plan.capacity;
    spec.model.shared_experts = i == 5;
    if (i == 1) {
        spec.plan.shared_every = 4;
    } else if (i >= 5) { // delta, packets of gradients, the norm
        spec.training.clip = 1;
        spec.plan.codec = i == 6 ? CODEC_DELTA : spec.plan.codec;
        spec.plan.ratio = i == 6 ? 7.5 : 1;
        spec.plan.gradient = i == 6 ? GRADIENT_TOPK : GRADIENT_DENSE;
        spec.plan.gradient_ratio = i == 6 ? 9 : 1;
        spec.plan.pass = PASS_TRAINING;
    }
    spec.replica_levels = i == 2;
    if (i == 2)
        spec.model.experts = 2;
    if (i == 5) { // parts of experts
        spec.model.experts = 2;
        spec.model.layers = 3;
        spec.model.first_dense = 1;
        spec.model.ffn_inner = 24;
    }
    return spec;
}

// Layers that differ in their domains, and in whether replicas are kept or gathered again; where they are dropped, with
// room for one or two layers' experts at a time.
static Plan *mixed_plan(const Spec *spec, const Workload *work, const Candidate *candidates, size_t count, int i)
{
    Config configs[4];
    cr_assert(work->moe_count <= COUNT_OF(configs));
    for (uint32_t k = 0; k < work->moe_count; k++)
        configs[k] = candidates[(count - 1 + 3 * k) % count].config;
    Mix mix = {.configs = configs, .prefetch = (uint32_t)i / 2 % 2};
    return lowered_mix(spec, work, &mix);
}

Test(mutants, every_mutant_is_refused_or_harmless, .timeout = 120)
{
    Score scores[MUTATOR_COUNT] = {0};
    for (int i = 0; i < 7; i++) {
        Spec spec = shape(i);
        Arena *arena = arena_create();
        Workload *work = workload_derive(&spec, arena);
        Candidate *candidates;
        size_t count;
        cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
        for (size_t c = (size_t)i % 2; c < count; c += 2) {
            Plan *plan = lowered_plan(&spec, work, &candidates[c]);
            try_plan(plan, scores);
            plan_destroy(plan);
        }
        Plan *mixed = mixed_plan(&spec, work, candidates, count, i);
        try_plan(mixed, scores);
        plan_destroy(mixed);
        arena_destroy(arena);
    }
    print_scores(scores);
    for (int m = 0; m < MUTATOR_COUNT; m++) {
        cr_expect_gt(scores[m].killed, 0, "no mutant of '%s' was killed", mutator_names[m]);
        cr_expect_eq(scores[m].survived, 0, "%u mutants of '%s' survive", scores[m].survived, mutator_names[m]);
    }
}

// ---- overlaps ------------------------------------------------------------------------------------

// What "share memory only when never alive together" says, pair by pair.
static bool pairs_share_well(const Plan *plan)
{
    Arena *scratch = arena_create();
    const Lifetimes *lifetimes = lifetimes_create(plan, order_create(plan, scratch), scratch);
    bool good = true;
    for (uint32_t a = 0; a < plan->buffer_count; a++)
        for (uint32_t b = 0; b < a; b++) {
            const Buffer *x = &plan->buffers[a], *y = &plan->buffers[b];
            bool meet = x->offset < y->offset + buffer_bytes(y) && y->offset < x->offset + buffer_bytes(x);
            if (meet && buffer_bytes(x) && buffer_bytes(y) && !lifetimes_disjoint(lifetimes, a, b))
                good = false;
        }
    arena_destroy(scratch);
    return good;
}

static bool verifier_finds_no_overlap(const Plan *plan)
{
    VerifyReport report;
    bool good = plan_verify(plan, &report);
    for (uint32_t i = 0; i < verify_report_count(&report); i++)
        cr_assert(report.items[i].property == PROPERTY_MEMORY, "%s", report.items[i].message);
    return good;
}

// One temporary of a good plan after the other is moved to where others lie, at their begin or within them.
Test(mutants, overlaps_are_what_pairs_say)
{
    uint32_t good = 0, bad = 0, random = 1;
    for (int i = 0; i < 7; i++) {
        Spec spec = shape(i);
        Arena *arena = arena_create();
        Workload *work = workload_derive(&spec, arena);
        Candidate *candidates;
        size_t count;
        cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
        Plan *plan = lowered_plan(&spec, work, &candidates[count - 1]);
        uint64_t end = plan->arena_bytes;
        plan->arena_bytes *= 2;
        plan->strategies[0].memory_bytes = plan_memory_bytes(plan);
        for (int trial = 0; trial < 60; trial++) {
            random = random * 1664525 + 1013904223;
            Buffer *moved = &plan->buffers[(random >> 8) % plan->buffer_count];
            uint64_t before = moved->offset;
            random = random * 1664525 + 1013904223;
            moved->offset = (random >> 8) % (end / BUFFER_ALIGNMENT) * BUFFER_ALIGNMENT;
            bool expected = pairs_share_well(plan);
            cr_assert_eq(verifier_finds_no_overlap(plan), expected, "shape %d, '%s' at %llu", i, moved->name,
                         (unsigned long long)moved->offset);
            good += expected;
            bad += !expected;
            moved->offset = expected ? moved->offset : before; // good moves stay
        }
        plan_destroy(plan);
        arena_destroy(arena);
    }
    cr_assert_gt(good, 20);
    cr_assert_gt(bad, 20);
}
