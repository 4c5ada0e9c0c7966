// What the plug-in for GPUs hands over when it is loaded: see device.h. Linked with it.
#include "plugin_digest.h"
#include "runtime/base/cuda_check.h"
#include "runtime/comm/comm_local.h"
#include "runtime/engine/cuda_mover.h"
#include "runtime/library/device.h"

__attribute__((visibility("default"))) LibraryDeviceEntry hep_library_device;

static bool check(int device, Fault *fault)
{
    int count = 0;
    if (!cuda_check(cudaGetDeviceCount(&count), "count GPUs", fault))
        return false;
    return device < count || fault_set(fault, FAULT_USAGE, "there is no GPU %d: this process sees %d", device, count);
}

static Comm *open_threads(ThreadWorld *world, uint64_t rank, int device, Fault *fault)
{
    Comm *comm = local_comm_create(world, rank, fault);
    if (comm)
        comm->device_index = device;
    return comm;
}

#ifdef HEP_HAVE_NCCL
static Comm *join(const Launch *launch, int device, double timeout_s, Fault *fault)
{
    int before = 0;
    cudaGetDevice(&before);
    Comm *all = nccl_join(launch, device, timeout_s, fault);
    cudaSetDevice(before);
    return all;
}

static Comm *open_plan(Comm *all, const Cluster *cluster, Fault *fault)
{
    int before = 0;
    cudaGetDevice(&before);
    Comm *of_plan = nccl_open_plan(all, cluster, fault);
    cudaSetDevice(before);
    return of_plan;
}

static const DeviceProcesses nccl = {.join = join, .part = nccl_part, .open = open_plan, .close = nccl_close_plan};
#endif

const LibraryDevice *hep_library_device(void)
{
    static const LibraryDevice device = {
        .build = HEP_VERSION " (interface " HEP_PLUGIN_DIGEST ")",
        .mover = &cuda_mover,
        .check = check,
        .open = open_threads,
        .close = local_comm_destroy,
#ifdef HEP_HAVE_NCCL
        .nccl = &nccl,
#endif
    };
    return &device;
}
