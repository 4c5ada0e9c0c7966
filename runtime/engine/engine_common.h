// What every kind of engine works out of a plan in the same way: where experts are, which weights a buffer holds, which
// dispatch a route serves, which step leaves the final hidden state. All of it on the host.
#ifndef HEP_ENGINE_COMMON_H
#define HEP_ENGINE_COMMON_H

#include "engines/engine_facts.h"
#include "ir/bundle.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/engine_exchange.h"

// Places of experts for one vector of domain sizes; layers with equal vectors share them.
typedef struct {
    uint32_t domain[LEVELS_MAX];
    int32_t *member_of_expert[LEVELS_MAX]; // [experts]
    int32_t *slot_of_expert;               // [experts]
} ExpertMap;

typedef struct {
    ExpertMap *maps;
    uint32_t map_count;
    int32_t *memory; // [map_count][engine_map_entries]: slots, then the members of each level
} ExpertMaps;

bool expert_maps_create(ExpertMaps *maps, const Plan *plan, uint64_t rank) MUST_CHECK;
void expert_maps_destroy(ExpertMaps *maps);
const ExpertMap *expert_map_of_layer(const ExpertMaps *maps, const Plan *plan, int32_t layer); // NULL if it has none

const Choice *plan_choice_of_layer(const Plan *plan, int32_t layer); // NULL if it has no experts

// How a step that makes packets, carries or reads them finds them.
typedef struct {
    const Coding *coding; // NULL where a step has nothing to do with packets
    Packing packing;
    uint64_t bytes, whole_bytes; // of a packet; in iterations in which packets hold whole values
    uint64_t own_slot;           // where packets are decoded: of the first own row among those gathered
} StepPackets;

// Where the first own row lies among those that packets bring together.
uint64_t engine_own_slot(const Plan *plan, const Coding *coding, uint64_t rank, int32_t layer);
// kinds: those of bundle_kinds.
StepPackets engine_step_packets(const Plan *plan, const WeightKind kinds[], uint64_t rank, uint32_t step);
// Of an iteration in which packets hold whole values, or of another: what they are, and their tensor.
Packing engine_packing(const StepPackets *of, bool whole);
Tensor engine_packets(const StepPackets *of, bool whole, Tensor packets);

// Where each expert is among those that the rank holds, for a step of an MoE layer. NULL and a fault for others.
const int32_t *engine_slots(const Plan *plan, const ExpertMaps *maps, uint32_t step, Fault *fault) MUST_CHECK;

// Whose packets are whose, for a step that encodes gradients or decodes them: the rank's place among the members that
// its packets travel between. False and a fault: no step carries them.
bool engine_packet_place(const Plan *plan, uint64_t rank, uint32_t step, MessagePlace *place, Fault *fault) MUST_CHECK;

typedef struct {
    RouteTable table;
    uint32_t fanout; // record rows a row of the stage that the origin leads back to
} StepRoute;

// False and a fault where there is no dispatch, or the layer has no experts.
bool engine_route_create(const Plan *plan, const ExpertMaps *maps, uint64_t rank, uint32_t step, StepRoute *route,
                         Fault *fault) MUST_CHECK;

// In what rows travel that a step packs or unpacks; of those that came back also who this rank is among those that they
// were sent to. False and a fault: no step carries them.
typedef struct {
    TokenFormat format;
    uint32_t own;
} PackedRows;

bool engine_packed_rows(const Plan *plan, uint64_t rank, uint32_t step, PackedRows *packed, Fault *fault) MUST_CHECK;

// The part of a layer's dense weights, or of their gradients, that a step works on: [1][elements].
Tensor engine_dense_part(const ModelDims *dims, Tensor dense, DensePart part);
// What a bundle has beyond its elements, which is 0; none where `bundle` is not longer.
Tensor engine_dense_padding(const Plan *plan, const Step *step, Tensor dense);
Tensor engine_embedding_padding(const Plan *plan, Tensor embedding);
// What weight decay leaves alone, for an optimizer step; kinds: those of bundle_kinds.
ModelRanges engine_undecayed(const Plan *plan, const WeightKind kinds[], uint64_t rank, uint32_t step);

// How many mean gradients a sum over ranks and micro-batches has.
uint64_t engine_summands(const Plan *plan);
// Workers that train apart.
uint32_t engine_apart(const Plan *plan);
// What gradients, sums of so many, are multiplied by: 1 / summands, less where their norm then exceeds the limit.
// `squares`: the sum of their squares.
double engine_gradient_scale(const TrainingSettings *settings, uint64_t summands, double squares);
// The value of micro-batch `index` of a buffer that holds those of all, of which `first` is the first.
Tensor engine_value(Tensor first, uint32_t index);

// Of decisions of all micro-batches, where those of the last begin; NULL for NULL.
const int32_t *engine_last_decisions(const Plan *plan, const int32_t *all);

// The step that leaves the final hidden state in its operand `y` (the last residual or dense layer); NONE.
int64_t engine_final_step(const Plan *plan);

#endif
