// The outermost level where its workers differ: what its slowest port, link and latency are for every domain
// size under one placement of the workers, which is all the cost model asks. Also which links a plan has to list.
// Where workers stand is decided by placement.c.
#ifndef HEP_OUTER_H
#define HEP_OUTER_H

#include "ir/plan.h"

typedef struct {
    uint32_t domain;
    WorstPair gather, exchange;
    PairLines gather_lines, exchange_lines; // none: `gather` and `exchange` are lines
} OuterDomain;

typedef struct {
    double port_s_per_byte; // of the slowest port
    size_t count;
    OuterDomain *domains; // every divisor of the workers' count, ascending
} Outer;

// Of the cluster as its workers stand, position by position; NULL if they are alike.
const Outer *outer_measure(const Cluster *cluster, Arena *arena);

// `domain` divides the count. Groups of kind LEVEL and WORLD are those of an exchange with domains of one.
const WorstPair *outer_group(const Outer *outer, GroupKind kind, uint32_t domain);
const PairLines *outer_lines(const Outer *outer, GroupKind kind, uint32_t domain);

// The same with every port and link `factor` times as fast, for what-if questions.
const Outer *outer_scale(const Outer *outer, double factor, Arena *arena);

// Copies the ports of `placed` to the plan, and the links that can limit one of the plan's groups: those slower
// than the share of their ports that a group's members have for one another, or with a latency of their own.
void outer_describe(const Cluster *placed, Plan *plan);

#endif
