// The explanation for programs: the records of explain.h, key by key, in SI units.
#include <cjson/cJSON.h>

#include "hepc/explain_print.h"

static const char *const limit_kinds[] = {"link", "gather_queue", "compute", "memory"};
static const char *const quantity_units[] = {"bytes_per_s", "sequences", "ratio", "bytes"};
static const char *const outcomes[] = {"none", "choice", "nothing_fits"};

static cJSON *append_object(cJSON *array)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToArray(array, object);
    return object;
}

static void add_config(cJSON *object, const Cluster *cluster, const Config *config)
{
    cJSON *domain = cJSON_AddArrayToObject(object, "domain");
    for (uint32_t l = 0; l < cluster->level_count; l++)
        cJSON_AddItemToArray(domain, cJSON_CreateNumber(config->domain[l]));
    cJSON_AddBoolToObject(object, "regather", config->regather);
    cJSON_AddNumberToObject(object, "once_levels", config->once);
    cJSON_AddBoolToObject(object, "returns_apart", config->returns_apart);
    cJSON_AddNumberToObject(object, "once_gradient_levels", config->once_gradient);
}

static void add_run(cJSON *object, const Cluster *cluster, const ConfigRun *run)
{
    cJSON_AddNumberToObject(object, "first_layer", run->first_layer);
    cJSON_AddNumberToObject(object, "last_layer", run->last_layer);
    cJSON_AddNumberToObject(object, "moe_layers", run->moe_layers);
    add_config(object, cluster, &run->config);
}

static void add_rival(cJSON *parent, const Explanation *e, const Rival *rival)
{
    if (!rival->found) {
        cJSON_AddNullToObject(parent, "runner_up");
        return;
    }
    cJSON *object = cJSON_AddObjectToObject(parent, "runner_up");
    add_config(object, &e->work->spec->cluster, &rival->config);
    cJSON_AddNumberToObject(object, "iteration_s", rival->iteration_s);
    cJSON_AddNumberToObject(object, "extra_s", rival->iteration_s - e->solution->cost.iteration_s);
}

static void add_runs(cJSON *root, const Explanation *e)
{
    const Cluster *cluster = &e->work->spec->cluster;
    cJSON *runs = cJSON_AddArrayToObject(root, "runs");
    for (size_t i = 0; i < e->run_count; i++) {
        const ExplainRun *run = &e->runs[i];
        cJSON *object = append_object(runs);
        add_run(object, cluster, &run->run);
        add_rival(object, e, &run->runner_up);
        cJSON *levels = cJSON_AddArrayToObject(object, "levels");
        for (uint32_t l = 0; l < cluster->level_count; l++) {
            cJSON *level = append_object(levels);
            cJSON_AddStringToObject(level, "level", cluster->levels[l].name);
            cJSON_AddNumberToObject(level, "domain", run->run.config.domain[l]);
            add_rival(level, e, &run->at_level[l]);
        }
    }
}

static void add_breakdown(cJSON *root, const Explanation *e)
{
    const IterationCost *cost = &e->solution->cost;
    cJSON *object = cJSON_AddObjectToObject(root, "breakdown");
    cJSON_AddNumberToObject(object, "exchange_s", cost->exchange_s);
    cJSON_AddNumberToObject(object, "wait_s", cost->gather_wait_s);
    cJSON_AddNumberToObject(object, "gradient_wait_s", e->gradient_wait_s);
    cJSON_AddNumberToObject(object, "return_s", cost->return_s);
    cJSON_AddNumberToObject(object, "pre_expert_s", cost->pre_expert_s);
    cJSON_AddNumberToObject(object, "expert_s", cost->expert_s);
    cJSON_AddNumberToObject(object, "other_s", cost->other_s);
}

static void add_limits(cJSON *root, const Explanation *e)
{
    const Cluster *cluster = &e->work->spec->cluster;
    char name[128];
    if (e->binding < e->limit_count)
        cJSON_AddStringToObject(root, "binding", limit_name(cluster, &e->limits[e->binding], name, sizeof(name)));
    else
        cJSON_AddNullToObject(root, "binding");
    cJSON *limits = cJSON_AddArrayToObject(root, "limits");
    for (uint32_t i = 0; i < e->limit_count; i++) {
        const ExplainLimit *limit = &e->limits[i];
        cJSON *object = append_object(limits);
        cJSON_AddStringToObject(object, "name", limit_name(cluster, limit, name, sizeof(name)));
        cJSON_AddStringToObject(object, "kind", limit_kinds[limit->kind]);
        if (limit->kind == LIMIT_LINK)
            cJSON_AddStringToObject(object, "level", cluster->levels[limit->level].name);
        cJSON_AddNumberToObject(object, "iteration_s", limit->iteration_s);
        cJSON_AddNumberToObject(object, "saved_s", e->solution->cost.iteration_s - limit->iteration_s);
    }
}

static void add_choice(cJSON *object, const Explanation *e, const Config *configs)
{
    Arena *arena = arena_create();
    ConfigRun *runs = arena_alloc_array(arena, e->work->moe_count, sizeof(*runs));
    size_t count = explain_runs(e->work, configs, false, runs);
    cJSON *list = cJSON_AddArrayToObject(object, "runs");
    for (size_t i = 0; i < count; i++)
        add_run(append_object(list), &e->work->spec->cluster, &runs[i]);
    arena_destroy(arena);
}

static void add_flip(cJSON *parent, const char *key, const Explanation *e, const Flip *flip)
{
    cJSON *object = cJSON_AddObjectToObject(parent, key);
    cJSON_AddStringToObject(object, "outcome", outcomes[flip->outcome]);
    cJSON_AddNumberToObject(object, "searched_to", flip->searched);
    cJSON_AddNumberToObject(object, "solves", flip->solves);
    if (flip->outcome == FLIP_NONE)
        return;
    cJSON_AddNumberToObject(object, "value", flip->value);
    cJSON_AddNumberToObject(object, "holds_at", flip->holds);
    cJSON_AddBoolToObject(object, "kept_fits", flip->kept_fits);
    cJSON_AddNumberToObject(object, "kept_s", flip->kept_s);
    if (flip->outcome == FLIP_NOTHING_FITS)
        return;
    cJSON_AddNumberToObject(object, "other_s", flip->other_s);
    if (flip->prefetch == PREFETCH_UNLIMITED)
        cJSON_AddNullToObject(object, "prefetch");
    else
        cJSON_AddNumberToObject(object, "prefetch", flip->prefetch);
    add_choice(object, e, flip->configs);
}

static void add_sensitivities(cJSON *root, const Explanation *e)
{
    cJSON *list = cJSON_AddArrayToObject(root, "sensitivities");
    for (uint32_t i = 0; i < e->sensitivity_count; i++) {
        const Sensitivity *s = &e->sensitivities[i];
        cJSON *object = append_object(list);
        cJSON_AddStringToObject(object, "quantity", quantity_name(s->quantity));
        if (s->quantity == QUANTITY_BANDWIDTH)
            cJSON_AddStringToObject(object, "level", e->work->spec->cluster.levels[s->level].name);
        bool relative = s->quantity == QUANTITY_BATCH && e->work->spec->model.abstract;
        cJSON_AddStringToObject(object, "unit", relative ? "times" : quantity_units[s->quantity]);
        cJSON_AddNumberToObject(object, "now", s->now);
        add_flip(object, "below", e, &s->below);
        add_flip(object, "above", e, &s->above);
    }
}

static void add_even(cJSON *root, const Explanation *e)
{
    cJSON *list = cJSON_AddArrayToObject(root, "plain_ep");
    for (uint32_t i = 0; i < e->even_count; i++) {
        const EvenPoint *even = &e->even[i];
        cJSON *object = append_object(list);
        bool all = even->level == LEVELS_MAX;
        if (all)
            cJSON_AddNullToObject(object, "level");
        else
            cJSON_AddStringToObject(object, "level", e->work->spec->cluster.levels[even->level].name);
        cJSON_AddStringToObject(object, "unit", all ? "times" : quantity_units[QUANTITY_BANDWIDTH]);
        cJSON_AddNumberToObject(object, "now", even->now);
        cJSON_AddBoolToObject(object, "as_good", even->as_good);
        cJSON_AddBoolToObject(object, "fits", e->solution->baselines[BASELINE_EP_DEDUP].fits);
        cJSON_AddNumberToObject(object, "searched_to", even->searched);
        cJSON_AddNumberToObject(object, "solves", even->solves);
        if (even->found)
            cJSON_AddNumberToObject(object, "value", even->value);
        else
            cJSON_AddNullToObject(object, "value");
        cJSON_AddNumberToObject(object, "holds_at", even->holds);
        cJSON_AddNumberToObject(object, "ep_s", even->ep_s);
        cJSON_AddNumberToObject(object, "best_s", even->best_s);
    }
}

static void add_micro_batches(cJSON *root, const Explanation *e)
{
    cJSON *list = cJSON_AddArrayToObject(root, "micro_batches");
    for (uint32_t i = 0; i < e->micro_count; i++) {
        const MicroBatchRow *row = &e->micro[i];
        cJSON *object = append_object(list);
        cJSON_AddNumberToObject(object, "micro_batches", row->micro_batches);
        cJSON_AddBoolToObject(object, "now", row->micro_batches == e->work->spec->plan.micro_batches);
        cJSON_AddBoolToObject(object, "fits", row->fits);
        if (!row->fits)
            continue;
        cJSON_AddNumberToObject(object, "iteration_s", row->iteration_s);
        cJSON_AddNumberToObject(object, "micro_batch_s", row->iteration_s / row->micro_batches);
        cJSON_AddBoolToObject(object, "recompute", row->recomputes);
        add_choice(object, e, row->configs);
    }
}

static void add_more(cJSON *root, const Explanation *e)
{
    cJSON *list = cJSON_AddArrayToObject(root, "more_bandwidth");
    for (uint32_t i = 0; i < e->more_count; i++) {
        const MoreBandwidth *more = &e->more[i];
        double saved_s = e->solution->cost.iteration_s - more->iteration_s;
        cJSON *object = append_object(list);
        cJSON_AddStringToObject(object, "level", e->work->spec->cluster.levels[more->level].name);
        cJSON_AddNumberToObject(object, "now_bytes_per_s", more->now_bytes_per_s);
        cJSON_AddNumberToObject(object, "step_bytes_per_s", EXPLAIN_STEP);
        cJSON_AddNumberToObject(object, "iteration_s", more->iteration_s);
        cJSON_AddNumberToObject(object, "saved_s", saved_s);
        cJSON_AddNumberToObject(object, "saved_percent", 100 * saved_s / e->solution->cost.iteration_s);
        cJSON_AddNumberToObject(object, "replanned_s", more->replanned_s);
    }
}

void explain_print_json(const Explanation *e, Text *out)
{
    const Solution *solution = e->solution;
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "format", "hep-explain");
    cJSON_AddNumberToObject(root, "version", 1);
    cJSON_AddStringToObject(root, "status", status_name(solution->status));
    cJSON_AddStringToObject(root, "solver", solution->solver);
    cJSON_AddNumberToObject(root, "gap", solution->gap);
    cJSON_AddNumberToObject(root, "iteration_s", solution->cost.iteration_s);
    cJSON_AddBoolToObject(root, "forced", solution->status == STATUS_FORCED);
    if (solution->status == STATUS_FORCED)
        cJSON_AddNumberToObject(root, "free_choice_s", e->free_s);
    if (e->counted_s > 0)
        cJSON_AddNumberToObject(root, "counted_s", e->counted_s);
    cJSON *baselines = cJSON_AddObjectToObject(root, "baselines");
    for (int b = 0; b < BASELINE_COUNT; b++)
        if (planner_has_baseline(b, e->work->spec))
            cJSON_AddNumberToObject(baselines, baseline_names[b], solution->baselines[b].cost.iteration_s);
    add_breakdown(root, e);
    add_runs(root, e);
    add_limits(root, e);
    cJSON_AddNumberToObject(root, "margin", EXPLAIN_MARGIN);
    add_sensitivities(root, e);
    cJSON_AddNumberToObject(root, "even_margin", EXPLAIN_EVEN);
    add_even(root, e);
    add_micro_batches(root, e);
    add_more(root, e);
    char *text = cJSON_Print(root);
    text_append(out, text);
    text_append(out, "\n");
    cJSON_free(text);
    cJSON_Delete(root);
}
