// The verifier's property of sizes: every buffer is as large as the tokens, top_k and members of its
// op make it, and weights are the layer's; and the plan's claims about itself.
// What routing decides at run time (how full a receive buffer gets) the runtime bounds, but where exchanges are padded.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "ir/bundle.h"
#include "ir/codec.h"
#include "ir/exchange.h"
#include "ir/unroll.h"
#include "ir/verify/verify_parts.h"

typedef struct {
    uint64_t tokens;
    uint32_t fanout, records; // record rows per token at the gate, records per row
    // Of the steps before the one that is looked at: by buffer, the last that wrote it, NONE if none did.
    int32_t *route;   // as its `origin`
    int32_t *combine; // as what it `returned`, unpacked where that travels packed
    int32_t *packed;  // not a step: the rows that were packed into it
} Shape;

static Shape plan_shape(const Plan *plan, Arena *scratch)
{
    bool naive = plan->dispatch == DISPATCH_NAIVE;
    Shape shape = {.tokens = model_tokens(&plan->model),
                   .fanout = naive ? plan->model.top_k : 1,
                   .records = naive ? 1 : plan->model.top_k,
                   .route = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*shape.route)),
                   .combine = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*shape.combine)),
                   .packed = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*shape.packed))};
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        shape.route[b] = shape.combine[b] = shape.packed[b] = NONE;
    return shape;
}

static void note_writers(const Plan *plan, uint32_t index, Shape *shape)
{
    const Step *step = &plan->steps[index];
    int32_t origin = step->op == OP_ROUTE ? step_operand(plan, step, OPERAND_origin) : NONE;
    int32_t returned = step->op == OP_COMBINE ? step_operand(plan, step, OPERAND_returned) : NONE;
    if (origin != NONE)
        shape->route[origin] = (int32_t)index;
    if (returned != NONE)
        shape->combine[returned] = (int32_t)index;
    if (step->op == OP_ENCODE_ROWS)
        shape->packed[step_buffers(plan, step).encode_rows.packed_rows] = step_buffers(plan, step).encode_rows.rows;
    if (step->op == OP_DECODE_ROWS)
        shape->combine[step_buffers(plan, step).decode_rows.rows] =
            shape->combine[step_buffers(plan, step).decode_rows.packed_rows];
}

static void expect_rows(Verifier *verifier, uint32_t index, Operand operand, uint64_t rows)
{
    const Buffer *buffer = step_buffer(verifier->plan, &verifier->plan->steps[index], operand);
    if (buffer && buffer->rows != rows)
        verify_fail(verifier, PROPERTY_SIZES, index, "'%s' (operand '%s') has %" PRIu64 " rows, expected %" PRIu64,
                    buffer->name, operand_name(operand), buffer->rows, rows);
}

static uint64_t rows_of(Verifier *verifier, uint32_t index, Operand operand)
{
    const Buffer *buffer = step_buffer(verifier->plan, &verifier->plan->steps[index], operand);
    return buffer ? buffer->rows : 0;
}

// Record rows of a stage: fanout per token after the gate, one per row after an exchange.
static void expect_stage(Verifier *verifier, uint32_t index, const Shape *shape)
{
    bool first = !step_buffer(verifier->plan, &verifier->plan->steps[index], OPERAND_counts);
    if (first)
        expect_rows(verifier, index, OPERAND_rows, shape->tokens);
    expect_rows(verifier, index, OPERAND_records,
                first ? shape->tokens * shape->fanout : rows_of(verifier, index, OPERAND_rows));
}

static void verify_record_width(Verifier *verifier, uint32_t index, const Shape *shape)
{
    static const Operand operands[] = {OPERAND_records, OPERAND_next_records, OPERAND_send_records};
    for (size_t i = 0; i < COUNT_OF(operands); i++) {
        const Buffer *buffer = step_buffer(verifier->plan, &verifier->plan->steps[index], operands[i]);
        if (buffer && buffer->cols != 2 * (uint64_t)shape->records)
            verify_fail(verifier, PROPERTY_SIZES, index,
                        "'%s' is %" PRIu64 " wide, expected %" PRIu32 " for %" PRIu32 " record(s) a row", buffer->name,
                        buffer->cols, 2 * shape->records, shape->records);
    }
}

static void verify_route(Verifier *verifier, uint32_t index, const Shape *shape)
{
    expect_stage(verifier, index, shape);
    expect_rows(verifier, index, OPERAND_next_records, rows_of(verifier, index, OPERAND_next_rows));
    expect_rows(verifier, index, OPERAND_send_records, rows_of(verifier, index, OPERAND_send_rows));
    uint64_t next = rows_of(verifier, index, OPERAND_next_rows), records = rows_of(verifier, index, OPERAND_records);
    if (verifier->plan->exchange == EXCHANGE_PADDED) // a place for every row of every member
        expect_rows(verifier, index, OPERAND_origin, next);
    else
        expect_rows(verifier, index, OPERAND_origin,
                    (next < records ? next : records) + rows_of(verifier, index, OPERAND_send_rows));
}

// Where exchanges are padded, every member's rows have a place as large as a message, and no message can get larger.
static void verify_dispatch(Verifier *verifier, uint32_t index, const Shape *shape)
{
    (void)shape;
    const Plan *plan = verifier->plan;
    const Step *step = &plan->steps[index];
    if (plan->exchange != EXCHANGE_PADDED)
        return;
    uint64_t message = plan_message_rows(plan, step), next, members;
    members = group_size(&plan->cluster, &plan->groups[step->group]);
    if (!message || !checked_mul(message, members, &next)) {
        verify_fail(verifier, PROPERTY_SIZES, index, "its padded messages have no size");
        return;
    }
    expect_rows(verifier, index, OPERAND_next_rows, next);
    expect_rows(verifier, index, OPERAND_send_rows, next - message);
}

// The route that wrote the `origin` of a step that undoes it, or repeats it for gradients; NONE without one.
static int32_t find_route(const Plan *plan, uint32_t index, const Shape *shape)
{
    int32_t origin = step_operand(plan, &plan->steps[index], OPERAND_origin);
    return origin == NONE ? NONE : shape->route[origin];
}

// One gradient of a gate weight per record.
static void expect_record_gradients(Verifier *verifier, uint32_t index, Operand operand, uint64_t rows,
                                    const Shape *shape)
{
    const Buffer *buffer = step_buffer(verifier->plan, &verifier->plan->steps[index], operand);
    expect_rows(verifier, index, operand, rows);
    if (buffer && buffer->cols != shape->records)
        verify_fail(verifier, PROPERTY_SIZES, index, "'%s' is %" PRIu64 " wide, expected %" PRIu32 ", one per record",
                    buffer->name, buffer->cols, shape->records);
}

// Result gradients go where the route put rows: same next stage, same send buffer.
static void verify_unroute_backward(Verifier *verifier, uint32_t index, const Shape *shape)
{
    int32_t route = find_route(verifier->plan, index, shape);
    if (route == NONE)
        return;
    expect_rows(verifier, index, OPERAND_drows, rows_of(verifier, (uint32_t)route, OPERAND_rows));
    expect_rows(verifier, index, OPERAND_dresults, rows_of(verifier, (uint32_t)route, OPERAND_next_rows));
    expect_rows(verifier, index, OPERAND_send_rows, rows_of(verifier, (uint32_t)route, OPERAND_send_rows));
}

// Results, and gradients, are one for every row of the stage.
static void verify_expert(Verifier *verifier, uint32_t index, const Shape *shape)
{
    static const Operand per_row[] = {OPERAND_results, OPERAND_dresults, OPERAND_drows};
    expect_stage(verifier, index, shape);
    for (size_t i = 0; i < COUNT_OF(per_row); i++)
        expect_rows(verifier, index, per_row[i], rows_of(verifier, index, OPERAND_rows));
    expect_record_gradients(verifier, index, OPERAND_drecords, rows_of(verifier, index, OPERAND_records), shape);
}

static void verify_gate_backward(Verifier *verifier, uint32_t index, const Shape *shape)
{
    expect_record_gradients(verifier, index, OPERAND_drecords, shape->tokens * shape->fanout, shape);
}

// Gradients of what a route made: what it kept, what it sent, and what it split.
static void verify_route_backward(Verifier *verifier, uint32_t index, const Shape *shape)
{
    int32_t route = find_route(verifier->plan, index, shape);
    if (route == NONE)
        return;
    uint64_t next = rows_of(verifier, (uint32_t)route, OPERAND_next_rows);
    uint64_t sent = rows_of(verifier, (uint32_t)route, OPERAND_send_rows);
    expect_rows(verifier, index, OPERAND_drows_next, next);
    expect_record_gradients(verifier, index, OPERAND_drecords_next, next, shape);
    expect_rows(verifier, index, OPERAND_returned, sent);
    expect_record_gradients(verifier, index, OPERAND_returned_records, sent, shape);
    expect_rows(verifier, index, OPERAND_drows, rows_of(verifier, (uint32_t)route, OPERAND_rows));
    expect_record_gradients(verifier, index, OPERAND_drecords, rows_of(verifier, (uint32_t)route, OPERAND_records),
                            shape);
}

// Two moments a weight, and a master copy where weights are 16-bit. The gradient is as it travelled, or a sum.
static void verify_optimizer(Verifier *verifier, uint32_t index, const Shape *shape)
{
    (void)shape;
    const Plan *plan = verifier->plan;
    const Buffer *weights = step_buffer(plan, &plan->steps[index], OPERAND_weights);
    const Buffer *gradient = step_buffer(plan, &plan->steps[index], OPERAND_gradient);
    const Buffer *state = step_buffer(plan, &plan->steps[index], OPERAND_state);
    uint64_t values = dtype_bytes(weights->dtype) < 4 ? 3 : 2;
    bool has_dtype = gradient->dtype == weights->dtype || gradient->dtype == DTYPE_F32;
    if (!has_dtype || gradient->rows != weights->rows || gradient->cols != weights->cols)
        verify_fail(verifier, PROPERTY_SIZES, index, "'%s' differs in shape from '%s'", gradient->name, weights->name);
    if (state->rows != weights->rows || state->cols != values * weights->cols)
        verify_fail(verifier, PROPERTY_SIZES, index,
                    "'%s' is %" PRIu64 " x %" PRIu64 ", expected %" PRIu64 " x %" PRIu64, state->name, state->rows,
                    state->cols, weights->rows, values * weights->cols);
}

// What weights moved is as large as they are; beside where they were the outer optimizer may have its momentum.
static void verify_outer(Verifier *verifier, uint32_t index, const Shape *shape)
{
    (void)shape;
    const Plan *plan = verifier->plan;
    const Buffer *weights = step_buffer(plan, &plan->steps[index], OPERAND_weights);
    const Buffer *gradient = step_buffer(plan, &plan->steps[index], OPERAND_gradient);
    const Buffer *outer = step_buffer(plan, &plan->steps[index], OPERAND_outer);
    uint64_t values = plan->sync.optimizer == OUTER_AVERAGE ? 1 : 2;
    if (plan->sync.every == 0)
        verify_fail(verifier, PROPERTY_SIZES, index, "the plan has no local steps");
    if (weights->dtype != DTYPE_F32 || gradient->dtype != DTYPE_F32 || gradient->rows != weights->rows ||
        gradient->cols != weights->cols)
        verify_fail(verifier, PROPERTY_SIZES, index, "'%s' differs in shape from '%s', or they are not f32",
                    gradient->name, weights->name);
    if (outer->rows != weights->rows || outer->cols != values * weights->cols)
        verify_fail(verifier, PROPERTY_SIZES, index,
                    "'%s' is %" PRIu64 " x %" PRIu64 ", expected %" PRIu64 " x %" PRIu64, outer->name, outer->rows,
                    outer->cols, weights->rows, values * weights->cols);
}

// An unroute undoes the route that wrote its `origin`: same rows, same send buffer, same next stage.
static void verify_unroute(Verifier *verifier, uint32_t index, const Shape *shape)
{
    const Plan *plan = verifier->plan;
    int32_t route = find_route(plan, index, shape);
    if (route != NONE) {
        expect_rows(verifier, index, OPERAND_rows, rows_of(verifier, (uint32_t)route, OPERAND_rows));
        expect_rows(verifier, index, OPERAND_results, rows_of(verifier, (uint32_t)route, OPERAND_next_rows));
        expect_rows(verifier, index, OPERAND_returned, rows_of(verifier, (uint32_t)route, OPERAND_send_rows));
    }
    // What was sent back is part of the same results.
    int32_t returned = step_operand(plan, &plan->steps[index], OPERAND_returned);
    int32_t combine = returned == NONE ? NONE : shape->combine[returned];
    int32_t sent = combine == NONE ? NONE : step_operand(plan, &plan->steps[combine], OPERAND_results);
    if (sent != NONE && shape->packed[sent] != NONE)
        sent = shape->packed[sent];
    if (sent != NONE && sent != step_operand(plan, &plan->steps[index], OPERAND_results))
        verify_fail(verifier, PROPERTY_SIZES, index, "sums other results than step %" PRId32 " sent back", combine);
}

static void expect_shape(Verifier *verifier, uint32_t index, const Buffer *buffer, uint64_t rows, const Buffer *like)
{
    if (buffer && (buffer->rows != rows || buffer->cols != like->cols || buffer->dtype != like->dtype))
        verify_fail(verifier, PROPERTY_SIZES, index, "'%s' differs in shape from '%s': expected %" PRIu64 " rows",
                    buffer->name, like->name, rows);
}

static void expect_packets(Verifier *verifier, uint32_t index, Operand operand, Packing packing, uint64_t rows,
                           const Buffer *of)
{
    const Plan *plan = verifier->plan;
    const Buffer *packet = step_buffer(plan, &plan->steps[index], operand);
    uint64_t bytes = plan_packet_bytes(plan, packing, of->cols);
    if (packet->rows != rows || packet->cols != bytes)
        verify_fail(verifier, PROPERTY_SIZES, index,
                    "'%s' is %" PRIu64 " x %" PRIu64 ", expected %" PRIu64 " packets of %" PRIu64 " bytes",
                    packet->name, packet->rows, packet->cols, rows, bytes);
}

// What a rank owns of the bundle that a step encodes or decodes.
static void verify_own(Verifier *verifier, uint32_t index, const Buffer *own, WeightKind kind)
{
    const Plan *plan = verifier->plan;
    ShareShape experts = plan_share_shape(plan);
    bool dense = kind == WEIGHT_DENSE || kind == WEIGHT_EMBEDDING;
    uint64_t rows = dense ? 1 : experts.rows;
    uint64_t cols = dense ? bundle_shape(plan, kind, plan->steps[index].layer).share : experts.cols;
    if (own->rows != rows || own->cols != cols || own->dtype != plan->model.dtype)
        verify_fail(verifier, PROPERTY_SIZES, index, "'%s' is no share of weights: expected %s %" PRIu64 " x %" PRIu64,
                    own->name, dtype_name(plan->model.dtype), rows, cols);
}

static uint64_t coded_members(const Plan *plan, const Step *step, WeightKind kind)
{
    const Coding *coding = plan_coding(plan, kind);
    const Choice *choice = verify_find_choice(plan, step->layer);
    uint64_t members = 1;
    if (coding == &plan->experts)
        return choice ? plan_coded_members(plan, choice->domain) : 1;
    for (uint32_t l = 0; l < coding_levels(coding, plan->cluster.level_count); l++)
        members *= plan->cluster.levels[l].count;
    return members;
}

// A packet is a row's: an expert, or a share.
static void verify_encode(Verifier *verifier, uint32_t index, const Shape *shape)
{
    (void)shape;
    const Plan *plan = verifier->plan;
    StepBuffers of = step_buffers(plan, &plan->steps[index]);
    const Buffer *own = &plan->buffers[of.encode.own];
    WeightKind kind = verifier->kinds[of.encode.own];
    verify_own(verifier, index, own, kind);
    expect_shape(verifier, index, step_buffer(plan, &plan->steps[index], OPERAND_sent), own->rows, own);
    expect_packets(verifier, index, OPERAND_packet, coding_packing(plan_coding(plan, kind)), own->rows, own);
}

static void verify_decode(Verifier *verifier, uint32_t index, const Shape *shape)
{
    (void)shape;
    const Plan *plan = verifier->plan;
    const Step *step = &plan->steps[index];
    StepBuffers of = step_buffers(plan, step);
    const Buffer *own = &plan->buffers[of.decode.own];
    WeightKind kind = verifier->kinds[of.decode.own];
    uint64_t rows = own->rows * coded_members(plan, step, kind);
    verify_own(verifier, index, own, kind);
    expect_shape(verifier, index, step_buffer(plan, step, OPERAND_gathered), rows, own);
    expect_shape(verifier, index, step_buffer(plan, step, OPERAND_replicas), rows, own);
    expect_packets(verifier, index, OPERAND_packet, coding_packing(plan_coding(plan, kind)), rows, own);
}

static Packing gradient_packing_of(const Verifier *verifier, int32_t gathered)
{
    return coding_gradient_packing(plan_coding(verifier->plan, verifier->kinds[gathered]));
}

static void verify_encode_gradient(Verifier *verifier, uint32_t index, const Shape *shape)
{
    (void)shape;
    const Plan *plan = verifier->plan;
    StepBuffers of = step_buffers(plan, &plan->steps[index]);
    const Buffer *gathered = &plan->buffers[of.encode_gradient.gathered];
    expect_shape(verifier, index, &plan->buffers[of.encode_gradient.error], gathered->rows, gathered);
    expect_packets(verifier, index, OPERAND_packets, gradient_packing_of(verifier, of.encode_gradient.gathered),
                   gathered->rows, gathered);
}

static void verify_return_packets(Verifier *verifier, uint32_t index, const Shape *shape)
{
    (void)shape;
    const Plan *plan = verifier->plan;
    StepBuffers of = step_buffers(plan, &plan->steps[index]);
    const Buffer *packets = &plan->buffers[of.return_packets.packets];
    expect_shape(verifier, index, &plan->buffers[of.return_packets.received], packets->rows, packets);
}

static void verify_decode_gradient(Verifier *verifier, uint32_t index, const Shape *shape)
{
    (void)shape;
    const Plan *plan = verifier->plan;
    StepBuffers of = step_buffers(plan, &plan->steps[index]);
    const Buffer *gathered = &plan->buffers[of.decode_gradient.gathered];
    const Buffer *shard = &plan->buffers[of.decode_gradient.shard];
    uint64_t members = shard->rows ? gathered->rows / shard->rows : 0;
    expect_shape(verifier, index, shard, members ? gathered->rows / members : 0, gathered);
    expect_packets(verifier, index, OPERAND_received, gradient_packing_of(verifier, of.decode_gradient.gathered),
                   gathered->rows, gathered);
}

// Memories are of their kind, and of the step's layer.
static void verify_memories(Verifier *verifier, uint32_t index)
{
    static const Operand memories[] = {OPERAND_mean, OPERAND_sent, OPERAND_replicas, OPERAND_error};
    const Step *step = &verifier->plan->steps[index];
    for (size_t i = 0; i < COUNT_OF(memories); i++) {
        const Buffer *memory = step_buffer(verifier->plan, step, memories[i]);
        if (memory && (memory->kind != BUFFER_REPLICA || memory->layer != step->layer))
            verify_fail(verifier, PROPERTY_SIZES, index, "'%s' (operand '%s') is not what the layer remembers",
                        memory->name, operand_name(memories[i]));
    }
}

// Weights are the step's own layer's, filled before the first step, or gathered.
static void verify_weights(Verifier *verifier, uint32_t index)
{
    static const Operand operands[] = {OPERAND_embedding, OPERAND_dense, OPERAND_experts, OPERAND_own_experts};
    const Plan *plan = verifier->plan;
    const Step *step = &plan->steps[index];
    for (size_t i = 0; i < COUNT_OF(operands); i++) {
        const Buffer *buffer = step_buffer(plan, step, operands[i]);
        if (!buffer)
            continue;
        WeightKind kind = operand_weight(operands[i]);
        bool gathered = (buffer->kind == BUFFER_TEMPORARY || buffer->kind == BUFFER_REPLICA) &&
                        (kind == WEIGHT_EXPERTS || plan->pass == PASS_TRAINING);
        if (buffer->kind != BUFFER_WEIGHT && !gathered)
            verify_fail(verifier, PROPERTY_SIZES, index, "'%s' (operand '%s') is of kind '%s', expected a weight",
                        buffer->name, operand_name(operands[i]), buffer_kind_name(buffer->kind));
        else if (buffer->layer != (kind == WEIGHT_EMBEDDING ? NONE : step->layer))
            verify_fail(verifier, PROPERTY_SIZES, index, "'%s' (operand '%s') is of another layer", buffer->name,
                        operand_name(operands[i]));
    }
}

// Of local steps that neither route rows nor take those of a stage: a hidden vector per token, `fanout` records.
static void verify_token_rows(Verifier *verifier, uint32_t index, const Shape *shape)
{
    const OpInfo *info = step_info(&verifier->plan->steps[index]);
    if (info->shape != SHAPE_LOCAL || op_operand_index(info, OPERAND_counts) >= 0 ||
        op_operand_index(info, OPERAND_origin) >= 0)
        return;
    for (uint32_t k = 0; k < info->operand_count; k++) {
        if (info->operands[k].contents == CONTENTS_HIDDEN)
            expect_rows(verifier, index, info->operands[k].operand, shape->tokens);
        else if (info->operands[k].contents == CONTENTS_RECORDS)
            expect_rows(verifier, index, info->operands[k].operand, shape->tokens * shape->fanout);
    }
}

// A sum of gradients is f32, and as large as the gradient of one micro-batch, or as what it is rounded to.
static void verify_sum(Verifier *verifier, uint32_t index, const Shape *shape)
{
    (void)shape;
    const Plan *plan = verifier->plan;
    const Step *step = &plan->steps[index];
    const Buffer *sum = step_buffer(plan, step, OPERAND_sum);
    const Buffer *other = step_buffer(
        plan, step, step->op == OP_ROUND || step->op == OP_ROUND_RETURNED ? OPERAND_gradient : OPERAND_part);
    if (sum->dtype != DTYPE_F32)
        verify_fail(verifier, PROPERTY_SIZES, index, "the sum '%s' is %s, expected f32", sum->name,
                    dtype_name(sum->dtype));
    if (other->rows != sum->rows || other->cols != sum->cols || other->dtype != plan->model.dtype)
        verify_fail(verifier, PROPERTY_SIZES, index, "'%s' differs in shape from '%s', or in dtype from the weights",
                    other->name, sum->name);
}

// As many packed rows as rows; before the first exchange those of all tokens.
static void verify_packed_rows(Verifier *verifier, uint32_t index, const Shape *shape)
{
    const Step *step = &verifier->plan->steps[index];
    bool first = step->op == OP_ENCODE_ROWS && step_operand(verifier->plan, step, OPERAND_counts) == NONE;
    expect_rows(verifier, index, OPERAND_rows, first ? shape->tokens : rows_of(verifier, index, OPERAND_packed_rows));
    expect_rows(verifier, index, OPERAND_packed_rows, rows_of(verifier, index, OPERAND_rows));
}

// What else holds of some ops.
static void (*const rules[])(Verifier *, uint32_t index, const Shape *) = {
    [OP_ENCODE] = verify_encode,
    [OP_DECODE] = verify_decode,
    [OP_ENCODE_GRADIENT] = verify_encode_gradient,
    [OP_RETURN_PACKETS] = verify_return_packets,
    [OP_DECODE_GRADIENT] = verify_decode_gradient,
    [OP_ROUTE] = verify_route,
    [OP_ROUTE_BACKWARD] = verify_route_backward,
    [OP_UNROUTE] = verify_unroute,
    [OP_UNROUTE_BACKWARD] = verify_unroute_backward,
    [OP_DISPATCH] = verify_dispatch,
    [OP_ENCODE_ROWS] = verify_packed_rows,
    [OP_DECODE_ROWS] = verify_packed_rows,
    [OP_EXPERT] = verify_expert,
    [OP_EXPERT_BACKWARD] = verify_expert,
    [OP_GATE_BACKWARD] = verify_gate_backward,
    [OP_OPTIMIZER] = verify_optimizer,
    [OP_OUTER_GRADIENT] = verify_outer,
    [OP_OUTER_STEP] = verify_outer,
    [OP_ACCUMULATE] = verify_sum,
    [OP_ROUND] = verify_sum,
    [OP_ADD_RETURNED] = verify_sum,
    [OP_ROUND_RETURNED] = verify_sum,
};

static void verify_step_sizes(Verifier *verifier, uint32_t index, const Shape *shape)
{
    Op op = verifier->plan->steps[index].op;
    verify_record_width(verifier, index, shape);
    verify_weights(verifier, index);
    verify_memories(verifier, index);
    verify_token_rows(verifier, index, shape);
    if ((size_t)op < COUNT_OF(rules) && rules[op])
        rules[op](verifier, index, shape);
}

void verify_sizes(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    if (plan->model.abstract || verifier->report->total) // operands are there only when they are in order
        return;
    Shape shape = plan_shape(plan, verifier->scratch);
    uint32_t layers_begun = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        verify_step_sizes(verifier, i, &shape);
        note_writers(plan, i, &shape);
        layers_begun += plan->steps[i].op == OP_PRE_EXPERT;
    }
    uint32_t expected = plan->model.layers * (plan->recompute ? 2 : 1);
    if (layers_begun != expected)
        verify_fail(verifier, PROPERTY_SIZES, NONE,
                    "the schedule computes attention %" PRIu32 " times, expected %" PRIu32 " for %" PRIu32 " layers",
                    layers_begun, expected, plan->model.layers);
}

// ---- claims ------------------------------------------------------------------------------------

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-9 * fmax(fabs(a), fabs(b));
}

static void expect_claim(Verifier *verifier, const char *what, double claimed, double derived)
{
    if (!near(claimed, derived))
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "%s is given as %.12g, it is %.12g", what, claimed, derived);
}

static void verify_volumes(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    const ModelDims *dims = &plan->model;
    double element = dtype_bytes(dims->dtype);
    expect_claim(verifier, "data_bytes", dims->data_bytes,
                 (double)model_tokens(dims) * dims->top_k * dims->hidden * element);
    ShareShape share = plan_share_shape(plan);
    double sent = !codec_info(plan->experts.codec)->encodes
                      ? (double)share.cols * dtype_bytes(model_expert_dtype(dims))
                      : (double)packing_bytes(coding_packing(&plan->experts), share.cols, dims->dtype);
    expect_claim(verifier, "expert_bytes", dims->expert_bytes, (double)share.rows * sent);
    if (plan_memory_bytes(plan) > plan->cluster.device.memory_bytes)
        verify_fail(verifier, PROPERTY_CLAIMS, NONE,
                    "the arena of %" PRIu64 " bytes and the %" PRIu64 " of engine '%s' exceed the device's %.12g",
                    plan->arena_bytes, plan->engine_bytes, engine_kind_name(plan->cluster.device.engine),
                    plan->cluster.device.memory_bytes);
}

static void verify_ratios(Verifier *verifier, const Coding *coding)
{
    bool encodes = codec_info(coding->codec)->encodes, returns = coding->gradient != GRADIENT_DENSE;
    if (coding->whole_levels > 0 && !coding_encodes(coding))
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "everything travels whole, not only inside the innermost levels");
    if (!encodes)
        expect_claim(verifier, "the ratio of dense migration", coding->ratio, 1);
    else if (!packet_has_ratio(coding_packing(coding).form))
        expect_claim(verifier, "the ratio of packets that have a size of their own", coding->ratio, 1);
    if (!returns || !packet_has_ratio(coding_gradient_packing(coding).form))
        expect_claim(verifier, "the ratio of gradients that have none", coding->gradient_ratio, 1);
    if (returns && verifier->plan->pass == PASS_FORWARD)
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "gradients return as '%s' in a forward pass",
                    gradient_name(coding->gradient));
}

// Experts are encoded where they migrate compressed, and nowhere else. Of dense weights flow says so.
static void verify_codec(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    bool gathers = false, encodes = false;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        gathers = gathers || (plan->steps[i].op == OP_GATHER && !verify_carries_dense(verifier, &plan->steps[i]) &&
                              plan->steps[i].level < (int32_t)plan_coded_levels(plan));
        int32_t own = plan->steps[i].op == OP_ENCODE ? step_operand(plan, &plan->steps[i], OPERAND_own) : NONE;
        encodes = encodes || (own != NONE && plan_coding(plan, verifier->kinds[own]) == &plan->experts);
    }
    verify_ratios(verifier, &plan->experts);
    verify_ratios(verifier, &plan->dense);
    bool expected = gathers && codec_info(plan->experts.codec)->encodes;
    if (!plan->model.abstract && encodes != expected)
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "migration is '%s', yet experts are %s",
                    codec_name(plan->experts.codec), encodes ? "encoded" : "not encoded");
    bool subtracts = encodes && codec_info(plan->experts.codec)->has_mean;
    if (!plan->model.abstract && subtracts && plan->choice_count > 0 && !plan_share_shape(plan).whole)
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "'%s' subtracts the mean of whole experts, yet GPUs own parts",
                    codec_name(plan->experts.codec));
    if (codec_info(plan->dense.codec)->has_mean ||
        (coding_encodes(&plan->dense) && (plan->pass == PASS_FORWARD || plan->model.abstract)))
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "there are no dense weights for '%s'",
                    codec_name(plan->dense.codec));
    if (plan->whole_iterations > 0 && !coding_encodes(&plan->experts) && !coding_encodes(&plan->dense))
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "packets are whole in %" PRIu32 " iterations, and there are none",
                    plan->whole_iterations);
}

// Whether the levels that are gathered again are some of those that packets cross: all of them, or none, unless a codec
// remembers what it sent once an iteration.
static bool makes_packets_again(const Plan *plan, const Choice *choice)
{
    const CodecInfo *codec = codec_info(plan->experts.codec);
    bool coded = codec->encodes && plan_coded_members(plan, choice->domain) > 1;
    return coded && choice->once < plan_coded_levels(plan) && (codec->remembers || choice->once > 0);
}

// What is kept of weights that are gathered again.
static void verify_once_levels(Verifier *verifier, bool regather, uint32_t once, const char *what)
{
    uint32_t most = regather ? verifier->plan->cluster.level_count - 1 : 0;
    if (once > most)
        verify_fail(verifier, PROPERTY_CLAIMS, NONE,
                    "%s are kept over %" PRIu32 " outermost levels, expected at most %" PRIu32, what, once, most);
}

// A boundary of gradients lies outside that of the weights, or there is none of their own.
static void verify_gradient_levels(Verifier *verifier, bool apart, uint32_t once, uint32_t kept, const char *what)
{
    bool possible = plan_laps(verifier->written).count > 1 && verifier->plan->pass == PASS_TRAINING;
    if (apart && !possible)
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "gradients of %s return in every lap, and there are not several",
                    what);
    else if (apart ? once >= kept : once > 0)
        verify_fail(verifier, PROPERTY_CLAIMS, NONE,
                    "gradients of %s cross %" PRIu32 " outermost levels once, expected %s%" PRIu32, what, once,
                    apart ? "less than " : "", apart ? kept : 0);
}

static void verify_kept(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    for (uint32_t c = 0; c < plan->choice_count; c++)
        verify_once_levels(verifier, plan->choices[c].regather, plan->choices[c].once, "gathered experts");
    verify_once_levels(verifier, plan->regather_dense, plan->once_dense, "gathered dense weights");
    uint32_t levels = plan->cluster.level_count;
    for (uint32_t c = 0; c < plan->choice_count; c++) {
        const Choice *choice = &plan->choices[c];
        verify_gradient_levels(verifier, choice->returns_apart, choice->once_gradient,
                               choice->regather ? choice->once : levels, "experts");
    }
    verify_gradient_levels(verifier, plan->returns_dense_apart, plan->once_dense_gradient,
                           plan->regather_dense ? plan->once_dense : levels, "dense weights");
}

void verify_claims(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    if (verifier->report->total) // a broken schedule makes no claims worth checking
        return;
    verify_codec(verifier);
    if (plan->exchange == EXCHANGE_PADDED && (plan->model.abstract || plan->capacity <= 0))
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "exchanges are padded, yet %s",
                    plan->model.abstract ? "the model is abstract" : "there is no capacity");
    bool gradients =
        plan->tokens[WAY_DISPATCH_GRADIENT] != TOKENS_FULL || plan->tokens[WAY_COMBINE_GRADIENT] != TOKENS_FULL;
    if ((plan->model.abstract && plan_packs_rows(plan)) || (plan->pass == PASS_FORWARD && gradients))
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "rows are packed%s, yet %s",
                    gradients ? ", of gradients, too" : "",
                    plan->model.abstract ? "the model is abstract" : "a forward pass has no gradients");
    for (uint32_t c = 0; c < plan->choice_count; c++)
        if (plan->choices[c].regather && (plan->pass == PASS_FORWARD || makes_packets_again(plan, &plan->choices[c])))
            verify_fail(verifier, PROPERTY_CLAIMS, NONE, "layer %" PRIu32 " gathers again %s", plan->choices[c].layer,
                        plan->pass == PASS_FORWARD ? "in a forward pass" : "what its codec keeps");
    verify_kept(verifier);
    if (plan->regather_dense && coding_encodes(&plan->dense) &&
        plan->once_dense < coding_levels(&plan->dense, plan->cluster.level_count))
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "dense weights are gathered again over levels that packets cross");
    if (plan->regather_embedding && (verifier->written->micro_batches == 1 || coding_encodes(&plan->dense)))
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "the embedding is gathered for each use, yet %s",
                    verifier->written->micro_batches == 1 ? "there is one micro-batch" : "it is encoded");
    if (plan->regather_dense && (plan->pass == PASS_FORWARD || plan->model.abstract))
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "there are no dense weights to gather again");
    if (plan->recompute && (plan->pass == PASS_FORWARD || plan->model.abstract))
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "there are no activations to compute again");
    if (plan->sync.every > 0 && (plan->pass == PASS_FORWARD || plan->model.abstract || coding_encodes(&plan->experts) ||
                                 coding_encodes(&plan->dense)))
        verify_fail(verifier, PROPERTY_CLAIMS, NONE, "workers train apart in a plan that %s",
                    plan->pass == PASS_FORWARD ? "updates nothing"
                    : plan->model.abstract     ? "has no weights"
                                               : "encodes weights or gradients");
    for (uint32_t a = 0; a < plan->strategy_count; a++)
        for (uint32_t b = a + 1; b < plan->strategy_count; b++)
            if (strcmp(plan->strategies[a].name, plan->strategies[b].name) == 0)
                verify_fail(verifier, PROPERTY_CLAIMS, NONE, "two strategies are called '%s'",
                            plan->strategies[a].name);
    if (plan->strategy_count > 0) {
        expect_claim(verifier, "the iteration time of the chosen strategy", plan->strategies[0].iteration_s,
                     plan->iteration_s);
        expect_claim(verifier, "the memory of the chosen strategy", plan->strategies[0].memory_bytes,
                     plan_memory_bytes(plan));
        if (!plan->strategies[0].fits)
            verify_fail(verifier, PROPERTY_CLAIMS, NONE, "the chosen strategy is said not to fit");
    }
    if (!plan->model.abstract)
        verify_volumes(verifier);
}
