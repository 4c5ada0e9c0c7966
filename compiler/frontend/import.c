// See import.h. Field names are those of the transformers library's configuration classes.
#include "compiler/frontend/import.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/frontend/check_keys.h"
#include "compiler/frontend/read.h"
#include "grammar/parse.h"

enum { CONFIG_BYTES_MAX = 1 << 24, ALIASES_MAX = 6 };

// What a quantity is called in one family or another, and the key that it becomes; KEY_COUNT if it is none by itself.
typedef struct {
    const char *what;
    KeyId key;
    const char *names[ALIASES_MAX];
} Field;

static const Field
    field_layers = {"number of layers", KEY_MODEL_layers, {"num_hidden_layers", "n_layer", "num_layers"}},
    field_hidden = {"hidden size", KEY_MODEL_hidden, {"hidden_size", "n_embd", "d_model"}},
    field_heads = {"attention heads", KEY_MODEL_heads, {"num_attention_heads", "n_head"}},
    field_kv_heads = {"key-value heads", KEY_MODEL_kv_heads, {"num_key_value_heads"}},
    field_head_dim = {"head size", KEY_MODEL_head_dim, {"head_dim"}},
    field_vocabulary = {"vocabulary", KEY_MODEL_vocabulary, {"vocab_size"}},
    field_experts = {"number of experts",
                     KEY_MOE_experts,
                     {"n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"}},
    field_top_k = {"experts per token",
                   KEY_MOE_top_k,
                   {"num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts"}},
    field_expert_inner = {"expert size",
                          KEY_MOE_inner,
                          {"moe_intermediate_size", "expert_ffn_hidden_size", "expert_dim"}},
    field_inner = {"feed-forward size", KEY_COUNT, {"intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"}},
    field_dense_inner = {"dense feed-forward size", KEY_MODEL_inner, {"intermediate_size_mlp"}},
    field_shared = {"shared experts",
                    KEY_MOE_shared_experts,
                    {"n_shared_experts", "num_shared_experts", "moe_num_shared_experts"}},
    field_shared_inner = {"shared expert size",
                          KEY_COUNT,
                          {"shared_expert_intermediate_size", "shared_intermediate_size"}},
    field_first_dense = {"dense layers at the start", KEY_MODEL_first_dense, {"first_k_dense_replace"}},
    field_every = {"distance of MoE layers",
                   KEY_MOE_every,
                   {"decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq", "expert_layer_period"}},
    field_activation = {"activation", KEY_MOE_activation, {"hidden_act", "hidden_activation", "activation_function"}},
    field_dtype = {"element type", KEY_MODEL_dtype, {"dtype", "torch_dtype"}};

typedef struct {
    Arena *arena;
    Diag *diag;
    Span place; // of the file's name in the .hep file
    const char *path;
    const cJSON *config, *outer; // the text model's object, and the file's
    Environment *environment;
    const AstEntry *block; // of the model: what it says wins
    Text keys, moe;        // what was found, as keys of the language
    size_t errors;
} Importer;

static AstEntry *find_entry(AstEntries entries, const char *name)
{
    AstEntry *entry = entries.first;
    while (entry && (!entry->name || strcmp(entry->name, name) != 0))
        entry = entry->next;
    return entry;
}

static const cJSON *find(const Importer *in, const Field *field, const char **name)
{
    for (size_t i = 0; i < ALIASES_MAX && field->names[i]; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(in->config, field->names[i]);
        if (!item)
            item = cJSON_GetObjectItemCaseSensitive(in->outer, field->names[i]);
        if (item && !cJSON_IsNull(item)) {
            *name = field->names[i];
            return item;
        }
    }
    return NULL;
}

static bool is_not_finite(const cJSON *item) // see blank_not_finite
{
    return cJSON_IsString(item) && !item->valuestring[0];
}

// What the block says of a key itself; NULL if nothing.
static const AstEntry *said(const Importer *in, KeyId key)
{
    const AstEntry *block = in->block;
    if (key != KEY_COUNT && key_info(key)->block == BLOCK_MOE)
        block = find_entry(in->block->entries, block_info(BLOCK_MOE)->name);
    bool none = key == KEY_COUNT || !block || (block != in->block && block->kind != ENTRY_BLOCK);
    const AstEntry *entry = none ? NULL : find_entry(block->entries, key_info(key)->name);
    return entry && entry->kind == ENTRY_VALUE ? entry : NULL;
}

static double limit(const Field *field)
{
    return field->key == KEY_COUNT ? key_info(KEY_MODEL_inner)->max : key_info(field->key)->max;
}

// The number that the block gives; what is wrong with it the check of the block will say.
static bool said_number(const Importer *in, const Field *field, double least, double *value)
{
    const AstEntry *entry = said(in, field->key);
    if (!entry)
        return false;
    Value given = evaluate(in->environment, entry->value);
    bool good = given.kind == VALUE_QUANTITY && given.number >= least && given.number <= limit(field) &&
                given.number == floor(given.number);
    *value = good ? given.number : least;
    return true;
}

static void report_missing(Importer *in, const Field *field, const char *why)
{
    Text looked = {0};
    for (size_t i = 0; i < ALIASES_MAX && field->names[i]; i++)
        text_format(&looked, "%s'%s'", i ? ", " : "", field->names[i]);
    diag_error(in->diag, in->place, "'%s' gives no %s%s", in->path, field->what, why);
    diag_help(in->diag, "looked for %s%s", looked.data,
              in->config == in->outer ? "" : ", inside 'text_config' and outside");
    text_free(&looked);
    bool moe = field->key != KEY_COUNT && key_info(field->key)->block == BLOCK_MOE;
    if (field->key != KEY_COUNT)
        diag_help(in->diag, "or write '%s%s = ...%s' into the block of the model", moe ? "moe { " : "",
                  key_info(field->key)->name, moe ? " }" : "");
    in->errors++;
}

// A whole number of at least `least`; -1 where neither the block nor the file says.
static double number(Importer *in, const Field *field, double least, const char **name)
{
    double value;
    *name = "the block";
    if (said_number(in, field, least, &value))
        return value;
    *name = NULL;
    const cJSON *item = find(in, field, name);
    if (!item)
        return -1;
    value = item->valuedouble;
    if (cJSON_IsNumber(item) && value >= least && value <= limit(field) && value == floor(value))
        return value;
    char *text = is_not_finite(item) ? NULL : cJSON_PrintUnformatted(item);
    diag_error(in->diag, in->place, "'%s': '%s' must be a whole number from %g to %.0f, got %.40s", in->path, *name,
               least, limit(field), text ? text : "one that is not finite");
    cJSON_free(text);
    in->errors++;
    return -1;
}

static double required(Importer *in, const Field *field, double least, const char **name)
{
    double value = number(in, field, least, name);
    if (!*name)
        report_missing(in, field, "");
    return value < 0 ? least : value;
}

static double optional(Importer *in, const Field *field, double least, double fallback, const char **name)
{
    double value = number(in, field, least, name);
    return value < 0 ? fallback : value;
}

static void give(Text *keys, const char *key, double value, const char *source)
{
    text_format(keys, "%s = %.0f  # %s\n", key, value, source);
}

// ---- attention -------------------------------------------------------------------------------

typedef struct {
    double layers, hidden, heads, kv_heads, head_dim, vocabulary;
    double attention; // parameters of one layer, without norms
    double experts, top_k, expert_inner, inner, shared, first_dense, every;
    Activation activation;
} Sizes;

static double plain_number(const Importer *in, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(in->config, name);
    return cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble <= 1e9 ? item->valuedouble : 0;
}

// Latent attention: queries and key-values through low-rank projections. What is executed and priced in
// its place is grouped attention of one key-value head with as many parameters.
static void stand_in_for_latent(Importer *in, Sizes *s)
{
    double q_rank = plain_number(in, "q_lora_rank"), kv_rank = plain_number(in, "kv_lora_rank");
    double nope = plain_number(in, "qk_nope_head_dim"), rope = plain_number(in, "qk_rope_head_dim");
    double value = plain_number(in, "v_head_dim"), query = s->heads * (nope + rope);
    double queries = q_rank > 0 ? s->hidden * q_rank + q_rank * query : s->hidden * query;
    s->attention =
        queries + s->hidden * (kv_rank + rope) + kv_rank * s->heads * (nope + value) + s->heads * value * s->hidden;
    s->kv_heads = 1;
    s->head_dim = fmax(1, round(s->attention / (2 * s->hidden * (s->heads + 1))));
    text_append(&in->keys, "# latent attention, stood in for by grouped attention of as many parameters:\n");
    give(&in->keys, "kv_heads", s->kv_heads, "of kv_lora_rank");
    give(&in->keys, "head_dim", s->head_dim, "chosen for the parameter count");
}

static void import_attention(Importer *in, Sizes *s)
{
    const char *name = NULL;
    s->heads = required(in, &field_heads, 1, &name);
    give(&in->keys, "heads", s->heads, name ? name : "");
    bool is_said = said(in, KEY_MODEL_kv_heads) || said(in, KEY_MODEL_head_dim);
    if (plain_number(in, "kv_lora_rank") > 0 && !is_said) {
        stand_in_for_latent(in, s);
        return;
    }
    s->kv_heads = optional(in, &field_kv_heads, 1, s->heads, &name);
    give(&in->keys, "kv_heads", s->kv_heads, name ? name : "as heads");
    s->head_dim = optional(in, &field_head_dim, 1, fmax(1, floor(s->hidden / s->heads)), &name);
    give(&in->keys, "head_dim", s->head_dim, name ? name : "hidden / heads");
    s->attention = 2 * s->hidden * s->head_dim * (s->heads + s->kv_heads);
}

// ---- experts ---------------------------------------------------------------------------------

// Of a list with one entry per layer, where 0 is a dense one: how many come first.
static double dense_first(Importer *in, const cJSON *list, double layers, const char *name)
{
    double dense = 0, count = 0;
    bool moe = false, irregular = false;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        bool is_moe = item->valuedouble != 0;
        irregular = irregular || (moe && !is_moe);
        moe = moe || is_moe;
        dense += !moe;
        count++;
    }
    if (irregular || count != layers) {
        diag_error(in->diag, in->place,
                   "'%s': '%s' must have one entry per layer, dense layers first: other patterns cannot be planned",
                   in->path, name);
        diag_help(in->diag, "'first_dense' and 'every' in the block of the model say something else");
        in->errors++;
    }
    return dense;
}

// Of a list of the layers that are dense: how many these are, if they are the first ones.
static double listed_first(Importer *in, const cJSON *list, double layers)
{
    bool *is_dense = arena_alloc_array(in->arena, (uint64_t)layers, sizeof(*is_dense));
    double count = 0, first = 0;
    bool outside = false;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        double layer = item->valuedouble;
        bool good = cJSON_IsNumber(item) && layer >= 0 && layer < layers && layer == floor(layer);
        outside = outside || !good;
        if (good && !is_dense[(size_t)layer]) {
            is_dense[(size_t)layer] = true;
            count++;
        }
    }
    while (first < layers && is_dense[(size_t)first])
        first++;
    if (outside || first != count) {
        diag_error(in->diag, in->place,
                   "'%s': 'mlp_only_layers' lists layers that are not the first ones: such models cannot be planned",
                   in->path);
        diag_help(in->diag, "'first_dense' and 'every' in the block of the model say something else");
        in->errors++;
    }
    return first;
}

// Layers listed as dense count only where they are the first ones, and nothing listed counts where the block says.
static void import_pattern(Importer *in, Sizes *s)
{
    const char *name = NULL, *every_name = NULL;
    bool is_said = said(in, KEY_MODEL_first_dense) || said(in, KEY_MOE_every);
    s->first_dense = optional(in, &field_first_dense, 0, 0, &name);
    const cJSON *frequency = find(in, &field_every, &every_name);
    const cJSON *dense = cJSON_GetObjectItemCaseSensitive(in->config, "mlp_only_layers");
    s->every = 1;
    if (!cJSON_IsArray(frequency) || said(in, KEY_MOE_every)) {
        s->every = optional(in, &field_every, 1, 1, &every_name);
    } else if (!is_said) {
        s->first_dense = dense_first(in, frequency, s->layers, every_name);
        name = every_name;
    }
    double listed = cJSON_IsArray(dense) && !is_said ? listed_first(in, dense, s->layers) : 0;
    if (listed > s->first_dense) {
        s->first_dense = listed;
        name = "mlp_only_layers";
    }
    if (s->first_dense > 0)
        give(&in->keys, "first_dense", s->first_dense, name ? name : "");
    if (s->every > 1)
        give(&in->moe, "every", s->every, every_name);
    if ((s->first_dense > 0 || s->every > 1) && s->inner < 0)
        report_missing(in, &field_inner, " for its dense layers");
}

static void import_activation(Importer *in, Sizes *s)
{
    const char *name = NULL;
    s->activation = ACTIVATION_SWIGLU;
    const cJSON *item = find(in, &field_activation, &name);
    if (cJSON_IsString(item) && strncmp(item->valuestring, "relu", 4) == 0)
        s->activation = ACTIVATION_RELU;
    text_format(&in->moe, "activation = %s  # %s%s\n", activation_name(s->activation),
                item ? name : "none given: gated as usual",
                item && s->activation == ACTIVATION_SWIGLU ? ", gated as all families with SiLU and GELU are" : "");
    const AstEntry *entry = said(in, KEY_MOE_activation);
    Value given = entry ? evaluate(in->environment, entry->value) : (Value){0};
    int code = given.kind == VALUE_SYMBOL ? name_code(&activation_names, given.text) : -1;
    if (code >= 0)
        s->activation = (Activation)code;
}

static void import_experts(Importer *in, Sizes *s)
{
    const char *name = NULL;
    s->experts = number(in, &field_experts, 1, &name);
    if (s->experts < 0) {
        if (!in->errors)
            report_missing(in, &field_experts, ": it describes a dense model, and there is nothing to plan for one");
        return;
    }
    give(&in->moe, "experts", s->experts, name);
    s->top_k = required(in, &field_top_k, 1, &name);
    give(&in->moe, "top_k", s->top_k, name ? name : "");
    double inner = number(in, &field_inner, 1, &name);
    const char *inner_name = name;
    s->expert_inner = optional(in, &field_expert_inner, 1, inner, &name);
    if (s->expert_inner < 0)
        report_missing(in, &field_expert_inner, "");
    give(&in->moe, "inner", s->expert_inner, name ? name : inner_name);
    s->inner = optional(in, &field_dense_inner, 1, inner, &name);
    bool dense_apart = name && !said(in, KEY_MODEL_inner);
    if (s->inner > 0)
        give(&in->keys, "inner", s->inner, name ? name : inner_name);
    // Where dense layers have a size of their own besides the experts', each MoE layer has a shared expert.
    s->shared = optional(in, &field_shared, 0, dense_apart ? 1 : 0, &name);
    const char *shared_name = name ? name : "intermediate_size_mlp";
    double shared_inner = optional(in, &field_shared_inner, 0, -1, &name);
    if (name && s->expert_inner > 0 && !said(in, KEY_MOE_shared_experts)) {
        s->shared = ceil(shared_inner / s->expert_inner);
        shared_name = name;
    }
    if (s->shared > 0)
        give(&in->moe, "shared_experts", s->shared, shared_name);
    import_activation(in, s);
    import_pattern(in, s);
}

// ---- the whole -------------------------------------------------------------------------------

static void import_dtype(Importer *in)
{
    static const struct {
        const char *theirs, *ours;
    } dtypes[] = {{"bfloat16", "bf16"}, {"float16", "f16"}, {"float32", "f32"}};
    const char *name = NULL;
    const cJSON *item = find(in, &field_dtype, &name);
    for (size_t i = 0; cJSON_IsString(item) && i < COUNT_OF(dtypes); i++)
        if (strcmp(item->valuestring, dtypes[i].theirs) == 0)
            text_format(&in->keys, "dtype = %s  # %s\n", dtypes[i].ours, name);
}

static void count_parameters(const Importer *in, const Sizes *s, SpecModel *model)
{
    const cJSON *tied = cJSON_GetObjectItemCaseSensitive(in->config, "tie_word_embeddings");
    if (!tied)
        tied = cJSON_GetObjectItemCaseSensitive(in->outer, "tie_word_embeddings");
    double moe_layers = 0, matrices = activation_matrices(s->activation);
    double expert = matrices * s->hidden * s->expert_inner;
    for (double k = s->first_dense; k < s->layers; k++)
        moe_layers += fmod(k + 1, s->every) == 0;
    double everywhere = (cJSON_IsTrue(tied) ? 1 : 2) * s->vocabulary * s->hidden + s->hidden +
                        s->layers * (s->attention + 2 * s->hidden) +
                        (s->layers - moe_layers) * matrices * s->hidden * s->inner +
                        moe_layers * (s->hidden * s->experts + s->shared * expert);
    model->total_parameters = everywhere + moe_layers * s->experts * expert;
    model->active_parameters = everywhere + moe_layers * s->top_k * expert;
}

// Python writes numbers that are not finite by names that JSON lacks. They become empty strings, in as many bytes, so
// that places stay where they are; only a field that is needed is the worse for it.
static char *blank_not_finite(Arena *arena, const char *text, size_t length)
{
    static const char *const names[] = {"-Infinity", "Infinity", "NaN"};
    char *plain = arena_copy_string(arena, text, length);
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        if (quoted && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            quoted = !quoted;
        for (size_t n = 0; n < COUNT_OF(names) && !quoted && i < length; n++) {
            size_t size = strlen(names[n]);
            if (length - i < size || memcmp(plain + i, names[n], size) != 0)
                continue;
            memset(plain + i, ' ', size);
            memset(plain + i, '"', 2);
            i += size - 1;
            break;
        }
    }
    return plain;
}

static cJSON *load(Importer *in)
{
    Fault fault = {0};
    size_t length = 0;
    char *content = file_read(in->path, CONFIG_BYTES_MAX, &length, &fault);
    if (!content) {
        diag_error(in->diag, in->place, "cannot read '%s': %s", in->path, fault.message);
        return NULL;
    }
    const char *text = arena_copy_string(in->arena, content, length), *end = NULL;
    free(content);
    char *plain = blank_not_finite(in->arena, text, length);
    cJSON *json = cJSON_ParseWithLengthOpts(plain, length + 1, &end, true);
    if (!json) {
        size_t at = end ? (size_t)(end - plain) : 0;
        at = at < length ? at : length ? length - 1 : 0;
        Span span = {diag_add_source(in->diag, in->path, text, length, &in->place), (uint32_t)at, (uint32_t)at + 1};
        diag_error(in->diag, span, "not JSON from here on");
    } else if (!cJSON_IsObject(json)) {
        diag_error(in->diag, in->place, "'%s' is JSON, but not the configuration of a model: expected an object",
                   in->path);
        cJSON_Delete(json);
        json = NULL;
    }
    return json;
}

// Appends what the block does not say itself.
static void merge(AstEntries *into, AstEntries from)
{
    for (AstEntry *entry = from.first, *next; entry; entry = next) {
        next = entry->next;
        AstEntry *given = find_entry(*into, entry->name);
        if (given && given->kind == ENTRY_BLOCK && entry->kind == ENTRY_BLOCK)
            merge(&given->entries, entry->entries);
        if (given)
            continue;
        entry->next = NULL;
        if (into->last)
            into->last->next = entry;
        else
            into->first = entry;
        into->last = entry;
    }
}

static bool read_config(Importer *in, AstEntry *block, SpecModel *model)
{
    Sizes s = {0};
    const char *name = NULL;
    s.layers = required(in, &field_layers, 1, &name);
    give(&in->keys, "layers", s.layers, name ? name : "");
    s.hidden = required(in, &field_hidden, 1, &name);
    give(&in->keys, "hidden", s.hidden, name ? name : "");
    import_attention(in, &s);
    s.vocabulary = required(in, &field_vocabulary, 1, &name);
    give(&in->keys, "vocabulary", s.vocabulary, name ? name : "");
    import_dtype(in);
    import_experts(in, &s);
    if (in->errors)
        return false;
    count_parameters(in, &s, model);
    text_format(&in->keys, "moe {\n%s}\n", in->moe.data);
    const char *text = arena_copy_string(in->arena, in->keys.data, in->keys.length);
    const char *title = arena_format(in->arena, "%s, as read", in->path);
    uint32_t source = diag_add_source(in->diag, title, text, in->keys.length, &in->place);
    const Ast *ast = grammar_parse(in->arena, in->diag, source, text, in->keys.length);
    if (ast)
        merge(&block->entries, ast->entries);
    return ast != NULL;
}

bool import_model(AstEntry *block, SpecModel *model, Environment *environment, Arena *arena, Diag *diag)
{
    Importer in = {
        .arena = arena, .diag = diag, .place = block->from->span, .environment = environment, .block = block};
    in.path = read_join_path(arena, diag_source_name(diag, in.place.source), block->from->text);
    cJSON *json = load(&in);
    if (!json)
        return false;
    const cJSON *inner = cJSON_GetObjectItemCaseSensitive(json, "text_config");
    in.outer = json;
    in.config = cJSON_IsObject(inner) ? inner : json;
    bool good = read_config(&in, block, model);
    cJSON_Delete(json);
    text_free(&in.keys);
    text_free(&in.moe);
    return good;
}
