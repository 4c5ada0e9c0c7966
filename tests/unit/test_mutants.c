// Mutation tests of the verifier: good plans of many shapes, broken systematically. Every mutant must violate a
// property meant for its kind, or be shown harmless by a rule that looks at the plan alone. A table of kills per kind
// and property is printed. Plans broken by hand, with exact messages, are in test_ir_verify.c.
// Training plans of several micro-batches are broken where their loop is, too; what is harmless then is looked at in
// all micro-batches, unrolled.
// builds: dev fast  seconds: 12
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "compiler/lowering/lower.h"
#include "compiler/solve/planner.h"
#include "effort.h"
#include "ir/bundle.h"
#include "ir/order.h"
#include "ir/unroll.h"
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
    X(MOVE_BOUNDARY, "move the gradients' boundary")                                                                   \
    X(CHANGE_FORMAT, "change how rows travel")                                                                         \
    X(DUPLICATE_STEP, "duplicate a send")                                                                              \
    X(DROP_STEP, "drop a send")                                                                                        \
    X(SWAP_STEPS, "swap two collectives")                                                                              \
    X(CHANGE_WHEN, "run in other micro-batches")                                                                       \
    X(CHANGE_SPAN, "change a span")                                                                                    \
    X(DROP_SUM, "drop a step of a sum")                                                                                \
    X(RETURN_EARLY, "end a sum early")                                                                                 \
    X(CHANGE_COUNT, "change the micro-batches")                                                                        \
    X(JOIN, "join a step, or part it")
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
        P(OPERANDS) | P(SIZES) | P(LOOP) | P(READS) | P(RACES) | P(MEMORY) | P(EXCHANGE) | P(GATHER) | P(FLOW),
    [MUTATE_SHIFT_GROUP] = P(STEPS) | P(OPERANDS) | P(EXCHANGE) | P(GATHER),
    [MUTATE_RETARGET_LEVEL] = P(STEPS),
    [MUTATE_RETARGET_LAYER] = P(OPERANDS) | P(SIZES) | P(EXCHANGE) | P(GATHER) | P(FLOW),
    [MUTATE_SHRINK_BUFFER] = P(OPERANDS) | P(SIZES),
    [MUTATE_FREE_EARLY] = P(MEMORY),
    [MUTATE_ALTER_BYTES] = P(TRAFFIC),
    [MUTATE_MOVE_BYTES] = P(TRAFFIC),
    [MUTATE_CHANGE_CHOICE] = P(CHOICES) | P(OPERANDS) | P(EXCHANGE) | P(GATHER),
    [MUTATE_MOVE_BOUNDARY] = P(GATHER) | P(CLAIMS),
    [MUTATE_CHANGE_FORMAT] = P(OPERANDS) | P(FLOW) | P(CLAIMS),
    [MUTATE_DUPLICATE_STEP] = P(EXCHANGE) | P(GATHER) | P(FLOW),
    [MUTATE_DROP_STEP] = P(READS) | P(RACES) | P(MEMORY) | P(EXCHANGE) | P(GATHER) | P(FLOW),
    [MUTATE_SWAP_STEPS] = P(EDGES) | P(READS) | P(RACES) | P(MEMORY) | P(EXCHANGE) | P(GATHER) | P(FLOW),
    [MUTATE_CHANGE_WHEN] = P(LOOP) | P(READS) | P(RACES) | P(MEMORY) | P(EDGES),
    [MUTATE_CHANGE_SPAN] = P(LOOP) | P(READS) | P(RACES) | P(MEMORY),
    [MUTATE_DROP_SUM] = P(LOOP) | P(READS) | P(MEMORY) | P(GATHER) | P(FLOW),
    [MUTATE_RETURN_EARLY] = P(LOOP) | P(READS) | P(RACES) | P(MEMORY) | P(GATHER) | P(FLOW),
    [MUTATE_JOIN] = P(EDGES) | P(RACES) | P(MEMORY) | P(READS),
    [MUTATE_CHANGE_COUNT] = P(EDGES) | P(LOOP) | P(TRAFFIC) | P(MEMORY) | P(FLOW),
};

typedef struct {
    uint32_t mutants, killed, harmless, survived, by[PROPERTY_COUNT];
} Score;

typedef struct Conflicts Conflicts;

typedef struct {
    const Plan *good;
    const Conflicts *conflicts; // of `good`
    Plan bad;                   // shallow: what a mutator changes is a copy in `arena`
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

// Of all mutants a share, by the fractional parts of multiples of the golden ratio: no pattern of the order in which
// mutators make them falls in with that.
static bool is_tried(void)
{
    static uint32_t made;
    return made++ * 2654435769u <= UINT32_MAX / EFFORT_SHARE;
}

static void judge(Trial *trial, Mutator mutator, bool harmless, const char *site)
{
    if (!is_tried())
        return;
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
    bool strict = mutator == MUTATE_CHANGE_OPERAND || mutator == MUTATE_CHANGE_WHEN || mutator == MUTATE_CHANGE_SPAN;
    // Waits that one micro-batch alone needs are kept, since flow follows one.
    strict = strict || (mutator == MUTATE_DROP_EDGE && trial->good->micro_batches > 1);
    // Steps of a run are alike, and stand in its place.
    bool has_runs = trial->good->bucket > 0;
    strict = strict || (mutator == MUTATE_SWAP_STEPS && has_runs);
    cr_assert(!harmless || promised || strict, "%s of %s: harmless, yet refused: %s", mutator_names[mutator], site,
              report.items[0].message);
    uint32_t found = 0;
    for (uint32_t i = 0; i < verify_report_count(&report); i++)
        found |= 1u << report.items[i].property;
    score->killed++;
    for (int p = 0; p < PROPERTY_COUNT; p++)
        score->by[p] += found >> p & 1;
    cr_expect(found & (meant[mutator] | (has_runs ? P(EDGES) : 0)), "%s of %s: refused for '%s' alone: %s",
              mutator_names[mutator], site, property_name(report.items[0].property), report.items[0].message);
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

// Pairs of executions of the good plan, unrolled, that touch the same bytes, one of them writing; and whether the first
// comes before the second.
typedef struct {
    uint32_t a, b;
    bool before;
} Conflict;

struct Conflicts {
    const Plan *unrolled;
    Conflict *items;
    size_t count;
};

static Conflicts find_conflicts(const Plan *plan, Arena *arena)
{
    Conflicts found = {.unrolled = plan_unroll_all(plan, arena)};
    size_t steps = found.unrolled->step_count;
    const Order *order = order_create(found.unrolled, arena);
    found.items = arena_alloc_array(arena, steps * steps / 2 + 1, sizeof(*found.items));
    for (uint32_t i = 0; i < steps; i++)
        for (uint32_t j = i + 1; j < steps; j++)
            if (conflict(found.unrolled, i, j))
                found.items[found.count++] = (Conflict){i, j, order_before(order, i, j)};
    return found;
}

// Which of its executions one of a step is: of each micro-batch, of each lap, or of the iteration.
static uint32_t execution_of(const Plan *unrolled, const Step *step)
{
    if (!step_repeats(step))
        return 0;
    return step->when == WHEN_EVERY ? step->micro_batch : step->micro_batch / plan_laps(unrolled).each;
}

// Executions that conflict are ordered as before: nothing can tell the plans apart. Step i of the good plan is step
// `place[i]` of the other, and runs as often.
static bool same_meaning(const Conflicts *conflicts, const Plan *bad, const uint32_t *place)
{
    const Plan *good = conflicts->unrolled;
    Arena *arena = arena_create();
    const Plan *unrolled = plan_unroll_all(bad, arena);
    uint32_t count = unrolled->micro_batches;
    int64_t *executions = arena_alloc_array(arena, (size_t)bad->step_count * count, sizeof(*executions));
    memset(executions, 0xff, (size_t)bad->step_count * count * sizeof(*executions)); // NONE
    for (uint32_t i = 0; i < unrolled->step_count; i++) {
        const Step *step = &unrolled->steps[i];
        executions[unrolled->unrolled ? step->written * count + execution_of(unrolled, step) : i] = i;
    }
    const Order *order = order_create(unrolled, arena);
    bool same = unrolled->step_count == good->step_count;
    for (size_t c = 0; c < conflicts->count && same; c++) {
        int64_t at[2];
        for (int k = 0; k < 2; k++) {
            uint32_t e = k ? conflicts->items[c].b : conflicts->items[c].a;
            const Step *step = &good->steps[e];
            at[k] = executions[good->unrolled ? place[step->written] * count + execution_of(good, step) : place[e]];
        }
        same = at[0] != NONE && at[1] != NONE &&
               order_before(order, (uint32_t)at[0], (uint32_t)at[1]) == conflicts->items[c].before;
    }
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

// Does one buffer hold before one step what another holds before another: made by the same ops of the same?
static bool same_value_at(const Plan *plan, uint32_t i, int32_t a, uint32_t j, int32_t b)
{
    int64_t x = last_writer(plan, i, a), y = last_writer(plan, j, b);
    if (a == b && x == y)
        return true;
    if (x == NONE || y == NONE || plan->steps[x].op != plan->steps[y].op)
        return false;
    const OpInfo *info = op_info((int)plan->steps[x].op);
    const int32_t *of_x = step_operands(plan, &plan->steps[x]), *of_y = step_operands(plan, &plan->steps[y]);
    for (uint32_t k = 0; k < info->operand_count; k++) {
        if ((info->operands[k].role == ROLE_INOUT || info->operands[k].role == ROLE_PART) && of_x[k] != NONE)
            return false;
        if (info->operands[k].role == ROLE_IN && of_x[k] != of_y[k] && (of_x[k] == NONE || of_y[k] == NONE))
            return false;
        if (info->operands[k].role == ROLE_IN && of_x[k] != NONE &&
            !same_value_at(plan, (uint32_t)x, of_x[k], (uint32_t)y, of_y[k]))
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
            judge(trial, MUTATE_DROP_EDGE, same_meaning(trial->conflicts, bad, identity(trial)), step_name(trial, s));
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
        bool same = info->operands[k].role == ROLE_IN && same_value_at(good, s, old, s, (int32_t)b);
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

// Levels that a bundle is gathered over, one bit each, from `first` to before `end`.
static bool are_between(uint32_t gathered, uint32_t first, uint32_t end)
{
    return (gathered >> first & ((1u << (end > first ? end - first : 0)) - 1)) != 0;
}

static void move_boundary(Trial *trial, int64_t choice, uint32_t gathered, uint32_t kept, uint32_t now)
{
    const Plan *good = trial->good;
    for (uint32_t to = good->replica_levels; to <= kept; to++) {
        if (!are_between(gathered, to < now ? to : now, to < now ? now : to))
            continue;
        Plan *bad = start(trial);
        bool apart = to < kept;
        if (choice >= 0) {
            bad->choices[choice].returns_apart = apart;
            bad->choices[choice].once_gradient = apart ? to : 0;
        } else {
            bad->returns_dense_apart = apart;
            bad->once_dense_gradient = apart ? to : 0;
        }
        judge(trial, MUTATE_MOVE_BOUNDARY, false, choice >= 0 ? "experts" : "dense weights");
    }
}

// Of gradients, to every other place outside that of the weights from which levels in use lie in between.
static void move_boundaries(Trial *trial)
{
    const Plan *good = trial->good;
    uint32_t levels = good->cluster.level_count;
    for (uint32_t c = 0; c < good->choice_count; c++) {
        const Choice *choice = &good->choices[c];
        uint32_t gathered = 0;
        for (uint32_t l = good->replica_levels; l < levels; l++)
            gathered |= (uint32_t)(choice->domain[l] > 1) << l;
        move_boundary(trial, c, gathered, choice->regather ? choice->once : levels, plan_gradient_levels(good, choice));
    }
    move_boundary(trial, -1, plan_shared_levels(good), good->regather_dense ? good->once_dense : levels,
                  plan_dense_gradient_levels(good));
}

static void shift_edges(Plan *plan, uint32_t from, int32_t by)
{
    for (uint32_t i = 0; i < plan->after_count; i++)
        plan->after[i] += (uint32_t)(plan->after[i] >= from ? by : 0);
}

// What waited for it waits for nothing in its place.
static void drop_step(Trial *trial, uint32_t s, Mutator mutator)
{
    Plan *bad = start(trial);
    for (uint32_t i = 0; i < bad->step_count; i++)
        for (uint32_t k = bad->steps[i].after_count; k-- > 0;)
            if (bad->after[bad->steps[i].after_first + k] == s)
                bad->after[bad->steps[i].after_first + k] =
                    bad->after[bad->steps[i].after_first + --bad->steps[i].after_count];
    shift_edges(bad, s, -1);
    memmove(bad->steps + s, bad->steps + s + 1, (--bad->step_count - s) * sizeof(Step));
    judge(trial, mutator, false, step_name(trial, s));
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
        drop_step(trial, s, MUTATE_DROP_STEP);
    }
}

// A collective trades places with the next one of its stream; edges stay with the places.
static void swap_steps(Trial *trial)
{
    const Plan *good = trial->good;
    for (uint32_t s = 0; s < good->step_count; s++) {
        uint32_t next = s + 1;
        while (next < good->step_count && (!sends(&good->steps[next]) ||
                                           step_stream(good, &good->steps[next]) != step_stream(good, &good->steps[s])))
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
        judge(trial, MUTATE_SWAP_STEPS, same_meaning(trial->conflicts, bad, place), step_name(trial, s));
    }
}

// ---- the loop ------------------------------------------------------------------------------------

// A step of one micro-batch runs in all, or in another one. What runs once, and conflicts with the same before and
// after it, may do so in any.
static void change_when(Trial *trial)
{
    const Plan *good = trial->good;
    for (uint32_t s = 0; s < good->step_count; s++)
        for (int when = 0; when < STEP_WHEN_COUNT; when++) {
            if ((int)good->steps[s].when == when)
                continue;
            Plan *bad = start(trial);
            bad->steps[s].when = (StepWhen)when;
            bool once = good->steps[s].when != WHEN_EVERY && when != WHEN_EVERY;
            judge(trial, MUTATE_CHANGE_WHEN, once && same_meaning(trial->conflicts, bad, identity(trial)),
                  step_name(trial, s));
        }
}

// Do values of two buffers, in all micro-batches, share memory only when they are never alive together?
static bool values_share_well(const Plan *plan)
{
    Arena *scratch = arena_create();
    const Plan *unrolled = plan_unroll_all(plan, scratch);
    const Lifetimes *lifetimes = lifetimes_create(unrolled, order_create(unrolled, scratch), scratch);
    bool good = true;
    for (uint32_t a = 0; a < unrolled->buffer_count && good; a++)
        for (uint32_t b = 0; b < a && good; b++)
            good = !overlap(&unrolled->buffers[a], &unrolled->buffers[b]) || lifetimes_disjoint(lifetimes, a, b);
    arena_destroy(scratch);
    return good;
}

// A buffer that holds more values than it must, or one value after the other where none is wanted later.
static void change_spans(Trial *trial)
{
    const Plan *good = trial->good;
    for (uint32_t b = 0; b < good->buffer_count; b++)
        for (int span = 0; span < BUFFER_SPAN_COUNT; span++) {
            BufferSpan old = good->buffers[b].span;
            if ((int)old == span)
                continue;
            Plan *bad = start(trial);
            bad->buffers[b].span = (BufferSpan)span;
            bool as_many = old != SPAN_ITERATION && span != SPAN_ITERATION && good->buffers[b].kind != BUFFER_INPUT;
            judge(trial, MUTATE_CHANGE_SPAN, as_many && values_share_well(bad), good->buffers[b].name);
        }
}

static void drop_sums(Trial *trial)
{
    for (uint32_t s = 0; s < trial->good->step_count; s++) {
        Op op = trial->good->steps[s].op;
        if (op == OP_CLEAR || op == OP_ACCUMULATE || op == OP_ROUND || op == OP_ADD_RETURNED || op == OP_ROUND_RETURNED)
            drop_step(trial, s, MUTATE_DROP_SUM);
    }
}

// Where step `i` is once step `from` stands before step `to`.
static uint32_t moved_place(uint32_t i, uint32_t from, uint32_t to)
{
    return i == from ? to : i >= to && i < from ? i + 1 : i;
}

// What ends a sum, in the compute stream or another, comes before what adds to it last; so does what waits for it.
static void end_sums_early(Trial *trial)
{
    const Plan *good = trial->good;
    for (uint32_t s = 0; s < good->step_count; s++) {
        if (good->steps[s].op != OP_ACCUMULATE)
            continue;
        int32_t sum = step_operand(good, &good->steps[s], OPERAND_sum);
        uint32_t end = s + 1;
        while (end < good->step_count && good->steps[end].op != OP_ACCUMULATE &&
               step_operand(good, &good->steps[end], OPERAND_sum) != sum &&
               step_operand(good, &good->steps[end], OPERAND_gathered) != sum &&
               step_operand(good, &good->steps[end], OPERAND_gradient) != sum)
            end++;
        if (end == good->step_count || good->steps[end].op == OP_ACCUMULATE)
            continue;
        Plan *bad = start(trial);
        Step ends = bad->steps[end];
        for (uint32_t k = ends.after_count; k-- > 0;)
            if (bad->after[ends.after_first + k] >= s)
                bad->after[ends.after_first + k] = bad->after[ends.after_first + --ends.after_count];
        memmove(bad->steps + s + 1, bad->steps + s, (end - s) * sizeof(Step));
        bad->steps[s] = ends;
        for (uint32_t i = 0; i < bad->after_count; i++)
            bad->after[i] = moved_place(bad->after[i], end, s);
        judge(trial, MUTATE_RETURN_EARLY, false, step_name(trial, end));
    }
}

// More micro-batches than bytes and memory are stated for, fewer, and one. A plan that exchanges nothing, with memory
// for so many, may have them.
static void change_count(Trial *trial)
{
    const Plan *good = trial->good;
    bool exchanges = false;
    for (uint32_t s = 0; s < good->step_count; s++)
        exchanges |= op_info((int)good->steps[s].op)->shape == SHAPE_EXCHANGE;
    const uint32_t all = good->micro_batches, each = plan_laps(good).each, by = plan_abreast(good);
    const uint32_t alone[][2] = {{all + by, 0}, {all - by, 0}, {by > 1 ? 3 * all : 1, 0}};
    const uint32_t of_laps[][2] = {{all + each, good->lap}, {all, 0}, {2 * all, 2 * each}};
    for (size_t i = 0; i < COUNT_OF(alone); i++) {
        const uint32_t *others = good->lap ? of_laps[i] : alone[i];
        Plan *bad = start(trial);
        bad->micro_batches = others[0];
        bad->lap = others[1];
        judge(trial, MUTATE_CHANGE_COUNT, others[0] > 1 && !exchanges && values_share_well(bad), "the plan");
    }
}

// Other rows than the plan has buffers and steps for. Where no rows travel it makes no difference; formats whose rows
// are as large make another plan, and a good one.
static void change_formats(Trial *trial)
{
    const Plan *good = trial->good;
    bool exchanges = false;
    for (uint32_t s = 0; s < good->step_count; s++)
        exchanges |= op_info((int)good->steps[s].op)->shape == SHAPE_EXCHANGE;
    for (uint32_t way = 0; way < TOKEN_WAYS; way++) {
        for (int format = 0; format < TOKEN_FORMAT_COUNT; format++) {
            bool none = good->pass == PASS_FORWARD && way >= WAY_DISPATCH_GRADIENT; // there are no gradients
            bool as_large = format != TOKENS_FULL && token_block((TokenFormat)format) == token_block(good->tokens[way]);
            if (format == (int)good->tokens[way])
                continue;
            start(trial)->tokens[way] = (TokenFormat)format;
            judge(trial, MUTATE_CHANGE_FORMAT, !none && (as_large || !exchanges), "the plan");
        }
    }
}

static int64_t step_before(const Plan *plan, int64_t step)
{
    Stream stream = step_stream(plan, &plan->steps[step]);
    while (--step >= 0 && step_stream(plan, &plan->steps[step]) != stream)
        ;
    return step;
}

// What touches the same bytes is ordered as it was.
static bool as_ordered(const Conflicts *conflicts, const Plan *bad)
{
    Arena *arena = arena_create();
    const Order *order = order_create(plan_unroll_all(bad, arena), arena);
    bool ordered = true;
    for (size_t c = 0; c < conflicts->count; c++)
        ordered = ordered &&
                  (!conflicts->items[c].before || order_before(order, conflicts->items[c].a, conflicts->items[c].b));
    arena_destroy(arena);
    return ordered;
}

// May the step join the one before it on its stream?
static bool may_join(const Plan *plan, uint32_t s)
{
    const Step *step = &plan->steps[s];
    OpShape shape = op_info((int)step->op)->shape;
    int64_t before = step_before(plan, s);
    if ((shape != SHAPE_GATHER && shape != SHAPE_SCATTER) || before < 0 || step->after_count || plan->bucket == 0)
        return false;
    const Step *other = &plan->steps[before];
    bool once = plan->micro_batches == 1 || step->when == WHEN_FIRST || step->when == WHEN_LAST;
    bool alike = other->op == step->op && other->group == step->group && other->when == step->when;
    return once && alike && step->layer != NONE && other->layer != NONE &&
           step->layer / (int32_t)plan->bucket == other->layer / (int32_t)plan->bucket;
}

// A step that parts from its run pays a start-up, which harms where others wait for the first of the run alone.
static void toggle_joins(Trial *trial)
{
    const Plan *good = trial->good;
    for (uint32_t s = 0; s < good->step_count; s++) {
        Plan *bad = start(trial);
        bad->steps[s].joined = !good->steps[s].joined;
        bool sound = good->steps[s].joined || may_join(good, s);
        judge(trial, MUTATE_JOIN, sound && as_ordered(trial->conflicts, bad), step_name(trial, s));
    }
}

// ---- plans ---------------------------------------------------------------------------------------

static void try_plan(const Plan *plan, Score *scores)
{
    VerifyReport report;
    bool valid = plan_verify(plan, &report);
    cr_assert(valid, "%s", report.items[0].message);
    Arena *arena = arena_create();
    Conflicts conflicts = find_conflicts(plan, arena);
    Trial trial = {.good = plan, .conflicts = &conflicts, .arena = arena_create(), .scores = scores};
    drop_edges(&trial);
    change_operands(&trial);
    retarget(&trial);
    move_bytes(&trial);
    change_buffers(&trial);
    change_choices(&trial);
    if (plan->pass == PASS_TRAINING)
        move_boundaries(&trial);
    change_formats(&trial);
    add_and_drop_steps(&trial);
    swap_steps(&trial);
    toggle_joins(&trial);
    if (plan->micro_batches > 1) {
        change_when(&trial);
        change_spans(&trial);
        drop_sums(&trial);
        end_sums_early(&trial);
        change_count(&trial);
    }
    arena_destroy(trial.arena);
    arena_destroy(arena);
}

static void print_scores(const Score *scores)
{
    printf("%-26s %8s %8s %9s  killed by\n", "# mutation", "mutants", "killed", "harmless");
    for (int m = 0; m < MUTATOR_COUNT; m++) {
        printf("%-26s %8u %8u %9u ", mutator_names[m], scores[m].mutants, scores[m].killed, scores[m].harmless);
        for (int p = 0; p < PROPERTY_COUNT; p++)
            if (scores[m].by[p])
                printf(" %s %u", property_name((Property)p), scores[m].by[p]);
        printf("\n");
    }
}

enum { SHAPES = 7, LOOPS = 4, LAPS = 9, BUCKETS = 3, APART = 3 };

// Training of 2 or 3 micro-batches, with activations kept or computed again, sums in the weights' dtype or in f32.
static Spec looped_shape(int i)
{
    Spec spec = spec_small_gpt(i == 3 ? (uint32_t[]){2, 4, 0} : (uint32_t[]){2, 2, 0}, 8, 2);
    spec.model.layers = 1 + i % 2;
    spec.model.shared_experts = i == 2;
    spec.model.dtype = i < 2 ? DTYPE_F32 : DTYPE_BF16;
    spec.plan.pass = PASS_TRAINING;
    spec.plan.micro_batches = i % 2 ? 2 : 3;
    spec.plan.recomputes = i % 3 == 1 || i == 2;
    spec.plan.regather_dense = i == 1;
    spec.training.clip = i == 0;
    spec.plan.tokens[WAY_DISPATCH] = i == 1 ? TOKENS_INT4 : TOKENS_FULL;
    spec.plan.tokens[WAY_DISPATCH_GRADIENT] = i == 1 ? TOKENS_FP8 : TOKENS_FULL;
    if (i == 3) { // experts travel by a codec, and so do their gradients
        spec.plan.experts.codec = CODEC_SR;
        spec.plan.experts.ratio = 7.5;
        spec.plan.shared_every = 4;
    }
    if (i % 2) { // so do dense weights, and gradients of these
        spec.plan.dense = (Coding){CODEC_Q4, 1, GRADIENT_Q4, 1, 1};
        spec.plan.dense_levels = 1;
    }
    return spec;
}

// One layer in laps: two of two micro-batches, two of three, three of one; one of four, two of which go abreast. In
// some the embedding is gathered for each use: dense weights are kept over the outer level, not at all, or over all. In
// the last two gradients return in every lap over levels whose weights are kept.
static Spec lapped_shape(int i)
{
    static const uint32_t laps[][2] = {{4, 2}, {6, 3}, {3, 1}, {4, 0}, {4, 2}, {3, 1}, {2, 0}, {4, 2}, {3, 1}};
    Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 4, 2);
    spec.model.layers = 1;
    spec.model.dtype = i == 1 ? DTYPE_F32 : DTYPE_BF16;
    spec.plan.pass = PASS_TRAINING;
    spec.plan.micro_batches = laps[i][0];
    spec.plan.lap = laps[i][1];
    spec.plan.recomputes = i == 0 || i == 4;
    spec.plan.regather_dense = i != 1 && i != 6 && i != 8;
    spec.plan.dense_levels = i == 0 || i == 4 || i == 7;
    spec.plan.regather_embedding = i > 3 && i < 7;
    spec.plan.returns_apart = i > 6; // over all levels, or those inside the outer one
    spec.plan.gradient_levels = i == 8;
    spec.plan.interleaves = i == 3;
    return spec;
}

// Three layers in buckets of two, three or one, on one level or two, with one micro-batch or two.
static Spec bucketed_shape(int i)
{
    Spec spec = spec_small_gpt(i == 1 ? (uint32_t[]){4, 0, 0} : (uint32_t[]){2, 2, 0}, 8, 2);
    spec.model.layers = 3;
    spec.model.first_dense = i == 2;
    spec.model.ffn_inner = 24;
    spec.plan.pass = PASS_TRAINING;
    spec.plan.micro_batches = i == 2 ? 2 : 1;
    spec.plan.bucket = (uint32_t[]){2, 3, 1}[i];
    spec.training.clip = i == 0;
    return spec;
}

// Data centres that train apart: in one micro-batch, in several, in laps of several.
static Spec apart_shape(int i)
{
    Spec spec = spec_small_gpt(i == 1 ? (uint32_t[]){2, 2, 2} : (uint32_t[]){2, 2, 0}, 4, 2);
    spec.model.layers = 1 + i % 2;
    spec.model.dtype = DTYPE_F32;
    spec.plan.pass = PASS_TRAINING;
    spec.plan.micro_batches = i == 0 ? 1 : i == 1 ? 2 : 4;
    spec.plan.lap = i == 2 ? 2 : 0;
    spec.plan.regather_dense = i > 0;
    spec.training.clip = i == 0;
    spec.plan.sync = (LocalSteps){3, i == 1 ? OUTER_NESTEROV : OUTER_AVERAGE, 1, 0.5};
    spec.replica_levels = 1;
    return spec;
}

static Spec shape(int i)
{
    if (i >= SHAPES + LOOPS + LAPS)
        return i < SHAPES + LOOPS + LAPS + BUCKETS ? bucketed_shape(i - SHAPES - LOOPS - LAPS)
                                                   : apart_shape(i - SHAPES - LOOPS - LAPS - BUCKETS);
    if (i >= SHAPES + LOOPS)
        return lapped_shape(i - SHAPES - LOOPS);
    if (i >= SHAPES)
        return looped_shape(i - SHAPES);
    static const uint32_t counts[][3] = {{2, 4, 0}, {2, 2, 2}, {2, 2, 0}};
    Spec spec = spec_small_gpt(counts[i % 3], i % 3 == 2 ? 8 : 16, 2);
    spec.plan.pass = i % 2 ? PASS_TRAINING : PASS_FORWARD;
    spec.plan.dispatch = i % 4 < 2 ? DISPATCH_DEDUP : DISPATCH_NAIVE;
    spec.plan.experts.codec = i == 1 || i == 4 ? CODEC_SR : CODEC_DENSE;
    spec.plan.experts.ratio = spec.plan.experts.codec == CODEC_SR ? 7.5 : 1;
    spec.plan.capacity = i == 3 ? 1.5 : 0;
    spec.plan.exchange = i == 1 || i == 4 ? EXCHANGE_PADDED : EXCHANGE_COUNTED;
    spec.plan.capacity = spec.plan.exchange == EXCHANGE_PADDED ? 1.25 : spec.plan.capacity;
    spec.model.shared_experts = i == 5;
    for (uint32_t way = 0; way < TOKEN_WAYS && (i == 1 || i == 3); way++) // all of them, or each in its own way
        spec.plan.tokens[way] = i == 1 ? TOKENS_INT8 : (TokenFormat)((way + 1) % TOKEN_FORMAT_COUNT);
    if (i == 1) {
        spec.plan.shared_every = 4;
    } else if (i >= 5) { // delta, packets of gradients, the norm
        spec.training.clip = 1;
        spec.plan.experts.codec = i == 6 ? CODEC_DELTA : i == 5 ? CODEC_SIGN : spec.plan.experts.codec;
        spec.plan.experts.ratio = i == 6 ? 7.5 : 1;
        spec.plan.experts.gradient = i == 6 ? GRADIENT_TOPK : i == 5 ? GRADIENT_TERNARY : GRADIENT_DENSE;
        spec.plan.experts.gradient_ratio = i == 6 ? 9 : 1;
        spec.plan.experts.whole_levels = i == 6; // packets are decoded before the last level
        spec.plan.dense =
            i == 5 ? (Coding){CODEC_SIGN, 1, GRADIENT_TERNARY, 1, 0} : (Coding){CODEC_DELTA, 7.5, GRADIENT_TOPK, 9, 1};
        spec.plan.whole_iterations = i == 6 ? 3 : 0;
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

Test(mutants, every_mutant_is_refused_or_harmless, .timeout = 600)
{
    Score scores[MUTATOR_COUNT] = {0};
    for (int i = 0; i < SHAPES + LOOPS + LAPS + BUCKETS + APART; i++) {
        Spec spec = shape(i);
        Arena *arena = arena_create();
        Workload *work = workload_derive(&spec, arena);
        Candidate *candidates;
        size_t count;
        cr_assert(planner_enumerate(work, arena, diag_create(arena), &candidates, &count));
        for (size_t c = (size_t)i % 2; c < count; c += i < SHAPES ? 2 : 4) {
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
    for (int i = 0; i < SHAPES; i++) {
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
