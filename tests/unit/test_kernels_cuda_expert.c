// Routed experts on CUDA and their gradients against their host twins, by both kernels: experts without rows, one row,
// all rows to one expert, more rows than a tile holds, sizes that fill no tile. In the emulation this checks the
// kernels' logic.
// builds: dev  seconds: 18
#include "cuda_tensors.h"
#include "engines/cuda_step.h"

typedef struct {
    uint32_t hidden, inner, experts, held, records, fanout;
    uint64_t rows, spare;
    Activation activation;
    int32_t only; // the one expert of all records; -1: any
    bool absent;  // some records name experts that are not held
    bool counted;
} ExpertCase;

static const ExpertCase cases[] = {
    {16, 24, 4, 4, 2, 1, 9, 3, ACTIVATION_GELU, -1, false, true},
    {40, 72, 3, 3, 1, 2, 20, 0, ACTIVATION_SWIGLU, -1, false, false},
    {35, 77, 5, 5, 2, 1, 31, 1, ACTIVATION_SWIGLU, -1, false, true},     // nothing is a multiple of a vector
    {32, 48, 4, 4, 1, 1, 300, 0, ACTIVATION_RELU, 2, false, false},      // several tiles of one expert, none of others
    {24, 160, 6, 3, 2, 1, 40, 2, ACTIVATION_GELU, -1, true, true},       // more columns than a tile
    {72, 296, 3, 3, 1, 1, 150, 0, ACTIVATION_SWIGLU, -1, false, false},  // more of the depth than all stages hold
    {264, 72, 2, 2, 1, 1, 140, 4, ACTIVATION_GELU, 1, false, true},      // more columns than the largest tile
    {16, 136, 20, 20, 1, 1, 90, 0, ACTIVATION_SWIGLU, -1, false, false}, // more tiles than a band
    {8, 8, 2, 2, 1, 1, 1, 0, ACTIVATION_SWIGLU, -1, false, false},
    {8, 8, 2, 2, 1, 1, 0, 4, ACTIVATION_GELU, -1, false, true},
};

typedef struct {
    ModelDims dims;
    CudaRows present;
    uint64_t record_rows, pairs;
    int32_t *slots;
    const int32_t *slots_there;
    Tensor rows, records, experts, rows_there, records_there, experts_there;
} Operands;

static Operands make_step(const ExpertCase *c, Dtype dtype)
{
    Operands s = {.record_rows = c->rows * c->fanout, .pairs = c->rows * c->fanout * c->records};
    uint64_t capacity = c->rows + c->spare;
    s.dims = (ModelDims){.dtype = dtype,
                         .hidden = c->hidden,
                         .inner = c->inner,
                         .experts = c->experts,
                         .top_k = c->records * c->fanout,
                         .activation = c->activation};
    s.slots = make(DTYPE_I32, 1, c->experts).data;
    for (uint32_t e = 0; e < c->experts; e++)
        s.slots[e] = e < c->held ? (int32_t)(c->held - 1 - e) : -1;
    s.slots_there = device_table(s.slots, c->experts);
    s.rows = make_random(dtype, capacity, c->hidden, 1);
    s.records = make(DTYPE_I32, capacity * c->fanout, 2 * c->records);
    for (uint64_t i = 0; i < s.pairs; i++) {
        int32_t expert = (int32_t)(random_unit() * (c->absent ? c->experts : c->held));
        bool is_padding = c->only < 0 && random_unit() < 0.2;
        expert = c->only >= 0 ? c->only : expert;
        ((Record *)s.records.data)[i] = (Record){is_padding ? -1 : expert, is_padding ? 0 : (float)random_unit()};
    }
    // Sums of `hidden` and `inner` products that stay near 1.
    s.experts = make_random(dtype, c->held, model_expert_elements(&s.dims), 1 / sqrt(c->hidden));
    const int32_t counts[3] = {0, (int32_t)(s.record_rows / 2), (int32_t)(s.record_rows - s.record_rows / 2)};
    s.present = c->counted ? (CudaRows){.counts = device_table(counts, 3), .members = 3, .rows = capacity * c->fanout}
                           : (CudaRows){.rows = s.record_rows};
    s.rows_there = device_copy(s.rows);
    s.records_there = device_copy(s.records);
    s.experts_there = device_copy(s.experts);
    return s;
}

// The host keeps the inner dimension in f32. Here it is rounded to the weights' dtype up to three times on the way (up
// or activation, result, sum), each error one rounding of terms of which at least one in `inner` is as large as the
// largest result; errors of different terms have different signs, so their sum grows with the root of their number.
static double expert_tolerance(const ExpertCase *c, Dtype dtype)
{
    double products = sqrt((double)(c->hidden + c->inner)) * rounding(DTYPE_F32);
    return 8 * rounding(dtype) + 16 * products;
}

// Whether `queue` multiplies by the kernel asked for; false: not on this device.
static bool take_kernel(const CudaQueue *queue, bool warp_groups)
{
#ifndef HEP_ON_DEVICE
    cr_assert(queue->warp_groups); // else nothing of it is tested
#endif
    if (warp_groups && !queue->warp_groups) {
        device_finish();
        return false;
    }
    running.queue.warp_groups = warp_groups;
    return true;
}

// Pairs that name no expert.
static uint64_t padding(const Operands *s)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < s->pairs; i++)
        count += ((const Record *)s->records.data)[i].expert < 0;
    return count;
}

// Pairs whose expert is held.
static uint64_t held_pairs(const Operands *s)
{
    uint64_t held = 0;
    for (uint64_t i = 0; i < s->pairs; i++) {
        int32_t expert = ((const Record *)s->records.data)[i].expert;
        held += expert >= 0 && s->slots[expert] >= 0;
    }
    return held;
}

static void forward_both(const ExpertCase *c, Dtype dtype, bool warp_groups)
{
    Operands s = make_step(c, dtype);
    uint64_t *lost_there = device_counter();
    Tensor results = make(dtype, s.rows.rows, c->hidden), results_there = device_like(results);
    StepTensors operands = {.expert = {.rows = s.rows, .records = s.records, .experts = s.experts, .results = results}};
    CudaSlots slots = {s.slots_there, held_pairs(&s)}; // there is room for these alone
    const CudaQueue *q = device_queue(cuda_op_scratch(&s.dims, OP_EXPERT, &operands, slots.held_records));
    if (!take_kernel(q, warp_groups))
        return;
    uint64_t lost = host_expert(&s.dims, s.slots, s.record_rows, c->fanout, s.rows, s.records, s.experts, results,
                                make_work(&s.dims, OP_EXPERT, s.rows.rows, c->records, c->fanout));
    EXPECT_SUCCESS(cuda_expert(q, &s.dims, slots, s.present, c->fanout, s.rows_there, s.records_there, s.experts_there,
                               results_there, lost_there));
    cr_assert_eq(counter_value(lost_there), lost);
    cr_assert((lost > 0) == c->absent);
    expect_near(results_there, results, c->rows * c->hidden, expert_tolerance(c, dtype), "expert");
    device_finish();
}

Test(kernels_cuda, expert)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        for (size_t i = 0; i < COUNT_OF(cases); i++)
            forward_both(&cases[i], dtypes[d], false);
}

Test(kernels_cuda, expert_warp_groups)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        for (size_t i = 0; i < COUNT_OF(cases) && dtypes[d] != DTYPE_F32; i++)
            forward_both(&cases[i], dtypes[d], true);
}

static void backward_both(const ExpertCase *c, Dtype dtype, bool warp_groups)
{
    Operands s = make_step(c, dtype);
    uint64_t *lost_there = device_counter();
    Tensor dresults = make_random(dtype, s.rows.rows, c->hidden, 1), drows = make(dtype, s.rows.rows, c->hidden);
    Tensor drecords = make(DTYPE_F32, s.records.rows, c->records), drecords_there = device_like(drecords);
    Tensor dexperts = make(dtype, s.experts.rows, s.experts.cols), dexperts_there = device_like(dexperts);
    Tensor drows_there = device_like(drows);
    StepTensors operands = {.expert_backward = {.rows = s.rows,
                                                .records = s.records,
                                                .experts = s.experts,
                                                .dresults = dresults,
                                                .drows = drows,
                                                .drecords = drecords,
                                                .dexperts = dexperts}};
    CudaSlots slots = {s.slots_there, held_pairs(&s)};
    const CudaQueue *q = device_queue(cuda_op_scratch(&s.dims, OP_EXPERT_BACKWARD, &operands, slots.held_records));
    if (!take_kernel(q, warp_groups))
        return;
    uint64_t lost = host_expert_backward(&s.dims, s.slots, s.record_rows, c->fanout, s.rows, s.records, s.experts,
                                         dresults, drows, drecords, dexperts,
                                         make_work(&s.dims, OP_EXPERT_BACKWARD, s.rows.rows, c->records, c->fanout));
    EXPECT_SUCCESS(cuda_expert_backward(q, &s.dims, slots, s.present, c->fanout, s.rows_there, s.records_there,
                                        s.experts_there, device_copy(dresults), drows_there, drecords_there,
                                        dexperts_there, lost_there));
    cr_assert_eq(counter_value(lost_there), lost);
    double tolerance = 2 * expert_tolerance(c, dtype); // twice as many roundings on the way
    expect_near(drows_there, drows, c->rows * c->hidden, tolerance, "expert_backward, drows");
    expect_near(drecords_there, drecords, s.pairs, tolerance, "expert_backward, drecords");
    expect_near(dexperts_there, dexperts, dexperts.rows * dexperts.cols, tolerance, "expert_backward, dexperts");
    device_finish();
}

Test(kernels_cuda, expert_backward)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        for (size_t i = 0; i < COUNT_OF(cases); i++)
            backward_both(&cases[i], dtypes[d], false);
}

Test(kernels_cuda, expert_backward_warp_groups)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        for (size_t i = 0; i < COUNT_OF(cases) && dtypes[d] != DTYPE_F32; i++)
            backward_both(&cases[i], dtypes[d], true);
}

// More pairs than were said to be there are lost, and counted; the others are computed, forward and backward.
Test(kernels_cuda, expert_pairs_beyond_the_most)
{
    enum { TOO_MANY = 3 };
    const ExpertCase *c = &cases[0];
    Operands s = make_step(c, DTYPE_F32);
    uint64_t *lost_there = device_counter(), most = held_pairs(&s) - TOO_MANY;
    Tensor results_there = device_like(s.rows),
           drecords_there = device_like(make(DTYPE_F32, s.records.rows, c->records));
    Tensor drows_there = device_like(s.rows), dexperts_there = device_like(s.experts);
    StepTensors operands = {.expert_backward = {.rows = s.rows, .records = s.records, .experts = s.experts}};
    const CudaQueue *q = device_queue(cuda_op_scratch(&s.dims, OP_EXPERT_BACKWARD, &operands, most));
    CudaSlots slots = {s.slots_there, most};
    EXPECT_SUCCESS(cuda_expert(q, &s.dims, slots, s.present, c->fanout, s.rows_there, s.records_there, s.experts_there,
                               results_there, lost_there));
    cr_assert_eq(counter_value(lost_there), s.pairs - most - padding(&s));
    EXPECT_SUCCESS(cuda_expert_backward(q, &s.dims, slots, s.present, c->fanout, s.rows_there, s.records_there,
                                        s.experts_there, device_copy(s.rows), drows_there, drecords_there,
                                        dexperts_there, lost_there));
    cr_assert_eq(counter_value(lost_there), 2 * (s.pairs - most - padding(&s)));
    device_finish();
}

// Of several processes that ask, each is told what it found out itself.
static CudaExpertKernel chosen_kernel(const char *wanted)
{
    CudaExpertKernel kernel;
    if (wanted)
        setenv("HEP_EXPERT_KERNEL", wanted, true);
    else
        unsetenv("HEP_EXPERT_KERNEL");
    EXPECT_SUCCESS(cuda_expert_kernel(&kernel));
    cr_assert_eq(kernel.warp_groups, !kernel.refusal);
    return kernel;
}

Test(kernels_cuda, expert_kernels_agree)
{
    CudaExpertKernel kernel = chosen_kernel(NULL);
#ifdef HEP_ON_DEVICE
    cr_assert(!kernel.refusal || strncmp(kernel.refusal, "wgmma and wmma differ", 21) != 0, "%s", kernel.refusal);
#else
    cr_assert(kernel.warp_groups, "%s", kernel.refusal);
#endif
    cr_assert_eq(device_queue(0)->warp_groups, kernel.warp_groups); // decided once
    device_queue_end();
}

Test(kernels_cuda, expert_kernel_by_name)
{
    CudaExpertKernel kernel = chosen_kernel("wmma");
    cr_assert(!kernel.warp_groups);
    cr_assert(!device_queue(0)->warp_groups);
    device_queue_end();
}

#ifndef HEP_ON_DEVICE
Test(kernels_cuda, wrong_expert_kernel_is_refused)
{
    setenv("HEP_EMULATION_WRONG_PRODUCTS", "1", true);
    CudaExpertKernel kernel = chosen_kernel(NULL);
    cr_assert(!kernel.warp_groups);
    cr_assert_eq(strncmp(kernel.refusal, "wgmma and wmma differ (rows, f16, element ", 42), 0, "%s", kernel.refusal);
    cr_assert(!device_queue(0)->warp_groups);
    device_queue_end();
}
#endif
