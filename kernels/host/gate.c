// The gate and its gradient: LayerNorm, logits, choice of experts, weights. A fixed routing replaces the choice only.
#include "kernels/host/internal.h"

// Inserts a candidate into `chosen`, sorted by descending logit (kept in `weight`), ties by
// ascending expert; at most `limit` stay. Returns how many there are.
static uint32_t insert_candidate(Record *chosen, uint32_t count, uint32_t limit, Record candidate)
{
    uint32_t place = count;
    if (count == limit && !(candidate.weight > chosen[count - 1].weight))
        return count;
    if (count == limit)
        place--;
    else
        count++;
    while (place > 0 &&
           (candidate.weight > chosen[place - 1].weight ||
            (candidate.weight == chosen[place - 1].weight && candidate.expert < chosen[place - 1].expert))) {
        chosen[place] = chosen[place - 1];
        place--;
    }
    chosen[place] = candidate;
    return count;
}

static uint32_t hash_token(uint64_t token)
{
    uint64_t z = (token + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)(z >> 32);
}

static uint32_t greatest_divisor(uint32_t a, uint32_t b)
{
    while (b > 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// Experts one stride apart, the next token's one further: every expert gets tokens x top_k / experts when that
// divides. Every round through the experts has another stride, near and far ones by turns, so that a few rounds already
// bring experts together about as often as chance would; strides that meet an expert twice are passed over.
static uint32_t balanced_expert(const ModelDims *dims, uint64_t token, uint32_t choice)
{
    uint32_t experts = dims->experts, strides = experts - 1, step = 5 * strides / 8 + 1; // about the golden section
    if (experts == 1)
        return 0;
    while (greatest_divisor(strides, step) > 1)
        step++;
    uint32_t stride = 1 + (uint32_t)((token / experts + 1) * step % strides);
    while (experts / greatest_divisor(experts, stride) < dims->top_k)
        stride = stride % strides + 1;
    return (uint32_t)((token + (uint64_t)choice * stride) % experts);
}

// Seven tokens of ten choose expert 0 first; all other choices fall on the lower half of the
// experts, or on as many as top_k needs.
static uint32_t skewed_expert(const ModelDims *dims, uint64_t token, uint32_t choice)
{
    uint32_t half = dims->experts / 2, pool = half > dims->top_k ? half : dims->top_k;
    uint32_t hash = hash_token(token);
    bool popular = hash % 10 < 7 || pool == dims->top_k; // else the pool is exhausted without expert 0
    if (popular && choice == 0)
        return 0;
    return 1 + (hash / 10 + choice) % (pool - 1);
}

// One after another, best first, from groups that are open or may still be opened.
static void choose_in_groups(const ModelDims *dims, const float *logits, Record *chosen)
{
    uint64_t open = 0;
    for (uint32_t i = 0; i < dims->top_k; i++) {
        int32_t best = -1;
        for (uint32_t expert = 0; expert < dims->experts; expert++) {
            bool after = i == 0 || logits[expert] < chosen[i - 1].weight ||
                         (logits[expert] == chosen[i - 1].weight && (int32_t)expert > chosen[i - 1].expert);
            if (after && (best < 0 || logits[expert] > logits[best]) && model_group_allows(dims, open, expert))
                best = (int32_t)expert;
        }
        assert(best >= 0);
        chosen[i] = (Record){.expert = best, .weight = logits[best]};
        open |= model_group_bit(dims, (uint32_t)best);
    }
}

static void choose_experts(const ModelDims *dims, Routing routing, uint64_t token, const float *logits, Record *chosen)
{
    if (routing == ROUTING_LEARNED && model_limits_groups(dims)) {
        choose_in_groups(dims, logits, chosen);
        return;
    }
    uint32_t candidates = routing == ROUTING_LEARNED ? dims->experts : dims->top_k, count = 0;
    for (uint32_t i = 0; i < candidates; i++) {
        uint32_t expert = i;
        if (routing == ROUTING_BALANCED)
            expert = balanced_expert(dims, token, i);
        else if (routing == ROUTING_SKEWED)
            expert = skewed_expert(dims, token, i);
        Record candidate = {.expert = (int32_t)expert, .weight = logits[expert]};
        count = insert_candidate(chosen, count, dims->top_k, candidate);
    }
    assert(count == dims->top_k);
}

static void drop_beyond_capacity(Record *chosen, uint32_t count, uint64_t capacity_rows, uint32_t *taken)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t *expert_taken = &taken[chosen[i].expert];
        if (*expert_taken >= capacity_rows)
            chosen[i].expert = -1;
        else
            ++*expert_taken;
    }
}

// Softmax over the logits of the records that were not dropped; 0 for the others.
static void weigh_chosen(Record *chosen, uint32_t count)
{
    float max = 0, sum = 0;
    bool any = false;
    for (uint32_t i = 0; i < count; i++) {
        if (chosen[i].expert >= 0 && (!any || chosen[i].weight > max)) {
            max = chosen[i].weight;
            any = true;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        chosen[i].weight = chosen[i].expert >= 0 ? exp_f32(chosen[i].weight - max) : 0;
        sum += chosen[i].weight;
    }
    for (uint32_t i = 0; i < count && any; i++)
        chosen[i].weight /= sum;
}

void host_gate(const ModelDims *dims, Routing routing, uint64_t capacity_rows, Tensor x, Tensor router, Tensor rows,
               Tensor records, Tensor work)
{
    uint64_t hidden = dims->hidden, experts = dims->experts, block = smaller(x.rows, SCRATCH_ROWS);
    Scratch scratch = scratch_begin(work);
    const float *norm = scratch_convert(&scratch, router.data, router.dtype, 2 * hidden);
    float *normed = scratch_take(&scratch, block, hidden), *logits = scratch_take(&scratch, block, experts);
    uint32_t *taken = (uint32_t *)scratch_take(&scratch, 1, experts);
    float *panel = scratch_panel(&scratch, router.dtype, hidden, smaller(experts, SCRATCH_COLUMNS));
    Weights matrix = {element_at(router.data, router.dtype, 2 * hidden), router.dtype, experts};
    Record *out = records.data;
    assert(rows.rows >= x.rows && records.rows * records.cols / 2 >= x.rows * dims->top_k);

    memset(taken, 0, experts * sizeof(*taken));
    for (uint64_t first = 0; first < x.rows; first += SCRATCH_ROWS) {
        uint64_t count = smaller(SCRATCH_ROWS, x.rows - first);
        norm_rows(element_at(x.data, x.dtype, first * hidden), x.dtype, count, hidden, norm, normed);
        host_from_f32(normed, element_in(rows.data, rows.dtype, first * hidden), rows.dtype, count * hidden);
        matrix_multiply(count, experts, hidden, normed, hidden, matrix, 0, logits, experts, panel);
        for (uint64_t r = 0; r < count; r++) {
            Record *chosen = out + (first + r) * dims->top_k;
            choose_experts(dims, routing, first + r, logits + r * experts, chosen);
            if (capacity_rows > 0)
                drop_beyond_capacity(chosen, dims->top_k, capacity_rows, taken);
            weigh_chosen(chosen, dims->top_k);
        }
    }
}

// ---- backward ------------------------------------------------------------------------------------

typedef struct {
    uint64_t hidden, experts, tokens;
    uint32_t top_k;
    float balance;
    const Record *records;             // [tokens][top_k]
    const float *drecords;             // as records
    float *normed, *dnormed, *dlogits; // [block][hidden], [block][hidden], [block][experts]
    float *shares; // [experts]: of the records that were kept; later times balance x experts / tokens
} GateGradients;

static void count_shares(const GateGradients *g)
{
    uint64_t kept = 0;
    memset(g->shares, 0, g->experts * sizeof(*g->shares));
    for (uint64_t i = 0; i < g->tokens * g->top_k; i++) {
        if (g->records[i].expert < 0)
            continue;
        g->shares[g->records[i].expert]++;
        kept++;
    }
    float scale = kept ? g->balance * (float)g->experts / ((float)kept * (float)g->tokens) : 0;
    for (uint64_t e = 0; e < g->experts; e++)
        g->shares[e] *= scale;
}

// In: a token's logits; out: the gradient of the balance loss by them, p (share - sum of p share), p their softmax.
static void balance_backward(const GateGradients *g, float *restrict logits)
{
    vector_exp(logits, g->experts, vector_max(logits, g->experts));
    float scale = 1.0f / vector_sum(logits, g->experts);
    float mean = scale * vector_dot(logits, g->shares, g->experts);
    for (uint64_t e = 0; e < g->experts; e++)
        logits[e] *= scale * (g->shares[e] - mean);
}

// Softmax over the kept: w (dw - sum of w dw).
static void weights_backward(const GateGradients *g, uint64_t token, float *dlogits)
{
    const Record *chosen = g->records + token * g->top_k;
    const float *dweights = g->drecords + token * g->top_k;
    float mean = 0;
    for (uint32_t i = 0; i < g->top_k; i++)
        mean += chosen[i].expert >= 0 ? chosen[i].weight * dweights[i] : 0;
    for (uint32_t i = 0; i < g->top_k; i++)
        if (chosen[i].expert >= 0)
            dlogits[chosen[i].expert] += chosen[i].weight * (dweights[i] - mean);
}

static void load_dnormed(const GateGradients *g, Tensor drows, Tensor dshared, uint64_t first, uint64_t count,
                         float *row)
{
    uint64_t hidden = g->hidden;
    host_to_f32(element_at(drows.data, drows.dtype, first * hidden), drows.dtype, g->dnormed, count * hidden);
    for (uint64_t r = 0; dshared.data && r < count; r++) {
        float *restrict sum = g->dnormed + r * hidden;
        host_to_f32(element_at(dshared.data, dshared.dtype, (first + r) * hidden), dshared.dtype, row, hidden);
        for (uint64_t i = 0; i < hidden; i++)
            sum[i] += row[i];
    }
}

void host_gate_backward(const ModelDims *dims, float balance, Tensor x, Tensor records, Tensor drows, Tensor drecords,
                        Tensor dshared, Tensor router, Tensor dx, Tensor drouter, Tensor work)
{
    uint64_t hidden = dims->hidden, experts = dims->experts, block = smaller(x.rows, SCRATCH_ROWS);
    uint64_t elements = model_router_elements(dims);
    assert(records.rows * records.cols / 2 >= x.rows * dims->top_k && drecords.dtype == DTYPE_F32);
    assert(drows.rows >= x.rows && dx.rows >= x.rows && drouter.dtype == router.dtype);
    Scratch scratch = scratch_begin(work);
    const float *norm = scratch_convert(&scratch, router.data, router.dtype, 2 * hidden);
    float *row = scratch_take(&scratch, 1, hidden), *gradient = scratch_gradient(&scratch, drouter, elements);
    GateGradients g = {.hidden = hidden,
                       .experts = experts,
                       .tokens = x.rows,
                       .top_k = dims->top_k,
                       .balance = balance,
                       .records = records.data,
                       .drecords = drecords.data};
    g.normed = scratch_take(&scratch, block, hidden);
    g.dnormed = scratch_take(&scratch, block, hidden);
    g.dlogits = scratch_take(&scratch, block, experts);
    g.shares = scratch_take(&scratch, 1, experts);
    float *panel = scratch_panel(&scratch, router.dtype, hidden, smaller(experts, SCRATCH_COLUMNS));
    Weights matrix = {element_at(router.data, router.dtype, 2 * hidden), router.dtype, experts};

    count_shares(&g);
    for (uint64_t first = 0; first < x.rows; first += SCRATCH_ROWS) {
        uint64_t count = smaller(SCRATCH_ROWS, x.rows - first);
        const void *in = element_at(x.data, x.dtype, first * hidden);
        void *d = element_in(dx.data, dx.dtype, first * hidden);
        norm_rows(in, x.dtype, count, hidden, norm, g.normed);
        if (balance != 0)
            matrix_multiply(count, experts, hidden, g.normed, hidden, matrix, 0, g.dlogits, experts, panel);
        else
            memset(g.dlogits, 0, count * experts * sizeof(*g.dlogits));
        for (uint64_t r = 0; r < count; r++) {
            if (balance != 0)
                balance_backward(&g, g.dlogits + r * experts);
            weights_backward(&g, first + r, g.dlogits + r * experts);
        }
        load_dnormed(&g, drows, dshared, first, count, row);
        matrix_multiply_transposed(count, hidden, experts, 1, g.dlogits, experts, matrix, 1, g.dnormed, hidden, panel);
        matrix_add_gradient(hidden, experts, count, 1, g.normed, hidden, g.dlogits, experts, gradient + 2 * hidden,
                            experts);
        norm_backward(in, x.dtype, count, hidden, norm, g.dnormed, gradient, row);
        residual_store(d, g.dnormed, d, dx.dtype, count * hidden);
    }
    gradient_store(gradient, drouter, 0, elements);
}
