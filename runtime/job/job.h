// A job: the ranks of a plan, from weights to measured times; either all of them as threads of this process, or
// this process's one rank of a world of processes. What main calls, and what tests call.
#ifndef HEP_JOB_H
#define HEP_JOB_H

#include <stdatomic.h>

#include "runtime/check/check.h"
#include "runtime/comm/waits.h"
#include "runtime/engine/interpreter.h"

typedef enum { JOB_PREPARING, JOB_WARMING_UP, JOB_RUNNING, JOB_CHECKING } JobPhase;

typedef struct {
    JobPhase phase;
    uint32_t iteration, iterations; // done of the phase's
    bool has_loss;
    double loss;                      // of the last iteration, mean over ranks
    double tokens_per_s, remaining_s; // 0 while unknown
} JobProgress;

// Of training plans.
typedef struct {
    const char *checkpoint;    // directory to write to, or NULL
    uint32_t checkpoint_every; // iterations; 0: after the last one only
    const char *resume;        // checkpoint, or directory of them, to resume from; NULL
    uint64_t until;            // iteration, of the whole training, to stop after: see job_until; 0: `iterations` say
    bool other_data;           // also where that saw other data, or another seed
    uint32_t validate_every;   // iterations; 0: never
    double validation_share;   // of the bytes of the data
    bool skip_nonfinite;       // skip updates whose loss or gradient is not finite
    const char *loss_log;      // CSV file, a row per iteration as it happens; NULL
} TrainingOptions;

typedef struct {
    const EngineOps *engine;
    Comm *comm;                  // this process is one rank of this world; NULL: all ranks are threads of this process
    uint32_t iterations, warmup; // measured; before them
    uint64_t seed;
    const char *data_path; // a file to take tokens from; NULL: generated
    Routing routing;
    double learning_rate, weight_decay, balance; // instead of the plan's; negative: the plan's
    bool seed_given;                             // otherwise a resumed training keeps its own
    TrainingOptions training;
    bool emulate_links, check;
    bool overwrite;     // files of an earlier run, instead of renaming them
    bool graphs;        // replay iterations as a whole where the engine can
    bool keep_outputs;  // JobResult.outputs
    bool count_choices; // JobResult.histogram
    double timeout_s;
    const uint64_t *trace_ranks; // [trace_count] whose last iteration is kept, ascending: JobResult.trace
    uint32_t trace_count;
    // The number of a signal, once one asks for the end: then the job ends after the iteration under way, with a
    // checkpoint, and elsewhere at once. May be NULL.
    const atomic_int *interrupted;
    // When that iteration takes long after the signal, once, in the process of rank 0; may be NULL.
    void (*tell_ending)(int signal, const JobProgress *progress);
    void (*warn)(const char *line);                               // in the process of rank 0; may be NULL
    void (*progress)(void *context, const JobProgress *progress); // a few times a second; may be NULL
    void *progress_context;
    atomic_int *state_asked;                              // set to have the state reported; reset here; may be NULL
    void (*tell_state)(void *context, const char *lines); // of this process's ranks, one line per stream
    void *state_context;
} JobOptions;

JobOptions job_options_default(void);

// For a training that is to run until an iteration, sets how many are left, 0 where it is there already. A checkpoint
// to resume that is not there yet, in the directory that is written to, is no error: the training begins. One that is
// damaged is set aside, with a warning, for the one before it, whose path is put into *resumed (malloc'ed) and the
// options. False and a fault where none can be read. Collective in a world of processes.
bool job_until(JobOptions *options, char **resumed, Fault *fault) MUST_CHECK;

// Bytes that left a GPU in one iteration over one level. Numbers only.
#define HEP_TRAFFIC(key, ...) double key;
typedef struct {
#include "runtime/comm/measures.def"
} JobTraffic;

typedef struct {
    uint64_t iteration; // after which it was evaluated, from 1
    double loss;        // mean over ranks and their batches of held-out data
} Validation;

typedef struct {
    uint32_t count;     // written
    uint64_t iteration; // after which the last was written, from 1
    uint64_t bytes;     // of that
    double sum_s, max_s;
} CheckpointTimes;

typedef struct {
    const char *engine, *communicator;
    uint32_t processors, processors_online; // that this process may use, and that the machine has
    bool replays;                           // the engine executed iterations as a whole,
    const char *replay_refusal;             // or why it did not; NULL where it never does
    const char *expert_refusal; // why experts are not multiplied by the fastest instructions; NULL: they are
    uint64_t ranks, seed;
    uint32_t iterations;      // measured; fewer than asked for where a signal ended the run
    int signal;               // that did; 0: the run is complete
    uint64_t done, planned;   // iterations, warm-up included, of the whole training
    uint64_t first_iteration; // number of the first measured one in the whole training, from 1
    char *resumed;            // the checkpoint that was gone on from, or NULL
    bool same_strategy;       // it was written by: every rank continues bit by bit
    char *resumed_otherwise;  // settings that are not the checkpoint's, "NAME VALUE, was VALUE; ..."; NULL: none
    Validation *validation;   // [validation_count]
    uint32_t validation_count;
    uint64_t skipped; // iterations of this run without an update
    CheckpointTimes checkpoints;
    bool has_loss;
    double *iteration_s; // [iterations] slowest rank's
    double *loss;        // [iterations] mean over ranks; not finite where the update was skipped
    uint32_t apart;      // workers that train apart; 0: none do
    double *apart_loss;  // [iterations][apart] the same of each one's ranks
    double *step_s;      // [plan->step_count] median over iterations of the slowest rank
    double *exposed_s;   // [plan->step_count] waits for migration alone (exposure.h), mean; of who waited most
    double min_s, median_s, max_s;
    JobTraffic traffic[LEVELS_MAX];
    CheckVerdict check;
    RankTimes *rank_times; // [ranks], means over iterations
    // [trace_count][plan->step_count], seconds from the start of the iteration: of the first rank where all ranks are
    // on one machine and share its clock, else from when the rank itself began.
    StepTime *trace;
    // [choice_count] what the gate chose and dropped beyond the capacity, of all ranks, as a share of what it chose, in
    // all measured iterations; NULL where there is no capacity.
    double *dropped;
    double *histogram; // [choice_count][experts] how often tokens of all ranks chose each, in all measured iterations
    // Final hidden states of the last iteration, in the model's dtype: [ranks of this process][tokens][hidden].
    void *outputs;
} JobResult;

// False and a fault on failure; the result may be freed either way. In a world of processes every rank calls it, and
// every rank gets the whole result. A failed check is no fault. The plan must
// have passed plan_verify.
bool job_run(const Plan *plan, const JobOptions *options, JobResult *result, Fault *fault) MUST_CHECK;
void job_result_free(JobResult *result);

#endif
