// Gate and routing on CUDA against their host twins. Copies, origins, counts and records are the same byte for byte;
// sums differ by rounding. In the emulation this checks the kernels' logic.
// builds: dev  seconds: 15
#include "cuda_tensors.h"
#include "engines/cuda_step.h"

// ---- routing ---------------------------------------------------------------------------------------

typedef struct {
    uint32_t hidden, records, fanout, members, own;
    uint64_t rows, spare; // present, and capacity beyond
    double padding;       // share of the records
    int32_t only;         // the one expert of all records; -1: any
    uint64_t next, send;  // capacity, 0: enough
    bool counted;         // the number of rows is on the device
    uint64_t place;       // rows of every member's place; 0: one after another
} RouteCase;

enum { EXPERTS = 70 }; // more than are ranked at once

static const RouteCase route_cases[] = {
    {8, 2, 1, 3, 1, 37, 5, 0.3, -1, 0, 0, true, 0},      {259, 1, 2, 4, 0, 21, 0, 0.2, -1, 0, 0, false, 0},
    {16, 3, 1, 2, 1, 700, 3, 0.1, -1, 0, 0, true, 0},    {64, 2, 1, 70, 69, 300, 0, 0, -1, 0, 0, false, 0},
    {8, 2, 1, 3, 2, 0, 9, 0, -1, 0, 0, true, 0},      // no rows
    {24, 1, 1, 3, 0, 1, 0, 0, -1, 0, 0, false, 0},    // one
    {40, 2, 2, 3, 0, 90, 2, 0, 0, 0, 0, true, 0},     // all stay
    {40, 2, 2, 3, 1, 90, 2, 0, 0, 0, 0, true, 0},     // all leave
    {12, 2, 1, 3, 1, 60, 0, 0.9, -1, 0, 0, false, 0}, // hardly any
    {8, 2, 1, 3, 1, 300, 0, 0, -1, 40, 90, false, 0}, // too many
    {8, 2, 1, 3, 1, 37, 5, 0.3, -1, 0, 0, false, 40},    {259, 1, 2, 4, 3, 21, 0, 0.2, -1, 0, 0, false, 33},
    {16, 3, 1, 2, 0, 700, 0, 0.5, -1, 0, 0, false, 700}, {64, 2, 1, 70, 69, 300, 0, 0, -1, 0, 0, false, 120},
    {8, 2, 1, 3, 2, 5, 0, 1, -1, 0, 0, false, 7},       // nothing but padding
    {40, 2, 2, 3, 1, 90, 0, 0, 0, 0, 0, false, 180},    // all leave, for one place that is full
    {8, 2, 1, 3, 1, 300, 0, 0, -1, 90, 180, false, 90}, // too many
};

typedef struct {
    RouteTable table, table_there;
    CudaRows present;
    uint64_t record_rows, own_count, sent;
    Tensor rows, records, next_rows, next_records, send_rows, send_records, counts, origin, present_counts;
    Tensor rows_there, next_rows_there, next_records_there, send_rows_there, send_records_there, counts_there;
    Tensor origin_there;
} Routed;

static void make_records(const RouteCase *c, Tensor records, uint64_t record_rows)
{
    for (uint64_t i = 0; i < record_rows * c->records; i++) {
        int32_t expert = c->only >= 0 ? c->only : (int32_t)(random_unit() * EXPERTS);
        bool is_padding = random_unit() < c->padding;
        ((Record *)records.data)[i] = (Record){is_padding ? -1 : expert, is_padding ? 0 : (float)random_unit()};
    }
}

// Two parts of the rows' count, as two members would have sent them.
static CudaRows counted(Routed *r, bool is_counted, uint64_t rows, uint64_t bound)
{
    const int32_t parts[2] = {(int32_t)(rows / 3), (int32_t)(rows - rows / 3)};
    (void)r;
    return is_counted ? (CudaRows){.counts = device_table(parts, 2), .members = 2, .rows = bound}
                      : (CudaRows){.rows = rows};
}

static Routed make_routed(const RouteCase *c, Dtype dtype)
{
    int32_t member_of_expert[EXPERTS];
    uint64_t capacity = c->rows + c->spare, all = capacity * c->fanout * c->records;
    for (uint32_t e = 0; e < EXPERTS; e++)
        member_of_expert[e] = (int32_t)(e * 7 % c->members);
    Routed r = {.record_rows = c->rows * c->fanout};
    int32_t *table = make(DTYPE_I32, 1, EXPERTS).data;
    memcpy(table, member_of_expert, sizeof(member_of_expert));
    r.table = (RouteTable){
        .member_of_expert = table, .experts = EXPERTS, .members = c->members, .own = c->own, .place_rows = c->place};
    r.table_there = r.table;
    r.table_there.member_of_expert = device_table(member_of_expert, EXPERTS);
    r.present = counted(&r, c->counted, r.record_rows, capacity * c->fanout);
    r.rows = make_random(dtype, capacity, c->hidden, 1);
    r.records = make(DTYPE_I32, capacity * c->fanout, 2 * c->records);
    make_records(c, r.records, r.record_rows);
    uint64_t next = c->next ? c->next : all, send = c->send ? c->send : all;
    if (c->place) {
        next = c->members * c->place;
        send = next - c->place;
    }
    r.next_rows = make(dtype, next, c->hidden);
    r.send_rows = make(dtype, send, c->hidden);
    r.next_records = make(DTYPE_I32, next, 2 * c->records);
    r.send_records = make(DTYPE_I32, send, 2 * c->records);
    r.counts = make(DTYPE_I32, c->members, 1);
    r.origin = make(DTYPE_I32, c->place ? next : 2 * all + 1, 1);
    r.rows_there = device_copy(r.rows);
    r.next_rows_there = device_like(r.next_rows);
    r.send_rows_there = device_like(r.send_rows);
    r.next_records_there = device_like(r.next_records);
    r.send_records_there = device_like(r.send_records);
    r.counts_there = device_like(r.counts);
    r.origin_there = device_like(r.origin);
    return r;
}

static void route_both(const RouteCase *c, Routed *r, Tensor records_there)
{
    uint64_t *lost_there = device_counter();
    Tensor kept_there = device_like(r->counts);
    StepTensors operands = {.route = {.rows = r->rows, .records = r->records}};
    const CudaQueue *q = device_queue(cuda_op_scratch(&(ModelDims){.top_k = 1}, OP_ROUTE, &operands, c->members));
    uint64_t lost = host_route(&r->table, r->record_rows, c->fanout, r->rows, r->records, r->next_rows, r->next_records,
                               r->send_rows, r->send_records, r->counts, r->origin);
    EXPECT_SUCCESS(cuda_route(q, &r->table_there, r->present, c->fanout, r->rows_there, records_there,
                              r->next_rows_there, r->next_records_there, r->send_rows_there, r->send_records_there,
                              r->counts_there, r->origin_there, kept_there.data, lost_there));
    for (uint32_t m = 0; m < c->members; m++)
        *(m == c->own ? &r->own_count : &r->sent) += (uint64_t)((int32_t *)r->counts.data)[m];
    expect_same(kept_there, r->counts, tensor_bytes(r->counts), "kept_counts");
    cr_assert_eq(counter_value(lost_there), lost);
    cr_assert((lost > 0) == (c->next > 0));
}

// What the host left unwritten is NaN on both sides.
static void expect_same_copies(const Routed *r)
{
    expect_same(r->counts_there, r->counts, tensor_bytes(r->counts), "send_counts");
    expect_same(r->origin_there, r->origin, tensor_bytes(r->origin), "origin");
    expect_same(r->next_rows_there, r->next_rows, tensor_bytes(r->next_rows), "next_rows");
    expect_same(r->next_records_there, r->next_records, tensor_bytes(r->next_records), "next_records");
    expect_same(r->send_rows_there, r->send_rows, tensor_bytes(r->send_rows), "send_rows");
    expect_same(r->send_records_there, r->send_records, tensor_bytes(r->send_records), "send_records");
}

// Both sides add at most fanout x records terms of the same size in the same order and round once.
static double sum_tolerance(Dtype dtype)
{
    return 2 * rounding(dtype) + 16 * rounding(DTYPE_F32);
}

static void way_back_both(const RouteCase *c, const Routed *r, Dtype dtype)
{
    ModelDims dims = {.hidden = c->hidden, .top_k = c->fanout * c->records};
    Tensor results = make_random(dtype, r->next_rows.rows, c->hidden, 1);
    Tensor returned = make_random(dtype, r->send_rows.rows, c->hidden, 1);
    Tensor results_there = device_copy(results), returned_there = device_copy(returned);
    Tensor sums = make(dtype, r->rows.rows, c->hidden), sums_there = device_like(sums);
    StepTensors operands = {.unroute = {.results = results, .returned = returned, .rows = sums}};
    StepTensors backward = {.route_backward = {.drows = sums}};
    const CudaQueue *q = device_queue(cuda_op_scratch(&dims, OP_UNROUTE, &operands, c->members));
    host_unroute(&r->table, r->record_rows, c->fanout, results, returned, r->counts, r->origin, sums,
                 make_work(&dims, OP_UNROUTE, c->rows, c->records, c->fanout));
    EXPECT_SUCCESS(cuda_unroute(q, &r->table_there, r->present, c->fanout, dims.top_k, results_there, returned_there,
                                r->counts_there, r->origin_there, sums_there));
    expect_near(sums_there, sums, c->rows * c->hidden, sum_tolerance(dtype), "unroute");

    Tensor drecords_next = make_random(DTYPE_F32, r->next_rows.rows, c->records, 1);
    Tensor returned_records = make_random(DTYPE_F32, r->send_rows.rows, c->records, 1);
    Tensor drows = make(dtype, r->rows.rows, c->hidden), drecords = make(DTYPE_F32, r->records.rows, c->records);
    Tensor drows_there = device_like(drows), drecords_there = device_like(drecords);
    host_route_backward(&r->table, r->record_rows, c->fanout, results, drecords_next, returned, returned_records,
                        r->counts, r->origin, drows, drecords);
    q = device_queue(cuda_op_scratch(&dims, OP_ROUTE_BACKWARD, &backward, c->members));
    EXPECT_SUCCESS(cuda_route_backward(q, &r->table_there, r->present, c->fanout, dims.top_k, results_there,
                                       device_copy(drecords_next), returned_there, device_copy(returned_records),
                                       r->counts_there, r->origin_there, drows_there, drecords_there));
    expect_near(drows_there, drows, c->rows * c->hidden, sum_tolerance(dtype), "route_backward");
    expect_near(drecords_there, drecords, r->record_rows * c->records, 16 * rounding(DTYPE_F32), "drecords");

    Tensor dresults = make(dtype, r->next_rows.rows, c->hidden), send = make(dtype, r->send_rows.rows, c->hidden);
    Tensor dresults_there = device_like(dresults), send_there = device_like(send);
    host_unroute_backward(&r->table, c->fanout, sums, r->counts, r->origin, dresults, send);
    EXPECT_SUCCESS(cuda_unroute_backward(q, &r->table_there, c->fanout, device_copy(sums), r->counts_there,
                                         r->origin_there, dresults_there, send_there));
    expect_same(dresults_there, dresults, tensor_bytes(dresults), "unroute_backward, own rows");
    expect_same(send_there, send, tensor_bytes(send), "unroute_backward, sent rows");
}

Test(kernels_cuda, routing_there_and_back)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (size_t i = 0; i < COUNT_OF(route_cases); i++) {
            const RouteCase *c = &route_cases[i];
            Routed r = make_routed(c, dtypes[d]);
            route_both(c, &r, device_copy(r.records));
            if (c->next == 0 || c->place == 0) // the host copies nothing where a place overflows
                expect_same_copies(&r);
            if (c->next == 0)
                way_back_both(c, &r, dtypes[d]);
            device_finish();
        }
    }
}

// After an exchange that was broken off, the device continues with what lies where records should be.
// What callers of the library see of records: 5 experts, of which 1 and 3 are held, in slots 1 and 0.
Test(kernels_cuda, records_as_callers_see_them)
{
    static const Record records[] = {{3, 0.5f}, {-1, 0}, {1, 0.25f}, {4, 2}, {3, 8}, {0, 1}};
    static const int32_t slots[] = {-1, 1, -1, 0, -1}, order[] = {4, 2, 0};
    static const int64_t all[] = {0, 7, 1, 7, 0, 7}, ordered[] = {0, 1, 0};
    static const float weights[] = {0.5f, 0, 0.25f, 0, 8, 0}, ordered_weights[] = {8, 0.25f, 0.5f};
    for (int kind = 0; kind < 4; kind++) {
        bool wide = kind % 2, is_ordered = kind / 2;
        uint64_t count = is_ordered ? 3 : 6;
        Tensor of = make(DTYPE_I32, 6, 2), there_experts = device_make(DTYPE_I32, 1, count * (wide ? 2 : 1)),
               there_weights = device_make(DTYPE_F32, 1, count);
        memcpy(of.data, records, sizeof(records));
        GivenRecords given = {.records = device_copy(of).data,
                              .order = is_ordered ? (const uint32_t *)device_table(order, 3) : NULL,
                              .count = count,
                              .slots = device_table(slots, 5),
                              .none = 7,
                              .experts = there_experts.data,
                              .wide = wide,
                              .weights = there_weights.data};
        EXPECT_SUCCESS(cuda_give_records(device_queue(0), &given));
        Tensor experts = host_copy(there_experts), got = host_copy(there_weights);
        for (uint64_t i = 0; i < count; i++) {
            int64_t expert = wide ? ((const int64_t *)experts.data)[i] : ((const int32_t *)experts.data)[i];
            cr_assert_eq(expert, is_ordered ? ordered[i] : all[i], "kind %d, record %d", kind, (int)i);
            cr_assert_eq(((const float *)got.data)[i], is_ordered ? ordered_weights[i] : weights[i]);
        }
        device_finish();
    }
}

Test(kernels_cuda, rows_of_padding_are_cleared)
{
    static const Record records[] = {{3, 1}, {-1, 0}, {-1, 0}, {-1, 0}, {-1, 0}, {0, 1}}; // row 1 of 3 has none
    static const uint64_t cols[] = {8, 3, 640};
    for (size_t c = 0; c < COUNT_OF(cols); c++) {
        Tensor of = make(DTYPE_I32, 3, 4), rows = make_random(DTYPE_BF16, 3, cols[c], 1), there = device_copy(rows);
        memcpy(of.data, records, sizeof(records));
        EXPECT_SUCCESS(cuda_clear_padding(device_queue(0), device_copy(of).data, 2, there));
        memset((char *)rows.data + 2 * cols[c], 0, 2 * cols[c]);
        expect_same(there, rows, tensor_bytes(rows), "rows without padding");
        device_finish();
    }
}

Test(kernels_cuda, records_that_name_no_expert_are_padding)
{
    const int32_t others[] = {EXPERTS, 1 << 30, INT32_MAX, INT32_MIN};
    const RouteCase *c = &route_cases[0];
    Routed r = make_routed(c, DTYPE_F32);
    Tensor garbage = make(DTYPE_I32, r.records.rows, r.records.cols);
    memcpy(garbage.data, r.records.data, tensor_bytes(garbage));
    for (uint64_t i = 0; i < r.record_rows * c->records; i += 3) {
        ((Record *)r.records.data)[i] = (Record){-1, 0};
        ((Record *)garbage.data)[i] = (Record){others[i % COUNT_OF(others)], 1};
    }
    route_both(c, &r, device_copy(garbage));
    expect_same_copies(&r);
    device_finish();
}

// ---- gate ------------------------------------------------------------------------------------------

typedef struct {
    uint32_t hidden, experts, top_k, tokens;
    Routing routing;
    uint64_t capacity;
    uint32_t groups, group_top_k;
} GateCase;

static const GateCase gate_cases[] = {
    {16, 4, 2, 9, ROUTING_LEARNED, 0, 0, 0},     {259, 33, 3, 70, ROUTING_LEARNED, 0, 0, 0},
    {64, 64, 8, 300, ROUTING_LEARNED, 20, 0, 0}, {8, 1, 1, 5, ROUTING_LEARNED, 0, 0, 0},
    {8, 1, 1, 5, ROUTING_LEARNED, 2, 0, 0},      {32, 70, 2, 600, ROUTING_LEARNED, 11, 0, 0},
    {40, 12, 3, 64, ROUTING_BALANCED, 0, 0, 0},  {40, 12, 3, 64, ROUTING_SKEWED, 7, 0, 0},
    {16, 8, 2, 1, ROUTING_LEARNED, 0, 0, 0},     {24, 32, 5, 80, ROUTING_LEARNED, 0, 8, 2},
    {24, 96, 6, 60, ROUTING_LEARNED, 9, 12, 3},
};

static ModelDims gate_dims(const GateCase *c, Dtype dtype)
{
    return (ModelDims){.dtype = dtype,
                       .hidden = c->hidden,
                       .experts = c->experts,
                       .top_k = c->top_k,
                       .groups = c->groups,
                       .group_top_k = c->group_top_k};
}

// Logits agree to rounding, but a choice may hang on it: the host's logits must be further apart than that, or both
// sides would be right. So the records are compared in order where weights differ, and by weight alone where they are
// equal.
static void expect_same_choice(Tensor device, Tensor host, uint64_t count)
{
    Tensor got = host_copy(device);
    const Record *a = got.data, *b = host.data;
    for (uint64_t i = 0; i < count; i++) {
        cr_assert_eq(a[i].expert, b[i].expert, "record %llu: expert %d, the host's %d", (unsigned long long)i,
                     a[i].expert, b[i].expert);
        // A softmax of logits of about 1 that differ by the rounding of a few hundred products.
        cr_assert(fabsf(a[i].weight - b[i].weight) <= 1e-4f, "record %llu: weight %g, the host's %g",
                  (unsigned long long)i, (double)a[i].weight, (double)b[i].weight);
    }
}

typedef struct {
    ModelDims dims;
    Tensor x, router, rows, records, x_there, router_there, records_there;
} Gated;

static Gated gate_both(const GateCase *c, Dtype dtype)
{
    Gated g = {.dims = gate_dims(c, dtype)};
    g.x = make_random(dtype, c->tokens, c->hidden, 1);
    g.router = make_random(dtype, 1, model_router_elements(&g.dims), 1);
    g.rows = make(dtype, c->tokens, c->hidden);
    g.records = make(DTYPE_I32, c->tokens, 2 * c->top_k);
    g.x_there = device_copy(g.x);
    g.router_there = device_copy(g.router);
    g.records_there = device_like(g.records);
    Tensor rows_there = device_like(g.rows);
    StepTensors operands = {.gate = {.x = g.x, .dense = g.router, .rows = g.rows, .records = g.records}};
    const CudaQueue *q = device_queue(cuda_op_scratch(&g.dims, OP_GATE, &operands, 0));
    host_gate(&g.dims, c->routing, c->capacity, g.x, g.router, g.rows, g.records,
              make_work(&g.dims, OP_GATE, c->tokens, 1, 1));
    EXPECT_SUCCESS(
        cuda_gate(q, &g.dims, c->routing, c->capacity, g.x_there, g.router_there, rows_there, g.records_there));
    // Sums of `hidden` terms in another order; LayerNorm divides by a deviation near 0.6.
    expect_near(rows_there, g.rows, c->tokens * c->hidden, 2 * rounding(dtype) + 64 * rounding(DTYPE_F32), "norm");
    expect_same_choice(g.records_there, g.records, (uint64_t)c->tokens * c->top_k);
    return g;
}

Test(kernels_cuda, gate)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (size_t i = 0; i < COUNT_OF(gate_cases); i++) {
            gate_both(&gate_cases[i], dtypes[d]);
            device_finish();
        }
    }
}

Test(kernels_cuda, ties_go_to_the_lower_expert)
{
    ModelDims dims = {.dtype = DTYPE_F32, .hidden = 4, .experts = 40, .top_k = 3};
    Tensor x = make_random(DTYPE_F32, 2, 4, 1), router = make(DTYPE_F32, 1, model_router_elements(&dims));
    memset(router.data, 0, tensor_bytes(router)); // all logits are 0
    Tensor records = device_make(DTYPE_I32, 2, 6), rows = device_make(DTYPE_F32, 2, 4);
    StepTensors operands = {.gate = {.x = x, .dense = router, .rows = rows, .records = records}};
    EXPECT_SUCCESS(cuda_gate(device_queue(cuda_op_scratch(&dims, OP_GATE, &operands, 0)), &dims, ROUTING_LEARNED, 0,
                             device_copy(x), device_copy(router), rows, records));
    const Record *got = host_copy(records).data;
    for (int32_t i = 0; i < 6; i++)
        cr_assert(got[i].expert == i % 3 && fabsf(got[i].weight - 1.0f / 3) < 1e-6f);
    device_finish();
}

static void gate_backward_both(const GateCase *c, Dtype dtype, float balance, bool has_shared)
{
    Gated g = gate_both(c, dtype);
    uint64_t elements = model_router_elements(&g.dims);
    Tensor drows = make_random(dtype, c->tokens, c->hidden, 1), dx = make_random(dtype, c->tokens, c->hidden, 1);
    Tensor drecords = make_random(DTYPE_F32, c->tokens, c->top_k, 1), none = {0};
    Tensor dshared = has_shared ? make_random(dtype, c->tokens, c->hidden, 1) : none;
    Tensor drouter = make(dtype, 1, elements), drouter_there = device_like(drouter), dx_there = device_copy(dx);
    StepTensors operands = {.gate_backward = {.x = g.x, .drows = drows, .dense = g.router}};
    const CudaQueue *q = device_queue(cuda_op_scratch(&g.dims, OP_GATE_BACKWARD, &operands, 0));
    EXPECT_SUCCESS(cuda_gate_backward(q, &g.dims, balance, g.x_there, device_copy(g.records), device_copy(drows),
                                      device_copy(drecords), device_copy(dshared), g.router_there, dx_there,
                                      drouter_there));
    host_gate_backward(&g.dims, balance, g.x, g.records, drows, drecords, dshared, g.router, dx, drouter,
                       make_work(&g.dims, OP_GATE_BACKWARD, c->tokens, 1, 1));
    // All products and sums are f32 on both sides: some hundred terms in another order, results rounded once.
    double tolerance = 2 * rounding(dtype) + 512 * rounding(DTYPE_F32);
    expect_near(dx_there, dx, c->tokens * c->hidden, tolerance, "gate_backward, dx");
    expect_near(drouter_there, drouter, elements, tolerance, "gate_backward, drouter");
    device_finish();
}

Test(kernels_cuda, gate_backward)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        for (size_t i = 0; i < COUNT_OF(gate_cases); i++) {
            gate_backward_both(&gate_cases[i], dtypes[d], 0, false);
            gate_backward_both(&gate_cases[i], dtypes[d], 0.5f, true);
        }
    }
}
