// See layout.h. Ranks are those of processes, in the order in which they are launched: where a plan places
// heterogeneous workers in another order, they are translated here.
#include "backends/layout.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

#include "ir/bundle.h"
#include "ir/plan_facts.h"

static void append_number(cJSON *array, double value)
{
    cJSON_AddItemToArray(array, cJSON_CreateNumber(value));
}

static void append_rank(cJSON *array, const Plan *plan, uint64_t rank)
{
    append_number(array, (double)cluster_process_of_rank(&plan->cluster, rank));
}

static cJSON *append_object(cJSON *array)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToArray(array, object);
    return object;
}

// ---- cluster and model -----------------------------------------------------------------------------

static void add_cluster(cJSON *root, const Plan *plan)
{
    const Cluster *cluster = &plan->cluster;
    cJSON *object = cJSON_AddObjectToObject(root, "cluster");
    cJSON_AddStringToObject(object, "name", cluster->name);
    cJSON *levels = cJSON_AddArrayToObject(object, "levels");
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        cJSON *level = append_object(levels);
        cJSON_AddStringToObject(level, "name", cluster->levels[l].name);
        cJSON_AddNumberToObject(level, "count", cluster->levels[l].count);
    }
    cJSON *order = cJSON_AddArrayToObject(object, "rank_order");
    for (uint64_t rank = 0; rank < cluster_gpus(cluster); rank++)
        append_rank(order, plan, rank);
}

static void add_model(cJSON *root, const Plan *plan)
{
    const ModelDims *model = &plan->model;
    ShareShape share = plan_share_shape(plan);
    cJSON *object = cJSON_AddObjectToObject(root, "model");
    cJSON_AddStringToObject(object, "name", model->name);
    cJSON_AddNumberToObject(object, "layers", model->layers);
    cJSON_AddNumberToObject(object, "experts", model->experts);
    cJSON_AddNumberToObject(object, "top_k", model->top_k);
    cJSON_AddBoolToObject(object, "whole_experts", share.whole);
}

// ---- groups ----------------------------------------------------------------------------------------

static const char *const uses[STREAM_COUNT] = {
    [STREAM_EXCHANGE] = "exchange", [STREAM_MIGRATE] = "gather", [STREAM_SYNC] = "return"};

static void add_uses(cJSON *object, const Plan *plan, int index)
{
    bool used[STREAM_COUNT] = {false};
    for (uint32_t s = 0; s < plan->step_count; s++)
        if (plan->steps[s].group == index)
            used[op_info((int)plan->steps[s].op)->stream] = true;
    cJSON *array = cJSON_AddArrayToObject(object, "uses");
    for (int stream = 0; stream < STREAM_COUNT; stream++)
        if (used[stream] && uses[stream])
            cJSON_AddItemToArray(array, cJSON_CreateString(uses[stream]));
}

static void add_sets(cJSON *object, const Plan *plan, const Group *group)
{
    const Cluster *cluster = &plan->cluster;
    cJSON *sets = cJSON_AddArrayToObject(object, "sets");
    for (uint64_t first = 0; first < cluster_gpus(cluster); first++) {
        if (group_index(cluster, group, first) > 0)
            continue;
        cJSON *set = cJSON_CreateArray();
        cJSON_AddItemToArray(sets, set);
        for (uint64_t m = 0; m < group_size(cluster, group); m++)
            append_rank(set, plan, group_member_rank(cluster, group, first, m));
    }
}

static void add_groups(cJSON *root, const Plan *plan)
{
    cJSON *groups = cJSON_AddArrayToObject(root, "groups");
    for (uint32_t g = 0; g < plan->group_count; g++) {
        const Group *group = &plan->groups[g];
        cJSON *object = append_object(groups);
        cJSON_AddStringToObject(object, "kind", group_kind_name(group->kind));
        if (group->level >= 0)
            cJSON_AddStringToObject(object, "level", plan->cluster.levels[group->level].name);
        else
            cJSON_AddNullToObject(object, "level");
        cJSON_AddNumberToObject(object, "domain", group->domain);
        add_uses(object, plan, (int)g);
        add_sets(object, plan, group);
    }
}

// ---- placements ------------------------------------------------------------------------------------

// Ranks of a block in the order in which gathers lay their shares one after another: [members], and as many copies one
// after another as there are replicas.
typedef struct {
    const Plan *plan;
    ExpertShares shares;
    uint64_t copies;
    uint64_t *ranks; // [place][slot][copy]
} Holders;

static Holders find_holders(const Plan *plan, const Choice *choice, Arena *arena)
{
    uint64_t ranks = cluster_gpus(&plan->cluster);
    Holders holders = {.plan = plan, .shares = plan_expert_shares(plan, choice->domain)};
    uint64_t slots = holders.shares.places * holders.shares.members;
    uint64_t *found = arena_alloc(arena, slots * sizeof(*found)); // zeroed
    holders.copies = ranks / slots;
    holders.ranks = arena_alloc(arena, ranks * sizeof(*holders.ranks));
    for (uint64_t rank = 0; rank < ranks; rank++) {
        uint64_t slot = share_place(&holders.shares, rank) * holders.shares.members + share_slot(&holders.shares, rank);
        holders.ranks[slot * holders.copies + found[slot]++] = rank;
    }
    return holders;
}

// Per expert of a block, which of its holders own it or a part of it.
static void add_owners(cJSON *object, const Holders *holders, uint64_t place)
{
    const ExpertShares *shares = &holders->shares;
    cJSON *owners = cJSON_AddArrayToObject(object, "owners");
    uint64_t count = shares->members * holders->copies;
    for (uint64_t e = 0; e < shares->block_experts; e++) {
        cJSON *of_expert = cJSON_CreateArray();
        cJSON_AddItemToArray(owners, of_expert);
        uint64_t begin = (place * shares->block_experts + e) * shares->expert_elements;
        for (uint64_t h = 0; h < count; h++) {
            uint64_t rank = holders->ranks[place * count + h];
            ElementRange owned = share_owned(shares, rank);
            if (owned.first < begin + shares->expert_elements && begin < owned.first + owned.count)
                append_rank(of_expert, holders->plan, rank);
        }
    }
}

// Of shares that are no whole experts: first element and count, in the order of holders.
static void add_shares(cJSON *object, const Holders *holders, uint64_t place)
{
    cJSON *array = cJSON_AddArrayToObject(object, "shares");
    uint64_t count = holders->shares.members * holders->copies;
    for (uint64_t h = 0; h < count; h++) {
        ElementRange owned = share_owned(&holders->shares, holders->ranks[place * count + h]);
        cJSON *range = cJSON_CreateArray();
        append_number(range, (double)owned.first);
        append_number(range, (double)owned.count);
        cJSON_AddItemToArray(array, range);
    }
}

static void add_placement(cJSON *placements, const Plan *plan, const Choice *choice)
{
    Arena *arena = arena_create();
    Holders holders = find_holders(plan, choice, arena);
    cJSON *object = append_object(placements);
    cJSON *domain = cJSON_AddArrayToObject(object, "domain");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        append_number(domain, choice->domain[l]);
    cJSON *blocks = cJSON_AddArrayToObject(object, "blocks");
    for (uint64_t place = 0; place < holders.shares.places; place++) {
        uint64_t count = holders.shares.members * holders.copies;
        cJSON *block = append_object(blocks), *ranks = NULL;
        cJSON_AddNumberToObject(block, "first", (double)(place * holders.shares.block_experts));
        cJSON_AddNumberToObject(block, "count", (double)holders.shares.block_experts);
        ranks = cJSON_AddArrayToObject(block, "holders");
        for (uint64_t h = 0; h < count; h++)
            append_rank(ranks, plan, holders.ranks[place * count + h]);
        add_owners(block, &holders, place);
        if (!plan_share_shape(plan).whole)
            add_shares(block, &holders, place);
    }
    arena_destroy(arena);
}

// ---- layers ----------------------------------------------------------------------------------------

static bool moves_experts(const Plan *plan, const Step *step, const WeightKind kinds[])
{
    int32_t sent = step_operands(plan, step)[0];
    return sent == NONE || plan_coding(plan, kinds[sent]) == &plan->experts;
}

// Groups in which the layer's steps of a stream meet, in the order of the first pass.
static void add_layer_groups(cJSON *object, const Plan *plan, uint32_t layer, Stream stream, const WeightKind kinds[])
{
    cJSON *array = cJSON_AddArrayToObject(object, uses[stream]);
    Arena *scratch = arena_create();
    bool *seen = arena_alloc(scratch, plan->group_count * sizeof(*seen)); // zeroed
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        if (step->group == NONE || (uint32_t)step->layer != layer || op_info((int)step->op)->stream != stream ||
            seen[step->group] || (stream != STREAM_EXCHANGE && !moves_experts(plan, step, kinds)))
            continue;
        seen[step->group] = true;
        append_number(array, step->group);
    }
    arena_destroy(scratch);
}

static int find_placement(const Plan *plan, const int placement_of[], uint32_t choice)
{
    for (uint32_t before = 0; before < choice; before++)
        if (memcmp(plan->choices[before].domain, plan->choices[choice].domain,
                   plan->cluster.level_count * sizeof(uint32_t)) == 0)
            return placement_of[before];
    return -1;
}

static void add_layers(cJSON *root, const Plan *plan)
{
    cJSON *placements = cJSON_AddArrayToObject(root, "placements"), *layers = cJSON_AddArrayToObject(root, "layers");
    Arena *arena = arena_create();
    WeightKind *kinds = arena_alloc(arena, plan->buffer_count * sizeof(*kinds));
    int *placement_of = arena_alloc(arena, plan->choice_count * sizeof(*placement_of));
    bundle_kinds(plan, kinds);
    for (uint32_t c = 0; c < plan->choice_count; c++) {
        const Choice *choice = &plan->choices[c];
        placement_of[c] = find_placement(plan, placement_of, c);
        if (placement_of[c] < 0) {
            placement_of[c] = cJSON_GetArraySize(placements);
            add_placement(placements, plan, choice);
        }
        cJSON *layer = append_object(layers);
        cJSON_AddNumberToObject(layer, "layer", choice->layer);
        cJSON_AddNumberToObject(layer, "placement", placement_of[c]);
        for (int stream = 0; stream < STREAM_COUNT; stream++)
            if (uses[stream])
                add_layer_groups(layer, plan, choice->layer, (Stream)stream, kinds);
        cJSON_AddBoolToObject(layer, "regather", choice->regather);
    }
    arena_destroy(arena);
}

void layout_print(const Plan *plan, Text *out)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "format", "hep-layout");
    cJSON_AddNumberToObject(root, "version", LAYOUT_VERSION);
    cJSON_AddNumberToObject(root, "ranks", (double)cluster_gpus(&plan->cluster));
    cJSON_AddStringToObject(root, "pass", pass_name(plan->pass));
    cJSON_AddStringToObject(root, "dispatch", dispatch_name(plan->dispatch));
    cJSON_AddNumberToObject(root, "micro_batches", plan->micro_batches);
    cJSON_AddNumberToObject(root, "replica_levels", plan->replica_levels);
    add_cluster(root, plan);
    add_model(root, plan);
    add_groups(root, plan);
    add_layers(root, plan);
    char *text = cJSON_Print(root);
    text_append(out, text);
    text_append(out, "\n");
    cJSON_free(text);
    cJSON_Delete(root);
}
