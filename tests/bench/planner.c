// How long the planner takes, and what it proves: the exact search against GLPK on the plain
// programme (every configuration of every layer, no pruning, no incumbent) in the same run.
// Usage: bench_planner [REPEATS]
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "compiler/solve/planner.h"
#include "ir/base/clock.h"
#include "ir/base/sort.h"

typedef struct {
    const char *name;
    uint32_t counts[3];
    uint32_t layers;
    bool unlike, training;
    bool plain; // also by GLPK alone
} Case;

static const Case cases[] = {
    {"2 DCs x 8 GPUs, 12 layers alike, training", {2, 8, 0}, 12, false, true, true},
    {"4 x 4 GPUs, 6 layers unlike, forward", {4, 4, 0}, 6, true, false, true},
    {"2 x 4 x 8 GPUs, 61 layers alike, forward", {2, 4, 8}, 61, false, false, true},
    {"2 x 4 x 8 GPUs, 61 layers unlike, forward", {2, 4, 8}, 61, true, false, true},
    {"2 x 4 x 8 GPUs, 61 layers unlike, training", {2, 4, 8}, 61, true, true, true},
    {"1000 DCs x 8 GPUs, 61 layers unlike, training", {1000, 8, 0}, 61, true, true, false},
    {"16000 DCs x 8 GPUs, 61 layers alike, training", {16000, 8, 0}, 61, false, true, false},
};

// A small generator of our own, so that every platform plans the same.
static double draw(uint64_t *state, double low, double high)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * (double)(*state >> 11) / 9007199254740992.0;
}

static Workload *make_workload(const Case *c, Spec *spec, Arena *arena)
{
    static const char *const names[] = {"dc", "node", "gpu"};
    static const double bandwidths[] = {1.25e9, 12.5e9, 100e9};
    *spec = (Spec){.cluster = {.name = "bench", .device = {60e12, 80e9, 2e12, 32}}};
    for (uint32_t l = 0; l < 3 && c->counts[l]; l++)
        spec->cluster.levels[spec->cluster.level_count++] =
            (Level){names[l], c->counts[l], bandwidths[l + (c->counts[2] == 0)], 1e-4 / (1 + l), 0};
    spec->model = (SpecModel){.name = "bench", .abstract = true, .layers = c->layers, .every = 1, .top_k = 1,
                              .data_bytes = 8e6, .expert_bytes = 1e6, .pre_expert_s = 2e-3,
                              .expert_compute_s = 2e-3};
    spec->plan = (SpecPlan){.pass = c->training ? PASS_TRAINING : PASS_FORWARD, .dispatch = DISPATCH_NAIVE, .ratio = 1,
                            .gradient_ratio = 1};
    Workload *work = workload_derive(spec, arena);
    uint64_t state = 1;
    for (uint32_t k = 0; c->unlike && k < work->layer_count; k++) {
        LayerWork *layer = &work->layers[k];
        layer->kind = k;
        layer->pre_expert_s = draw(&state, 1e-3, 4e-3);
        layer->expert_compute_s = draw(&state, 1e-3, 4e-3);
        layer->data_bytes = draw(&state, 2e6, 16e6);
        layer->expert_bytes = layer->sent_bytes = layer->returned_bytes = draw(&state, 2e5, 3e6);
    }
    return work;
}

static void measure(const Case *c, int repeats)
{
    double times[64];
    Spec spec;
    Solution solution = {0};
    Arena *arena = arena_create();
    Workload *work = make_workload(c, &spec, arena);
    for (int r = 0; r < repeats; r++) {
        PlannerOptions options = {.prefetch = PREFETCH_UNLIMITED};
        bool infeasible;
        double begin_s = clock_now_s();
        if (!planner_solve(work, &options, arena, diag_create(arena), &solution, &infeasible))
            abort();
        times[r] = clock_now_s() - begin_s;
    }
    sort_doubles(times, (size_t)repeats);
    double median_s = times[repeats / 2];
    printf("%-48s %8zu %10.1f %10.4f", c->name, solution.count, 1e3 * median_s, 100 * solution.gap);
    if (c->plain) {
        Formulated formulated = planner_formulate(work, &solution, arena);
        double begin_s = clock_now_s();
        MilpResult result = milp_solve(formulated.milp, MILP_NODES_MAX);
        double plain_s = clock_now_s() - begin_s;
        milp_destroy(formulated.milp);
        double worse = result.status == MILP_FAILED ? NAN : result.objective * formulated.unit_s / solution.objective_s;
        printf(" %10.1f %9.1fx", 1e3 * plain_s, plain_s / median_s);
        if (result.status != MILP_OPTIMAL)
            printf("  GLPK gave up");
        else if (fabs(worse - 1) < 1e-6)
            printf("  GLPK proves the same");
        else
            printf("  GLPK proves %.4f %% less", 100 * (1 - worse));
    }
    printf("\n");
    arena_destroy(arena);
}

int main(int argc, char **argv)
{
    int repeats = argc > 1 ? atoi(argv[1]) : 5;
    if (repeats < 1 || repeats > 64) {
        fprintf(stderr, "usage: %s [REPEATS]   (1 to 64, default 5)\n", argv[0]);
        return 2;
    }
    printf("# %s, medians of %d, one core\n", milp_solver_name(), repeats);
    printf("%-48s %8s %10s %10s %10s %10s\n", "case", "configs", "search", "gap", "GLPK", "GLPK");
    printf("%-48s %8s %10s %10s %10s %10s\n", "", "", "ms", "%", "ms", "/ search");
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        measure(&cases[i], repeats);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("# peak resident memory of the whole run: %.0f MB\n", (double)usage.ru_maxrss / 1024);
    return 0;
}
