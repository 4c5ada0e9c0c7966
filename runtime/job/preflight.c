// What is looked at before anything is allocated: the plan can be executed, the world fits it, its processes were
// given the same options, the machine has the memory and the threads. Owns nothing.
#include "runtime/job/preflight.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engines/engine_memory.h"
#include "ir/base/text.h"
#include "kernels/host/kernels.h"
#include "runtime/base/machine.h"
#include "runtime/comm/comm_mpi.h"

enum { PLANNED_MAX = 128 };

// Structure that the planner knows and no kernel computes.
static bool check_layers(const Plan *plan, Fault *fault)
{
    if (plan->model.expert_bits > 0)
        return fault_set(fault, FAULT_INPUT,
                         "experts of %.4g bits a weight: can be simulated, not executed; plan with 'weights = full'",
                         plan->model.expert_bits);
    if (plan->model.zero_experts > 0)
        return fault_set(fault, FAULT_INPUT,
                         "experts that compute nothing ('zero_experts'): can be simulated, not "
                         "executed");
    for (uint32_t k = 0; k < plan->layer_count; k++) {
        if (plan->layers[k].bits > 0)
            return fault_set(fault, FAULT_INPUT,
                             "dense weights of %.4g bits: can be simulated, not executed; plan with 'weights = full'",
                             plan->layers[k].bits);
        if (strcmp(plan->layers[k].mixer, "attention") != 0)
            return fault_set(fault, FAULT_INPUT,
                             "layer %" PRIu32 " mixes tokens by '%s', and only attention over the whole sequence is "
                             "executed: such a plan can be simulated",
                             k, plan->layers[k].mixer);
    }
    return plan->layer_count == 0 ||
           fault_set(fault, FAULT_INPUT, "dense layers of several sizes: can be simulated, not executed");
}

static bool check_executable(const Plan *plan, const EngineOps *engine, Fault *fault)
{
    if (plan->model.abstract)
        return fault_set(fault, FAULT_INPUT, "abstract workload: can be simulated, not executed");
    if (!check_layers(plan, fault))
        return false;
    size_t op_count;
    const OpInfo *ops = op_table(&op_count);
    Text missing = {0};
    uint32_t missing_count = 0;
    for (size_t o = 0; o < op_count; o++) {
        bool used = false;
        for (uint32_t s = 0; s < plan->step_count && !used; s++)
            used = plan->steps[s].op == ops[o].op;
        if (used && !engine->supports(ops[o].op))
            text_format(&missing, "%s'%s'", missing_count++ ? ", " : "", ops[o].name);
    }
    if (missing_count > 0)
        fault_set(fault, FAULT_RUN, "%s %s %s not supported by engine '%s'", missing_count == 1 ? "op" : "ops",
                  missing.data, missing_count == 1 ? "is" : "are", engine->name);
    text_free(&missing);
    return missing_count == 0;
}

// Updates change the weights that the reference has.
static bool check_checkable(const Plan *plan, const JobOptions *options, Fault *fault)
{
    if (!options->check || plan->pass != PASS_TRAINING || options->warmup + options->iterations == 1)
        return true;
    return fault_set(fault, FAULT_USAGE,
                     "a training plan changes its weights, so that --check compares the forward pass of the first "
                     "iteration: give --warmup 0 --iterations 1");
}

// What copies the contents of buffers out or in.
static bool check_training(const Plan *plan, const JobOptions *options, Fault *fault)
{
    const TrainingOptions *training = &options->training;
    bool asks = training->checkpoint || training->resume || training->validate_every > 0 || training->skip_nonfinite;
    return !asks || plan->pass == PASS_TRAINING ||
           fault_set(fault, FAULT_USAGE, "checkpoints, validation and updates are of training plans only");
}

static uint32_t stream_count(const Plan *plan)
{
    bool used[STREAM_COUNT] = {false};
    uint32_t count = 0;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        Stream stream = step_stream(plan, &plan->steps[s]);
        count += !used[stream];
        used[stream] = true;
    }
    return count > 0 ? count : 1;
}

TrainingSettings preflight_training(const Plan *plan, const JobOptions *options)
{
    TrainingSettings training = plan->training;
    training.learning_rate = options->learning_rate < 0 ? training.learning_rate : options->learning_rate;
    training.weight_decay = options->weight_decay < 0 ? training.weight_decay : options->weight_decay;
    training.balance = options->balance < 0 ? training.balance : options->balance;
    return training;
}

EngineOptions preflight_engine_options(const Plan *plan, const JobOptions *options)
{
    return (EngineOptions){.routing = options->routing,
                           .training = preflight_training(plan, options),
                           .graphs = options->graphs,
                           .begins = options->trace_count > 0,
                           .record =
                               options->check || options->keep_outputs || options->count_choices || plan->capacity > 0};
}

static bool check_world(const Plan *plan, const JobOptions *options, Fault *fault)
{
    uint64_t ranks = cluster_gpus(&plan->cluster);
    if (!options->comm)
        return true;
    uint64_t launched = mpi_launcher_size();
    if (options->comm->size == 1 && launched > 1) // each process is a world of its own: one reports it
        return fault_set(fault, FAULT_RUN,
                         mpi_launcher_rank() > 0
                             ? "%s"
                             : "%s started %" PRIu64
                               " processes, but MPI has not joined them: 'srun --mpi=pmix' (or what "
                               "'srun --mpi=list' offers for this MPI), or mpirun inside the allocation",
                         mpi_launcher_rank() > 0 ? "" : mpi_launcher(), launched);
    if (options->comm->size != ranks)
        return fault_set(fault, FAULT_RUN,
                         "the plan has %" PRIu64 " ranks, but %" PRIu64 " %s started: launch as many as the plan has",
                         ranks, options->comm->size, options->comm->size == 1 ? "process was" : "processes were");
    if (options->emulate_links)
        return fault_set(fault, FAULT_USAGE,
                         "links are emulated between threads of one process only: run --emulate-links without "
                         "launcher, or with --communicator threads");
    return true;
}

// What every process of a world must have been given alike.
enum {
    GIVEN_SEED_HIGH,
    GIVEN_SEED_LOW,
    GIVEN_ITERATIONS,
    GIVEN_WARMUP,
    GIVEN_ROUTING,
    GIVEN_CHECK,
    GIVEN_EMULATE,
    GIVEN_TIMEOUT,
    GIVEN_TRACED,
    GIVEN_PROFILE,
    GIVEN_DATA,
    GIVEN_RATE,
    GIVEN_DECAY,
    GIVEN_BALANCE,
    GIVEN_CHECKPOINT,
    GIVEN_EVERY,
    GIVEN_RESUME,
    GIVEN_OTHER_DATA,
    GIVEN_VALIDATE,
    GIVEN_VALIDATION,
    GIVEN_SKIP,
    GIVEN_COUNT
};
static const char *const given_names[GIVEN_COUNT] = {
    [GIVEN_SEED_HIGH] = "--seed",
    [GIVEN_SEED_LOW] = "--seed",
    [GIVEN_ITERATIONS] = "--iterations",
    [GIVEN_WARMUP] = "--warmup",
    [GIVEN_ROUTING] = "--routing",
    [GIVEN_CHECK] = "--check",
    [GIVEN_EMULATE] = "--emulate-links",
    [GIVEN_TIMEOUT] = "--timeout",
    [GIVEN_TRACED] = "--trace",
    [GIVEN_PROFILE] = "--profile",
    [GIVEN_DATA] = "--data",
    [GIVEN_RATE] = "--learning-rate",
    [GIVEN_DECAY] = "--weight-decay",
    [GIVEN_BALANCE] = "--balance",
    [GIVEN_CHECKPOINT] = "--checkpoint",
    [GIVEN_EVERY] = "--every",
    [GIVEN_RESUME] = "--resume",
    [GIVEN_OTHER_DATA] = "--other-data",
    [GIVEN_VALIDATE] = "--validate",
    [GIVEN_VALIDATION] = "--validation",
    [GIVEN_SKIP] = "--skip-nonfinite",
};

static void given_fill(const JobOptions *options, double given[GIVEN_COUNT])
{
    given[GIVEN_SEED_HIGH] = (double)(options->seed >> 32);
    given[GIVEN_SEED_LOW] = (double)(uint32_t)options->seed;
    given[GIVEN_ITERATIONS] = options->iterations;
    given[GIVEN_WARMUP] = options->warmup;
    given[GIVEN_ROUTING] = options->routing;
    given[GIVEN_CHECK] = options->check;
    given[GIVEN_EMULATE] = options->emulate_links;
    given[GIVEN_TIMEOUT] = options->timeout_s;
    given[GIVEN_PROFILE] = options->count_choices;
    given[GIVEN_DATA] = options->data_path != NULL;
    given[GIVEN_RATE] = options->learning_rate;
    given[GIVEN_DECAY] = options->weight_decay;
    given[GIVEN_BALANCE] = options->balance;
    given[GIVEN_CHECKPOINT] = options->training.checkpoint != NULL;
    given[GIVEN_EVERY] = options->training.checkpoint_every;
    given[GIVEN_RESUME] = options->training.resume != NULL;
    given[GIVEN_OTHER_DATA] = options->training.other_data;
    given[GIVEN_VALIDATE] = options->training.validate_every;
    given[GIVEN_VALIDATION] = options->training.validation_share;
    given[GIVEN_SKIP] = options->training.skip_nonfinite;
    given[GIVEN_TRACED] = options->trace_count;
    for (uint32_t t = 0; t < options->trace_count; t++)
        given[GIVEN_TRACED] += (double)options->trace_ranks[t] * (t + 1);
}

// Compares what this process was given with what rank 0 was.
static bool check_given(const JobOptions *options, Fault *fault)
{
    double own[GIVEN_COUNT], first[GIVEN_COUNT];
    if (!options->comm)
        return true;
    given_fill(options, own);
    for (int g = 0; g < GIVEN_COUNT; g++)
        first[g] = options->comm->rank == 0 ? own[g] : -INFINITY;
    if (!options->comm->ops->all_reduce_max(options->comm, first, GIVEN_COUNT, fault))
        return false;
    for (int g = 0; g < GIVEN_COUNT; g++) {
        if (own[g] == first[g])
            continue;
        if (g == GIVEN_SEED_HIGH || g == GIVEN_SEED_LOW)
            return fault_set(fault, FAULT_RUN,
                             "started with --seed %" PRIu64 ", but rank 0 with %" PRIu64
                             ": give every process the same options",
                             options->seed, ((uint64_t)first[GIVEN_SEED_HIGH] << 32) + (uint64_t)first[GIVEN_SEED_LOW]);
        return fault_set(fault, FAULT_RUN, "started with another %s than rank 0: give every process the same options",
                         given_names[g]);
    }
    return true;
}

bool preflight_same_work(Comm *comm, bool calibrates, const char *levels, uint64_t until, Fault *fault)
{
    enum { CALIBRATES, LEVELS, UNTIL, WORK_COUNT };
    static const char *const names[] = {"--calibrate", "--levels", "--until"};
    if (!comm)
        return true;
    uint64_t digest = 0; // below 2^32, so that a double holds it
    for (const char *c = levels ? levels : ""; *c; c++)
        digest = (digest * 31 + (unsigned char)*c + 1) % UINT32_MAX;
    double own[WORK_COUNT] = {calibrates, (double)digest, (double)until}, first[WORK_COUNT];
    for (int w = 0; w < WORK_COUNT; w++)
        first[w] = comm->rank == 0 ? own[w] : -INFINITY;
    if (!comm->ops->all_reduce_max(comm, first, WORK_COUNT, fault))
        return false;
    for (int w = 0; w < WORK_COUNT; w++) {
        if (own[w] == first[w])
            continue;
        fault_set(fault, FAULT_RUN, "started with another %s than rank 0: give every process the same options",
                  names[w]);
        fault->rank = (int64_t)comm->rank;
        return false;
    }
    return true;
}

bool preflight_agree(Comm *comm, bool ok, Fault *fault)
{
    if (!comm)
        return ok;
    double first = ok ? 0 : (double)(comm->size - comm->rank), code = 0;
    Fault own = *fault, none = {.rank = -1, .step = -1, .peer = -1};
    if (!comm->ops->all_reduce_max(comm, &first, 1, fault))
        return false;
    bool tells = first > 0 && (uint64_t)first == comm->size - comm->rank;
    code = tells ? (double)own.kind : 0;
    if (!comm->ops->all_reduce_max(comm, &code, 1, fault))
        return false;
    none.kind = (FaultKind)code;
    *fault = tells ? own : none;
    return first == 0;
}

// The plan's memory was counted for another engine: what a message of a lack of memory adds.
static const char *planned_otherwise(const Plan *plan, const EngineOps *engine, char text[PLANNED_MAX])
{
    char bytes[FORMAT_MAX];
    text[0] = '\0';
    if (engine->kind != plan->cluster.device.engine)
        snprintf(text, PLANNED_MAX, "; the plan was made for engine '%s', which takes %s",
                 engine_kind_name(plan->cluster.device.engine), format_bytes(bytes, plan_memory_bytes(plan)));
    return text;
}

// Ranks of this process share one device.
static bool check_device(const Plan *plan, const JobOptions *options, Fault *fault)
{
    EngineOptions of_engine = preflight_engine_options(plan, options);
    uint64_t ranks = options->comm ? 1 : cluster_gpus(&plan->cluster), per_rank, total;
    uint64_t available = options->engine->device->free_bytes(options->comm);
    per_rank = options->engine->bytes(plan, &of_engine);
    if (options->comm && !checked_add(per_rank, engine_library_bytes(plan, options->engine->kind), &per_rank))
        per_rank = UINT64_MAX;
    if (checked_mul(per_rank, ranks, &total) && total <= available)
        return true;
    char need[FORMAT_MAX], each[FORMAT_MAX], free_bytes[FORMAT_MAX], planned[PLANNED_MAX];
    return fault_set(fault, FAULT_RUN, "%" PRIu64 " %s of %s%s need %s of GPU memory, %s are free%s", ranks,
                     ranks == 1 ? "rank" : "ranks", format_bytes(each, (double)per_rank), ranks == 1 ? "" : " each",
                     format_bytes(need, (double)per_rank * (double)ranks), format_bytes(free_bytes, (double)available),
                     planned_otherwise(plan, options->engine, planned));
}

// Of copies of what codecs remember, while steps run that are undone.
static uint64_t copy_bytes(const Plan *plan, const JobOptions *options)
{
    uint64_t bytes = 0;
    bool copies = options->training.validate_every > 0 || options->training.skip_nonfinite;
    for (uint32_t b = 0; copies && b < plan->buffer_count; b++)
        bytes += plan->buffers[b].kind == BUFFER_REPLICA ? buffer_bytes(&plan->buffers[b]) : 0;
    return bytes;
}

// UINT64_MAX where it is too much to be counted.
static uint64_t rank_bytes(const Plan *plan, const JobOptions *options, uint32_t samples)
{
    EngineOptions of_engine = preflight_engine_options(plan, options);
    uint64_t own = (uint64_t)plan->step_count * (samples * sizeof(float) + sizeof(double) + 64) +
                   (options->check ? check_bytes(plan) : 0) + copy_bytes(plan, options);
    uint64_t bytes;
    return checked_add(options->engine->bytes(plan, &of_engine), own, &bytes) ? bytes : UINT64_MAX;
}

static uint64_t local_ranks(const Plan *plan, const JobOptions *options)
{
    return options->comm ? 1 : cluster_gpus(&plan->cluster);
}

uint64_t preflight_product_bytes(const Plan *plan, const JobOptions *options, uint32_t samples)
{
    enum { THREAD_BYTES = 16 << 20 }; // a stack, and some more
    uint64_t ranks = local_ranks(plan, options), space = machine_process_bytes(), threads, taken;
    if (space == UINT64_MAX || options->engine->device) // products of devices take none
        return UINT64_MAX;
    if (!checked_mul(ranks * stream_count(plan), THREAD_BYTES, &threads) ||
        !checked_mul(rank_bytes(plan, options, samples), ranks, &taken) || !checked_add(taken, threads, &taken))
        return 0;
    return space > taken ? space - taken : 0;
}

// Address space: that of the ranks, and of one product at least.
static bool check_process(uint64_t of_ranks, Fault *fault)
{
    uint64_t limit = machine_process_bytes(), total;
    char need[FORMAT_MAX], product[FORMAT_MAX], left[FORMAT_MAX];
    if (checked_add(of_ranks, HOST_PRODUCT_BYTES, &total) && total <= limit)
        return true;
    return fault_set(fault, FAULT_RUN,
                     "%s of memory, and %s for matrix products, are needed, %s are left to this process (ulimit -v)",
                     format_bytes(need, (double)of_ranks), format_bytes(product, HOST_PRODUCT_BYTES),
                     format_bytes(left, (double)limit));
}

static bool check_machine(const Plan *plan, const JobOptions *options, uint32_t samples, Fault *fault)
{
    uint64_t ranks = options->comm ? options->comm->machine_size : cluster_gpus(&plan->cluster);
    uint64_t per_rank = rank_bytes(plan, options, samples), total, threads, of_process;
    if (!checked_mul(per_rank, ranks, &total))
        total = UINT64_MAX;
    if (options->engine->device)
        return check_device(plan, options, fault);
    bool of_group;
    uint64_t available = machine_available_bytes(&of_group), limit = machine_thread_limit();
    char need[FORMAT_MAX], each[FORMAT_MAX], free_bytes[FORMAT_MAX];
    if (total > available)
        return fault_set(fault, FAULT_RUN, "%" PRIu64 " ranks of %s each need %s of memory, %s are available %s", ranks,
                         format_bytes(each, (double)per_rank), format_bytes(need, (double)per_rank * (double)ranks),
                         format_bytes(free_bytes, (double)available),
                         of_group ? "in this control group, which has a limit of its own" : "on this machine");
    if (!checked_mul(per_rank, local_ranks(plan, options), &of_process))
        of_process = UINT64_MAX;
    if (!check_process(of_process, fault))
        return false;
    if (!checked_mul(ranks, stream_count(plan), &threads) || threads > limit)
        return fault_set(fault, FAULT_RUN,
                         "%" PRIu64 " ranks of %" PRIu32 " streams each need as many threads, %" PRIu64
                         " are allowed on this machine",
                         ranks, stream_count(plan), limit);
    return true;
}

// A fault of this process, not of all.
static bool of_rank(const JobOptions *options, Fault *fault)
{
    if (options->comm)
        fault->rank = (int64_t)options->comm->rank;
    return false;
}

bool preflight_run(const Plan *plan, const JobOptions *options, uint32_t samples, Fault *fault)
{
    bool runs = (check_given(options, fault) || of_rank(options, fault)) && check_world(plan, options, fault) &&
                check_executable(plan, options->engine, fault) && check_checkable(plan, options, fault) &&
                check_training(plan, options, fault) &&
                (check_machine(plan, options, samples, fault) || of_rank(options, fault));
    return preflight_agree(options->comm, runs, fault);
}
