// See sweep.h. A point is an edit of the syntax tree (or a -D), so that every value passes the check.
#include "compiler/explain/sweep.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compiler/frontend/check_keys.h"
#include "ir/plan_facts.h"
#include "ir/simulate/simulate.h"

typedef struct {
    const char *name; // as given
    const char *key;  // NULL: a `let`
    const char *block, *label;
    bool whole;       // a count
    const Unit *unit; // NULL for plain numbers
    double *values;
    size_t count;
} Axis;

// ---- values ----------------------------------------------------------------------------------

static bool axis_error(Diag *diag, const char *axis, const char *what)
{
    diag_error_plain(diag, "--sweep %s: %s", axis, what);
    diag_help(diag, "write NAME=1,2,4 or NAME=FIRST:LAST:STEP or NAME=FIRST:LAST:logCOUNT");
    return false;
}

static bool add_value(Axis *axis, double value, size_t capacity)
{
    if (axis->whole)
        value = round(value);
    if (axis->count > 0 && axis->values[axis->count - 1] == value)
        return true;
    if (axis->count == capacity)
        return false;
    axis->values[axis->count++] = value;
    return true;
}

// A number with an optional unit; *text moves behind it.
static bool parse_value(const char **text, Axis *axis, double *value)
{
    char *end;
    *value = strtod(*text, &end);
    if (end == *text || !isfinite(*value))
        return false;
    while (*end == ' ')
        end++;
    size_t length = strcspn(end, ",: ");
    if (length > 0) {
        const Unit *unit = unit_find(end, length);
        if (!unit || (axis->unit && unit->kind != axis->unit->kind) || (!axis->unit && axis->key))
            return false;
        if (axis->unit)
            *value *= unit->factor / unit->divisor / (axis->unit->factor / axis->unit->divisor);
        else
            axis->unit = unit;
        end += length;
    }
    *text = end + strspn(end, " ");
    return true;
}

static bool parse_range(Axis *axis, double first, const char *text, size_t capacity)
{
    double last, step;
    if (!parse_value(&text, axis, &last) || *text++ != ':' || first > last)
        return false;
    if (!strncmp(text, "log", 3)) {
        char *end;
        long points = strtol(text + 3, &end, 10);
        if (points < 2 || points > (long)capacity || *end || !(first > 0))
            return false;
        for (long i = 0; i < points; i++)
            if (!add_value(axis, first * pow(last / first, (double)i / (double)(points - 1)), capacity))
                return false;
        return true;
    }
    if (!parse_value(&text, axis, &step) || *text || !(step > 0) || (last - first) / step > (double)capacity)
        return false;
    for (size_t i = 0; first + (double)i * step <= last * (1 + 1e-12); i++)
        if (!add_value(axis, first + (double)i * step, capacity))
            return false;
    return true;
}

static bool parse_values(Axis *axis, const char *text, size_t capacity)
{
    double value;
    if (!parse_value(&text, axis, &value))
        return false;
    if (*text == ':')
        return parse_range(axis, value, text + 1, capacity);
    for (;;) {
        if (!add_value(axis, value, capacity))
            return false;
        if (!*text)
            return true;
        if (*text++ != ',' || !parse_value(&text, axis, &value))
            return false;
    }
}

// ---- names -----------------------------------------------------------------------------------

static AstEntry *find_in(AstEntries entries, EntryKind kind, const char *name, const char *label)
{
    AstEntry *found = NULL;
    for (AstEntry *entry = entries.first; entry; entry = entry->next) {
        if (entry->kind == ENTRY_INCLUDE && entry->included)
            found = find_in(entry->included->entries, kind, name, label);
        else if (entry->kind == kind && !strcmp(entry->name, name) &&
                 (!label || (entry->label && !strcmp(entry->label, label))))
            found = entry;
        else if (entry->kind == ENTRY_BLOCK && kind == ENTRY_BLOCK)
            found = find_in(entry->entries, kind, name, label);
        if (found)
            return found;
    }
    return NULL;
}

static const KeyInfo *find_key_of(const char *block, const char *key)
{
    for (int k = 0; k < KEY_COUNT; k++) {
        const KeyInfo *info = key_info((KeyId)k);
        bool here = !block || !strcmp(block_info(info->block)->name, block);
        if (here && info->block != BLOCK_LEVEL && info->block != BLOCK_PORT && info->block != BLOCK_LINK &&
            !strcmp(info->name, key))
            return info;
        if (here && block && !strcmp(info->name, key))
            return info;
    }
    return NULL;
}

static const Unit *customary_unit(Kind kind)
{
    switch (kind) {
    case KIND_BANDWIDTH:
        return unit_find("Gbit/s", 6);
    case KIND_TIME:
        return unit_find("ms", 2);
    case KIND_BYTES:
        return unit_find("GB", 2);
    case KIND_RATE:
        return unit_find("TFLOP/s", 7);
    case KIND_NUMBER:
    case KIND_COUNT: // how many kinds there are
        return NULL;
    }
    return NULL;
}

static bool report_unknown(const Ast *ast, const char *name, Diag *diag)
{
    const char *names[KEY_COUNT + 64];
    size_t count = 0;
    for (int k = 0; k < KEY_COUNT; k++)
        names[count++] = key_info((KeyId)k)->name;
    for (const AstEntry *entry = ast->entries.first; entry && count < COUNT_OF(names); entry = entry->next)
        if (entry->kind == ENTRY_LET)
            names[count++] = entry->name;
    diag_error_plain(diag, "--sweep: there is no 'let %s', and no key of that name", name);
    const char *near = nearest_word(name, names, count);
    if (near)
        diag_help(diag, "did you mean '%s'?", near);
    else
        diag_help(diag, "keys of a level are written LEVEL.bandwidth, LEVEL.latency, LEVEL.count");
    return false;
}

static bool resolve_name(const Ast *ast, const char *name, Arena *arena, Diag *diag, Axis *axis)
{
    axis->name = name;
    if (find_in(ast->entries, ENTRY_LET, name, NULL))
        return true;
    const char *dot = strchr(name, '.');
    const char *head = dot ? arena_copy_string(arena, name, (size_t)(dot - name)) : NULL;
    const KeyInfo *info = NULL;
    if (head && find_in(ast->entries, ENTRY_BLOCK, "level", head)) {
        info = find_key_of("level", dot + 1);
        axis->label = head;
    } else {
        info = find_key_of(head, dot ? dot + 1 : name);
    }
    if (!info)
        return report_unknown(ast, dot ? dot + 1 : name, diag);
    if (choice_names(info->takes) || info->takes == TAKES_NAMES || info->takes == TAKES_FILE ||
        info->takes == TAKES_DOMAIN || info->takes == TAKES_SKEW) {
        diag_error_plain(diag, "--sweep: '%s' takes no numbers", name);
        return false;
    }
    axis->key = info->name;
    axis->block = block_info(info->block)->name;
    axis->whole = info->takes == TAKES_COUNT;
    axis->unit = customary_unit(takes_kind(info->takes));
    return true;
}

static bool parse_axis(const Ast *ast, const char *text, Arena *arena, Diag *diag, Axis *axis)
{
    enum { VALUES_MAX = 10000 };
    const char *equals = strchr(text, '=');
    if (!equals || equals == text)
        return axis_error(diag, text, "expected a name, '=' and values");
    if (!resolve_name(ast, arena_copy_string(arena, text, (size_t)(equals - text)), arena, diag, axis))
        return false;
    axis->values = arena_alloc_array(arena, VALUES_MAX, sizeof *axis->values);
    return parse_values(axis, equals + 1, VALUES_MAX) ||
           axis_error(diag, text, "these values are not understood, or too many");
}

// ---- points ----------------------------------------------------------------------------------

static void edit(Ast *ast, const Axis *axis, double value, Arena *arena)
{
    AstEntry *block = find_in(ast->entries, ENTRY_BLOCK, axis->block, axis->label);
    if (!block) // an optional block that the file does not have is left as it is
        return;
    AstExpr *number = arena_alloc(arena, sizeof *number);
    *number = (AstExpr){.kind = EXPR_NUMBER, .depth = 1, .span = block->name_span, .number = value, .unit = axis->unit};
    AstEntry *entry = block->entries.first;
    while (entry && (entry->kind != ENTRY_VALUE || strcmp(entry->name, axis->key)))
        entry = entry->next;
    if (!entry) {
        entry = arena_alloc(arena, sizeof *entry);
        *entry = (AstEntry){.kind = ENTRY_VALUE, .span = block->name_span, .name_span = block->name_span,
                            .name = axis->key, .next = block->entries.first};
        block->entries.first = entry;
        if (!block->entries.last)
            block->entries.last = entry;
    }
    entry->value = number;
}

typedef struct {
    const Axis *axes;
    size_t axis_count;
    const double *values;
    Arena *arena;
} Point;

static void edit_point(Ast *ast, void *context)
{
    const Point *point = context;
    for (size_t a = 0; a < point->axis_count; a++)
        if (point->axes[a].key)
            edit(ast, &point->axes[a], point->values[a], point->arena);
}

static void describe_choice(const Plan *plan, SweepRow *row)
{
    uint32_t kinds = 0;
    for (uint32_t i = 0; i < plan->choice_count; i++) {
        bool seen = false;
        for (uint32_t j = 0; j < i && !seen; j++)
            seen = plan->choices[j].regather == plan->choices[i].regather &&
                   !memcmp(plan->choices[j].domain, plan->choices[i].domain, sizeof plan->choices[i].domain);
        kinds += !seen;
    }
    if (kinds > 1)
        snprintf(row->choice, sizeof row->choice, "mixed: %u kinds", kinds);
    else if (plan->choice_count)
        plan_format_domain(plan, plan->choices[0].domain, row->choice, sizeof row->choice);
}

static void fill_row(const Plan *plan, SweepRow *row)
{
    const Strategy *ep = plan_find_baseline(plan, "ep"), *dedup = plan_find_baseline(plan, "ep_dedup");
    const Strategy *best = plan_best_baseline(plan);
    Arena *scratch = arena_create();
    row->iteration_s = plan->iteration_s;
    row->simulated_s = simulate(plan, scratch)->iteration_s;
    row->gap = plan->gap;
    row->over_best = plan_speed_up(plan, best);
    snprintf(row->best_baseline, sizeof row->best_baseline, "%s", best ? best->name : "");
    row->over_ep = ep ? ep->iteration_s / plan->iteration_s : 0;
    row->over_dedup = dedup ? dedup->iteration_s / plan->iteration_s : 0;
    row->outer_bytes = traffic_total(&plan->strategies[0].traffic[0]);
    row->memory_bytes = (double)plan->arena_bytes;
    describe_choice(plan, row);
    arena_destroy(scratch);
}

static ExitCode compile_point(const CompileOptions *options, Point *point, bool *shown, SweepRow *row)
{
    Arena *arena = arena_create();
    point->arena = arena;
    CompileOptions changed = *options;
    size_t defines = options->check.define_count;
    changed.check.defines = arena_alloc_array(arena, defines + point->axis_count, sizeof *changed.check.defines);
    if (defines)
        memcpy(changed.check.defines, options->check.defines, defines * sizeof *changed.check.defines);
    for (size_t a = 0; a < point->axis_count; a++) {
        const Axis *axis = &point->axes[a];
        if (!axis->key)
            changed.check.defines[defines++] = arena_format(arena, "%s=%.17g%s%s", axis->name, point->values[a],
                                                            axis->unit ? " " : "", axis->unit ? axis->unit->text : "");
    }
    changed.check.define_count = defines;
    changed.edit = edit_point;
    changed.edit_context = point;
    changed.stop_after = STAGE_PLAN;
    Compilation compilation;
    Diag *own = diag_create(arena); // what does not fit is a row, not an error
    ExitCode code = compile_file(&changed, arena, own, &compilation);
    if (code == EXIT_DONE)
        fill_row(compilation.plan, row);
    else
        row->refused = code == EXIT_INFEASIBLE ? "does not fit" : "not valid";
    if (code != EXIT_DONE && code != EXIT_INFEASIBLE && !*shown) {
        diag_print(own, stderr, false);
        *shown = true; // the first such value is explained
    }
    compile_release(&compilation);
    arena_destroy(arena);
    return code;
}

static bool prepare(const Ast *ast, const char *const *texts, size_t count, Axis *axes, Arena *arena, Diag *diag,
                    Sweep *out)
{
    out->axis_count = count;
    out->point_count = 1;
    for (size_t a = 0; a < count; a++) {
        if (!parse_axis(ast, texts[a], arena, diag, &axes[a]))
            return false;
        out->axes[a].name = axes[a].name;
        out->axes[a].unit = axes[a].unit ? axes[a].unit->text : "";
        out->point_count *= axes[a].count;
        if (out->point_count > SWEEP_POINTS_MAX) {
            diag_error_plain(diag, "--sweep: more than %d points", SWEEP_POINTS_MAX);
            return false;
        }
    }
    out->rows = arena_alloc_array(arena, out->point_count, sizeof *out->rows);
    return true;
}

ExitCode sweep_run(const CompileOptions *options, const char *const *texts, size_t axis_count, bool progress,
                   const volatile sig_atomic_t *stop, Arena *arena, Diag *diag, Sweep *out)
{
    *out = (Sweep){0};
    Axis axes[SWEEP_AXES_MAX] = {{0}};
    CompileOptions first = *options;
    first.stop_after = STAGE_CHECK; // the file as it is must be good
    Compilation base;
    ExitCode code = compile_file(&first, arena, diag, &base);
    if (code != EXIT_DONE)
        return code;
    if (!prepare(base.ast, texts, axis_count, axes, arena, diag, out))
        return EXIT_USAGE;
    out->outer_level = base.spec->cluster.levels[0].name;
    bool terminal = isatty(STDERR_FILENO), shown = false, valid = false;
    for (size_t p = 0; p < out->point_count && code != EXIT_INTERNAL && !*stop; p++) {
        SweepRow *row = &out->rows[p];
        size_t rest = p;
        for (size_t a = axis_count; a-- > 0; rest /= axes[a].count)
            row->values[a] = axes[a].values[rest % axes[a].count];
        Point point = {.axes = axes, .axis_count = axis_count, .values = row->values};
        code = compile_point(options, &point, &shown, row);
        valid = valid || code == EXIT_DONE || code == EXIT_INFEASIBLE;
        out->row_count++;
        if (progress)
            fprintf(stderr, "%shepc: point %zu of %zu%s", terminal ? "\r" : "", p + 1, out->point_count,
                    terminal && p + 1 < out->point_count ? "" : "\n");
    }
    if (progress && terminal && *stop)
        fputc('\n', stderr);
    if (!valid && out->row_count > 0) {
        diag_error_plain(diag, "--sweep: the input goes with none of these values");
        return EXIT_INPUT;
    }
    return code == EXIT_INTERNAL ? code : EXIT_DONE;
}
