// The network around the exchanges in the verifier's walk: embedding, attention, gate, dense layers, loss, and the same
// backward. See verify_flow.h.
#include "ir/verify/verify_flow.h"

void flow_embed(Flow *flow)
{
    flow_take_tokens(flow);
    flow_take_weights(flow, OPERAND_embedding);
    flow_give(flow, OPERAND_x, value_plain(HOLDS_INPUT_ROWS, 0));
}

void flow_pre_expert(Flow *flow)
{
    int32_t k = flow->layer;
    flow_take(flow, OPERAND_x, value_plain(HOLDS_INPUT_ROWS, k));
    flow_take_weights(flow, OPERAND_dense);
    flow_give(flow, OPERAND_y, value_plain(HOLDS_ATTENDED, k));
}

void flow_ffn(Flow *flow)
{
    int32_t k = flow->layer;
    flow_take(flow, OPERAND_x, value_plain(HOLDS_ATTENDED, k));
    flow_take_weights(flow, OPERAND_dense);
    flow_give(flow, OPERAND_y, value_plain(HOLDS_INPUT_ROWS, k + 1));
}

void flow_gate(Flow *flow)
{
    int32_t k = flow->layer;
    flow_take(flow, OPERAND_x, value_plain(HOLDS_ATTENDED, k));
    flow_take_weights(flow, OPERAND_dense);
    flow_give(flow, OPERAND_rows, value_staged(HOLDS_ROWS, k, 0));
    flow_give(flow, OPERAND_records, value_staged(HOLDS_RECORDS, k, 0));
}

void flow_shared_expert(Flow *flow)
{
    int32_t k = flow->layer;
    flow_take(flow, OPERAND_rows, value_staged(HOLDS_ROWS, k, 0));
    flow_take_weights(flow, OPERAND_dense);
    flow_give(flow, OPERAND_results, value_plain(HOLDS_SHARED_RESULTS, k));
}

void flow_residual(Flow *flow)
{
    int32_t k = flow->layer;
    flow_take(flow, OPERAND_x, value_plain(HOLDS_ATTENDED, k));
    flow_take(flow, OPERAND_results, value_staged(HOLDS_RESULTS, k, 0));
    if (model_shared_inner(&flow->plan->model))
        flow_take(flow, OPERAND_shared_results, value_plain(HOLDS_SHARED_RESULTS, k));
    else
        flow_take_none(flow, OPERAND_shared_results);
    flow_give(flow, OPERAND_y, value_plain(HOLDS_INPUT_ROWS, k + 1));
}

void flow_loss(Flow *flow)
{
    flow_take(flow, OPERAND_x, value_plain(HOLDS_INPUT_ROWS, (int32_t)flow->plan->model.layers));
    flow_take_tokens(flow);
    flow_take_weights(flow, OPERAND_embedding);
    flow_give(flow, OPERAND_loss, value_plain(HOLDS_LOSS, NONE));
}

void flow_loss_backward(Flow *flow)
{
    flow_take(flow, OPERAND_x, value_plain(HOLDS_INPUT_ROWS, (int32_t)flow->plan->model.layers));
    flow_take_tokens(flow);
    int32_t weights = flow_take_weights(flow, OPERAND_embedding);
    flow_give(flow, OPERAND_dembedding,
              value_split(HOLDS_HALF_GRADIENT, NONE, flow->shared, weights)); // the tied embedding's other use is first
    flow_give(flow, OPERAND_dx, value_plain(HOLDS_DINPUT, (int32_t)flow->plan->model.layers));
}

void flow_shared_expert_backward(Flow *flow)
{
    int32_t k = flow->layer;
    flow_take(flow, OPERAND_rows, value_staged(HOLDS_ROWS, k, 0));
    flow_take(flow, OPERAND_dx, value_plain(HOLDS_DINPUT, k + 1));
    flow_give_part(flow, DENSE_SHARED);
    flow_give(flow, OPERAND_drows, value_plain(HOLDS_DSHARED_ROWS, k));
}

void flow_gate_backward(Flow *flow)
{
    int32_t k = flow->layer;
    flow_take(flow, OPERAND_x, value_plain(HOLDS_ATTENDED, k));
    flow_take(flow, OPERAND_records, value_staged(HOLDS_RECORDS, k, 0));
    flow_take(flow, OPERAND_drows, value_staged(HOLDS_DROWS, k, 0));
    flow_take(flow, OPERAND_drecords, value_staged(HOLDS_DRECORDS, k, 0));
    if (model_shared_inner(&flow->plan->model))
        flow_take(flow, OPERAND_dshared_rows, value_plain(HOLDS_DSHARED_ROWS, k));
    else
        flow_take_none(flow, OPERAND_dshared_rows);
    flow_take(flow, OPERAND_dx, value_plain(HOLDS_DINPUT, k + 1));
    flow_give_part(flow, DENSE_ROUTER);
    flow_give(flow, OPERAND_dx, value_plain(HOLDS_DATTENDED, k));
}

void flow_ffn_backward(Flow *flow)
{
    int32_t k = flow->layer;
    flow_take(flow, OPERAND_x, value_plain(HOLDS_ATTENDED, k));
    flow_take(flow, OPERAND_dx, value_plain(HOLDS_DINPUT, k + 1));
    flow_give_part(flow, DENSE_FFN);
    flow_give(flow, OPERAND_dx, value_plain(HOLDS_DATTENDED, k));
}

void flow_pre_expert_backward(Flow *flow)
{
    int32_t k = flow->layer;
    flow_take(flow, OPERAND_x, value_plain(HOLDS_INPUT_ROWS, k));
    flow_take(flow, OPERAND_dx, value_plain(HOLDS_DATTENDED, k));
    flow_give_part(flow, DENSE_ATTENTION);
    flow_give(flow, OPERAND_dx, value_plain(HOLDS_DINPUT, k));
}

void flow_embed_backward(Flow *flow)
{
    int32_t weights = flow_layer(flow)->weights[WEIGHT_EMBEDDING];
    flow_take_tokens(flow);
    flow_take(flow, OPERAND_dx, value_plain(HOLDS_DINPUT, 0));
    if (flow_value(flow, OPERAND_dembedding).holds == HOLDS_ZEROS) { // which are added to the other half
        flow_give(flow, OPERAND_dembedding, value_split(HOLDS_OTHER_HALF, NONE, flow->shared, weights));
        return;
    }
    flow_take(flow, OPERAND_dembedding, value_split(HOLDS_HALF_GRADIENT, NONE, flow->shared, weights));
    flow_give(flow, OPERAND_dembedding, flow_whole_gradient(NONE, flow->shared, weights));
}
