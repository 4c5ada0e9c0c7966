// Brings ranks together for a calibration, as threads of this process or as one rank of a world of processes, and does
// its parts one after the other, every rank the same.
#include "runtime/calibrate/calibrate.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/tasks.h"
#include "kernels/host/kernels.h"
#include "runtime/base/machine.h"
#include "runtime/calibrate/calibrate_internal.h"
#include "runtime/comm/comm_threads.h"

enum { BUFFER_BYTES_MAX = 64 << 20, BUFFERS = 8 };

static bool levels_fault(const char *what, Fault *fault)
{
    return fault_set(fault, FAULT_USAGE, "--levels: %s", what);
}

bool calibrate_parse_levels(char *text, Cluster *cluster, Fault *fault)
{
    static const char form[] = "expected NAME=COUNT, outermost first, such as dc=4,gpu=2";
    *cluster = (Cluster){.name = "measured"};
    char *rest = NULL;
    for (char *part = strtok_r(text, ",", &rest); part; part = strtok_r(NULL, ",", &rest)) {
        char *equals = strchr(part, '='), *end;
        if (cluster->level_count == LEVELS_MAX)
            return levels_fault("too many levels", fault);
        if (!equals || equals == part)
            return levels_fault(form, fault);
        *equals = '\0';
        unsigned long count = strtoul(equals + 1, &end, 10);
        if (equals[1] < '0' || equals[1] > '9' || *end || count < 2 || count > 1000000)
            return levels_fault("expected counts from 2 to 1000000", fault);
        if (strspn(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != strlen(part) ||
            (part[0] >= '0' && part[0] <= '9'))
            return levels_fault("names are letters, digits and '_'", fault);
        for (uint32_t l = 0; l < cluster->level_count; l++)
            if (strcmp(cluster->levels[l].name, part) == 0)
                return levels_fault("there are two levels of one name", fault);
        cluster->levels[cluster->level_count++] = (Level){.name = part, .count = (uint32_t)count};
    }
    return cluster->level_count > 0 || levels_fault(form, fault);
}

ModelDims calibrate_default_dims(void)
{
    return (ModelDims){
        .name = "default", .dtype = DTYPE_F32, .hidden = 512, .inner = 2048, .activation = ACTIVATION_GELU};
}

CalibrateOptions calibrate_options_default(void)
{
    return (CalibrateOptions){.timeout_s = 60, .sample_s = 0.25};
}

// ---- ranks -----------------------------------------------------------------------------------

typedef struct {
    CalibrateRank rank;
    Fault fault;
    pthread_t thread;
} Member;

// What buffers may take: on every rank what the poorest machine allows. One number is the same for all: sizes are.
static bool agree_on_memory(CalibrateRank *rank, double *memory_bytes)
{
    const CalibrateDevice *device = rank->options->device;
    uint64_t sharing = device && rank->options->comm ? 1 : rank->comm->machine_size; // a process has its own device
    bool of_group;
    uint64_t available = device ? device->free_bytes(rank->comm) : machine_available_bytes(&of_group);
    double least = -(double)available / (double)sharing;
    if (!rank->comm->ops->all_reduce_max(rank->comm, &least, 1, rank->fault))
        return false;
    rank->bytes_max = (uint64_t)fmin(BUFFER_BYTES_MAX, -least / BUFFERS);
    *memory_bytes = -least;
    return true;
}

static bool member_work(CalibrateRank *rank)
{
    double memory_bytes;
    const CalibrateDevice *device = rank->options->device;
    if (!agree_on_memory(rank, &memory_bytes) || !(device ? device->measure(rank) : calibrate_device(rank)) ||
        !calibrate_links(rank))
        return false;
    rank->calibration->memory_bytes = memory_bytes;
    return true;
}

static void *member_main(void *argument)
{
    Member *member = argument;
    Calibration own = {0}; // threads beside the first measure the same and keep nothing
    bool keeps = member->rank.calibration;
    member->rank.shows = keeps;
    if (!keeps)
        member->rank.calibration = &own;
    if (!member_work(&member->rank)) {
        if (member->fault.rank < 0)
            member->fault.rank = (int64_t)member->rank.comm->rank;
        member->rank.comm->ops->abort(member->rank.comm, &member->fault);
    }
    if (!keeps)
        calibration_free(&own);
    return NULL;
}

static Comm *rank_comm(const CalibrateOptions *options, ThreadWorld *world, uint64_t rank, Fault *fault)
{
    return options->device ? options->device->join(world, rank, fault) : thread_world_comm(world, rank);
}

static bool run_threads(const CalibrateOptions *options, Calibration *calibration, Fault *fault)
{
    uint64_t count = cluster_gpus(options->cluster), started = 0;
    if (count > machine_thread_limit())
        return fault_set(fault, FAULT_RUN, "%" PRIu64 " ranks are more threads than this machine allows", count);
    LinkEmulation *links = options->emulate_links ? links_create(options->cluster) : NULL;
    ThreadWorld *world = thread_world_create(options->cluster, links, options->timeout_s);
    Member *members = calloc(count, sizeof(*members));
    bool ok = world && members && (links || !options->emulate_links);
    if (!ok)
        fault_set(fault, FAULT_MEMORY, "out of memory for %" PRIu64 " ranks", count);
    for (; ok && started < count; started++) {
        Member *member = &members[started];
        member->rank = (CalibrateRank){.options = options,
                                       .calibration = started == 0 ? calibration : NULL,
                                       .comm = rank_comm(options, world, started, fault),
                                       .fault = &member->fault};
        int error = member->rank.comm ? pthread_create(&member->thread, NULL, member_main, member) : ENOMEM;
        if (error) {
            Fault cause = {0};
            fault_set(&cause, FAULT_RUN, "cannot start the thread of rank %" PRIu64 ": %s", started, strerror(error));
            Comm *any = thread_world_comm(world, started);
            any->ops->abort(any, &cause);
            if (options->device)
                options->device->leave(member->rank.comm);
            break;
        }
    }
    for (uint64_t r = 0; r < started; r++)
        pthread_join(members[r].thread, NULL);
    Fault cause = world ? thread_world_cause(world) : (Fault){0};
    if (cause.kind != FAULT_NONE) {
        *fault = cause;
        ok = false;
    }
    for (uint64_t r = 0; options->device && r < started; r++)
        options->device->leave(members[r].rank.comm);
    free(members);
    thread_world_destroy(world);
    links_destroy(links);
    return ok;
}

static bool run_process(const CalibrateOptions *options, Calibration *calibration, Fault *fault)
{
    uint64_t ranks = cluster_gpus(options->cluster);
    if (options->comm->size != ranks) {
        Fault differs = {0};
        fault_set(&differs, FAULT_RUN,
                  "the levels make %" PRIu64 " ranks, but %" PRIu64 " %s started: launch as many as the levels make",
                  ranks, options->comm->size, options->comm->size == 1 ? "process was" : "processes were");
        if (options->comm->rank != 0)
            differs.message[0] = '\0'; // the first rank reports it
        *fault = differs;
        return false;
    }
    Member member = {.rank = {.options = options, .calibration = calibration, .comm = options->comm}};
    member.rank.fault = &member.fault;
    member_main(&member);
    *fault = member.fault;
    return fault->kind == FAULT_NONE;
}

// Half of what address space there is may go to products.
static bool prepare_products(const CalibrateOptions *options, Fault *fault)
{
    uint64_t space = machine_process_bytes();
    char left[FORMAT_MAX];
    if (space < 2 * (uint64_t)HOST_PRODUCT_BYTES)
        return fault_set(fault, FAULT_RUN, "%s are left to this process (ulimit -v): too little to measure products",
                         format_bytes(left, (double)space));
    host_kernels_init(options->comm ? 1 : cluster_gpus(options->cluster), space == UINT64_MAX ? space : space / 2);
    return true;
}

bool calibrate_run(const CalibrateOptions *options, Calibration *calibration, Fault *fault)
{
    const Communicator *communicator = options->comm ? communicator_info(options->comm->ops->communicator)
                                                     : communicator_of_threads(options->device != NULL);
    *calibration = (Calibration){.communicator = communicator->name,
                                 .load = machine_load(),
                                 .processors = processors_allowed(),
                                 .processors_online = processors_online()};
    if (options->comm && options->emulate_links)
        return fault_set(fault, FAULT_USAGE, "links are emulated between threads of one process only");
    if (!prepare_products(options, fault))
        return false;
    return options->comm ? run_process(options, calibration, fault) : run_threads(options, calibration, fault);
}

void calibration_free(Calibration *calibration)
{
    free(calibration->ports);
    free(calibration->pairs);
    *calibration = (Calibration){0};
}
