// See frugality.h.
#include "compiler/solve/frugality.h"

#include "ir/bundle.h"

const Spec *frugality_apply(const Spec *request, Frugality how, Arena *arena)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = *request;
    spec->plan.regather_dense = how.regather_dense;
    spec->plan.dense_levels = how.dense_levels;
    spec->plan.regather_embedding = how.regather_embedding;
    spec->plan.recomputes = how.recomputes;
    spec->plan.interleaves = how.interleaves;
    return spec;
}

bool frugality_covers(Frugality first, Frugality second)
{
    bool dense = !second.regather_dense || (first.regather_dense && first.dense_levels <= second.dense_levels);
    return dense && first.regather_embedding >= second.regather_embedding && first.recomputes >= second.recomputes &&
           first.interleaves <= second.interleaves;
}

// Does keeping what so many outermost levels gathered differ from keeping one level less, and from keeping all?
static bool keeps_between(const Spec *spec, uint32_t levels)
{
    uint32_t wide = spec_shared_levels(spec);
    return levels > 0 && wide >> (levels - 1) & 1 && wide >> levels;
}

static size_t list_embedding(const Spec *spec, Frugality how, Frugality *out)
{
    size_t count = 0;
    Spec again = *spec;
    again.plan.regather_dense = how.regather_dense;
    again.plan.dense_levels = how.dense_levels;
    bool can = spec_can_regather_embedding(&again);
    if (!can || spec->plan.once_embedding != ONCE_DENSE_NONE)
        out[count++] = how;
    how.regather_embedding = true;
    if (can && spec->plan.once_embedding != ONCE_DENSE_ALL)
        out[count++] = how;
    return count;
}

// What packets bring is kept: of dense weights that are encoded levels inside those alone may be gathered again.
static size_t list_dense(const Spec *spec, bool interleaves, bool recomputes, Frugality *out)
{
    const Coding *dense = &spec->plan.dense;
    size_t count = 0, least = coding_encodes(dense) ? coding_levels(dense, spec->cluster.level_count) : 0;
    Frugality how = {.recomputes = recomputes, .interleaves = interleaves};
    if (spec->plan.once_dense != ONCE_DENSE_NONE)
        count += list_embedding(spec, how, out);
    how.regather_dense = true;
    for (how.dense_levels = spec->cluster.level_count; how.dense_levels-- > least;)
        if (spec->plan.once_dense != ONCE_DENSE_ALL &&
            (how.dense_levels == 0 || keeps_between(spec, how.dense_levels)) &&
            (how.dense_levels == 0 || spec->plan.once_dense == ONCE_DENSE_AUTO))
            count += list_embedding(spec, how, out + count);
    return count;
}

static size_t list_activations(const Spec *spec, bool interleaves, Frugality *out)
{
    size_t count = 0;
    if (spec->plan.recompute != RECOMPUTE_FULL)
        count += list_dense(spec, interleaves, false, out);
    if (spec->plan.recompute != RECOMPUTE_NONE)
        count += list_dense(spec, interleaves, true, out + count);
    return count;
}

size_t frugality_list(const Spec *spec, Frugality out[FRUGALITIES_MAX])
{
    size_t count = 0;
    bool can = spec_abreast_possible(spec) > 1;
    if (can && spec->plan.interleave != INTERLEAVE_NONE)
        count += list_activations(spec, true, out);
    if (!can || spec->plan.interleave != INTERLEAVE_FULL)
        count += list_activations(spec, false, out + count);
    return count;
}
