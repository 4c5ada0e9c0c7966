// What engines read off a plan, and need memory for.
#ifndef HEP_ENGINE_FACTS_H
#define HEP_ENGINE_FACTS_H

#include "ir/plan.h"

bool engine_has_stream(const Plan *plan, Stream stream); // has the plan steps of it?
// Routes and their way back name no level: they serve the dispatch that reads the same counts. NULL without one.
const Step *engine_route_dispatch(const Plan *plan, const Step *step);
// Most records that one expert may get from a rank; 0: no limit.
uint64_t engine_capacity_rows(const Plan *plan);
// Most records of an experts' step that name an expert the rank holds: fewer than buffers hold, where what experts
// may get is limited, or a row has more records than there are experts. Saturates (saturating.h).
uint64_t engine_held_records(const Plan *plan, const Step *step);
// Places of all experts, for one vector of domain sizes.
uint64_t engine_map_entries(const Plan *plan);
// Where exchanges are padded, the send counts of all routes, which are kept to the end of an iteration.
uint64_t engine_kept_counts(const Plan *plan);
// What is kept of an iteration where that is asked for: i32, experts that records chose; the final hidden state.
uint64_t engine_decisions_bytes(const Plan *plan);
uint64_t engine_final_bytes(const Plan *plan);

#endif
