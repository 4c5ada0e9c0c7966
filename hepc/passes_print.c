// See passes_print.h.
#include "hepc/passes_print.h"

#include "ir/simulate/simulate.h"

typedef struct {
    uint32_t waits;
    double memory_bytes, iteration_s;
} Figures;

static Figures measure(const Compilation *compilation, PlanPassSet passes)
{
    double bytes = 0;
    Plan *plan =
        lower_with(compilation->work, &compilation->solution.mix, compilation->spec->plan.dispatch, passes, &bytes);
    Figures figures = {.memory_bytes = bytes};
    if (plan) {
        figures.waits = plan->after_count;
        figures.iteration_s = simulated_iteration_s(plan);
    }
    plan_destroy(plan);
    return figures;
}

static void print_row(const char *name, const Figures *figures, const char *note, Text *out)
{
    char memory[FORMAT_MAX], time[FORMAT_MAX];
    text_format(out, "%-20s %8u %12s %12s%s\n", name, figures->waits, format_bytes(memory, figures->memory_bytes),
                format_time(time, figures->iteration_s), note);
}

void passes_print(const Compilation *compilation, Text *out)
{
    text_format(out, "%-10s %-28s %-46s %s\n", "pass", "requires", "provides", "breaks");
    for (int p = 0; p < PLAN_PASS_COUNT; p++) {
        const PlanPassInfo *info = plan_pass_info((PlanPass)p);
        text_format(out, "%-10s %-28s %-46s %s\n", info->name, info->requires_, info->provides, info->breaks);
    }
    text_format(out, "\n%-20s %8s %12s %12s\n%-20s %8s %12s %12s\n", "schedule", "waits", "memory", "simulated", "", "",
                "per GPU", "iteration");
    PlanPassSet passes = PLAN_PASSES_NONE;
    Figures figures = measure(compilation, passes);
    print_row("as lowered (-O0)", &figures, "", out);
    Arena *arena = arena_create();
    for (int p = 0; p < PLAN_PASS_COUNT; p++) {
        passes |= 1u << p;
        bool skipped = !(compilation->passes & 1u << p);
        if (skipped)
            passes &= ~(1u << p);
        else
            figures = measure(compilation, passes);
        print_row(arena_format(arena, "+ %s", plan_pass_info((PlanPass)p)->name), &figures,
                  skipped ? "  skipped: slower with it, or asked for" : "", out);
    }
    arena_destroy(arena);
}
