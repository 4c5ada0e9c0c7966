// Ranks that are processes, each with libhep over MPI: library_mpi PLAN TIMEOUT [absent]. Prints, on rank 0, how many
// ranks were right. With `absent` the last rank does not come to the second layer.
#include <mpi.h>

#include "unit/moe_worker.h"

enum { RANKS_MAX = 8 };

static const int some_tokens[RANKS_MAX] = {5, 0, 7, 3, 16, 1, 0, 8};

static MoeCase case_of(const hep_plan *plan)
{
    hep_facts facts = {.struct_bytes = sizeof(facts)};
    hep_layer layer = {.struct_bytes = sizeof(layer)};
    MoeCase of = {.layers = MOE_WORKER_LAYERS, .micro_batches = 1, .once = 2, .tokens = some_tokens, .tolerance = 1e-5};
    if (hep_plan_facts(plan, &facts) != HEP_OK || hep_plan_layer(plan, 0, &layer) != HEP_OK)
        exit(3);
    of.levels = facts.levels;
    of.hidden = facts.hidden;
    of.inner = facts.inner;
    of.experts = facts.experts;
    of.top_k = facts.top_k;
    of.training = facts.training;
    of.naive = facts.dispatch == HEP_NAIVE;
    for (int l = 0; l < facts.levels; l++) {
        hep_level level = {.struct_bytes = sizeof(level)};
        if (hep_plan_level(plan, l, &level) != HEP_OK)
            exit(3);
        of.counts[l] = level.count;
        of.domain[l] = layer.domain[l];
    }
    return of;
}

int main(int argc, char *argv[])
{
    int provided, rank, ranks;
    hep_plan *plan;
    hep_comm *comm = NULL;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (argc < 3 || hep_plan_read(argv[1], &plan) != HEP_OK)
        return 2;
    hep_comm_options options = {.struct_bytes = sizeof(options), .device = -1, .timeout_s = atof(argv[2])};
    MoeCase of = case_of(plan);
    static MoeWorker worker;
    worker.rank.of = &of;
    worker.rank.rank = rank;
    worker.plan = plan;
    for (int k = 0; k < MOE_WORKER_LAYERS; k++) {
        worker.dup[k] = calloc((size_t)of.experts * MOE_WORKER_ELEMENTS, sizeof(double));
        worker.ddown[k] = calloc((size_t)of.experts * MOE_WORKER_ELEMENTS, sizeof(double));
        for (int r = 0; r < ranks; r++) {
            MoeAnswer answer = moe_answer(&of, k, 0, r, worker.dup[k], worker.ddown[k]);
            if (r == rank)
                worker.answers[k][0] = answer;
            else
                moe_answer_free(&answer);
        }
    }
    hep_status status = hep_comm_mpi(MPI_Comm_c2f(MPI_COMM_WORLD), &options, &worker.comm);
    comm = worker.comm;
    if (status == HEP_OK && (argc < 4 || rank + 1 < ranks))
        (void)moe_worker_run(&worker);
    int right = status == HEP_OK && comm && !worker.rank.problem[0], all = 0;
    if (!right)
        fprintf(stderr, "rank %d: %s\n", rank, worker.rank.problem);
    MPI_Reduce(&right, &all, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("%d of %d ranks are right\n", all, ranks);
    hep_plan_free(plan);
    MPI_Finalize();
    return 0;
}
