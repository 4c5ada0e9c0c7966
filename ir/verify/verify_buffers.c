// The verifier's properties of buffers: operands, reads, races, memory.
#include <inttypes.h>
#include <string.h>

#include "ir/bundle.h"
#include "ir/unroll.h"
#include "ir/verify/verify_parts.h"

// ---- operands ----------------------------------------------------------------------------------

static bool weight_matches(const Plan *plan, const Buffer *buffer, uint64_t elements)
{
    return buffer->dtype == plan->model.dtype && buffer->rows * buffer->cols == elements;
}

// The shares of all owners.
static bool bundle_matches(const Buffer *buffer, BundleShape shape)
{
    return buffer->dtype == shape.dtype && buffer->rows == shape.owners && buffer->cols == shape.share;
}

// A rank's share of the experts, or as many as it holds after gathering.
static bool shares_match(const Plan *plan, const Step *step, const Buffer *buffer, bool held)
{
    const Choice *choice = verify_find_choice(plan, step->layer);
    if (!choice)
        return false;
    ExpertShares shares = plan_expert_shares(plan, choice->domain);
    return buffer->dtype == model_expert_dtype(&plan->model) && buffer->cols == shares.cols &&
           buffer->rows == shares.rows * (held ? shares.members : 1);
}

// Rows as activations are; or packed, in one of the plan's formats, where a step moves them and nothing else. Which of
// these is for verify_flow_rows.c.
static bool rows_match(const Plan *plan, const Step *step, const Buffer *buffer)
{
    const ModelDims *dims = &plan->model;
    bool packed = false;
    for (uint32_t way = 0; way < TOKEN_WAYS; way++)
        packed |= plan->tokens[way] != TOKENS_FULL &&
                  buffer->cols == token_row_bytes(plan->tokens[way], dims->hidden, dims->dtype);
    if (buffer->dtype == DTYPE_U8)
        return packed && plan_moves_rows(step->op);
    return buffer->dtype == dims->dtype && buffer->cols == dims->hidden;
}

static bool contents_match(const Plan *plan, const Step *step, Contents contents, const Buffer *buffer)
{
    const ModelDims *dims = &plan->model;
    switch (contents) {
    case CONTENTS_ANYTHING:
        return true;
    case CONTENTS_HIDDEN:
        return rows_match(plan, step, buffer);
    case CONTENTS_RECORDS:
        return buffer->dtype == DTYPE_I32 && buffer->cols >= 2 && buffer->cols % 2 == 0;
    case CONTENTS_COUNTS:
        return buffer->dtype == DTYPE_I32 && buffer->cols == 1 &&
               (step->group == NONE || buffer->rows == group_size(&plan->cluster, &plan->groups[step->group]));
    case CONTENTS_INDICES:
        return buffer->dtype == DTYPE_I32 && buffer->cols == 1;
    case CONTENTS_F32:
        return buffer->dtype == DTYPE_F32;
    case CONTENTS_BYTES:
        return buffer->dtype == DTYPE_U8;
    case CONTENTS_TOKENS:
        return buffer->dtype == DTYPE_I32 && buffer->rows == dims->batch &&
               buffer->cols == (uint64_t)dims->sequence + 1;
    case CONTENTS_SCALAR:
        return buffer->dtype == DTYPE_F32 && buffer->rows == 1 && buffer->cols == 1;
    case CONTENTS_EMBEDDING:
        return bundle_matches(buffer, bundle_shape(plan, WEIGHT_EMBEDDING, NONE));
    case CONTENTS_DENSE:
        return bundle_matches(buffer, bundle_shape(plan, WEIGHT_DENSE, step->layer));
    case CONTENTS_HELD_EXPERTS:
        return shares_match(plan, step, buffer, true);
    case CONTENTS_OWN_EXPERTS:
        return shares_match(plan, step, buffer, false);
    case CONTENTS_ONE_EXPERT:
        return verify_find_choice(plan, step->layer) && buffer->rows == 1 &&
               weight_matches(plan, buffer, model_expert_elements(dims));
    }
    return false;
}

// A gather's output is the members' shards one after another; a reduce-scatter's input likewise.
static void verify_gathered_shape(Verifier *verifier, uint32_t index, const Buffer *shard, const Buffer *gathered)
{
    const Plan *plan = verifier->plan;
    uint64_t members = group_size(&plan->cluster, &plan->groups[plan->steps[index].group]), rows;
    if (!checked_mul(shard->rows, members, &rows) || gathered->rows != rows || gathered->cols != shard->cols ||
        gathered->dtype != shard->dtype) {
        verify_fail(verifier, PROPERTY_OPERANDS, index,
                    "'%s' is not %" PRIu64 " times '%s': expected %s %" PRIu64 " x %" PRIu64 ", found %s %" PRIu64
                    " x %" PRIu64,
                    gathered->name, members, shard->name, dtype_name(shard->dtype), members * shard->rows, shard->cols,
                    dtype_name(gathered->dtype), gathered->rows, gathered->cols);
    }
}

// What moves rows leaves them as they are: all of its rows are as large.
static void verify_moved_rows(Verifier *verifier, uint32_t index)
{
    const Plan *plan = verifier->plan;
    const Step *step = &plan->steps[index];
    const OpInfo *info = step_info(step);
    const Buffer *first = NULL;
    for (uint32_t k = 0; k < info->operand_count && plan_moves_rows(step->op); k++) {
        int32_t at = step_operands(plan, step)[k];
        if (at == NONE || info->operands[k].contents != CONTENTS_HIDDEN)
            continue;
        const Buffer *buffer = &plan->buffers[at];
        if (first && (buffer->dtype != first->dtype || buffer->cols != first->cols))
            verify_fail(verifier, PROPERTY_OPERANDS, index,
                        "rows of '%s' (%s %" PRIu64 " x %" PRIu64 ") are not those of '%s' (%s %" PRIu64 " x %" PRIu64
                        "), which it moves",
                        buffer->name, dtype_name(buffer->dtype), buffer->rows, buffer->cols, first->name,
                        dtype_name(first->dtype), first->rows, first->cols);
        first = first ? first : buffer;
    }
}

static void verify_step_operands(Verifier *verifier, uint32_t index)
{
    const Plan *plan = verifier->plan;
    const Step *step = &plan->steps[index];
    const OpInfo *info = step_info(step);
    bool complete = true;
    for (uint32_t k = 0; k < info->operand_count; k++) {
        const OperandInfo *operand = &info->operands[k];
        int32_t at = step_operands(plan, step)[k];
        const Buffer *buffer = at == NONE ? NULL : &plan->buffers[at];
        if (!buffer) {
            complete = false;
            if (!operand->optional)
                verify_fail(verifier, PROPERTY_OPERANDS, index, "op '%s' misses operand '%s'", info->name,
                            operand->name);
        } else if (!contents_match(plan, step, operand->contents, buffer)) {
            verify_fail(verifier, PROPERTY_OPERANDS, index,
                        "'%s' (%s %" PRIu64 " x %" PRIu64 ") does not fit operand '%s' of op '%s'", buffer->name,
                        dtype_name(buffer->dtype), buffer->rows, buffer->cols, operand->name, info->name);
        } else if (operand->role != ROLE_IN && buffer->kind == BUFFER_INPUT) {
            verify_fail(verifier, PROPERTY_OPERANDS, index, "op '%s' writes the input '%s'", info->name, buffer->name);
        }
    }
    verify_moved_rows(verifier, index);
    if (complete && (step->op == OP_GATHER || step->op == OP_REDUCE_SCATTER))
        verify_gathered_shape(verifier, index, step_buffer(plan, step, OPERAND_shard),
                              step_buffer(plan, step, OPERAND_gathered));
}

void verify_operands(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    if (plan->model.abstract) {
        if (plan->buffer_count)
            verify_fail(verifier, PROPERTY_OPERANDS, NONE,
                        "the model is abstract and has %" PRIu32 " buffers: expected none", plan->buffer_count);
        return;
    }
    for (uint32_t i = 0; i < plan->step_count; i++)
        verify_step_operands(verifier, i);
}

// ---- reads and races ---------------------------------------------------------------------------

// The latest steps of each stream that wrote and read a buffer; earlier ones of a stream come before
// these, so that nothing else needs to be remembered.
typedef struct {
    int64_t write[STREAM_COUNT], read[STREAM_COUNT];
} Accesses;

static bool is_there_from_the_start(const Buffer *buffer)
{
    switch (buffer->kind) {
    case BUFFER_WEIGHT:
    case BUFFER_INPUT:
    case BUFFER_STATE:
    case BUFFER_REPLICA:
        return true;
    case BUFFER_TEMPORARY:
    case BUFFER_GRADIENT:
    case BUFFER_KIND_COUNT:
        break;
    }
    return false;
}

// The first of the steps that is not ordered before `step`, or NONE; sets *any when there are some
// that are.
static int64_t find_unordered(const Verifier *verifier, const int64_t last[STREAM_COUNT], uint32_t step, bool *any)
{
    int64_t unordered = NONE;
    for (int s = 0; s < STREAM_COUNT; s++) {
        if (last[s] == NONE || last[s] == step)
            continue;
        if (order_before(verifier->order, (uint32_t)last[s], step))
            *any = true;
        else if (unordered == NONE)
            unordered = last[s];
    }
    return unordered;
}

static void verify_access(Verifier *verifier, uint32_t step, const Buffer *buffer, const OperandInfo *operand,
                          Accesses *accesses)
{
    bool reads = operand->role == ROLE_IN || operand->role == ROLE_INOUT, writes = operand->role != ROLE_IN;
    bool written = is_there_from_the_start(buffer), ignored = false;
    int64_t writer = find_unordered(verifier, accesses->write, step, &written);
    int64_t reader = writes ? find_unordered(verifier, accesses->read, step, &ignored) : NONE;
    if (reads && !written)
        verify_fail(verifier, PROPERTY_READS, step, "reads '%s', which no step before it has written", buffer->name);
    else if (writer != NONE || reader != NONE)
        verify_fail(verifier, PROPERTY_RACES, step, "%s '%s' while step %" PRId64 " may %s it",
                    writes ? "writes" : "reads", buffer->name, writer != NONE ? writer : reader,
                    writer != NONE ? "write" : "read");
}

static void verify_aliases(Verifier *verifier, uint32_t index)
{
    const Plan *plan = verifier->plan;
    const OpInfo *info = step_info(&plan->steps[index]);
    const int32_t *operands = step_operands(plan, &plan->steps[index]);
    for (uint32_t a = 0; a < info->operand_count; a++) {
        for (uint32_t b = a + 1; b < info->operand_count; b++) {
            bool writes = info->operands[a].role != ROLE_IN || info->operands[b].role != ROLE_IN;
            if (writes && operands[a] != NONE && operands[a] == operands[b])
                verify_fail(verifier, PROPERTY_RACES, index, "'%s' is both operand '%s' and operand '%s', and written",
                            plan->buffers[operands[a]].name, info->operands[a].name, info->operands[b].name);
        }
    }
}

void verify_accesses(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    Accesses *accesses = arena_alloc_array(verifier->scratch, plan->buffer_count, sizeof(*accesses));
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        for (int s = 0; s < STREAM_COUNT; s++)
            accesses[b].write[s] = accesses[b].read[s] = NONE;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const OpInfo *info = step_info(&plan->steps[i]);
        const int32_t *operands = step_operands(plan, &plan->steps[i]);
        verify_aliases(verifier, i);
        for (uint32_t k = 0; k < info->operand_count; k++)
            if (operands[k] != NONE)
                verify_access(verifier, i, &plan->buffers[operands[k]], &info->operands[k], &accesses[operands[k]]);
        for (uint32_t k = 0; k < info->operand_count; k++) {
            if (operands[k] == NONE)
                continue;
            bool reads = info->operands[k].role == ROLE_IN;
            (reads ? accesses[operands[k]].read : accesses[operands[k]].write)[step_stream(plan, &plan->steps[i])] = i;
        }
    }
}

// ---- memory ------------------------------------------------------------------------------------

void verify_memory(Verifier *verifier)
{
    const Plan *plan = verifier->written;
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        const Buffer *buffer = &plan->buffers[b];
        uint64_t bytes = buffer_bytes(buffer);
        if (plan_buffer_values(plan, buffer) > 1 && !plan_buffer_bytes(plan, buffer, &bytes))
            bytes = INT64_MAX; // out of limits, which were checked
        if (buffer->offset % BUFFER_ALIGNMENT)
            verify_fail(verifier, PROPERTY_MEMORY, NONE, "'%s' lies at %" PRIu64 ", no multiple of %d", buffer->name,
                        buffer->offset, BUFFER_ALIGNMENT);
        if (buffer->offset + bytes > plan->arena_bytes)
            verify_fail(verifier, PROPERTY_MEMORY, NONE,
                        "'%s' ends at %" PRIu64 ", beyond the arena of %" PRIu64 " bytes", buffer->name,
                        buffer->offset + bytes, plan->arena_bytes);
    }
    if (plan->micro_batches == 1) // otherwise in the order of all of them, which orders more
        verify_overlaps(verifier);
}
