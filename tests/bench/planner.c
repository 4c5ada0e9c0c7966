// How long the planner takes, and what it proves: the exact search by itself, with GLPK on what it leaves, and GLPK by
// itself on the plain programme (every configuration of every layer, no pruning, no incumbent), in the same run; for
// made-up workloads, then for files.
// Usage: bench_planner [REPEATS [FILE.hep | FILE.hep@GIGABYTES]...], the latter with another device memory. Times are
// those of the processor.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "compiler/frontend/check.h"
#include "compiler/placement/place.h"
#include "ir/base/sort.h"

typedef struct {
    const char *name;
    uint32_t counts[3];
    uint32_t layers;
    bool heterogeneous, training;
    bool plain; // also by GLPK alone
} Case;

enum { PLAIN_NODES_MAX = 20000 };

static const Case cases[] = {
    {"2 DCs x 8 GPUs, 12 layers alike, training", {2, 8, 0}, 12, false, true, true},
    {"4 x 4 GPUs, 6 heterogeneous layers, forward", {4, 4, 0}, 6, true, false, true},
    {"2 x 4 x 8 GPUs, 61 layers alike, forward", {2, 4, 8}, 61, false, false, true},
    {"2 x 4 x 8 GPUs, 61 heterogeneous layers, forward", {2, 4, 8}, 61, true, false, true},
    {"2 x 4 x 8 GPUs, 61 heterogeneous layers, training", {2, 4, 8}, 61, true, true, true},
    {"2 x 4 x 8 GPUs, 24 heterogeneous layers, training", {2, 4, 8}, 24, true, true, true},
    {"1000 DCs x 8 GPUs, 61 heterogeneous layers, forward", {1000, 8, 0}, 61, true, false, false},
    {"1000 DCs x 8 GPUs, 61 heterogeneous layers, training", {1000, 8, 0}, 61, true, true, false},
    {"16000 DCs x 8 GPUs, 61 layers alike, forward", {16000, 8, 0}, 61, false, false, false},
    {"16000 DCs x 8 GPUs, 61 layers alike, training", {16000, 8, 0}, 61, false, true, false},
};

static double processor_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

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
    spec->model = (SpecModel){.name = "bench",
                              .abstract = true,
                              .layers = c->layers,
                              .every = 1,
                              .top_k = 1,
                              .data_bytes = 8e6,
                              .expert_bytes = 1e6,
                              .pre_expert_s = 2e-3,
                              .expert_compute_s = 2e-3};
    spec->plan = (SpecPlan){.pass = c->training ? PASS_TRAINING : PASS_FORWARD,
                            .dispatch = DISPATCH_NAIVE,
                            .experts.ratio = 1,
                            .experts.gradient_ratio = 1,
                            .micro_batches = 1};
    Workload *work = workload_derive(spec, arena);
    uint64_t state = 1;
    for (uint32_t k = 0; c->heterogeneous && k < work->layer_count; k++) {
        LayerWork *layer = &work->layers[k];
        layer->kind = k;
        layer->pre_expert_s = draw(&state, 1e-3, 4e-3);
        layer->expert_compute_s = draw(&state, 1e-3, 4e-3);
        layer->data_bytes = draw(&state, 2e6, 16e6);
        layer->expert_bytes = layer->sent_bytes = layer->returned_bytes = draw(&state, 2e5, 3e6);
    }
    return work;
}

typedef struct {
    Solution solution;
    double median_s;
} Measured;

static Measured measure(const Workload *work, bool glpk, int repeats, Arena *arena)
{
    double times[64];
    Measured out;
    for (int r = 0; r < repeats; r++) {
        PlannerOptions options = {.prefetch = PREFETCH_UNLIMITED, .glpk = glpk};
        const Workload *placed = work;
        bool infeasible;
        double begin_s = processor_now_s();
        if (!place_and_solve(&placed, &options, arena, diag_create(arena), &out.solution, &infeasible))
            abort();
        times[r] = processor_now_s() - begin_s;
    }
    sort_doubles(times, (size_t)repeats);
    out.median_s = times[repeats / 2];
    return out;
}

static void measure_plain(const Workload *work, const Measured *search, Arena *arena)
{
    Formulated formulated = planner_formulate(work, &search->solution, arena);
    double begin_s = processor_now_s();
    MilpLimits limits = {.nodes = PLAIN_NODES_MAX, .cutoff = INFINITY};
    MilpResult result = milp_solve(formulated.milp, &limits);
    printf(" %10.1f%s", 1e3 * (processor_now_s() - begin_s), result.status == MILP_OPTIMAL ? "" : "  gave up");
    milp_destroy(formulated.milp);
}

static void compare(const char *name, const Workload *work, bool plain, int repeats, Arena *arena)
{
    Measured search = measure(work, false, repeats, arena), both = measure(work, true, repeats, arena);
    printf("%-48s %8zu %10.1f %10.4f %10.1f %10.4f %10.4f", name, search.solution.count, 1e3 * search.median_s,
           100 * search.solution.gap, 1e3 * both.median_s, 100 * both.solution.gap,
           100 * (1 - both.solution.objective_s / search.solution.objective_s));
    if (plain)
        measure_plain(work, &search, arena);
    printf("\n");
}

static void compare_file(const char *name, int repeats, Arena *arena)
{
    const char *memory = strchr(name, '@');
    const char *path = arena_copy_string(arena, name, memory ? (size_t)(memory - name) : strlen(name));
    Diag *diag = diag_create(arena);
    Ast *ast = read_file(path, arena, diag);
    const Spec *checked = ast ? check_ast(ast, NULL, arena, diag) : NULL;
    if (!checked) {
        diag_print(diag, stderr, false);
        exit(1);
    }
    Spec spec = *checked;
    if (memory)
        spec.cluster.device.memory_bytes = 1e9 * atof(memory + 1);
    if (spec.plan.domain_request == DOMAIN_AUTO)
        compare(name, workload_derive(&spec, arena), false, repeats, arena);
}

int main(int argc, char **argv)
{
    int repeats = argc > 1 ? atoi(argv[1]) : 5;
    if (repeats < 1 || repeats > 64) {
        fprintf(stderr, "usage: %s [REPEATS [FILE.hep...]]   (repeats: 1 to 64, default 5)\n", argv[0]);
        return 2;
    }
    printf("# %s, medians of %d, one core\n", milp_solver_name(), repeats);
    static const char *const heads[][8] = {
        {"case", "configs", "search", "gap", "with GLPK", "gap", "faster", "GLPK alone"},
        {"", "", "ms", "%", "ms", "%", "by %", "ms"},
    };
    for (size_t i = 0; i < COUNT_OF(heads); i++)
        printf("%-48s %8s %10s %10s %10s %10s %10s %10s\n", heads[i][0], heads[i][1], heads[i][2], heads[i][3],
               heads[i][4], heads[i][5], heads[i][6], heads[i][7]);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Arena *arena = arena_create();
        Spec spec;
        compare(cases[i].name, make_workload(&cases[i], &spec, arena), cases[i].plain, repeats, arena);
        arena_destroy(arena);
    }
    for (int i = 2; i < argc; i++) {
        Arena *arena = arena_create();
        compare_file(argv[i], repeats, arena);
        arena_destroy(arena);
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("# peak resident memory of the whole run: %.0f MB\n", (double)usage.ru_maxrss / 1024);
    return 0;
}
