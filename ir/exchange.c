// See exchange.h.
#include "ir/exchange.h"

#include <math.h>

double exchange_rows_bound(const Cluster *cluster, const ModelDims *model, Dispatch dispatch, double capacity,
                           const uint32_t domain[LEVELS_MAX], uint32_t level)
{
    double tokens = (double)model_tokens(model), top_k = model->top_k, experts = model->experts;
    double sources = 1, places = 1;
    for (uint32_t l = 0; l <= level; l++) {
        double members = cluster->levels[l].count / domain[l];
        sources *= l < level ? members : 1;
        places *= members;
    }
    double inside = experts / places; // experts of one place
    double own = dispatch == DISPATCH_NAIVE ? tokens * fmin(top_k, inside) : tokens;
    if (capacity > 0)
        own = fmin(own, ceil(capacity * tokens * top_k / experts) * inside);
    return sources * own;
}

uint64_t plan_message_rows(const Plan *plan, const Step *step)
{
    if (plan->exchange != EXCHANGE_PADDED || op_info((int)step->op)->shape != SHAPE_EXCHANGE || step->level == NONE)
        return 0;
    for (uint32_t c = 0; c < plan->choice_count; c++) {
        if (step->layer != NONE && plan->choices[c].layer == (uint32_t)step->layer) {
            double rows = exchange_rows_bound(&plan->cluster, &plan->model, plan->dispatch, plan->capacity,
                                              plan->choices[c].domain, (uint32_t)step->level);
            return rows < 0x1p53 ? (uint64_t)rows : 0;
        }
    }
    return 0;
}

double exchange_routing_bytes(Op op, bool with_records, double rows, double records, double messages)
{
    if (op == OP_COMBINE_BACKWARD)
        return rows * records * (double)sizeof(float);
    if (op != OP_DISPATCH)
        return 0;
    return messages * (double)sizeof(int32_t) + (with_records ? rows * records * RECORD_BYTES : 0);
}
