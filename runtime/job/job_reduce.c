// How the ranks of a job make its result together: every function here is collective, and gives the whole result to
// the first rank of every process.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/plan_facts.h"
#include "runtime/job/job_internal.h"

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static bool rank_reduce_steps(Rank *rank)
{
    Job *job = rank->job;
    uint32_t kept = rank->measured < job->sample_count ? rank->measured : job->sample_count;
    for (uint32_t s = 0; s < job->plan->step_count; s++) {
        float *samples = rank->samples + (size_t)s * job->sample_count;
        qsort(samples, kept, sizeof(*samples), compare_floats);
        rank->step_s[s] = samples[kept / 2];
        rank->exposed_s[s] /= rank->measured;
    }
    return rank->comm->ops->all_reduce_max(rank->comm, rank->step_s, 2 * job->plan->step_count, &rank->fault);
}

static bool rank_reduce_choices(Rank *rank)
{
    Job *job = rank->job;
    size_t count = histogram_count(job->plan);
    if (!rank->histogram)
        return true;
    if (!rank->comm->ops->all_reduce_sum(rank->comm, rank->histogram, (uint32_t)count, &rank->fault))
        return false;
    if (rank_is_first(rank))
        memcpy(job->result->histogram, rank->histogram, count * sizeof(*rank->histogram));
    return true;
}

// Ranks of one process write into one trace. Processes that leave others' parts at 0 share theirs by a maximum.
static bool rank_share_trace(Rank *rank)
{
    Job *job = rank->job;
    const JobOptions *options = job->options;
    const CommOps *comm = rank->comm->ops;
    uint32_t steps = job->plan->step_count;
    double before_s = -rank->start_s; // the largest is the earliest
    if (options->trace_count == 0)
        return true;
    if (rank->comm->machine_size == rank->comm->size && !comm->all_reduce_max(rank->comm, &before_s, 1, &rank->fault))
        return false;
    const StepTime *times = rank->last_times;
    for (uint32_t t = 0; t < options->trace_count; t++) {
        StepTime *trace = job->result->trace + (size_t)t * steps;
        for (uint32_t s = 0; options->trace_ranks[t] == rank->comm->rank && s < steps; s++)
            trace[s] = (StepTime){times[s].start_s + before_s, times[s].end_s + before_s};
    }
    _Static_assert(sizeof(StepTime) == 2 * sizeof(double), "a trace is reduced as an array of numbers");
    for (uint32_t t = 0; options->comm && t < options->trace_count; t++)
        if (!comm->all_reduce_max(rank->comm, &job->result->trace[(size_t)t * steps].start_s, 2 * steps, &rank->fault))
            return false;
    return true;
}

typedef enum { MEAN, MAX, PLANNED } Reduction;

// In the order of measures.def.
static const Reduction reductions[] = {
#define HEP_TRAFFIC(key, column, REDUCTION, value) REDUCTION,
#include "runtime/comm/measures.def"
};
enum { MEASURES = COUNT_OF(reductions) };
_Static_assert(sizeof(JobTraffic) == MEASURES * sizeof(double), "traffic is reduced as an array of numbers");

// `plan`: what was expected of the level.
static bool rank_reduce_level(Rank *rank, uint32_t level, const Traffic *plan)
{
    Job *job = rank->job;
    const CommOps *comm = rank->comm->ops;
    const CommTraffic *own = &rank->traffic[level];
    const double values[MEASURES] = {
#define HEP_TRAFFIC(key, column, REDUCTION, value) (double)(value),
#include "runtime/comm/measures.def"
    };
    double sums[MEASURES], most[MEASURES], iterations = rank->measured, out[MEASURES];
    memcpy(sums, values, sizeof(sums));
    memcpy(most, values, sizeof(most));
    if (!comm->all_reduce_sum(rank->comm, sums, MEASURES, &rank->fault) ||
        !comm->all_reduce_max(rank->comm, most, MEASURES, &rank->fault))
        return false;
    for (int m = 0; m < MEASURES; m++) {
        double mean = sums[m] / ((double)job->rank_count * iterations);
        out[m] = reductions[m] == PLANNED ? values[m] : reductions[m] == MAX ? most[m] / iterations : mean;
    }
    if (rank_is_first(rank))
        memcpy(&job->result->traffic[level], out, sizeof(out));
    return true;
}

static bool rank_reduce_traffic(Rank *rank)
{
    rank->comm->ops->traffic(rank->comm, rank->traffic, true);
    const Plan *plan = rank->job->plan;
    Traffic planned[LEVELS_MAX] = {0};
    if (plan->strategy_count > 0)
        memcpy(planned, plan->strategies[0].traffic, sizeof(planned));
    plan_add_whole_traffic(plan, (double)rank->measured_whole / rank->measured, planned);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        if (!rank_reduce_level(rank, l, &planned[l]))
            return false;
    return true;
}

static void fill_own_times(const Rank *rank, RankTimes *own)
{
    double iterations = rank->measured;
#define OWN(key, value)                              own->key = (value) / iterations;
#define PEERS(key, value)                            own->key = rank->comm->device ? NAN : own->key;
#define HEP_RANK_TIME(key, column, REDUCTION, value) REDUCTION(key, value)
#include "runtime/comm/measures.def"
#undef OWN
#undef PEERS
}

// What this rank measured of another one.
static void add_peer_times(const Rank *rank, uint64_t r, RankTimes *of)
{
    double shares = (double)rank->measured * (double)(rank->job->rank_count - 1);
#define OWN(key, value)
#define PEERS(key, value)                            of->key += (value) / shares;
#define HEP_RANK_TIME(key, column, REDUCTION, value) REDUCTION(key, value)
#include "runtime/comm/measures.def"
#undef OWN
#undef PEERS
}

// Ranks of one process write into one table; processes, each with a table of its own, share them by a sum.
static bool rank_share_times(Rank *rank)
{
    Job *job = rank->job;
    const CommOps *comm = rank->comm->ops;
    RankTimes *table = job->result->rank_times;
    comm->times(rank->comm, &rank->times, false);
    pthread_mutex_lock(&job->mutex);
    fill_own_times(rank, &table[rank->comm->rank]);
    for (uint64_t r = 0; r < job->rank_count && !rank->comm->device; r++)
        if (r != rank->comm->rank)
            add_peer_times(rank, r, &table[r]);
    pthread_mutex_unlock(&job->mutex);
    _Static_assert(sizeof(RankTimes) % sizeof(double) == 0, "times are reduced as an array of numbers");
    uint32_t count = (uint32_t)(job->rank_count * sizeof(RankTimes) / sizeof(double));
    return !job->options->comm || comm->all_reduce_sum(rank->comm, &table->compute_s, count, &rank->fault);
}

static bool rank_check(Rank *rank)
{
    Job *job = rank->job;
    const CommOps *comm = rank->comm->ops;
    if (rank_is_first(rank))
        atomic_store(&job->phase, JOB_CHECKING);
    EngineResult result = job->options->engine->result(rank->engine);
    CheckPart part;
    if (!check_rank(job->reference, job->plan, rank->comm->rank, &result, &part, &rank->fault))
        return false;
    double errors[] = {part.max_abs_error, part.loss_error, part.choice_excess, part.packed};
    double sums[] = {part.square_sum, part.element_count};
    if (!comm->all_reduce_max(rank->comm, errors, COUNT_OF(errors), &rank->fault) ||
        !comm->all_reduce_sum(rank->comm, sums, COUNT_OF(sums), &rank->fault))
        return false;
    CheckPart all = {.max_abs_error = errors[0],
                     .loss_error = errors[1],
                     .choice_excess = errors[2],
                     .packed = errors[3],
                     .square_sum = sums[0],
                     .element_count = sums[1]};
    if (rank_is_first(rank))
        job->result->check = check_conclude(job->plan, &all, job->options->routing == ROUTING_LEARNED);
    return true;
}

uint64_t output_bytes(const Plan *plan)
{
    return model_tokens(&plan->model) * plan->model.hidden * dtype_bytes(plan->model.dtype);
}

static void rank_keep_output(Rank *rank)
{
    EngineResult result = rank->job->options->engine->result(rank->engine);
    uint64_t bytes = output_bytes(rank->job->plan);
    if (result.x.data)
        memcpy((char *)rank->job->result->outputs + (size_t)(rank - rank->job->ranks) * bytes, result.x.data, bytes);
}

static void rank_share_dropped(const Rank *rank)
{
    const Job *job = rank->job;
    double chosen =
        (double)(model_tokens(&job->plan->model) * job->plan->micro_batches * job->plan->model.top_k * job->rank_count);
    for (uint32_t c = 0; c < job->plan->choice_count; c++)
        job->result->dropped[c] /= chosen * rank->measured;
}

bool rank_reduce(Rank *rank)
{
    const JobOptions *options = rank->job->options;
    if (rank->measured == 0) // a signal ended the run before
        return true;
    if (!rank_reduce_steps(rank) || !rank_reduce_traffic(rank) || !rank_reduce_choices(rank) ||
        !rank_share_times(rank) || !rank_share_trace(rank))
        return false;
    if (rank_is_first(rank))
        memcpy(rank->job->result->step_s, rank->step_s, 2 * rank->job->plan->step_count * sizeof(*rank->step_s));
    if (rank_is_first(rank) && rank->dropped)
        rank_share_dropped(rank);
    if (options->keep_outputs)
        rank_keep_output(rank);
    return !options->check || rank->signal != 0 || rank_check(rank);
}
