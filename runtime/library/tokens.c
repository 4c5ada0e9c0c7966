// Tokens of the caller: dispatch, combine and the backward pass of each, by the moves of moves.h. A route keeps,
// for every level that rows cross, who got which of them.
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "runtime/library/order.h"
#include "runtime/library/route.h"

enum { FLOATS = 1u << HEP_F32 | 1u << HEP_F16 | 1u << HEP_BF16, INDICES = 1u << HEP_I32 | 1u << HEP_I64 };

// What the gate chose, on the host.
typedef struct {
    const void *experts; // [count]
    const float *weights;
    uint64_t count;
    bool wide;    // experts are i64
    void *copies; // of a GPU's; or NULL
} Choices;

static int64_t chosen(const Choices *choices, uint64_t i)
{
    return choices->wide ? ((const int64_t *)choices->experts)[i] : ((const int32_t *)choices->experts)[i];
}

// Of a GPU this waits for the caller's stream: what is chosen decides who is sent how much.
static bool choices_take(const hep_route *route, const hep_tensor *experts, Tensor weights, Choices *out, Fault *fault)
{
    const hep_context *context = route->context;
    uint64_t count = route->tokens * route->top_k, each = experts->dtype == HEP_I64 ? 8 : 4;
    *out =
        (Choices){.experts = experts->data, .weights = weights.data, .count = count, .wide = experts->dtype == HEP_I64};
    if (!context->device || count == 0)
        return true;
    char *copies = store_take(route->host_store, count * (each + sizeof(float)), fault);
    out->experts = out->copies = copies;
    out->weights = copies ? (const float *)(const void *)(copies + count * each) : NULL;
    MoveQueue *queue = context->caller_lane.queue;
    return copies && context->moves->bring(queue, copies, experts->data, count * each, fault) &&
           context->moves->bring(queue, copies + count * each, weights.data, count * sizeof(float), fault);
}

static void record_fill(Record *records, const Choices *choices)
{
    for (uint64_t i = 0; i < choices->count; i++)
        records[i] = (Record){.expert = (int32_t)chosen(choices, i), .weight = choices->weights[i]};
}

static bool check_experts(const hep_route *route, const Choices *choices, Fault *fault)
{
    int64_t all = route->context->plan->model.experts;
    for (uint64_t i = 0; i < choices->count; i++) {
        int64_t expert = chosen(choices, i);
        if (expert < -1 || expert >= all)
            return fault_set(fault, FAULT_USAGE, "token %" PRIu64 " names expert %" PRId64 " of %" PRId64,
                             i / route->top_k, expert, all);
    }
    return true;
}

// Choices of an expert beyond what the plan reserves for it: dropped, or a fault.
static bool limit_experts(const hep_route *route, Record *records, bool drops, Fault *fault)
{
    const hep_context *context = route->context;
    bool is_padded = route->hop_count > 0 && route->of->hops[0].table.place_rows;
    uint64_t limit = drops || is_padded ? context->capacity_rows : 0;
    memset(context->taken, 0, context->plan->model.experts * sizeof(*context->taken));
    for (uint64_t i = 0; i < route->tokens * route->top_k && limit > 0; i++) {
        if (records[i].expert < 0 || context->taken[records[i].expert]++ < limit)
            continue;
        if (!drops)
            return fault_set(fault, FAULT_USAGE,
                             "expert %" PRId32 " is chosen more than %" PRIu64
                             " times by tokens of this rank, which is what the plan reserves (HEP_DROP)",
                             records[i].expert, limit);
        records[i] = (Record){.expert = -1, .weight = 0};
    }
    return true;
}

static Tensor tensor_of(void *data, Dtype dtype, uint64_t rows, uint64_t cols)
{
    return (Tensor){.data = data, .dtype = dtype, .rows = rows, .cols = cols};
}

static bool stage_rows_make(hep_route *route, uint32_t stage, uint64_t rows, Fault *fault)
{
    Stage *of = &route->stages[stage];
    of->rows = route_travelling(route, WAY_DISPATCH, rows);
    of->rows.data = store_take(route->store, rows * of->rows.cols * dtype_bytes(of->rows.dtype), fault);
    of->has_rows = of->rows.data;
    return of->has_rows;
}

// Where rows travel packed, they are so from the first stage on.
static bool pack_tokens(hep_route *route, Fault *fault)
{
    if (!route_packs(route, WAY_DISPATCH))
        return true;
    if (!stage_rows_make(route, 0, route->tokens, fault))
        return false;
    const hep_context *context = route->context;
    return context->moves->encode_rows(context->caller_lane.queue, context->plan->tokens[WAY_DISPATCH], route->x,
                                       route->stages[0].rows, fault);
}

static bool stage_records_make(hep_route *route, uint32_t stage, Fault *fault)
{
    Stage *of = &route->stages[stage];
    void *records = store_take(route->store, of->record_rows * route->per_row * sizeof(Record), fault);
    of->records = tensor_of(records, DTYPE_I32, of->record_rows, 2ull * route->per_row);
    return records;
}

// The first stage's, of what was chosen.
static bool records_begin(hep_route *route, const Choices *choices, bool drops, Fault *fault)
{
    const hep_context *context = route->context;
    Stage *first = &route->stages[0];
    if (!stage_records_make(route, 0, fault))
        return false;
    if (context->device)
        first->seen = store_take(route->host_store, choices->count * sizeof(Record), fault);
    Record *records = context->device ? first->seen : first->records.data;
    if (!records)
        return false;
    record_fill(records, choices);
    return limit_experts(route, records, drops, fault) &&
           context->moves->put(context->caller_lane.queue, first->records.data, records,
                               choices->count * sizeof(Record), fault);
}

static uint64_t sum_counts(const int32_t *counts, uint32_t members)
{
    uint64_t sum = 0;
    for (uint32_t m = 0; m < members; m++)
        sum += (uint64_t)counts[m];
    return sum;
}

static bool counts_make(hep_route *route, Stage *stage, uint32_t members, Fault *fault)
{
    uint64_t bytes = 2ull * members * sizeof(int32_t);
    stage->send_counts = stage->moved_counts = store_take(route->host_store, bytes, fault);
    if (!stage->send_counts)
        return false;
    stage->next_counts = stage->send_counts + members;
    if (route->context->device)
        stage->moved_counts = store_take(route->store, bytes, fault);
    return stage->moved_counts;
}

static bool origin_make(hep_route *route, Stage *stage, Fault *fault)
{
    stage->origin = store_take(route->store, (stage->own + stage->sent + 1) * sizeof(int32_t), fault);
    return stage->origin;
}

// Messages of one size: nobody has to be told beforehand.
static bool lay_out_hop(hep_route *route, uint32_t hop, Fault *fault)
{
    Stage *from = &route->stages[hop], *to = from + 1;
    const MessagePlace *place = &route->of->hops[hop].meeting.place;
    from->own = place->message_rows;
    from->sent = (place->members - 1) * place->message_rows;
    to->record_rows = place->members * place->message_rows;
    return counts_make(route, from, place->members, fault) && origin_make(route, from, fault);
}

// All members learn how many rows the others send them.
static bool exchange_counts(hep_route *route, uint32_t hop, Fault *fault)
{
    hep_context *context = route->context;
    Stage *from = &route->stages[hop];
    Meeting meeting = route_meeting(route, hop, CALL_OF_DISPATCH);
    Tensor send = route_counts(route, hop, false), next = route_counts(route, hop, true);
    uint64_t bytes = meeting.place.members * sizeof(int32_t);
    bool ok = context->moves->put(meeting.queue, send.data, from->send_counts, bytes, fault) &&
              move_counts(&meeting, send, next, context->caller_lane.counts, fault) &&
              context->moves->bring(meeting.queue, from->next_counts, next.data, bytes, fault);
    from->next_counts[meeting.place.own] = from->send_counts[meeting.place.own];
    return route_blame(route, hop, &meeting, ok, fault);
}

// How many rows of stage `hop` go where, and how many come instead.
static bool count_hop(hep_route *route, uint32_t hop, Fault *fault)
{
    Stage *from = &route->stages[hop], *to = from + 1;
    const RouteTable *table = &route->of->hops[hop].table;
    uint32_t members = table->members;
    if (table->place_rows)
        return lay_out_hop(route, hop, fault);
    Tensor records = from->records;
    records.data = (void *)route_records_seen(route, hop, route->context->caller_lane.queue, fault); // read only
    if (!records.data || !counts_make(route, from, members, fault))
        return false;
    host_route_counts(table, from->record_rows, records, from->send_counts);
    from->own = (uint64_t)from->send_counts[table->own];
    uint64_t all = sum_counts(from->send_counts, members);
    from->sent = all - from->own;
    if (!origin_make(route, from, fault) || !exchange_counts(route, hop, fault))
        return false;
    for (uint32_t m = 0; m < members; m++)
        if (from->next_counts[m] < 0)
            return fault_set(fault, FAULT_RUN, "member %" PRIu32 " says that it sends %" PRId32 " rows", m,
                             from->next_counts[m]);
    to->record_rows = sum_counts(from->next_counts, members);
    return to->record_rows <= INT32_MAX ||
           fault_set(fault, FAULT_RUN, "%" PRIu64 " rows would arrive: more than %d", to->record_rows, INT32_MAX);
}

// The rows themselves; those of the stage before are then needed no more.
static bool move_hop(hep_route *route, uint32_t hop, Fault *fault)
{
    Stage *from = &route->stages[hop], *to = from + 1;
    const hep_context *context = route->context;
    const RouteTable *table = &route->of->hops[hop].of_rows;
    MoveRoute way = {
        .table = table, .rows = from->record_rows, .fanout = hop == 0 ? route->fanout : 1, .copies_max = route->top_k};
    uint64_t row_bytes = from->rows.cols * dtype_bytes(from->rows.dtype);
    uint64_t record_bytes = route->per_row * sizeof(Record);
    uint64_t row_room = (from->sent * row_bytes + 63) / 64 * 64; // records are vectors
    char *sent = store_take(route->store, row_room + from->sent * record_bytes, fault);
    if (!sent)
        return false;
    Tensor send_rows = tensor_of(sent, from->rows.dtype, from->sent, from->rows.cols);
    Tensor send_records = tensor_of(sent + row_room, DTYPE_I32, from->sent, from->records.cols);
    struct route_tensors split = {.rows = from->rows,
                                  .records = from->records,
                                  .next_rows = to->rows,
                                  .next_records = to->records,
                                  .send_rows = send_rows,
                                  .send_records = send_records,
                                  .send_counts = route_counts(route, hop, false),
                                  .origin = route_origin(from)};
    struct dispatch_tensors travel = {.send_rows = send_rows,
                                      .send_records = send_records,
                                      .send_counts = split.send_counts,
                                      .next_rows = to->rows,
                                      .next_records = to->records,
                                      .next_counts = route_counts(route, hop, true)};
    Meeting meeting = route_meeting(route, hop, CALL_OF_DISPATCH_FINISH);
    MoveCounts counts = {.send = from->send_counts, .next = from->next_counts, .known = !table->place_rows};
    bool ok =
        context->moves->route(meeting.queue, &way, &split, fault) && move_dispatch(&meeting, &travel, counts, fault);
    store_give(route->store, sent);
    return route_blame(route, hop, &meeting, ok, fault);
}

static void rows_drop(hep_route *route, uint32_t stage)
{
    Stage *of = &route->stages[stage];
    if (of->has_rows)
        store_give(route->store, of->rows.data);
    of->rows.data = NULL;
    of->has_rows = false;
}

// What was of use for the next stage alone.
static void stage_drop(hep_route *route, uint32_t stage)
{
    Stage *of = &route->stages[stage];
    rows_drop(route, stage);
    store_give(route->store, of->records.data);
    store_give(route->host_store, of->seen);
    of->records.data = NULL;
    of->seen = NULL;
}

static bool dispatch_begin(hep_route *route, Fault *fault)
{
    uint32_t hops = route->hop_count;
    for (uint32_t hop = 0; hop < hops; hop++) {
        if (!count_hop(route, hop, fault))
            return false;
        if (hop + 1 == hops)
            break;
        if (!stage_rows_make(route, hop + 1, route->stages[hop + 1].record_rows, fault) ||
            !stage_records_make(route, hop + 1, fault) || !move_hop(route, hop, fault))
            return false;
        stage_drop(route, hop);
    }
    return true;
}

static bool receive_rows(hep_route *route, Tensor rows, Fault *fault)
{
    const hep_context *context = route->context;
    MoveQueue *queue = context->caller_lane.queue;
    uint32_t last = route->hop_count;
    Stage *end = &route->stages[last];
    bool packed = route_packs(route, WAY_DISPATCH);
    end->rows = rows;
    if (last == 0)
        return context->moves->copy(queue, rows.data, route->x.data, rows.rows * rows.cols * dtype_bytes(rows.dtype),
                                    fault);
    if (packed && !stage_rows_make(route, last, rows.rows, fault))
        return false;
    bool ok = stage_records_make(route, last, fault) && move_hop(route, last - 1, fault);
    stage_drop(route, last - 1);
    if (ok && packed)
        ok = context->moves->decode_rows(queue, context->plan->tokens[WAY_DISPATCH], end->rows, rows, fault);
    rows_drop(route, last);
    return ok && route_clear_padding(route, rows, fault);
}

// Receives all rows at once: how many there will be, expanded, only their records tell.
static bool expand(hep_route *route, Fault *fault)
{
    const ModelDims *model = &route->context->plan->model;
    uint64_t rows = route->stages[route->hop_count].record_rows;
    Tensor all = {.dtype = model->dtype, .rows = rows, .cols = model->hidden};
    all.data = store_take(route->store, rows * all.cols * dtype_bytes(all.dtype), fault);
    route->received = all;
    return all.data && receive_rows(route, all, fault) && route_order_pairs(route, fault);
}

// ---- routes ----------------------------------------------------------------------------------------

static hep_route *route_make(hep_context *context, int layer, uint64_t tokens, int flags, Fault *fault)
{
    hep_route *route = calloc(1, sizeof(*route));
    if (!route) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a route");
        return NULL;
    }
    const Plan *plan = context->plan;
    Layer *of = &context->layers[layer];
    bool naive = plan->dispatch == DISPATCH_NAIVE && of->hop_count > 0; // else there is nobody to send copies to
    *route = (hep_route){.unmark = context->device ? context->device->unmark : NULL,
                         .store = store_keep(context->store),
                         .host_store = store_keep(context->host_store),
                         .context = context,
                         .of = of,
                         .hop_count = of->hop_count,
                         .layer = layer,
                         .expanded = flags & HEP_EXPANDED,
                         .tokens = tokens,
                         .top_k = plan->model.top_k,
                         .fanout = naive ? plan->model.top_k : 1,
                         .per_row = naive ? 1 : plan->model.top_k};
    atomic_init(&route->references, 1);
    route->stages[0].record_rows = tokens * route->fanout;
    return route;
}

void hep_route_keep(hep_route *route)
{
    if (route)
        atomic_fetch_add(&route->references, 1);
}

void hep_route_free(hep_route *route)
{
    if (!route || atomic_fetch_sub(&route->references, 1) != 1)
        return;
    for (uint32_t s = 0; s <= LEVELS_MAX; s++) {
        if (route->stages[s].moved_counts != route->stages[s].send_counts)
            store_give(route->store, route->stages[s].moved_counts);
        store_give(route->host_store, route->stages[s].send_counts);
        store_give(route->store, route->stages[s].origin);
        stage_drop(route, s);
    }
    store_give(route->store, route->received.data);
    if (route->moved_pairs != route->pairs)
        store_give(route->store, route->moved_pairs);
    store_give(route->host_store, route->pairs);
    store_give(route->store, route->moved_pair_count);
    if (route->unmark)
        route->unmark(route->finished_at);
    store_drop(route->host_store);
    store_drop(route->store);
    free(route);
}

static bool take_tokens(const hep_context *context, const hep_tensor *x, const hep_tensor *experts,
                        const hep_tensor *weights, Tensor taken[2], Fault *fault)
{
    const ModelDims *model = &context->plan->model;
    TensorShape of_x = {"x", -1, model->hidden, 1u << model->dtype};
    if (!tensor_take(context, x, &of_x, &taken[0], fault))
        return false;
    TensorShape of_experts = {"experts", x->rows, model->top_k, INDICES},
                of_weights = {"weights", x->rows, model->top_k, 1u << HEP_F32};
    if (!tensor_check(context, experts, &of_experts, fault) ||
        !tensor_take(context, weights, &of_weights, &taken[1], fault))
        return false;
    return (uint64_t)x->rows <= context->max_tokens ||
           fault_set(fault, FAULT_USAGE, "%" PRId64 " tokens: the context was created for at most %" PRIu64, x->rows,
                     context->max_tokens);
}

// A call of hep_dispatch.
typedef struct {
    const hep_tensor *x, *experts, *weights;
    int layer, flags;
} Dispatching;

static bool dispatch(hep_context *context, const Dispatching *call, hep_route **route, Fault *fault)
{
    Tensor taken[2];
    const Layer *layer = context_layer(context, call->layer, fault);
    if (!layer)
        return false;
    context_expect(context, layer, false);
    if (!take_tokens(context, call->x, call->experts, call->weights, taken, fault))
        return false;
    if (call->flags & ~(HEP_EXPANDED | HEP_DROP))
        return fault_set(fault, FAULT_USAGE, "unknown flags %#x", (unsigned)call->flags);
    hep_route *made = route_make(context, call->layer, (uint64_t)call->x->rows, call->flags, fault);
    if (!made)
        return false;
    made->x = made->stages[0].rows = taken[0];
    Choices choices;
    bool ok = choices_take(made, call->experts, taken[1], &choices, fault) && check_experts(made, &choices, fault) &&
              records_begin(made, &choices, call->flags & HEP_DROP, fault);
    store_give(made->host_store, choices.copies);
    ok = ok && pack_tokens(made, fault) && dispatch_begin(made, fault) && (!made->expanded || expand(made, fault));
    if (ok)
        *route = made;
    else
        hep_route_free(made);
    return ok;
}

// Many parameters because they are what a dispatch has: hep.h.
hep_status hep_dispatch(hep_context *context, int layer, const hep_tensor *x, const hep_tensor *experts,
                        const hep_tensor *weights, int flags, void *stream, hep_route **route)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    if (route)
        *route = NULL;
    Dispatching call = {.x = x, .experts = experts, .weights = weights, .layer = layer, .flags = flags};
    bool ok = library_given(route, "route", &fault) && dispatch(context, &call, route, &fault);
    return context_leave(context, ok, &fault);
}

// ---- what arrives ----------------------------------------------------------------------------------

static uint32_t route_records(const hep_route *route)
{
    return route->expanded ? 1 : route->per_row;
}

// Of a GPU records come by the queue of returns, as the caller may have nothing more to do with his stream.
static bool count_experts(hep_route *route, int64_t *per_expert, Fault *fault)
{
    hep_context *context = route->context;
    const Stage *end = &route->stages[route->hop_count];
    MoveQueue *queue = context->courier_lane.queue;
    if (context->device && !end->seen && !context->device->follow(queue, route->finished_at, fault))
        return false;
    const Record *records = route_records_seen(route, route->hop_count, queue, fault);
    if (!records)
        return false;
    memset(per_expert, 0, route->of->shares.block_experts * sizeof(*per_expert));
    for (uint64_t i = 0; i < end->record_rows * route->per_row; i++)
        if (records[i].expert >= 0 && route->of->map->slot_of_expert[records[i].expert] >= 0)
            per_expert[route->of->map->slot_of_expert[records[i].expert]]++;
    return true;
}

hep_status hep_route_rows(hep_route *route, int64_t *rows, int64_t *records, int64_t *per_expert)
{
    Fault fault = {0};
    if (!library_given(route, "route", &fault))
        return library_end(&fault);
    if (rows)
        *rows = (int64_t)route_rows(route);
    if (records)
        *records = route_records(route);
    if (!per_expert)
        return HEP_OK;
    if (!route->stages[route->hop_count].records.data) {
        fault_set(&fault, FAULT_MISMATCH,
                  "rows of each expert are known after hep_dispatch_finish, or with HEP_EXPANDED");
        return library_end(&fault);
    }
    hep_context *context = route->context;
    if (context->device)
        context->device->enter(context->mover);
    bool ok = count_experts(route, per_expert, &fault);
    if (context->device)
        context->device->leave(context->mover);
    return ok ? HEP_OK : library_end(&fault);
}

// Records of the last stage as the caller takes them.
static bool give_records(const hep_route *route, const hep_tensor *experts, Tensor weights, Fault *fault)
{
    const hep_context *context = route->context;
    GivenRecords given = {.records = route->stages[route->hop_count].records.data,
                          .order = route->moved_pairs,
                          .count = route_rows(route) * route_records(route),
                          .slots = route->of->slots,
                          .none = (int64_t)route->of->shares.block_experts,
                          .experts = experts->data,
                          .wide = experts->dtype == HEP_I64,
                          .weights = weights.data};
    return context->moves->give_records(context->caller_lane.queue, &given, fault);
}

static bool finish(hep_route *route, const hep_tensor *x, const hep_tensor *experts, const hep_tensor *weights,
                   Fault *fault)
{
    const ModelDims *model = &route->context->plan->model;
    int64_t rows = (int64_t)route_rows(route);
    TensorShape of_x = {"x", rows, model->hidden, 1u << model->dtype},
                of_experts = {"experts", rows, route_records(route), INDICES},
                of_weights = {"weights", rows, route_records(route), 1u << HEP_F32};
    Tensor to, to_weights;
    if (route->finished)
        return fault_set(fault, FAULT_MISMATCH, "hep_dispatch_finish was called for this route before");
    hep_context *context = route->context;
    if (!tensor_take(context, x, &of_x, &to, fault) || !tensor_check(context, experts, &of_experts, fault) ||
        !tensor_take(context, weights, &of_weights, &to_weights, fault))
        return false;
    bool ok = route->expanded ? route_spread_rows(route, route->received, to, fault) : receive_rows(route, to, fault);
    route->finished = ok;
    return ok && give_records(route, experts, to_weights, fault) &&
           order_mark(context, LANE_CALLER, &route->finished_at, fault);
}

hep_status hep_dispatch_finish(hep_route *route, const hep_tensor *x, const hep_tensor *experts,
                               const hep_tensor *weights, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!route_enter(route, stream, &status))
        return status;
    context_expect(route->context, route->of, true); // the last hop
    return context_leave(route->context, finish(route, x, experts, weights, &fault), &fault);
}
