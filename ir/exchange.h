// What exchanges send: the rows that a message can have at most, and the bytes of routing beside rows. Lowering, cost
// model, verifier and engines agree by these.
#ifndef HEP_EXCHANGE_H
#define HEP_EXCHANGE_H

#include "ir/plan.h"

// Most rows that one member of an exchange at `level` can have for another, where a layer has the domain sizes
// `domain`: those of all GPUs whose rows meet there on the levels before. A GPU has no more for one place than it has
// tokens (naive dispatch: records), and no more than the experts there take, each `capacity` times its balanced load;
// 0: that is no limit.
double exchange_rows_bound(const Cluster *cluster, const ModelDims *model, Dispatch dispatch, double capacity,
                           const uint32_t domain[LEVELS_MAX], uint32_t level);

// Rows of every message of a step that exchanges, where exchanges are padded: the bound; 0 where they are counted, or
// the step is none of a layer with experts.
uint64_t plan_message_rows(const Plan *plan, const Step *step);

// Bytes that `messages` messages with so many rows in all carry besides them: records with their counts, counts alone,
// or gradients of gate weights. `with_records`: a dispatch has its records with it. `records`: of a row.
double exchange_routing_bytes(Op op, bool with_records, double rows, double records, double messages);

#endif
