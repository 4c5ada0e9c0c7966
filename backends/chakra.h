// A plan as Chakra execution traces (schema 0.0.4), one per rank, as ASTRA-sim reads them: computation
// as nodes with their predicted time, gathers and reductions as collectives of a process group, and
// exchanges, which routing makes uneven, as a send and a receive per peer. Bytes only; files are
// the caller's.
#ifndef HEP_CHAKRA_H
#define HEP_CHAKRA_H

#include "ir/base/text.h"
#include "ir/plan.h"

enum { CHAKRA_RANKS_MAX = 1 << 14 }; // a file each

typedef struct Chakra Chakra;

bool chakra_available(void); // false where this program was built without protobuf-c
// Requires at most CHAKRA_RANKS_MAX ranks. Owned by `arena`.
const Chakra *chakra_create(const Plan *plan, Arena *arena);
// The trace of a rank: metadata, then nodes, each message after its length as a varint.
void chakra_print_rank(const Chakra *chakra, uint64_t rank, Text *out);
// The process groups as JSON: {"id": [ranks]}, the ids that nodes name in `pg_name`.
void chakra_print_groups(const Chakra *chakra, Text *out);

#endif
