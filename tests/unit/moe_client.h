// A caller of libhep for tests: MoE layers whose experts it computes itself, x -> down' tanh(up' x), on ranks that are
// threads or processes; and the same in one place, in double, without any communication. What it says of rows and bytes
// is counted here from the definition of domains, not asked of the library.
#ifndef HEP_TEST_MOE_CLIENT_H
#define HEP_TEST_MOE_CLIENT_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/hep.h"

enum {
    MOE_LEVELS = 3,
    MOE_PARAMETERS = 2,
    MOE_TOKENS_MAX = 16,
    MOE_HIDDEN_MAX = 16,
    MOE_INNER_MAX = 8,
    MOE_TOP_K_MAX = 4
};

typedef struct {
    int levels, counts[MOE_LEVELS], domain[MOE_LEVELS]; // outermost first
    int layers, hidden, inner, experts, top_k, micro_batches;
    int once, replica_levels; // levels that are gathered once, outermost first; that are not gathered
    bool training, naive, expanded, wide_indices; // i64
    const int *tokens;                            // [ranks]
    double tolerance;
    // Of rows that travel packed: what arrives of the rows to experts, and of gradients of results. NULL: what was
    // sent.
    void (*packs)(float *row, int hidden);
    bool packs_x, packs_dout;
    int capacity; // most records of an expert from a rank, beyond which they are dropped; 0: none are
} MoeCase;

static inline int moe_ranks(const MoeCase *of)
{
    int ranks = 1;
    for (int l = 0; l < of->levels; l++)
        ranks *= of->counts[l];
    return ranks;
}

// -1 to 1, the same everywhere: of what, and which.
static inline float moe_number(uint32_t what, uint32_t which)
{
    uint64_t x = (((uint64_t)what << 32) | which) * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u;
    x ^= x >> 29, x *= 0xbf58476d1ce4e5b9u, x ^= x >> 32;
    return (float)((double)(x >> 40) / (double)(1 << 23) - 1);
}

enum { OF_X = 1, OF_GATE, OF_UP, OF_DOWN, OF_DOUT, OF_CHOICE };

static inline uint32_t moe_what(int kind, int layer, int micro, int rank)
{
    return (uint32_t)(((kind * 16 + layer) * 16 + micro) * 64 + rank);
}

static inline float moe_x(const MoeCase *of, int layer, int micro, int rank, int token, int h)
{
    return moe_number(moe_what(OF_X, layer, micro, rank), (uint32_t)(token * of->hidden + h));
}

static inline float moe_dout(const MoeCase *of, int layer, int micro, int rank, int token, int h)
{
    return moe_number(moe_what(OF_DOUT, layer, micro, rank), (uint32_t)(token * of->hidden + h));
}

static inline float moe_gate(const MoeCase *of, int layer, int micro, int rank, int token, int k)
{
    return 0.6f + 0.5f * moe_number(moe_what(OF_GATE, layer, micro, rank), (uint32_t)(token * of->top_k + k));
}

// Different experts for a token; now and then one less.
static inline int moe_expert(const MoeCase *of, int layer, int micro, int rank, int token, int k)
{
    float at = moe_number(moe_what(OF_CHOICE, layer, micro, rank), (uint32_t)token);
    int first = (int)((double)(at + 1) / 2 * of->experts) % of->experts;
    if (k > 0 && token % 5 == 4)
        return -1;
    return (first + k * (1 + token % 3)) % of->experts;
}

// The expert, or -1 where it had enough before.
static inline int moe_kept_expert(const MoeCase *of, int layer, int micro, int rank, int token, int k)
{
    int expert = moe_expert(of, layer, micro, rank, token, k), taken = 0;
    for (int i = 0; i < token * of->top_k + k; i++)
        taken += expert >= 0 && moe_expert(of, layer, micro, rank, i / of->top_k, i % of->top_k) == expert;
    return of->capacity > 0 && taken >= of->capacity ? -1 : expert;
}

static inline float moe_weight(int parameter, int layer, int expert, int element)
{
    return 0.3f * moe_number(moe_what(OF_UP + parameter, layer, 0, expert), (uint32_t)element);
}

// ---- one expert ------------------------------------------------------------------------------------

// up [hidden][inner], down [inner][hidden]; out += weight x f(x). Sums in double.
static inline void moe_forward(const MoeCase *of, const float *up, const float *down, const float *x, double weight,
                               double *out)
{
    for (int i = 0; i < of->inner; i++) {
        double sum = 0;
        for (int h = 0; h < of->hidden; h++)
            sum += (double)x[h] * (double)up[h * of->inner + i];
        for (int h = 0; h < of->hidden; h++)
            out[h] += weight * tanh(sum) * (double)down[i * of->hidden + h];
    }
}

// dout: gradient of weight x f(x). Adds to dx, dup, ddown; returns the gradient of the weight.
static inline double moe_backward(const MoeCase *of, const float *up, const float *down, const float *x, double weight,
                                  const float *dout, double *dx, double *dup, double *ddown)
{
    double dweight = 0;
    for (int i = 0; i < of->inner; i++) {
        double sum = 0, dact = 0;
        for (int h = 0; h < of->hidden; h++)
            sum += (double)x[h] * (double)up[h * of->inner + i];
        double act = tanh(sum);
        for (int h = 0; h < of->hidden; h++) {
            dact += (double)dout[h] * (double)down[i * of->hidden + h];
            ddown[i * of->hidden + h] += weight * act * (double)dout[h];
        }
        dweight += act * dact;
        double dsum = weight * dact * (1 - act * act);
        for (int h = 0; h < of->hidden; h++) {
            dx[h] += dsum * (double)up[h * of->inner + i];
            dup[h * of->inner + i] += dsum * (double)x[h];
        }
    }
    return dweight;
}

// ---- everything in one place -----------------------------------------------------------------------

// Of one layer and micro-batch of a rank, and sums over all for experts.
typedef struct {
    double *out, *dx; // [tokens][hidden]
    double *dgate;    // [tokens][top_k]
} MoeAnswer;

static inline void moe_expert_weights(const MoeCase *of, int layer, int expert, float *up, float *down)
{
    for (int i = 0; i < of->hidden * of->inner; i++) {
        up[i] = moe_weight(0, layer, expert, i);
        down[i] = moe_weight(1, layer, expert, i);
    }
}

// dup, ddown [experts][hidden x inner] are added to.
static inline MoeAnswer moe_answer(const MoeCase *of, int layer, int micro, int rank, double *dup, double *ddown)
{
    int elements = of->hidden * of->inner, tokens = of->tokens[rank];
    MoeAnswer answer = {.out = calloc((size_t)(tokens * of->hidden + 1), sizeof(double)),
                        .dx = calloc((size_t)(tokens * of->hidden + 1), sizeof(double)),
                        .dgate = calloc((size_t)(tokens * of->top_k + 1), sizeof(double))};
    float up[MOE_HIDDEN_MAX * MOE_INNER_MAX], down[MOE_HIDDEN_MAX * MOE_INNER_MAX], x[MOE_HIDDEN_MAX],
        dout[MOE_HIDDEN_MAX];
    for (int t = 0; t < tokens; t++) {
        for (int h = 0; h < of->hidden; h++) {
            x[h] = moe_x(of, layer, micro, rank, t, h);
            dout[h] = moe_dout(of, layer, micro, rank, t, h);
        }
        if (of->packs_x)
            of->packs(x, of->hidden);
        if (of->packs_dout)
            of->packs(dout, of->hidden);
        for (int k = 0; k < of->top_k; k++) {
            int expert = moe_kept_expert(of, layer, micro, rank, t, k);
            if (expert < 0)
                continue;
            double weight = (double)moe_gate(of, layer, micro, rank, t, k);
            moe_expert_weights(of, layer, expert, up, down);
            moe_forward(of, up, down, x, weight, answer.out + t * of->hidden);
            answer.dgate[t * of->top_k + k] =
                moe_backward(of, up, down, x, weight, dout, answer.dx + t * of->hidden,
                             dup + (size_t)expert * (size_t)elements, ddown + (size_t)expert * (size_t)elements);
        }
    }
    return answer;
}

static inline void moe_answer_free(MoeAnswer *answer)
{
    free(answer->out);
    free(answer->dx);
    free(answer->dgate);
}

// ---- what one rank does ----------------------------------------------------------------------------

typedef struct {
    const MoeCase *of;
    hep_context *context;
    int rank;
    char problem[256]; // the first
    hep_status status; // of the first call that failed
} MoeRank;

static inline bool moe_ok(MoeRank *rank, hep_status status, const char *what)
{
    if (status == HEP_OK)
        return true;
    hep_error error = {.struct_bytes = sizeof(error)};
    hep_last_error(rank->context, &error);
    if (!rank->problem[0])
        snprintf(rank->problem, sizeof(rank->problem), "%s: %.200s", what, error.message);
    if (rank->status == HEP_OK)
        rank->status = status;
    return false;
}

static inline bool moe_equal(MoeRank *rank, const char *what, const float *is, const double *expected, int64_t count)
{
    double largest = 1e-30, worst = 0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(expected[i]));
    for (int64_t i = 0; i < count; i++)
        worst = isnan(is[i]) ? INFINITY : fmax(worst, fabs((double)is[i] - expected[i]) / largest);
    if (worst <= rank->of->tolerance)
        return true;
    if (!rank->problem[0])
        snprintf(rank->problem, sizeof(rank->problem), "rank %d: %s is off by %g of %g", rank->rank, what, worst,
                 largest);
    return false;
}

static inline hep_tensor moe_tensor(void *data, int64_t rows, int64_t cols, hep_dtype dtype)
{
    return (hep_tensor){.data = data, .rows = rows, .cols = cols, .dtype = dtype};
}

// Rows that have arrived, and what became of them.
typedef struct {
    hep_route *route;
    int64_t rows, records;
    float *x, *weights, *results;
    void *experts; // i32 or i64
} MoeRows;

static inline void moe_rows_free(MoeRows *rows)
{
    hep_route_free(rows->route);
    free(rows->x);
    free(rows->weights);
    free(rows->results);
    free(rows->experts);
    *rows = (MoeRows){0};
}

static inline int64_t moe_slot(const MoeCase *of, const MoeRows *rows, int64_t index)
{
    return of->wide_indices ? ((const int64_t *)rows->experts)[index] : ((const int32_t *)rows->experts)[index];
}

// Weights of a layer on a rank.
typedef struct {
    int own, gathered;
    float *mine[MOE_PARAMETERS], *full[MOE_PARAMETERS], *grads[MOE_PARAMETERS];
    double *dfull[MOE_PARAMETERS];
    float *sent[MOE_PARAMETERS];
} MoeLayer;

static inline void moe_inputs(MoeRank *rank, int layer, int micro, float *x, void *experts, float *gates)
{
    const MoeCase *of = rank->of;
    for (int t = 0; t < of->tokens[rank->rank]; t++) {
        for (int h = 0; h < of->hidden; h++)
            x[t * of->hidden + h] = moe_x(of, layer, micro, rank->rank, t, h);
        for (int k = 0; k < of->top_k; k++) {
            int expert = moe_expert(of, layer, micro, rank->rank, t, k), at = t * of->top_k + k;
            gates[at] = moe_gate(of, layer, micro, rank->rank, t, k);
            if (of->wide_indices)
                ((int64_t *)experts)[at] = expert;
            else
                ((int32_t *)experts)[at] = expert;
        }
    }
}

static inline bool moe_dispatch(MoeRank *rank, int layer, int micro, MoeRows *rows)
{
    const MoeCase *of = rank->of;
    int tokens = of->tokens[rank->rank];
    hep_dtype index = of->wide_indices ? HEP_I64 : HEP_I32;
    size_t index_bytes = of->wide_indices ? 8 : 4;
    float x[MOE_TOKENS_MAX * MOE_HIDDEN_MAX], gates[MOE_TOKENS_MAX * MOE_TOP_K_MAX];
    int64_t experts[MOE_TOKENS_MAX * MOE_TOP_K_MAX];
    moe_inputs(rank, layer, micro, x, experts, gates);
    hep_tensor tx = moe_tensor(x, tokens, of->hidden, HEP_F32), te = moe_tensor(experts, tokens, of->top_k, index),
               tg = moe_tensor(gates, tokens, of->top_k, HEP_F32);
    int flags = (of->expanded ? HEP_EXPANDED : 0) | (of->capacity ? HEP_DROP : 0);
    *rows = (MoeRows){0};
    if (!moe_ok(rank, hep_dispatch(rank->context, layer, &tx, &te, &tg, flags, NULL, &rows->route), "dispatch") ||
        !moe_ok(rank, hep_route_rows(rows->route, &rows->rows, &rows->records, NULL), "rows"))
        return false;
    size_t count = (size_t)rows->rows, records = count * (size_t)rows->records;
    rows->x = malloc((count * (size_t)of->hidden + 1) * sizeof(float));
    rows->results = malloc((count * (size_t)of->hidden + 1) * sizeof(float));
    rows->weights = malloc((records + 1) * sizeof(float));
    rows->experts = malloc((records + 1) * index_bytes);
    hep_tensor rx = moe_tensor(rows->x, rows->rows, of->hidden, HEP_F32),
               re = moe_tensor(rows->experts, rows->rows, rows->records, index),
               rw = moe_tensor(rows->weights, rows->rows, rows->records, HEP_F32);
    return moe_ok(rank, hep_dispatch_finish(rows->route, &rx, &re, &rw, NULL), "dispatch_finish");
}

static inline void moe_compute(const MoeCase *of, const MoeLayer *layer, MoeRows *rows)
{
    int elements = of->hidden * of->inner;
    for (int64_t r = 0; r < rows->rows; r++) {
        double out[MOE_HIDDEN_MAX];
        memset(out, 0, sizeof(out));
        for (int64_t i = r * rows->records; i < (r + 1) * rows->records; i++)
            if (moe_slot(of, rows, i) < layer->gathered)
                moe_forward(of, layer->full[0] + moe_slot(of, rows, i) * elements,
                            layer->full[1] + moe_slot(of, rows, i) * elements, rows->x + r * of->hidden,
                            (double)rows->weights[i], out);
        for (int h = 0; h < of->hidden; h++)
            rows->results[r * of->hidden + h] = (float)out[h];
    }
}

static inline bool moe_layer_forward(MoeRank *rank, int index, int micro, const MoeLayer *layer,
                                     const MoeAnswer *answer, MoeRows *rows)
{
    const MoeCase *of = rank->of;
    int tokens = of->tokens[rank->rank];
    float out[MOE_TOKENS_MAX * MOE_HIDDEN_MAX];
    if (!moe_dispatch(rank, index, micro, rows))
        return false;
    moe_compute(of, layer, rows);
    memset(out, 0xff, sizeof(out));
    hep_tensor from = moe_tensor(rows->results, rows->rows, of->hidden, HEP_F32),
               to = moe_tensor(out, tokens, of->hidden, HEP_F32);
    return moe_ok(rank, hep_combine(rows->route, &from, &to, NULL), "combine") &&
           moe_equal(rank, "a result", out, answer->out, (int64_t)tokens * of->hidden);
}

static inline void moe_differentiate(const MoeCase *of, const MoeLayer *layer, const MoeRows *rows,
                                     const float *dresults, float *dx, float *dweights)
{
    int elements = of->hidden * of->inner;
    for (int64_t r = 0; r < rows->rows; r++) {
        double sum[MOE_HIDDEN_MAX];
        memset(sum, 0, sizeof(sum));
        for (int64_t i = r * rows->records; i < (r + 1) * rows->records; i++) {
            int64_t slot = moe_slot(of, rows, i);
            dweights[i] = 0;
            if (slot < layer->gathered)
                dweights[i] =
                    (float)moe_backward(of, layer->full[0] + slot * elements, layer->full[1] + slot * elements,
                                        rows->x + r * of->hidden, (double)rows->weights[i], dresults + r * of->hidden,
                                        sum, layer->dfull[0] + slot * elements, layer->dfull[1] + slot * elements);
        }
        for (int h = 0; h < of->hidden; h++)
            dx[r * of->hidden + h] = (float)sum[h];
    }
}

static inline bool moe_layer_backward(MoeRank *rank, int index, int micro, const MoeLayer *layer,
                                      const MoeAnswer *answer, MoeRows *rows)
{
    const MoeCase *of = rank->of;
    int tokens = of->tokens[rank->rank];
    float dout[MOE_TOKENS_MAX * MOE_HIDDEN_MAX], out_dx[MOE_TOKENS_MAX * MOE_HIDDEN_MAX],
        out_dw[MOE_TOKENS_MAX * MOE_TOP_K_MAX];
    for (int i = 0; i < tokens * of->hidden; i++)
        dout[i] = moe_dout(of, index, micro, rank->rank, i / of->hidden, i % of->hidden);
    size_t count = (size_t)rows->rows * (size_t)of->hidden;
    float *dresults = malloc((count + 1) * sizeof(float)), *dx = malloc((count + 1) * sizeof(float));
    float *dweights = malloc(((size_t)(rows->rows * rows->records) + 1) * sizeof(float));
    memset(out_dw, 0xff, sizeof(out_dw));
    hep_tensor td = moe_tensor(dout, tokens, of->hidden, HEP_F32),
               tr = moe_tensor(dresults, rows->rows, of->hidden, HEP_F32),
               tx = moe_tensor(dx, rows->rows, of->hidden, HEP_F32),
               tw = moe_tensor(dweights, rows->rows, rows->records, HEP_F32),
               ox = moe_tensor(out_dx, tokens, of->hidden, HEP_F32),
               ow = moe_tensor(out_dw, tokens, of->top_k, HEP_F32);
    bool ok = moe_ok(rank, hep_combine_backward(rows->route, &td, &tr, NULL), "combine_backward");
    if (ok)
        moe_differentiate(of, layer, rows, dresults, dx, dweights);
    ok = ok && moe_ok(rank, hep_dispatch_backward(rows->route, &tx, &tw, &ox, &ow, NULL), "dispatch_backward") &&
         moe_equal(rank, "a token's gradient", out_dx, answer->dx, (int64_t)tokens * of->hidden) &&
         moe_equal(rank, "a gate's gradient", out_dw, answer->dgate, (int64_t)tokens * of->top_k);
    free(dresults);
    free(dx);
    free(dweights);
    return ok;
}

// ---- rows and bytes, from the definition of domains ------------------------------------------------

// Bytes that a rank sends over each level in one layer and micro-batch, one way, rows and records.
typedef struct {
    int64_t rows[MOE_LEVELS], messages[MOE_LEVELS];
} MoeSent;

static inline int moe_digit(const MoeCase *of, int expert, int level)
{
    int places = 1, inside = 1;
    for (int l = 0; l < of->levels; l++)
        places *= of->counts[l] / of->domain[l];
    for (int l = level + 1; l < of->levels; l++)
        inside *= of->counts[l] / of->domain[l];
    return expert / (of->experts / places) / inside % (of->counts[level] / of->domain[level]);
}

static inline int moe_coordinate(const MoeCase *of, int rank, int level)
{
    for (int l = of->levels - 1; l > level; l--)
        rank /= of->counts[l];
    return rank % of->counts[level];
}

// A row that stands at `at` before `level` and has to meet `experts` goes on; what `rank` sends is counted.
static inline void moe_walk(const MoeCase *of, int level, int at, const int *experts, int count, int rank,
                            MoeSent *sent)
{
    if (level == of->levels)
        return;
    int members = of->counts[level] / of->domain[level], below = 1, x = moe_coordinate(of, at, level);
    for (int l = level + 1; l < of->levels; l++)
        below *= of->counts[l];
    for (int m = 0; m < members; m++) {
        int kept[MOE_TOKENS_MAX], left = 0;
        for (int i = 0; i < count; i++)
            if (moe_digit(of, experts[i], level) == m)
                kept[left++] = experts[i];
        if (left == 0)
            continue;
        int to = at + (m * of->domain[level] + x % of->domain[level] - x) * below;
        if (to != at && at == rank)
            sent->rows[level]++;
        moe_walk(of, level + 1, to, kept, left, rank, sent);
    }
}

static inline MoeSent moe_sent(const MoeCase *of, int layer, int micro, int rank)
{
    MoeSent sent = {0};
    for (int l = 0; l < of->levels; l++)
        sent.messages[l] = of->counts[l] / of->domain[l] - 1;
    for (int source = 0; source < moe_ranks(of); source++)
        for (int t = 0; t < of->tokens[source]; t++) {
            int experts[MOE_TOKENS_MAX], count = 0;
            for (int k = 0; k < of->top_k; k++) {
                int expert = moe_kept_expert(of, layer, micro, source, t, k);
                if (expert >= 0 && of->naive)
                    moe_walk(of, 0, source, &expert, 1, rank, &sent);
                else if (expert >= 0)
                    experts[count++] = expert;
            }
            if (!of->naive)
                moe_walk(of, 0, source, experts, count, rank, &sent);
        }
    return sent;
}

#endif
