// The way back along a route: results into the tokens they came from; and both directions of the backward pass.
#include "engines/host_scratch.h"
#include "runtime/library/route.h"

// Scratch of one call, freed together.
typedef struct {
    Store *store;
    void *pieces[6 * LEVELS_MAX + 8];
    uint32_t count;
} Scrap;

static void *scrap_take(Scrap *scrap, uint64_t bytes, Fault *fault)
{
    void *piece = store_take(scrap->store, bytes, fault);
    if (piece)
        scrap->pieces[scrap->count++] = piece;
    return piece;
}

static void scrap_free(Scrap *scrap)
{
    while (scrap->count)
        store_give(scrap->store, scrap->pieces[--scrap->count]);
}

static bool scrap_tensor(Scrap *scrap, Dtype dtype, uint64_t rows, uint64_t cols, Tensor *out, Fault *fault)
{
    *out = (Tensor){.dtype = dtype, .rows = rows, .cols = cols};
    out->data = scrap_take(scrap, rows * cols * dtype_bytes(dtype), fault);
    return out->data;
}

static MoveQueue *queue_of(const hep_route *route)
{
    return route->context->caller_lane.queue;
}

static MoveCounts counts_of(const Stage *stage)
{
    return (MoveCounts){.send = stage->send_counts, .next = stage->next_counts, .known = true};
}

static uint32_t fanout_of(const hep_route *route, uint32_t hop)
{
    return hop == 0 ? route->fanout : 1;
}

static MoveRoute way_back(const hep_route *route, uint32_t hop)
{
    return (MoveRoute){.table = &route->of->hops[hop].of_rows,
                       .rows = route->stages[hop].record_rows,
                       .fanout = fanout_of(route, hop),
                       .copies_max = route->top_k};
}

static bool copy_all(const hep_route *route, Tensor from, Tensor to, Fault *fault)
{
    uint64_t bytes = from.rows * from.cols * dtype_bytes(from.dtype);
    return route->context->moves->copy(queue_of(route), to.data, from.data, bytes, fault);
}

// Rows of the stage that the hop leaves, as sums come back to it.
static uint64_t stage_rows(const hep_route *route, uint32_t hop)
{
    return route->stages[hop].record_rows / fanout_of(route, hop);
}

// ---- rows that travel packed -----------------------------------------------------------------------

// Rows as they travel that way: packed, or those given.
static bool pack(const hep_route *route, TokenWay way, Tensor rows, Scrap *scrap, Tensor *out, Fault *fault)
{
    *out = rows;
    if (!route_packs(route, way))
        return true;
    Tensor packed = route_travelling(route, way, rows.rows);
    if (!scrap_tensor(scrap, packed.dtype, packed.rows, packed.cols, out, fault))
        return false;
    return route->context->moves->encode_rows(queue_of(route), route->context->plan->tokens[way], rows, *out, fault);
}

// Room for rows as they travel that way, to be opened into `rows`: that itself, where they are not packed.
static bool pack_room(const hep_route *route, TokenWay way, Tensor rows, Scrap *scrap, Tensor *out, Fault *fault)
{
    Tensor packed = route_travelling(route, way, rows.rows);
    *out = rows;
    return !route_packs(route, way) || scrap_tensor(scrap, packed.dtype, packed.rows, packed.cols, out, fault);
}

static bool unpack(const hep_route *route, TokenWay way, Tensor packed, Tensor rows, Fault *fault)
{
    return !route_packs(route, way) ||
           route->context->moves->decode_rows(queue_of(route), route->context->plan->tokens[way], packed, rows, fault);
}

// ---- results ---------------------------------------------------------------------------------------

static bool return_hop(const hep_route *route, uint32_t hop, Tensor results, Tensor sums, Scrap *scrap, Fault *fault)
{
    const Stage *stage = &route->stages[hop];
    Meeting meeting = route_meeting(route, hop, CALL_OF_COMBINE);
    const ModelDims *model = &route->context->plan->model;
    MoveRoute way = way_back(route, hop);
    uint64_t work_elements =
        route->context->device ? 0 : host_scratch_elements(model, OP_UNROUTE, results.rows, 1, way.fanout);
    Tensor returned, work, from, to;
    if (!scrap_tensor(scrap, results.dtype, stage->sent, results.cols, &returned, fault) ||
        !scrap_tensor(scrap, DTYPE_F32, 1, work_elements, &work, fault) ||
        !pack(route, WAY_COMBINE, results, scrap, &from, fault) ||
        !pack_room(route, WAY_COMBINE, returned, scrap, &to, fault))
        return false;
    ReturnTensors travel = {.part_count = 1, .from = {from}, .to = {to}};
    struct unroute_tensors t = {.results = results,
                                .returned = returned,
                                .send_counts = route_counts(route, hop, false),
                                .origin = route_origin(stage),
                                .rows = sums};
    return route_blame(route, hop, &meeting, move_back(&meeting, &travel, counts_of(stage), fault), fault) &&
           unpack(route, WAY_COMBINE, to, returned, fault) &&
           route->context->moves->unroute(queue_of(route), &way, &t, work, fault);
}

static bool combine(const hep_route *route, Tensor results, Tensor out, Scrap *scrap, Fault *fault)
{
    if (route->hop_count == 0)
        return copy_all(route, results, out, fault);
    for (uint32_t hop = route->hop_count; hop-- > 0;) {
        Tensor sums = out;
        if (hop > 0 && !scrap_tensor(scrap, out.dtype, stage_rows(route, hop), out.cols, &sums, fault))
            return false;
        if (!return_hop(route, hop, results, sums, scrap, fault))
            return false;
        results = sums;
    }
    return true;
}

// Rows of the last stage; more where they are expanded.
static bool take_rows(const hep_route *route, const hep_tensor *tensor, const char *name, Tensor *out, Fault *fault)
{
    const ModelDims *model = &route->context->plan->model;
    if (!route->finished)
        return fault_set(fault, FAULT_MISMATCH, "hep_dispatch_finish was not called for this route");
    TensorShape shape = {name, (int64_t)route_rows(route), model->hidden, 1u << model->dtype};
    return tensor_take(route->context, tensor, &shape, out, fault);
}

static bool take_tokens(const hep_route *route, const hep_tensor *tensor, const char *name, Tensor *out, Fault *fault)
{
    const ModelDims *model = &route->context->plan->model;
    TensorShape shape = {name, (int64_t)route->tokens, model->hidden, 1u << model->dtype};
    return tensor_take(route->context, tensor, &shape, out, fault);
}

static bool last_stage_tensor(const hep_route *route, Scrap *scrap, Tensor *out, Fault *fault)
{
    const ModelDims *model = &route->context->plan->model;
    return scrap_tensor(scrap, model->dtype, route->stages[route->hop_count].record_rows, model->hidden, out, fault);
}

static bool run_combine(hep_route *route, const hep_tensor *results, const hep_tensor *out, Scrap *scrap, Fault *fault)
{
    Tensor from, to, folded;
    if (!take_rows(route, results, "results", &from, fault) || !take_tokens(route, out, "out", &to, fault))
        return false;
    if (route->expanded) {
        if (!last_stage_tensor(route, scrap, &folded, fault) || !route_fold_rows(route, from, folded, fault))
            return false;
        from = folded;
    }
    return combine(route, from, to, scrap, fault);
}

hep_status hep_combine(hep_route *route, const hep_tensor *results, const hep_tensor *out, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!route_enter(route, stream, &status))
        return status;
    Scrap scrap = {.store = route->store};
    context_expect(route->context, route->of, true);
    bool ok = run_combine(route, results, out, &scrap, &fault);
    scrap_free(&scrap);
    return context_leave(route->context, ok, &fault);
}

// ---- backward: gradients of results ----------------------------------------------------------------

static bool send_gradients(const hep_route *route, uint32_t hop, Tensor drows, Tensor dresults, Scrap *scrap,
                           Fault *fault)
{
    const Stage *stage = &route->stages[hop];
    const hep_context *context = route->context;
    Meeting meeting = route_meeting(route, hop, CALL_OF_COMBINE_BACKWARD);
    MoveRoute way = way_back(route, hop);
    Tensor sent, counts;
    // Counts travel once more, as in the schedule: they are compared with what came before. Of a GPU, that would wait.
    if (!scrap_tensor(scrap, drows.dtype, stage->sent, drows.cols, &sent, fault) ||
        !scrap_tensor(scrap, DTYPE_I32, meeting.place.members, 1, &counts, fault))
        return false;
    MoveCounts known = {.send = stage->send_counts, .next = counts.data};
    if (context->device)
        known = counts_of(stage);
    struct dispatch_tensors travel = {.send_rows = sent,
                                      .send_counts = route_counts(route, hop, false),
                                      .next_rows = dresults,
                                      .next_counts = counts};
    struct unroute_backward_tensors t = {.drows = drows,
                                         .send_counts = travel.send_counts,
                                         .origin = route_origin(stage),
                                         .dresults = dresults,
                                         .send_rows = sent};
    bool ok = context->moves->unroute_backward(queue_of(route), &way, &t, fault) &&
              move_dispatch(&meeting, &travel, known, fault);
    if (!route_blame(route, hop, &meeting, ok, fault))
        return false;
    return context->device || memcmp(counts.data, stage->next_counts, counts.rows * sizeof(int32_t)) == 0 ||
           fault_set(fault, FAULT_MISMATCH, "other ranks go back along another route of layer %d", route->layer);
}

static bool run_combine_backward(hep_route *route, const hep_tensor *dout, const hep_tensor *dresults, Scrap *scrap,
                                 Fault *fault)
{
    Tensor from, given, to;
    if (!take_tokens(route, dout, "dout", &from, fault) || !take_rows(route, dresults, "dresults", &given, fault))
        return false;
    uint32_t hops = route->hop_count;
    bool packed = route_packs(route, WAY_COMBINE_GRADIENT);
    if (!pack(route, WAY_COMBINE_GRADIENT, from, scrap, &from, fault))
        return false;
    for (uint32_t hop = 0; hop < hops; hop++) {
        to = given;
        if ((hop + 1 < hops || route->expanded || packed) &&
            !scrap_tensor(scrap, from.dtype, route->stages[hop + 1].record_rows, from.cols, &to, fault))
            return false;
        if (!send_gradients(route, hop, from, to, scrap, fault))
            return false;
        from = to;
    }
    if (packed) {
        to = given;
        if (route->expanded && !last_stage_tensor(route, scrap, &to, fault))
            return false;
        if (!unpack(route, WAY_COMBINE_GRADIENT, from, to, fault))
            return false;
        from = to;
    }
    if (hops > 0 && !route_clear_padding(route, from, fault))
        return false;
    if (route->expanded)
        return route_spread_rows(route, from, given, fault);
    return hops > 0 || copy_all(route, from, given, fault);
}

static bool check_training(const hep_route *route, Fault *fault)
{
    return route->context->plan->pass == PASS_TRAINING ||
           fault_set(fault, FAULT_MISMATCH, "the plan has no backward pass: compile with 'pass = training'");
}

hep_status hep_combine_backward(hep_route *route, const hep_tensor *dout, const hep_tensor *dresults, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!route_enter(route, stream, &status))
        return status;
    Scrap scrap = {.store = route->store};
    context_expect(route->context, route->of, false);
    bool ok = check_training(route, &fault) && run_combine_backward(route, dout, dresults, &scrap, &fault);
    scrap_free(&scrap);
    return context_leave(route->context, ok, &fault);
}

// ---- backward: gradients of rows and gate weights --------------------------------------------------

static bool return_gradients(const hep_route *route, uint32_t hop, Gradients from, Gradients to, Scrap *scrap,
                             Fault *fault)
{
    const Stage *stage = &route->stages[hop];
    Meeting meeting = route_meeting(route, hop, CALL_OF_DISPATCH_BACKWARD);
    Gradients returned;
    Tensor sent, came;
    if (!scrap_tensor(scrap, from.rows.dtype, stage->sent, from.rows.cols, &returned.rows, fault) ||
        !scrap_tensor(scrap, DTYPE_F32, stage->sent, route->per_row, &returned.records, fault) ||
        !pack(route, WAY_DISPATCH_GRADIENT, from.rows, scrap, &sent, fault) ||
        !pack_room(route, WAY_DISPATCH_GRADIENT, returned.rows, scrap, &came, fault))
        return false;
    ReturnTensors travel = {.part_count = 2, .from = {sent, from.records}, .to = {came, returned.records}};
    MoveRoute way = way_back(route, hop);
    struct route_backward_tensors t = {.drows_next = from.rows,
                                       .drecords_next = from.records,
                                       .returned = returned.rows,
                                       .returned_records = returned.records,
                                       .send_counts = route_counts(route, hop, false),
                                       .origin = route_origin(stage),
                                       .drows = to.rows,
                                       .drecords = to.records};
    return route_blame(route, hop, &meeting, move_back(&meeting, &travel, counts_of(stage), fault), fault) &&
           unpack(route, WAY_DISPATCH_GRADIENT, came, returned.rows, fault) &&
           route->context->moves->route_backward(queue_of(route), &way, &t, fault);
}

static bool send_home(const hep_route *route, Gradients from, Gradients to, Scrap *scrap, Fault *fault)
{
    uint32_t hops = route->hop_count;
    for (uint32_t hop = hops; hop-- > 0;) {
        Gradients next = to;
        uint64_t rows = route->stages[hop].record_rows;
        if (hop > 0 && (!scrap_tensor(scrap, to.rows.dtype, rows, to.rows.cols, &next.rows, fault) ||
                        !scrap_tensor(scrap, DTYPE_F32, rows, route->per_row, &next.records, fault)))
            return false;
        if (!return_gradients(route, hop, from, next, scrap, fault))
            return false;
        from = next;
    }
    return hops > 0 || (copy_all(route, from.rows, to.rows, fault) && copy_all(route, from.records, to.records, fault));
}

// A call of hep_dispatch_backward.
typedef struct {
    const hep_tensor *dx, *dweights, *out_dx, *out_dweights;
} Backward;

static bool take_backward(const hep_route *route, const Backward *call, Gradients *from, Gradients *to, Fault *fault)
{
    TensorShape of_records = {"dweights", (int64_t)route_rows(route), route->expanded ? 1 : route->per_row,
                              1u << HEP_F32},
                of_weights = {"out_dweights", (int64_t)route->tokens, route->top_k, 1u << HEP_F32};
    if (!take_rows(route, call->dx, "dx", &from->rows, fault) ||
        !tensor_take(route->context, call->dweights, &of_records, &from->records, fault) ||
        !take_tokens(route, call->out_dx, "out_dx", &to->rows, fault) ||
        !tensor_take(route->context, call->out_dweights, &of_weights, &to->records, fault))
        return false;
    to->records.rows = route->tokens * route->fanout; // the same memory, by records
    to->records.cols = route->per_row;
    return true;
}

static bool run_dispatch_backward(hep_route *route, const Backward *call, Scrap *scrap, Fault *fault)
{
    Gradients from, to, folded;
    if (!take_backward(route, call, &from, &to, fault))
        return false;
    if (route->expanded) {
        uint64_t rows = route->stages[route->hop_count].record_rows;
        if (!last_stage_tensor(route, scrap, &folded.rows, fault) ||
            !scrap_tensor(scrap, DTYPE_F32, rows, route->per_row, &folded.records, fault) ||
            !route_fold_gradients(route, from, folded, fault))
            return false;
        from = folded;
    }
    return send_home(route, from, to, scrap, fault);
}

hep_status hep_dispatch_backward(hep_route *route, const hep_tensor *dx, const hep_tensor *dweights,
                                 const hep_tensor *out_dx, const hep_tensor *out_dweights, void *stream)
{
    hep_status status;
    Fault fault = {0};
    Backward call = {.dx = dx, .dweights = dweights, .out_dx = out_dx, .out_dweights = out_dweights};
    if (!route_enter(route, stream, &status))
        return status;
    Scrap scrap = {.store = route->store};
    context_expect(route->context, route->of, true);
    bool ok = check_training(route, &fault) && run_dispatch_backward(route, &call, &scrap, &fault);
    scrap_free(&scrap);
    return context_leave(route->context, ok, &fault);
}
