// What the CUDA engine hands over when it is loaded; linked with it.
#include "plugin_digest.h"
#include "runtime/calibrate/calibrate_internal.h"
#include "runtime/plugin/plugin.h"

__attribute__((visibility("default"))) CudaPluginEntry hep_cuda_plugin;

// Not plugin_build(): that is the program's.
const CudaPlugin *hep_cuda_plugin(void)
{
    static const WorldOps *const worlds[] = {
#ifdef HEP_HAVE_NCCL
        &nccl_world_ops,
#endif
        NULL};
    static const CudaPlugin plugin = {.build = HEP_VERSION " (interface " HEP_PLUGIN_DIGEST ")",
                                      .engine = &cuda_engine,
                                      .calibrate = &cuda_calibrate,
                                      .worlds = worlds};
    return &plugin;
}
