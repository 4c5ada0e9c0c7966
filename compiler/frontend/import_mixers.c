// What mixes tokens in the layers of a configuration: grouped and latent attention, windows, recurrent layers, as
// parameters and FLOPs of `mixer` blocks; and how weights are stored.
#include <math.h>
#include <string.h>

#include "compiler/frontend/import_parts.h"

static const Field field_heads = {"attention heads",
                                  KEY_MODEL_heads,
                                  {"num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads",
                                   "attn_heads"}},
                   field_kv_heads = {"key-value heads",
                                     KEY_MODEL_kv_heads,
                                     {"num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_n_heads",
                                      "num_attention_groups", "multi_query_group_num", "n_head_kv",
                                      "num_query_groups"}},
                   field_head_dim = {
                       "head size", KEY_MODEL_head_dim, {"head_dim", "kv_channels", "head_size", "d_head"}};

// A mixer as the language has it, and the layers that have it.
typedef struct {
    const char *name, *source;
    double parameters, scored, state, window, chunk;
    bool usual; // what the heads of the model say: needs no block
} Mixer;

// ---- attention ---------------------------------------------------------------------------------

// Models whose code has what no field says.
static const struct {
    const char *type; // `model_type` begins so
    bool gate;        // the output of attention passes a gate as wide as itself
    bool wide_decay;  // decay and gate of the delta rule are projected at once
} implied[] = {{"qwen3_next", .gate = true},
               {"qwen3_5", .gate = true},
               {"afmoe", .gate = true},
               {"beam", .gate = true},
               {"hy_v4", .gate = true},
               {"inkling2", .gate = true},
               {"bailing_hybrid", .wide_decay = true}};

static size_t find_implied(Importer *in)
{
    const char *type = import_text(in, "model_type");
    size_t i = 0;
    while (i < COUNT_OF(implied) && strncmp(type, implied[i].type, strlen(implied[i].type)) != 0)
        i++;
    return i;
}

static bool has_gate(Importer *in)
{
    const cJSON *said = import_member(in, "attn_output_gate");
    size_t i = find_implied(in);
    return said ? cJSON_IsTrue(said) : i < COUNT_OF(implied) && implied[i].gate;
}

typedef struct {
    double heads, kv_heads, key, value; // sizes of a head's key and value
    double query_rank;                  // 0: queries are projected at once
    double output_rank, output_groups;  // of every group of heads; 0: so is the output
    bool gate, head_gate;               // of as many elements as the output has, or one for every head
    bool value_is_key;                  // one projection for both
} Heads;

static double heads_parameters(const Heads *a, double hidden)
{
    double query = a->heads * a->key, value = a->heads * a->value;
    double queries = a->query_rank > 0 ? hidden * a->query_rank + a->query_rank * query : hidden * query;
    double keys = hidden * a->kv_heads * (a->key + (a->value_is_key ? 0 : a->value));
    double gate = hidden * (a->gate ? value : a->head_gate ? a->heads : 0);
    double output = a->output_rank > 0 ? a->output_rank * (value + a->output_groups * hidden) : value * hidden;
    return queries + keys + output + gate;
}

static double larger_of(double a, double b)
{
    return a > 0 ? a : b;
}

static double number_inside(Importer *in, const cJSON *object, const char *name, double fallback)
{
    double value;
    const cJSON *item = import_inside(in, object, name);
    return item && import_number_of(item, &value) && value > 0 ? value : fallback;
}

// Layers with a window have heads of their own where names with `swa_` or an object of other settings say so.
static void set_window_heads(Importer *in, Heads *a)
{
    const cJSON *other = import_member(in, "attention_other_setting");
    a->heads = larger_of(import_plain_number(in, "swa_num_attention_heads"),
                         number_inside(in, other, "num_attention_heads", a->heads));
    a->kv_heads = larger_of(import_plain_number(in, "swa_num_key_value_heads"),
                            number_inside(in, other, "num_attention_groups", a->kv_heads));
    a->key = larger_of(import_plain_number(in, "swa_head_dim"), number_inside(in, other, "head_dim", a->key));
    a->value = larger_of(import_plain_number(in, "swa_v_head_dim"), a->value);
    (void)import_inside(in, other, "attention_type");
}

// So have layers without one, where others have it and names with `global` say so.
static void set_global_heads(Importer *in, Heads *a)
{
    a->kv_heads = larger_of(import_plain_number(in, "num_global_key_value_heads"), a->kv_heads);
    a->key = larger_of(import_plain_number(in, "global_head_dim"), a->key);
    a->value_is_key = import_is_true(in, "attention_k_eq_v");
}

static Heads heads_of(Importer *in, const Sizes *s, bool window)
{
    Heads a = {.heads = s->heads, .kv_heads = s->kv_heads, .key = s->head_dim, .gate = has_gate(in)};
    a.head_gate = import_is_true(in, "use_head_wise_attn_gate");
    a.query_rank = larger_of(import_plain_number(in, "q_lora_rank"), import_plain_number(in, "share_q_dim"));
    a.output_rank = import_plain_number(in, "o_lora_rank");
    a.output_groups = larger_of(import_plain_number(in, "o_groups"), 1);
    a.value = import_plain_number(in, "v_head_dim");
    if (window)
        set_window_heads(in, &a);
    else
        set_global_heads(in, &a);
    a.value = larger_of(a.value, a.key);
    return a;
}

// ---- latent attention --------------------------------------------------------------------------

static double rank_of(Importer *in, const char *name, const char *other)
{
    return larger_of(import_plain_number(in, name), import_plain_number(in, other));
}

static double latent_rank(Importer *in)
{
    return rank_of(in, "kv_lora_rank", "attention_kv_lora_dim");
}

// Latent attention: queries and key-values through low-rank projections.
static double latent_parameters(Importer *in, const Sizes *s, double *scored)
{
    double q_rank = rank_of(in, "q_lora_rank", "attention_q_lora_dim"), kv_rank = latent_rank(in);
    double nope = rank_of(in, "qk_nope_head_dim", "attention_qk_dim"),
           rope = rank_of(in, "qk_rope_head_dim", "attention_qk_rope_dim");
    double value = rank_of(in, "v_head_dim", "attention_v_dim"), query = s->heads * (nope + rope);
    double queries = q_rank > 0 ? s->hidden * q_rank + q_rank * query : s->hidden * query;
    double output = s->heads * value * s->hidden, whole = import_plain_number(in, "qk_head_dim");
    if (whole > 0 && whole != nope + rope)
        import_doubt(in, "'qk_head_dim' is %.0f, its parts are %.0f together: the latter was taken", whole,
                     nope + rope);
    *scored = s->heads * (nope + rope + value) / 2;
    return queries + s->hidden * (kv_rank + rope) + kv_rank * s->heads * (nope + value) +
           output * (has_gate(in) ? 2 : 1);
}

static double sequence_of(const Importer *in)
{
    static const Field field = {"sequence", KEY_MODEL_sequence, {NULL}};
    double value;
    return import_said_number(in, &field, 1, &value) ? value : 0;
}

// The share of layers that have an index of their own; the others use that of a layer before them.
static double own_index(Importer *in)
{
    const cJSON *list = import_member(in, "indexer_types");
    double all = 0, own = 0;
    for (const cJSON *item = cJSON_IsArray(list) ? list->child : NULL; item; item = item->next) {
        own += cJSON_IsString(item) && strcmp(item->valuestring, "shared") != 0;
        all++;
    }
    return all > 0 ? own / all : 1;
}

// An index picks the tokens that attention sees: its own projections, and a score of every pair; of layers that share
// it, a part each.
static void add_index(Importer *in, const Sizes *s, Mixer *mixer)
{
    double heads = import_plain_number(in, "index_n_heads"), dim = import_plain_number(in, "index_head_dim");
    double picked = import_plain_number(in, "index_topk"), q_rank = import_plain_number(in, "q_lora_rank");
    if (picked <= 0)
        return;
    double own = own_index(in);
    mixer->parameters += own * (larger_of(q_rank, s->hidden) * heads * dim + s->hidden * (dim + heads));
    mixer->window = picked;
    mixer->state = own * sequence_of(in) * heads * dim;
}

// ---- recurrent layers --------------------------------------------------------------------------

static const char *const state_names[] = {"mamba_d_state", "ssm_state_size", "mamba_state_dim",
                                          "state_size",    "d_state",        NULL};

static double first_number(Importer *in, const char *const names[], double fallback)
{
    double value;
    const cJSON *item = import_find(in, names, NULL);
    return item && import_number_of(item, &value) && value > 0 ? value : fallback;
}

// A state space with heads (its second form) or without. A token's step: decay, update and read of the state.
static Mixer mamba(Importer *in, const Sizes *s)
{
    static const char *const head_names[] = {"mamba_n_heads", "mamba_num_heads", "n_mamba_heads", NULL},
                             *const dim_names[] = {"mamba_d_head", "mamba_head_dim", "mamba_headdim", NULL},
                             *const group_names[] = {"mamba_n_groups", "n_groups", "mamba_ngroups", NULL},
                             *const conv_names[] = {"mamba_d_conv", "conv_kernel", "mamba_conv_dim", "d_conv", NULL},
                             *const expand_names[] = {"mamba_expand", "expand", NULL};
    double heads = first_number(in, head_names, 0), dim = first_number(in, dim_names, 64);
    double state = first_number(in, state_names, heads > 0 ? 128 : 16), conv = first_number(in, conv_names, 4);
    double expand = first_number(in, expand_names, 2), inner = expand * s->hidden, h = s->hidden;
    double groups = first_number(in, group_names, heads > 0 ? 8 : 1);
    if (heads > 0) {
        inner = heads * dim;
        double mixed = inner + 2 * groups * state;
        return (Mixer){.name = "mamba",
                       .source = "mamba_*",
                       .parameters = h * (inner + mixed + heads) + mixed * (conv + 1) + 3 * heads + inner + inner * h,
                       .state = 6 * inner * state + 2 * mixed * conv};
    }
    static const char *const rank_names[] = {"mamba_dt_rank", "time_step_rank", "dt_rank", NULL};
    double rank = first_number(in, rank_names, ceil(h / 16));
    return (Mixer){.name = "mamba",
                   .source = "mamba_*",
                   .parameters = h * 2 * inner + inner * (conv + 1) + inner * (rank + 2 * state) + rank * inner +
                                 inner * (state + 2) + inner * h,
                   .state = 6 * inner * state + 2 * inner * conv};
}

// The delta rule with gates: queries, keys, values, a gate of the output, two numbers per head; a short convolution.
static Mixer delta(Importer *in, const Sizes *s)
{
    double key_heads = import_plain_number(in, "linear_num_key_heads"),
           value_heads = import_plain_number(in, "linear_num_value_heads"),
           key_dim = import_plain_number(in, "linear_key_head_dim"),
           value_dim = import_plain_number(in, "linear_value_head_dim"),
           conv = larger_of(import_plain_number(in, "linear_conv_kernel_dim"), 4);
    double keys = key_heads * key_dim, values = value_heads * value_dim, mixed = 2 * keys + values;
    return (Mixer){.name = "linear",
                   .source = "linear_*",
                   .parameters = s->hidden * (mixed + values + 2 * value_heads) + mixed * conv + values * s->hidden,
                   .state = 8 * value_heads * key_dim * value_dim + 2 * mixed * conv};
}

// The same with a decay for every element, from a low-rank projection as its gate is, or from whole ones.
static Mixer element_delta(Importer *in, const Sizes *s)
{
    const cJSON *config = import_member(in, "linear_attn_config");
    double heads = number_inside(in, config, "num_heads", import_plain_number(in, "linear_num_heads"));
    double dim = number_inside(in, config, "head_dim", import_plain_number(in, "linear_head_dim"));
    double conv = number_inside(in, config, "short_conv_kernel_size",
                                larger_of(import_plain_number(in, "linear_conv_kernel_dim"), 4));
    double wide = heads * dim, h = s->hidden;
    size_t i = find_implied(in);
    bool whole = i < COUNT_OF(implied) && implied[i].wide_decay;
    double gates = 2 * (whole ? h * wide : h * dim + dim * wide);
    return (Mixer){.name = "linear",
                   .source = cJSON_IsObject(config) ? "linear_attn_config" : "linear_num_heads",
                   .parameters = 4 * h * wide + gates + h * heads + 3 * wide * conv,
                   .state = 8 * heads * dim * dim + 6 * wide * conv};
}

// A gated short convolution.
static Mixer convolution(const Sizes *s, double kernel)
{
    return (Mixer){.name = "conv",
                   .source = "conv_L_cache",
                   .parameters = 4 * s->hidden * s->hidden + s->hidden * kernel,
                   .state = 2 * s->hidden * kernel};
}

// Linear attention with as many heads as the other: queries, keys, values, a gate of the output, the output.
static Mixer lightning(Importer *in, const Sizes *s)
{
    static const char *const lists[] = {"attn_type_list", "layer_group_size", NULL};
    if (!import_find(in, lists, NULL))
        import_doubt(in, "sizes of the recurrent layers were not found: they are taken for linear attention with as "
                         "many heads as the others, and a gate");
    double wide = s->heads * s->head_dim;
    return (Mixer){.name = "linear",
                   .source = "linear attention",
                   .parameters = 5 * s->hidden * wide,
                   .state = 6 * wide * s->head_dim};
}

static Mixer recurrent(Importer *in, const Sizes *s)
{
    static const char *const mamba_names[] = {"mamba_n_heads",  "mamba_num_heads", "mamba_d_state", "mamba_expand",
                                              "ssm_state_size", "mamba_dt_rank",   "mamba_d_conv"};
    bool is_mamba = false;
    for (size_t i = 0; i < COUNT_OF(mamba_names); i++)
        is_mamba = import_plain_number(in, mamba_names[i]) > 0 || is_mamba;
    const cJSON *config = import_member(in, "linear_attn_config");
    double kernel = import_plain_number(in, "conv_L_cache");
    if (import_plain_number(in, "linear_num_value_heads") > 0)
        return delta(in, s);
    if (cJSON_IsObject(config) || import_plain_number(in, "linear_num_heads") > 0)
        return element_delta(in, s);
    if (kernel > 0)
        return convolution(s, kernel);
    return is_mamba ? mamba(in, s) : lightning(in, s);
}

// ---- blocks ------------------------------------------------------------------------------------

// Attention of a layer: what its kind sees, of the heads that the kind has.
static Mixer attention(Importer *in, const Sizes *s, MixKind kind)
{
    bool latent = latent_rank(in) > 0;
    Mixer mixer = {.name = latent ? "latent" : "heads", .source = latent ? "kv_lora_rank" : "heads of two sizes"};
    if (latent) {
        mixer.parameters = latent_parameters(in, s, &mixer.scored);
        add_index(in, s, &mixer);
    } else {
        Heads a = heads_of(in, s, kind == MIX_WINDOW);
        mixer.parameters = heads_parameters(&a, s->hidden);
        mixer.scored = a.heads * (a.key + a.value) / 2;
    }
    double window = import_plain_number(in, "sliding_window"), sequence = sequence_of(in);
    window = larger_of(window, import_plain_number(in, "sliding_window_size"));
    if (kind == MIX_WINDOW && window > 0) {
        mixer.name = "sliding";
        mixer.source = "sliding_window";
        mixer.window = window;
    } else if (kind == MIX_CHUNK) {
        mixer.name = "chunked";
        mixer.source = "attention_chunk_size";
        mixer.chunk = import_plain_number(in, "attention_chunk_size");
    }
    if (sequence > 0 && mixer.window >= sequence && mixer.state <= 0)
        mixer.window = 0;
    if (sequence > 0 && mixer.chunk >= sequence)
        mixer.chunk = 0;
    mixer.usual = mixer.window <= 0 && mixer.chunk <= 0 && mixer.state <= 0 &&
                  mixer.parameters == 2 * s->hidden * s->head_dim * (s->heads + s->kv_heads) &&
                  mixer.scored == s->heads * s->head_dim;
    return mixer;
}

// Layers that use the keys and values of others have no projections for them.
static bool shares_keys(Importer *in, const Sizes *s, uint32_t layer)
{
    double factor = import_plain_number(in, "cla_share_factor"), last = import_plain_number(in, "num_kv_shared_layers");
    const cJSON *use = import_member(in, "use_cla");
    if (cJSON_IsTrue(use) && factor > 1)
        return fmod(layer, factor) != 0;
    return last > 0 && layer >= s->layers - last;
}

static void give_mixer(Importer *in, const Sizes *s, const Mixer *mixer, const bool *has)
{
    text_format(&in->keys, "mixer %s {  # %s\n  layers = [", mixer->name, mixer->source);
    bool first = true;
    for (uint32_t k = 0; k < s->layers; k++) {
        if (!has[k])
            continue;
        text_format(&in->keys, "%s%u", first ? "" : ", ", k);
        first = false;
    }
    text_format(&in->keys, "]\n  parameters = %.0f  scored = %.1f  state = %.0f\n", mixer->parameters, mixer->scored,
                mixer->state);
    if (mixer->window > 0)
        text_format(&in->keys, "  window = %.0f\n", mixer->window);
    if (mixer->chunk > 0)
        text_format(&in->keys, "  chunk = %.0f\n", mixer->chunk);
    text_append(&in->keys, "}\n");
}

static void give_mixers(Importer *in, const Sizes *s)
{
    static const Mixer none = {.name = "none", .source = "layers without"};
    bool *has = arena_alloc_array(in->arena, (uint64_t)s->layers, sizeof(*has));
    for (int kind = MIX_FULL; kind <= MIX_NONE; kind++) {
        for (int shared = 0; shared < 2; shared++) {
            bool any = false;
            for (uint32_t k = 0; k < s->layers; k++) {
                bool attends = kind <= MIX_CHUNK;
                has[k] = s->kinds[k].mix == (MixKind)kind && (attends && shares_keys(in, s, k)) == (shared > 0);
                any = any || has[k];
            }
            if (!any)
                continue;
            Mixer mixer = kind == MIX_NONE        ? none
                          : kind == MIX_RECURRENT ? recurrent(in, s)
                                                  : attention(in, s, (MixKind)kind);
            if (shared) {
                mixer.parameters -= 2 * s->hidden * s->kv_heads * s->head_dim;
                mixer.name = arena_format(in->arena, "%s_shared_keys", mixer.usual ? "full" : mixer.name);
            }
            if (!mixer.usual || shared)
                give_mixer(in, s, &mixer, has);
        }
    }
}

// Two attentions in one layer, which no field says.
static bool is_doubled(Importer *in)
{
    return strncmp(import_text(in, "model_type"), "longcat_flash", 13) == 0;
}

void import_attention(Importer *in, Sizes *s)
{
    const char *name = NULL;
    s->heads = import_required(in, &field_heads, 1, &name);
    import_give(&in->keys, "heads", s->heads, name ? name : "");
    bool is_said = import_said(in, KEY_MODEL_kv_heads) || import_said(in, KEY_MODEL_head_dim);
    bool latent = latent_rank(in) > 0 && !is_said;
    s->kv_heads = import_optional(in, &field_kv_heads, 1, s->heads, &name);
    const char *kv_name = name ? name : "as heads";
    s->head_dim = import_optional(in, &field_head_dim, 1, fmax(1, floor(s->hidden / s->heads)), &name);
    const char *dim_name = name ? name : "hidden / heads";
    double other = import_plain_number(in, "attention_head_dim"); // that code reads in some families only
    if (!name && other > 0 && other != s->head_dim)
        import_doubt(in,
                     "'attention_head_dim' is %.0f, the hidden size over the heads %.0f: the latter was taken, and "
                     "'head_dim' in the block of the model says something else",
                     other, s->head_dim);
    if (in->errors)
        return;
    if (latent) { // of as many parameters, so that what is derived from heads is about right
        double scored, parameters = latent_parameters(in, s, &scored);
        s->kv_heads = 1;
        s->head_dim = fmax(1, round(parameters / (2 * s->hidden * (s->heads + 1))));
        kv_name = "of kv_lora_rank";
        dim_name = "chosen for the parameter count";
    }
    import_give(&in->keys, "kv_heads", s->kv_heads, kv_name);
    import_give(&in->keys, "head_dim", s->head_dim, dim_name);
    if (import_said_block(in, BLOCK_MIXER) || is_said)
        return;
    size_t before = in->keys.length;
    give_mixers(in, s);
    if (is_doubled(in) && in->keys.length > before) {
        double scored, parameters = latent_parameters(in, s, &scored);
        in->keys.length = before;
        bool *all = arena_alloc_array(in->arena, (uint64_t)s->layers, sizeof(*all));
        memset(all, 1, (size_t)s->layers * sizeof(*all));
        Mixer twice = {.name = "latent_twice",
                       .source = "two attentions a layer",
                       .parameters = 2 * parameters,
                       .scored = 2 * scored};
        give_mixer(in, s, &twice, all);
    }
}

// ---- how weights are stored --------------------------------------------------------------------

typedef struct {
    double bits;
    const char *source;
} Stored;

static const char *text_inside(Importer *in, const cJSON *object, const char *name)
{
    const cJSON *item = import_inside(in, object, name);
    return cJSON_IsString(item) ? item->valuestring : "";
}

// Of the first group of a scheme with groups of layers.
static Stored stored_in_groups(Importer *in, const cJSON *config)
{
    const cJSON *groups = import_inside(in, config, "config_groups");
    const cJSON *weights = cJSON_IsObject(groups) && groups->child ? import_inside(in, groups->child, "weights") : NULL;
    double bits = number_inside(in, weights, "num_bits", 0), group = number_inside(in, weights, "group_size", 0);
    bool is_float = strcmp(text_inside(in, weights, "type"), "float") == 0;
    double scale = is_float && bits <= 4 ? 8 : 16; // one byte for a few values of four bits
    return (Stored){bits > 0 ? bits + (group > 0 ? scale / group : 0) : 0, "quantization_config.config_groups"};
}

static Stored stored_as(Importer *in, const cJSON *config)
{
    const char *method = text_inside(in, config, "quant_method"), *algorithm = text_inside(in, config, "quant_algo");
    const cJSON *block = import_inside(in, config, "weight_block_size");
    double rows = 0, cols = 0, group = number_inside(in, config, "group_size", 0),
           bits = number_inside(in, config, "bits", number_inside(in, config, "w_bit", 0));
    if (cJSON_IsArray(block) && cJSON_GetArraySize(block) == 2) {
        rows = block->child->valuedouble;
        cols = block->child->next->valuedouble;
    }
    double scales = rows > 0 && cols > 0 ? 32 / (rows * cols) : 0;
    if (strcmp(method, "mxfp4") == 0 || strstr(algorithm, "MXFP4"))
        return (Stored){4.25, "quantization_config: mxfp4"};
    if (strstr(algorithm, "FP4"))
        return (Stored){4.5, "quantization_config: nvfp4"};
    if (strstr(method, "fp8") || strstr(algorithm, "FP8"))
        return (Stored){8 + scales, "quantization_config: fp8"};
    Stored grouped = stored_in_groups(in, config);
    if (grouped.bits > 0)
        return grouped;
    if (bits > 0)
        return (Stored){bits + (group > 0 ? 16 / group : 0), "quantization_config"};
    if (cJSON_IsTrue(import_inside(in, config, "load_in_8bit")) ||
        cJSON_IsTrue(import_inside(in, config, "_load_in_8bit")))
        return (Stored){8, "quantization_config: load_in_8bit"};
    if (cJSON_IsTrue(import_inside(in, config, "load_in_4bit")) ||
        cJSON_IsTrue(import_inside(in, config, "_load_in_4bit")))
        return (Stored){4.5, "quantization_config: load_in_4bit"};
    import_doubt(in, "'quantization_config' is of a kind that is not known (%.40s): weights are taken as the dtype",
                 method);
    return (Stored){0};
}

// Does a list of modules that stay as they are name attention, or experts?
static bool skips_any(Importer *in, const cJSON *config, const char *const parts[])
{
    static const char *const lists[] = {"modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules",
                                        "llm_int8_skip_modules"};
    for (size_t l = 0; l < COUNT_OF(lists); l++) {
        const cJSON *list = import_inside(in, config, lists[l]);
        for (const cJSON *item = list ? list->child : NULL; item; item = item->next)
            for (size_t p = 0; cJSON_IsString(item) && parts[p]; p++)
                if (strstr(item->valuestring, parts[p]))
                    return true;
    }
    return false;
}

void import_weights(Importer *in)
{
    static const char *const of_attention[] = {"self_attn", "attention", ".attn", "self_attention", NULL};
    const cJSON *config = import_member(in, "quantization_config");
    if (!cJSON_IsObject(config) || (in->errors && !in->depth))
        return;
    Stored stored = stored_as(in, config);
    if (stored.bits <= 0 || stored.bits > 32)
        return;
    text_format(&in->moe, "weights = %.8g  # %s\n", stored.bits, stored.source);
    if (!skips_any(in, config, of_attention))
        text_format(&in->keys, "weights = %.8g  # %s\n", stored.bits, stored.source);
}
