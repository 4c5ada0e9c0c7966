// Bundles: weights that are gathered, updated and stored as one. A layer has its dense weights and its experts, the
// network its embedding with the final norm. When training, every rank owns an equal flat share of the dense bundles
// and of the embedding: a share is used by nobody before it was gathered, outermost level first, and its gradient comes
// home innermost level first. In a forward pass weights do not change, and every rank has them whole.
#ifndef HEP_BUNDLE_H
#define HEP_BUNDLE_H

#include "ir/plan.h"
#include "ir/share.h"

// Elements of one of `owners` equal shares of `elements`: rounded up, so that the last one ends with padding, which is
// 0 throughout.
uint64_t share_elements(uint64_t elements, uint64_t owners);
// Which share of a bundle that all ranks own together is the rank's: sum of y_l prod(n_j, j < l), so that gathering
// outermost level first lays shares one after another.
uint64_t share_of_rank(const Cluster *cluster, uint32_t kept_levels, uint64_t rank);
// Levels with more than one worker, one bit each: those that dense bundles are gathered over.
uint32_t cluster_wide_levels(const Cluster *cluster);
// Those of them that weights are shared out over: where workers train apart, the ones inside.
uint32_t plan_shared_levels(const Plan *plan);

typedef struct {
    uint64_t elements; // of the bundle, or bytes where its weights take fewer bits than a dtype has
    uint64_t owners;   // 1 where every rank has it whole
    uint64_t share;    // elements that a rank owns
    Dtype dtype;
} BundleShape;

// `kind`: WEIGHT_DENSE, of a layer, or WEIGHT_EMBEDDING.
BundleShape bundle_shape(const Plan *plan, WeightKind kind, int32_t layer);
// What weight decay leaves alone of the rank's share, in elements of the share: nothing of experts.
ModelRanges bundle_undecayed(const Plan *plan, WeightKind kind, int32_t layer, uint64_t rank);

// kinds [buffer]: which weights a buffer holds, as operands of steps tell, also before they are gathered; WEIGHT_NONE
// where it holds none. Gradients count as the weights that they are of.
void bundle_kinds(const Plan *plan, WeightKind kinds[]);

// Of weights that all ranks own together, or of what a codec remembers of these: the weights.
WeightKind bundle_weights(WeightKind kind, int32_t layer);

// Elements of a vector that packets are made of: of the share of a bundle, or of one of experts.
uint64_t bundle_vector_elements(const Plan *plan, WeightKind kind, int32_t layer);

bool plan_layer_is_moe(const Plan *plan, int32_t layer);

#endif
