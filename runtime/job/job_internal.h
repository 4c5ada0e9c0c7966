// A job's two halves share this: job.c starts, supervises and ends the ranks of this process, job_rank.c is what one of
// them does, job_reduce.c how they make the result together.
#ifndef HEP_JOB_INTERNAL_H
#define HEP_JOB_INTERNAL_H

#include <pthread.h>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/comm/comm_threads.h"
#include "runtime/comm/links.h"
#include "runtime/job/job.h"
#include "runtime/training/data.h"
#include "runtime/training/loss_log.h"

typedef struct Job Job;

// What training adds to a rank: see job_training.c.
typedef struct {
    bool *evaluation;         // [step] skipped when the loss is evaluated; NULL where it never is
    bool *before_update;      // [step] skipped until the update is decided on; NULL where it is not asked
    bool *update;             // [step] skipped in the update
    bool *skipped_steps;      // [step] of the half under way
    double *losses;           // of the last iteration: mean over ranks, then of those of each worker that trains apart
    int32_t *tokens;          // of the iteration under way
    char *kept;               // contents of persistent buffers, while steps run that may be undone
    bool *kept_by_evaluation; // [buffer]
    bool *kept_by_update;     // [buffer]
    uint64_t updates;         // of the optimizer, so far
    uint32_t skipped_in_row;
    _Atomic double alive_s; // CLOCK_MONOTONIC of the last sign of life outside the steps
    CommTimes discarded;    // of collectives of evaluations
} RankTraining;

typedef struct {
    Job *job;
    Comm *comm;
    Engine *engine;
    Interpreter *interpreter;
    atomic_bool prepared;            // the supervisor may look at the interpreter
    float *samples;                  // [step][SAMPLES_MAX or iterations]
    double *step_s;                  // [step] medians
    double *exposed_s;               // [step] after these: waits for migration alone, summed over measured iterations
    double *dropped;                 // [choice_count] of the last iteration, of all ranks, or NULL
    double *histogram;               // [choice][expert] of this rank's tokens, or NULL
    bool *skipped_steps;             // [step] of the iteration under way
    uint32_t measured;               // iterations so far
    uint32_t measured_whole;         // of these, in which packets held whole values
    int signal;                      // that asked, here or in another process, to end after this iteration; 0
    double compute_s;                // of the measured iterations
    CommTimes times;                 // of its collectives, late_s and last_s in one piece
    double start_s;                  // of the last iteration
    StepTime *last_times;            // [step] of the last measured one
    CommTraffic traffic[LEVELS_MAX]; // of the measured iterations, validation excluded
    RankTraining training;
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
    Checkpoint *resumed;        // NULL: from the beginning
    CheckpointDir *checkpoints; // NULL: none are written
    LossLog *loss_log;          // NULL but in the process of rank 0
    TrainingPoint begin;        // of this run
    ThreadWorld *world;         // NULL in a world of processes
    Rank *ranks;                // this process's
    uint64_t rank_count, local_count, started;
    uint32_t sample_count;
    pthread_mutex_t mutex; // guards ended
    pthread_cond_t ended_changed;
    uint64_t ended;
    _Atomic uint32_t phase, iteration; // of the first rank of this process
    _Atomic double loss, measured_since_s;
    atomic_bool stopped; // the run was interrupted: what takes long outside the steps ends soon
    double signalled_s;  // of the supervisor: when it saw a signal; 0: none yet
    bool ending_told;    // likewise
};

// Runs a rank; the argument is a Rank, the result NULL.
void *rank_main(void *argument);
// The rank of this process that writes the result: reductions give it to every rank.
static inline bool rank_is_first(const Rank *rank)
{
    return rank == rank->job->ranks;
}

static inline size_t histogram_count(const Plan *plan)
{
    return (size_t)plan->choice_count * plan->model.experts;
}

uint64_t output_bytes(const Plan *plan); // of one rank's final hidden states

// Runs the steps of an iteration that has begun: all, or without the update where that is to be skipped. *loss becomes
// the mean over ranks; a loss that is not finite is a fault unless updates may be skipped.
bool rank_training_run(Rank *rank, uint64_t iteration, double *loss) MUST_CHECK;
bool rank_training_prepare(Rank *rank) MUST_CHECK; // after the engine's creation: resumes, sets memory aside
void rank_training_end(Rank *rank);
// Gives the engine the inputs of an iteration.
bool rank_training_begin(Rank *rank, DataPart part, uint64_t iteration, double *learning_rate) MUST_CHECK;
// After an iteration, of which `done` are done: evaluates, writes a checkpoint and the log, where it is time to.
bool rank_training_follow(Rank *rank, uint64_t done, const LossRow *row) MUST_CHECK;
// What all ranks of this process share: the checkpoint to resume from, the directory for new ones. Collective in a
// world of processes.
bool job_training_open(Job *job, Fault *fault) MUST_CHECK;
void job_training_close(Job *job);

// Everything a rank does after its last iteration, in the order in which all ranks do it.
bool rank_reduce(Rank *rank);

#endif
