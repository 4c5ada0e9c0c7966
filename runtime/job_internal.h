// A job's two halves share this: job.c starts, supervises and ends the ranks of this process, job_rank.c is what one of
// them does, job_reduce.c how they make the result together.
#ifndef HEP_JOB_INTERNAL_H
#define HEP_JOB_INTERNAL_H

#include <pthread.h>

#include "runtime/comm_threads.h"
#include "runtime/job.h"
#include "runtime/links.h"


typedef struct Job Job;

typedef struct {
    Job *job;
    Comm *comm;
    Engine *engine;
    Interpreter *interpreter;
    atomic_bool prepared; // the supervisor may look at the interpreter
    float *samples;       // [step][SAMPLES_MAX or iterations]
    double *step_s;       // [step] medians
    double *exposed_s;    // [step] behind these: waits for migration alone, summed over measured iterations
    double *histogram;    // [choice][expert] of this rank's tokens, or NULL
    bool *left_out;       // [step] of the iteration under way
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

// Runs a rank; the argument is a Rank, the result NULL.
void *rank_main(void *argument);
// The rank of this process that writes the result: reductions give it to every rank.
bool rank_is_first(const Rank *rank);
size_t histogram_count(const Plan *plan);
uint64_t output_bytes(const Plan *plan); // of one rank's final hidden states

// Everything a rank does behind its last iteration, in the order in which all ranks do it.
bool rank_reduce(Rank *rank);

#endif
