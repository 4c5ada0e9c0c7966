// See backward.h. Products of matrices are counted as kernels/host and kernels/cuda issue them; a product has two
// gradients, by either factor, each as many FLOPs as itself.
#include "compiler/model/backward.h"

#include "engines/cuda_scratch.h"
#include "engines/host_scratch.h"

double backward_feed_forward(Activation activation)
{
    // Again: the matrices into the inner dimension, not the one out of it.
    double matrices = activation_matrices(activation);
    return (2 * matrices + (matrices - 1)) / matrices;
}

double backward_gate(const Spec *spec)
{
    // Weights of the chosen are in their records; the balancing loss takes all logits again.
    return spec->training.balance > 0 ? 3 : 2;
}

double backward_loss(const Spec *spec)
{
    // Logits again. Those that do not fit into the host's scratch all at once, a second time once their sum is known.
    bool in_blocks = spec->cluster.device.engine == ENGINE_HOST && spec->model.vocabulary > SCRATCH_VOCABULARY;
    return in_blocks ? 4 : 3;
}

// Of the two products of a head, scores and weighted values. Both again and two gradients each; the fused kernels go
// over queries and keys in turn, and compute probabilities and their gradients in both: nine products for two.
static double scored(const Spec *spec)
{
    bool fused = spec->cluster.device.engine == ENGINE_CUDA && spec->model.head_dim <= CUDA_FUSED_HEAD_MAX;
    return fused ? 4.5 : 3;
}

double backward_mixer(const Spec *spec, uint32_t layer, MixerFlops forward)
{
    const SpecModel *model = &spec->model;
    double again = forward.projected;
    if (!model->mixer || model->mixer[layer] == model->mixer_count) // the model's own heads: all but the output
        again *= 1 - 0.5 * model->heads / ((double)model->heads + model->kv_heads);
    return 2 * forward.projected + again + scored(spec) * forward.scored + 3 * forward.state;
}
