// Runs the ranks of a plan that are this process's: all of them on the threads communicator, or one of a world of
// processes. One thread per rank prepares the rank's engine, then iterates between barriers, then takes part in the
// reductions that make the result. The calling thread supervises: progress, interruption. Nothing of a rank is freed
// before all ranks of this process have ended, because peers read its memory.
#include "runtime/job.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/text.h"
#include "runtime/clock.h"
#include "runtime/comm_threads.h"
#include "runtime/interpreter.h"
#include "runtime/preflight.h"
#include "runtime/state.h"

enum { SAMPLES_MAX = 1024 }; // iterations whose step times are kept, per rank: the last ones
static const double supervise_s = 0.1;

typedef struct Job Job;

typedef struct {
    Job *job;
    Comm *comm;
    Engine *engine;
    Interpreter *interpreter;
    atomic_bool prepared; // the supervisor may look at the interpreter
    float *samples;       // [step][SAMPLES_MAX or iterations]
    double *step_s;       // [step] medians
    double *histogram;    // [choice][expert] of this rank's tokens, or NULL
    double compute_s;     // of the measured iterations
    CommTimes times;      // of its collectives, late_s and last_s in one piece
    double start_s;       // of the last iteration
    pthread_t thread;
    bool ok;
    Fault fault;
} Rank;

struct Job {
    const Plan *plan;
    const JobOptions *options;
    JobResult *result;
    Reference *reference;
    LinkEmulation *links;
    Data data;
    ThreadWorld *world; // NULL in a world of processes
    Rank *ranks;        // this process's
    uint64_t rank_count, local_count, started;
    uint32_t sample_count;
    pthread_mutex_t mutex; // guards ended
    pthread_cond_t ended_changed;
    uint64_t ended;
    _Atomic uint32_t phase, iteration; // of the first rank of this process
};

JobOptions job_options_default(void)
{
    return (JobOptions){
        .engine = &host_engine, .iterations = 10, .warmup = 1, .routing = ROUTING_LEARNED, .timeout_s = 60,
        .adamw = {.learning_rate = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f, .weight_decay = 0.01f},
        .balance = 0.01f};
}

// ---- one rank --------------------------------------------------------------------------------

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The rank of this process that writes the result: reductions give it to every rank.
static bool is_first(const Rank *rank)
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

static size_t histogram_count(const Plan *plan)
{
    return (size_t)plan->choice_count * plan->model.experts;
}

static bool rank_prepare(Rank *rank)
{
    Job *job = rank->job;
    EngineOptions options = preflight_engine_options(job->options);
    options.data = &job->data;
    rank->engine = job->options->engine->create(job->plan, rank->comm, &options, &rank->fault);
    if (!rank->engine)
        return false;
    rank->interpreter = interpreter_create(job->plan, job->options->engine, rank->engine, rank->comm, &rank->fault);
    if (!rank->interpreter)
        return false;
    rank->samples = calloc((size_t)job->plan->step_count * job->sample_count + 1, sizeof(*rank->samples));
    rank->step_s = calloc((size_t)job->plan->step_count + 1, sizeof(*rank->step_s));
    if (job->options->count_choices)
        rank->histogram = calloc(histogram_count(job->plan) + 1, sizeof(*rank->histogram));
    rank->times.late_s = calloc(2 * job->rank_count, sizeof(double));
    if (!rank->samples || !rank->step_s || !rank->times.late_s || (job->options->count_choices && !rank->histogram))
        return fault_set(&rank->fault, EXIT_FAULT, "out of memory for step times");
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
}

static void rank_count_choices(Rank *rank, const int32_t *decisions)
{
    const Plan *plan = rank->job->plan;
    uint64_t each = model_tokens(&plan->model) * plan->model.top_k;
    for (uint64_t i = 0; rank->histogram && i < plan->choice_count * each; i++)
        if (decisions[i] >= 0)
            rank->histogram[i / each * plan->model.experts + (uint64_t)decisions[i]]++;
}

// One iteration between barriers. `measured` is its index among the measured ones, or -1.
static bool rank_iterate(Rank *rank, uint32_t iteration, int64_t measured)
{
    Job *job = rank->job;
    const CommOps *comm = rank->comm->ops;
    job->options->engine->begin(rank->engine, iteration);
    if (!comm->barrier(rank->comm, &rank->fault))
        return false;
    rank->start_s = clock_now_s();
    if (!interpreter_run(rank->interpreter, &rank->fault))
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
    if (is_first(rank)) {
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
        if (is_first(rank)) {
            atomic_store(&job->iteration, warm ? i - options->warmup : i);
            atomic_store(&job->phase, warm ? JOB_RUNNING : JOB_WARMING_UP);
        }
        if (!rank_iterate(rank, i, warm ? (int64_t)(i - options->warmup) : -1))
            return false;
    }
    return true;
}

static bool rank_reduce_steps(Rank *rank)
{
    Job *job = rank->job;
    uint32_t kept = job->options->iterations < job->sample_count ? job->options->iterations : job->sample_count;
    for (uint32_t s = 0; s < job->plan->step_count; s++) {
        float *samples = rank->samples + (size_t)s * job->sample_count;
        qsort(samples, kept, sizeof(*samples), compare_floats);
        rank->step_s[s] = samples[kept / 2];
    }
    return rank->comm->ops->all_reduce_max(rank->comm, rank->step_s, job->plan->step_count, &rank->fault);
}

static bool rank_reduce_choices(Rank *rank)
{
    Job *job = rank->job;
    size_t count = histogram_count(job->plan);
    if (!rank->histogram)
        return true;
    if (!rank->comm->ops->all_reduce_sum(rank->comm, rank->histogram, (uint32_t)count, &rank->fault))
        return false;
    if (is_first(rank))
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
    const StepTime *times = interpreter_times(rank->interpreter);
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
    CommTraffic own[LEVELS_MAX] = {0};
    comm->traffic(rank->comm, own, false);
    for (uint32_t l = 0; l < job->plan->cluster.level_count; l++) {
        double sums[] = {(double)own[l].exchange_bytes, (double)own[l].routing_bytes, (double)own[l].gather_bytes,
                         (double)own[l].reduce_bytes};
        double largest = sums[0] + sums[1] + sums[2] + sums[3];
        if (!comm->all_reduce_sum(rank->comm, sums, COUNT_OF(sums), &rank->fault) ||
            !comm->all_reduce_max(rank->comm, &largest, 1, &rank->fault))
            return false;
        double per = (double)job->rank_count * job->options->iterations;
        if (is_first(rank))
            job->result->traffic[l] = (JobTraffic){
                .exchange_bytes = sums[0] / per,
                .routing_bytes = sums[1] / per,
                .gather_bytes = sums[2] / per,
                .reduce_bytes = sums[3] / per,
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
    rank->times.exchange = rank->times.gather = (CommTime){0};
    memset(rank->times.late_s, 0, 2 * ranks * sizeof(double)); // last_s is behind
    comm->times(rank->comm, &rank->times, false);
    pthread_mutex_lock(&job->mutex);
    own->compute_s = rank->compute_s / iterations;
    own->exchange = per_iteration(rank->times.exchange, iterations);
    own->gather = per_iteration(rank->times.gather, iterations);
    for (uint64_t r = 0; ranks > 1 && r < ranks; r++) {
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
    if (is_first(rank))
        atomic_store(&job->phase, JOB_CHECKING);
    EngineResult result = job->options->engine->result(rank->engine);
    CheckPart part;
    if (!check_rank(job->reference, job->plan, rank->comm->rank, &result, &part, &rank->fault))
        return false;
    double errors[] = {part.max_abs_error, part.loss_error}, sums[] = {part.square_sum, part.element_count};
    if (!comm->all_reduce_max(rank->comm, errors, COUNT_OF(errors), &rank->fault) ||
        !comm->all_reduce_sum(rank->comm, sums, COUNT_OF(sums), &rank->fault))
        return false;
    CheckPart all = {
        .max_abs_error = errors[0], .loss_error = errors[1], .square_sum = sums[0], .element_count = sums[1]};
    if (is_first(rank))
        job->result->check = check_conclude(job->plan, &all);
    return true;
}

static uint64_t output_bytes(const Plan *plan)
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

static bool rank_work(Rank *rank)
{
    const JobOptions *options = rank->job->options;
    if (!rank_prepare(rank) || !rank_loop(rank) || !rank_reduce_steps(rank) || !rank_reduce_traffic(rank) ||
        !rank_reduce_choices(rank) || !rank_share_times(rank) || !rank_share_trace(rank))
        return false;
    if (is_first(rank))
        memcpy(rank->job->result->step_s, rank->step_s, rank->job->plan->step_count * sizeof(*rank->step_s));
    if (options->keep_outputs)
        rank_keep_output(rank);
    return !options->check || rank_check(rank);
}

static void *rank_main(void *argument)
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

// ---- all ranks -------------------------------------------------------------------------------

static bool result_create(const Plan *plan, const JobOptions *options, JobResult *result, Fault *fault)
{
    result->ranks = cluster_gpus(&plan->cluster);
    result->iterations = options->iterations;
    result->engine = options->engine->name;
    result->communicator = options->comm ? options->comm->ops->name : "threads";
    result->iteration_s = calloc((size_t)options->iterations + 1, sizeof(*result->iteration_s));
    result->loss = calloc((size_t)options->iterations + 1, sizeof(*result->loss));
    result->step_s = calloc((size_t)plan->step_count + 1, sizeof(*result->step_s));
    result->trace = calloc((size_t)options->trace_count * plan->step_count + 1, sizeof(*result->trace));
    if (options->count_choices)
        result->histogram = calloc(histogram_count(plan) + 1, sizeof(*result->histogram));
    if (options->keep_outputs)
        result->outputs = calloc(options->comm ? 1 : result->ranks, output_bytes(plan) + 1);
    result->rank_times = calloc(result->ranks, sizeof(*result->rank_times));
    if (!result->iteration_s || !result->loss || !result->step_s || !result->trace || !result->rank_times ||
        (options->count_choices && !result->histogram) || (options->keep_outputs && !result->outputs))
        return fault_set(fault, EXIT_FAULT, "out of memory for the result");
    return true;
}

static bool job_create(Job *job, Fault *fault)
{
    const Plan *plan = job->plan;
    const JobOptions *options = job->options;
    pthread_mutex_init(&job->mutex, NULL);
    clock_cond_init(&job->ended_changed);
    job->rank_count = cluster_gpus(&plan->cluster);
    job->local_count = options->comm ? 1 : job->rank_count;
    if (!data_open(options->data_path, plan->pass == PASS_TRAINING, &plan->model, &job->data, fault))
        return false;
    if (options->check) {
        job->reference = reference_create(plan, options->seed, fault);
        if (!job->reference)
            return false;
    }
    job->links = options->emulate_links ? links_create(&plan->cluster) : NULL;
    job->world = options->comm ? NULL : thread_world_create(&plan->cluster, job->links, options->timeout_s);
    job->ranks = calloc(job->local_count, sizeof(*job->ranks));
    if ((!options->comm && !job->world) || !job->ranks || (options->emulate_links && !job->links))
        return fault_set(fault, EXIT_FAULT, "out of memory for %" PRIu64 " ranks", job->rank_count);
    return result_create(plan, options, job->result, fault);
}

static Comm *job_comm(const Job *job, uint64_t local)
{
    return job->world ? thread_world_comm(job->world, local) : job->options->comm;
}

static Fault job_cause(const Job *job)
{
    return job->world ? thread_world_cause(job->world) : job->ranks[0].fault;
}

static void job_abort(Job *job, const Fault *cause)
{
    Comm *any = job_comm(job, 0);
    any->ops->abort(any, cause);
    if (job->reference)
        reference_stop(job->reference);
}

static void job_start(Job *job)
{
    for (uint64_t r = 0; r < job->local_count; r++) {
        Rank *rank = &job->ranks[r];
        rank->job = job;
        rank->comm = job_comm(job, r);
        int error = pthread_create(&rank->thread, NULL, rank_main, rank);
        if (error) {
            Fault fault = {0};
            fault_set(&fault, EXIT_FAULT, "cannot start the thread of rank %" PRIu64 " of %" PRIu64 ": %s",
                      rank->comm->rank, job->rank_count, strerror(error));
            job_abort(job, &fault);
            return;
        }
        job->started++;
    }
}

static JobProgress job_progress(Job *job)
{
    JobPhase phase = (JobPhase)atomic_load(&job->phase);
    uint32_t iterations = phase == JOB_WARMING_UP ? job->options->warmup : job->options->iterations;
    return (JobProgress){.phase = phase, .iteration = atomic_load(&job->iteration), .iterations = iterations};
}

static void job_interrupt(Job *job)
{
    JobProgress at = job_progress(job);
    Fault fault = {0};
    switch (at.phase) {
    case JOB_PREPARING:
        fault_set(&fault, EXIT_FAULT, "interrupted while ranks prepared");
        break;
    case JOB_WARMING_UP:
        fault_set(&fault, EXIT_FAULT, "interrupted in warm-up iteration %" PRIu32 " of %" PRIu32, at.iteration + 1,
                  at.iterations);
        break;
    case JOB_RUNNING:
        fault_set(&fault, EXIT_FAULT, "interrupted in iteration %" PRIu32 " of %" PRIu32, at.iteration + 1,
                  at.iterations);
        break;
    case JOB_CHECKING:
        fault_set(&fault, EXIT_FAULT, "interrupted while checking");
        break;
    }
    job_abort(job, &fault);
}

static void job_tell_state(Job *job)
{
    Text lines = {0};
    double now_s = clock_now_s();
    for (uint64_t r = 0; r < job->started; r++) {
        Rank *rank = &job->ranks[r];
        state_append(job->plan, rank->comm->rank, atomic_load(&rank->prepared) ? rank->interpreter : NULL, now_s,
                     &lines);
    }
    if (lines.length > 0)
        job->options->tell_state(job->options->state_context, lines.data);
    text_free(&lines);
}

// Waits for all ranks that were started.
static void job_supervise(Job *job)
{
    const JobOptions *options = job->options;
    bool interrupted = false;
    pthread_mutex_lock(&job->mutex);
    while (job->ended < job->started) {
        struct timespec until = clock_timespec(clock_now_s() + supervise_s);
        pthread_cond_timedwait(&job->ended_changed, &job->mutex, &until);
        pthread_mutex_unlock(&job->mutex);
        if (options->progress) {
            JobProgress progress = job_progress(job);
            options->progress(options->progress_context, &progress);
        }
        if (options->state_asked && atomic_exchange(options->state_asked, 0))
            job_tell_state(job);
        if (options->interrupted && *options->interrupted && !interrupted) {
            interrupted = true;
            job_interrupt(job);
        }
        pthread_mutex_lock(&job->mutex);
    }
    pthread_mutex_unlock(&job->mutex);
    for (uint64_t r = 0; r < job->started; r++)
        pthread_join(job->ranks[r].thread, NULL);
}

static void job_destroy(Job *job)
{
    for (uint64_t r = 0; job->ranks && r < job->started; r++)
        job->ranks[r].comm->ops->watch(job->ranks[r].comm, NULL);
    for (uint64_t r = 0; job->ranks && r < job->started; r++)
        interpreter_destroy(job->ranks[r].interpreter);
    for (uint64_t r = 0; job->ranks && r < job->started; r++) {
        job->options->engine->destroy(job->ranks[r].engine);
        free(job->ranks[r].samples);
        free(job->ranks[r].step_s);
        free(job->ranks[r].histogram);
        free(job->ranks[r].times.late_s);
    }
    free(job->ranks);
    data_close(&job->data);
    thread_world_destroy(job->world);
    links_destroy(job->links);
    reference_destroy(job->reference);
    pthread_cond_destroy(&job->ended_changed);
    pthread_mutex_destroy(&job->mutex);
}

static bool result_summarise(JobResult *result)
{
    uint32_t n = result->iterations;
    double *sorted = malloc(n * sizeof(*sorted));
    if (!sorted)
        return false;
    memcpy(sorted, result->iteration_s, n * sizeof(*sorted));
    qsort(sorted, n, sizeof(*sorted), compare_doubles);
    result->min_s = sorted[0];
    result->median_s = n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
    result->max_s = sorted[n - 1];
    free(sorted);
    return true;
}

bool job_run(const Plan *plan, const JobOptions *options, JobResult *result, Fault *fault)
{
    *result = (JobResult){0};
    uint32_t samples = options->iterations < SAMPLES_MAX ? options->iterations : SAMPLES_MAX;
    if (!preflight_run(plan, options, samples, fault))
        return false;
    host_kernels_init();
    Job job = {.plan = plan, .options = options, .result = result, .sample_count = samples};
    bool ok = preflight_agree(options->comm, job_create(&job, fault), fault);
    if (ok) {
        job_start(&job);
        job_supervise(&job);
        Fault cause = job_cause(&job);
        if (cause.code != EXIT_DONE) {
            *fault = cause;
            ok = false;
        }
    }
    job_destroy(&job);
    return ok && (result_summarise(result) || fault_set(fault, EXIT_FAULT, "out of memory for the result"));
}

void job_result_free(JobResult *result)
{
    free(result->iteration_s);
    free(result->loss);
    free(result->step_s);
    free(result->trace);
    free(result->histogram);
    free(result->rank_times);
    free(result->outputs);
    *result = (JobResult){0};
}
