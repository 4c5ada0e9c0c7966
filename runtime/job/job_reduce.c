// How the ranks of a job make its result together: every function here is collective, and gives the whole result to
// the first rank of every process.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/job/job_internal.h"

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static bool rank_reduce_steps(Rank *rank)
{
    Job *job = rank->job;
    uint32_t kept = job->options->iterations < job->sample_count ? job->options->iterations : job->sample_count;
    for (uint32_t s = 0; s < job->plan->step_count; s++) {
        float *samples = rank->samples + (size_t)s * job->sample_count;
        qsort(samples, kept, sizeof(*samples), compare_floats);
        rank->step_s[s] = samples[kept / 2];
        rank->exposed_s[s] /= job->options->iterations;
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

static bool rank_reduce_traffic(Rank *rank)
{
    Job *job = rank->job;
    const CommOps *comm = rank->comm->ops;
    const CommTraffic *own = rank->traffic;
    comm->traffic(rank->comm, rank->traffic, true);
    for (uint32_t l = 0; l < job->plan->cluster.level_count; l++) {
        double sums[] = {(double)own[l].exchange_bytes, (double)own[l].routing_bytes, (double)own[l].gather_bytes,
                         (double)own[l].reduce_bytes, (double)own[l].padding_bytes};
        double largest = sums[0] + sums[1] + sums[2] + sums[3];
        if (!comm->all_reduce_sum(rank->comm, sums, COUNT_OF(sums), &rank->fault) ||
            !comm->all_reduce_max(rank->comm, &largest, 1, &rank->fault))
            return false;
        double per = (double)job->rank_count * job->options->iterations;
        if (rank_is_first(rank))
            job->result->traffic[l] = (JobTraffic){
                .exchange_bytes = sums[0] / per,
                .routing_bytes = sums[1] / per,
                .gather_bytes = sums[2] / per,
                .reduce_bytes = sums[3] / per,
                .padding_bytes = sums[4] / per,
                .total_bytes = (sums[0] + sums[1] + sums[2] + sums[3]) / per,
                .max_total_bytes = largest / job->options->iterations,
            };
    }
    return true;
}

static CommTime per_iteration(CommTime total, double iterations)
{
    return (CommTime){total.late_s / iterations, total.transfer_s / iterations};
}

// Ranks of one process write into one table; processes, each with a table of its own, share them by a sum.
static bool rank_share_times(Rank *rank)
{
    Job *job = rank->job;
    const CommOps *comm = rank->comm->ops;
    RankTimes *table = job->result->rank_times, *own = &table[rank->comm->rank];
    uint64_t ranks = job->rank_count;
    double iterations = job->options->iterations;
    comm->times(rank->comm, &rank->times, false);
    pthread_mutex_lock(&job->mutex);
    own->compute_s = rank->compute_s / iterations;
    own->exchange = per_iteration(rank->times.exchange, iterations);
    own->gather = per_iteration(rank->times.gather, iterations);
    if (rank->comm->device)
        own->awaited_s = own->last_s = NAN;
    for (uint64_t r = 0; ranks > 1 && r < ranks && !rank->comm->device; r++) {
        table[r].awaited_s += r == rank->comm->rank ? 0 : rank->times.late_s[r] / iterations / (double)(ranks - 1);
        table[r].last_s += r == rank->comm->rank ? 0 : rank->times.last_s[r] / iterations / (double)(ranks - 1);
    }
    pthread_mutex_unlock(&job->mutex);
    _Static_assert(sizeof(RankTimes) % sizeof(double) == 0, "times are reduced as an array of numbers");
    return !job->options->comm ||
           comm->all_reduce_sum(rank->comm, &table->compute_s, (uint32_t)(ranks * sizeof(RankTimes) / sizeof(double)),
                                &rank->fault);
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
    double errors[] = {part.max_abs_error, part.loss_error, part.choice_excess};
    double sums[] = {part.square_sum, part.element_count};
    if (!comm->all_reduce_max(rank->comm, errors, COUNT_OF(errors), &rank->fault) ||
        !comm->all_reduce_sum(rank->comm, sums, COUNT_OF(sums), &rank->fault))
        return false;
    CheckPart all = {.max_abs_error = errors[0],
                     .loss_error = errors[1],
                     .choice_excess = errors[2],
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

bool rank_reduce(Rank *rank)
{
    const JobOptions *options = rank->job->options;
    if (!rank_reduce_steps(rank) || !rank_reduce_traffic(rank) || !rank_reduce_choices(rank) ||
        !rank_share_times(rank) || !rank_share_trace(rank))
        return false;
    if (rank_is_first(rank))
        memcpy(rank->job->result->step_s, rank->step_s, 2 * rank->job->plan->step_count * sizeof(*rank->step_s));
    if (options->keep_outputs)
        rank_keep_output(rank);
    return !options->check || rank_check(rank);
}
