// See engine_common.h. Owns the tables of experts' places; everything else is read from the plan.
#include "runtime/engine/engine_common.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- where experts are -----------------------------------------------------------------------

const Choice *plan_choice_of_layer(const Plan *plan, int32_t layer)
{
    for (uint32_t c = 0; c < plan->choice_count; c++) {
        if (layer >= 0 && plan->choices[c].layer == (uint32_t)layer)
            return &plan->choices[c];
    }
    return NULL;
}

static const ExpertMap *map_of(const ExpertMaps *maps, const uint32_t domain[LEVELS_MAX])
{
    for (uint32_t m = 0; m < maps->map_count; m++) {
        if (memcmp(maps->maps[m].domain, domain, sizeof(maps->maps[m].domain)) == 0)
            return &maps->maps[m];
    }
    return NULL;
}

static void map_fill(const Plan *plan, uint64_t rank, ExpertMap *map, int32_t *memory)
{
    uint32_t experts = plan->model.experts, levels = plan->cluster.level_count;
    ExpertShares shares = plan_expert_shares(plan, map->domain);
    map->slot_of_expert = memory;
    for (uint32_t e = 0; e < experts; e++)
        map->slot_of_expert[e] = (int32_t)plan_expert_slot(plan, map->domain, rank, e);
    for (uint32_t l = 0; l < levels; l++) {
        map->member_of_expert[l] = memory + (uint64_t)experts * (l + 1);
        for (uint32_t e = 0; e < experts; e++)
            map->member_of_expert[l][e] = (int32_t)share_member(&shares, e, l);
    }
}

bool expert_maps_create(ExpertMaps *maps, const Plan *plan, uint64_t rank)
{
    maps->maps = calloc(plan->choice_count + 1, sizeof(*maps->maps));
    if (!maps->maps)
        return false;
    for (uint32_t c = 0; c < plan->choice_count; c++) {
        if (!map_of(maps, plan->choices[c].domain))
            memcpy(maps->maps[maps->map_count++].domain, plan->choices[c].domain, sizeof(maps->maps->domain));
    }
    uint64_t per_map = engine_map_entries(plan);
    maps->memory = calloc(per_map * maps->map_count + 1, sizeof(*maps->memory));
    if (!maps->memory)
        return false;
    for (uint32_t m = 0; m < maps->map_count; m++)
        map_fill(plan, rank, &maps->maps[m], maps->memory + m * per_map);
    return true;
}

void expert_maps_destroy(ExpertMaps *maps)
{
    free(maps->maps);
    free(maps->memory);
}

const ExpertMap *expert_map_of_layer(const ExpertMaps *maps, const Plan *plan, int32_t layer)
{
    const Choice *choice = plan_choice_of_layer(plan, layer);
    return choice ? map_of(maps, choice->domain) : NULL;
}

// ---- experts and packets ---------------------------------------------------------------------

uint64_t engine_own_slot(const Plan *plan, const Coding *coding, uint64_t rank, int32_t layer)
{
    const Choice *choice = plan_choice_of_layer(plan, layer);
    if (coding == &plan->dense) { // as gathers over the levels of packets, outermost first, lay shares down
        uint64_t slot = 0, stride = 1;
        for (uint32_t l = 0; l < coding_levels(coding, plan->cluster.level_count); l++) {
            slot += cluster_coordinate(&plan->cluster, rank, l) * stride;
            stride *= plan->cluster.levels[l].count;
        }
        return slot;
    }
    if (!choice)
        return 0;
    ExpertShares shares = plan_expert_shares(plan, choice->domain);
    return share_slot(&shares, rank) % plan_coded_members(plan, choice->domain) * shares.rows;
}

// The buffer that tells of which weights a step's packets are; NONE without packets.
static int32_t packed_buffer(const Plan *plan, const Step *step)
{
    StepBuffers of = step_buffers(plan, step);
    switch (step->op) {
    case OP_ENCODE:
        return of.encode.packet;
    case OP_DECODE:
        return of.decode.packet;
    case OP_ENCODE_GRADIENT:
        return of.encode_gradient.packets;
    case OP_RETURN_PACKETS:
        return of.return_packets.packets;
    case OP_DECODE_GRADIENT:
        return of.decode_gradient.gathered;
    case OP_GATHER:
        return plan->buffers[of.gather.shard].dtype == DTYPE_U8 ? of.gather.shard : NONE;
    default:
        return NONE;
    }
}

StepPackets engine_step_packets(const Plan *plan, const WeightKind kinds[], uint64_t rank, uint32_t step)
{
    const Step *of = &plan->steps[step];
    int32_t buffer = plan->model.abstract ? NONE : packed_buffer(plan, of);
    const Coding *coding = buffer == NONE ? NULL : plan_coding(plan, kinds[buffer]);
    bool weights = of->op == OP_ENCODE || of->op == OP_DECODE || of->op == OP_GATHER;
    if (!coding || (weights && !codec_info(coding->codec)->encodes)) // weights may be stored in bytes, too
        return (StepPackets){0};
    uint64_t elements = bundle_vector_elements(plan, kinds[buffer], of->layer);
    Packing packing = weights ? coding_packing(coding) : coding_gradient_packing(coding);
    return (StepPackets){.coding = coding,
                         .packing = packing,
                         .bytes = packing_bytes(packing, elements, plan->model.dtype),
                         .whole_bytes = packing_bytes((Packing){PACKET_WHOLE, 1}, elements, plan->model.dtype),
                         .own_slot = of->op == OP_DECODE ? engine_own_slot(plan, coding, rank, of->layer) : 0};
}

Packing engine_packing(const StepPackets *of, bool whole)
{
    return whole ? (Packing){PACKET_WHOLE, 1} : of->packing;
}

Tensor engine_packets(const StepPackets *of, bool whole, Tensor packets)
{
    if (of->coding)
        packets.cols = whole ? of->whole_bytes : of->bytes;
    return packets;
}

const int32_t *engine_slots(const Plan *plan, const ExpertMaps *maps, uint32_t step, Fault *fault)
{
    const ExpertMap *map = expert_map_of_layer(maps, plan, plan->steps[step].layer);
    if (map)
        return map->slot_of_expert;
    fault_set(fault, FAULT_INPUT, "step %" PRIu32 " ('%s') is of no MoE layer", step,
              op_info((int)plan->steps[step].op)->name);
    return NULL;
}

static const Step *find_return_step(const Plan *plan, const Step *step)
{
    bool encodes = step->op == OP_ENCODE_GRADIENT;
    Operand carried = encodes ? OPERAND_packets : OPERAND_received;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *other = &plan->steps[s];
        if (other->op == OP_RETURN_PACKETS && step_operand(plan, other, carried) == step_operand(plan, step, carried))
            return other;
    }
    return NULL;
}

bool engine_packet_place(const Plan *plan, uint64_t rank, uint32_t step, MessagePlace *place, Fault *fault)
{
    const Step *carrier = find_return_step(plan, &plan->steps[step]);
    if (!carrier)
        return fault_set(fault, FAULT_INPUT, "step %" PRIu32 " ('%s'): no step carries its packets", step,
                         op_info((int)plan->steps[step].op)->name);
    *place = engine_group_place(plan, &plan->groups[carrier->group], rank);
    return true;
}

// ---- routes ----------------------------------------------------------------------------------

// Several before the first exchange, where dispatch is naive.
static uint32_t fanout_of(const Plan *plan, int32_t origin)
{
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        if (step->op == OP_ROUTE && step_buffers(plan, step).route.origin == origin) {
            bool first = step_buffers(plan, step).route.counts == NONE;
            return first && plan->dispatch == DISPATCH_NAIVE ? plan->model.top_k : 1;
        }
    }
    return 1;
}

bool engine_route_create(const Plan *plan, const ExpertMaps *maps, uint64_t rank, uint32_t step, StepRoute *route,
                         Fault *fault)
{
    const Step *of = &plan->steps[step], *dispatch = engine_route_dispatch(plan, of);
    const ExpertMap *map = expert_map_of_layer(maps, plan, of->layer);
    if (!dispatch || dispatch->group == NONE || !map)
        return fault_set(fault, FAULT_INPUT, "step %" PRIu32 " ('%s') belongs to no dispatch of an MoE layer", step,
                         op_info((int)of->op)->name);
    MessagePlace place = engine_step_place(plan, dispatch, rank);
    *route = (StepRoute){.table = {.member_of_expert = map->member_of_expert[dispatch->level],
                                   .experts = plan->model.experts,
                                   .members = place.members,
                                   .own = place.own,
                                   .place_rows = place.message_rows},
                         .fanout = fanout_of(plan, step_operand(plan, of, OPERAND_origin))};
    return true;
}

// ---- packed rows -----------------------------------------------------------------------------

bool engine_packed_rows(const Plan *plan, uint64_t rank, uint32_t step, PackedRows *packed, Fault *fault)
{
    const Step *of = &plan->steps[step], *dispatch = NULL;
    int way = plan_packed_way(plan, step_operand(plan, of, OPERAND_packed_rows));
    if (step_operand(plan, of, OPERAND_send_counts) != NONE)
        dispatch = engine_route_dispatch(plan, of);
    if (way < 0 || way >= TOKEN_WAYS || (dispatch && dispatch->group == NONE))
        return fault_set(fault, FAULT_INPUT, "step %" PRIu32 " ('%s'): no exchange carries its rows", step,
                         op_info((int)of->op)->name);
    *packed =
        (PackedRows){.format = plan->tokens[way], .own = dispatch ? engine_step_place(plan, dispatch, rank).own : 0};
    return true;
}

// ---- bundles ---------------------------------------------------------------------------------

static Tensor elements_of(Tensor whole, uint64_t first, uint64_t count)
{
    return (Tensor){
        .data = (char *)whole.data + first * dtype_bytes(whole.dtype), .dtype = whole.dtype, .rows = 1, .cols = count};
}

Tensor engine_dense_part(const ModelDims *dims, Tensor dense, DensePart part)
{
    ModelRange range = model_dense_range(dims, part);
    return elements_of(dense, range.first, range.count);
}

static Tensor padding_of(Tensor bundle, uint64_t elements)
{
    uint64_t all = bundle.rows * bundle.cols;
    return elements_of(bundle, elements, all > elements ? all - elements : 0);
}

Tensor engine_dense_padding(const Plan *plan, const Step *step, Tensor dense)
{
    return padding_of(dense, bundle_shape(plan, WEIGHT_DENSE, step->layer).elements);
}

Tensor engine_embedding_padding(const Plan *plan, Tensor embedding)
{
    return padding_of(embedding, model_embedding_elements(&plan->model));
}

ModelRanges engine_undecayed(const Plan *plan, const WeightKind kinds[], uint64_t rank, uint32_t step)
{
    int32_t weights = step_buffers(plan, &plan->steps[step]).optimizer.weights;
    return bundle_undecayed(plan, kinds[weights], plan->buffers[weights].layer, rank);
}

// ---- the rest --------------------------------------------------------------------------------

uint64_t engine_summands(const Plan *plan)
{
    return share_gpus(&plan->cluster, plan->pass == PASS_TRAINING ? plan->replica_levels : 0) * plan->micro_batches;
}

uint32_t engine_apart(const Plan *plan)
{
    return (uint32_t)(cluster_gpus(&plan->cluster) / share_gpus(&plan->cluster, plan->replica_levels));
}

Tensor engine_value(Tensor first, uint32_t index)
{
    Buffer shape = {.dtype = first.dtype, .rows = first.rows, .cols = first.cols};
    uint64_t stride;
    if (buffer_aligned_bytes(&shape, &stride)) // else no plan within its limits
        first.data = (char *)first.data + index * stride;
    return first;
}

double engine_gradient_scale(const TrainingSettings *settings, uint64_t summands, double squares)
{
    double scale = 1 / (double)summands, norm = sqrt(squares) * scale;
    return settings->clip > 0 && norm > settings->clip ? scale * settings->clip / norm : scale;
}

const int32_t *engine_last_decisions(const Plan *plan, const int32_t *all)
{
    uint64_t each = plan->choice_count * model_tokens(&plan->model) * plan->model.top_k;
    return all ? all + (plan->micro_batches - 1) * each : NULL;
}

int64_t engine_final_step(const Plan *plan)
{
    for (uint32_t s = plan->step_count; s-- > 0;)
        if (plan->steps[s].op == OP_RESIDUAL || plan->steps[s].op == OP_FFN)
            return s;
    return NONE;
}
