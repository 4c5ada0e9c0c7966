// One layer's experts, or their gradients, on their way. Shares that are whole experts move where the caller has them;
// others go through scratch, as a block of experts laid one after another.
#include "runtime/library/experts.h"

#include <inttypes.h>
#include <stdlib.h>

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
    return layer->choice->regather ? count : 0;
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
static bool gather_shares(Layer *layer, Shares *shares, bool again, Fault *fault)
{
    uint32_t kept = kept_crossings(layer);
    if (again && kept > 0 && layer->has_kept)
        return copy_kept(layer, shares, false, fault) && shares_gather(shares, kept, fault);
    Shares outer = *shares;
    outer.crossing_count = kept;
    return shares_gather(&outer, 0, fault) && (kept == 0 || copy_kept(layer, shares, true, fault)) &&
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

static bool gather_whole(hep_context *context, uint32_t index, bool again, Fault *fault)
{
    Layer *layer = &context->layers[index];
    Shares shares = shares_of(context, CALL_OF_GATHER, index, layer->full);
    shares.counts = context->gather_counts;
    shares.pool = &context->gather_pool;
    place_own(layer, &shares);
    return gather_shares(layer, &shares, again, fault);
}

static bool return_whole(hep_context *context, const ReturnJob *job, Fault *fault)
{
    Layer *layer = &context->layers[job->layer];
    Shares shares = shares_of(context, CALL_OF_RETURN, job->layer, job->full);
    shares.counts = context->return_counts;
    shares.pool = &context->return_pool;
    if (!shares_return(&shares, fault))
        return false;
    for (uint32_t p = 0; p < layer->parameters; p++) {
        Tensor own = job->full[p];
        own.rows = shares.rows;
        own.data = (char *)own.data + shares.slot * tensor_bytes(own);
        weights_add(own, job->scale, layer->grads[p]);
    }
    return true;
}

// ---- shares that are pieces of a block -------------------------------------------------------------

typedef struct {
    char *memory; // the block, with the padding of its last shares
    uint64_t share_bytes;
    Shares shares;
} Block;

static bool block_make(const hep_context *context, uint32_t index, CallPurpose purpose, Block *block, Fault *fault)
{
    const Layer *layer = &context->layers[index];
    Dtype dtype = context->plan->model.dtype;
    uint64_t share = layer->shares.cols, members = layer->shares.members;
    block->share_bytes = share * dtype_bytes(dtype);
    block->memory = calloc(members, block->share_bytes);
    if (!block->memory)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a block of experts");
    Tensor all = {.data = block->memory, .dtype = dtype, .rows = members, .cols = share};
    block->shares = shares_of(context, purpose, index, layer->full);
    block->shares.tensor_count = 1;
    block->shares.tensors[0] = all;
    return true;
}

// Experts one after another, each one's parameters one after another; or back.
static void block_copy(const Layer *layer, const Block *block, const Tensor full[], bool into)
{
    uint64_t size = dtype_bytes(full[0].dtype), at = 0;
    for (uint64_t e = 0; e < layer->shares.block_experts; e++) {
        for (uint32_t p = 0; p < layer->parameters; p++) {
            uint64_t bytes = full[p].cols * size;
            char *of_caller = (char *)full[p].data + e * bytes, *of_block = block->memory + at;
            memcpy(into ? of_block : of_caller, into ? of_caller : of_block, bytes);
            at += bytes;
        }
    }
}

static bool gather_pieces(hep_context *context, uint32_t index, bool again, Fault *fault)
{
    Layer *layer = &context->layers[index];
    Block block;
    if (!block_make(context, index, CALL_OF_GATHER, &block, fault))
        return false;
    block.shares.counts = context->gather_counts;
    block.shares.pool = &context->gather_pool;
    memcpy(block.memory + layer->own_slot * block.share_bytes, layer->own[0].data, block.share_bytes);
    bool ok = gather_shares(layer, &block.shares, again, fault);
    if (ok)
        block_copy(layer, &block, layer->full, false);
    free(block.memory);
    return ok;
}

static bool return_pieces(hep_context *context, const ReturnJob *job, Fault *fault)
{
    Layer *layer = &context->layers[job->layer];
    Block block;
    if (!block_make(context, job->layer, CALL_OF_RETURN, &block, fault))
        return false;
    block.shares.counts = context->return_counts;
    block.shares.pool = &context->return_pool;
    block_copy(layer, &block, job->full, true);
    bool ok = shares_return(&block.shares, fault);
    if (ok) {
        Tensor own = block.shares.tensors[0];
        own.rows = 1;
        own.data = block.memory + layer->own_slot * block.share_bytes;
        weights_add(own, job->scale, layer->grads[0]);
    }
    free(block.memory);
    return ok;
}

bool experts_gather(hep_context *context, uint32_t layer, bool again, Fault *fault)
{
    return context->layers[layer].whole ? gather_whole(context, layer, again, fault)
                                        : gather_pieces(context, layer, again, fault);
}

bool experts_return(hep_context *context, const ReturnJob *job, Fault *fault)
{
    return context->layers[job->layer].whole ? return_whole(context, job, fault) : return_pieces(context, job, fault);
}
