// What every layer has, from the many ways in which configurations say it: lists with an entry per layer, lists of
// layers, strings with a letter per layer, periods, and where such runs begin and end.
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/frontend/import_parts.h"

typedef struct {
    Importer *in;
    uint32_t layers;
    LayerKind *kinds;
    bool has_recurrent; // the file gives sizes of something recurrent
} Reader;

// ---- words -------------------------------------------------------------------------------------

typedef struct {
    const char *part; // of a word, in lower case
    MixKind mix;
    LayerPart part_kind;
    bool sets_mix, sets_part;
} Word;

// The first that matches counts. A layer that is an MLP or experts and nothing else mixes no tokens.
static const Word words[] = {
    {"sliding", MIX_WINDOW, 0, true, false},
    {"window", MIX_WINDOW, 0, true, false},
    {"local", MIX_WINDOW, 0, true, false},
    {"swa", MIX_WINDOW, 0, true, false},
    {"chunk", MIX_CHUNK, 0, true, false},
    {"mamba", MIX_RECURRENT, 0, true, false},
    {"linear", MIX_RECURRENT, 0, true, false},
    {"lightning", MIX_RECURRENT, 0, true, false},
    {"recurrent", MIX_RECURRENT, 0, true, false},
    {"conv", MIX_RECURRENT, 0, true, false},
    {"delta", MIX_RECURRENT, 0, true, false},
    {"kda", MIX_RECURRENT, 0, true, false},
    {"gdn", MIX_RECURRENT, 0, true, false},
    {"ssm", MIX_RECURRENT, 0, true, false},
    {"rwkv", MIX_RECURRENT, 0, true, false},
    {"retention", MIX_RECURRENT, 0, true, false},
    {"attention", MIX_FULL, 0, true, false},
    {"global", MIX_FULL, 0, true, false},
    {"full", MIX_FULL, 0, true, false},
    {"softmax", MIX_FULL, 0, true, false},
    {"attn", MIX_FULL, 0, true, false},
    {"mla", MIX_FULL, 0, true, false},
    {"gqa", MIX_FULL, 0, true, false},
    {"moe", MIX_NONE, PART_MOE, true, true},
    {"mlp", MIX_NONE, PART_DENSE, true, true},
    {"ffn", MIX_NONE, PART_DENSE, true, true},
};

static const Word *find_word(const char *text)
{
    char lower[64];
    size_t length = 0;
    for (; text[length] && length + 1 < sizeof(lower); length++)
        lower[length] = (char)tolower((unsigned char)text[length]);
    lower[length] = 0;
    for (size_t i = 0; i < COUNT_OF(words); i++)
        if (strstr(lower, words[i].part))
            return &words[i];
    return NULL;
}

// A list of words, one per layer. Where some are nothing but experts or an MLP, the layers of the others are nothing
// but a mixer.
static void read_words(Reader *r, const cJSON *list, const char *name)
{
    uint32_t k = 0;
    bool apart = false, doubted = false;
    for (const cJSON *item = list->child; item; item = item->next) {
        const Word *word = cJSON_IsString(item) ? find_word(item->valuestring) : NULL;
        apart = apart || (word && word->sets_part);
    }
    for (const cJSON *item = list->child; item && k < r->layers; item = item->next, k++) {
        const Word *word = cJSON_IsString(item) ? find_word(item->valuestring) : NULL;
        if (!word && !doubted)
            import_doubt(r->in, "'%s' has layers of a kind that is not known (%.40s), taken for attention", name,
                         cJSON_IsString(item) ? item->valuestring : "no word");
        doubted = doubted || !word;
        r->kinds[k].mix = word ? word->mix : MIX_FULL;
        if (apart)
            r->kinds[k].part = word && word->sets_part ? word->part_kind : PART_NONE;
    }
    if (k < r->layers)
        import_error(r->in, "'%s' has %u entries for %u layers", name, k, r->layers);
}

// A list of numbers or truths, one per layer: `mixes` for those that are not 0, `others` for those that are.
static void read_switches(Reader *r, const cJSON *list, const char *name, MixKind mixes, MixKind others)
{
    uint32_t k = 0;
    for (const cJSON *item = list->child; item && k < r->layers; item = item->next, k++)
        r->kinds[k].mix = cJSON_IsTrue(item) || (cJSON_IsNumber(item) && item->valuedouble != 0) ? mixes : others;
    if (k < r->layers)
        import_error(r->in, "'%s' has %u entries for %u layers", name, k, r->layers);
}

// ---- letters -----------------------------------------------------------------------------------

// Layers by letters: M a recurrent layer, * attention, E experts, - an MLP, each alone; or L and G, local and global.
static bool read_letters(Reader *r, const char *text, const char *name, bool repeats)
{
    size_t length = strlen(text);
    if (!length || (!repeats && length < r->layers))
        return length ? (import_error(r->in, "'%s' has %zu letters for %u layers", name, length, r->layers), false)
                      : false;
    for (uint32_t k = 0; k < r->layers; k++) {
        switch (text[k % length]) {
        case 'M':
            r->kinds[k] = (LayerKind){PART_NONE, MIX_RECURRENT};
            break;
        case '*':
            r->kinds[k] = (LayerKind){PART_NONE, MIX_FULL};
            break;
        case 'E':
            r->kinds[k] = (LayerKind){PART_MOE, MIX_NONE};
            break;
        case '-':
            r->kinds[k] = (LayerKind){PART_DENSE, MIX_NONE};
            break;
        case 'L':
            r->kinds[k].mix = MIX_WINDOW;
            break;
        case 'G':
            r->kinds[k].mix = MIX_FULL;
            break;
        default:
            import_error(r->in, "'%s' has a layer '%c': known are M, E, * and -, or L and G", name, text[k % length]);
            return false;
        }
    }
    return true;
}

// ---- lists of layers ---------------------------------------------------------------------------

// Marks the layers of a list of numbers, or of a string of them: counted from `base`.
static void mark_listed(Reader *r, const cJSON *list, const char *name, uint32_t base, bool *marks)
{
    bool may_exceed = import_said(r->in, KEY_MODEL_layers) != NULL;
    const char *text = cJSON_IsString(list) ? list->valuestring : NULL;
    const cJSON *item = text ? NULL : list->child;
    while (text ? *text != 0 : item != NULL) {
        double layer = -1;
        if (text) {
            char *end = NULL;
            layer = strtod(text, &end);
            bool good = end != text;
            text = end + strspn(end, ", ");
            layer = good ? layer : -1;
            if (!good)
                text = "";
        } else {
            layer = cJSON_IsNumber(item) ? item->valuedouble : -1;
            item = item->next;
        }
        layer -= base;
        if (!(layer >= 0) || layer != floor(layer) || (layer >= r->layers && !may_exceed)) {
            import_error(r->in, "'%s' lists a layer that is none of the %u", name, r->layers);
            return;
        }
        if (layer < r->layers)
            marks[(size_t)layer] = true;
    }
}

static bool *read_listed(Reader *r, const char *name, uint32_t base)
{
    const cJSON *list = import_member(r->in, name);
    if (!list || (!cJSON_IsArray(list) && !cJSON_IsString(list)) || (cJSON_IsArray(list) && !list->child))
        return NULL;
    bool *marks = arena_alloc_array(r->in->arena, r->layers, sizeof(*marks));
    mark_listed(r, list, name, base, marks);
    return marks;
}

// ---- mixers ------------------------------------------------------------------------------------

static const char *const word_lists[] = {"layer_types",     "layers_block_type", "block_types", "mixer_types",
                                         "attention_types", "attn_types",        "block_type"};

static bool read_mixer_lists(Reader *r)
{
    static const struct {
        const char *name;
        MixKind mixes, others;
    } switches[] = {{"attn_type_list", MIX_FULL, MIX_RECURRENT},
                    {"hybrid_layer_pattern", MIX_WINDOW, MIX_FULL},
                    {"sliding_window_layout", MIX_WINDOW, MIX_FULL},
                    {"is_linear_attention", MIX_RECURRENT, MIX_FULL}};
    bool found = false;
    for (size_t i = 0; i < COUNT_OF(word_lists); i++) {
        const cJSON *list = import_member(r->in, word_lists[i]);
        if (cJSON_IsArray(list) && list->child && !found) {
            read_words(r, list, word_lists[i]);
            found = true;
        }
    }
    for (size_t i = 0; i < COUNT_OF(switches); i++) {
        const cJSON *list = import_member(r->in, switches[i].name);
        if (cJSON_IsArray(list) && list->child && !found) {
            read_switches(r, list, switches[i].name, switches[i].mixes, switches[i].others);
            found = true;
        }
    }
    return found;
}

// Attention in layers of a list, everything else recurrent.
static bool read_attention_lists(Reader *r)
{
    static const char *const lists[] = {"attn_layer_indices",  "full_attn_idxs", "full_attention_layers",
                                        "attention_layer_idx", "attn_layer_idx", "full_attn_layers"};
    const bool *marks = NULL;
    for (size_t i = 0; i < COUNT_OF(lists); i++)
        marks = marks ? marks : read_listed(r, lists[i], 0);
    const cJSON *linear = import_member(r->in, "linear_attn_config");
    const cJSON *full = import_inside(r->in, linear, "full_attn_layers");
    (void)import_inside(r->in, linear, "kda_layers");
    if (cJSON_IsArray(full) && !marks) { // counted from 1
        bool *own = arena_alloc_array(r->in->arena, r->layers, sizeof(*own));
        mark_listed(r, full, "full_attn_layers", 1, own);
        marks = own;
    }
    for (uint32_t k = 0; k < r->layers && marks; k++)
        r->kinds[k].mix = marks[k] ? MIX_FULL : MIX_RECURRENT;
    return marks != NULL;
}

// Every so many layers attention over everything, the others in the given way.
static bool read_periods(Reader *r)
{
    static const struct {
        const char *period, *offset; // offset NULL: the last of every period
        MixKind others;
    } periods[] = {{"attn_layer_period", "attn_layer_offset", MIX_RECURRENT},
                   {"full_attention_interval", NULL, MIX_RECURRENT},
                   {"layer_group_size", NULL, MIX_RECURRENT},
                   {"global_attn_every_n_layers", NULL, MIX_WINDOW},
                   {"sliding_window_pattern", NULL, MIX_WINDOW},
                   {"global_attention_interval", NULL, MIX_WINDOW},
                   {"global_attn_every_n", NULL, MIX_WINDOW},
                   {"_sliding_window_pattern", NULL, MIX_WINDOW}};
    bool found = false;
    for (size_t i = 0; i < COUNT_OF(periods); i++) {
        double period = import_plain_number(r->in, periods[i].period), offset = period - 1;
        if (periods[i].offset)
            offset = import_plain_number(r->in, periods[i].offset);
        bool applies = period > 0 && !found && (periods[i].others != MIX_RECURRENT || r->has_recurrent || i != 1);
        for (uint32_t k = 0; k < r->layers && applies; k++)
            r->kinds[k].mix = fmod(k, period) == fmod(offset, period) ? MIX_FULL : periods[i].others;
        found = found || applies;
    }
    return found;
}

// Windows that no list gives layers to: those from `max_window_layers` on, or all.
static void read_windows(Reader *r)
{
    double from = import_plain_number(r->in, "max_window_layers");
    double window = import_plain_number(r->in, "sliding_window");
    const cJSON *use = import_member(r->in, "use_sliding_window");
    if (window <= 0 || (use && !cJSON_IsTrue(use)))
        return;
    for (uint32_t k = use ? (uint32_t)fmin(from, r->layers) : 0; k < r->layers; k++)
        r->kinds[k].mix = MIX_WINDOW;
}

// Chunks are for layers with positions: a list has 1 for those, or every so many has none.
static void read_chunks(Reader *r)
{
    const cJSON *list = import_member(r->in, "no_rope_layers");
    double interval = import_plain_number(r->in, "no_rope_layer_interval");
    if (import_plain_number(r->in, "attention_chunk_size") <= 0)
        return;
    if (cJSON_IsArray(list) && list->child) {
        read_switches(r, list, "no_rope_layers", MIX_CHUNK, MIX_FULL);
        return;
    }
    interval = interval > 0 ? interval : 4;
    for (uint32_t k = 0; k < r->layers; k++)
        r->kinds[k].mix = fmod(k + 1, interval) == 0 ? MIX_FULL : MIX_CHUNK;
}

static void read_mixers(Reader *r)
{
    bool listed = read_mixer_lists(r);
    listed = read_attention_lists(r) || listed;
    bool lettered = false;
    const char *letters = import_text(r->in, "sliding_window_pattern");
    if (letters[0] && !listed)
        lettered = read_letters(r, letters, "sliding_window_pattern", true);
    if (listed || lettered) { // what else there is says the same
        static const char *const same[] = {
            "attn_layer_period", "attn_layer_offset",          "full_attention_interval",
            "layer_group_size",  "global_attn_every_n_layers", "global_attn_every_n",
            "max_window_layers", "use_sliding_window",         "sliding_window_pattern",
            "no_rope_layers",    "no_rope_layer_interval",     "global_attention_interval"};
        for (size_t i = 0; i < COUNT_OF(same); i++)
            (void)import_member(r->in, same[i]);
        return;
    }
    bool periodic = read_periods(r);
    (void)import_member(r->in, "max_window_layers");
    (void)import_member(r->in, "use_sliding_window");
    if (!periodic) {
        read_windows(r);
        read_chunks(r);
    }
}

// ---- experts -----------------------------------------------------------------------------------

static const struct {
    const char *name;
    bool experts; // the layers listed have experts; else they are dense
} part_lists[] = {{"moe_layers_enum", true}, {"moe_layers", true},        {"mlp_only_layers", false},
                  {"dense_layers", false},   {"moe_layer_ids", true},     {"sparse_layers", true},
                  {"moe_layer_idx", true},   {"moe_layer_indices", true}, {"dense_layer_indices", false}};

static const char *const part_switches[] = {"moe_layer_freq",      "is_moe_layer",      "moe_layer_layout",
                                            "moe_layer_frequency", "moe_layer_pattern", "num_experts_per_layer"};

static void set_parts(Reader *r, const bool *marks, bool marked_is_moe)
{
    for (uint32_t k = 0; k < r->layers; k++)
        r->kinds[k].part = marks[k] == marked_is_moe ? PART_MOE : PART_DENSE;
}

// One entry per layer: 0 for a dense one; or the words "dense" and "sparse".
static bool read_part_switches(Reader *r)
{
    const cJSON *types = import_member(r->in, "mlp_layer_types");
    const char *name = "mlp_layer_types";
    for (size_t i = 0; i < COUNT_OF(part_switches); i++) {
        const cJSON *list = import_member(r->in, part_switches[i]);
        if (cJSON_IsArray(list) && list->child && !cJSON_IsArray(types)) {
            types = list;
            name = part_switches[i];
        }
    }
    if (!cJSON_IsArray(types) || !types->child)
        return false;
    uint32_t k = 0;
    for (const cJSON *item = types->child; item && k < r->layers; item = item->next, k++) {
        bool is_moe = cJSON_IsTrue(item) || (cJSON_IsNumber(item) && item->valuedouble != 0) ||
                      (cJSON_IsString(item) && strcmp(item->valuestring, "dense") != 0);
        r->kinds[k].part = is_moe ? PART_MOE : PART_DENSE;
    }
    if (k < r->layers)
        import_error(r->in, "'%s' has %u entries for %u layers", name, k, r->layers);
    return true;
}

// Where layers with experts begin and end, and which of those between have them.
static void read_runs(Reader *r)
{
    static const char *const first_names[] = {"first_k_dense_replace", "num_dense_layers", "moe_layer_start_index",
                                              "n_dense_layers",        "first_moe_layer",  NULL};
    static const char *const step_names[] = {"decoder_sparse_step",
                                             "interleave_moe_layer_step",
                                             "moe_layer_interval",
                                             "moe_layer_frequency",
                                             "moe_every_n_layers",
                                             "route_every_n",
                                             NULL};
    Importer *in = r->in;
    double first = 0, step = 1, last = r->layers, value;
    const cJSON *item = import_find(in, first_names, NULL);
    if (item && import_number_of(item, &value) && value >= 0)
        first = value;
    item = import_find(in, step_names, NULL);
    if (item && import_number_of(item, &value) && value >= 1)
        step = value;
    item = import_member(in, "moe_layer_end_index");
    if (item && import_number_of(item, &value) && value >= 0)
        last = value + 1;
    item = import_member(in, "moe_layer_freq"); // counts from the first layer, not from the last of a period
    double frequency = item && import_number_of(item, &value) && value >= 1 ? value : 1;
    double period = import_plain_number(in, "expert_layer_period"),
           offset = import_plain_number(in, "expert_layer_offset");
    for (uint32_t k = 0; k < r->layers; k++) {
        bool is_moe = k >= first && k < last && fmod(k + 1, step) == 0 && fmod(k, frequency) == 0;
        if (period > 0)
            is_moe = is_moe && fmod(k, period) == fmod(offset, period);
        r->kinds[k].part = is_moe ? PART_MOE : PART_DENSE;
    }
}

// Lists win over runs; layers that are listed as dense are so besides what runs say.
static void read_parts(Reader *r)
{
    read_runs(r);
    bool listed = read_part_switches(r);
    for (size_t i = 0; i < COUNT_OF(part_lists); i++) {
        const bool *marks = read_listed(r, part_lists[i].name, 0);
        if (!marks || (listed && part_lists[i].experts))
            continue;
        if (part_lists[i].experts)
            set_parts(r, marks, true);
        for (uint32_t k = 0; k < r->layers && !part_lists[i].experts; k++)
            r->kinds[k].part = marks[k] ? PART_DENSE : r->kinds[k].part;
        listed = listed || part_lists[i].experts;
    }
}

// What the block says of layers with experts.
static bool read_said_parts(Reader *r)
{
    static const Field first_field = {"dense layers at the start", KEY_MODEL_first_dense, {NULL}},
                       every_field = {"distance of MoE layers", KEY_MOE_every, {NULL}};
    double first = 0, every = 1;
    bool said_first = import_said_number(r->in, &first_field, 0, &first),
         said_every = import_said_number(r->in, &every_field, 1, &every);
    if (import_said(r->in, KEY_MOE_layers))
        return true; // whichever they are, the check knows
    for (uint32_t k = 0; k < r->layers && (said_first || said_every); k++)
        r->kinds[k].part = k >= first && fmod(k + 1, every) == 0 ? PART_MOE : PART_DENSE;
    return said_first || said_every;
}

double import_listed_layers(Importer *in, const char **name)
{
    const cJSON *letters = import_member(in, "hybrid_override_pattern");
    *name = "hybrid_override_pattern";
    if (cJSON_IsString(letters) && letters->valuestring[0])
        return (double)strlen(letters->valuestring);
    for (size_t i = 0; i < COUNT_OF(word_lists); i++) {
        const cJSON *list = import_member(in, word_lists[i]);
        *name = word_lists[i];
        if (cJSON_IsArray(list) && list->child)
            return cJSON_GetArraySize(list);
    }
    *name = NULL;
    return 0;
}

void import_layer_kinds(Importer *in, uint32_t layers, LayerKind *kinds)
{
    static const char *const recurrent[] = {"mamba_d_state", "ssm_state_size",         "mamba_num_heads",
                                            "mamba_n_heads", "linear_num_value_heads", "linear_attn_config",
                                            "conv_L_cache"};
    Reader r = {.in = in, .layers = layers, .kinds = kinds};
    for (size_t i = 0; i < COUNT_OF(recurrent); i++)
        r.has_recurrent = import_member(in, recurrent[i]) || r.has_recurrent;
    read_parts(&r);
    read_mixers(&r);
    const cJSON *pattern = import_member(in, "hybrid_override_pattern");
    if (cJSON_IsString(pattern) && pattern->valuestring[0])
        (void)read_letters(&r, pattern->valuestring, "hybrid_override_pattern", false);
    (void)read_said_parts(&r);
}
