// One layer's experts, or their gradients, on their way. Shares that are whole experts move where the caller has them;
// others, and those that become packets, go through scratch, as a block of experts laid one after another.
#include "runtime/library/experts.h"

#include <inttypes.h>

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
    const MoveOps *moves = shares->context->moves;
    uint64_t first, count, bytes = 0;
    shares_block(shares, kept_crossings(layer), &first, &count);
    for (uint32_t t = 0; t < shares->tensor_count; t++)
        bytes += shares->tensors[t].cols * dtype_bytes(shares->tensors[t].dtype) * count * shares->rows;
    if (out && bytes > layer->kept_bytes) {
        moves->release(layer->kept);
        layer->kept = moves->allocate(bytes);
        layer->kept_bytes = layer->kept ? bytes : 0;
        if (!layer->kept)
            return fault_set(fault, FAULT_MEMORY, "out of memory for %" PRIu64 " bytes of kept experts", bytes);
    }
    char *kept = layer->kept;
    bool ok = true;
    for (uint32_t t = 0; t < shares->tensor_count && ok; t++) {
        uint64_t share = shares->tensors[t].cols * dtype_bytes(shares->tensors[t].dtype) * shares->rows;
        char *at = (char *)shares->tensors[t].data + first * share;
        ok = moves->copy(shares->lane->queue, out ? kept : at, out ? at : kept, count * share, fault);
        kept += count * share;
    }
    layer->has_kept = ok;
    return ok;
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

static bool place_own(const Layer *layer, const Shares *shares, Fault *fault)
{
    bool ok = true;
    for (uint32_t p = 0; p < layer->parameters && ok; p++) {
        uint64_t bytes = tensor_bytes(layer->own[p]);
        char *place = (char *)layer->full[p].data + shares->slot * bytes;
        if (place != layer->own[p].data)
            ok = shares->context->moves->copy(shares->lane->queue, place, layer->own[p].data, bytes, fault);
    }
    return ok;
}

static bool gather_whole(hep_context *context, uint32_t index, Fault *fault)
{
    Layer *layer = &context->layers[index];
    Shares shares = shares_of(context, CALL_OF_GATHER, index, layer->full);
    shares.lane = &context->gather_lane;
    return place_own(layer, &shares, fault) && gather_shares(layer, &shares, fault);
}

static bool return_whole(hep_context *context, const Job *job, Fault *fault)
{
    Layer *layer = &context->layers[job->layer];
    Shares shares = shares_of(context, CALL_OF_RETURN, job->layer, job->full);
    shares.lane = &context->courier_lane;
    if (!coded_return(&layer->coded, &shares, fault))
        return false;
    bool ok = true;
    for (uint32_t p = 0; p < layer->parameters && ok; p++) {
        Tensor own = job->full[p];
        own.rows = shares.rows;
        own.data = (char *)own.data + shares.slot * tensor_bytes(own);
        ok = context->moves->add(shares.lane->queue, own, job->scale, layer->grads[p], fault);
    }
    return ok;
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
    if (!context->moves->clear(lane->queue, block->memory + experts, of->members * block->share_bytes - experts, fault))
        return false;
    block->shares = shares_of(context, purpose, index, layer->full);
    block->shares.lane = lane;
    block->shares.tensor_count = 1;
    block->shares.tensors[0] =
        (Tensor){.data = block->memory, .dtype = dtype, .rows = of->members * of->rows, .cols = of->cols};
    return true;
}

// `count` experts one after another, each one's parameters one after another; or back.
typedef struct {
    char *block;
    uint64_t count;
    const Tensor *parameters;
    bool into;
} BlockCopy;

static bool block_copy(const Layer *layer, const Shares *shares, BlockCopy of, Fault *fault)
{
    uint64_t size = dtype_bytes(of.parameters[0].dtype);
    bool ok = true;
    for (uint64_t e = 0; e < of.count && ok; e++) {
        for (uint32_t p = 0; p < layer->parameters && ok; p++) {
            uint64_t bytes = of.parameters[p].cols * size;
            char *of_caller = (char *)of.parameters[p].data + e * bytes;
            ok = shares->context->moves->copy(shares->lane->queue, of.into ? of.block : of_caller,
                                              of.into ? of_caller : of.block, bytes, fault);
            of.block += bytes;
        }
    }
    return ok;
}

static bool gather_block(hep_context *context, uint32_t index, Fault *fault)
{
    Layer *layer = &context->layers[index];
    Block block;
    if (!block_make(context, index, CALL_OF_GATHER, &context->gather_lane, &block, fault))
        return false;
    char *own = block.memory + layer->own_slot * block.share_bytes;
    bool ok = layer->whole
                  ? block_copy(layer, &block.shares, (BlockCopy){own, layer->shares.rows, layer->own, true}, fault)
                  : context->moves->copy(block.shares.lane->queue, own, layer->own[0].data, block.share_bytes, fault);
    if (!ok)
        return false;
    uint64_t every = context->plan->pass == PASS_TRAINING ? context->plan->shared_every : UINT64_MAX;
    uint64_t iteration = context_iteration(context);
    block.shares.whole = iteration < context->plan->whole_iterations;
    bool sums = layer->coded.mean.data && layer->summed != iteration + 1 && iteration % every == 0;
    if (sums && !coded_sum_mean(&layer->coded, &block.shares, fault))
        return false;
    layer->summed = sums ? iteration + 1 : layer->summed;
    if (!gather_shares(layer, &block.shares, fault))
        return false;
    return block_copy(layer, &block.shares, (BlockCopy){block.memory, layer->shares.block_experts, layer->full, false},
                      fault);
}

// Adds the sums of own experts to the caller's.
static bool add_own(const Layer *layer, const Shares *shares, double scale, Fault *fault)
{
    uint64_t parts = layer->whole ? layer->shares.rows : 1;
    Dtype dtype = shares->tensors[0].dtype;
    char *own =
        (char *)shares->tensors[0].data + layer->own_slot * shares->rows * shares->tensors[0].cols * dtype_bytes(dtype);
    bool ok = true;
    for (uint64_t e = 0; e < parts && ok; e++)
        for (uint32_t p = 0; p < (layer->whole ? layer->parameters : 1) && ok; p++) {
            Tensor to = layer->grads[p], from = {.data = own, .dtype = dtype, .rows = 1, .cols = to.cols};
            to.rows = 1;
            to.data = (char *)to.data + e * to.cols * dtype_bytes(to.dtype);
            ok = shares->context->moves->add(shares->lane->queue, from, scale, to, fault);
            own += to.cols * dtype_bytes(dtype);
        }
    return ok;
}

static bool return_block(hep_context *context, const Job *job, Fault *fault)
{
    Layer *layer = &context->layers[job->layer];
    Block block;
    if (!block_make(context, job->layer, CALL_OF_RETURN, &context->courier_lane, &block, fault))
        return false;
    block.shares.whole = job->whole;
    BlockCopy all = {block.memory, layer->shares.block_experts, job->full, true};
    return block_copy(layer, &block.shares, all, fault) && coded_return(&layer->coded, &block.shares, fault) &&
           add_own(layer, &block.shares, job->scale, fault);
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
