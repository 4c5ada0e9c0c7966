// One rank of a training by libhep, from binding to returned gradients, compared with moe_client.h's answers. For tests
// with ranks that are threads, and for those that are processes.
#ifndef HEP_TEST_MOE_WORKER_H
#define HEP_TEST_MOE_WORKER_H

#include "moe_client.h"

enum {
    MOE_WORKER_HIDDEN = 16,
    MOE_WORKER_INNER = 8,
    MOE_WORKER_LAYERS = 2,
    MOE_WORKER_ELEMENTS = MOE_WORKER_HIDDEN * MOE_WORKER_INNER
};

typedef struct {
    MoeRank rank; // first
    hep_plan *plan;
    hep_comm *comm;
    MoeLayer layers[MOE_WORKER_LAYERS];
    MoeAnswer answers[MOE_WORKER_LAYERS][4];
    double *dup[MOE_WORKER_LAYERS], *ddown[MOE_WORKER_LAYERS]; // of all ranks together, [experts][MOE_WORKER_ELEMENTS]
    hep_traffic traffic[2];
} MoeWorker;

static inline bool moe_bind_layer(MoeWorker *worker, int index)
{
    const MoeCase *of = worker->rank.of;
    MoeLayer *layer = &worker->layers[index];
    int first;
    int64_t owned, count;
    hep_layer facts = {.struct_bytes = sizeof(facts)};
    if (!moe_ok(&worker->rank, hep_plan_layer(worker->plan, index, &facts), "layer") ||
        !moe_ok(&worker->rank, hep_plan_held(worker->plan, index, worker->rank.rank, &first, &layer->gathered),
                "held") ||
        !moe_ok(&worker->rank, hep_plan_owned(worker->plan, index, worker->rank.rank, &owned, &count), "owned"))
        return false;
    layer->own = facts.own;
    int64_t rows = facts.own ? facts.own : 1, cols = facts.own ? MOE_WORKER_ELEMENTS : facts.own_elements;
    hep_tensor own[MOE_PARAMETERS], grads[MOE_PARAMETERS], full[MOE_PARAMETERS];
    for (int p = 0; p < MOE_PARAMETERS; p++) {
        layer->mine[p] = calloc((size_t)(rows * cols), sizeof(float));
        layer->grads[p] = calloc((size_t)(rows * cols), sizeof(float));
        layer->full[p] = malloc((size_t)layer->gathered * MOE_WORKER_ELEMENTS * sizeof(float));
        memset(layer->full[p], 0xff, (size_t)layer->gathered * MOE_WORKER_ELEMENTS * sizeof(float));
        layer->dfull[p] = calloc((size_t)layer->gathered * MOE_WORKER_ELEMENTS, sizeof(double));
        layer->sent[p] = malloc((size_t)layer->gathered * MOE_WORKER_ELEMENTS * sizeof(float));
        own[p] = moe_tensor(layer->mine[p], rows, cols, HEP_F32);
        grads[p] = moe_tensor(layer->grads[p], rows, cols, HEP_F32);
        full[p] = moe_tensor(layer->full[p], layer->gathered, MOE_WORKER_ELEMENTS, HEP_F32);
    }
    for (int64_t i = 0; i < count; i++) { // of experts laid one after another, [up][down] each
        int64_t expert = (owned + i) / (2 * MOE_WORKER_ELEMENTS), at = (owned + i) % (2 * MOE_WORKER_ELEMENTS);
        float weight = moe_weight(at >= MOE_WORKER_ELEMENTS, index, (int)expert, (int)(at % MOE_WORKER_ELEMENTS));
        if (facts.own)
            layer->mine[at >= MOE_WORKER_ELEMENTS][(expert - owned / (2 * MOE_WORKER_ELEMENTS)) * MOE_WORKER_ELEMENTS +
                                                   at % MOE_WORKER_ELEMENTS] = weight;
        else
            layer->mine[0][i] = weight;
    }
    return moe_ok(&worker->rank,
                  hep_bind(worker->rank.context, index, MOE_PARAMETERS, own, of->training ? grads : NULL, full),
                  "bind");
}

static inline bool moe_check_gathered(MoeWorker *worker, int index)
{
    const MoeLayer *layer = &worker->layers[index];
    int first, count;
    if (!moe_ok(&worker->rank, hep_plan_held(worker->plan, index, worker->rank.rank, &first, &count), "facts"))
        return false;
    for (int e = 0; e < count; e++)
        for (int p = 0; p < MOE_PARAMETERS; p++)
            for (int i = 0; i < MOE_WORKER_ELEMENTS; i++)
                if (layer->full[p][e * MOE_WORKER_ELEMENTS + i] != moe_weight(p, index, first + e, i)) {
                    snprintf(worker->rank.problem, sizeof(worker->rank.problem),
                             "rank %d, layer %d: expert %d has a wrong weight", worker->rank.rank, index, first + e);
                    return false;
                }
    return true;
}

static inline bool moe_worker_forward(MoeWorker *worker, int micro, MoeRows rows[MOE_WORKER_LAYERS])
{
    MoeRank *rank = &worker->rank;
    for (int k = 0; k < MOE_WORKER_LAYERS; k++) {
        if (!moe_ok(rank, hep_gathered(rank->context, k, 0, NULL), "gathered") || !moe_check_gathered(worker, k) ||
            !moe_layer_forward(rank, k, micro, &worker->layers[k], &worker->answers[k][micro], &rows[k]))
            return false;
        if (micro + 1 == rank->of->micro_batches && !moe_ok(rank, hep_used(rank->context, k, 0, NULL), "used"))
            return false;
    }
    return true;
}

static const double moe_scale = 0.25;

static inline bool moe_worker_backward(MoeWorker *worker, MoeRows rows[][MOE_WORKER_LAYERS])
{
    MoeRank *rank = &worker->rank;
    if (!moe_ok(rank, hep_begin(rank->context, HEP_BACKWARD, NULL), "begin backward"))
        return false;
    for (int k = MOE_WORKER_LAYERS; k-- > 0;) {
        MoeLayer *layer = &worker->layers[k];
        if (!moe_ok(rank, hep_gathered(rank->context, k, HEP_BACKWARD, NULL), "gathered") ||
            !moe_check_gathered(worker, k))
            return false;
        for (int micro = 0; micro < rank->of->micro_batches; micro++)
            if (!moe_layer_backward(rank, k, micro, layer, &worker->answers[k][micro], &rows[micro][k]))
                return false;
        hep_tensor sent[MOE_PARAMETERS];
        for (int p = 0; p < MOE_PARAMETERS; p++) {
            for (int i = 0; i < layer->gathered * MOE_WORKER_ELEMENTS; i++)
                layer->sent[p][i] = (float)layer->dfull[p][i];
            sent[p] = moe_tensor(layer->sent[p], layer->gathered, MOE_WORKER_ELEMENTS, HEP_F32);
        }
        if (!moe_ok(rank, hep_used(rank->context, k, HEP_BACKWARD, NULL), "used") ||
            !moe_ok(rank, hep_return(rank->context, k, MOE_PARAMETERS, sent, moe_scale, NULL), "return"))
            return false;
    }
    return moe_ok(rank, hep_finish(rank->context, NULL), "finish");
}

static inline bool moe_check_gradients(MoeWorker *worker, int index)
{
    const MoeLayer *layer = &worker->layers[index];
    int64_t owned, count;
    if (!moe_ok(&worker->rank, hep_plan_owned(worker->plan, index, worker->rank.rank, &owned, &count), "facts"))
        return false;
    double *expected = calloc((size_t)count + 1, sizeof(*expected));
    float *is = calloc((size_t)count + 1, sizeof(*is));
    for (int64_t i = 0; i < count; i++) {
        int64_t expert = (owned + i) / (2 * MOE_WORKER_ELEMENTS), at = (owned + i) % (2 * MOE_WORKER_ELEMENTS);
        const double *of = at >= MOE_WORKER_ELEMENTS ? worker->ddown[index] : worker->dup[index];
        expected[i] = moe_scale * of[expert * MOE_WORKER_ELEMENTS + at % MOE_WORKER_ELEMENTS];
        is[i] = layer->own ? layer->grads[at >= MOE_WORKER_ELEMENTS]
                                         [(expert - owned / (2 * MOE_WORKER_ELEMENTS)) * MOE_WORKER_ELEMENTS +
                                          at % MOE_WORKER_ELEMENTS]
                           : layer->grads[0][i];
    }
    bool ok = moe_equal(&worker->rank, "an expert's gradient", is, expected, count);
    free(expected);
    free(is);
    return ok;
}

static inline bool moe_iteration(MoeWorker *worker)
{
    MoeRank *rank = &worker->rank;
    MoeRows rows[4][MOE_WORKER_LAYERS] = {0};
    bool ok = moe_ok(rank, hep_begin(rank->context, 0, NULL), "begin");
    for (int micro = 0; micro < rank->of->micro_batches && ok; micro++)
        ok = moe_worker_forward(worker, micro, rows[micro]);
    if (ok && rank->of->training) {
        ok = moe_worker_backward(worker, rows);
        for (int k = 0; k < MOE_WORKER_LAYERS && ok; k++)
            ok = moe_check_gradients(worker, k);
    }
    for (int micro = 0; micro < 4; micro++)
        for (int k = 0; k < MOE_WORKER_LAYERS; k++)
            moe_rows_free(&rows[micro][k]);
    return ok;
}

static inline void *moe_worker_run(void *argument)
{
    MoeWorker *worker = argument;
    MoeRank *rank = &worker->rank;
    hep_options options = {.struct_bytes = sizeof(options), .max_tokens = MOE_TOKENS_MAX};
    bool ok = moe_ok(rank, hep_create(worker->plan, worker->comm, &options, &rank->context), "create");
    for (int k = 0; k < MOE_WORKER_LAYERS && ok; k++)
        ok = moe_bind_layer(worker, k);
    ok = ok && moe_iteration(worker);
    worker->traffic[0].struct_bytes = sizeof(worker->traffic[0]);
    if (ok)
        ok = moe_ok(rank, hep_count(rank->context, worker->traffic, NULL, 1), "count");
    hep_destroy(rank->context);
    hep_comm_free(worker->comm);
    return NULL;
}

static inline void moe_worker_free(MoeWorker *worker)
{
    for (int k = 0; k < MOE_WORKER_LAYERS; k++)
        for (int p = 0; p < MOE_PARAMETERS; p++) {
            free(worker->layers[k].mine[p]);
            free(worker->layers[k].full[p]);
            free(worker->layers[k].grads[p]);
            free(worker->layers[k].dfull[p]);
            free(worker->layers[k].sent[p]);
        }
}

#endif
