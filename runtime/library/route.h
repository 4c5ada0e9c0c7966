// Routes: what one dispatch leaves behind for the way back and for the backward pass. Shared by tokens.c, which makes
// them, results.c, which goes back along them, and expand.c, where every expert of a row gets a row of its own.
#ifndef HEP_LIBRARY_ROUTE_H
#define HEP_LIBRARY_ROUTE_H

#include "runtime/library/context.h"

// Rows between two exchanges: those of the caller first, those for its experts last.
typedef struct {
    uint64_t record_rows;
    Tensor rows, records; // while they are needed; records of the last stage stay
    bool has_rows;        // rows are the store's; else the caller's
    Record *seen;         // records of a GPU, on the host; NULL: not yet
    // Of the exchange after it, if any:
    int32_t *send_counts, *next_counts; // [members] each, one allocation of the host
    int32_t *moved_counts;              // the same where rows lie
    int32_t *origin;
    uint64_t own, sent; // rows that stay, and that leave
} Stage;

// Of rows, and of their records in f32.
typedef struct {
    Tensor rows, records;
} Gradients;

struct hep_route {
    atomic_uint references;
    Store *store, *host_store; // of all memory below; outlive the context
    hep_context *context;
    Layer *of;
    uint32_t hop_count;
    int layer;
    bool expanded, finished;
    uint64_t tokens;
    uint32_t top_k, fanout, per_row; // record rows a token; records of each
    Tensor x;                        // the caller's
    Stage stages[LEVELS_MAX + 1];
    // Expanded: [pair_count] records of the last stage, ordered by the slots of their experts.
    uint64_t pair_count;
    uint32_t *pairs, *moved_pairs; // on the host; where rows lie
    int32_t *moved_pair_count;     // likewise
    Tensor received;               // rows of the last stage
    MoveMark *finished_at;         // of the caller's stream
    void (*unmark)(MoveMark *);    // or NULL
};

// Begins a call of a route, as context_enter_on does of a context; `route` is the caller's, and may be NULL.
bool route_enter(hep_route *route, void *stream, hep_status *status) MUST_CHECK;
Meeting route_meeting(const hep_route *route, uint32_t hop, CallPurpose purpose);
// Returns `ok`. If not, which step of the plan that was goes into the fault.
bool route_blame(const hep_route *route, uint32_t hop, const Meeting *meeting, bool ok, Fault *fault);
uint64_t route_rows(const hep_route *route); // that the caller sees

// Whether rows of the route travel packed that way, and so many as they travel, without data.
bool route_packs(const hep_route *route, TokenWay way);
Tensor route_travelling(const hep_route *route, TokenWay way, uint64_t rows);

// Rows of the last stage that only fill up messages become 0.
bool route_clear_padding(const hep_route *route, Tensor rows, Fault *fault) MUST_CHECK;
// A stage's records on the host, by that queue. NULL and a fault.
const Record *route_records_seen(hep_route *route, uint32_t stage, MoveQueue *queue, Fault *fault) MUST_CHECK;
// Counts of the exchange after a stage, where rows lie: sent, or received `next`.
Tensor route_counts(const hep_route *route, uint32_t stage, bool next);
Tensor route_origin(const Stage *stage);

// Of rows that have been received.
bool route_order_pairs(hep_route *route, Fault *fault) MUST_CHECK;
// rows [pairs] -> the sums over the records of a row [last stage's rows]; and the reverse, copies.
bool route_fold_rows(const hep_route *route, Tensor expanded, Tensor rows, Fault *fault) MUST_CHECK;
bool route_spread_rows(const hep_route *route, Tensor rows, Tensor expanded, Fault *fault) MUST_CHECK;
// The first for gradients of rows, and of records (f32): [pairs] -> [rows][per_row], 0 where no record is.
bool route_fold_gradients(const hep_route *route, Gradients expanded, Gradients folded, Fault *fault) MUST_CHECK;

#endif
