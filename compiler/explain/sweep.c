// See sweep.h. A point is an edit of the syntax tree (or a -D), so that every value passes the check.
#include "compiler/explain/sweep.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "compiler/explain/sweep_axis.h"
#include "ir/plan_facts.h"
#include "ir/simulate/simulate.h"

typedef struct {
    const SweepAxis *axes;
    size_t axis_count;
    const double *values;
    Arena *arena;
} Point;

static void edit_point(Ast *ast, void *context)
{
    const Point *point = context;
    for (size_t a = 0; a < point->axis_count; a++)
        if (point->axes[a].key)
            sweep_axis_edit(ast, &point->axes[a], point->values[a], point->arena);
}

static void describe_choice(const Plan *plan, SweepRow *row)
{
    uint32_t kinds = 0;
    for (uint32_t i = 0; i < plan->choice_count; i++) {
        bool seen = false;
        for (uint32_t j = 0; j < i && !seen; j++)
            seen = choices_equal(&plan->choices[j], &plan->choices[i]);
        kinds += !seen;
    }
    if (kinds > 1)
        snprintf(row->choice, sizeof(row->choice), "mixed: %u kinds", kinds);
    else if (plan->choice_count)
        plan_format_domain(plan, plan->choices[0].domain, row->choice, sizeof(row->choice));
}

static void fill_row(const Plan *plan, SweepRow *row)
{
    const Strategy *ep = plan_find_baseline(plan, "ep"), *dedup = plan_find_baseline(plan, "ep_dedup");
    const Strategy *best = plan_best_baseline(plan);
    row->iteration_s = plan->iteration_s;
    row->simulated_s = simulated_iteration_s(plan);
    row->gap = plan->gap;
    row->over_best = plan_speed_up(plan, best);
    snprintf(row->best_baseline, sizeof(row->best_baseline), "%s", best ? best->name : "");
    if (best) {
        Text phrase = {0};
        plan_append_strategy(plan, best, &phrase);
        snprintf(row->best_phrase, sizeof(row->best_phrase), "%s", phrase.data);
        text_free(&phrase);
    }
    row->over_ep = ep ? ep->iteration_s / plan->iteration_s : 0;
    row->over_dedup = dedup ? dedup->iteration_s / plan->iteration_s : 0;
    row->outer_bytes = traffic_total(&plan->strategies[0].traffic[0]);
    row->memory_bytes = plan_memory_bytes(plan);
    describe_choice(plan, row);
}

static void report_refused(const Point *point, const Diag *causes, const SweepRequest *request)
{
    Text place = {0};
    for (size_t a = 0; a < point->axis_count; a++)
        text_format(&place, "%s%s", a ? ", " : "", sweep_axis_define(&point->axes[a], point->values[a], point->arena));
    request->refused(place.data, causes);
    text_free(&place);
}

static FaultKind compile_point(const CompileOptions *options, const SweepRequest *request, Point *point, bool *shown,
                               SweepRow *row)
{
    Arena *arena = arena_create();
    point->arena = arena;
    CompileOptions changed = *options;
    size_t defines = options->check.define_count;
    changed.check.defines = arena_alloc_array(arena, defines + point->axis_count, sizeof(*changed.check.defines));
    if (defines)
        memcpy(changed.check.defines, options->check.defines, defines * sizeof(*changed.check.defines));
    for (size_t a = 0; a < point->axis_count; a++) {
        const SweepAxis *axis = &point->axes[a];
        if (!axis->key)
            changed.check.defines[defines++] = sweep_axis_define(axis, point->values[a], arena);
    }
    changed.check.define_count = defines;
    changed.planner.advise = false; // a refused point is a row
    changed.edit = edit_point;
    changed.edit_context = point;
    changed.stop_after = STAGE_PLAN;
    Compilation compilation;
    Diag *own = diag_create(arena); // what does not fit is a row, not an error
    Fault fault = {0};
    FaultKind code = compile_file(&changed, arena, own, &compilation, &fault) ? FAULT_NONE : fault.kind;
    if (code == FAULT_NONE)
        fill_row(compilation.plan, row);
    else
        row->refused = code == FAULT_INFEASIBLE ? "does not fit" : "not valid";
    if (code != FAULT_NONE && code != FAULT_INFEASIBLE && !*shown) {
        report_refused(point, own, request);
        *shown = true; // the first such value is explained
    }
    compile_release(&compilation);
    arena_destroy(arena);
    return code;
}

// What axes are read with, besides their texts.
typedef struct {
    const Ast *ast; // of the file, checked
    const CheckOptions *options;
    Arena *arena;
    Diag *diag;
} Reading;

static bool read_axes(const Reading *reading, const char *const *texts, SweepAxis *axes, Sweep *out)
{
    out->point_count = 1;
    for (size_t a = 0; a < out->axis_count; a++) {
        if (!sweep_axis_parse(reading->ast, reading->options, texts[a], reading->arena, reading->diag, &axes[a]))
            return false;
        out->axes[a].name = axes[a].name;
        out->axes[a].unit = axes[a].unit ? axes[a].unit->text : "";
        out->axes[a].count = axes[a].count;
        out->axes[a].values = axes[a].values;
        out->axes[a].logarithmic = axes[a].logarithmic;
        out->point_count *= axes[a].count;
        if (out->point_count > SWEEP_POINTS_MAX) {
            diag_error_plain(reading->diag, "--sweep: more than %d points", SWEEP_POINTS_MAX);
            return false;
        }
    }
    out->rows = arena_alloc_array(reading->arena, out->point_count, sizeof(*out->rows));
    return true;
}

// ---- what a sweep says of itself -------------------------------------------------------------

static bool rows_equal(const SweepRow *a, const SweepRow *b)
{
    if (a->refused || b->refused)
        return a->refused == b->refused;
    return strcmp(a->choice, b->choice) == 0 && a->iteration_s == b->iteration_s && a->simulated_s == b->simulated_s &&
           a->outer_bytes == b->outer_bytes && a->memory_bytes == b->memory_bytes;
}

// Where all rows that differ in one axis alone are alike, that axis is none.
static void warn_of_idle_axes(const SweepAxis *axes, const Sweep *sweep, Diag *diag)
{
    size_t stride = sweep->point_count;
    for (size_t a = 0; a < sweep->axis_count; a++) {
        size_t count = axes[a].count;
        bool idle = count > 1;
        stride /= count;
        for (size_t p = 0; p < sweep->point_count && idle; p++)
            idle = rows_equal(&sweep->rows[p], &sweep->rows[p - p / stride % count * stride]);
        if (idle)
            diag_warning_plain(diag, "--sweep: '%s' makes no difference: all its rows are the same", axes[a].name);
    }
}

bool sweep_run(const CompileOptions *options, const SweepRequest *request, Arena *arena, Diag *diag, Sweep *out,
               Fault *fault)
{
    size_t axis_count = request->axis_count;
    const atomic_int *stop = request->stop;
    *out = (Sweep){.axis_count = axis_count};
    SweepAxis axes[SWEEP_AXES_MAX] = {{0}};
    CompileOptions first = *options;
    first.stop_after = STAGE_CHECK; // the file as it is must be good
    Compilation base;
    FaultKind code = FAULT_NONE;
    if (!compile_file(&first, arena, diag, &base, fault))
        return false;
    const Reading reading = {.ast = base.ast, .options = &options->check, .arena = arena, .diag = diag};
    if (!read_axes(&reading, request->axes, axes, out))
        return fault_reported(fault, FAULT_USAGE);
    out->outer_level = base.spec->cluster.levels[0].name;
    bool shown = false, valid = false;
    for (size_t p = 0; p < out->point_count && code != FAULT_INTERNAL && !atomic_load(stop); p++) {
        SweepRow *row = &out->rows[p];
        size_t rest = p;
        for (size_t a = axis_count; a-- > 0; rest /= axes[a].count)
            row->values[a] = axes[a].values[rest % axes[a].count];
        Point point = {.axes = axes, .axis_count = axis_count, .values = row->values};
        code = compile_point(options, request, &point, &shown, row);
        valid = valid || code == FAULT_NONE || code == FAULT_INFEASIBLE;
        out->row_count++;
        if (request->progress)
            request->progress(p + 1, out->point_count);
    }
    if (!valid && out->row_count > 0) {
        diag_error_plain(diag, "--sweep: the input goes with none of these values");
        return fault_reported(fault, FAULT_INPUT);
    }
    if (out->row_count == out->point_count)
        warn_of_idle_axes(axes, out, diag);
    return code != FAULT_INTERNAL || fault_reported(fault, code);
}
