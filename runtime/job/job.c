// Runs the ranks of a plan that are this process's: all of them on the threads communicator, or one of a world of
// processes. Every rank is a thread (job_rank.c); the calling thread supervises: progress, interruption. Nothing of a
// rank is freed before all ranks of this process have ended, because peers read its memory.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/arena.h"
#include "ir/base/sort.h"
#include "ir/base/tasks.h"
#include "ir/base/text.h"
#include "runtime/base/clock.h"
#include "runtime/base/machine.h"
#include "runtime/comm/comm_launcher.h"
#include "runtime/engine/engine_common.h"
#include "runtime/job/job_internal.h"
#include "runtime/job/preflight.h"
#include "runtime/job/state.h"

enum { SAMPLES_MAX = 1024 }; // iterations whose step times are kept, per rank: the last ones
static const double supervise_s = 0.1, ending_s = 0.5, hasty_ending_s = 0.1;

JobOptions job_options_default(void)
{
    return (JobOptions){.engine = &host_engine,
                        .iterations = 10,
                        .warmup = 1,
                        .routing = ROUTING_LEARNED,
                        .graphs = true,
                        .timeout_s = 60,
                        .learning_rate = -1,
                        .weight_decay = -1,
                        .balance = -1,
                        .training.validation_share = 0.1};
}

// At most: one may be due at once, another after the last iteration.
static size_t validation_count(const JobOptions *options)
{
    uint32_t every = options->training.validate_every;
    return every > 0 ? ((size_t)options->warmup + options->iterations) / every + 2 : 0;
}

static bool result_create(const Plan *plan, const JobOptions *options, JobResult *result, Fault *fault)
{
    result->ranks = cluster_gpus(&plan->cluster);
    result->iterations = options->iterations;
    result->engine = options->engine->name;
    result->processors = processors_allowed();
    result->processors_online = processors_online();
    result->iteration_s = calloc((size_t)options->iterations + 1, sizeof(*result->iteration_s));
    result->loss = calloc((size_t)options->iterations + 1, sizeof(*result->loss));
    result->apart = plan->sync.every > 0 ? engine_apart(plan) : 0;
    result->apart_loss = calloc((size_t)options->iterations * result->apart + 1, sizeof(*result->apart_loss));
    result->step_s = calloc(2 * (size_t)plan->step_count + 1, sizeof(*result->step_s));
    result->trace = calloc((size_t)options->trace_count * plan->step_count + 1, sizeof(*result->trace));
    result->validation = calloc(validation_count(options) + 1, sizeof(*result->validation));
    if (plan->capacity > 0)
        result->dropped = calloc((size_t)plan->choice_count + 1, sizeof(*result->dropped));
    if (options->count_choices)
        result->histogram = calloc(histogram_count(plan) + 1, sizeof(*result->histogram));
    if (options->keep_outputs)
        result->outputs = calloc(options->comm ? 1 : result->ranks, output_bytes(plan) + 1);
    result->rank_times = calloc(result->ranks, sizeof(*result->rank_times));
    if (!result->iteration_s || !result->loss || !result->apart_loss || !result->step_s || !result->trace ||
        !result->rank_times || !result->validation || (plan->capacity > 0 && !result->dropped) ||
        (options->count_choices && !result->histogram) || (options->keep_outputs && !result->outputs))
        return fault_set(fault, FAULT_MEMORY, "out of memory for the result");
    result->exposed_s = result->step_s + plan->step_count;
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
    bool trains = plan->pass == PASS_TRAINING;
    DataOptions data = {.path = options->data_path,
                        .sources = trains,
                        .validation_share = trains ? options->training.validation_share : 0,
                        .validates = options->training.validate_every > 0,
                        .interrupted = options->interrupted};
    atomic_store(&job->loss, NAN);
    if (!data_open(&data, &plan->model, &job->data, fault))
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
        return fault_set(fault, FAULT_MEMORY, "out of memory for %" PRIu64 " ranks", job->rank_count);
    return result_create(plan, options, job->result, fault);
}

// Of a rank of this process; NULL and a fault on failure.
static Comm *rank_join(const Job *job, uint64_t local, Fault *fault)
{
    if (!job->world)
        return job->options->comm;
    const EngineDevice *device = job->options->engine->device;
    return device ? device->join(job->world, local, fault) : thread_world_comm(job->world, local);
}

static Fault job_cause(const Job *job)
{
    return job->world ? thread_world_cause(job->world) : job->ranks[0].fault;
}

static void job_abort(Job *job, const Fault *cause)
{
    Comm *any = job->world ? thread_world_comm(job->world, 0) : job->options->comm;
    any->ops->abort(any, cause);
    if (job->reference)
        reference_stop(job->reference);
}

static void job_start(Job *job)
{
    for (uint64_t r = 0; r < job->local_count; r++) {
        Rank *rank = &job->ranks[r];
        rank->job = job;
        Fault fault = {0};
        rank->comm = rank_join(job, r, &fault);
        int error = rank->comm ? pthread_create(&rank->thread, NULL, rank_main, rank) : 0;
        if (!rank->comm || error) {
            fault_set(&fault, FAULT_RUN, "cannot start the thread of rank %" PRIu64 " of %" PRIu64 ": %s", r,
                      job->rank_count, strerror(error));
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
    JobProgress progress = {.phase = phase, .iteration = atomic_load(&job->iteration), .iterations = iterations};
    progress.loss = atomic_load(&job->loss);
    progress.has_loss = !isnan(progress.loss);
    double since_s = clock_now_s() - atomic_load(&job->measured_since_s);
    if (phase == JOB_RUNNING && progress.iteration > 0 && since_s > 0) {
        double each_s = since_s / progress.iteration;
        progress.tokens_per_s =
            (double)(model_tokens(&job->plan->model) * job->plan->micro_batches * job->rank_count) / each_s;
        progress.remaining_s = each_s * (iterations - progress.iteration);
    }
    return progress;
}

static void job_interrupt(Job *job, FaultKind kind)
{
    JobProgress at = job_progress(job);
    Fault fault = {0};
    switch (at.phase) {
    case JOB_PREPARING:
        fault_set(&fault, kind, "interrupted while ranks prepared");
        break;
    case JOB_WARMING_UP:
        fault_set(&fault, kind, "interrupted in warm-up iteration %" PRIu32 " of %" PRIu32, at.iteration + 1,
                  at.iterations);
        break;
    case JOB_RUNNING:
        fault_set(&fault, kind, "interrupted in iteration %" PRIu32 " of %" PRIu32, at.iteration + 1, at.iterations);
        break;
    case JOB_CHECKING:
        fault_set(&fault, kind, "interrupted while checking");
        break;
    }
    job_abort(job, &fault);
    atomic_store(&job->stopped, true);
}

typedef struct {
    Job *job;
    Text lines;
} JobState;

static void job_describe_state(void *context)
{
    JobState *state = context;
    Job *job = state->job;
    double now_s = clock_now_s();
    for (uint64_t r = 0; r < job->started; r++) {
        Rank *rank = &job->ranks[r];
        state_append(job->plan, rank->comm->rank, atomic_load(&rank->prepared) ? rank->interpreter : NULL, now_s,
                     &state->lines);
    }
}

// While ranks run: when memory has run out for these lines, there are none.
static void job_tell_state(Job *job)
{
    JobState state = {.job = job};
    Fault ignored = {0};
    if (memory_guard(job_describe_state, &state, &ignored) && state.lines.length > 0)
        job->options->tell_state(job->options->state_context, state.lines.data);
    text_free(&state.lines);
}

// After a signal: between iterations the ranks end by themselves, elsewhere, or without one of them, at once.
static void job_end_early(Job *job)
{
    const JobOptions *options = job->options;
    const Comm *comm = options->comm;
    JobProgress at = job_progress(job);
    double now_s = clock_now_s();
    job->signalled_s = job->signalled_s > 0 ? job->signalled_s : now_s;
    bool lost = comm && comm->ops->lost && comm->ops->lost(comm);
    if (lost || at.phase == JOB_PREPARING || at.phase == JOB_CHECKING) {
        job_interrupt(job, lost ? FAULT_RUN : FAULT_INTERRUPTED);
        return;
    }
    double told_s = job->signalled_s + (launcher_is_hasty() ? hasty_ending_s : ending_s);
    if (options->tell_ending && !job->ending_told && now_s >= told_s && (!comm || comm->rank == 0)) {
        job->ending_told = true;
        options->tell_ending(atomic_load(options->interrupted), &at);
    }
}

// Waits for all ranks that were started.
static void job_supervise(Job *job)
{
    const JobOptions *options = job->options;
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
        if (options->interrupted && atomic_load(options->interrupted) && !atomic_load(&job->stopped))
            job_end_early(job);
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
        free(job->ranks[r].skipped_steps);
        free(job->ranks[r].step_s);
        free(job->ranks[r].histogram);
        free(job->ranks[r].dropped);
        free(job->ranks[r].times.late_s);
        free(job->ranks[r].last_times);
        rank_training_end(&job->ranks[r]);
    }
    for (uint64_t r = 0; job->world && job->ranks && job->options->engine->device && r < job->local_count; r++)
        job->options->engine->device->leave(job->ranks[r].comm);
    free(job->ranks);
    job_training_close(job);
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
    if (n == 0)
        return true;
    double *sorted = malloc(n * sizeof(*sorted));
    if (!sorted)
        return false;
    memcpy(sorted, result->iteration_s, n * sizeof(*sorted));
    sort_doubles(sorted, n);
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
    host_kernels_init(options->comm ? 1 : cluster_gpus(&plan->cluster),
                      preflight_product_bytes(plan, options, samples));
    Job job = {.plan = plan, .options = options, .result = result, .sample_count = samples};
    bool ok = preflight_agree(options->comm, job_create(&job, fault), fault) && job_training_open(&job, fault);
    if (ok) {
        job_start(&job);
        if (job.ranks[0].comm)
            result->communicator = communicator_info(job.ranks[0].comm->ops->communicator)->name;
        job_supervise(&job);
        Fault cause = job_cause(&job);
        if (cause.kind != FAULT_NONE) {
            *fault = cause;
            ok = false;
        }
    }
    job_destroy(&job);
    return ok && (result_summarise(result) || fault_set(fault, FAULT_MEMORY, "out of memory for the result"));
}

void job_result_free(JobResult *result)
{
    free(result->iteration_s);
    free(result->loss);
    free(result->apart_loss);
    free(result->step_s);
    free(result->trace);
    free(result->histogram);
    free(result->resumed);
    free(result->resumed_otherwise);
    free(result->dropped);
    free(result->validation);
    free(result->rank_times);
    free(result->outputs);
    *result = (JobResult){0};
}
