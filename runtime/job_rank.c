// One rank of a job: prepares its engine, then iterates between barriers.
// Owns what its Rank holds until job.c frees it, when all ranks of this process have ended: peers read its memory.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "runtime/exposure.h"
#include "runtime/clock.h"
#include "runtime/job_internal.h"
#include "runtime/preflight.h"
#include "runtime/training.h"

bool rank_is_first(const Rank *rank)
{
    return rank == rank->job->ranks;
}

static StreamPoint rank_point(void *context, Stream stream)
{
    return interpreter_point(((Rank *)context)->interpreter, stream);
}

static double rank_life_s(void *context, double now_s)
{
    return interpreter_life_s(((Rank *)context)->interpreter, now_s);
}

size_t histogram_count(const Plan *plan)
{
    return (size_t)plan->choice_count * plan->model.experts;
}

static bool rank_prepare(Rank *rank)
{
    Job *job = rank->job;
    EngineOptions options = preflight_engine_options(job->plan, job->options);
    options.data = &job->data;
    rank->engine = job->options->engine->create(job->plan, rank->comm, &options, &rank->fault);
    if (!rank->engine)
        return false;
    rank->interpreter = interpreter_create(job->plan, job->options->engine, rank->engine, rank->comm, &rank->fault);
    if (!rank->interpreter)
        return false;
    rank->samples = calloc((size_t)job->plan->step_count * job->sample_count + 1, sizeof(*rank->samples));
    rank->step_s = calloc(2 * (size_t)job->plan->step_count + 1, sizeof(*rank->step_s));
    if (job->options->count_choices)
        rank->histogram = calloc(histogram_count(job->plan) + 1, sizeof(*rank->histogram));
    rank->times.late_s = calloc(2 * job->rank_count, sizeof(double));
    rank->left_out = calloc((size_t)job->plan->step_count + 1, sizeof(*rank->left_out));
    bool histogram = rank->histogram || !job->options->count_choices;
    if (!rank->samples || !rank->step_s || !rank->times.late_s || !rank->left_out || !histogram)
        return fault_set(&rank->fault, EXIT_FAULT, "out of memory for step times");
    rank->exposed_s = rank->step_s + job->plan->step_count;
    rank->times.last_s = rank->times.late_s + job->rank_count;
    rank->comm->ops->watch(rank->comm, &(Watch){.point = rank_point, .life_s = rank_life_s, .context = rank});
    atomic_store(&rank->prepared, true);
    return true;
}

static void rank_keep_times(Rank *rank, uint32_t iteration)
{
    const StepTime *times = interpreter_times(rank->interpreter);
    uint32_t samples = rank->job->sample_count;
    for (uint32_t s = 0; s < rank->job->plan->step_count; s++) {
        double time_s = times[s].end_s - times[s].start_s;
        rank->samples[(size_t)s * samples + iteration % samples] = (float)time_s;
        rank->compute_s += rank->job->plan->steps[s].group == NONE ? time_s : 0;
    }
    exposure_add(rank->job->plan, times, rank->exposed_s);
}

static void rank_count_choices(Rank *rank, const int32_t *decisions)
{
    const Plan *plan = rank->job->plan;
    uint64_t each = model_tokens(&plan->model) * plan->model.top_k;
    for (uint64_t i = 0; rank->histogram && i < plan->choice_count * each; i++)
        if (decisions[i] >= 0)
            rank->histogram[i / each * plan->model.experts + (uint64_t)decisions[i]]++;
}

// Some steps are of some iterations only.
static void rank_leave_out(Rank *rank, uint64_t iteration)
{
    const Plan *plan = rank->job->plan;
    for (uint32_t s = 0; s < plan->step_count; s++)
        rank->left_out[s] = iteration % plan_step_period(plan, &plan->steps[s]) != 0;
}

// One iteration between barriers. `measured` is its index among the measured ones, or -1.
static bool rank_iterate(Rank *rank, uint32_t iteration, int64_t measured)
{
    Job *job = rank->job;
    const CommOps *comm = rank->comm->ops;
    TrainingSettings settings = preflight_training(job->plan, job->options);
    EngineIteration of = {.iteration = iteration,
                          .update = iteration + 1,
                          .learning_rate = (float)training_rate(&settings, iteration)};
    job->options->engine->begin(rank->engine, &of);
    rank_leave_out(rank, of.iteration);
    if (!comm->barrier(rank->comm, &rank->fault))
        return false;
    rank->start_s = clock_now_s();
    if (!interpreter_run(rank->interpreter, rank->left_out, &rank->fault))
        return false;
    double time_s = clock_now_s() - rank->start_s;
    EngineResult result = job->options->engine->result(rank->engine);
    double loss = result.has_loss ? result.loss : 0;
    if (!comm->all_reduce_max(rank->comm, &time_s, 1, &rank->fault) ||
        !comm->all_reduce_sum(rank->comm, &loss, 1, &rank->fault))
        return false;
    if (!isfinite(loss)) // the same on every rank
        return fault_set(&rank->fault, EXIT_FAULT, "the loss of iteration %u is not a finite number", iteration);
    if (measured < 0)
        return true;
    rank_keep_times(rank, (uint32_t)measured);
    rank_count_choices(rank, result.decisions);
    if (rank_is_first(rank)) {
        job->result->iteration_s[measured] = time_s;
        job->result->loss[measured] = loss / (double)job->rank_count;
        job->result->has_loss = result.has_loss;
    }
    return true;
}

static bool rank_loop(Rank *rank)
{
    Job *job = rank->job;
    const JobOptions *options = job->options;
    for (uint32_t i = 0; i < options->warmup + options->iterations; i++) {
        bool warm = i >= options->warmup;
        if (i == options->warmup) {
            CommTraffic discarded[LEVELS_MAX] = {0};
            rank->comm->ops->traffic(rank->comm, discarded, true);
            rank->comm->ops->times(rank->comm, &rank->times, true);
        }
        if (rank_is_first(rank)) {
            atomic_store(&job->iteration, warm ? i - options->warmup : i);
            atomic_store(&job->phase, warm ? JOB_RUNNING : JOB_WARMING_UP);
        }
        if (!rank_iterate(rank, i, warm ? (int64_t)(i - options->warmup) : -1))
            return false;
    }
    return true;
}

static bool rank_work(Rank *rank)
{
    return rank_prepare(rank) && rank_loop(rank) && rank_reduce(rank);
}

void *rank_main(void *argument)
{
    Rank *rank = argument;
    Job *job = rank->job;
    rank->ok = rank_work(rank);
    if (!rank->ok) {
        if (rank->fault.rank < 0)
            rank->fault.rank = (int64_t)rank->comm->rank;
        rank->comm->ops->abort(rank->comm, &rank->fault);
        if (job->reference)
            reference_stop(job->reference);
    }
    pthread_mutex_lock(&job->mutex);
    job->ended++;
    pthread_cond_signal(&job->ended_changed);
    pthread_mutex_unlock(&job->mutex);
    return NULL;
}
