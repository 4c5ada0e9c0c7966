// See plugin.h: finds the plug-in beside the program, or in the folder lib/hep beside the one of the programs, and
// loads it. It stays loaded: its functions are in use until the end.
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ir/base/program.h"
#include "runtime/plugin/plugin.h"

static const char *const places[] = {"hep-cuda.so", HEP_PLUGINS_FROM_PROGRAM "/hep-cuda.so"};

// The first that exists, else where it would be installed.
static const char *find(Arena *arena, bool *found)
{
    const char *path = NULL;
    *found = false;
    for (size_t p = 0; p < COUNT_OF(places) && !*found; p++) {
        path = program_relative(arena, places[p]);
        *found = path && access(path, R_OK) == 0;
    }
    return path ? path : places[COUNT_OF(places) - 1];
}

static const CudaPlugin *load(const char *path, Fault *fault)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fault_set(fault, FAULT_RUN,
                  "the CUDA engine cannot be loaded: %s; it needs the libraries of the CUDA that it was built with, in "
                  "a folder that LD_LIBRARY_PATH names or ldconfig knows",
                  dlerror());
        return NULL;
    }
    CudaPluginEntry *entry = NULL;
    void *symbol = dlsym(library, CUDA_PLUGIN_ENTRY);
    memcpy(&entry, &symbol, sizeof(entry)); // ISO C has no cast from data to functions
    const CudaPlugin *plugin = entry ? entry() : NULL;
    if (!plugin)
        fault_set(fault, FAULT_RUN, "'%s' is no plug-in of hep-run: it has no '%s'", path, CUDA_PLUGIN_ENTRY);
    else if (strcmp(plugin->build, plugin_build()) != 0)
        fault_set(fault, FAULT_RUN, "'%s' is of another build, %s; this hep-run is %s: install both from one build",
                  path, plugin->build, plugin_build());
    else
        return plugin;
    dlclose(library);
    return NULL;
}

const CudaPlugin *cuda_plugin_open(Fault *fault)
{
    static const CudaPlugin *plugin;
    Arena *arena = arena_create();
    bool found;
    const char *path = plugin ? NULL : find(arena, &found);
    if (!plugin && found)
        plugin = load(path, fault);
    else if (!plugin)
        fault_set(fault, FAULT_RUN,
                  "the CUDA engine is not installed: there is no '%s'; it is built where CMake finds a CUDA toolkit "
                  "(-DHEP_CUDA=ON, and NCCL for one process per GPU)",
                  path);
    arena_destroy(arena);
    return plugin;
}

void cuda_plugin_describe(Text *out)
{
    Arena *arena = arena_create();
    bool found;
    const char *path = find(arena, &found);
    text_format(out, found ? "%s" : "not installed (no %s)", path);
    arena_destroy(arena);
}
