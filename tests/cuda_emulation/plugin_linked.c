// Stands in for runtime/plugin/plugin_open.c where the CUDA engine is a part of the program, with emulated kernels.
#include "runtime/plugin/plugin.h"

extern CudaPluginEntry hep_cuda_plugin;

const CudaPlugin *cuda_plugin_open(Fault *fault)
{
    (void)fault;
    return hep_cuda_plugin();
}

void cuda_plugin_describe(Text *out)
{
    text_append(out, "part of this program, emulated");
}
