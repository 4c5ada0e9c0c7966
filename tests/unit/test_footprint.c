// Memory that is estimated from a few layers, against that of the whole plan: of models whose layers repeat by one, two
// or three, differ at both ends, or follow no rule, in every way of planning that changes what layers keep.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/solve/footprint.h"
#include "specs.h"

enum { CASES = 150, LAYERS_MAX = 40, PERIOD_MAX = 3 };

static const double CLOSE = 0.015; // one per cent and how buffers pack

typedef struct {
    bool is_moe[LAYERS_MAX];
    uint32_t inner[LAYERS_MAX], mixer[LAYERS_MAX];
    SpecMixer mixers[2];
} Layers;

static void draw_layer(Layers *layers, uint32_t index)
{
    layers->is_moe[index] = rand() % 3 > 0;
    layers->inner[index] = 64u << rand() % 3;
    layers->mixer[index] = (uint32_t)(rand() % 3);
}

static void copy_layer(Layers *layers, uint32_t from, uint32_t to)
{
    layers->is_moe[to] = layers->is_moe[from];
    layers->inner[to] = layers->inner[from];
    layers->mixer[to] = layers->mixer[from];
}

// Up to two layers of their own, then so many that repeat, then up to two more; or all of their own.
static void draw_layers(Layers *layers, SpecModel *model)
{
    uint32_t before = (uint32_t)(rand() % 3), after = (uint32_t)(rand() % 3),
             period = 1 + (uint32_t)(rand() % PERIOD_MAX);
    bool repeats = rand() % 5 > 0;
    model->layers = 10 + (uint32_t)(rand() % (LAYERS_MAX - 9));
    for (uint32_t k = 0; k < model->layers; k++) {
        bool own = !repeats || k < before + period || k + after >= model->layers;
        if (own)
            draw_layer(layers, k);
        else
            copy_layer(layers, k - period, k);
    }
    layers->is_moe[before] = true;
    layers->mixers[0] = (SpecMixer){.name = "small", .parameters = 512, .scored = 16};
    layers->mixers[1] = (SpecMixer){.name = "large", .parameters = 8192, .scored = 64};
    model->is_moe = layers->is_moe;
    model->inner_each = layers->inner;
    model->mixers = layers->mixers;
    model->mixer = layers->mixer;
    model->mixer_count = 2;
}

static Spec draw_spec(Layers *layers)
{
    const uint32_t shape[] = {2, 1 + (uint32_t)(rand() % 4), 0};
    Spec spec = spec_small_gpt(shape, 8u << rand() % 2, 2);
    spec.model.hidden = 64;
    spec.model.inner = 64;
    spec.model.sequence = 32;
    spec.plan.pass = rand() % 4 ? PASS_TRAINING : PASS_FORWARD;
    if (rand() % 4 > 0)
        draw_layers(layers, &spec.model);
    else
        spec.model.layers = 10 + (uint32_t)(rand() % (LAYERS_MAX - 9));
    if (spec.plan.pass == PASS_FORWARD)
        return spec;
    spec.plan.micro_batches = 1u << rand() % 3;
    spec.plan.recomputes = rand() % 2;
    spec.plan.interleaves = rand() % 2;
    spec.plan.regather_dense = rand() % 2;
    spec.plan.lap = rand() % 3 ? 0 : 1;
    spec.plan.returns_apart = rand() % 2;
    spec.plan.gradient_levels = (uint32_t)(rand() % 2);
    return spec;
}

Test(footprint, a_few_layers_say_what_all_take)
{
    srand(51);
    int far = 0;
    for (int i = 0; i < CASES; i++) {
        Layers layers = {0};
        Arena *arena = arena_create();
        Spec spec = draw_spec(&layers);
        Config config = {0};
        for (uint32_t l = 0; l < spec.cluster.level_count; l++)
            config.domain[l] = rand() % 2 ? spec.cluster.levels[l].count : 1;
        if (spec_domain_is_valid(&spec, config.domain)) {
            config.regather = spec.plan.pass == PASS_TRAINING && config_held_shards(&spec, &config) > 1 && rand() % 2;
            config_plan_gradients(&spec, &config);
            uint32_t prefetch = rand() % 2 ? PREFETCH_UNLIMITED : (uint32_t)(rand() % 3);
            double estimated = footprint_total(&spec, &config, prefetch, spec.plan.dispatch);
            double exact = footprint_exact(workload_derive(&spec, arena), &config, prefetch, spec.plan.dispatch);
            cr_expect(fabs(estimated - exact) <= CLOSE * exact, "case %d, %u layers: %.0f estimated, %.0f lowered", i,
                      spec.model.layers, estimated, exact);
            far += fabs(estimated - exact) > CLOSE / 3 * exact;
        }
        arena_destroy(arena);
    }
    cr_expect_leq(far, CASES / 10, "%d of %d cases are far off", far, CASES);
}

static double lowered_bytes(const Spec *spec, const Config *config, Arena *arena)
{
    return footprint_exact(workload_derive(spec, arena), config, PREFETCH_UNLIMITED, spec->plan.dispatch);
}

// What a layer with experts adds: half of what a period of two adds, a third of one of three, whose mixers differ; with
// dense layers between them all of it.
Test(footprint, layers_add_their_part)
{
    for (uint32_t period = 1; period <= PERIOD_MAX; period++)
        for (int dense = 0; dense < 2; dense++) {
            Layers layers = {0};
            Arena *arena = arena_create();
            Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
            draw_layers(&layers, &spec.model);
            for (uint32_t k = 0; k < LAYERS_MAX; k++) {
                layers.is_moe[k] = !dense || k % period == 0;
                layers.mixer[k] = k % period;
                layers.inner[k] = 64;
            }
            spec.plan.pass = PASS_TRAINING;
            const Config config = {.domain = {2, 2}};
            spec.model.layers = 36;
            double deep = lowered_bytes(&spec, &config, arena);
            double said = footprint_measure(&spec, &config, PREFETCH_UNLIMITED, spec.plan.dispatch).per_layer_bytes;
            spec.model.layers = 24;
            double added = (deep - lowered_bytes(&spec, &config, arena)) / (dense ? 12.0 / period : 12);
            cr_expect_float_eq(said, added, 0.03 * added, "period %u: %.0f, not %.0f", period, said, added);
            arena_destroy(arena);
        }
}

// Bandwidths, the device's memory and names of placements matter to no footprint; whatever else differs is measured.
Test(footprint, what_is_remembered_is_of_the_same_spec)
{
    Arena *arena = arena_create();
    Spec spec = spec_small_gpt((uint32_t[]){2, 4, 0}, 8, 2);
    spec.plan.pass = PASS_TRAINING;
    spec.model.layers = 12;
    spec.footprints = footprint_table_create(arena);
    const Config config = {.domain = {2, 4}};
    double first = footprint_total(&spec, &config, 0, spec.plan.dispatch);
    Spec other = spec;
    other.cluster.levels[0].bandwidth_bytes_per_s *= 3;
    other.cluster.device.memory_bytes /= 2;
    cr_assert_eq(footprint_total(&other, &config, 0, spec.plan.dispatch), first);
    other = spec;
    other.model.layers = 24;
    cr_assert_gt(footprint_total(&other, &config, 0, spec.plan.dispatch), 1.2 * first);
    other = spec;
    other.plan.recomputes = true;
    cr_assert_lt(footprint_total(&other, &config, 0, spec.plan.dispatch), first);
    const Config less = {.domain = {1, 4}};
    cr_assert_lt(footprint_total(&spec, &less, 0, spec.plan.dispatch), first);
    double exact = footprint_exact(workload_derive(&spec, arena), &config, 0, spec.plan.dispatch);
    cr_assert_eq(footprint_exact(workload_derive(&spec, arena), &config, 0, spec.plan.dispatch), exact);
    spec.footprints = NULL;
    cr_assert_eq(footprint_total(&spec, &config, 0, spec.plan.dispatch), first);
    cr_assert_eq(footprint_exact(workload_derive(&spec, arena), &config, 0, spec.plan.dispatch), exact);
    arena_destroy(arena);
}
