// The sentence that says what a plan decided and why, and the baseline it is measured against, of plans made by hand.
#include <criterion/criterion.h>

#include "backends/decision.h"
#include "ir/plan_facts.h"

enum { DC, GPU };

// 2 dc on 1 GB/s of 8 gpu on 10 GB/s each, `layers` MoE layers, and as many strategies as are added.
static Plan *plan_of(uint32_t layers, const uint32_t domains[][2])
{
    Plan *plan = plan_create();
    plan->cluster.level_count = 2;
    plan->cluster.levels[DC] = (Level){.name = "dc", .count = 2, .bandwidth_bytes_per_s = 1e9};
    plan->cluster.levels[GPU] = (Level){.name = "gpu", .count = 8, .bandwidth_bytes_per_s = 10e9};
    plan->status = STATUS_OPTIMAL;
    plan->choices = arena_alloc_array(plan->arena, layers, sizeof(*plan->choices));
    plan->strategies = arena_alloc_array(plan->arena, 8, sizeof(*plan->strategies));
    plan->choice_count = layers;
    for (uint32_t i = 0; i < layers; i++)
        plan->choices[i] = (Choice){.layer = i, .domain = {domains[i][DC], domains[i][GPU]}};
    return plan;
}

static Strategy *add(Plan *plan, const char *name, double iteration_s, double exposed_s, double dc_bytes)
{
    Strategy *strategy = &plan->strategies[plan->strategy_count++];
    *strategy =
        (Strategy){.name = name, .iteration_s = iteration_s, .exposed_s = exposed_s, .fits = true, .memory_bytes = 5e9};
    strategy->traffic[DC].exchange_bytes = dc_bytes;
    strategy->traffic[GPU].exchange_bytes = 500e6;
    return strategy;
}

static void expect(Plan *plan, const char *sentence)
{
    Text text = {0};
    decision_append(plan, &text);
    cr_assert_str_eq(text.data ? text.data : "", sentence);
    text_free(&text);
    plan_destroy(plan);
}

Test(decision, gathers_across_one_level_and_says_what_that_saves)
{
    Plan *plan = plan_of(2, (const uint32_t[][2]){{2, 1}, {2, 1}});
    add(plan, "chosen", 1.0, 0.5, 100e6);
    add(plan, "ep", 4.0, 3.5, 400e6);
    add(plan, "ep_dedup", 1.5, 1.0, 200e6);
    add(plan, "gather", 2.0, 1.5, 100e6);
    cr_assert_str_eq(plan_best_baseline(plan)->name, "ep_dedup");
    cr_assert_float_eq(plan_speed_up(plan, plan_best_baseline(plan)), 1.5, 1e-12);
    expect(plan, "Experts are gathered across dc, tokens are exchanged across gpu: 1.50x as fast as deduplicated EP, "
                 "the best baseline, because a GPU sends 100 MB instead of 200 MB over dc and 500 ms instead of 1 s of "
                 "transfers stay exposed.");
}

// 50 MB less over a port of 10 GB/s are 5 ms, which does not explain 500 ms: nothing is said of bytes.
Test(decision, ports_that_are_hardly_relieved_are_no_reason)
{
    Plan *plan = plan_of(1, (const uint32_t[][2]){{2, 1}});
    add(plan, "chosen", 1.0, 0.5, 300e6)->traffic[GPU].exchange_bytes = 450e6;
    add(plan, "ep_dedup", 1.5, 1.0, 200e6);
    expect(plan, "Experts are gathered across dc, tokens are exchanged across gpu: 1.50x as fast as deduplicated EP, "
                 "the best baseline, because 500 ms instead of 1 s of transfers stay exposed.");
}

Test(decision, groups_of_a_level_and_layers_that_differ)
{
    Plan *plan = plan_of(3, (const uint32_t[][2]){{1, 2}, {1, 4}, {1, 1}});
    add(plan, "chosen", 1.0, 0.9, 199e6); // half a percent less is no reason
    add(plan, "ep_dedup", 1.2, 1.0, 200e6);
    expect(plan, "Experts are gathered in groups of 2 to 4 of the 8 gpu (2 of 3 MoE layers), tokens are exchanged "
                 "across dc: 1.20x as fast as deduplicated EP, the best baseline, because 900 ms instead of 1 s of "
                 "transfers stay exposed.");
}

Test(decision, whole_levels_come_before_groups)
{
    Plan *plan = plan_of(2, (const uint32_t[][2]){{2, 2}, {2, 2}});
    add(plan, "chosen", 1.0, 1.0, 199e6);
    add(plan, "ep_dedup", 1.2, 1.0, 200e6);
    expect(plan, "Experts are gathered across dc and in groups of 2 of the 8 gpu: 1.20x as fast as deduplicated EP, "
                 "the best baseline.");
}

// Of the strategies a plan lists, those that do not fit, those that the planner found, and a gather of everything are
// no baselines.
Test(decision, baselines_fit_and_need_no_planner)
{
    Plan *plan = plan_of(1, (const uint32_t[][2]){{2, 8}});
    add(plan, "chosen", 2.0, 1.0, 100e6);
    add(plan, "ep", 5.0, 4.0, 400e6);
    add(plan, "gather", 2.2, 2.0, 100e6);
    add(plan, "ep_dedup", 2.5, 2.0, 100e6)->fits = false;
    add(plan, "ep_inside", 3.0, 2.0, 100e6);
    add(plan, "uniform", 2.1, 1.0, 100e6);
    add(plan, "codec_sr", 1.9, 1.0, 100e6);
    cr_assert_str_eq(plan_best_baseline(plan)->name, "ep_inside");
    cr_assert_float_eq(plan_speed_up(plan, plan_best_baseline(plan)), 1.5, 1e-12);
    plan->strategies[1].fits = plan->strategies[4].fits = false;
    cr_assert_null(plan_best_baseline(plan));
    cr_assert_eq(plan_speed_up(plan, plan_best_baseline(plan)), 0);
    expect(plan, "Experts are gathered across dc and gpu: no form of EP fits the memory of a GPU.");
}

Test(decision, ep_inside_is_called_after_the_outermost_level)
{
    Plan *plan = plan_of(1, (const uint32_t[][2]){{2, 1}});
    add(plan, "chosen", 1.0, 0.5, 200e6);
    add(plan, "ep", 3.0, 2.5, 400e6);
    add(plan, "ep_dedup", 2.0, 1.5, 400e6);
    add(plan, "ep_inside", 1.0, 0.5, 200e6);
    add(plan, "gather", 1.25, 0.5, 400e6);
    expect(plan,
           "Experts are gathered across dc, tokens are exchanged across gpu: as fast as EP inside each dc, the best "
           "baseline; gathering all experts would take 1.25 s instead of 1 s.");
}

Test(decision, what_is_the_best_baseline_says_what_else_would_cost)
{
    Plan *plan = plan_of(1, (const uint32_t[][2]){{1, 1}});
    add(plan, "chosen", 1.5, 1.0, 200e6);
    add(plan, "ep_dedup", 1.5, 1.0, 200e6);
    Strategy *gather = add(plan, "gather", 3.0, 2.5, 400e6);
    Text text = {0};
    decision_append(plan, &text);
    cr_assert_str_eq(text.data, "Tokens are exchanged across dc and gpu: as fast as deduplicated EP, the best "
                                "baseline; gathering all experts would take 3 s instead of 1.5 s.");
    text_free(&text);
    gather->fits = false;
    gather->memory_bytes = 90e9;
    expect(plan, "Tokens are exchanged across dc and gpu: as fast as deduplicated EP, the best baseline; gathering all "
                 "experts would need 90 GB of memory per GPU.");
}

Test(decision, forced_choices_are_not_defended)
{
    Plan *plan = plan_of(1, (const uint32_t[][2]){{2, 8}});
    plan->status = STATUS_FORCED;
    add(plan, "chosen", 3.0, 2.5, 400e6);
    add(plan, "ep_dedup", 1.5, 1.0, 200e6);
    expect(plan, "Experts are gathered across dc and gpu, as the input asks: 0.50x as fast as deduplicated EP, the "
                 "best baseline.");
}

Test(decision, copies_of_all_experts_are_no_gathers)
{
    Plan *plan = plan_of(1, (const uint32_t[][2]){{2, 1}});
    plan->replica_levels = 1;
    add(plan, "chosen", 1.0, 0.5, 0);
    add(plan, "ep_dedup", 1.0, 0.5, 0);
    add(plan, "gather", 1.5, 0.5, 0);
    expect(plan, "Tokens are exchanged across gpu, every dc holds copies of all experts: as fast as deduplicated EP, "
                 "the best baseline; gathering all experts would take 1.5 s instead of 1 s.");
}

Test(decision, plans_without_experts_or_without_peers)
{
    expect(plan_of(0, NULL), "");
    Plan *plan = plan_of(1, (const uint32_t[][2]){{1, 1}});
    plan->cluster.levels[DC].count = plan->cluster.levels[GPU].count = 1;
    add(plan, "chosen", 1.0, 0, 0);
    add(plan, "ep", 1.0, 0, 0);
    expect(plan, "There is one GPU, nothing is sent.");
}
