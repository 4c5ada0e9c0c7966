// Any bytes as a table of measured bandwidths between sites, with names and without: positive and symmetric, or errors.
#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_as(const char *names, const char *path)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    const char *text =
        arena_format(arena,
                     "cluster c { level dc { count = 3  latency = 1 ms  %s links = \"%s\" }\n"
                     "device { compute = 1 TFLOP/s  memory = 80 GB  memory_bandwidth = 1 TB/s } }\n"
                     "model m { layers = 1  hidden = 16  heads = 2  vocabulary = 32  sequence = 8  batch = 1\n"
                     "dtype = f32  moe { experts = 3  top_k = 1  inner = 16  activation = gelu } }\n"
                     "plan { pass = forward }\n",
                     names, path);
    (void)check_description(text, arena, diag);
    print_diagnostics(diag);
    arena_destroy(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = file_input(data, size);
    read_as("", path);
    read_as("names = [paris, oslo, rome]", path);
    return 0;
}
