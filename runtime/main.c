// hep-run: reads and verifies a plan, runs it, prints the report. But for the command line (options.c) the only file of
// the runtime that prints or exits. Under a launcher every process runs it, and rank 0 speaks for all.
#include <argp.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "ir/base/arena.h"
#include "ir/base/exit_codes.h"
#include "ir/load/plan_file.h"
#include "ir/load/predictions.h"
#include "ir/unroll.h"
#include "runtime/base/machine.h"
#include "runtime/calibrate/calibrate.h"
#include "runtime/comm/comm_launcher.h"
#include "runtime/comm/comm_mpi.h"
#include "runtime/comm/links_machine.h"
#include "runtime/comm/world.h"
#include "runtime/job/preflight.h"
#include "runtime/job/state.h"
#include "runtime/options.h"
#include "runtime/plugin/plugin.h"
#include "runtime/report/profile.h"
#include "runtime/report/report.h"
#include "runtime/report/trace.h"
#include "runtime/signals.h"

enum { PLAN_BYTES_MAX = 1 << 30 };

// ---- the plan --------------------------------------------------------------------------------

// A file that hepc did not write, or wrote for somebody else.
static bool is_no_plan(const char *path, const char *data, size_t length)
{
    if (plan_form(data, length) != PLAN_FORM_NONE)
        return false;
    const char *ending = strrchr(path, '.');
    if (ending && strcmp(ending, ".hep") == 0)
        fprintf(stderr, "hep-run: %s: a description, not a plan: compile it with 'hepc %s -o PLAN.hepb' first\n", path,
                path);
    else
        fprintf(stderr, "hep-run: %s: %s: expected a plan that hepc wrote\n", path,
                length == 0 ? "the file is empty" : "neither a binary plan nor text");
    return true;
}

static int check_plan(const char *path, const char *data, size_t length, Plan **plan)
{
    if (is_no_plan(path, data, length))
        return FAULT_INPUT;
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    Plan *loaded = plan_load(path, data, length, diag);
    if (loaded && launcher_rank() == 0)
        predictions_check(path, loaded, diag);
    if (loaded)
        loaded = (Plan *)plan_unroll_all(loaded, loaded->arena); // in its arena, which it ends with
    diag_print(diag, stderr, isatty(STDERR_FILENO) && !getenv("NO_COLOR"));
    arena_destroy(arena);
    *plan = loaded; // now that memory cannot run out any more: the plan would be destroyed
    return loaded ? FAULT_NONE : FAULT_INPUT;
}

static int read_plan(const char *path, char **data, size_t *length, Plan **plan)
{
    Fault fault = {0};
    *data = file_read(path, PLAN_BYTES_MAX, length, &fault);
    if (!*data) {
        fprintf(stderr, "hep-run: %s: %s\n", path, fault.message);
        return FAULT_IO;
    }
    return check_plan(path, *data, *length, plan);
}

// A run may take long: whether its results can be written is known before it starts.
static int check_outputs(const Options *options)
{
    const char *const paths[] = {options->json, options->trace, options->profile, options->calibrate};
    int code = FAULT_NONE;
    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        Fault fault = {0};
        if (!paths[i] || file_probe(paths[i], &fault))
            continue;
        fprintf(stderr, "hep-run: %s: %s\n", paths[i], fault.message);
        code = FAULT_IO;
    }
    return code;
}

static void print_fault(const Plan *plan, const Fault *fault);

// A run has failed: one process of the world reports why.
static int fail(const World *world, const Plan *plan, Fault *fault)
{
    world_settle(world, fault);
    if (fault->message[0])
        print_fault(plan, fault);
    return (int)fault->kind;
}

// A process that can read its file must have been given the plan that rank 0 read.
static bool compare_plan(const Options *options, const char *data, size_t length, Fault *fault)
{
    size_t own_length = 0;
    Fault unread = {0};
    char *own = is_standard(options->input) ? NULL : file_read(options->input, PLAN_BYTES_MAX, &own_length, &unread);
    bool differs = own && (own_length != length || memcmp(own, data, length) != 0);
    free(own);
    return !differs ||
           fault_set(fault, FAULT_RUN, "started with another plan than rank 0: '%s' differs from what that read",
                     options->input);
}

// In a world of processes rank 0 reads the file, so that all have the same plan.
static int load_plan(const Options *options, const World *world, bool is_first, Plan **plan)
{
    size_t length = 0;
    char *data = NULL;
    Fault fault = {0};
    Comm *comm = world_comm(world, NULL);
    bool ok = preflight_same_work(comm, options->calibrate, options->levels, options->job.training.until, &fault);
    int code = ok && is_first ? check_outputs(options) : FAULT_NONE;
    if (ok && is_first && code == FAULT_NONE && options->input)
        code = read_plan(options->input, &data, &length, plan);
    ok = ok && world_share(world, &code, &data, &length, &fault);
    if (ok && code == FAULT_NONE && !is_first && options->input) {
        ok = compare_plan(options, data, length, &fault);
        code = ok ? check_plan(options->input, data, length, plan) : FAULT_RUN;
    }
    free(data);
    if (ok)
        return code;
    comm->ops->abort(comm, &fault);
    return fail(world, NULL, &fault);
}

// ---- running ---------------------------------------------------------------------------------

static void show_running(const JobProgress *progress)
{
    char rate[FORMAT_MAX];
    long remaining_s = lround(progress->remaining_s);
    fprintf(stderr, "\r\033[Kiteration %" PRIu32 "/%" PRIu32, progress->iteration + 1, progress->iterations);
    if (progress->has_loss)
        fprintf(stderr, ", loss %.4f", progress->loss);
    if (progress->tokens_per_s > 0)
        fprintf(stderr, ", %s tokens/s, %ld:%02ld:%02ld left", format_count(rate, progress->tokens_per_s),
                remaining_s / 3600, remaining_s / 60 % 60, remaining_s % 60);
}

static void show_progress(void *context, const JobProgress *progress)
{
    (void)context;
    switch (progress->phase) {
    case JOB_PREPARING:
        fputs("\r\033[Kpreparing ranks", stderr);
        break;
    case JOB_WARMING_UP:
        fprintf(stderr, "\r\033[Kwarming up %" PRIu32 "/%" PRIu32, progress->iteration + 1, progress->iterations);
        break;
    case JOB_RUNNING:
        show_running(progress);
        break;
    case JOB_CHECKING:
        fputs("\r\033[Kcomparing with the reference", stderr);
        break;
    }
}

static void show_state(void *context, const char *lines)
{
    (void)context;
    fputs(isatty(STDERR_FILENO) ? "\r\033[K" : "", stderr);
    fputs(lines, stderr);
}

static void show_warning(const char *line)
{
    fprintf(stderr, "%shep-run: warning: %s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "", line);
}

static void show_ending(int signal, const JobProgress *progress)
{
    char name[FORMAT_MAX], line[256];
    snprintf(line, sizeof(line),
             "hep-run: %s: ends after the iteration under way, %" PRIu32 " of %" PRIu32
             "%s; a second signal ends it at once\n",
             signals_describe(signal, name), progress->iteration + 1, progress->iterations,
             progress->phase == JOB_WARMING_UP ? " to warm up" : "");
    fputs(isatty(STDERR_FILENO) ? "\r\033[K" : "", stderr);
    if (!launcher_print(line))
        fputs(line, stderr);
}

typedef struct {
    const Plan *plan;
    const Fault *fault;
    Text text;
} FaultLine;

static void describe_fault(void *context)
{
    FaultLine *line = context;
    text_append(&line->text, "hep-run: ");
    state_append_fault(line->plan, line->fault, &line->text);
}

// Any thread may have to. Without memory left the message stands alone.
static void print_fault(const Plan *plan, const Fault *fault)
{
    FaultLine line = {.plan = plan, .fault = fault};
    Fault ignored = {0};
    if (!memory_guard(describe_fault, &line, &ignored))
        fprintf(stderr, "hep-run: %s\n", fault->message);
    else if (!launcher_print(line.text.data))
        fputs(line.text.data, stderr);
    text_free(&line.text);
}

// `keeps`: what is there already.
static int write_text(const char *path, bool keeps, Text *text)
{
    Fault fault = {0};
    if ((keeps && !file_set_aside(path, &fault)) || !file_write(path, text->data, text->length, &fault))
        fprintf(stderr, "hep-run: %s: %s\n", strcmp(path, "-") == 0 ? "standard output" : path, fault.message);
    text_free(text);
    return (int)fault.kind;
}

static int choose_traced(Options *options, const Plan *plan, uint64_t ranks[TRACE_RANKS_MAX], bool is_first)
{
    if (!options->trace)
        return FAULT_NONE;
    uint64_t rank_count = cluster_gpus(&plan->cluster);
    Fault fault = {0};
    bool ok = trace_parse_ranks(options->trace_ranks, rank_count, ranks, &options->job.trace_count, &fault);
    if (!ok && is_first)
        fprintf(stderr, "hep-run: --trace-ranks '%s': %s; the plan has %" PRIu64 "\n", options->trace_ranks,
                fault.message, rank_count);
    if (ok && is_first && !options->trace_ranks && options->job.trace_count < rank_count)
        fprintf(stderr, "hep-run: the trace has the first %" PRIu32 " ranks of %" PRIu64 "; see --trace-ranks\n",
                options->job.trace_count, rank_count);
    options->job.trace_ranks = ranks;
    return (int)fault.kind;
}

static int write_report(const Options *options, const Plan *plan, const JobResult *result)
{
    Report report = {.plan_name = options->input,
                     .version = HEP_VERSION,
                     .plan = plan,
                     .options = &options->job,
                     .result = result,
                     .every_step = options->every_step};
    const char *const paths[] = {options->trace, options->profile, options->json,
                                 standard_outputs(options) == 0 ? "-" : NULL};
    Text texts[COUNT_OF(paths)] = {0};
    int code = FAULT_NONE;
    // All are complete before one is written: where memory runs out, none is left.
    if (paths[0])
        trace_print_run(plan, &options->job, result, &texts[0]);
    if (paths[1])
        profile_print(&report, &texts[1]);
    if (paths[2])
        report_print_json(&report, &texts[2]);
    if (paths[3])
        report_print(&report, &texts[3]);
    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        bool keeps = !options->job.overwrite && (paths[i] == options->profile || paths[i] == options->json);
        int written = paths[i] ? write_text(paths[i], keeps, &texts[i]) : FAULT_NONE;
        code = code == FAULT_NONE ? written : code;
    }
    return code;
}

// A signal ended the run: what is there, and how to continue.
static void tell_interrupted(const Options *options, const JobResult *result)
{
    const char *checkpoint = options->job.training.checkpoint;
    char name[FORMAT_MAX];
    Text line = {0};
    text_format(&line, "hep-run: interrupted by %s after iteration %" PRIu64 " of %" PRIu64,
                signals_describe(result->signal, name), result->done, result->planned);
    if (checkpoint)
        text_format(&line, ": its checkpoint is in '%s', '--resume %s' continues", checkpoint, checkpoint);
    text_append(&line, "\n");
    if (!launcher_print(line.data))
        fputs(line.data, stderr);
    text_free(&line);
}

// Writes the report and, if the check failed, says so; the exit code of the run.
static int conclude(const Options *options, const Plan *plan, const JobResult *result, bool is_first)
{
    bool mismatch = result->check.done && !result->check.pass;
    int code = is_first && result->iterations > 0 ? write_report(options, plan, result) : FAULT_NONE;
    if (code == FAULT_NONE && result->signal != 0) {
        if (is_first)
            tell_interrupted(options, result);
        return FAULT_INTERRUPTED;
    }
    if (code != FAULT_NONE || !mismatch)
        return code;
    if (is_first)
        fprintf(stderr,
                "hep-run: the result differs from the reference: error %g, tolerance %g; loss %g, tolerance %g\n",
                result->check.max_abs_error, result->check.tolerance, result->check.loss_error,
                result->check.loss_tolerance);
    return FAULT_MISMATCH;
}

// What was asked for must fit the pass of the plan.
static bool fits_pass(Options *options, const Plan *plan, bool is_first)
{
    bool trains = plan->pass == PASS_TRAINING;
    if (trains && !options->warmup_given)
        options->job.warmup = 0;
    if (!trains && options->training_option && is_first)
        fprintf(stderr,
                "hep-run: --%s is for training, and the pass of this plan is '%s': plan { pass = training } makes one "
                "that trains\n",
                options->training_option, pass_name(plan->pass));
    return trains || !options->training_option;
}

// Every line of it as a warning of its own.
static void print_warnings(const Text *lines)
{
    for (const char *line = lines->data; line && *line;) {
        size_t length = strcspn(line, "\n");
        fprintf(stderr, "hep-run: warning: %.*s\n", (int)length, line);
        line += length + (line[length] == '\n');
    }
}

static void warn_of_emulation(const Cluster *cluster)
{
    Text lines = {0};
    LinksMachine machine = links_machine_measure();
    links_machine_explain(&machine, cluster, &lines);
    print_warnings(&lines);
    text_free(&lines);
}

static int run_from(Options *options, const Plan *plan, const World *world, bool is_first, char **resumed)
{
    if (!fits_pass(options, plan, is_first))
        return FAULT_USAGE;
    bool shows_progress = is_first && !options->quiet && isatty(STDERR_FILENO);
    JobResult result;
    Fault fault = {0};
    uint64_t until = options->job.training.until;
    options->job.warn = show_warning;
    if (until > 0 && !job_until(&options->job, resumed, &fault))
        return fail(world, plan, &fault);
    if (until > 0 && options->job.iterations == 0) {
        if (is_first)
            fprintf(stderr, "hep-run: iteration %" PRIu64 " is reached: nothing is left to do\n", until);
        return FAULT_NONE;
    }
    options->job.interrupted = &signals_asked;
    options->job.progress = shows_progress ? show_progress : NULL;
    options->job.state_asked = &signals_state_asked;
    options->job.tell_state = show_state;
    options->job.tell_ending = show_ending;
    signals_heed();
    if (options->job.emulate_links && !options->job.comm) // processes do not emulate
        warn_of_emulation(&plan->cluster);
    bool ok = job_run(plan, &options->job, &result, &fault);
    if (shows_progress)
        fputs("\r\033[K", stderr);
    int code = ok ? conclude(options, plan, &result, is_first) : fail(world, plan, &fault);
    job_result_free(&result);
    return code;
}

static int run_plan(Options *options, const Plan *plan, const World *world, bool is_first)
{
    char *resumed = NULL; // which the options name
    int code = run_from(options, plan, world, is_first, &resumed);
    free(resumed);
    return code;
}

// ---- calibrating -----------------------------------------------------------------------------

static void show_calibration(void *context, const char *what)
{
    (void)context;
    fprintf(stderr, "\r\033[Kcalibrating: %s", what);
}

static void warn_of_calibration(const CalibrateOptions *options, const Calibration *calibration)
{
    Text lines = {0};
    calibration_print_warnings(options, calibration, &lines);
    print_warnings(&lines);
    text_free(&lines);
}

static int calibrate(const Options *options, const CalibrateDevice *device, const Cluster *cluster,
                     const ModelDims *dims, const World *world)
{
    Comm *comm = world_comm(world, cluster);
    CalibrateOptions calibrate = calibrate_options_default();
    calibrate.cluster = cluster;
    calibrate.device = device;
    calibrate.dims = dims;
    calibrate.comm = comm;
    calibrate.emulate_links = options->job.emulate_links;
    calibrate.timeout_s = options->job.timeout_s;
    calibrate.interrupted = &signals_asked;
    bool is_first = !comm || comm->rank == 0;
    bool shows_progress = is_first && !options->quiet && isatty(STDERR_FILENO);
    calibrate.progress = shows_progress ? show_calibration : NULL;
    Calibration calibration;
    Fault fault = {0};
    int code = FAULT_NONE;
    signals_heed();
    if (options->job.emulate_links && is_first)
        warn_of_emulation(cluster);
    bool ok = calibrate_run(&calibrate, &calibration, &fault);
    if (shows_progress)
        fputs("\r\033[K", stderr);
    if (!ok) {
        code = fail(world, NULL, &fault);
    } else if (is_first) {
        warn_of_calibration(&calibrate, &calibration);
        Text text = {0};
        calibration_print(&calibrate, &calibration, HEP_VERSION, (int64_t)time(NULL), &text);
        code = write_text(options->calibrate, false, &text);
    }
    calibration_free(&calibration);
    return code;
}

// Of the plan's levels, or of those named.
static int calibrate_job(const Options *options, const CudaPlugin *plugin, const Plan *plan, const World *world)
{
    Cluster named;
    ModelDims dims = plan && !plan->model.abstract ? plan->model : calibrate_default_dims();
    Fault fault = {0};
    bool ok = plan || calibrate_parse_levels(options->levels, &named, &fault);
    const Cluster *cluster = plan ? &plan->cluster : &named;
    if (ok)
        return calibrate(options, plugin ? plugin->calibrate : NULL, cluster, &dims, world);
    if (world_is_first(world))
        fprintf(stderr, "hep-run: %s\n", fault.message);
    return (int)fault.kind;
}

// ---- processes -------------------------------------------------------------------------------

static void report_end(void *context, const Fault *cause)
{
    print_fault(*(Plan *const *)context, cause);
}

static __attribute__((noreturn)) void end_process(FaultKind kind, bool all)
{
    if (all)
        mpi_end_all(exit_code_of(kind));
    _exit(exit_code_of(kind));
}

// Processes that MPI does not join would each run all of the plan, and write over each other.
static bool check_launcher(const Options *options)
{
    const Launcher *launcher = launcher_find(false);
    uint64_t size = launcher ? strtoull(getenv(launcher->size), NULL, 10) : 0;
    if (options->communicator || options->job.engine != &host_engine || !launcher || launcher->starts_mpi ||
        size <= 1 || launcher_find(true))
        return true;
    if (launcher_rank() == 0)
        fprintf(stderr,
                "hep-run: %s started %" PRIu64
                " processes, which engine host joins by MPI alone: start them with mpirun "
                "or srun, start one process for all ranks, or take --engine cuda\n",
                launcher->name, size);
    return false;
}

// The world of processes, if this is to be one of them. False, with a message, when it cannot be had.
static bool join_world(const Options *options, const CudaPlugin *plugin, Plan **plan, World *world)
{
    const Communicator *named = options->communicator;
    WorldOptions of_world = {.timeout_s = options->job.timeout_s,
                             .report = report_end,
                             .report_context = plan,
                             .end = end_process,
                             .interrupted = &signals_asked};
    Fault fault = {0};
    if (world_join(named ? named : communicator_of_launcher(plugin), plugin ? plugin->worlds : NULL, &of_world, world,
                   &fault))
        return true;
    if (fault.message[0])
        print_fault(NULL, &fault);
    return false;
}

// Loads the engine if it is a plug-in. Without an engine no process has anything to join the others for; one of them
// tells it.
static bool has_engine(JobOptions *job, const CudaPlugin **plugin)
{
    Fault fault = {0};
    bool ok = true;
    if (job->engine == &cuda_engine) {
        *plugin = cuda_plugin_open(&fault);
        ok = *plugin;
        job->engine = ok ? (*plugin)->engine : NULL;
    }
    if (ok && job->engine->available(&fault))
        return true;
    if (launcher_rank() == 0)
        print_fault(NULL, &fault);
    return false;
}

// ---- the program -----------------------------------------------------------------------------

static bool tells_early_end; // of processes their launcher says how they end

// `second`: that signal, as after a default action; 0: the first, before there was an iteration to end.
static void end_by_signal(int second)
{
    static const char line[] = "hep-run: interrupted before the first iteration\n";
    ssize_t ignored = second == 0 && tells_early_end ? write(STDERR_FILENO, line, sizeof(line) - 1) : 0;
    (void)ignored; // the exit code says it, too
    _exit(second == 0 ? exit_code_of(FAULT_INTERRUPTED) : 128 + second);
}

typedef struct {
    int argc;
    char **argv;
    Options options;
    Plan *plan;
    const CudaPlugin *plugin; // NULL: another engine
    World world;
    bool generated; // what --generate asked for, and there is nothing to run
    int code;       // a FaultKind
} Program;

static void prepare(void *context)
{
    Program *program = context;
    Fault fault = {0};
    bool parsed = options_parse(program->argc, program->argv, &program->options, &fault);
    if (parsed && program->options.generate) {
        program->generated = true;
        parsed = options_generate(program->options.generate, &fault);
    }
    if (!parsed || program->generated) {
        if (!parsed)
            print_fault(NULL, &fault);
        program->code = (int)fault.kind;
        return;
    }
    tells_early_end = !launcher_find(false);
    signals_catch(program->options.signal, end_by_signal);
    if (!check_launcher(&program->options)) {
        program->code = FAULT_USAGE;
        return;
    }
    bool joined = has_engine(&program->options.job, &program->plugin) &&
                  join_world(&program->options, program->plugin, &program->plan, &program->world);
    program->code = joined
                        ? load_plan(&program->options, &program->world, world_is_first(&program->world), &program->plan)
                        : FAULT_RUN;
}

static void execute(void *context)
{
    Program *program = context;
    Options *options = &program->options;
    bool is_first = world_is_first(&program->world);
    uint64_t traced[TRACE_RANKS_MAX];
    if (options->calibrate) {
        program->code = calibrate_job(options, program->plugin, program->plan, &program->world);
        return;
    }
    program->code = choose_traced(options, program->plan, traced, is_first);
    if (program->code != FAULT_NONE)
        return;
    options->job.comm = world_comm(&program->world, &program->plan->cluster);
    program->code = run_plan(options, program->plan, &program->world, is_first);
}

// When memory runs out outside of the ranks, the world of processes ends as for any other fault.
static bool guarded(void (*part)(void *context), Program *program)
{
    Fault fault = {0};
    if (!memory_guard(part, program, &fault)) {
        Comm *comm = world_comm(&program->world, NULL);
        if (comm)
            comm->ops->abort(comm, &fault);
        program->code = fail(&program->world, program->plan, &fault);
    }
    return program->code == FAULT_NONE;
}

static void loads_for_ever(int signal)
{
    static const char message[] = "hep-run: too little address space is left to this process (ulimit -v) to load "
                                  "OpenBLAS, which takes 134 MB for matrix products\n";
    (void)signal;
    ssize_t ignored = write(STDERR_FILENO, message, sizeof(message) - 1);
    (void)ignored;
    _exit(exit_code_of(FAULT_RUN));
}

static void limit_loading(time_t cpu_s)
{
    struct sigaction action = {.sa_handler = cpu_s ? loads_for_ever : SIG_DFL};
    struct itimerval timer = {.it_value.tv_sec = cpu_s};
    setitimer(ITIMER_PROF, &timer, NULL);
    sigaction(SIGPROF, &action, NULL);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) // which are not there yet, and take what there is
static const time_t LOADING_CPU_S = 2;                              // forty times what it takes

// Newer versions of OpenBLAS ask for memory for ever where there is none, before main begins.
static void before_libraries(int argc, char **argv, char **environment)
{
    struct rlimit limit;
    (void)argc;
    (void)argv;
    (void)environment;
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        limit_loading(LOADING_CPU_S);
}
__attribute__((section(".preinit_array"), used)) static void (*const begin)(int, char **, char **) = before_libraries;
#endif

// OpenBLAS starts a thread for every processor when it is loaded, and takes address space for each, trying for ever
// where there is none; malloc reserves some for every thread. Where it is limited, the program begins again without.
static void begin_sparingly(char **argv)
{
    const char *const names[] = {"OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX"};
    if (machine_process_bytes() == UINT64_MAX || (getenv(names[0]) && getenv(names[1])))
        return;
    for (size_t n = 0; n < COUNT_OF(names); n++)
        setenv(names[n], "1", 0);
    execv("/proc/self/exe", argv);
}

// argp ends the program by itself after --help: whether that could be written is known at the end alone.
static void check_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return;
    fputs("hep-run: standard output: cannot be written\n", stderr);
    _exit(exit_code_of(FAULT_IO));
}

int main(int argc, char **argv)
{
    limit_loading(0);
    begin_sparingly(argv);
    atexit(check_output);
    signals_prepare();
    Program program = {.argc = argc, .argv = argv};
    memory_guard_json();
    argp_err_exit_status = exit_code_of(FAULT_USAGE);
    if (guarded(prepare, &program) && !program.generated)
        (void)guarded(execute, &program);
    world_destroy(&program.world);
    plan_destroy(program.plan);
    return exit_code_of((FaultKind)program.code);
}
