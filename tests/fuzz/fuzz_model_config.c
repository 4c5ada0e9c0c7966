// Any bytes as the configuration of a model that a description imports: a model that passes the checks, or errors.
#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    const char *text = arena_format(arena,
                                    "cluster c { level dc { count = 2  bandwidth = 1 Gbit/s  latency = 1 ms }\n"
                                    "device { compute = 1 TFLOP/s  memory = 80 GB  memory_bandwidth = 1 TB/s } }\n"
                                    "model m from \"%s\" { sequence = 32  batch = 1 }\nplan { pass = forward }\n",
                                    file_input(data, size));
    (void)check_description(text, arena, diag);
    print_diagnostics(diag);
    arena_destroy(arena);
    return 0;
}
