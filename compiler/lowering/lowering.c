// What the lowering of the forward pass, of the backward pass and of migration share: see lowering.h.
#include "compiler/lowering/lowering.h"

double lowering_move_s(const Lowering *l, double bytes)
{
    return bytes / l->spec->cluster.device.memory_bandwidth;
}

int32_t lowering_limited(Lowering *l, int32_t step)
{
    if (l->limit != NONE)
        builder_add_after(l->builder, step, l->limit);
    l->limit = NONE;
    return step;
}

int32_t lowering_add_local(Lowering *l, Op op, int32_t layer, double cost_s, StepBuffers operands)
{
    StepSpec step = {.op = op, .layer = layer, .level = NONE, .group = NONE, .cost_s = cost_s};
    return lowering_limited(l, builder_add_step(l->builder, step, operands));
}

void lowering_enter(Lowering *l, uint32_t layer)
{
    const Config *config = &l->mix->configs[l->moe_index[layer]];
    cost_layer(l->work, layer, config, l->dispatch, &l->cost);
    l->config = config;
    if (!l->spec->model.abstract)
        l->held_rows = l->share_rows * config_held_shards(l->spec, config);
}

void lowering_note_read(Lowering *l, int32_t step)
{
    l->reads[l->read_count++] = step;
}

// Updates come after the whole backward pass: earlier, the compute stream would wait for the network.
void lowering_note_update(Lowering *l, int32_t layer, int32_t weight, int32_t gradient)
{
    l->updates[l->update_count++] = (WeightUpdate){.layer = layer, .weight = weight, .gradient = gradient};
}

static int32_t read_before(const Lowering *l, uint32_t window)
{
    return window < l->read_count ? l->reads[l->read_count - window - 1] : NONE;
}

int32_t lowering_prefetch_limit(const Lowering *l)
{
    return read_before(l, mix_window(l->spec->plan.pass, l->config, l->mix->prefetch));
}

int32_t lowering_dense_limit(const Lowering *l)
{
    return read_before(l, dense_window(l->work, l->mix->prefetch));
}

int32_t lowering_embedding_limit(const Lowering *l)
{
    return read_before(l, embedding_window(l->mix->prefetch));
}

// Updates come after the whole backward pass: earlier, the compute stream would wait for the network.
int32_t lowering_return_limit(const Lowering *l)
{
    return l->home[RETURNS_MAX - 1];
}

int32_t lowering_add_temporary(Lowering *l, uint32_t layer, const char *name, Dtype dtype, double rows, double cols)
{
    BufferShape shape = {.dtype = dtype, .rows = rows, .cols = cols, .kind = BUFFER_TEMPORARY, .layer = (int32_t)layer};
    return builder_add_buffer(l->builder, shape, "L%u.%s", layer, name);
}
