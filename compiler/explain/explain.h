// Why this plan: what each run of layers would cost otherwise, which limit binds, at which value of every
// quantity the choice is given up, what more bandwidth buys. explain*.c collect the
// records, hepc/explain_print.h writes them; docs/planner.md defines them.
#ifndef HEP_EXPLAIN_H
#define HEP_EXPLAIN_H

#include "compiler/solve/planner.h"

// Consecutive MoE layers with one configuration.
typedef struct {
    uint32_t first_layer, last_layer, moe_layers;
    Config config;
} ConfigRun;

// The plan with another configuration in one run, all else equal.
typedef struct {
    bool found;
    Config config;
    double iteration_s;
} Rival;

typedef struct {
    ConfigRun run;              // of layers that are alike, too
    Rival runner_up;            // the best other configuration that fits
    Rival at_level[LEVELS_MAX]; // the best with another domain size at that level
} ExplainRun;

typedef enum { LIMIT_LINK, LIMIT_GATHER_QUEUE, LIMIT_COMPUTE, LIMIT_MEMORY } LimitKind;

typedef struct {
    LimitKind kind;
    uint32_t level;     // of LIMIT_LINK
    double iteration_s; // with the limit lifted
} ExplainLimit;

typedef enum { QUANTITY_BANDWIDTH, QUANTITY_BATCH, QUANTITY_RATIO, QUANTITY_MEMORY } Quantity;

typedef enum { FLIP_NONE, FLIP_CHOICE, FLIP_NOTHING_FITS } FlipOutcome;

// The nearest value found, going one way, at which the choice is given up: it no longer fits, or another
// is faster by more than EXPLAIN_MARGIN.
typedef struct {
    FlipOutcome outcome;
    double searched;        // the furthest value of the range; equals `now` where there is none
    double value;           // the choice is given up here
    double holds;           // and still made here
    bool kept_fits;         // does the old choice fit at `value`?
    double kept_s, other_s; // iteration at `value` with the old and with the new choice
    const Config *configs;  // the new choice, [moe_count]
    uint32_t prefetch;
    uint32_t solves; // so often was planned again
} Flip;

typedef struct {
    Quantity quantity;
    uint32_t level; // of QUANTITY_BANDWIDTH
    double now;     // bytes/s, sequences (abstract workloads: 1, volumes and times in proportion), 1, bytes
    Flip below, above;
} Sensitivity;

typedef struct {
    uint32_t level;
    double now_bytes_per_s;
    double iteration_s; // this plan with EXPLAIN_STEP more
    double replanned_s; // the best plan then
} MoreBandwidth;

// Where plain EP, deduplicated, becomes as good as the best plan, or, where it is now, ceases to be.
typedef struct {
    uint32_t level; // LEVELS_MAX: of all levels, in proportion
    double now;     // bytes/s; of all levels: 1
    bool as_good;   // it is now: what is looked for lies below
    bool found;
    double value, holds; // the nearest bandwidth found where that is otherwise, and one where it is not yet
    double ep_s, best_s; // iterations at `value`; where nothing is found, at the furthest probe
    double searched;     // the furthest bandwidth of the range
    uint32_t solves;
} EvenPoint;

// The best plan with another number of micro-batches per iteration, or the plan itself with its own.
typedef struct {
    uint32_t micro_batches;
    bool fits, recomputes;
    double iteration_s;
    const Config *configs; // [moe_count]
    uint32_t prefetch;
} MicroBatchRow;

enum { MICRO_BATCH_ROWS_MAX = 8 }; // 1, 2, 4, ... 64, and as many as the plan has

enum { LIMITS_MAX = LEVELS_MAX + 3, SENSITIVITIES_MAX = LEVELS_MAX + 3, EXPLAIN_SOLVES_MAX = 12 };

// Of deeper models nothing is planned again for other quantities: each of some hundred plans takes seconds.
enum { EXPLAIN_LAYERS_MAX = 1000 };

extern const double EXPLAIN_MARGIN; // relative
extern const double EXPLAIN_STEP;   // bytes/s: 1 Gbit/s
extern const double EXPLAIN_EVEN;   // relative: so little slower is as good

typedef struct {
    const Workload *work;
    const Solution *solution;
    size_t run_count;
    ExplainRun *runs;
    double gradient_wait_s; // of the waits, those for ports that send gradients
    uint32_t limit_count;
    ExplainLimit limits[LIMITS_MAX];
    uint32_t binding;           // index of the limit whose lifting saves most; limit_count if none does
    bool is_too_deep;           // EXPLAIN_LAYERS_MAX
    uint32_t sensitivity_count; // 0 where the choice was forced, or the model is too deep
    Sensitivity sensitivities[SENSITIVITIES_MAX];
    uint32_t more_count;
    MoreBandwidth more[LEVELS_MAX];
    uint32_t even_count; // 0 likewise
    EvenPoint even[LEVELS_MAX + 1];
    uint32_t micro_count; // 0 likewise, and where iterations have no micro-batches
    MicroBatchRow micro[MICRO_BATCH_ROWS_MAX];
    double counted_s; // this plan if its exchanges were counted, where they are padded, else 0
    double free_s;    // the planner's own choice where one was forced, else 0
} Explanation;

void explain_collect(const Workload *work, const PlannerOptions *options, const Solution *solution, Arena *arena,
                     Explanation *out);

// The workload with one quantity at another value, all else equal; every link of the level in proportion.
const Workload *explain_change(const Workload *work, Quantity quantity, uint32_t level, double value, Arena *arena);
// What explain_change would leave as it is; bandwidth where workers differ: of the slowest port.
double explain_now(const Workload *work, Quantity quantity, uint32_t level);
// By so much, relative, a choice may lose before it counts as given up: the margin, and what it loses already
// because the simulation preferred it or the search ended with a gap.
double explain_slack(const Workload *work, const PlannerOptions *options, const Solution *solution);
// The choice that is explained; slack: explain_slack of it.
typedef struct {
    const Workload *work;
    const PlannerOptions *options;
    const Solution *solution;
    double slack;
} ExplainedChoice;

Sensitivity explain_sensitivity(const ExplainedChoice *choice, Quantity quantity, uint32_t level, Arena *arena);
EvenPoint explain_even(const Workload *work, const PlannerOptions *options, const Solution *solution, uint32_t level);
// Which numbers of micro-batches are looked at, none where there is nothing to choose; returns how many.
uint32_t explain_micro_batches(const ExplainedChoice *choice, uint32_t numbers[MICRO_BATCH_ROWS_MAX]);
MicroBatchRow explain_micro_row(const ExplainedChoice *choice, uint32_t micro_batches, Arena *arena);
// How explanations plan again: without GLPK, with less effort.
PlannerOptions explain_options(const PlannerOptions *options);

// Splits a choice into runs, [moe_count] at most; `kinds`: also where layers differ. Returns how many.
size_t explain_runs(const Workload *work, const Config *configs, bool kinds, ConfigRun *out);

const char *limit_name(const Cluster *cluster, const ExplainLimit *limit, char *out, size_t size);
const char *quantity_name(Quantity quantity);

// Where the iteration goes, part by part: what is called so, and its seconds. Returns how many parts take time.
typedef struct {
    const char *name;
    double time_s;
} ExplainPart;
enum { EXPLAIN_PARTS_MAX = 8 };
uint32_t explain_parts(const Explanation *explanation, ExplainPart parts[EXPLAIN_PARTS_MAX]);

#endif
