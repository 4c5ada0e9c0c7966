// Ranks that are processes, each with libhep: library_ranks mpi|tcp|tcp_at PLAN TIMEOUT [absent|dies]. Says of its rank
// whether it was right. With `absent` the last rank makes a communicator and no context; with `dies` it ends then.
#ifdef HEP_HAVE_MPI
#include <mpi.h>
#endif
#include <unistd.h>

#include "unit/moe_worker.h"

enum { RANKS_MAX = 8 };

static const int some_tokens[RANKS_MAX] = {5, 0, 7, 3, 16, 1, 0, 8};

static MoeCase case_of(const hep_plan *plan)
{
    hep_facts facts = {.struct_bytes = sizeof(facts)};
    hep_layer layer = {.struct_bytes = sizeof(layer)};
    MoeCase of = {.layers = MOE_WORKER_LAYERS, .micro_batches = 1, .once = 2, .tokens = some_tokens, .tolerance = 1e-5};
    if (hep_plan_facts(plan, &facts) != HEP_OK || hep_plan_layer(plan, 0, &layer) != HEP_OK || facts.ranks > RANKS_MAX)
        exit(3);
    of.levels = facts.levels;
    of.hidden = facts.hidden;
    of.inner = facts.inner;
    of.experts = facts.experts;
    of.top_k = facts.top_k;
    of.training = facts.training;
    of.naive = facts.dispatch == HEP_NAIVE;
    if (facts.padded)
        of.capacity = (int)ceil(facts.capacity * MOE_TOKENS_MAX * facts.top_k / facts.experts);
    for (int l = 0; l < facts.levels; l++) {
        hep_level level = {.struct_bytes = sizeof(level)};
        if (hep_plan_level(plan, l, &level) != HEP_OK)
            exit(3);
        of.counts[l] = level.count;
        of.domain[l] = layer.domain[l];
    }
    return of;
}

static void answer(MoeWorker *worker, const MoeCase *of)
{
    worker->rank.of = of;
    for (int k = 0; k < MOE_WORKER_LAYERS; k++) {
        worker->dup[k] = calloc((size_t)of->experts * MOE_WORKER_ELEMENTS, sizeof(double));
        worker->ddown[k] = calloc((size_t)of->experts * MOE_WORKER_ELEMENTS, sizeof(double));
        for (int r = 0; r < moe_ranks(of); r++) {
            MoeAnswer of_rank = moe_answer(of, k, 0, r, worker->dup[k], worker->ddown[k]);
            if (r == worker->rank.rank)
                worker->answers[k][0] = of_rank;
            else
                moe_answer_free(&of_rank);
        }
    }
}

static hep_status connect_ranks(const char *how, const hep_comm_options *options, MoeWorker *worker)
{
    if (strcmp(how, "tcp") == 0) {
        worker->rank.rank = atoi(getenv("RANK"));
        return hep_comm_tcp(options, &worker->comm);
    }
    if (strcmp(how, "tcp_at") == 0) {
        uint8_t secret[32] = {42};
        worker->rank.rank = atoi(getenv("RANK"));
        return hep_comm_tcp_at(worker->rank.rank, atoi(getenv("WORLD_SIZE")), "127.0.0.1", atoi(getenv("MASTER_PORT")),
                               secret, options, &worker->comm);
    }
#ifdef HEP_HAVE_MPI
    int provided;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &worker->rank.rank);
    return hep_comm_mpi(MPI_Comm_c2f(MPI_COMM_WORLD), options, &worker->comm);
#else
    return HEP_UNSUPPORTED;
#endif
}

int main(int argc, char *argv[])
{
    static MoeWorker worker;
    if (argc < 4 || hep_plan_read(argv[2], &worker.plan) != HEP_OK)
        return 2;
    hep_comm_options options = {.struct_bytes = sizeof(options), .device = -1, .timeout_s = atof(argv[3])};
    MoeCase of = case_of(worker.plan);
    bool right = moe_ok(&worker.rank, connect_ranks(argv[1], &options, &worker), "communicator");
    bool last = argc > 4 && worker.rank.rank + 1 == moe_ranks(&of);
    answer(&worker, &of);
    if (last && strcmp(argv[4], "dies") == 0)
        _exit(0);
    if (last && right)
        sleep((unsigned)options.timeout_s + 2);
    else if (right)
        (void)moe_worker_run(&worker);
    right = right && !worker.rank.problem[0];
    printf("rank %d: %s\n", worker.rank.rank, right ? "right" : worker.rank.problem);
    hep_plan_free(worker.plan);
#ifdef HEP_HAVE_MPI
    if (strcmp(argv[1], "mpi") == 0)
        MPI_Finalize();
#endif
    return 0;
}
