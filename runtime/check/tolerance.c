// See tolerance.h. Owns no state; every number comes from the plan's dimensions.
#include "runtime/check/tolerance.h"

#include <math.h>

// Half the distance from 1 to the next value: the largest relative error of one rounding.
static double unit_roundoff(Dtype dtype)
{
    return dtype == DTYPE_F32 ? 0x1p-24 : dtype == DTYPE_F16 ? 0x1p-11 : 0x1p-8;
}

// What lies on the way of one token through the network.
typedef struct {
    double stores;   // values that are stored in the plan's dtype
    double terms;    // summands of the sums of its products
    double matrices; // weights that it is multiplied with,
    double fan_in;   // and the sum of their rows: 1 / variance of the initial weights
} Path;

// An engine stores what goes into or comes out of a matrix product in the plan's dtype, or keeps it in f32. Attention:
// normalised rows, queries, keys, values, weights, context, output. A feed-forward layer: normalised rows, up, gate,
// activation, output. An MoE layer also results and the sum at each level that can exchange.
static void add_layer(const Plan *plan, bool is_moe, Path *path)
{
    const ModelDims *dims = &plan->model;
    double hidden = dims->hidden, queries = (double)dims->heads * dims->head_dim;
    double inner = is_moe ? dims->inner : dims->ffn_inner;
    bool has_shared = is_moe && model_shared_inner(dims) > 0;
    double shared = has_shared ? (double)model_shared_inner(dims) : 0;
    path->stores += 7 + 5 + (is_moe ? 1 + plan->cluster.level_count + 4 * has_shared : 0);
    path->terms += 5 * hidden + dims->head_dim + dims->sequence + queries; // norm, products, scores, context
    path->terms += 4 * hidden + inner + shared + dims->top_k;              // norm, router, up, gate; down; records
    path->matrices += 4 + 3 + is_moe + 3 * has_shared;
    path->fan_in += 3 * hidden + queries + 2 * hidden + inner + (is_moe ? hidden : 0);
    path->fan_in += has_shared ? 2 * hidden + shared : 0;
}

static Path path_of(const Plan *plan)
{
    const ModelDims *dims = &plan->model;
    Path path = {.stores = 2}; // the embedding, and the rows that the loss is made of
    for (uint32_t layer = 0, moe = 0; layer < dims->layers; layer++) {
        bool is_moe = moe < plan->choice_count && plan->choices[moe].layer == layer;
        moe += is_moe;
        add_layer(plan, is_moe, &path);
    }
    return path;
}

// Relative variance of what a token's way makes, by rounding.
static double rounding_variance(const Plan *plan, const Path *path)
{
    double u = unit_roundoff(plan->model.dtype), w = unit_roundoff(DTYPE_F32);
    return path->stores * u * u + path->terms * w * w;
}

// An engine differs from exact arithmetic by rounding alone: values stored in the plan's dtype (unit u) and sums in f32
// (unit w = 2^-24).
//
// 1. Storing a value adds a relative error of at most u.
// 2. A sum of n products of random sign, accumulated in f32, has partial sums growing like sqrt(j),
//    each rounded once: relative error of about w sqrt(n / 2), taken as w sqrt(n).
// 3. These errors are independent, so variances add. A sublayer returns an error in its normalised
//    input with about the same relative size (random matrices keep relative errors), and the residual
//    adds error variances in the proportion in which it adds the variances of the values. So relative
//    errors neither grow nor shrink from layer to layer beyond what each adds:
//        relative RMS error of x = sqrt(stores u^2 + terms w^2).
// 4. What is compared is the largest single difference against the RMS of all of x. The largest of
//    10^7 normal deviations is 5.3 standard deviations; rows whose RMS is above the whole's, gated
//    products and attention, whose derivatives exceed 1 in places, take the rest of a factor of 10.
double tolerance_hidden(const Plan *plan, double packed)
{
    const double safety = 10;
    Path path = path_of(plan);
    return safety * sqrt(rounding_variance(plan, &path) + packed);
}

// A logit is a product of a normalised row, whose relative error is that of x, with a random column: it has x's
// relative error in units of the RMS of logits. Two logits are compared.
double tolerance_choice(const Plan *plan, double packed)
{
    return 2 * tolerance_hidden(plan, packed);
}

// 12. A packed element is off by at most half a step, evenly: by steps / sqrt(12). Scales are rounded (2^-9), which
// moves
//     steps and no value by more. fp8 has 8 steps between powers of 2: half of one is at most 2^-4 of the element, so
//     its mean square is below 2^-8 / 3 of the element's. The others have one step for all, the block's largest
//     magnitude over so many; of n normal values the square of the largest is 2 ln(2 n) times their mean square, about.
static double packed_variance(TokenFormat format)
{
    double steps = format == TOKENS_INT8 ? 127 : 7, largest = 2 * log(2.0 * token_block(format));
    return format == TOKENS_FULL ? 0 : format == TOKENS_FP8 ? 0x1p-8 / 3 : largest / (12 * steps * steps);
}

// Rows are packed once on their way out, so that what experts make of them has an error of about the same relative
// size (3.); what they make is packed once at every level that it is sent over. Partial sums are of experts that know
// nothing of each other: their squares add up to those of the whole.
double tolerance_packed(const Plan *plan, const Choice *choice)
{
    uint32_t levels = 0;
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        levels += plan->cluster.levels[l].count > choice->domain[l];
    return levels == 0
               ? 0
               : packed_variance(plan->tokens[WAY_DISPATCH]) + levels * packed_variance(plan->tokens[WAY_COMBINE]);
}

// Relative variance of what a rank's gradients are made of, and of the weights that they have moved (7.).
static double moved_variance(const Plan *plan, const Path *path, double moved, double turned)
{
    double u = unit_roundoff(plan->model.dtype), w = unit_roundoff(DTYPE_F32), own = (double)model_tokens(&plan->model);
    double tokens = own * (double)cluster_gpus(&plan->cluster);
    double gradient = sqrt(2 * rounding_variance(plan, path) + own * w * w + 2 * turned / tokens);
    return moved > 0 ? 3.2 * gradient * moved * moved * path->fan_in + path->matrices * u * u : 0;
}

// 5. A token's loss changes with its logits by p - y, a vector of norm at most sqrt(2), so by at most sqrt(2) times the
//    RMS error of logits: their relative error (3.) times their RMS. That is, of a row whose RMS is 1 with words of
//    deviation e, e sqrt(H); and H m more once every weight has moved by up to m.
// 6. Errors of different tokens are independent, but for those of keys and values: these reach later tokens as means
// over
//    the sequence, and all together once more. So the mean over T tokens has 2 / T of the variance of one.
// 7. A gradient has twice the stores and sums of the loss, and is a sum over the rank's tokens: relative error, against
//    the RMS of its tensor, g = sqrt(2 (stores u^2 + terms w^2) + tokens w^2). AdamW moves a weight by the rate times a
//    ratio near 1 whatever the size of its gradient, so where that is below its error the weight moves either way. For
//    normal gradients the mean square error of a movement is rate^2 E[min(2, g / |z|)^2] <= 3.2 g rate^2. Errors of one
//    weight may repeat in every update: sqrt(3.2 g) m for all. Against a weight of variance 1 / rows, that adds
//    3.2 g m^2 rows to the relative variance (3.) for each matrix; and u^2, as its stored value may round otherwise.
//    Tokens that took another expert bring other summands to the gradient: 2 / T of its variance each.
// 8. The sum of T losses of about ln(vocabulary) in f32 has relative error w sqrt(T).
// 9. A token that takes another expert changes by as much as it is, so its loss by up to sqrt(2) times sqrt(2) times
// the
//    RMS of its logits; the i-th token after it sees it as one of i: 1 + ln(sequence) times that in all.
// 10. One number is compared, not 10^7: five deviations, which one in 3.5 million exceeds.
double tolerance_loss(const Plan *plan, double moved, double turned)
{
    const ModelDims *dims = &plan->model;
    const double deviations = 5;
    double hidden = dims->hidden, w = unit_roundoff(DTYPE_F32);
    double own = (double)model_tokens(dims), tokens = own * (double)cluster_gpus(&plan->cluster);
    Path path = path_of(plan);
    double variance = rounding_variance(plan, &path) + moved_variance(plan, &path, moved, turned);
    double logits = fmin(0.02, 1 / sqrt(hidden)) * sqrt(hidden) + hidden * moved;
    double sum = (1 + sqrt(own)) * w * log(dims->vocabulary);
    double turns = turned / tokens * 2 * logits * (1 + log(dims->sequence));
    return deviations * (sqrt(2) * logits * sqrt(2 / tokens * variance) + sum) + turns;
}

// 11. Logits of a token are about normal: of E of them near the last that is chosen, E times the density, at most 0.4
// per
//     root mean square, lie in a unit of it. The choice turns where the next is nearer than two logits' errors: the
//     mean size of their difference is below sqrt(2) times the error of one.
double tolerance_turns(const Plan *plan, double moved)
{
    const ModelDims *dims = &plan->model;
    double cases = (double)model_tokens(dims) * (double)cluster_gpus(&plan->cluster) * plan->choice_count;
    Path path = path_of(plan);
    double error = sqrt(2 * (rounding_variance(plan, &path) + moved_variance(plan, &path, moved, 0)));
    return cases * fmin(1, 0.4 * dims->experts * error);
}

// A Poisson distribution's tail from n on is below e^(n - m) (m / n)^n (Chernoff): the last n whose is above one in 3.5
// million, as in 10.
double tolerance_count(double expected)
{
    const double rare = log(1 / 3.5e6);
    double n = ceil(expected) + 1;
    while (expected > 0 && n - expected + n * log(expected / n) > rare)
        n++;
    return expected > 0 ? n - 1 : 0;
}
