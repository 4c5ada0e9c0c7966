// Any bytes as a profile of a run: times and counts of the model that it is of, or errors.
#include "compiler/frontend/profile.h"
#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    const Spec *spec =
        check_description("cluster c { level gpu { count = 2  bandwidth = 1 Gbit/s  latency = 1 ms }\n"
                          "device { compute = 1 GFLOP/s  memory = 64 MB  memory_bandwidth = 1 GB/s } }\n"
                          "model small { layers = 1  hidden = 16  heads = 2  vocabulary = 32  sequence = 8  batch = 1\n"
                          "dtype = f32  moe { experts = 4  top_k = 2  inner = 16  activation = gelu } }\n"
                          "plan { pass = forward }\n",
                          arena, diag);
    SpecModel model = spec->model;
    bool ok = profile_read(file_input(data, size), &model, arena, diag);
    if (ok != (diag_error_count(diag) == 0))
        abort();
    print_diagnostics(diag);
    arena_destroy(arena);
    return 0;
}
