// What training adds to a rank's iterations: where it continues from, the learning rate, evaluation of held-out data,
// updates that are skipped, checkpoints. Collective where a rank talks to others, in the same order on all.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/engine/nonfinite.h"
#include "runtime/job/job_internal.h"
#include "runtime/job/preflight.h"
#include "runtime/training/step_sets.h"
#include "runtime/training/training.h"

enum {
    VALIDATION_BATCHES = 4,  // per rank and evaluation, the same every time
    SKIPPED_IN_ROW_MAX = 20, // a training that has come to nothing ends
};

// ---- where it continues from -------------------------------------------------------------------

static const char *data_kind(const DataIdentity *data)
{
    return data->generated ? "generated data" : "a file";
}

static bool check_data(const Job *job, const TrainingPoint *saved, const char *path, Fault *fault)
{
    const DataIdentity *now = &job->data.identity, *then = &saved->data;
    if (job->options->training.other_data)
        return true;
    if (job->options->seed_given && job->options->seed != saved->seed)
        return fault_set(fault, FAULT_INPUT,
                         "%s: its seed is %" PRIu64 ", --seed %" PRIu64 ": leave that out, or give --other-data", path,
                         saved->seed, job->options->seed);
    if (now->generated != then->generated)
        return fault_set(fault, FAULT_INPUT,
                         "%s: it was trained on %s, this run has %s: give the same --data, or --other-data", path,
                         data_kind(then), data_kind(now));
    if (now->bytes == then->bytes && now->crc == then->crc)
        return true;
    return fault_set(fault, FAULT_INPUT,
                     "%s: it was trained on a file of %" PRIu64 " bytes with checksum %08" PRIx32
                     ", --data has %" PRIu64 " with %08" PRIx32 ": give the same file, or --other-data",
                     path, then->bytes, then->crc, now->bytes, now->crc);
}

// Whether the checkpoint is whole, as far as this process looks; then how far it is.
static bool is_sound(const char *path, const Comm *comm, uint64_t *done, Fault *fault)
{
    Checkpoint *checkpoint = checkpoint_open(path, fault);
    bool ok = checkpoint && checkpoint_verify(checkpoint, comm ? comm->rank : 0, comm ? comm->size : 1, fault);
    if (ok)
        *done = checkpoint_point(checkpoint).iteration;
    checkpoint_close(checkpoint);
    return ok;
}

// In any process of the world.
static bool any(Comm *comm, bool own)
{
    double most = own;
    Fault ignored = {0};
    return (comm && !comm->ops->all_reduce_max(comm, &most, 1, &ignored)) || most > 0;
}

// Tells of it, unless another process knows more.
static bool step_back(const JobOptions *options, const char *path, const char *before, const Fault *cause, Fault *fault)
{
    char *aside = NULL;
    Text line = {0};
    *fault = (Fault){0};
    if (checkpoint_set_aside(path, &aside, fault) && options->warn) {
        text_format(&line, "%s; it is now %s, and the run resumes from %s",
                    cause->message[0] ? cause->message : "a file of the last checkpoint is damaged", aside, before);
        options->warn(line.data);
        text_free(&line);
    }
    free(aside);
    return fault->kind == FAULT_NONE;
}

// The last checkpoint of the directory that is whole. What follows it is set aside: training writes it again.
static bool find_sound(const JobOptions *options, char **path, uint64_t *done, Fault *fault)
{
    Comm *comm = options->comm;
    bool first = !comm || comm->rank == 0;
    *path = checkpoint_last(options->training.resume, fault);
    if (!preflight_agree(comm, *path != NULL, fault))
        return false;
    for (;;) {
        Fault own = {0};
        bool ok = is_sound(*path, comm, done, &own);
        *fault = own;
        if (preflight_agree(comm, ok, fault))
            return true;
        char *before = checkpoint_before(*path);
        bool stays = any(comm, !before || (!ok && own.kind != FAULT_INPUT && own.kind != FAULT_IO));
        if (!stays && !preflight_agree(comm, !first || step_back(options, *path, before, &own, fault), fault))
            stays = true;
        free(stays ? before : *path);
        if (stays)
            return false;
        *path = before;
        *fault = (Fault){0};
    }
}

bool job_until(JobOptions *options, char **resumed, Fault *fault)
{
    TrainingOptions *training = &options->training;
    if (training->resume && training->checkpoint && strcmp(training->resume, training->checkpoint) == 0 &&
        !checkpoint_exists(training->resume))
        training->resume = NULL;
    uint64_t done = 0;
    bool loops = training->resume && training->checkpoint && strcmp(training->resume, training->checkpoint) == 0;
    if (loops) {
        if (!find_sound(options, resumed, &done, fault))
            return false;
        training->resume = *resumed;
    } else if (training->resume) {
        Checkpoint *checkpoint = checkpoint_open(training->resume, fault);
        if (!checkpoint)
            return false;
        done = checkpoint_point(checkpoint).iteration;
        checkpoint_close(checkpoint);
    }
    options->iterations = (uint32_t)(done < training->until ? training->until - done : 0);
    return true;
}

// What the run learns with that the checkpoint's did not, and on.
static void tell_settings(Job *job, const TrainingPoint *saved)
{
    const DataIdentity *now = &job->data.identity, *then = &saved->data;
    Text text = {0}, line = {0};
    settings_compare(&saved->settings, &job->begin.settings, &text);
    const char *separator = text.length > 0 ? "; " : "";
    if (now->generated != then->generated)
        text_format(&text, "%sdata %s, was %s", separator, data_kind(now), data_kind(then));
    else if (now->bytes != then->bytes || now->crc != then->crc)
        text_format(&text, "%sdata of %" PRIu64 " bytes with checksum %08" PRIx32 ", was %" PRIu64 " with %08" PRIx32,
                    separator, now->bytes, now->crc, then->bytes, then->crc);
    if (job->options->seed_given && job->options->seed != saved->seed)
        text_format(&text, "%sseed %" PRIu64 ", was %" PRIu64, text.length > 0 ? "; " : "", job->options->seed,
                    saved->seed);
    if (text.length > 0 && job->options->warn && (!job->options->comm || job->options->comm->rank == 0)) {
        text_format(&line, "resumed with other settings than before: %s", text.data);
        job->options->warn(line.data);
        text_free(&line);
    }
    job->result->resumed_otherwise = text.data;
}

static bool open_resumed(Job *job, Fault *fault)
{
    const char *path = job->options->training.resume;
    if (!path)
        return true;
    job->resumed = checkpoint_open(path, fault);
    if (!job->resumed || !checkpoint_fits(job->resumed, job->plan, fault))
        return false;
    TrainingPoint saved = checkpoint_point(job->resumed);
    if (!check_data(job, &saved, checkpoint_path(job->resumed), fault))
        return false;
    job->begin.iteration = saved.iteration;
    job->begin.skipped = saved.skipped;
    tell_settings(job, &saved);
    if (!job->options->seed_given)
        job->begin.seed = saved.seed;
    job->result->resumed = strdup(checkpoint_path(job->resumed));
    job->result->same_strategy = checkpoint_is_same_strategy(job->resumed, job->plan);
    return job->result->resumed || fault_set(fault, FAULT_MEMORY, "out of memory for the result");
}

// Every process must have read the same checkpoint and the same data.
static bool same_files(const Job *job, Fault *fault)
{
    enum { RESUMED, BYTES, CRC, COUNT };
    static const char *const names[COUNT] = {"checkpoint to resume", "file of --data", "file of --data"};
    Comm *comm = job->options->comm;
    const DataIdentity *data = &job->data.identity;
    double own[COUNT] = {job->resumed ? checkpoint_sum(job->resumed) : 0, (double)data->bytes, data->crc}, first[COUNT];
    for (int i = 0; i < COUNT; i++)
        first[i] = comm && comm->rank == 0 ? own[i] : -INFINITY;
    if (comm && !comm->ops->all_reduce_max(comm, first, COUNT, fault))
        return false;
    for (int i = 0; comm && i < COUNT; i++)
        if (own[i] != first[i]) {
            fault_set(fault, FAULT_RUN, "read another %s than rank 0", names[i]);
            fault->rank = (int64_t)comm->rank;
            return false;
        }
    return true;
}

static bool open_outputs(Job *job, Fault *fault)
{
    const TrainingOptions *training = &job->options->training;
    bool first = !job->options->comm || job->options->comm->rank == 0;
    uint64_t iterations = (uint64_t)job->options->warmup + job->options->iterations;
    uint64_t written = training->checkpoint_every > 0 ? iterations / training->checkpoint_every + 1 : 1;
    if (training->checkpoint)
        job->checkpoints =
            checkpoint_dir_open(training->checkpoint, job->plan, job->begin.iteration, written, first, fault);
    if (training->checkpoint && !job->checkpoints)
        return false;
    if (training->loss_log && first)
        job->loss_log =
            loss_log_open(training->loss_log, job->begin.iteration, job->plan, job->options->overwrite, fault);
    return !training->loss_log || !first || job->loss_log;
}

bool job_training_open(Job *job, Fault *fault)
{
    Comm *comm = job->options->comm;
    TrainingSettings settings = preflight_training(job->plan, job->options);
    job->begin = (TrainingPoint){.seed = job->options->seed,
                                 .data = job->data.identity,
                                 .settings = settings_of(job->plan, &settings, job->options->routing)};
    if (!preflight_agree(comm, open_resumed(job, fault), fault) ||
        !preflight_agree(comm, same_files(job, fault), fault))
        return false;
    job->result->seed = job->begin.seed;
    job->result->first_iteration = job->begin.iteration + job->options->warmup + 1;
    return preflight_agree(comm, open_outputs(job, fault), fault);
}

void job_training_close(Job *job)
{
    checkpoint_dir_close(job->checkpoints);
    checkpoint_close(job->resumed);
    loss_log_close(job->loss_log);
}

// ---- a rank's part ---------------------------------------------------------------------------

static CheckpointRank checkpoint_rank(Rank *rank)
{
    return (CheckpointRank){.plan = rank->job->plan,
                            .ops = rank->job->options->engine,
                            .engine = rank->engine,
                            .comm = rank->comm,
                            .stopped = &rank->job->stopped,
                            .alive_s = &rank->training.alive_s};
}

static uint64_t kept_bytes(const Plan *plan, const bool *buffers)
{
    uint64_t bytes = 0;
    for (uint32_t b = 0; buffers && b < plan->buffer_count; b++)
        bytes += buffers[b] ? buffer_bytes(&plan->buffers[b]) : 0;
    return bytes;
}

// Copies the contents of the buffers out, or back in.
static bool keep(Rank *rank, const bool *buffers, bool back)
{
    const Plan *plan = rank->job->plan;
    const EngineOps *ops = rank->job->options->engine;
    char *at = rank->training.kept;
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        uint64_t bytes = buffers[b] ? buffer_bytes(&plan->buffers[b]) : 0;
        if (bytes > 0 && !(back ? ops->write(rank->engine, b, 0, bytes, at, &rank->fault)
                                : ops->read(rank->engine, b, 0, bytes, at, &rank->fault)))
            return false;
        at += bytes;
    }
    return true;
}

static uint64_t micro_batch_tokens(const Plan *plan)
{
    return plan->model.batch * (plan->model.sequence + 1ull);
}

static bool allocate(Rank *rank)
{
    const Plan *plan = rank->job->plan;
    RankTraining *training = &rank->training;
    size_t steps = (size_t)plan->step_count + 1, buffers = (size_t)plan->buffer_count + 1;
    training->discarded.late_s = calloc(2 * rank->job->rank_count, sizeof(double));
    training->tokens = calloc(plan->micro_batches * micro_batch_tokens(plan) + 1, sizeof(int32_t));
    training->losses = calloc(rank->job->result->apart + 1ull, sizeof(double));
    bool ok = training->discarded.late_s && training->tokens && training->losses;
    if (ok)
        training->discarded.last_s = training->discarded.late_s + rank->job->rank_count;
    if (ok && rank->job->options->training.validate_every > 0) {
        training->evaluation = calloc(steps, sizeof(bool));
        training->kept_by_evaluation = calloc(buffers, sizeof(bool));
        ok = training->evaluation && training->kept_by_evaluation;
    }
    if (ok && rank->job->options->training.skip_nonfinite) {
        training->before_update = calloc(steps, sizeof(bool));
        training->update = calloc(steps, sizeof(bool));
        training->skipped_steps = calloc(steps, sizeof(bool));
        training->kept_by_update = calloc(buffers, sizeof(bool));
        ok = training->before_update && training->update && training->skipped_steps && training->kept_by_update;
    }
    return ok;
}

static bool choose_steps(Rank *rank)
{
    const Plan *plan = rank->job->plan;
    RankTraining *training = &rank->training;
    if (training->evaluation && !step_sets_evaluation(plan, training->evaluation))
        return fault_set(&rank->fault, FAULT_INPUT, "the plan computes no loss: there is nothing to validate");
    if (training->evaluation && !step_sets_written(plan, training->evaluation, training->kept_by_evaluation))
        return fault_set(&rank->fault, FAULT_MEMORY, "out of memory for sets of steps");
    if (training->update && !step_sets_update(plan, training->before_update, training->update))
        return fault_set(&rank->fault, FAULT_INPUT,
                         "the plan uses the memory of gradients again before its last update: --skip-nonfinite cannot "
                         "hold that back");
    return !training->update || step_sets_written(plan, training->before_update, training->kept_by_update) ||
           fault_set(&rank->fault, FAULT_MEMORY, "out of memory for sets of steps");
}

bool rank_training_prepare(Rank *rank)
{
    const Job *job = rank->job;
    RankTraining *training = &rank->training;
    training->updates = job->begin.iteration - job->begin.skipped;
    if (!allocate(rank))
        return fault_set(&rank->fault, FAULT_MEMORY, "out of memory");
    if (!choose_steps(rank))
        return false;
    uint64_t evaluation = kept_bytes(job->plan, training->kept_by_evaluation);
    uint64_t update = kept_bytes(job->plan, training->kept_by_update);
    training->kept = malloc((evaluation > update ? evaluation : update) + 1);
    if (!training->kept)
        return fault_set(&rank->fault, FAULT_MEMORY, "out of memory for a copy of what codecs remember");
    CheckpointRank of = checkpoint_rank(rank);
    return !job->resumed || checkpoint_read(job->resumed, &of, &rank->fault);
}

void rank_training_end(Rank *rank)
{
    RankTraining *training = &rank->training;
    free(training->evaluation);
    free(training->before_update);
    free(training->update);
    free(training->skipped_steps);
    free(training->kept_by_evaluation);
    free(training->kept_by_update);
    free(training->tokens);
    free(training->losses);
    free(training->kept);
    free(training->discarded.late_s);
}

bool rank_training_begin(Rank *rank, DataPart part, uint64_t iteration, double *learning_rate)
{
    const Job *job = rank->job;
    TrainingSettings settings = preflight_training(job->plan, job->options);
    bool trains = part == DATA_TRAINING;
    EngineIteration of = {.tokens = rank->training.tokens,
                          .update = trains ? rank->training.updates + 1 : 1,
                          .learning_rate = trains ? (float)training_rate(&settings, iteration) : 0,
                          .whole = rank->training.updates < job->plan->whole_iterations};
    uint32_t micro_batches = job->plan->micro_batches;
    for (uint32_t i = 0; i < micro_batches && job->plan->model.vocabulary > 0; i++) {
        DataBatch batch = {.seed = job->begin.seed,
                           .rank = rank->comm->rank,
                           .iteration = iteration * micro_batches + i,
                           .part = part};
        int32_t *tokens = rank->training.tokens + i * micro_batch_tokens(job->plan);
        if (!data_fill(&job->data, &job->plan->model, &batch, tokens, &rank->fault))
            return false;
    }
    job->options->engine->begin(rank->engine, &of);
    *learning_rate = (double)of.learning_rate;
    return true;
}

// ---- numbers that are not finite -------------------------------------------------------------

// The first step of all ranks whose output is not finite, and the lowest of the ranks it is so on. The same on all.
static bool locate(Rank *rank, int64_t *step, int64_t *on)
{
    const Job *job = rank->job;
    const CommOps *comm = rank->comm->ops;
    int64_t own = job->options->engine->result(rank->engine).nonfinite_step;
    if (own < 0)
        own = nonfinite_step(job->plan, job->options->engine, rank->engine, job->plan->step_count);
    double first = own < 0 ? -INFINITY : -(double)own;
    if (!comm->all_reduce_max(rank->comm, &first, 1, &rank->fault))
        return false;
    *step = isfinite(first) ? (int64_t)-first : -1;
    double lowest = own == *step ? -(double)rank->comm->rank : -INFINITY;
    if (!comm->all_reduce_max(rank->comm, &lowest, 1, &rank->fault))
        return false;
    *on = (int64_t)-lowest;
    return true;
}

static bool not_finite(Rank *rank, uint64_t iteration)
{
    int64_t step, on;
    if (!locate(rank, &step, &on))
        return false;
    fault_set(&rank->fault, FAULT_RUN, "the loss of iteration %" PRIu64 " is not a finite number%s", iteration + 1,
              step >= 0 ? "; this is the first output that is not" : "; no output was found to be the first");
    rank->fault.rank = step >= 0 ? on : -1;
    rank->fault.step = step;
    return false;
}

static bool mean_loss(Rank *rank, double *loss)
{
    EngineResult result = rank->job->options->engine->result(rank->engine);
    double *losses = rank->training.losses, ranks = (double)rank->job->rank_count;
    uint32_t apart = rank->job->result->apart;
    memset(losses, 0, (apart + 1) * sizeof(*losses));
    losses[0] = result.has_loss ? result.loss : 0;
    if (apart > 0)
        losses[1 + rank->comm->rank / (rank->job->rank_count / apart)] = losses[0];
    if (!rank->comm->ops->all_reduce_sum(rank->comm, losses, apart + 1, &rank->fault))
        return false;
    for (uint32_t w = 0; w < apart; w++)
        losses[1 + w] /= ranks / apart;
    losses[0] /= ranks;
    *loss = losses[0];
    return true;
}

// Those of a half of the iteration, less what is not of this iteration at all.
static bool run_half(Rank *rank, const bool *half)
{
    bool *skipped_steps = rank->training.skipped_steps;
    for (uint32_t s = 0; s < rank->job->plan->step_count; s++)
        skipped_steps[s] = half[s] || rank->skipped_steps[s];
    return interpreter_run(rank->interpreter, skipped_steps, &rank->fault);
}

// Everything but the update; then that, if loss and gradients are finite on all ranks.
static bool run_in_two(Rank *rank, uint64_t iteration)
{
    const Job *job = rank->job;
    RankTraining *training = &rank->training;
    if (!keep(rank, training->kept_by_update, false) || !run_half(rank, training->before_update))
        return false;
    bool finite = isfinite(job->options->engine->result(rank->engine).loss) &&
                  nonfinite_free_gradients(job->plan, job->options->engine, rank->engine);
    double skips = !finite;
    if (!rank->comm->ops->all_reduce_max(rank->comm, &skips, 1, &rank->fault))
        return false;
    if (skips == 0) {
        training->updates++;
        training->skipped_in_row = 0;
        return run_half(rank, training->update);
    }
    if (rank_is_first(rank))
        job->result->skipped++;
    if (++training->skipped_in_row < SKIPPED_IN_ROW_MAX)
        return keep(rank, training->kept_by_update, true);
    fault_set(&rank->fault, FAULT_RUN,
              "the updates of the last %d iterations, up to %" PRIu64
              ", were skipped because loss or gradients were not finite",
              SKIPPED_IN_ROW_MAX, iteration + 1);
    rank->fault.rank = 0;
    return false;
}

bool rank_training_run(Rank *rank, uint64_t iteration, double *loss)
{
    if (rank->training.update)
        return run_in_two(rank, iteration) && mean_loss(rank, loss);
    if (!interpreter_run(rank->interpreter, rank->skipped_steps, &rank->fault))
        return false;
    rank->training.updates++;
    return mean_loss(rank, loss) && (isfinite(*loss) || not_finite(rank, iteration));
}

// ---- after an iteration ---------------------------------------------------------------------

// The mean loss of held-out data; nothing that outlives an iteration changes, and nothing of it is counted.
static bool evaluate(Rank *rank, double *mean)
{
    const CommOps *comm = rank->comm->ops;
    RankTraining *training = &rank->training;
    CommTraffic discarded[LEVELS_MAX] = {0};
    comm->traffic(rank->comm, rank->traffic, true);
    comm->times(rank->comm, &rank->times, true);
    bool ok = keep(rank, training->kept_by_evaluation, false);
    *mean = 0;
    for (uint32_t b = 0; ok && b < VALIDATION_BATCHES; b++) {
        double loss, unused;
        ok = rank_training_begin(rank, DATA_VALIDATION, b, &unused) && comm->barrier(rank->comm, &rank->fault) &&
             interpreter_run(rank->interpreter, training->evaluation, &rank->fault) && mean_loss(rank, &loss);
        *mean += ok ? loss / VALIDATION_BATCHES : 0;
    }
    ok = ok && keep(rank, training->kept_by_evaluation, true);
    comm->traffic(rank->comm, discarded, true);
    comm->times(rank->comm, &training->discarded, true);
    return ok;
}

static bool write_checkpoint(Rank *rank, uint64_t done)
{
    Job *job = rank->job;
    CheckpointRank of = checkpoint_rank(rank);
    TrainingPoint point = job->begin;
    point.iteration = done;
    point.skipped = done - rank->training.updates;
    uint64_t bytes;
    double begin_s = clock_now_s();
    if (!checkpoint_write(job->checkpoints, &of, &point, &bytes, &rank->fault))
        return false;
    double time_s = clock_now_s() - begin_s;
    CheckpointTimes *times = &job->result->checkpoints;
    if (rank_is_first(rank))
        *times = (CheckpointTimes){times->count + 1, done, bytes, times->sum_s + time_s, fmax(times->max_s, time_s)};
    return true;
}

bool rank_training_follow(Rank *rank, uint64_t done, const LossRow *row)
{
    Job *job = rank->job;
    const TrainingOptions *options = &job->options->training;
    LossRow complete = *row;
    bool last = done == job->begin.iteration + job->options->warmup + job->options->iterations;
    if (options->validate_every > 0 && (last || done % options->validate_every == 0)) {
        if (!evaluate(rank, &complete.validation))
            return false;
        complete.validated = true;
        if (rank_is_first(rank))
            job->result->validation[job->result->validation_count++] = (Validation){done, complete.validation};
    }
    if (rank_is_first(rank) && job->loss_log && !loss_log_add(job->loss_log, &complete, &rank->fault))
        return false;
    bool due = last || rank->signal != 0 || (options->checkpoint_every > 0 && done % options->checkpoint_every == 0);
    return !job->checkpoints || !due || write_checkpoint(rank, done);
}
