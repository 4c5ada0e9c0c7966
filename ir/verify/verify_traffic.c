// The verifier's property of traffic: every step sends what its tensors, or the other exchanges of its rows, make it,
// and all together what the strategy was charged with. Figures are sums of the same terms in another order.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/bundle.h"
#include "ir/codec.h"
#include "ir/exchange.h"
#include "ir/unroll.h"
#include "ir/verify/verify_parts.h"

static const double SLACK = 1e-9; // relative

static bool differ(double a, double b)
{
    return fabs(a - b) > SLACK * fmax(fabs(a), fabs(b));
}

static void verify_level_traffic(Verifier *verifier, uint32_t level, const char *what, double sent, double charged)
{
    if (differ(sent, charged))
        verify_fail(verifier, PROPERTY_TRAFFIC, NONE,
                    "level '%s': the steps send %.17g bytes of %s, the strategy says %.17g",
                    verifier->plan->cluster.levels[level].name, sent, what, charged);
}

// How often an iteration executes a step.
static double runs_of(const Verifier *verifier, uint32_t step)
{
    return plan_step_runs(verifier->written, &verifier->written->steps[step]);
}

// Of packets, whose places may be larger, what they hold after the iterations in which they are whole.
static double sent_bytes(const Verifier *verifier, const Step *step)
{
    const Plan *plan = verifier->plan;
    const Buffer *buffer = step_sent(plan, step);
    WeightKind kind = verifier->kinds[step_buffers(plan, step).all[0]];
    const Coding *coding = plan_coding(plan, kind);
    bool gather = step->op == OP_GATHER && buffer->dtype == DTYPE_U8 && codec_info(coding->codec)->encodes;
    if (!gather && step->op != OP_RETURN_PACKETS)
        return (double)buffer_bytes(buffer);
    Packing packing = gather ? coding_packing(coding) : coding_gradient_packing(coding);
    uint64_t elements = bundle_vector_elements(plan, kind, step->layer);
    return (double)buffer->rows * (double)packing_bytes(packing, elements, plan->model.dtype);
}

// A gather, or a sum, sends what its tensors make it.
static void verify_step_traffic(Verifier *verifier, uint32_t index)
{
    const Plan *plan = verifier->plan;
    const Step *step = &plan->steps[index];
    OpShape shape = step_info(step)->shape;
    if (shape == SHAPE_LOCAL || shape == SHAPE_EXCHANGE)
        return;
    const Buffer *buffer = step_sent(plan, step);
    double members = (double)group_size(&plan->cluster, &plan->groups[step->group]);
    double sent = (members - 1) * sent_bytes(verifier, step) / plan_step_period(plan, step);
    if (shape == SHAPE_SCATTER)
        sent /= members;
    else if (shape == SHAPE_REDUCE)
        sent *= 2 / members;
    if (differ(step->bytes, sent))
        verify_fail(verifier, PROPERTY_TRAFFIC, index, "is said to send %.17g bytes, '%s' makes it %.17g", step->bytes,
                    buffer->name, sent);
}

// ---- exchanges -----------------------------------------------------------------------------------

// How many rows cross a level, routing decides; but all exchanges of a layer at that level carry the same rows.
typedef struct {
    double rows;  // of the first exchange
    int64_t step; // which that was; NONE before
} Crossing;

// Bytes of a row as an exchange carries it.
static double row_bytes(const Plan *plan, const Step *step)
{
    TokenFormat format = plan->tokens[plan_exchange_way(plan, step)];
    return (double)token_row_bytes(format, plan->model.hidden, plan->model.dtype);
}

// Rows that an exchange sends: its bytes, less the counts of every peer, over what a row and its routing take. Without
// dimensions a byte counts as a row.
static double rows_of(const Plan *plan, const Step *step)
{
    const ModelDims *model = &plan->model;
    if (model->abstract)
        return step->bytes;
    bool with_records = step->op == OP_DISPATCH && step_buffers(plan, step).dispatch.send_records != NONE;
    double records = plan->dispatch == DISPATCH_NAIVE ? 1 : model->top_k;
    double peers = (double)group_size(&plan->cluster, &plan->groups[step->group]) - 1;
    double counts = exchange_routing_bytes(step->op, with_records, 0, records, peers);
    double routing = exchange_routing_bytes(step->op, with_records, 1, records, 0);
    return (step->bytes - counts) / (row_bytes(plan, step) + routing);
}

static double payload_of(const Plan *plan, const Step *step)
{
    return plan->model.abstract ? step->bytes : rows_of(plan, step) * row_bytes(plan, step);
}

// What is padded has one size.
static void verify_message(Verifier *verifier, uint32_t index)
{
    const Plan *plan = verifier->plan;
    const Step *step = &plan->steps[index];
    uint64_t message = plan_message_rows(plan, step);
    double peers = (double)group_size(&plan->cluster, &plan->groups[step->group]) - 1;
    if (message && differ(rows_of(plan, step), peers * (double)message))
        verify_fail(verifier, PROPERTY_TRAFFIC, index,
                    "sends %.17g rows, and %.17g padded messages of %" PRIu64 " rows are %.17g", rows_of(plan, step),
                    peers, message, peers * (double)message);
}

static void verify_crossing(Verifier *verifier, uint32_t index, Crossing *crossing)
{
    double rows = rows_of(verifier->plan, &verifier->plan->steps[index]);
    if (crossing->step == NONE)
        *crossing = (Crossing){rows, index};
    else if (differ(rows, crossing->rows))
        verify_fail(verifier, PROPERTY_TRAFFIC, index,
                    "sends %.17g rows, step %lld, which exchanges the same ones, %.17g", rows,
                    (long long)crossing->step, crossing->rows);
}

static int compare_choices(const void *left, const void *right)
{
    const Choice *a = *(const Choice *const *)left, *b = *(const Choice *const *)right;
    int order = memcmp(a->domain, b->domain, sizeof(a->domain));
    return order ? order : (a->layer > b->layer) - (a->layer < b->layer);
}

// Routing that is not uniform may be another one in every layer.
static bool is_uniform(const Plan *plan, const Crossing *crossing)
{
    return crossing->step != NONE && plan->steps[crossing->step].busiest <= 0;
}

// MoE layers of an executable model are alike: those with the same domains, and routing that is uniform, send the same.
static void verify_alike_layers(Verifier *verifier, const Crossing *crossings)
{
    const Plan *plan = verifier->plan;
    const Choice **sorted = arena_alloc_array(verifier->scratch, (size_t)plan->choice_count + 1, sizeof(*sorted));
    for (uint32_t c = 0; c < plan->choice_count; c++)
        sorted[c] = &plan->choices[c];
    if (plan->choice_count)
        qsort(sorted, plan->choice_count, sizeof(*sorted), compare_choices);
    for (uint32_t c = 1; c < plan->choice_count; c++) {
        for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
            const Crossing *own = &crossings[(size_t)sorted[c]->layer * LEVELS_MAX + l];
            const Crossing *other = &crossings[(size_t)sorted[c - 1]->layer * LEVELS_MAX + l];
            if (memcmp(sorted[c]->domain, sorted[c - 1]->domain, sizeof(sorted[c]->domain)) == 0 &&
                is_uniform(plan, own) && is_uniform(plan, other) && differ(own->rows, other->rows)) {
                verify_fail(verifier, PROPERTY_TRAFFIC, own->step,
                            "sends %.17g rows, step %lld of layer %u, whose domains are the same, %.17g", own->rows,
                            (long long)other->step, sorted[c - 1]->layer, other->rows);
            }
        }
    }
}

static void verify_exchanges(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    size_t count = (size_t)plan->model.layers * LEVELS_MAX;
    Crossing *crossings = arena_alloc_array(verifier->scratch, count, sizeof(*crossings));
    for (size_t i = 0; i < count; i++)
        crossings[i].step = NONE;
    double rows[LEVELS_MAX] = {0};
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        if (step_info(step)->shape == SHAPE_EXCHANGE) {
            rows[step->level] += runs_of(verifier, i) * payload_of(plan, step);
            verify_message(verifier, i);
            verify_crossing(verifier, i, &crossings[(size_t)step->layer * LEVELS_MAX + (size_t)step->level]);
        }
    }
    for (uint32_t l = 0; l < plan->cluster.level_count && plan->strategy_count; l++) {
        const Traffic *traffic = &plan->strategies[0].traffic[l];
        verify_level_traffic(verifier, l, "rows", rows[l], traffic->exchange_bytes);
        if (traffic->padding_bytes > (plan->exchange == EXCHANGE_PADDED ? traffic->exchange_bytes : 0))
            verify_fail(verifier, PROPERTY_TRAFFIC, NONE, "level '%s': %.17g bytes of %s exchanges are padding",
                        plan->cluster.levels[l].name, traffic->padding_bytes, exchange_kind_name(plan->exchange));
    }
    if (!plan->model.abstract)
        verify_alike_layers(verifier, crossings);
}

void verify_traffic(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    for (uint32_t i = 0; i < plan->step_count && !plan->model.abstract && !verifier->report->total; i++) {
        verify_step_traffic(verifier, i); // operands are there where nothing else is wrong
    }
    double exchange[LEVELS_MAX] = {0}, gather[LEVELS_MAX] = {0}, reduce[LEVELS_MAX] = {0};
    double dense_gather[LEVELS_MAX] = {0}, dense_reduce[LEVELS_MAX] = {0};
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        uint32_t level = step->level == NONE ? 0 : (uint32_t)step->level; // a sum over the world crosses the outermost
        bool dense = verify_carries_dense(verifier, step);
        double bytes = runs_of(verifier, i) * step->bytes;
        switch (step_info(step)->shape) {
        case SHAPE_LOCAL:
            break;
        case SHAPE_EXCHANGE:
            exchange[level] += bytes;
            break;
        case SHAPE_GATHER:
            (dense ? dense_gather : gather)[level] += bytes;
            break;
        case SHAPE_SCATTER:
        case SHAPE_REDUCE:
            (dense ? dense_reduce : reduce)[level] += bytes;
            break;
        }
    }
    static const Strategy nothing = {0};
    const Strategy *chosen = plan->strategy_count ? &plan->strategies[0] : &nothing;
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        const Traffic *traffic = &chosen->traffic[l];
        verify_level_traffic(verifier, l, "tokens", exchange[l], traffic->exchange_bytes + traffic->routing_bytes);
        verify_level_traffic(verifier, l, "experts", gather[l], traffic->gather_bytes);
        verify_level_traffic(verifier, l, "gradients", reduce[l], traffic->reduce_bytes);
        verify_level_traffic(verifier, l, "dense weights", dense_gather[l], traffic->dense_gather_bytes);
        verify_level_traffic(verifier, l, "dense gradients", dense_reduce[l], traffic->dense_reduce_bytes);
    }
    if (!verifier->report->total)
        verify_exchanges(verifier);
}
