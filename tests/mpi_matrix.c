// The matrix of unit/test_matrix.c under MPI: every strategy on clusters of eight ranks, each plan run by eight
// processes and, on rank 0, by threads; final hidden states must be the same bit for bit, and pass the check against
// the reference. Messages are cut into small pieces. Started with eight ranks by e2e/test_mpi.sh; the argument is n
// to run every n-th combination. Rank 0 prints how many there were.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ir/verify/verify.h"
#include "runtime/comm/comm_mpi.h"
#include "runtime/job/job.h"
#include "unit/lowered.h"
#include "unit/specs.h"

enum { RANKS = 8, CHUNK_BYTES = 1000 };

typedef struct {
    Comm *comm;
    uint64_t rank;
    uint32_t stride, counter, ran;
} Matrix;

static void report(void *context, const Fault *cause)
{
    (void)context;
    fprintf(stderr, "test: rank %d: %s\n", (int)cause->rank, cause->message);
}

static _Noreturn void end(FaultKind kind, bool all)
{
    if (all)
        mpi_end_all((int)kind);
    _exit((int)kind);
}

static void must(Matrix *matrix, bool ok, Fault *fault, const char *name, const char *what)
{
    if (ok)
        return;
    Fault named = {0};
    fault_set(&named, FAULT_MISMATCH, "%s: %s %s", name, what, fault->message);
    named.rank = (int64_t)matrix->rank;
    mpi_world_ops.place(matrix->comm, NULL);
    matrix->comm->ops->abort(matrix->comm, &named);
}

// FNV-1a of 64 bits, in two numbers that a double holds exactly.
static void digest(const void *data, size_t bytes, double out[2])
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    out[0] = (double)(hash >> 32);
    out[1] = (double)(uint32_t)hash;
}

static void run_plan(Matrix *matrix, const Plan *plan, Routing routing, const char *name)
{
    size_t bytes = model_tokens(&plan->model) * plan->model.hidden * dtype_bytes(plan->model.dtype);
    double digests[RANKS][2] = {{0}}, of_threads[2];
    JobResult result, threads;
    Fault fault = {0};
    JobOptions options = job_options_default();
    options.iterations = 1;
    options.warmup = 0;
    options.seed = 5;
    options.routing = routing;
    options.check = options.keep_outputs = true;
    mpi_world_ops.place(matrix->comm, &plan->cluster);
    options.comm = matrix->comm;
    must(matrix, job_run(plan, &options, &result, &fault), &fault, name, "under MPI");
    must(matrix, result.check.pass, &fault, name, "the check failed");
    digest(result.outputs, bytes, digests[matrix->rank]);
    bool summed = options.comm->ops->all_reduce_sum(options.comm, digests[0], 2 * RANKS, &fault);
    must(matrix, summed, &fault, name, "the digests");
    if (matrix->rank == 0) {
        options.comm = NULL;
        must(matrix, job_run(plan, &options, &threads, &fault), &fault, name, "with threads");
        for (int r = 0; r < RANKS; r++) {
            digest((char *)threads.outputs + (size_t)r * bytes, bytes, of_threads);
            must(matrix, of_threads[0] == digests[r][0] && of_threads[1] == digests[r][1], &fault, name,
                 "hidden states differ from those of threads");
        }
        must(matrix, threads.loss[0] == result.loss[0], &fault, name, "the loss differs from that of threads");
        job_result_free(&threads);
    }
    job_result_free(&result);
    matrix->ran++;
}

static void run_group(Matrix *matrix, Spec *spec, Routing routing)
{
    Arena *arena = arena_create();
    for (int d = 0; d < DISPATCH_COUNT; d++) {
        Candidate *candidates;
        size_t count;
        spec->plan.dispatch = (Dispatch)d;
        const Workload *work = workload_derive(spec, arena);
        if (!planner_enumerate(work, arena, diag_create(arena), &candidates, &count))
            abort();
        for (size_t c = 0; c < count; c++) {
            if (matrix->counter++ % matrix->stride != 0)
                continue;
            char name[160], domain[96];
            snprintf(name, sizeof(name), "%s top_k=%u routing %d, %s", dispatch_name((Dispatch)d), spec->model.top_k,
                     (int)routing, config_format(&spec->cluster, &candidates[c].config, domain, sizeof(domain)));
            Plan *plan = lowered_plan(spec, work, &candidates[c]);
            Fault fault = {0};
            VerifyReport verdict;
            must(matrix, plan && plan_verify(plan, &verdict), &fault, name, "the plan is not valid");
            run_plan(matrix, plan, routing, name);
            plan_destroy(plan);
        }
    }
    arena_destroy(arena);
}

int main(int argc, char **argv)
{
    static const uint32_t clusters[][3] = {{1, 8, 0}, {8, 1, 0}, {2, 4, 0}, {4, 2, 0}, {2, 2, 2}};
    Fault fault = {0};
    WorldOptions options = {.timeout_s = 20, .chunk_bytes = CHUNK_BYTES, .report = report, .end = end};
    Matrix matrix = {.stride = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1};
    matrix.comm = mpi_world_ops.create(&options, &fault);
    if (!matrix.comm || matrix.stride == 0)
        return 1;
    matrix.rank = matrix.comm->rank;
    must(&matrix, matrix.comm->size == RANKS, &fault, "the matrix", "is for eight ranks");
    for (size_t c = 0; c < COUNT_OF(clusters); c++)
        for (uint32_t top_k = 1; top_k <= 4; top_k *= 2)
            for (int routing = 0; routing < ROUTING_COUNT; routing++) {
                Spec spec = spec_small_gpt(clusters[c], 2 * RANKS, top_k);
                run_group(&matrix, &spec, (Routing)routing);
            }
    if (matrix.rank == 0)
        printf("%u plans\n", matrix.ran);
    mpi_world_ops.destroy(matrix.comm);
    return 0;
}
