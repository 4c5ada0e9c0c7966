// What engines take of memory besides a plan's buffers, against figures made by hand: the pieces of CUDA scratch, where
// the parts of an engine's memory lie, what libraries take, sizes beyond any memory. That kernels take exactly their
// pieces is for test_kernels*.c and the emulated ones.
#include <criterion/criterion.h>

#include "engines/cuda_scratch.h"
#include "engines/cuda_step.h"
#include "engines/engine_memory.h"
#include "engines/host_scratch.h"
#include "engines/saturating.h"
#include "engines/sums.h"
#include "plans.h"

static Tensor shape(uint64_t rows, uint64_t cols)
{
    return (Tensor){.dtype = DTYPE_F32, .rows = rows, .cols = cols};
}

// Every piece starts at a multiple of 256 bytes.
Test(engines, cuda_scratch_by_hand)
{
    ModelDims dims = {.dtype = DTYPE_F32, .hidden = 64, .ffn_inner = 256, .top_k = 2, .experts = 8, .inner = 32};
    dims.activation = ACTIVATION_GELU;
    // 100 rows of 64 floats, normed, and of 256, activated
    StepTensors ffn = {.ffn = {.x = shape(100, 64), .dense = shape(1, 1), .y = shape(100, 64)}};
    cr_assert_eq(cuda_op_scratch(&dims, OP_FFN, &ffn, 1), 25600 + 102400);
    // besides, what both matrices get, as much again for two gradients; gradients of the rows in f32; of the norm, two
    // moments a row and two chunks of 64 rows with gain and bias
    StepTensors back = {.ffn_backward = {.x = shape(100, 64), .dense = shape(1, 1)}};
    cr_assert_eq(cuda_op_scratch(&dims, OP_FFN_BACKWARD, &back, 1),
                 25600 + 3 * 102400 + 25600 + (800 + 224) + 2 * 2 * 64 * 4);
    // a million items in blocks of 256, each with a counter for 64 members; the members' sums and where they begin
    StepTensors route = {.route = {.records = shape(1000000, 2)}};
    cr_assert_eq(cuda_op_scratch(&dims, OP_ROUTE, &route, 64), 3907 * 64 * 4 + 256 + 512);
    // a list of at most top_k places for 100 rows, and how long it is
    StepTensors unroute = {.unroute = {.rows = shape(100, 64)}};
    cr_assert_eq(cuda_op_scratch(&dims, OP_UNROUTE, &unroute, 64), 512 + 1024);
    // 100 records of two experts each in a block of 256, of which 30 pairs name one of four that are held: counters of
    // a block, of all and where they begin; pair and row of each place, the place of each pair; where tiles begin, and
    // four of them; 32 activated and 64 results of each place
    StepTensors expert = {.expert = {.records = shape(100, 4), .experts = shape(4, 1)}};
    cr_assert_eq(cuda_op_scratch(&dims, OP_EXPERT, &expert, 30), 3 * 256 + 2 * 256 + 1024 + 2 * 256 + 3840 + 7680);
    cr_assert_eq(cuda_op_scratch(&dims, OP_EXPERT, &expert, 1000), // all 200 pairs
                 3 * 256 + 3 * 1024 + 2 * 256 + 25600 + 51200);
    StepTensors none = {.residual = {.x = shape(100, 64)}};
    cr_assert_eq(cuda_op_scratch(&dims, OP_RESIDUAL, &none, 64), 0);
}

Test(engines, sums_receive_the_others_parts)
{
    cr_assert_eq(sums_scatter_scratch(4, 1000, DTYPE_BF16), 3 * 2000);
    cr_assert_eq(sums_reduce_scratch(4, 1002, DTYPE_F32), 3 * 251 * 4); // the largest part is rounded up
    cr_assert_eq(sums_reduce_scratch(1, 1000, DTYPE_F32), 0);
}

static uint64_t expect_part(MemoryPart part, uint64_t begin)
{
    cr_assert_eq(part.offset, begin);
    cr_assert_eq(part.bytes % BUFFER_ALIGNMENT, 0);
    return begin + part.bytes;
}

Test(engines, parts_follow_each_other)
{
    Plan *plan = plan_of_four_ranks();
    HostMemory host;
    host_memory_lay_out(plan, &host);
    uint64_t at = (plan->arena_bytes + 255) / 256 * 256, most = 0;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        uint64_t elements = host_step_scratch(plan, &plan->steps[s]);
        most = elements > most ? elements : most;
    }
    cr_assert_gt(most, 0);
    cr_assert_eq(host.scratch[STREAM_COMPUTE].bytes, (4 * most + 255) / 256 * 256);
    for (int s = 0; s < STREAM_COUNT; s++)
        at = expect_part(host.scratch[s], at);
    at = expect_part(host.sums[0], at);
    cr_assert_eq(expect_part(host.sums[1], at), host.total);
    cr_assert_eq(engine_own_bytes(plan, ENGINE_HOST), host.total - plan->arena_bytes);

    CudaMemory cuda;
    cuda_memory_lay_out(plan, true, &cuda);
    at = (plan->arena_bytes + 255) / 256 * 256;
    for (int s = 0; s < STREAM_COUNT; s++)
        at = expect_part(cuda.queues[s], at);
    cr_assert_geq(cuda.queues[STREAM_COMPUTE].bytes, 32 << 20, "cuBLAS's workspace is part of it");
    const MemoryPart parts[] = {cuda.maps,    cuda.lost,  cuda.factors,      cuda.kept_counts, cuda.sums[0],
                                cuda.sums[1], cuda.parts, cuda.kept_records, cuda.kept_x};
    for (size_t p = 0; p < COUNT_OF(parts); p++)
        at = expect_part(parts[p], at);
    cr_assert_eq(at, cuda.total);
    cr_assert_eq(cuda.lost.bytes, 256, "eleven counters of 8 bytes");
    cr_assert_eq(cuda.kept_records.bytes, 256, "two tokens with a record of 8 bytes");
    plan_destroy(plan);
}

// Rows go and return in one group of two, experts are gathered in another, of another stream.
Test(engines, libraries_take_memory_of_their_own)
{
    Plan *plan = plan_of_four_ranks();
    CudaMemory cuda;
    cuda_memory_lay_out(plan, false, &cuda);
    cr_assert_eq(cuda.kept_records.bytes + cuda.kept_x.bytes, 0);
    cr_assert_eq(engine_library_bytes(plan, ENGINE_HOST), 0);
    cr_assert_eq(engine_library_bytes(plan, ENGINE_CUDA), 2 * (4 << 20));
    cr_assert_eq(engine_own_bytes(plan, ENGINE_CUDA), cuda.total - plan->arena_bytes + 2 * (4 << 20));
    plan->model.abstract = true;
    cr_assert_eq(engine_own_bytes(plan, ENGINE_CUDA), 0);
    plan_destroy(plan);
}

Test(engines, what_no_memory_holds_stays_large)
{
    ModelDims dims = {.dtype = DTYPE_BF16,
                      .hidden = 1000000,
                      .heads = 65536,
                      .kv_heads = 65536,
                      .head_dim = 65536,
                      .vocabulary = 100000000,
                      .sequence = 100000000,
                      .batch = 1000000,
                      .ffn_inner = 100000000,
                      .experts = 1000000,
                      .top_k = 1024,
                      .inner = 100000000,
                      .shared_experts = 10000};
    Tensor huge = shape(UINT64_MAX, UINT64_MAX);
    StepTensors operands;
    for (uint32_t o = 0; o < OPERANDS_MAX; o++)
        operands.all[o] = huge;
    static const Op ops[] = {OP_PRE_EXPERT, OP_FFN,           OP_GATE,          OP_ROUTE,
                             OP_UNROUTE,    OP_SHARED_EXPERT, OP_LOSS_BACKWARD, OP_EXPERT_BACKWARD};
    for (size_t i = 0; i < COUNT_OF(ops); i++)
        cr_assert_eq(cuda_op_scratch(&dims, ops[i], &operands, UINT64_MAX), SATURATED, "%s",
                     op_info((int)ops[i])->name);
    Plan *plan = plan_of_four_ranks();
    plan->arena_bytes = UINT64_MAX - 1;
    HostMemory host;
    host_memory_lay_out(plan, &host);
    cr_assert_eq(host.total, SATURATED);
    cr_assert_eq(engine_own_bytes(plan, ENGINE_HOST), SATURATED);
    cr_assert_eq(engine_own_bytes(plan, ENGINE_CUDA), SATURATED);
    plan_destroy(plan);
}
