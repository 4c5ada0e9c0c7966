// cJSON and memory that has run out: apart, because libhep has arenas and no cJSON.
#include <cjson/cJSON.h>
#include <stdlib.h>

#include "ir/base/arena.h"

// cJSON has no state that a jump out of its functions would leave damaged.
static void *json_allocate(size_t bytes)
{
    void *memory = malloc(bytes);
    if (!memory && memory_is_guarded())
        memory_exhausted();
    return memory;
}

void memory_guard_json(void)
{
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = json_allocate, .free_fn = free});
}
