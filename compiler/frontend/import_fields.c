// The fields of a configuration: how they are found, which of them were read, and what the others may mean. A field is
// used, known to be no structure, or named in a warning where its name or its value suggests structure.
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "compiler/frontend/import_parts.h"

// ---- names that are no structure ---------------------------------------------------------------

// Parts of names, of what trains, initialises, normalises, scales, encodes positions, names tokens or chooses code:
// nothing that changes how many weights there are, or what passes them. `^` begins and `$` ends a name.
static const char *const harmless[] = {
    // the file itself, and other networks beside the text model
    "^_",
    "version",
    "architectures",
    "auto_map",
    "model_type",
    "^name",
    "id2label",
    "label2id",
    "^problem_type",
    "finetuning",
    "task_specific",
    "vision",
    "visual",
    "audio",
    "image",
    "video",
    "speech",
    "talker",
    "code2wav",
    "projector",
    "processor",
    "tokenizer",
    "^img_",
    "^mm_",
    "multimodal",
    "modality",
    "spatial",
    "temporal",
    "patch",
    "language",
    "chat",
    "quantization_config",
    "^generation",
    "adapter_config",
    "^lora_config",
    "^peft",
    // text that is generated
    "num_beam",
    "temperature",
    "top_p$",
    "^top_k$",
    "_length$",
    "^length_",
    "do_sample",
    "_penalty",
    "no_repeat",
    "early_stopping",
    "num_return",
    "bad_words",
    "suppress",
    "return_dict",
    "^output_",
    "torchscript",
    "pruned_heads",
    "chunk_size_feed_forward",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "remove_invalid",
    "forced_",
    "prefix$",
    "use_cache",
    "cache_implementation",
    "past_key",
    "tf_legacy",
    "use_bfloat16",
    "exponential_decay",
    // training
    "dropout",
    "_pdrop",
    "drop_rate",
    "drop_path",
    "initializer",
    "init_std",
    "init_method",
    "_init",
    "^init_",
    "init_range",
    "loss",
    "_coef",
    "jitter",
    "noise",
    "gradient",
    "checkpoint",
    "pretraining",
    "capacity",
    "seq_aux",
    "aux_free",
    "label_smoothing",
    "balanc",
    "z_loss",
    "learning",
    "optimizer",
    "warmup",
    "freeze",
    "train_",
    "_train",
    "ep_size",
    "^ep_",
    "expert_parallel",
    "expert_tensor_parallel",
    "tensor_parallel",
    "context_parallel",
    "^world_size",
    "^tp_",
    "token_drop",
    "drop_tokens",
    "recompute",
    "dense_allreduce",
    "dispatch_algorithm",
    "tp_plan",
    "pp_plan",
    // numerics, scales, norms, biases
    "_eps",
    "epsilon",
    "norm",
    "bias",
    "scal",
    "multiplier",
    "softcap",
    "alpha",
    "beta",
    "gamma",
    "clip",
    "_limit$",
    "limit_",
    "dtype",
    "fp32",
    "precision",
    "softmax",
    "sigmoid",
    "score",
    "scoring",
    "topk_method",
    "routed_scal",
    "temperature_tuning",
    "_tuning",
    "query_pre_attn",
    "mscale",
    "_theta",
    "sink",
    "sandwich",
    "logit",
    "prob$",
    "e_score",
    "correction",
    "renorm",
    "act_fn",
    "_act$",
    "activation",
    "squared",
    // positions and tokens
    "rope",
    "rotary",
    "yarn",
    "^nope",
    "alibi",
    "position",
    "max_seq",
    "max_len",
    "max_sequence",
    "seq_len",
    "seq_length",
    "max_context",
    "max_target",
    "model_max",
    "context_length",
    "original_max",
    "token_id",
    "token_index",
    "token_num",
    "^bos",
    "^eos",
    "^pad",
    "^sep_",
    "^cls",
    "^mask",
    "^image_",
    "special",
    "begin_suppress",
    "decoder_start",
    "vocab_size_",
    "padded_vocab",
    "pad_vocab",
    "padding_idx",
    "unk_",
    "start_token",
    "end_token",
    // extra prediction heads, which are not counted; recurrent layers' step sizes and chunks of their algorithm
    "nextn",
    "mtp",
    "next_n",
    "speculat",
    "^eagle",
    "time_step",
    "^dt_",
    "_dt_",
    "mamba_chunk",
    "chunk_scan",
    "mamba_act",
    "mamba_hidden_act",
    "mamba_proj",
    "mamba_conv_bias",
    "ssm_cfg",
    "rescale_",
    "residual_in_fp32",
    "ssm_dtype",
    "ssm_step",
    "_lower_bound$",
    "kda_safe",
    // which code computes it
    "kernel",
    "flash",
    "implement",
    "backend",
    "fused",
    "_fusion",
    "compile",
    "use_triton",
    "sdpa",
    "deterministic",
    "_attn_impl",
    "is_causal",
    "router_dtype",
    "gate_type",
    "moe_gate$",
    "use_grouped_gemm",
    "group_gemm",
    "^router_",
    "_router_",
    "gating_",
    "moe_group_experts",
    "use_gating",
    "moe_router",
    "dense_list",
    "memory_efficient",
    "slow_but_exact",
    "^n_ctx",
    "enc_index",
    "max_attn_value",
    "use_grouped_topk",
    "early_router",
    "moe_mode",
    "model_parallel",
    "attention_method",
    "_only_types",
    "weight_block",
    "offload",
    "^use_ema",
    "^use_fp8",
    "^causal",
};

// Words of names that are about structure.
static const char *const structural[] = {
    "layer",        "layers",      "expert",   "experts", "moe",     "mlp",       "ffn",       "ff",       "inner",
    "hidden",       "dim",         "dims",     "rank",    "lora",    "attn",      "attention", "head",     "heads",
    "kv",           "window",      "sliding",  "chunk",   "pattern", "types",     "type",      "period",   "offset",
    "stride",       "freq",        "interval", "every",   "share",   "shared",    "residual",  "parallel", "hybrid",
    "mamba",        "ssm",         "conv",     "state",   "linear",  "group",     "groups",    "num",      "block",
    "blocks",       "encoder",     "decoder",  "cross",   "sparse",  "dense",     "latent",    "indexer",  "index",
    "skip",         "early",       "adapter",  "depth",   "width",   "stages",    "branch",    "altup",    "laurel",
    "memory",       "engram",      "hash",     "hyper",   "loop",    "loops",     "recur",     "reuse",    "cla",
    "size",         "n",           "layout",   "list",    "lists",   "enum",      "frequency", "sizes",    "recurrent",
    "query",        "topk",        "copies",   "repeat",  "repeats", "unroll",    "mixer",     "mix",      "ratio",
    "intermediate", "feedforward", "gate",     "gated",   "expand",  "expansion", "factor",    "indices",  "idxs",
    "ids",          "branches",    "tie",      "tied",    "untie",   "channels",  "proj",      "hc",       "compress",
    "rates",
};

static bool name_has(const char *name, const char *part)
{
    size_t length = strlen(part), from = part[0] == '^', all = strlen(name);
    bool ends = part[length - 1] == '$';
    length -= from + ends;
    part += from;
    if (length > all)
        return false;
    for (size_t i = 0; i + length <= all; i++)
        if (strncmp(name + i, part, length) == 0 && (!from || i == 0) && (!ends || i + length == all))
            return true;
    return false;
}

static bool is_harmless(const char *name)
{
    if (name_has(name, "_rank$")) // of projections that are factored, whatever for
        return false;
    for (size_t i = 0; i < COUNT_OF(harmless); i++)
        if (name_has(name, harmless[i]))
            return true;
    return false;
}

static bool is_structural_word(const char *word, size_t length)
{
    for (size_t i = 0; i < COUNT_OF(structural); i++)
        if (strlen(structural[i]) == length && strncmp(word, structural[i], length) == 0)
            return true;
    return false;
}

// Words end at what is no letter, and before a capital.
static bool is_structural(const char *name)
{
    for (size_t begin = 0, i = 0; name[begin]; i++) {
        if (islower((unsigned char)name[i]))
            continue;
        if (i > begin && is_structural_word(name + begin, i - begin))
            return true;
        begin = name[i] && !isupper((unsigned char)name[i]) ? i + 1 : i;
        if (!name[i])
            break;
        if (isupper((unsigned char)name[i]) && i > begin)
            begin = i;
    }
    return false;
}

// ---- what was read -----------------------------------------------------------------------------

static void mark_used(Importer *in, const cJSON *item)
{
    if (in->used_count == in->used_capacity) {
        size_t capacity = in->used_capacity ? 2 * in->used_capacity : 64;
        const cJSON **used = arena_alloc_array(in->arena, capacity, sizeof(*used));
        if (in->used_count)
            memcpy(used, in->used, in->used_count * sizeof(*used));
        in->used = used;
        in->used_capacity = capacity;
    }
    in->used[in->used_count++] = item;
}

static bool was_used(const Importer *in, const cJSON *item)
{
    for (size_t i = 0; i < in->used_count; i++)
        if (in->used[i] == item)
            return true;
    return false;
}

// Objects inside of the text model's that may hold its fields, and those that have fields of the same names for
// something else.
static bool is_part(const cJSON *item)
{
    static const char *const others[] = {"linear", "mamba", "ssm", "index", "conv", "other", "sparse", "quant", "swa"};
    if (!cJSON_IsObject(item) || is_harmless(item->string))
        return false;
    for (size_t i = 0; i < COUNT_OF(others); i++)
        if (name_has(item->string, others[i]))
            return false;
    return true;
}

static size_t count_members(const cJSON *object, uint32_t depth)
{
    size_t count = 0;
    for (const cJSON *item = object->child; item; item = item->next)
        count += 1 + (depth < CONFIG_DEPTH_MAX && is_part(item) ? count_members(item, depth + 1) : 0);
    return count;
}

bool import_is_searchable(Importer *in, const cJSON *file)
{
    size_t count = count_members(file, 0);
    if (count > CONFIG_MEMBERS_MAX)
        import_error(in, "%zu members are more than the configuration of a model has", count);
    return count <= CONFIG_MEMBERS_MAX;
}

static const cJSON *find_within(const cJSON *object, const char *name, uint32_t depth)
{
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(object, name);
    if (found && !cJSON_IsNull(found))
        return found;
    for (const cJSON *item = object->child; item && depth < CONFIG_DEPTH_MAX; item = item->next) {
        found = is_part(item) ? find_within(item, name, depth + 1) : NULL;
        if (found)
            return found;
    }
    return NULL;
}

static const cJSON *find_name(Importer *in, const char *name)
{
    const cJSON *found = find_within(in->at[0], name, 0);
    if (found)
        mark_used(in, found);
    for (uint32_t i = 1; i < in->depth; i++) {
        const cJSON *outer = cJSON_GetObjectItemCaseSensitive(in->at[i], name);
        if (!outer || cJSON_IsNull(outer))
            continue;
        mark_used(in, outer);
        found = found ? found : outer;
    }
    return found;
}

const cJSON *import_find(Importer *in, const char *const names[], const char **name)
{
    const cJSON *found = NULL;
    const char *first = NULL;
    for (size_t i = 0; i < ALIASES_MAX && names[i]; i++) {
        const cJSON *item = find_name(in, names[i]);
        double a, b;
        if (item && !found) {
            found = item;
            first = names[i];
        } else if (item && import_number_of(found, &a) && import_number_of(item, &b) && a != b) {
            import_doubt(in, "'%s' is %.12g, '%s' is %.12g: the former was taken", first, a, names[i], b);
        }
    }
    if (name)
        *name = first;
    return found;
}

const cJSON *import_find_outer(Importer *in, const char *const names[])
{
    for (uint32_t i = in->depth; i-- > 1;)
        for (size_t n = 0; n < ALIASES_MAX && names[n]; n++) {
            const cJSON *item = cJSON_GetObjectItemCaseSensitive(in->at[i], names[n]);
            if (item && !cJSON_IsNull(item)) {
                (void)import_find(in, names, NULL); // those inside are read, too
                return item;
            }
        }
    return import_find(in, names, NULL);
}

const cJSON *import_member(Importer *in, const char *name)
{
    return find_name(in, name);
}

const cJSON *import_inside(Importer *in, const cJSON *object, const char *name)
{
    const cJSON *found = cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, name) : NULL;
    if (found)
        mark_used(in, found);
    return found && !cJSON_IsNull(found) ? found : NULL;
}

bool import_is_true(Importer *in, const char *name)
{
    return cJSON_IsTrue(find_name(in, name));
}

double import_plain_number(Importer *in, const char *name)
{
    double value = 0;
    const cJSON *item = find_name(in, name);
    return item && import_number_of(item, &value) && value >= 0 && value <= 1e9 ? value : 0;
}

const char *import_text(Importer *in, const char *name)
{
    const cJSON *item = find_name(in, name);
    return cJSON_IsString(item) ? item->valuestring : "";
}

bool import_is_not_finite(const cJSON *item) // see import_load
{
    return cJSON_IsString(item) && !item->valuestring[0];
}

bool import_number_of(const cJSON *item, double *value)
{
    if (cJSON_IsNumber(item)) {
        *value = item->valuedouble;
        return true;
    }
    if (!cJSON_IsArray(item) || !item->child)
        return false;
    for (const cJSON *entry = item->child; entry; entry = entry->next)
        if (!cJSON_IsNumber(entry) || entry->valuedouble != item->child->valuedouble)
            return false;
    *value = item->child->valuedouble;
    return true;
}

// ---- what the block says -----------------------------------------------------------------------

static AstEntry *find_entry(AstEntries entries, const char *name)
{
    AstEntry *entry = entries.first;
    while (entry && (!entry->name || strcmp(entry->name, name) != 0))
        entry = entry->next;
    return entry;
}

const AstEntry *import_said(const Importer *in, KeyId key)
{
    const AstEntry *block = in->block;
    if (key != KEY_COUNT && key_info(key)->block == BLOCK_MOE)
        block = find_entry(in->block->entries, block_info(BLOCK_MOE)->name);
    bool none = key == KEY_COUNT || !block || (block != in->block && block->kind != ENTRY_BLOCK);
    const AstEntry *entry = none ? NULL : find_entry(block->entries, key_info(key)->name);
    return entry && entry->kind == ENTRY_VALUE ? entry : NULL;
}

bool import_said_block(const Importer *in, BlockId block)
{
    const AstEntry *entry = find_entry(in->block->entries, block_info(block)->name);
    return entry && entry->kind == ENTRY_BLOCK;
}

static double limit(const Field *field)
{
    return field->key == KEY_COUNT ? key_info(KEY_MODEL_inner)->max : key_info(field->key)->max;
}

// What is wrong with the number that the block gives its check will say.
bool import_said_number(const Importer *in, const Field *field, double least, double *value)
{
    const AstEntry *entry = import_said(in, field->key);
    if (!entry)
        return false;
    Value given = evaluate(in->environment, entry->value);
    bool good = given.kind == VALUE_QUANTITY && given.number >= least && given.number <= limit(field) &&
                given.number == floor(given.number);
    *value = good ? given.number : least;
    return true;
}

// ---- numbers -----------------------------------------------------------------------------------

void import_error(Importer *in, const char *format, ...)
{
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    diag_error(in->diag, in->place, "'%s': %s", in->path, message);
    in->errors++;
}

void import_doubt(Importer *in, const char *format, ...)
{
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    if (!in->doubts.length || !strstr(in->doubts.data, message)) // fields are read more than once
        text_format(&in->doubts, "%s%s", in->doubts.length ? "; " : "", message);
}

void import_report_missing(Importer *in, const Field *field, const char *why)
{
    Text looked = {0};
    for (size_t i = 0; i < ALIASES_MAX && field->names[i]; i++)
        text_format(&looked, "%s'%s'", i ? ", " : "", field->names[i]);
    diag_error(in->diag, in->place, "'%s' gives no %s%s", in->path, field->what, why);
    diag_help(in->diag, "looked for %s%s", looked.data,
              in->depth == 1 ? "" : arena_format(in->arena, ", inside '%s' and outside", in->at[0]->string));
    text_free(&looked);
    bool moe = field->key != KEY_COUNT && key_info(field->key)->block == BLOCK_MOE;
    if (field->key != KEY_COUNT)
        diag_help(in->diag, "or write '%s%s = ...%s' into the block of the model", moe ? "moe { " : "",
                  key_info(field->key)->name, moe ? " }" : "");
    in->errors++;
}

double import_number(Importer *in, const Field *field, double least, const char **name)
{
    double value;
    const cJSON *item = import_find(in, field->names, name); // read, whatever the block says
    if (import_said_number(in, field, least, &value)) {
        *name = "the block";
        return value;
    }
    if (!item)
        return -1;
    bool is_number = import_number_of(item, &value);
    if (is_number && value >= least && value <= limit(field) && value == floor(value))
        return value;
    if (cJSON_IsArray(item)) {
        import_error(in, "'%s' lists values that differ, and a model has one %s", *name, field->what);
        if (field->key != KEY_COUNT)
            diag_help(in->diag, "'%s' in the block of the model says which to plan with", key_info(field->key)->name);
        return -1;
    }
    char *text = import_is_not_finite(item) ? NULL : cJSON_PrintUnformatted(item);
    import_error(in, "'%s' must be a whole number from %g to %.0f, got %.40s", *name, least, limit(field),
                 text ? text : "one that is not finite");
    cJSON_free(text);
    return -1;
}

double import_required(Importer *in, const Field *field, double least, const char **name)
{
    double value = import_number(in, field, least, name);
    if (!*name)
        import_report_missing(in, field, "");
    return value < 0 ? least : value;
}

double import_optional(Importer *in, const Field *field, double least, double fallback, const char **name)
{
    double given = 0;
    const cJSON *item = import_find(in, field->names, name);
    if (item && !import_said(in, field->key) && import_number_of(item, &given) && given == 0) {
        *name = NULL;
        return fallback;
    }
    double value = import_number(in, field, least, name);
    return value < 0 ? fallback : value;
}

void import_give(Text *keys, const char *key, double value, const char *source)
{
    text_format(keys, "%s = %.0f  # %s\n", key, value, source);
}

// ---- which object ------------------------------------------------------------------------------

typedef struct {
    const cJSON *path[CONFIG_DEPTH_MAX]; // the file's object first
    uint32_t depth;
    double score, size;
} Candidate;

// How much of a text model an object describes: layers, hidden size, vocabulary and experts, of itself or of its parts.
static Candidate rate(const cJSON *const path[], uint32_t depth)
{
    static const char *const asked[][8] = {
        {"num_hidden_layers", "n_layer", "num_layers", "n_layers"},
        {"hidden_size", "n_embd", "d_model", "dim"},
        {"vocab_size"},
        {"n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "num_routed_experts",
         "moe_num_primary_experts", "n_experts"},
    };
    Candidate rated = {.depth = depth, .size = 1};
    memcpy(rated.path, path, depth * sizeof(*path));
    for (size_t i = 0; i < COUNT_OF(asked); i++) {
        const cJSON *found = NULL;
        for (size_t n = 0; n < COUNT_OF(asked[i]) && asked[i][n] && !found; n++)
            found = i < 3 ? cJSON_GetObjectItemCaseSensitive(path[depth - 1], asked[i][n])
                          : find_within(path[depth - 1], asked[i][n], 0);
        rated.score += found ? 1 : 0;
        rated.size *= i < 2 && cJSON_IsNumber(found) ? fabs(found->valuedouble) : 1;
    }
    return rated;
}

// Outer objects come first, so that of two that say as much the outer one is taken, and of siblings the larger.
static void choose(const cJSON *path[], uint32_t depth, Candidate *best)
{
    Candidate rated = rate(path, depth);
    bool beside = depth == best->depth && rated.score == best->score && rated.size > best->size;
    if (rated.score > best->score || beside)
        *best = rated;
    for (const cJSON *item = path[depth - 1]->child; item && depth < CONFIG_DEPTH_MAX; item = item->next) {
        if (!cJSON_IsObject(item) || (is_harmless(item->string) && !name_has(item->string, "language")))
            continue;
        path[depth] = item;
        choose(path, depth + 1, best);
    }
}

void import_choose_config(Importer *in, const cJSON *file)
{
    const cJSON *path[CONFIG_DEPTH_MAX] = {file};
    Candidate best = {.score = -1};
    choose(path, 1, &best);
    in->depth = best.depth;
    for (uint32_t i = 0; i < best.depth; i++)
        in->at[i] = best.path[best.depth - 1 - i];
}

// ---- what nobody read --------------------------------------------------------------------------

enum { NAMED_MAX = 12 };

typedef struct {
    Importer *in;
    double layers;
    Text list;
    size_t count;
} Unknown;

static bool is_empty(const cJSON *item)
{
    return cJSON_IsNull(item) || cJSON_IsFalse(item) || (cJSON_IsNumber(item) && item->valuedouble == 0) ||
           (cJSON_IsString(item) && !item->valuestring[0]) ||
           ((cJSON_IsArray(item) || cJSON_IsObject(item)) && !item->child);
}

// One entry, or one letter, for every layer.
static bool is_per_layer(const cJSON *item, double layers)
{
    if (layers < 4)
        return false;
    if (cJSON_IsString(item))
        return (double)strlen(item->valuestring) == layers;
    return cJSON_IsArray(item) && (double)cJSON_GetArraySize(item) == layers;
}

static void name_unknown(Unknown *unknown, const char *path, const cJSON *item)
{
    if (unknown->count++ >= NAMED_MAX)
        return;
    char *text = cJSON_PrintUnformatted(item);
    text_format(&unknown->list, "%s'%s' (%.24s%s)", unknown->list.length ? ", " : "", path, text ? text : "?",
                text && strlen(text) > 24 ? "..." : "");
    cJSON_free(text);
}

static void look_at(Unknown *unknown, const cJSON *object, const char *path, const cJSON *except, uint32_t depth)
{
    for (const cJSON *item = object->child; item && depth < CONFIG_DEPTH_MAX; item = item->next) {
        if (item == except || !item->string || was_used(unknown->in, item) || is_empty(item) ||
            is_harmless(item->string))
            continue;
        const char *name = arena_format(unknown->in->arena, "%s%s", path, item->string);
        if (cJSON_IsObject(item))
            look_at(unknown, item, arena_format(unknown->in->arena, "%s.", name), NULL, depth + 1);
        else if (is_structural(item->string) || is_per_layer(item, unknown->layers))
            name_unknown(unknown, name, item);
    }
}

void import_report_unknown(Importer *in, double layers)
{
    Unknown unknown = {.in = in, .layers = layers};
    for (uint32_t i = 0; i < in->depth; i++)
        look_at(&unknown, in->at[i], "", i ? in->at[i - 1] : NULL, 0);
    if (unknown.count > NAMED_MAX)
        text_format(&unknown.list, " and %zu more", unknown.count - NAMED_MAX);
    if (unknown.count) {
        diag_warning(in->diag, in->place, "'%s' has fields that may change the model, and were not understood: %s",
                     in->path, unknown.list.data);
        diag_help(in->diag, "what they mean can be written into the block of the model, which wins over the file");
    }
    if (in->doubts.length)
        diag_warning(in->diag, in->place, "'%s': %s", in->path, in->doubts.data);
    text_free(&unknown.list);
}
