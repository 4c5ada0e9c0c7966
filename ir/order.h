// Which step of a plan happens before which: steps of one stream run in index order, and `after`
// edges order steps of different streams; steps of a run (plan_run_next) happen together. Of plans of several
// micro-batches, unrolled (unroll.h). Requires known ops and edges that point to smaller indices. Vector clocks, one
// counter per stream: O(steps x streams) to build, O(1) to ask.
#ifndef HEP_ORDER_H
#define HEP_ORDER_H

#include "ir/plan.h"

typedef struct Order Order;

Order *order_create(const Plan *plan, Arena *arena);
bool order_before(const Order *order, uint32_t a, uint32_t b); // false for a == b

// Drops `after` edges that order nothing, in no micro-batch: the rest implies them. The relation stays as it was.
// Returns the number dropped.
uint32_t order_prune_after(Plan *plan);

// The memory-relevant lifetime of every buffer. WEIGHT, INPUT, GRADIENT and STATE buffers, and
// temporaries that no step touches, live for the whole iteration. A TEMPORARY lives from its first
// to its last step; a loss, and an operand of the last `loss` step or of the last step of the compute stream, lives to
// the end of the iteration, so that results can be read there.
// An iteration begins when every stream has finished the one before, and so does a lap: in one lap of several, what
// holds values of the iteration lives throughout.
typedef struct {
    uint32_t end[STREAM_COUNT];    // one past the position of the last step of each stream that touches it
    uint32_t before[STREAM_COUNT]; // so many steps of each stream happen before all that touch it
} Lifetime;

typedef struct {
    Lifetime *of; // [buffers]
} Lifetimes;

Lifetimes *lifetimes_create(const Plan *plan, const Order *order, Arena *arena);
// Every step that touches one of the two happens before every step that touches the other. Signs are added up: branches
// would be guesses.
static inline bool lives_disjoint(const Lifetime *x, const Lifetime *y)
{
    int64_t x_late = 0, y_late = 0; // negative: not all of x comes before y, or of y before x
    for (int s = 0; s < STREAM_COUNT; s++) {
        x_late |= (int64_t)y->before[s] - x->end[s];
        y_late |= (int64_t)x->before[s] - y->end[s];
    }
    return (x_late & y_late) >= 0;
}
static inline bool lifetimes_disjoint(const Lifetimes *lifetimes, uint32_t a, uint32_t b)
{
    return lives_disjoint(&lifetimes->of[a], &lifetimes->of[b]);
}
// Lifetimes of groups of buffers, each from the first to the last step that touches one of its group: group `i` are
// buffers first[i] to before first[i + 1].
Lifetimes *lifetimes_merge(const Lifetimes *lifetimes, const uint32_t *first, uint32_t count, Arena *arena);

// When a buffer may meet others, in segments of the plan (unroll.h): one whose last segment comes before `since` is
// never alive together with it. `last`: of the steps that touch it; UINT32_MAX: it lives to the end.
typedef struct {
    uint32_t since, last;
} Stay;

const Stay *lifetimes_stays(const Plan *plan, const Order *order, const Lifetimes *lifetimes, uint32_t buffer_count,
                            Arena *arena);

// A buffer's life as seen from the stream of its first step: that step, and the stream's first step that happens after
// every step that touches the buffer; NONE: none does. `first` is NONE, too, unless that step happens before all others
// that touch the buffer.
typedef struct {
    int64_t first, free;
} StreamLife;

const StreamLife *lifetimes_by_stream(const Plan *plan, const Order *order, const Lifetimes *lifetimes, Arena *arena);

// The buffer lives to the end of the iteration, whatever step touches it last.
bool lifetimes_lasts(const Lifetimes *lifetimes, uint32_t buffer);

#endif
