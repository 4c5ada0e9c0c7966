// The verifier's order of work, and the properties of groups, choices, steps and edges;
// verify_buffers.c, verify_overlaps.c, verify_sizes.c, verify_layers.c, verify_flow.c and verify_traffic.c hold the
// others.
#include "ir/verify/verify.h"

#include <inttypes.h>
#include <stdlib.h>

#include "ir/bundle.h"
#include "ir/schema.h"
#include "ir/unroll.h"
#include "ir/verify/verify_parts.h"

static void verify_limits(Verifier *verifier)
{
    Fault fault = {0};
    if (!plan_within_limits(verifier->plan, NULL, &fault))
        verify_fail(verifier, PROPERTY_LIMITS, fault.step, "%s", fault.message);
}

static void verify_groups(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    for (uint32_t i = 0; i < plan->group_count; i++) {
        const Group *group = &plan->groups[i];
        if (group->kind == GROUP_WORLD || group->kind == GROUP_LEVEL) {
            if (group->domain != 1)
                verify_fail(verifier, PROPERTY_GROUPS, NONE,
                            "group g%" PRIu32 ": a '%s' group has domain size 1, not %" PRIu32, i,
                            group_kind_name(group->kind), group->domain);
            continue;
        }
        const Level *level = &plan->cluster.levels[group->level];
        if (group->domain > level->count || level->count % group->domain != 0)
            verify_fail(verifier, PROPERTY_GROUPS, NONE,
                        "group g%" PRIu32 ": domain size %" PRIu32 " does not divide the %" PRIu32
                        " workers of level '%s'",
                        i, group->domain, level->count, level->name);
    }
}

// Every place holds the same number of whole experts, so that every expert is held by one place.
static void verify_places(Verifier *verifier, const Choice *choice)
{
    const Plan *plan = verifier->plan;
    uint64_t places = share_places(&plan->cluster, choice->domain);
    if (plan->model.experts % places != 0)
        verify_fail(verifier, PROPERTY_CHOICES, NONE,
                    "layer %" PRIu32 ": the domain sizes make %" PRIu64 " places, which do not divide the %" PRIu32
                    " experts",
                    choice->layer, places, plan->model.experts);
}

static void verify_choice(Verifier *verifier, const Choice *choice)
{
    const Plan *plan = verifier->plan;
    uint32_t failed = verifier->report->total;
    if (choice->layer >= plan->model.layers)
        verify_fail(verifier, PROPERTY_CHOICES, NONE, "layer %" PRIu32 " is none of the %" PRIu32 " layers",
                    choice->layer, plan->model.layers);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        uint32_t count = plan->cluster.levels[l].count, domain = choice->domain[l];
        if (domain > count || count % domain != 0)
            verify_fail(verifier, PROPERTY_CHOICES, NONE,
                        "layer %" PRIu32 ": domain size %" PRIu32 " does not divide the %" PRIu32
                        " workers of level '%s'",
                        choice->layer, domain, count, plan->cluster.levels[l].name);
        else if (l < plan->replica_levels && domain != count)
            verify_fail(verifier, PROPERTY_CHOICES, NONE,
                        "layer %" PRIu32 ": level '%s' holds replicas, its domain size is %" PRIu32 ", not %" PRIu32,
                        choice->layer, plan->cluster.levels[l].name, count, domain);
    }
    if (verifier->report->total == failed)
        verify_places(verifier, choice);
}

static void verify_choices(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    if (plan->pass == PASS_TRAINING && plan->replica_levels > 0 && plan->sync.every == 0)
        verify_fail(verifier, PROPERTY_CHOICES, NONE,
                    "'replica_levels' is %" PRIu32 " in a training plan: every expert has one owner",
                    plan->replica_levels);
    for (uint32_t i = 0; i < plan->choice_count; i++) {
        verify_choice(verifier, &plan->choices[i]);
        if (i > 0 && plan->choices[i].layer <= plan->choices[i - 1].layer)
            verify_fail(verifier, PROPERTY_CHOICES, NONE,
                        "layer %" PRIu32 " follows layer %" PRIu32 ": expected ascending layers",
                        plan->choices[i].layer, plan->choices[i - 1].layer);
    }
}

static bool group_fits(OpShape shape, GroupKind kind)
{
    switch (shape) {
    case SHAPE_LOCAL:
        return false;
    case SHAPE_EXCHANGE:
        return kind == GROUP_EXCHANGE;
    case SHAPE_GATHER:
    case SHAPE_SCATTER:
        return kind == GROUP_GATHER;
    case SHAPE_REDUCE:
        return kind == GROUP_LEVEL || kind == GROUP_WORLD;
    }
    return false;
}

static void verify_step(Verifier *verifier, uint32_t index)
{
    const Plan *plan = verifier->plan;
    const Step *step = &plan->steps[index];
    const OpInfo *info = step_info(step);
    if (info->shape == SHAPE_LOCAL) {
        if (step->group != NONE || step->level != NONE || step->bytes != 0)
            verify_fail(verifier, PROPERTY_STEPS, index,
                        "op '%s' is local: it has no group and no level, and sends nothing", info->name);
        return;
    }
    if (step->group == NONE) {
        verify_fail(verifier, PROPERTY_STEPS, index, "op '%s' needs a group", info->name);
        return;
    }
    const Group *group = &plan->groups[step->group];
    if (!group_fits(info->shape, group->kind))
        verify_fail(verifier, PROPERTY_STEPS, index, "op '%s' cannot use group g%" PRId32 ", which is of kind '%s'",
                    info->name, step->group, group_kind_name(group->kind));
    else if (group->kind != GROUP_WORLD && step->level != group->level)
        verify_fail(verifier, PROPERTY_STEPS, index, "the step's level is not that of its group g%" PRId32,
                    step->group);
}

// Steps of one segment that run in every micro-batch may wait for those of the one before, steps that run in every lap
// for those of the lap before.
static bool waits_for_before(const Plan *plan, const Step *step, uint32_t earlier, uint32_t segment_end)
{
    if (!step_repeats(step) || !step_repeats(&plan->steps[earlier]))
        return false;
    bool every = step->when == WHEN_EVERY && plan->steps[earlier].when == WHEN_EVERY;
    return plan_laps(plan).count > 1 || (plan->micro_batches > 1 && every && earlier < segment_end);
}

static void verify_edges(Verifier *verifier)
{
    const Plan *plan = verifier->written;
    for (uint32_t i = 0, end = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        end = i < end ? end : plan_segment_end(plan, i);
        for (uint32_t k = 0; k < step->after_count; k++) {
            uint32_t earlier = plan->after[step->after_first + k];
            if (earlier >= i && !waits_for_before(plan, step, earlier, end))
                verify_fail(verifier, PROPERTY_EDGES, i, "waits for step %" PRIu32 ", which does not come before it",
                            earlier);
            else if (step_stream(plan, &plan->steps[earlier]) == step_stream(plan, step))
                verify_fail(verifier, PROPERTY_EDGES, i, "waits for step %" PRIu32 " of its own stream, '%s'", earlier,
                            stream_name(step_stream(plan, step)));
        }
    }
}

// What a step joins: the one before it on its stream, of which it may be the ordinal `place` of a run. What it waits
// for the first of them waits for.
static void verify_joined(Verifier *verifier, uint32_t index, int64_t before, uint32_t place)
{
    const Plan *plan = verifier->written;
    const Step *step = &plan->steps[index], *other = before == NONE ? NULL : &plan->steps[before];
    OpShape shape = step_info(step)->shape;
    if (shape != SHAPE_GATHER && shape != SHAPE_SCATTER)
        verify_fail(verifier, PROPERTY_EDGES, index, "op '%s' joins no other", step_info(step)->name);
    else if (!other || other->op != step->op || other->group != step->group || other->when != step->when)
        verify_fail(verifier, PROPERTY_EDGES, index,
                    "joins the step before it on its stream, which is no '%s' of the same group and micro-batches",
                    step_info(step)->name);
    else if (step->after_count > 0)
        verify_fail(verifier, PROPERTY_EDGES, index, "waits for step %" PRIu32 ", and joins step %" PRId64,
                    plan->after[step->after_first], before);
    else if (plan->micro_batches > 1 && step_repeats(step))
        verify_fail(verifier, PROPERTY_EDGES, index, "joins step %" PRId64 ", and both run more than once", before);
    else if (place >= PLAN_RUN_MAX)
        verify_fail(verifier, PROPERTY_EDGES, index, "is one of more than %d steps that join each other", PLAN_RUN_MAX);
    else if (plan->bucket == 0 || step->layer < 0 || other->layer < 0 ||
             (uint32_t)step->layer / plan->bucket != (uint32_t)other->layer / plan->bucket)
        verify_fail(verifier, PROPERTY_EDGES, index,
                    "joins step %" PRId64 ", and their layers are not of one bucket of %" PRIu32, before, plan->bucket);
}

static void verify_runs(Verifier *verifier)
{
    const Plan *plan = verifier->written;
    int64_t before[STREAM_COUNT];
    uint32_t length[STREAM_COUNT] = {0};
    for (int s = 0; s < STREAM_COUNT; s++)
        before[s] = NONE;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        Stream stream = step_stream(plan, &plan->steps[i]);
        if (plan->steps[i].joined)
            verify_joined(verifier, i, before[stream], length[stream]);
        length[stream] = plan->steps[i].joined ? length[stream] + 1 : 1;
        before[stream] = i;
    }
}

static void verify_steps(Verifier *verifier)
{
    for (uint32_t i = 0; i < verifier->plan->step_count; i++)
        verify_step(verifier, i);
}

static const WeightKind *verify_kinds(const Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    WeightKind *kinds = arena_alloc_array(verifier->scratch, (size_t)plan->buffer_count + 1, sizeof(*kinds));
    bundle_kinds(plan, kinds);
    return kinds;
}

static void verify_repeated_use(const Verifier *verifier, Laps laps, bool accesses)
{
    Verifier of = *verifier;
    of.scratch = arena_create();
    of.plan = plan_unroll(verifier->written, laps, of.scratch);
    of.order = order_create(of.plan, of.scratch);
    if (accesses)
        verify_accesses(&of);
    verify_overlaps(&of);
    arena_destroy(of.scratch);
}

typedef struct {
    uint64_t begin, end;
    bool holds_more;
} Extent;

static int compare_extents(const void *a, const void *b)
{
    uint64_t x = ((const Extent *)a)->begin, y = ((const Extent *)b)->begin;
    return (x > y) - (x < y);
}

// Has the buffer places for values that so many laps do not reach?
static bool holds_more(const Plan *plan, const Buffer *buffer, Laps laps)
{
    uint32_t reached = buffer->span == SPAN_ALL ? laps.count * laps.each : laps.each;
    return (buffer->span == SPAN_ALL || buffer->span == SPAN_LAP_ALL) && plan_buffer_values(plan, buffer) > reached;
}

// Do such buffers share memory with others?
static bool places_are_shared(const Plan *plan, Laps laps)
{
    Arena *scratch = arena_create();
    Extent *extents = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*extents));
    uint32_t count = 0;
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        const Buffer *buffer = &plan->buffers[b];
        uint64_t bytes;
        if (plan_buffer_bytes(plan, buffer, &bytes) && bytes > 0)
            extents[count++] = (Extent){buffer->offset, buffer->offset + bytes, holds_more(plan, buffer, laps)};
    }
    qsort(extents, count, sizeof(*extents), compare_extents);
    uint64_t end = 0, end_of_more = 0; // of those that begin before
    bool shared = false;
    for (uint32_t i = 0; i < count && !shared; i++) {
        const Extent *of = &extents[i];
        shared = of->begin < (of->holds_more ? end : end_of_more);
        end = of->end > end ? of->end : end;
        if (of->holds_more)
            end_of_more = of->end > end_of_more ? of->end : end_of_more;
    }
    arena_destroy(scratch);
    return shared;
}

// Several micro-batches one after another: what they share is not read before it is written, nor written while it is
// read, and what is alive together does not share memory. Of more than enough, so many have what can happen in all, but
// for the places of values: where a buffer holds those of all micro-batches, each lies elsewhere. All are unrolled
// where other buffers lie there, too.
static void verify_unrolled(Verifier *verifier)
{
    const Plan *plan = verifier->written;
    Laps all = plan_laps(plan), enough = plan_laps_at_most(plan, UNROLL_ENOUGH);
    if (!verifier->report->total)
        verify_repeated_use(verifier, enough, true);
    if ((all.each > enough.each || all.count > enough.count) && !verifier->report->total &&
        places_are_shared(plan, enough))
        verify_repeated_use(verifier, all, false);
}

bool plan_verify(const Plan *plan, VerifyReport *report)
{
    // Each relies on those before it.
    static void (*const structure[])(Verifier *) = {verify_limits, verify_groups, verify_choices,
                                                    verify_steps,  verify_edges,  verify_runs};
    *report = (VerifyReport){0};
    Verifier verifier = {.written = plan, .plan = plan, .report = report};
    for (size_t i = 0; i < COUNT_OF(structure); i++) {
        structure[i](&verifier);
        if (report->total)
            return false;
    }
    verifier.scratch = arena_create();
    verifier.plan = plan_unroll(plan, (Laps){1, 1}, verifier.scratch);
    verifier.order = order_create(verifier.plan, verifier.scratch);
    verifier.kinds = verify_kinds(&verifier);
    verify_operands(&verifier);
    verify_sizes(&verifier);
    verify_loop(&verifier);
    if (!plan->model.abstract) {
        verify_accesses(&verifier);
        verify_memory(&verifier);
    }
    verify_layers(&verifier);
    verify_flow(&verifier);
    if (plan->micro_batches > 1)
        verify_unrolled(&verifier);
    verify_traffic(&verifier);
    verify_claims(&verifier);
    arena_destroy(verifier.scratch);
    return report->total == 0;
}
