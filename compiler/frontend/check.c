// The semantic check of a whole file: which blocks there must be, what they mean together, and the
// defaults that depend on other keys. Single blocks are checked by check_keys.c, domains by
// check_domain.c.
#include "compiler/frontend/check.h"

#include <string.h>

#include "compiler/frontend/check_keys.h"
#include "compiler/frontend/import.h"
#include "ir/codec.h"

static bool has_errors_since(const Checker *checker, size_t mark)
{
    return diag_error_count(checker->diag) > mark;
}

static void collect_lets(Environment *environment, AstEntries entries)
{
    for (const AstEntry *entry = entries.first; entry; entry = entry->next) {
        if (entry->kind == ENTRY_LET)
            environment_add_let(environment, entry);
        else if (entry->kind == ENTRY_INCLUDE && entry->included)
            collect_lets(environment, entry->included->entries);
    }
}

// ---- cluster ---------------------------------------------------------------------------------

static void check_level(Checker *checker, const AstEntry *entry)
{
    Cluster *cluster = &checker->spec->cluster;
    for (uint32_t l = 0; l < cluster->level_count && entry->label; l++) {
        if (strcmp(cluster->levels[l].name, entry->label) == 0) {
            diag_error(checker->diag, entry->label_span, "there are two levels '%s'", entry->label);
            diag_note(checker->diag, checker->spec->level_spans[l], "the first one is here");
        }
    }
    if (cluster->level_count == LEVELS_MAX) {
        diag_error(checker->diag, entry->name_span, "too many levels: at most %d", LEVELS_MAX);
        return;
    }
    uint32_t index = cluster->level_count++;
    checker->blocks[BLOCK_LEVEL] = entry;
    checker->spec->level_spans[index] = block_head_span(entry);
    cluster->levels[index].name = entry->label ? entry->label : "";
    check_block(checker, BLOCK_LEVEL, entry, &cluster->levels[index]);
    check_required_keys(checker, BLOCK_LEVEL, FORM_ANY);
    const AstEntry *names = checker->keys[KEY_LEVEL_names], *links = checker->keys[KEY_LEVEL_links];
    if (index == 0) {
        checker->worker_names = names;
        checker->link_matrix = links;
        return;
    }
    if (names)
        check_inner_names(checker, names, index);
    if (links)
        diag_error(checker->diag, links->name_span,
                   "only workers of the outermost level, '%s' here, can have links of their own",
                   cluster->levels[0].name);
}

static void check_gpu_count(Checker *checker)
{
    const Cluster *cluster = &checker->spec->cluster;
    const uint64_t gpus_max = 1ull << 31;
    uint64_t gpus = 1;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        gpus *= cluster->levels[l].count;
        if (gpus > gpus_max) {
            diag_error(checker->diag, checker->spec->level_spans[l],
                       "the cluster has too many GPUs: the counts of its levels multiply to more than 2^31");
            return;
        }
    }
}

static void check_device(Checker *checker)
{
    Device *device = &checker->spec->cluster.device;
    const AstEntry *peak = checker->keys[KEY_DEVICE_peak];
    char value[FORMAT_MAX];
    if (!checker->keys[KEY_DEVICE_encode_bandwidth])
        device->encode_bandwidth = device->memory_bandwidth / 2;
    if (!checker->keys[KEY_DEVICE_decode_bandwidth])
        device->decode_bandwidth = device->memory_bandwidth / 2;
    if (!checker->keys[KEY_DEVICE_quantize_bandwidth])
        device->quantize_bandwidth = device->memory_bandwidth / 2;
    if (!checker->keys[KEY_DEVICE_dequantize_bandwidth])
        device->dequantize_bandwidth = device->memory_bandwidth / 2;
    if (peak && device->peak_flops > 0 && device->peak_flops < device->compute_flops)
        diag_error(checker->diag, value_span(checker, peak),
                   "'peak' is less than 'compute', %s, which is what is sustained",
                   format_rate(value, device->compute_flops));
}

static void check_cluster(Checker *checker)
{
    Spec *spec = checker->spec;
    const AstEntry *block = checker->blocks[BLOCK_CLUSTER];
    size_t mark = diag_error_count(checker->diag);
    spec->cluster.name = block->label ? block->label : "";
    spec->cluster_span = block_head_span(block);
    check_block(checker, BLOCK_CLUSTER, block, NULL);
    for (const AstEntry *entry = block->entries.first; entry; entry = entry->next)
        if (entry->kind == ENTRY_BLOCK && strcmp(entry->name, block_info(BLOCK_LEVEL)->name) == 0)
            check_level(checker, entry);
    if (!spec->cluster.level_count && !checker->misspelt_blocks[BLOCK_LEVEL])
        diag_error(checker->diag, spec->cluster_span, "the cluster has no 'level NAME { ... }'");
    const AstEntry none = {.name_span = block->name_span};
    const AstEntry *device = checker->blocks[BLOCK_DEVICE];
    check_block(checker, BLOCK_DEVICE, device ? device : &none, &spec->cluster.device);
    check_device(checker);
    spec->memory_span =
        checker->keys[KEY_DEVICE_memory] ? value_span(checker, checker->keys[KEY_DEVICE_memory]) : spec->cluster_span;
    if (!has_errors_since(checker, mark))
        check_gpu_count(checker);
    if (!has_errors_since(checker, mark))
        check_links(checker, block);
}

// ---- model -----------------------------------------------------------------------------------

static const AstEntry *first_key_of_form(const Checker *checker, Form form)
{
    for (size_t k = 0; k < KEY_COUNT; k++)
        if (checker->keys[k] && key_info((KeyId)k)->form == form)
            return checker->keys[k];
    return NULL;
}

static Form check_form(Checker *checker)
{
    const AstEntry *volume = first_key_of_form(checker, FORM_VOLUMES),
                   *dimension = first_key_of_form(checker, FORM_DIMENSIONS);
    if (volume && dimension) {
        diag_error(checker->diag, volume->name_span,
                   "'%s' and '%s' do not go together: a model is given by its dimensions or by the volumes of a layer",
                   volume->name, dimension->name);
        diag_note(checker->diag, dimension->name_span, "'%s' is given here", dimension->name);
    }
    return volume ? FORM_VOLUMES : FORM_DIMENSIONS;
}

static void check_moe_layers(Checker *checker)
{
    const SpecModel *model = &checker->spec->model;
    uint32_t moe_layers = 0;
    if (model->is_moe) // a list that is not empty
        return;
    for (uint32_t i = 0; i < model->layers; i++)
        moe_layers += spec_layer_is_moe(model, i);
    if (!moe_layers) {
        KeyId cause = model->first_dense >= model->layers ? KEY_MODEL_first_dense : KEY_MOE_every;
        diag_error(checker->diag, key_span(checker, cause, BLOCK_MODEL),
                   "no layer has experts: with 'first_dense' %u and 'every' %u all %u layers are dense",
                   model->first_dense, model->every, model->layers);
    }
}

static void check_attention(Checker *checker)
{
    SpecModel *model = &checker->spec->model;
    if (!checker->keys[KEY_MODEL_kv_heads])
        model->kv_heads = model->heads;
    if (model->heads % model->kv_heads)
        diag_error(checker->diag, key_span(checker, KEY_MODEL_kv_heads, BLOCK_MODEL),
                   "'kv_heads' must divide 'heads': %u is not a multiple of %u", model->heads, model->kv_heads);
    if (checker->keys[KEY_MODEL_head_dim])
        return;
    model->head_dim = model->hidden / model->heads;
    if (model->hidden % model->heads) {
        diag_error(checker->diag, key_span(checker, KEY_MODEL_heads, BLOCK_MODEL),
                   "'heads' must divide 'hidden': %u is not a multiple of %u", model->hidden, model->heads);
        diag_help(checker->diag, "a model whose heads have another size says so by 'head_dim'");
    }
}

static void set_model_defaults(Checker *checker)
{
    SpecModel *model = &checker->spec->model;
    uint32_t dense_layers = 0;
    for (uint32_t i = 0; i < model->layers; i++)
        dense_layers += !spec_layer_is_moe(model, i);
    if (!checker->keys[KEY_MOE_top_k])
        model->top_k = model->abstract ? 1 : 2;
    if (model->abstract)
        return;
    if (!checker->keys[KEY_MOE_inner])
        model->inner = 4 * model->hidden;
    const AstEntry *inner = checker->keys[KEY_MODEL_inner];
    if (!dense_layers && inner && !checker->blocks[BLOCK_MODEL]->from) {
        diag_warning(checker->diag, inner->name_span, "'inner' of 'model' is the size of dense layers, which it lacks");
        diag_help(checker->diag, "the size of an expert is 'inner' in 'moe'");
    }
    if (!dense_layers)
        model->ffn_inner = 0;
    else if (!checker->keys[KEY_MODEL_inner])
        model->ffn_inner = 4 * model->hidden;
    if (checker->keys[KEY_MOE_shared_inner] && !model->shared_experts)
        model->shared_experts = 1;
    if (model->shared_inner == model->shared_experts * (uint64_t)model->inner)
        model->shared_inner = 0; // as shared_experts says
}

// Later stages multiply these in 64 bits and in doubles; below 2^53 both are exact.
static void check_sizes(Checker *checker)
{
    const SpecModel *m = &checker->spec->model;
    const double element = 4, tokens = (double)m->sequence * m->batch, hidden = m->hidden;
    const double weights = 3 * hidden * element;
    const struct {
        double bytes;
        const char *what;
        KeyId key;
    } sizes[] = {
        {tokens * m->top_k * hidden * element, "token data ('sequence' x 'batch' x 'top_k' x 'hidden')",
         KEY_MODEL_sequence},
        {tokens * m->vocabulary * element, "logits ('sequence' x 'batch' x 'vocabulary')", KEY_MODEL_vocabulary},
        {tokens * m->sequence * m->heads * element, "attention scores ('sequence' x 'sequence' x 'batch' x 'heads')",
         KEY_MODEL_sequence},
        {tokens * m->heads * m->head_dim * element, "attention ('sequence' x 'batch' x 'heads' x 'head_dim')",
         KEY_MODEL_head_dim},
        {tokens * m->top_k * m->inner * element, "expert activations ('sequence' x 'batch' x 'top_k' x 'inner')",
         KEY_MOE_inner},
        {tokens * m->ffn_inner * element, "dense activations ('sequence' x 'batch' x 'inner')", KEY_MODEL_inner},
        {tokens * m->shared_experts * m->inner * element, "shared activations ('shared_experts' x 'inner')",
         KEY_MOE_shared_experts},
        {tokens * m->shared_inner * element, "shared activations ('shared_inner')", KEY_MOE_shared_inner},
        {weights * m->shared_inner, "shared experts ('hidden' x 'shared_inner')", KEY_MOE_shared_inner},
        {weights * m->experts * m->inner, "experts ('experts' x 'hidden' x 'inner')", KEY_MOE_experts},
        {weights * m->shared_experts * m->inner, "shared experts ('shared_experts' x 'hidden' x 'inner')",
         KEY_MOE_shared_experts},
        {weights * m->ffn_inner, "dense layers ('hidden' x 'inner')", KEY_MODEL_inner},
        {hidden * m->vocabulary * element, "embedding ('vocabulary' x 'hidden')", KEY_MODEL_vocabulary},
    };
    const double limit = 9007199254740992.0;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        if (sizes[i].bytes >= limit) {
            char bytes[FORMAT_MAX];
            diag_error(checker->diag, key_span(checker, sizes[i].key, BLOCK_MODEL),
                       "the model is too large: %s would take %s on one GPU or in one layer", sizes[i].what,
                       format_bytes(bytes, sizes[i].bytes));
            return;
        }
    }
}

static void check_top_k(Checker *checker)
{
    const SpecModel *model = &checker->spec->model;
    if (!model->experts || model->top_k <= model->experts)
        return;
    diag_error(checker->diag, key_span(checker, KEY_MOE_top_k, BLOCK_MOE),
               "'top_k' must be at most 'experts': %u of %u%s", model->top_k, model->experts,
               checker->keys[KEY_MOE_top_k] ? "" : " ('top_k' is 2 unless given)");
    if (checker->keys[KEY_MOE_experts])
        diag_note(checker->diag, value_span(checker, checker->keys[KEY_MOE_experts]), "'experts' is given here");
}

static void check_volume_lists(Checker *checker)
{
    static const KeyId keys[VOLUME_COUNT] = {KEY_MOE_data, KEY_MOE_expert, KEY_MOE_pre_expert, KEY_MOE_expert_compute};
    const SpecModel *model = &checker->spec->model;
    for (int v = 0; v < VOLUME_COUNT; v++)
        if (model->each[v] && model->each_count[v] != model->layers)
            diag_error(checker->diag, key_span(checker, keys[v], BLOCK_MOE),
                       "'%s' lists %u values, the model has %u layers", key_info(keys[v])->name, model->each_count[v],
                       model->layers);
}

// Does the block of an imported model say more than what passes it?
static bool says_structure(const AstEntry *block)
{
    for (const AstEntry *entry = block->entries.first; entry; entry = entry->next)
        if (!entry->name || (strcmp(entry->name, key_info(KEY_MODEL_sequence)->name) != 0 &&
                             strcmp(entry->name, key_info(KEY_MODEL_batch)->name) != 0 &&
                             strcmp(entry->name, block_info(BLOCK_ROUTING)->name) != 0))
            return true;
    return false;
}

static void check_model(Checker *checker)
{
    SpecModel *model = &checker->spec->model;
    AstEntry *block = (AstEntry *)checker->blocks[BLOCK_MODEL]; // an import completes it
    size_t mark = diag_error_count(checker->diag);
    model->name = block->label ? block->label : "";
    model->span = model->moe_span = block_head_span(block);
    bool changed = says_structure(block);
    if (block->from && !import_model(block, model, checker->environment, checker->arena, checker->diag))
        return;
    check_block(checker, BLOCK_MODEL, block, model);
    const AstEntry *moe = checker->blocks[BLOCK_MOE];
    if (moe) {
        model->moe_span = block_head_span(moe);
        check_block(checker, BLOCK_MOE, moe, model);
    } else if (!checker->misspelt_blocks[BLOCK_MOE]) {
        diag_error(checker->diag, model->span, "the model lacks 'moe { ... }'");
    }
    if (!moe)
        return;
    Form form = check_form(checker);
    model->abstract = form == FORM_VOLUMES;
    check_required_keys(checker, BLOCK_MODEL, form);
    check_required_keys(checker, BLOCK_MOE, form);
    if (has_errors_since(checker, mark))
        return;
    check_layer_lists(checker);
    if (has_errors_since(checker, mark))
        return;
    check_moe_layers(checker);
    check_volume_lists(checker);
    set_model_defaults(checker);
    check_top_k(checker);
    check_groups(checker);
    if (model->abstract) {
        model->dtype = DTYPE_F32;
        model->batch = 0;
        return;
    }
    check_attention(checker);
    check_mixers(checker, block);
    check_sizes(checker);
    if (has_errors_since(checker, mark))
        return;
    spec_count_parameters(model);
    if (block->from && !changed)
        import_check_index(model, block->from->span,
                           read_join_path(checker->arena, diag_source_name(checker->diag, block->from->span.source),
                                          block->from->text),
                           checker->arena, checker->diag);
}

static void check_model_and_routing(Checker *checker)
{
    size_t mark = diag_error_count(checker->diag);
    check_model(checker);
    if (!has_errors_since(checker, mark))
        check_routing(checker);
}

// ---- plan ------------------------------------------------------------------------------------

// A ratio goes with packets that have one.
static void check_ratio(Checker *checker, const AstEntry *ratio, Packing packing, const char *name, double *value)
{
    bool dense = strcmp(name, codec_name(CODEC_DENSE)) == 0, varies = !dense && packet_has_ratio(packing.form);
    if (ratio && dense)
        diag_error(checker->diag, value_span(checker, ratio), "'%s' does not go with 'dense', which sends everything",
                   ratio->name);
    else if (ratio && !varies)
        diag_error(checker->diag, value_span(checker, ratio), "'%s' does not go with '%s', whose packets are 1/%.3g",
                   ratio->name, name, packing_ratio(packing, checker->spec->model.dtype));
    if (!ratio)
        *value = varies ? 50 : 1;
}

// What was said of a kind of bundle; NULL what was not.
typedef struct {
    const AstEntry *ratio, *gradient, *gradient_ratio;
} CodingKeys;

static void check_coding(Checker *checker, const CodingKeys *keys, Coding *coding)
{
    bool automatic = (int)coding->codec == CODEC_AUTO;
    Packing weights = codec_packing(coding->codec, 1), gradients = gradient_packing(coding->gradient, 1);
    check_ratio(checker, keys->ratio, weights, automatic ? "auto" : codec_name(coding->codec), &coding->ratio);
    check_ratio(checker, keys->gradient_ratio, gradients, gradient_name(coding->gradient), &coding->gradient_ratio);
    if (packet_has_ratio(gradients.form) && coding->gradient_ratio <= 1)
        coding->gradient = GRADIENT_DENSE; // the largest are all
    if (coding->gradient != GRADIENT_DENSE && checker->spec->plan.pass == PASS_FORWARD)
        diag_error(checker->diag, value_span(checker, keys->gradient),
                   "a forward pass has no gradients: 'gradient' goes with pass 'training'");
}

static void check_migration(Checker *checker)
{
    SpecPlan *plan = &checker->spec->plan;
    const AstEntry *codec = checker->keys[KEY_MIGRATION_codec], *shared = checker->keys[KEY_MIGRATION_shared_every];
    const CodingKeys keys = {.ratio = checker->keys[KEY_MIGRATION_ratio],
                             .gradient = checker->keys[KEY_MIGRATION_gradient],
                             .gradient_ratio = checker->keys[KEY_MIGRATION_gradient_ratio]};
    bool automatic = (int)plan->experts.codec == CODEC_AUTO || plan->open[PRICED_EXPERTS];
    plan->codec_span = codec ? value_span(checker, codec) : plan->span;
    check_coding(checker, &keys, &plan->experts);
    if (shared && !automatic && !codec_info(plan->experts.codec)->has_mean)
        diag_error(checker->diag, value_span(checker, shared),
                   "'shared_every' goes with codec 'sr', which has a shared expert");
}

// Shares of dense weights travel when training a model that is executed; there is no mean to subtract.
static void check_dense(Checker *checker)
{
    SpecPlan *plan = &checker->spec->plan;
    const AstEntry *block = checker->blocks[BLOCK_DENSE];
    const CodingKeys keys = {.ratio = checker->keys[KEY_DENSE_ratio],
                             .gradient = checker->keys[KEY_DENSE_gradient],
                             .gradient_ratio = checker->keys[KEY_DENSE_gradient_ratio]};
    plan->dense.ratio = plan->dense.ratio >= 1 ? plan->dense.ratio : 1;
    plan->dense.gradient_ratio = plan->dense.gradient_ratio >= 1 ? plan->dense.gradient_ratio : 1;
    if (!block)
        return;
    if (plan->pass == PASS_FORWARD) {
        diag_error(checker->diag, block_head_span(block),
                   "in a forward pass every GPU has the dense weights: 'dense' goes with pass 'training'");
        return;
    }
    if (checker->spec->model.abstract) {
        diag_error(checker->diag, block_head_span(block), "'dense' goes with a model that is given by its dimensions");
        return;
    }
    if (codec_info(plan->dense.codec)->has_mean)
        diag_error(checker->diag, value_span(checker, checker->keys[KEY_DENSE_codec]),
                   "'%s' subtracts the mean of experts, which dense weights have not: expected 'dense', 'delta', "
                   "'sign' or 'q4'",
                   codec_name(plan->dense.codec));
    check_coding(checker, &keys, &plan->dense);
}

// Iterations in which packets hold whole values come before others that are smaller.
static void check_whole_iterations(Checker *checker)
{
    const AstEntry *key = checker->keys[KEY_PLAN_whole_iterations];
    const SpecPlan *plan = &checker->spec->plan;
    bool open = false;
    for (int part = 0; part < PRICED_TOKENS; part++)
        open |= plan->open[part];
    if (!key || plan->whole_iterations == 0)
        return;
    if (plan->pass == PASS_FORWARD || checker->spec->model.abstract)
        diag_error(checker->diag, value_span(checker, key),
                   "'whole_iterations' goes with training a model that is given by its dimensions");
    else if (!open && !coding_encodes(&plan->experts) && !coding_encodes(&plan->dense)) // `auto` may
        diag_error(checker->diag, value_span(checker, key),
                   "'whole_iterations' goes with a 'codec' or a 'gradient': here everything always travels whole");
}

// Messages that are always as long as they can get: how long that is, dimensions and a capacity must say.
static void check_exchange(Checker *checker)
{
    const SpecPlan *plan = &checker->spec->plan;
    if (plan->exchange != EXCHANGE_PADDED)
        return;
    Span span = value_span(checker, checker->keys[KEY_PLAN_exchange]);
    if (checker->spec->model.abstract) {
        diag_error(checker->diag, span, "padded exchanges go with a model that is given by its dimensions");
    } else if (plan->capacity == 0) {
        diag_error(checker->diag, span,
                   "padded exchanges need a 'capacity': without one a message has room for every token");
        diag_help(checker->diag, "'capacity = 1.25' drops what an expert gets beyond 1.25 times the balanced load");
        if (checker->keys[KEY_PLAN_capacity])
            diag_note(checker->diag, plan->capacity_span, "it is off here");
    }
}

static void check_once(Checker *checker, const AstEntry *key, const char *name)
{
    if (key && checker->spec->plan.pass == PASS_FORWARD)
        diag_error(checker->diag, value_span(checker, key),
                   "in a forward pass every GPU has the dense weights: '%s' goes with pass 'training'", name);
    else if (key && checker->spec->model.abstract)
        diag_error(checker->diag, value_span(checker, key), "'%s' goes with a model that is given by its dimensions",
                   name);
}

// Whether gathered dense weights are kept, and the embedding.
static void check_once_dense(Checker *checker)
{
    SpecPlan *plan = &checker->spec->plan;
    const AstEntry *embedding = checker->keys[KEY_PLAN_once_embedding];
    plan->regather_dense = plan->once_dense == ONCE_DENSE_NONE;
    plan->regather_embedding = plan->once_embedding == ONCE_DENSE_NONE;
    check_once(checker, checker->keys[KEY_PLAN_once_dense], "once_dense");
    check_once(checker, embedding, "once_embedding");
    if (embedding && plan->regather_embedding && plan->micro_batches < 2)
        diag_error(checker->diag, value_span(checker, embedding),
                   "'once_embedding = none' needs several 'micro_batches': expected 'auto' or 'all'");
}

// The micro-batches of a lap divide those of the iteration.
static void check_lap(Checker *checker)
{
    SpecPlan *plan = &checker->spec->plan;
    const AstEntry *key = checker->keys[KEY_PLAN_lap];
    if (key && plan->lap_request)
        check_lap_size(checker, value_span(checker, key), plan->lap_request);
}

// What goes with training a model that is executed alone.
static void check_micro_batches(Checker *checker)
{
    static const KeyId keys[] = {KEY_PLAN_micro_batches, KEY_PLAN_lap, KEY_PLAN_recompute, KEY_PLAN_interleave,
                                 KEY_PLAN_bucket};
    SpecPlan *plan = &checker->spec->plan;
    plan->recomputes = plan->recompute == RECOMPUTE_FULL;
    plan->interleaves = plan->interleave == INTERLEAVE_FULL;
    plan->bucket = plan->bucket_request == BUCKET_AUTO ? 0 : plan->bucket_request;
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        const AstEntry *key = checker->keys[keys[i]];
        if (key && plan->pass == PASS_FORWARD)
            diag_error(checker->diag, value_span(checker, key), "'%s' goes with pass 'training'", key->name);
        else if (key && checker->spec->model.abstract)
            diag_error(checker->diag, value_span(checker, key),
                       "'%s' goes with a model that is given by its dimensions", key->name);
    }
    check_lap(checker);
}

// What is stored in few bits does not learn, and packets are of elements.
static void check_weights(Checker *checker)
{
    SpecModel *model = &checker->spec->model;
    const SpecPlan *plan = &checker->spec->plan;
    bool encodes = (int)plan->experts.codec == CODEC_AUTO || codec_info(plan->experts.codec)->encodes;
    if (plan->pass == PASS_FORWARD && !encodes)
        return;
    const AstEntry *key = model->expert_bits > 0 ? checker->keys[KEY_MOE_weights] : checker->keys[KEY_MODEL_weights];
    bool asked = model->expert_bits > 0 || model->dense_bits > 0;
    if (asked && key && !checker->blocks[BLOCK_MODEL]->from)
        diag_warning(checker->diag, value_span(checker, key), "'weights' goes with %s: weights are stored as '%s' here",
                     plan->pass == PASS_FORWARD ? "codec 'dense'" : "a forward pass", dtype_name(model->dtype));
    model->expert_bits = model->dense_bits = 0;
}

// What `tokens = ...` says of all, the block says one by one; without packed rows nothing is said.
static void check_tokens(Checker *checker)
{
    static const KeyId keys[TOKEN_WAYS] = {KEY_TOKENS_dispatch, KEY_TOKENS_combine, KEY_TOKENS_dispatch_gradient,
                                           KEY_TOKENS_combine_gradient};
    SpecPlan *plan = &checker->spec->plan;
    const AstEntry *block = checker->blocks[BLOCK_TOKENS], *all = checker->keys[KEY_PLAN_tokens];
    const AstEntry none = {.name_span = plan->span};
    for (uint32_t way = 0; way < TOKEN_WAYS; way++)
        plan->tokens[way] = plan->tokens_all;
    check_block(checker, BLOCK_TOKENS, block ? block : &none, plan);
    if (checker->spec->model.abstract && (block || all))
        diag_error(checker->diag, block ? block_head_span(block) : value_span(checker, all),
                   "'tokens' needs a model given by its dimensions: volumes do not say how many rows there are");
    for (uint32_t way = WAY_DISPATCH_GRADIENT; way <= WAY_COMBINE_GRADIENT && plan->pass == PASS_FORWARD; way++) {
        plan->tokens[way] = TOKENS_FULL;
        if (checker->keys[keys[way]])
            diag_error(checker->diag, value_span(checker, checker->keys[keys[way]]),
                       "a forward pass has no gradients: '%s' goes with pass 'training'", key_info(keys[way])->name);
    }
}

// Which level, and that it is one, check_domain.c says: here what goes with it.
static void check_sync(Checker *checker)
{
    SpecPlan *plan = &checker->spec->plan;
    const AstEntry *block = checker->blocks[BLOCK_SYNC];
    const AstEntry *rate = checker->keys[KEY_SYNC_learning_rate], *momentum = checker->keys[KEY_SYNC_momentum];
    if (!block)
        return;
    bool average = plan->sync.optimizer == OUTER_AVERAGE;
    plan->sync.learning_rate = rate && !average ? plan->sync.learning_rate : average ? 1 : 0.7;
    plan->sync.momentum = momentum && !average ? plan->sync.momentum : average ? 0 : 0.9;
    const AstEntry *unused = rate ? rate : momentum;
    if (average && unused)
        diag_error(checker->diag, value_span(checker, unused), "'%s' goes with optimizer 'nesterov'", unused->name);
    if (plan->pass == PASS_FORWARD || checker->spec->model.abstract)
        diag_error(checker->diag, block_head_span(block),
                   "'sync' goes with training a model that is given by its dimensions");
    else if (checker->spec->model.dtype != DTYPE_F32)
        diag_error(checker->diag, block_head_span(block), "local steps go with weights in f32, these are in %s",
                   dtype_name(checker->spec->model.dtype));
    else if (checker->spec->cluster.device.engine == ENGINE_CUDA)
        diag_error(checker->diag, block_head_span(block), "local steps go with engine 'host': 'cuda' has none");
    if ((int)plan->experts.codec == CODEC_AUTO || coding_encodes(&plan->experts) || coding_encodes(&plan->dense))
        diag_error(
            checker->diag, block_head_span(block),
            "local steps do not go with a 'codec' or a 'gradient': what crosses '%s' is sent whole, in one of %u "
            "iterations",
            checker->spec->cluster.levels[0].name, plan->sync.every);
}

static void check_plan(Checker *checker)
{
    SpecPlan *plan = &checker->spec->plan;
    const AstEntry *block = checker->blocks[BLOCK_PLAN];
    const AstEntry none = {.name_span = checker->spec->model.span};
    plan->span = block ? block_head_span(block) : checker->spec->model.span;
    plan->bucket_request = BUCKET_AUTO;
    check_block(checker, BLOCK_PLAN, block ? block : &none, plan);
    const AstEntry *migration = checker->blocks[BLOCK_MIGRATION];
    size_t mark = diag_error_count(checker->diag);
    check_block(checker, BLOCK_MIGRATION, migration ? migration : &none, plan);
    check_block(checker, BLOCK_DENSE, checker->blocks[BLOCK_DENSE] ? checker->blocks[BLOCK_DENSE] : &none, plan);
    const AstEntry *domain = checker->keys[KEY_PLAN_domain], *capacity = checker->keys[KEY_PLAN_capacity];
    plan->domain_span = domain ? value_span(checker, domain) : plan->span;
    plan->capacity_span = capacity ? value_span(checker, capacity) : plan->span;
    if (!has_errors_since(checker, mark)) {
        check_open_choices(checker);
        check_migration(checker);
        check_tokens(checker);
        check_dense(checker);
        check_whole_iterations(checker);
        check_exchange(checker);
        check_once_dense(checker);
        check_micro_batches(checker);
        check_weights(checker);
    }
    if (checker->blocks[BLOCK_SYNC]) {
        check_block(checker, BLOCK_SYNC, checker->blocks[BLOCK_SYNC], plan);
        check_required_keys(checker, BLOCK_SYNC, FORM_ANY);
    }
    if (!has_errors_since(checker, mark)) {
        check_sync(checker);
        check_loss_increase(checker);
    }
    const AstEntry *training = checker->blocks[BLOCK_TRAINING];
    check_block(checker, BLOCK_TRAINING, training ? training : &none, &checker->spec->training);
    if (training && plan->pass == PASS_FORWARD)
        diag_error(checker->diag, block_head_span(training),
                   "a forward pass does not learn: 'training' goes with 'plan { pass = training }'");
}

// ---- the file --------------------------------------------------------------------------------

static bool is_empty(AstEntries entries)
{
    for (const AstEntry *entry = entries.first; entry; entry = entry->next)
        if (entry->kind != ENTRY_INCLUDE || !entry->included || !is_empty(entry->included->entries))
            return false;
    return true;
}

static void check_missing_blocks(Checker *checker, const Ast *ast)
{
    Span start = {ast->source, 0, 0};
    bool no_cluster = !checker->blocks[BLOCK_CLUSTER] && !checker->misspelt_blocks[BLOCK_CLUSTER],
         no_model = !checker->blocks[BLOCK_MODEL] && !checker->misspelt_blocks[BLOCK_MODEL];
    if (is_empty(ast->entries))
        diag_error(checker->diag, start, "the file is empty: expected 'cluster NAME { ... }' and 'model NAME { ... }'");
    else if (no_cluster && no_model)
        diag_error(checker->diag, start, "the file lacks 'cluster NAME { ... }' and 'model NAME { ... }'");
    else if (no_cluster)
        diag_error(checker->diag, start, "the file lacks 'cluster NAME { ... }'");
    else if (no_model)
        diag_error(checker->diag, start, "the file lacks 'model NAME { ... }'");
}

static Environment *environment_of(const Ast *ast, const CheckOptions *options, Arena *arena, Diag *diag)
{
    Environment *environment = environment_create(arena, diag);
    collect_lets(environment, ast->entries);
    for (size_t i = 0; i < options->define_count; i++)
        environment_override(environment, options->defines[i]);
    return environment;
}

Value check_let_value(const Ast *ast, const CheckOptions *options, const char *name, Arena *arena)
{
    Diag *silent = diag_create(arena);
    Environment *environment = environment_of(ast, options, arena, silent);
    return evaluate(environment, &(AstExpr){.kind = EXPR_NAME, .text = name});
}

const Spec *check_ast(Ast *ast, const CheckOptions *options, Arena *arena, Diag *diag)
{
    static const CheckOptions no_options;
    options = options ? options : &no_options;
    size_t mark = diag_error_count(diag);
    Checker *checker = arena_alloc(arena, sizeof(*checker));
    *checker = (Checker){.arena = arena,
                         .diag = diag,
                         .environment = environment_of(ast, options, arena, diag),
                         .spec = arena_alloc(arena, sizeof(Spec))};
    environment_evaluate_all(checker->environment);
    check_file_entries(checker, ast->entries);
    check_missing_blocks(checker, ast);
    if (checker->blocks[BLOCK_CLUSTER])
        check_cluster(checker);
    if (checker->blocks[BLOCK_MODEL])
        check_model_and_routing(checker);
    if (checker->blocks[BLOCK_MODEL])
        check_plan(checker);
    if (diag_error_count(diag) == mark)
        check_shares_and_domain(checker, options->domain);
    return diag_error_count(diag) == mark ? checker->spec : NULL;
}
