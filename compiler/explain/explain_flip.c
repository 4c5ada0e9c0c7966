// Where the choice flips: probes further and further away until it is given up, then halves the bracket. Every
// probe plans again from scratch, so the number of probes is bounded; between two probes a choice may be given
// up and taken again unseen. Owns what a changed quantity means for a workload.
#include <math.h>
#include <string.h>

#include "compiler/explain/explain.h"
#include "compiler/solve/footprint.h"

const double EXPLAIN_MARGIN = 1e-3; // the same that a close call must be won by

enum {
    LARGE_PROBLEM = 1000, // MoE layers x configurations: from there on half the probes
    STEPS_MAX = 40,
};

static const double reach[] = {1.5, 4, 16, 64}; // large problems: every second
static const double CLOSE = 1.002;              // a bracket as narrow as that is narrow enough

const char *quantity_name(Quantity quantity)
{
    static const char *const names[] = {"bandwidth", "batch", "ratio", "memory"};
    return names[quantity];
}

double explain_now(const Workload *work, Quantity quantity, uint32_t level)
{
    const Spec *spec = work->spec;
    switch (quantity) {
    case QUANTITY_BANDWIDTH:
        return level == 0 && spec->outer ? 1 / spec->outer->port_s_per_byte
                                         : spec->cluster.levels[level].bandwidth_bytes_per_s;
    case QUANTITY_BATCH:
        return spec->model.abstract ? 1 : spec->model.batch;
    case QUANTITY_RATIO:
        return spec->plan.experts.ratio;
    case QUANTITY_MEMORY:
        return spec->cluster.device.memory_bytes;
    }
    return 0;
}

// An abstract workload is given per GPU: a larger batch means more data and longer computation.
static void scale_volumes(const Workload *work, double factor, Workload *changed, Arena *arena)
{
    changed->layers = arena_alloc_array(arena, work->layer_count, sizeof(*changed->layers));
    for (uint32_t k = 0; k < work->layer_count; k++) {
        LayerWork *layer = &changed->layers[k];
        *layer = work->layers[k];
        layer->data_bytes *= factor;
        layer->pre_expert_s *= factor;
        layer->pre_expert_backward_s *= factor;
        layer->expert_compute_s *= factor;
    }
}

static void set_ratio(const Workload *work, double ratio, Workload *changed, Arena *arena)
{
    changed->layers = arena_alloc_array(arena, work->layer_count, sizeof(*changed->layers));
    for (uint32_t k = 0; k < work->layer_count; k++) {
        changed->layers[k] = work->layers[k];
        changed->layers[k].sent_bytes = work->layers[k].expert_bytes / ratio;
    }
}

const Workload *explain_change(const Workload *work, Quantity quantity, uint32_t level, double value, Arena *arena)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = *work->spec;
    Workload *changed = arena_alloc(arena, sizeof(*changed));
    *changed = *work;
    workload_set_spec(changed, spec);
    double factor = value / explain_now(work, quantity, level);
    switch (quantity) {
    case QUANTITY_BANDWIDTH:
        spec->cluster.levels[level].bandwidth_bytes_per_s *= factor;
        if (level == 0)
            spec->outer = outer_scale(spec->outer, factor, arena);
        break;
    case QUANTITY_BATCH:
        if (spec->model.abstract) {
            scale_volumes(work, factor, changed, arena);
        } else {
            spec->model.batch = (uint32_t)value;
            changed = workload_derive(spec, arena);
        }
        break;
    case QUANTITY_RATIO:
        spec->plan.experts.ratio = value;
        set_ratio(work, value, changed, arena);
        break;
    case QUANTITY_MEMORY:
        spec->cluster.device.memory_bytes = value;
        break;
    }
    return changed;
}

PlannerOptions explain_options(const PlannerOptions *options)
{
    PlannerOptions again = *options;
    again.limits = (SearchLimits){.gap = EXPLAIN_MARGIN / 10, .effort = 0.02};
    again.glpk = again.advise = false;
    again.quick = true;
    return again;
}

// ---- one probe -------------------------------------------------------------------------------

typedef struct {
    const Workload *work;
    const Solution *solution;
    PlannerOptions options;
    Quantity quantity;
    uint32_t level;
    double slack; // by so much the choice may lose, relative
    uint32_t solves_max;
    Arena *arena;
} Probing;

// Whether the old mix fits the changed workload. Bandwidth and memory leave its size as it is.
static bool mix_fits(const Probing *p, const Workload *work)
{
    if (p->quantity == QUANTITY_BATCH || p->quantity == QUANTITY_RATIO)
        return footprint_mix_fits(work, &p->solution->mix);
    return p->solution->memory_bytes <= work->spec->cluster.device.memory_bytes;
}

// Is the choice given up at `value`? Describes it in *flip if so. `planned` asks for the new choice even where
// the old one does not fit and nothing is left to decide.
static bool probe(const Probing *p, double value, bool planned, Flip *flip)
{
    Arena *scratch = arena_create();
    const Workload *work = explain_change(p->work, p->quantity, p->level, value, scratch);
    IterationCost kept;
    cost_mix(work, &p->solution->mix, work->spec->plan.dispatch, &kept);
    bool fits = mix_fits(p, work), given_up = !fits;
    if (fits || planned) {
        Solution other;
        bool infeasible;
        PlannerOptions options = p->options;
        options.cutoff_s = fits ? kept.iteration_s / (1 + p->slack) : 0;
        flip->solves++;
        bool solved = planner_solve(work, &options, scratch, diag_create(scratch), &other, &infeasible);
        given_up = !fits || (solved && kept.iteration_s > other.objective_s * (1 + p->slack));
        if (given_up) {
            flip->outcome = solved ? FLIP_CHOICE : FLIP_NOTHING_FITS;
            flip->other_s = solved ? other.objective_s : 0;
            flip->prefetch = solved ? other.mix.prefetch : 0;
            Config *configs = arena_alloc_array(p->arena, p->work->moe_count, sizeof(*configs));
            if (solved)
                memcpy(configs, other.mix.configs, p->work->moe_count * sizeof(*configs));
            flip->configs = solved ? configs : NULL;
        }
    }
    if (given_up) {
        flip->value = value;
        flip->kept_s = kept.iteration_s;
        flip->kept_fits = fits;
    }
    arena_destroy(scratch);
    return given_up;
}

// ---- the search ------------------------------------------------------------------------------

// More sequences would be refused in the input: sizes are exact below 2^53 bytes.
static double largest(const Probing *p)
{
    const SpecModel *model = &p->work->spec->model;
    if (p->quantity != QUANTITY_BATCH || model->abstract)
        return INFINITY;
    ModelDims dims = spec_dims(model);
    double routed = fmax((double)model->top_k * model->hidden, (double)model->top_k * model->inner),
           attended = (double)model->heads * fmax(model->sequence, model->head_dim),
           dense = fmax(fmax(model->ffn_inner, (double)model_shared_inner(&dims)), model->vocabulary),
           most = floor(0x1p53 / (4.0 * model->sequence * fmax(fmax(routed, attended), dense))) - 1;
    return fmax(model->batch, fmin(most, INT32_MAX));
}

static double at_factor(const Probing *p, double now, double factor)
{
    double value = now * factor;
    if (p->quantity == QUANTITY_BATCH && !p->work->spec->model.abstract)
        value = fmax(1, round(value));
    if (p->quantity == QUANTITY_RATIO)
        value = fmax(1, value);
    return fmin(value, largest(p));
}

static double between(const Probing *p, double near, double far)
{
    double middle = sqrt(near * far);
    if (p->quantity == QUANTITY_BATCH && !p->work->spec->model.abstract)
        middle = floor(middle);
    bool moved = middle != near && middle != far && fmax(near, far) > fmin(near, far) * CLOSE;
    return moved ? middle : 0;
}

// Less memory only takes choices away, so the choice stays the best there is as long as it fits.
static Flip find_memory(const Probing *p, double now)
{
    Flip flip = {.holds = now, .searched = at_factor(p, now, 1 / reach[COUNT_OF(reach) - 1])};
    double least = p->solution->memory_bytes;
    if (least > flip.searched) {
        flip.holds = least;
        probe(p, nextafter(least, 0), true, &flip);
    }
    return flip;
}

static Flip find_flip(const Probing *p, double now, bool up)
{
    if (p->quantity == QUANTITY_MEMORY && !up)
        return find_memory(p, now);
    Flip flip = {.holds = now};
    bool large = p->solves_max < EXPLAIN_SOLVES_MAX;
    size_t first = p->quantity == QUANTITY_MEMORY ? COUNT_OF(reach) - 1 : large; // more memory never hides a flip
    for (size_t i = first; i < COUNT_OF(reach); i += 1 + large) {
        double value = at_factor(p, now, up ? reach[i] : 1 / reach[i]);
        if (value == flip.searched)
            break;
        flip.searched = value;
        if (value == now)
            continue;
        if (probe(p, value, false, &flip))
            break;
        flip.holds = value;
    }
    // The range is the same whether something is found or not.
    double far = flip.value;
    flip.searched = at_factor(p, now, up ? reach[COUNT_OF(reach) - 1] : 1 / reach[COUNT_OF(reach) - 1]);
    for (int step = 0; far > 0 && step < STEPS_MAX && flip.solves + 1 < p->solves_max; step++) {
        double middle = between(p, flip.holds, far);
        if (middle <= 0)
            break;
        if (probe(p, middle, false, &flip))
            far = middle;
        else
            flip.holds = middle;
    }
    if (far > 0 && !flip.kept_fits) // what does not fit was not planned again on the way
        probe(p, far, true, &flip);
    return flip;
}

double explain_slack(const Workload *work, const PlannerOptions *options, const Solution *solution)
{
    Arena *arena = arena_create();
    PlannerOptions again = explain_options(options);
    Solution other;
    bool infeasible;
    double slack = EXPLAIN_MARGIN;
    if (planner_solve(work, &again, arena, diag_create(arena), &other, &infeasible))
        slack += fmax(0, solution->cost.iteration_s / other.objective_s - 1);
    arena_destroy(arena);
    return slack;
}

Sensitivity explain_sensitivity(const ExplainedChoice *choice, Quantity quantity, uint32_t level, Arena *arena)
{
    const Workload *work = choice->work;
    Probing p = {.work = work,
                 .solution = choice->solution,
                 .options = explain_options(choice->options),
                 .quantity = quantity,
                 .level = level,
                 .slack = choice->slack,
                 .solves_max = EXPLAIN_SOLVES_MAX,
                 .arena = arena};
    if ((size_t)work->moe_count * choice->solution->count > LARGE_PROBLEM)
        p.solves_max = EXPLAIN_SOLVES_MAX / 2;
    double now = explain_now(work, quantity, level);
    return (Sensitivity){.quantity = quantity,
                         .level = level,
                         .now = now,
                         .below = find_flip(&p, now, false),
                         .above = find_flip(&p, now, true)};
}
