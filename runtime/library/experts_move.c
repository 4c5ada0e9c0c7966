// One layer's experts, or their gradients, on their way. Shares that are whole experts move where the caller has them;
// others, and those that become packets, go through scratch, as a block of experts laid one after another.
#include "runtime/library/experts.h"

#include <inttypes.h>
#include <stdlib.h>

#include "runtime/library/coded.h"

static Shares shares_of(const hep_context *context, CallPurpose purpose, uint32_t index, const Tensor tensors[])
{
    const Layer *layer = &context->layers[index];
    Shares shares = {.tensor_count = layer->parameters,
                     .rows = layer->shares.rows,
                     .slot = layer->own_slot,
                     .crossing_count = layer->crossing_count,
                     .crossings = layer->crossings,
                     .context = context,
                     .call = {.purpose = purpose, .layer = (int32_t)index}};
    memcpy(shares.tensors, tensors, layer->parameters * sizeof(*tensors));
    return shares;
}

// ---- what is kept between forward and backward pass ------------------------------------------------

static uint64_t tensor_bytes(Tensor tensor)
{
    return tensor.rows * tensor.cols * dtype_bytes(tensor.dtype);
}

// The crossings whose result is kept where the rest is gathered again.
static uint32_t kept_crossings(const Layer *layer)
{
    uint32_t count = 0;
    while (count < layer->crossing_count && layer->crossings[count].level < layer->choice->once)
        count++;
    return layer->choice->regather && count >= coded_first_whole(&layer->coded) ? count : 0;
}

// Copies what came over the kept crossings out of the tensors, or back.
static bool copy_kept(Layer *layer, const Shares *shares, bool out, Fault *fault)
{
    uint64_t first, count, bytes = 0;
    shares_block(shares, kept_crossings(layer), &first, &count);
    for (uint32_t t = 0; t < shares->tensor_count; t++)
        bytes += shares->tensors[t].cols * dtype_bytes(shares->tensors[t].dtype) * count * shares->rows;
    if (out && bytes > layer->kept_bytes) {
        free(layer->kept);
        layer->kept = malloc(bytes);
        layer->kept_bytes = layer->kept ? bytes : 0;
        if (!layer->kept)
            return fault_set(fault, FAULT_MEMORY, "out of memory for %" PRIu64 " bytes of kept experts", bytes);
    }
    char *kept = layer->kept;
    for (uint32_t t = 0; t < shares->tensor_count; t++) {
        uint64_t share = shares->tensors[t].cols * dtype_bytes(shares->tensors[t].dtype) * shares->rows;
        char *at = (char *)shares->tensors[t].data + first * share;
        memcpy(out ? kept : at, out ? at : kept, count * share);
        kept += count * share;
    }
    layer->has_kept = true;
    return true;
}

// Gathers, and keeps what is to be kept.
static bool gather_shares(Layer *layer, Shares *shares, Fault *fault)
{
    uint32_t kept = kept_crossings(layer);
    if (kept > 0 && layer->has_kept)
        return copy_kept(layer, shares, false, fault) && shares_gather(shares, kept, fault);
    uint32_t first = coded_first_whole(&layer->coded);
    if (!coded_gather(&layer->coded, shares, fault))
        return false;
    if (kept == 0)
        return shares_gather(shares, first, fault);
    Shares outer = *shares;
    outer.crossing_count = kept;
    return shares_gather(&outer, first, fault) && copy_kept(layer, shares, true, fault) &&
           shares_gather(shares, kept, fault);
}

// ---- shares that are whole experts -----------------------------------------------------------------

static void place_own(const Layer *layer, const Shares *shares)
{
    for (uint32_t p = 0; p < layer->parameters; p++) {
        uint64_t bytes = tensor_bytes(layer->own[p]);
        char *place = (char *)layer->full[p].data + shares->slot * bytes;
        if (place != layer->own[p].data && bytes)
            memmove(place, layer->own[p].data, bytes);
    }
}

static bool gather_whole(hep_context *context, uint32_t index, Fault *fault)
{
    Layer *layer = &context->layers[index];
    Shares shares = shares_of(context, CALL_OF_GATHER, index, layer->full);
    shares.lane = &context->gather_lane;
    place_own(layer, &shares);
    return gather_shares(layer, &shares, fault);
}

static bool return_whole(hep_context *context, const Job *job, Fault *fault)
{
    Layer *layer = &context->layers[job->layer];
    Shares shares = shares_of(context, CALL_OF_RETURN, job->layer, job->full);
    shares.lane = &context->courier_lane;
    if (!coded_return(&layer->coded, &shares, fault))
        return false;
    for (uint32_t p = 0; p < layer->parameters; p++) {
        Tensor own = job->full[p];
        own.rows = shares.rows;
        own.data = (char *)own.data + shares.slot * tensor_bytes(own);
        weights_add(own, job->scale, layer->grads[p]);
    }
    return true;
}

// ---- shares that go through a block ----------------------------------------------------------------

typedef struct {
    char *memory; // the block, with the padding of its last shares
    uint64_t share_bytes;
    Shares shares;
} Block;

static bool block_make(const hep_context *context, uint32_t index, CallPurpose purpose, Lane *lane, Block *block,
                       Fault *fault)
{
    const Layer *layer = &context->layers[index];
    const ExpertShares *of = &layer->shares;
    Dtype dtype = context->plan->model.dtype;
    uint64_t experts = of->block_experts * of->expert_elements * dtype_bytes(dtype);
    block->share_bytes = of->rows * of->cols * dtype_bytes(dtype);
    block->memory = pool_take(&lane->block, of->members * block->share_bytes, fault);
    if (!block->memory)
        return false;
    memset(block->memory + experts, 0, of->members * block->share_bytes - experts);
    block->shares = shares_of(context, purpose, index, layer->full);
    block->shares.lane = lane;
    block->shares.tensor_count = 1;
    block->shares.tensors[0] =
        (Tensor){.data = block->memory, .dtype = dtype, .rows = of->members * of->rows, .cols = of->cols};
    return true;
}

// `count` experts one after another, each one's parameters one after another; or back.
static void block_copy(const Layer *layer, char *block, uint64_t count, const Tensor parameters[], bool into)
{
    uint64_t size = dtype_bytes(parameters[0].dtype);
    for (uint64_t e = 0; e < count; e++) {
        for (uint32_t p = 0; p < layer->parameters; p++) {
            uint64_t bytes = parameters[p].cols * size;
            char *of_caller = (char *)parameters[p].data + e * bytes;
            memcpy(into ? block : of_caller, into ? of_caller : block, bytes);
            block += bytes;
        }
    }
}

static bool gather_block(hep_context *context, uint32_t index, Fault *fault)
{
    Layer *layer = &context->layers[index];
    Block block;
    if (!block_make(context, index, CALL_OF_GATHER, &context->gather_lane, &block, fault))
        return false;
    char *own = block.memory + layer->own_slot * block.share_bytes;
    if (layer->whole)
        block_copy(layer, own, layer->shares.rows, layer->own, true);
    else
        memcpy(own, layer->own[0].data, block.share_bytes);
    uint64_t every = context->plan->pass == PASS_TRAINING ? context->plan->shared_every : UINT64_MAX;
    uint64_t iteration = context_iteration(context);
    block.shares.whole = iteration < context->plan->whole_iterations;
    bool sums = layer->coded.mean.data && layer->summed != iteration + 1 && iteration % every == 0;
    if (sums && !coded_sum_mean(&layer->coded, &block.shares, fault))
        return false;
    layer->summed = sums ? iteration + 1 : layer->summed;
    if (!gather_shares(layer, &block.shares, fault))
        return false;
    block_copy(layer, block.memory, layer->shares.block_experts, layer->full, false);
    return true;
}

// Adds the sums of own experts to the caller's.
static void add_own(const Layer *layer, const char *own, Dtype dtype, double scale)
{
    uint64_t parts = layer->whole ? layer->shares.rows : 1;
    for (uint64_t e = 0; e < parts; e++)
        for (uint32_t p = 0; p < (layer->whole ? layer->parameters : 1); p++) {
            Tensor to = layer->grads[p], from = {.data = (char *)own, .dtype = dtype, .rows = 1, .cols = to.cols};
            to.rows = 1;
            to.data = (char *)to.data + e * to.cols * dtype_bytes(to.dtype);
            weights_add(from, scale, to);
            own += to.cols * dtype_bytes(dtype);
        }
}

static bool return_block(hep_context *context, const Job *job, Fault *fault)
{
    Layer *layer = &context->layers[job->layer];
    Block block;
    if (!block_make(context, job->layer, CALL_OF_RETURN, &context->courier_lane, &block, fault))
        return false;
    block.shares.whole = job->whole;
    block_copy(layer, block.memory, layer->shares.block_experts, job->full, true);
    if (!coded_return(&layer->coded, &block.shares, fault))
        return false;
    add_own(layer, block.memory + layer->own_slot * block.share_bytes, block.shares.tensors[0].dtype, job->scale);
    return true;
}

bool experts_gather(hep_context *context, uint32_t layer, Fault *fault)
{
    const Layer *of = &context->layers[layer];
    return of->whole && !of->coded.encodes ? gather_whole(context, layer, fault) : gather_block(context, layer, fault);
}

bool experts_return(hep_context *context, const Job *job, Fault *fault)
{
    const Layer *of = &context->layers[job->layer];
    return of->whole && !of->coded.returns ? return_whole(context, job, fault) : return_block(context, job, fault);
}
