// See device.h: finds the plug-in beside the library, or in the folders hep where it and hep-run's are installed, and
// loads it. It stays loaded: its functions are in use until the end.
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "plugin_digest.h"
#include "runtime/library/device.h"

static const char build[] = HEP_VERSION " (interface " HEP_PLUGIN_DIGEST ")";
static const char name[] = "hep-library-cuda.so";
static const char *const folders[] = {"", "hep/", HEP_PLUGINS_FROM_LIBRARY "/", HEP_PLUGINS_FROM_PROGRAM "/"};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const LibraryDevice *loaded; // guarded

enum { PATH_BYTES = 4096 };

// The first that exists; false and where it was looked for first.
static bool find(char path[PATH_BYTES])
{
    Dl_info self = {0};
    int prefix = 0;
    if (dladdr(build, &self) && self.dli_fname) {
        const char *slash = strrchr(self.dli_fname, '/');
        prefix = slash ? (int)(slash - self.dli_fname) + 1 : 0;
    }
    for (size_t f = 0; f < COUNT_OF(folders); f++) {
        int length = snprintf(path, PATH_BYTES, "%.*s%s%s", prefix, prefix ? self.dli_fname : "", folders[f], name);
        if (length > 0 && length < PATH_BYTES && access(path, R_OK) == 0)
            return true;
    }
    snprintf(path, PATH_BYTES, "%.*s%s", prefix, prefix ? self.dli_fname : "", name);
    return false;
}

static const LibraryDevice *load(const char *path, Fault *fault)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fault_set(fault, FAULT_INFEASIBLE,
                  "GPUs: %s; it needs the libraries of the CUDA that it was built with, in a folder that "
                  "LD_LIBRARY_PATH names or ldconfig knows",
                  dlerror());
        return NULL;
    }
    LibraryDeviceEntry *entry = NULL;
    void *symbol = dlsym(library, LIBRARY_DEVICE_ENTRY);
    memcpy(&entry, &symbol, sizeof(entry)); // ISO C has no cast from data to functions
    const LibraryDevice *device = entry ? entry() : NULL;
    if (device && strcmp(device->build, build) == 0)
        return device;
    fault_set(fault, FAULT_INFEASIBLE,
              "GPUs: '%s' is of another build, %s; this library is %s: install both from one build", path,
              device ? device->build : "or no plug-in", build);
    dlclose(library);
    return NULL;
}

const LibraryDevice *library_device(Fault *fault)
{
    char path[PATH_BYTES];
    pthread_mutex_lock(&mutex);
    if (!loaded && find(path))
        loaded = load(path, fault);
    else if (!loaded)
        fault_set(
            fault, FAULT_INFEASIBLE,
            "GPUs need the library's plug-in for CUDA, and there is no '%s'; it is built where CMake finds a CUDA "
            "toolkit",
            path);
    const LibraryDevice *device = loaded;
    pthread_mutex_unlock(&mutex);
    return device;
}
