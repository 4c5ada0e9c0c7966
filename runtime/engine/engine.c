// The engines that can be named; whether this build and this machine have them is for them to say.
// Owns the list alone.
#include "runtime/engine/engine.h"

#include <string.h>

static const EngineOps *const engines[] = {&host_engine, &cuda_engine};

const EngineOps *engine_find(const char *name)
{
    for (size_t e = 0; e < COUNT_OF(engines); e++) {
        if (strcmp(engines[e]->name, name) == 0)
            return engines[e];
    }
    return NULL;
}

const char *engine_name(size_t index)
{
    return index < COUNT_OF(engines) ? engines[index]->name : NULL;
}
