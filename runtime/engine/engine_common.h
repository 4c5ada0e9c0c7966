// What every kind of engine works out of a plan in the same way: where experts are, which weights a buffer holds, which
// dispatch a route serves, which step leaves the final hidden state. All of it on the host.
#ifndef HEP_ENGINE_COMMON_H
#define HEP_ENGINE_COMMON_H

#include "runtime/engine/engine.h"

// Places of experts for one vector of domain sizes; layers with equal vectors share them.
typedef struct {
    uint32_t domain[LEVELS_MAX];
    int32_t *member_of_expert[LEVELS_MAX]; // [experts]
    int32_t *slot_of_expert;               // [experts]
} ExpertMap;

typedef struct {
    ExpertMap *maps;
    uint32_t map_count;
    int32_t *memory; // [map_count][expert_map_entries]: slots, then the members of each level
} ExpertMaps;

uint64_t expert_map_entries(const Plan *plan); // of one map
bool expert_maps_create(ExpertMaps *maps, const Plan *plan, uint64_t rank) MUST_CHECK;
void expert_maps_destroy(ExpertMaps *maps);
const ExpertMap *expert_map_of_layer(const ExpertMaps *maps, const Plan *plan, int32_t layer); // NULL if it has none

const Choice *plan_choice_of_layer(const Plan *plan, int32_t layer); // NULL if it has no experts

// Where own experts lie among those that a rank holds.
uint64_t engine_own_slot(const Plan *plan, uint64_t rank, int32_t layer);
// Whose packets are whose, for a step that encodes or decodes: where own experts lie among those held, and a gradient
// step's rank among the members that its packets travel between. What does not apply stays. False and a fault: no step
// carries a gradient's packets.
typedef struct {
    uint64_t own_slot;
    uint32_t own, members;
} PacketPlace;
bool engine_packet_place(const Plan *plan, uint64_t rank, uint32_t step, PacketPlace *place, Fault *fault) MUST_CHECK;

// Packets [members x rows of each][bytes]: to every member those of its experts, and as many back. `counts`
// [2 x members] is filled and must live as long as the exchange.
Exchange engine_packet_exchange(Tensor packets, Tensor received, uint32_t members, int32_t *counts);

// Routes and their way back name no level: they serve the dispatch that reads the same counts.
typedef struct {
    const Step *dispatch; // NULL: the plan has none, or the step is no route
    uint32_t fanout;      // record rows a row of the stage that the origin leads back to
} RouteFacts;

bool engine_is_route(Op op); // forms of route and unroute
RouteFacts engine_route_facts(const Plan *plan, const Step *step);

// What gradients, sums over `ranks`, are multiplied by: 1 / ranks, less where their norm then exceeds the limit.
// `squares`: the sum of their squares.
double engine_gradient_scale(const TrainingSettings *settings, uint64_t ranks, double squares);

// Most records that one expert may get from a rank; 0: no limit.
uint64_t engine_capacity_rows(const Plan *plan);
// The step that leaves the final hidden state in its operand `y` (the last residual or dense layer); NONE.
int64_t engine_final_step(const Plan *plan);

// Bytes of EngineResult.decisions and x.
uint64_t engine_decisions_bytes(const Plan *plan);
uint64_t engine_final_bytes(const Plan *plan);

#endif
