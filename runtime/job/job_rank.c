// One rank of a job: prepares its engine, then iterates between barriers.
// Owns what its Rank holds until job.c frees it, when all ranks of this process have ended: peers read its memory.
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/job/exposure.h"
#include "runtime/job/job_internal.h"
#include "runtime/job/preflight.h"
#include "runtime/training/initial.h"

static StreamPoint rank_point(void *context, Stream stream)
{
    return interpreter_point(((Rank *)context)->interpreter, stream);
}

static double rank_life_s(void *context, double now_s)
{
    Rank *rank = context;
    return fmax(interpreter_life_s(rank->interpreter, now_s), atomic_load(&rank->training.alive_s));
}

static bool rank_prepare(Rank *rank)
{
    Job *job = rank->job;
    EngineOptions options = preflight_engine_options(job->plan, job->options);
    Initial initial = {.plan = job->plan, .seed = job->begin.seed, .rank = rank->comm->rank};
    options.fill = job->resumed ? NULL : initial_fill; // then all is read from the checkpoint
    options.fill_context = &initial;
    options.stopped = &job->stopped;
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
    if (job->plan->capacity > 0)
        rank->dropped = calloc((size_t)job->plan->choice_count + 1, sizeof(*rank->dropped));
    rank->times.late_s = calloc(2 * job->rank_count, sizeof(double));
    rank->skipped_steps = calloc((size_t)job->plan->step_count + 1, sizeof(*rank->skipped_steps));
    rank->last_times = calloc((size_t)job->plan->step_count + 1, sizeof(*rank->last_times));
    bool histogram = (rank->histogram || !job->options->count_choices) && (rank->dropped || job->plan->capacity <= 0);
    if (!rank->samples || !rank->step_s || !rank->times.late_s || !rank->skipped_steps || !rank->last_times ||
        !histogram)
        return fault_set(&rank->fault, FAULT_MEMORY, "out of memory for step times");
    rank->exposed_s = rank->step_s + job->plan->step_count;
    rank->times.last_s = rank->times.late_s + job->rank_count;
    rank->comm->ops->watch(rank->comm, &(Watch){.point = rank_point, .life_s = rank_life_s, .context = rank});
    const EngineQueue *queue = job->options->engine->queue;
    if (rank_is_first(rank) && queue) {
        job->result->replay_refusal = queue->replay_refusal(rank->engine);
        job->result->replays = !job->result->replay_refusal;
        job->result->expert_refusal = queue->expert_refusal(rank->engine);
    }
    atomic_store(&rank->prepared, true);
    return rank_training_prepare(rank);
}

// Collectives of devices are seen from outside: what they take, and not how much of it is waiting.
static void rank_keep_collective(Rank *rank, const Step *step, double time_s)
{
    CommTime *of = op_info(step->op)->stream == STREAM_EXCHANGE ? &rank->times.exchange : &rank->times.gather;
    of->transfer_s += time_s;
    of->late_s = NAN;
}

static void rank_keep_times(Rank *rank, uint32_t iteration)
{
    const StepTime *times = interpreter_times(rank->interpreter);
    uint32_t samples = rank->job->sample_count;
    for (uint32_t s = 0; s < rank->job->plan->step_count; s++) {
        double time_s = times[s].end_s - times[s].start_s;
        rank->samples[(size_t)s * samples + iteration % samples] = (float)time_s;
        rank->compute_s += rank->job->plan->steps[s].group == NONE ? time_s : 0;
        if (rank->comm->device && rank->job->plan->steps[s].group != NONE)
            rank_keep_collective(rank, &rank->job->plan->steps[s], time_s);
    }
    exposure_add(rank->job->plan, times, rank->exposed_s);
    memcpy(rank->last_times, times, rank->job->plan->step_count * sizeof(*times));
}

static void rank_count_choices(Rank *rank, const int32_t *decisions)
{
    const Plan *plan = rank->job->plan;
    uint64_t each = model_tokens(&plan->model) * plan->model.top_k;
    for (uint64_t i = 0; rank->histogram && i < plan->micro_batches * plan->choice_count * each; i++)
        if (decisions[i] >= 0)
            rank->histogram[i / each % plan->choice_count * plan->model.experts + (uint64_t)decisions[i]]++;
}

// What all ranks' gates dropped in the iteration that has ended.
static bool rank_count_dropped(Rank *rank)
{
    const Plan *plan = rank->job->plan;
    const int32_t *decisions = rank->job->options->engine->result(rank->engine).all_decisions;
    uint64_t each = model_tokens(&plan->model) * plan->model.top_k;
    if (!rank->dropped)
        return true;
    memset(rank->dropped, 0, plan->choice_count * sizeof(*rank->dropped));
    for (uint64_t i = 0; decisions && i < plan->micro_batches * plan->choice_count * each; i++)
        rank->dropped[i / each % plan->choice_count] += decisions[i] < 0;
    return rank->comm->ops->all_reduce_sum(rank->comm, rank->dropped, plan->choice_count, &rank->fault);
}

// Some steps are of some iterations only.
static void rank_leave_out(Rank *rank, uint64_t iteration)
{
    const Plan *plan = rank->job->plan;
    for (uint32_t s = 0; s < plan->step_count; s++)
        rank->skipped_steps[s] = !plan_step_is_due(plan, &plan->steps[s], iteration);
}

static void rank_keep_result(Rank *rank, uint32_t measured, double time_s, double loss)
{
    Job *job = rank->job;
    EngineResult result = job->options->engine->result(rank->engine);
    rank_keep_times(rank, measured);
    rank_count_choices(rank, result.all_decisions);
    if (!rank_is_first(rank))
        return;
    job->result->iteration_s[measured] = time_s;
    job->result->loss[measured] = loss;
    for (uint32_t w = 0; w < job->result->apart; w++)
        job->result->apart_loss[(size_t)measured * job->result->apart + w] = rank->training.losses[1 + w];
    for (uint32_t c = 0; rank->dropped && c < job->plan->choice_count; c++)
        job->result->dropped[c] += rank->dropped[c];
    job->result->has_loss = result.has_loss;
    atomic_store(&job->loss, result.has_loss ? loss : NAN);
}

// The time of the slowest rank, and whether this iteration is to be the last: a signal reaches some processes before
// others, or one alone.
static bool rank_agree(Rank *rank, double *time_s)
{
    const atomic_int *interrupted = rank->job->options->interrupted;
    double most[] = {*time_s, interrupted ? atomic_load(interrupted) : 0};
    bool ok = rank->comm->ops->all_reduce_max(rank->comm, most, COUNT_OF(most), &rank->fault);
    *time_s = most[0];
    rank->signal = (int)most[1];
    return ok;
}

// One iteration between barriers, measured or not.
static bool rank_iterate(Rank *rank, uint64_t iteration, bool measured)
{
    Job *job = rank->job;
    const CommOps *comm = rank->comm->ops;
    uint64_t updates = rank->training.updates;
    double loss, learning_rate;
    rank_leave_out(rank, iteration);
    if (!rank_training_begin(rank, DATA_TRAINING, iteration, &learning_rate) ||
        !comm->barrier(rank->comm, &rank->fault))
        return false;
    rank->start_s = clock_now_s();
    if (!rank_training_run(rank, iteration, &loss))
        return false;
    double time_s = clock_now_s() - rank->start_s;
    if (!rank_agree(rank, &time_s) || !rank_count_dropped(rank))
        return false;
    rank->measured_whole += measured && updates < job->plan->whole_iterations;
    if (measured)
        rank_keep_result(rank, rank->measured++, time_s, loss);
    LossRow row = {.iteration = iteration + 1,
                   .loss = loss,
                   .learning_rate = learning_rate,
                   .dropped = rank->dropped,
                   .iteration_s = time_s,
                   .skipped = rank->training.updates == updates};
    return job->plan->pass != PASS_TRAINING || rank_training_follow(rank, iteration + 1, &row);
}

// What was counted before the measured iterations is dropped.
static void rank_begin_measuring(Rank *rank)
{
    rank->comm->ops->traffic(rank->comm, rank->traffic, true);
    rank->comm->ops->times(rank->comm, &rank->times, true);
    memset(rank->traffic, 0, sizeof(rank->traffic));
    memset(rank->times.late_s, 0, 2 * rank->job->rank_count * sizeof(double)); // last_s follows
    rank->times.exchange = rank->times.gather = (CommTime){0};
}

static bool rank_loop(Rank *rank)
{
    Job *job = rank->job;
    const JobOptions *options = job->options;
    uint32_t count = options->warmup + options->iterations, i;
    for (i = 0; i < count && rank->signal == 0; i++) {
        bool warm = i >= options->warmup;
        if (i == options->warmup) {
            rank_begin_measuring(rank);
            if (rank_is_first(rank))
                atomic_store(&job->measured_since_s, clock_now_s());
        }
        if (rank_is_first(rank)) {
            atomic_store(&job->iteration, warm ? i - options->warmup : i);
            atomic_store(&job->phase, warm ? JOB_RUNNING : JOB_WARMING_UP);
        }
        if (!rank_iterate(rank, job->begin.iteration + i, warm))
            return false;
    }
    if (i == count) // which comes after the last one is late
        rank->signal = 0;
    if (rank_is_first(rank)) {
        job->result->iterations = rank->measured;
        job->result->signal = rank->signal;
        job->result->done = job->begin.iteration + i;
        job->result->planned = job->begin.iteration + count;
    }
    return true;
}

static void rank_work(void *context)
{
    Rank *rank = context;
    rank->ok = rank_prepare(rank) && rank_loop(rank) && rank_reduce(rank);
}

void *rank_main(void *argument)
{
    Rank *rank = argument;
    Job *job = rank->job;
    if (!memory_guard(rank_work, rank, &rank->fault) || !rank->ok) {
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
