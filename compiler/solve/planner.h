// The planner: a configuration for every MoE layer under the memory limit, proven or with its gap, and
// the strategies every plan is compared with. Configurations are priced by the cost model; the exact
// method (search.h) finds and proves the mix, GLPK solves what that leaves open.
#ifndef HEP_PLANNER_H
#define HEP_PLANNER_H

#include "compiler/solve/formulate.h"
#include "compiler/solve/search.h"

// A configuration taken by every MoE layer, with its price.
typedef struct {
    Config config;
    size_t domain_index; // of its domain sizes among all: below planner_domain_count
    uint32_t prefetch;   // the deepest that fits; unlimited if nothing fits
    IterationCost cost;
    double memory_bytes; // of one rank
    bool fits;
} Candidate;

// EP inside: the workers of the outermost level with several each have all experts, which are gathered across; tokens
// are exchanged inside of a worker.
enum { BASELINE_EP, BASELINE_EP_DEDUP, BASELINE_EP_INSIDE, BASELINE_GATHER, BASELINE_COUNT };

typedef struct {
    Candidate *candidates; // all configurations of the dispatch asked for, canonical order: fewest
    size_t count;          // shards held first, then by domain sizes
    size_t uniform;        // best single configuration that fits; == count where a choice was forced
    size_t runner_up;      // best single configuration that is not what was chosen; == count if none
    Mix mix;               // what was chosen
    IterationCost cost;    // of the mix
    double memory_bytes;
    Candidate baselines[BASELINE_COUNT]; // of those that there are
    const char *solver;
    SolveStatus status;
    double objective_s, bound_s, gap, solve_s;
    bool memory_binds;    // it excludes mixes that might be faster
    bool broken;          // our mistake: the choice does not cost what the search said
    bool timed_out;       // the time limit struck: another run may end elsewhere
    bool ranked;          // the simulation preferred this to the optimum of the model
    double missing_bytes; // where nothing fits: what the smallest choice takes beyond the device's memory
} Solution;

typedef struct {
    SearchLimits limits;
    double cutoff_s;     // slower mixes than this are of no interest; 0: all are
    double time_limit_s; // of a compilation, which sets the deadline of its searches; 0: none
    uint32_t prefetch;   // force it; PREFETCH_UNLIMITED: the planner's choice
    bool glpk;           // let GLPK close what the search leaves open, and confirm small programmes
    bool advise;         // say what would fit, where nothing does
    bool tentative;      // where nothing fits, do not say why, and estimate by how much
    bool quick; // a figure is asked for, no plan: memory is estimated, never lowered, and there are no baselines
} PlannerOptions;

extern const char *const baseline_names[BASELINE_COUNT];
// EP inside takes a training plan, and workers of several GPUs: with one GPU each it would be a gather of everything.
bool planner_has_baseline(int baseline, const Spec *spec);
Dispatch baseline_dispatch(int baseline, const Spec *spec);

// Every point of the choice, priced. Reports to `diag` when there are too many.
bool planner_enumerate(const Workload *work, Arena *arena, Diag *diag, Candidate **candidates,
                       size_t *count) MUST_CHECK;
size_t planner_domain_count(const Spec *spec);

// Of single choices, by estimated memory.
typedef struct {
    double best_s;  // of the fastest that may fit; infinite if none does
    double least_s; // of the fastest, whatever its memory
} Estimate;

// `unfit`: NULL, or [planner_domain_count] domains that do not fit by far, to which those are added that are found on
// the way.
// `exactly`: some of those that are estimated to take a little too much are lowered, which decides.
Estimate planner_estimate(const Workload *work, bool exactly, bool *unfit);
// Does every single choice fit?
bool planner_all_fit(const Workload *work);
// Fills everything. False after reporting; *infeasible tells whether it is because nothing fits.
bool planner_solve(const Workload *work, const PlannerOptions *options, Arena *arena, Diag *diag, Solution *solution,
                   bool *infeasible) MUST_CHECK;
// The programme over all candidates of a solution, as --dump=milp shows it.
Formulated planner_formulate(const Workload *work, const Solution *solution, Arena *arena);

// Is what was found of no interest? Then it lacks baselines, and comes without much effort.
bool planner_is_cut_off(const PlannerOptions *options, const Solution *solution);
// Sets objective, gap and status from the bound that is known.
void planner_settle(Solution *solution, double objective_s);

// "dc=2 gpu=1" into `out`.
const char *config_format(const Cluster *cluster, const Config *config, char *out, size_t size);

#endif
