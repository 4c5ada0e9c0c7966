// Profiles replace derived times and uniform routing, layer by layer; what is none, or of another model, is refused.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "compiler/frontend/profile.h"
#include "compiler/model/cost.h"
#include "specs.h"

static const char *const head = "{\"format\": \"hep-profile\", \"profile_version\": 1, \"model\": {\"layers\": 2, "
                                "\"hidden\": 16, \"sequence\": 8, \"batch\": 1, \"experts\": 4, \"top_k\": 2, "
                                "\"inner\": 32}, \"loss_s\": 0.5, \"layers\": [";

static const char *const layer_0 = "{\"pre_expert_s\": 0.25, \"gate_s\": 0.125, \"dense_s\": 0, \"expert_s\": 2, "
                                   "\"expert_flops\": 4e9, \"expert_rows\": 32, \"histogram\": [1, 1, 1, 1]},";
static const char *const layer_1 = "{\"pre_expert_s\": 0.5, \"gate_s\": 0.125, \"dense_s\": 0, \"expert_s\": 0, "
                                   "\"expert_flops\": 0, \"expert_rows\": 0, \"histogram\": [8, 8, 1, 1]}]}";

// Reads a profile of these parts; the number of errors.
static size_t read_parts(const char *a, const char *b, const char *c, Spec *spec, Arena *arena)
{
    char path[] = "/tmp/hep-profile-XXXXXX";
    int file = mkstemp(path);
    FILE *out = fdopen(file, "w");
    cr_assert(out);
    fprintf(out, "%s%s%s", a, b, c);
    fclose(out);
    Diag *diag = diag_create(arena);
    bool ok = profile_read(path, &spec->model, arena, diag);
    unlink(path);
    cr_assert_eq(ok, diag_error_count(diag) == 0);
    return diag_error_count(diag);
}

Test(profile, replaces_times_and_routing)
{
    Arena *arena = arena_create();
    Spec spec = spec_small_gpt((uint32_t[]){2, 0, 0}, 4, 2);
    const Workload *derived = workload_derive(&spec, arena);
    cr_assert_eq(read_parts(head, layer_0, layer_1, &spec, arena), 0);
    const Workload *work = workload_derive(&spec, arena);
    // The model's batch is twice the profile's.
    cr_assert_float_eq(work->loss_s, 1, 1e-12);
    cr_assert_float_eq(work->layers[0].pre_expert_s, 2 * (0.25 + 0.125), 1e-12);
    cr_assert_float_eq(work->layers[1].gate_s, 0.25, 1e-12);
    // 4 GFLOP of 32 rows take a device of 4 GFLOP/s and 32 half-rate rows 2 s, as measured.
    cr_assert_float_eq(work->layers[0].expert_scale, 1, 1e-12);
    cr_assert_eq(work->layers[1].expert_scale, 1);
    // The backward pass was not measured: as much slower as the forward pass was.
    double slower = work->loss_s / derived->loss_s;
    cr_assert_float_eq(work->loss_backward_s, slower * derived->loss_backward_s, 1e-9 * work->loss_backward_s);
    cr_assert_eq(work->layers[0].expert_backward_scale, 1);
    cr_assert_neq(work->layers[0].kind, work->layers[1].kind);
    cr_assert_eq(derived->layers[1].kind, 0);
    // Even choices cost what uniform routing does; uneven ones have a busiest GPU.
    Config config = {.domain = {1}};
    LayerCost even, uneven, uniform;
    cost_layer(work, 0, &config, DISPATCH_DEDUP, &even);
    cost_layer(work, 1, &config, DISPATCH_DEDUP, &uneven);
    cost_layer(derived, 0, &config, DISPATCH_DEDUP, &uniform);
    cr_assert(fabs(even.dispatch_s[0] - uniform.dispatch_s[0]) < 0.02 * uniform.dispatch_s[0]);
    cr_assert_eq(even.busiest[0], 1);
    cr_assert_gt(uneven.busiest[0], 1.2);
    cr_assert_gt(uneven.expert_s, 1.2 * uniform.expert_s);
    arena_destroy(arena);
}

// Times of the backward pass are taken as they are, for twice the tokens; of experts, over those that their FLOPs take:
// 2.5 x 4 GFLOP of 32 rows, 5 s.
Test(profile, measures_the_backward_pass_apart)
{
    Arena *arena = arena_create();
    Spec spec = spec_small_gpt((uint32_t[]){2, 0, 0}, 4, 2);
    const Workload *derived = workload_derive(&spec, arena);
    char both[1024];
    snprintf(both, sizeof(both),
             "{\"pre_expert_backward_s\": 1, \"gate_backward_s\": 0.5, \"dense_backward_s\": 3, "
             "\"expert_backward_s\": 15, %s",
             layer_0 + 1);
    cr_assert_eq(read_parts(head, both, layer_1, &spec, arena), 0);
    const Workload *work = workload_derive(&spec, arena);
    cr_assert_float_eq(work->layers[0].gate_backward_s, 1, 1e-12);
    cr_assert_float_eq(work->layers[0].pre_expert_backward_s, 3, 1e-12);
    cr_assert_float_eq(work->layers[0].dense_backward_s, 6, 1e-12);
    cr_assert_float_eq(work->layers[0].expert_scale, 1, 1e-12);
    cr_assert_float_eq(work->layers[0].expert_backward_scale, 3, 1e-12);
    double slower = 0.25 * 2 / (derived->layers[1].pre_expert_s - derived->layers[1].gate_s) * 2;
    double attention_s = derived->layers[1].pre_expert_backward_s - derived->layers[1].gate_backward_s;
    cr_assert_float_eq(work->layers[1].pre_expert_backward_s - work->layers[1].gate_backward_s, slower * attention_s,
                       1e-9 * slower * attention_s);
    both[sizeof("{\"pre_expert_backward_s\": ") - 1] = 'x';
    cr_assert_geq(read_parts(head, both, layer_1, &spec, arena), 1);
    arena_destroy(arena);
}

Test(profile, refuses_what_is_none)
{
    Arena *arena = arena_create();
    Spec spec = spec_small_gpt((uint32_t[]){2, 0, 0}, 4, 2), other = spec_small_gpt((uint32_t[]){2, 0, 0}, 8, 2);
    Spec abstract = spec_one_tier(2, 1e9, 0, 1, 1, 0);
    cr_assert_eq(read_parts("", "", "", &spec, arena), 1);
    cr_assert_eq(read_parts("{}", "", "", &spec, arena), 1);
    cr_assert_eq(read_parts("[", "1", "]", &spec, arena), 1);
    cr_assert_eq(read_parts(head, "", "]}", &spec, arena), 1, "no layers");
    cr_assert_eq(read_parts(head, layer_0, "{}]}", &spec, arena), 1, "an empty layer");
    cr_assert_eq(read_parts(head, layer_0, layer_1, &other, arena), 1, "other experts");
    cr_assert_eq(read_parts(head, layer_0, layer_1, &abstract, arena), 1, "volumes");
    char text[512];
    const char *const bad[] = {"[1, 1, 1]", "[1, 1, 1, -1]", "[1, 0, 0, 0]", "[1, 1, 1, 1e999]", "7"};
    for (size_t b = 0; b < COUNT_OF(bad); b++) {
        snprintf(text, sizeof(text), "%.*s%s}]}", (int)(strstr(layer_0, "[") - layer_0), layer_0, bad[b]);
        cr_assert_eq(read_parts(head, layer_0, text, &spec, arena), 1, "%s", bad[b]);
    }
    cr_assert_null(spec.model.times, "a refused profile left its times behind");
    arena_destroy(arena);
}
