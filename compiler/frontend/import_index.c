// The list of tensors that lies beside a configuration, as an independent witness: which layers have experts, how many,
// and how many bytes there are. What the configuration was understood to say is held against it; differences are
// warnings.
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/frontend/import.h"

#include "compiler/frontend/import_parts.h"
#include "compiler/frontend/read.h"

enum { INDEX_BYTES_MAX = 1 << 27 };
static const double SIZE_TOLERANCE = 0.03;

// ---- files -------------------------------------------------------------------------------------

// Python writes numbers that are not finite by names that JSON lacks. They become empty strings, in as many bytes, so
// that places stay where they are; only a field that is needed is the worse for it.
static void blank_not_finite(char *plain, size_t length)
{
    static const char *const names[] = {"-Infinity", "Infinity", "NaN"};
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        if (quoted && plain[i] == '\\')
            i++;
        else if (plain[i] == '"')
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
}

cJSON *import_load(Arena *arena, Diag *diag, Span place, const char *path, size_t limit, bool optional)
{
    Fault fault = {0};
    size_t length = 0;
    char *content = file_read(path, limit, &length, &fault);
    if (!content) {
        if (!optional)
            diag_error(diag, place, "cannot read '%s': %s", path, fault.message);
        return NULL;
    }
    const char *text = optional ? "" : arena_copy_string(arena, content, length), *end = NULL; // as it is, for messages
    blank_not_finite(content, length);
    cJSON *json = cJSON_ParseWithLengthOpts(content, length + 1, &end, true);
    if (!json && optional) {
        diag_warning(diag, place, "'%s' is not JSON, and the model was not compared with it", path);
    } else if (!json) {
        size_t at = end ? (size_t)(end - content) : 0;
        at = at < length ? at : length ? length - 1 : 0;
        Span span = {diag_add_source(diag, path, text, length, &place), (uint32_t)at, (uint32_t)at + 1};
        diag_error(diag, span, "not JSON from here on");
    } else if (!cJSON_IsObject(json)) {
        if (!optional)
            diag_error(diag, place, "'%s' is JSON, but not the configuration of a model: expected an object", path);
        cJSON_Delete(json);
        json = NULL;
    }
    free(content);
    return json;
}

// ---- names of tensors --------------------------------------------------------------------------

enum { SEEN_LAYERS_MAX = 10000, SEEN_EXPERTS_MAX = 1000000 };

typedef struct {
    uint32_t experts; // one more than the largest that is named
    bool has_experts;
} SeenLayer;

typedef struct {
    SeenLayer *layers; // [SEEN_LAYERS_MAX]
    uint32_t layer_count;
    bool others; // of another network beside the text model
} Seen;

// The part of a name between dots that begins at `at`.
static size_t part_length(const char *at)
{
    return strcspn(at, ".");
}

static bool part_is(const char *at, const char *const words[])
{
    for (size_t i = 0; words[i]; i++)
        if (strlen(words[i]) == part_length(at) && strncmp(at, words[i], part_length(at)) == 0)
            return true;
    return false;
}

// The number after the first part that is one of these words; -1 if there is none. `at` moves past it.
static int64_t number_after(const char **at, const char *const words[], bool *found)
{
    for (const char *part = *at; *part; part += part_length(part) + (part[part_length(part)] == '.')) {
        const char *next = part + part_length(part);
        if (!part_is(part, words))
            continue;
        *found = true;
        next += *next == '.';
        *at = next;
        if (isdigit((unsigned char)*next) && strspn(next, "0123456789") == part_length(next) && part_length(next) < 8)
            return strtol(next, NULL, 10);
        return -1;
    }
    return -1;
}

static bool has_any(const char *name, const char *const parts[])
{
    for (size_t i = 0; parts[i]; i++)
        if (strstr(name, parts[i]))
            return true;
    return false;
}

static void see(Seen *seen, const char *name)
{
    static const char *const others[] = {"vision", "visual", "audio", "projector", "talker", "code2wav", "image", NULL},
                             *const heads[] = {"mtp", "nextn", NULL},
                             *const layer_words[] = {"layers", "h", "blocks", "layer", NULL},
                             *const expert_words[] = {"experts", "local_experts", "routed_experts", NULL};
    bool found = false, experts = false;
    const char *at = name;
    seen->others = seen->others || has_any(name, others);
    if (has_any(name, others) || has_any(name, heads))
        return;
    int64_t layer = number_after(&at, layer_words, &found);
    if (layer < 0 || layer >= SEEN_LAYERS_MAX)
        return;
    if (layer >= seen->layer_count)
        seen->layer_count = (uint32_t)layer + 1;
    int64_t expert = number_after(&at, expert_words, &experts);
    SeenLayer *of = &seen->layers[layer];
    of->has_experts = of->has_experts || experts;
    if (expert >= of->experts && expert < SEEN_EXPERTS_MAX)
        of->experts = (uint32_t)expert + 1;
}

// ---- against the model -------------------------------------------------------------------------

typedef struct {
    const SpecModel *model;
    const Seen *seen;
    const char *path;
    Span place;
    Diag *diag;
} Comparison;

static double stored_bytes(const SpecModel *model, double extra_layers)
{
    ModelDims dims = spec_dims(model);
    double element = dtype_bytes(model->dtype), moe_layers = 0, moe_bytes = 0, dense = 0, listed = 0;
    double expert = (double)model_expert_units(&dims) * dtype_bytes(model_expert_dtype(&dims));
    for (uint32_t k = 0; k < model->layers; k++) {
        bool is_moe = spec_layer_is_moe(model, k);
        double bits = spec_dense_bits(model, k), elements = (double)spec_dense_elements(model, k);
        double bytes = bits > 0 ? elements * bits / 8 : elements * element;
        moe_layers += is_moe;
        moe_bytes += is_moe ? bytes + model->experts * expert : 0;
        dense += is_moe ? 0 : bytes;
        listed += elements;
    }
    double experts = moe_layers * model->experts * (double)model_expert_elements(&dims);
    double rest = fmax(0, model->total_parameters - experts - listed); // embedding and output
    return dense + moe_bytes + rest * element + (moe_layers > 0 ? extra_layers * moe_bytes / moe_layers : 0);
}

static void compare_layers(const Comparison *c)
{
    uint32_t layers = c->model->layers, seen = c->seen->layer_count;
    if (seen < layers || seen > layers + c->model->extra_layers) {
        diag_warning(c->diag, c->place, "'%s' has tensors of %u layers, and the configuration was read as %u", c->path,
                     seen, layers);
        return;
    }
    Text list = {0};
    uint32_t differ = 0;
    for (uint32_t k = 0; k < layers; k++) {
        if (spec_layer_is_moe(c->model, k) == c->seen->layers[k].has_experts)
            continue;
        if (differ++ < 8)
            text_format(&list, "%s%u", list.length ? ", " : "", k);
    }
    if (differ)
        diag_warning(
            c->diag, c->place,
            "'%s' and the configuration, as it was read, differ in which layers have experts: %u of them (%s%s)",
            c->path, differ, list.data, differ > 8 ? ", ..." : "");
    text_free(&list);
    for (uint32_t k = 0; k < layers; k++) {
        uint32_t experts = c->seen->layers[k].experts;
        if (!experts || experts == c->model->experts || !spec_layer_is_moe(c->model, k))
            continue;
        diag_warning(c->diag, c->place,
                     "'%s' has tensors of %u experts in layer %u, and the configuration was read as %u", c->path,
                     experts, k, c->model->experts);
        return;
    }
}

static void compare_size(const Comparison *c, const cJSON *json)
{
    const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(json, "metadata");
    const cJSON *total = cJSON_IsObject(metadata) ? cJSON_GetObjectItemCaseSensitive(metadata, "total_size") : NULL;
    if (!cJSON_IsNumber(total) || total->valuedouble <= 0)
        return;
    double extra = fmax(0, (double)c->seen->layer_count - c->model->layers);
    double least = stored_bytes(c->model, 0), most = stored_bytes(c->model, extra), size = total->valuedouble;
    bool too_small = size < (1 - SIZE_TOLERANCE) * least;
    bool too_large = size > (1 + SIZE_TOLERANCE) * most;
    char theirs[FORMAT_MAX], ours[FORMAT_MAX];
    if (too_small || (too_large && !c->seen->others && !c->model->extra_layers) ||
        (too_large && c->model->extra_layers &&
         size > (1 + SIZE_TOLERANCE) * stored_bytes(c->model, c->model->extra_layers + 1)))
        diag_warning(c->diag, c->place, "'%s' has %s of tensors, and the configuration was read as %s", c->path,
                     format_bytes(theirs, size), format_bytes(ours, most));
}

void import_check_index(const SpecModel *model, Span place, const char *path, Arena *arena, Diag *diag)
{
    path = read_join_path(arena, path, "model.safetensors.index.json");
    cJSON *json = import_load(arena, diag, place, path, INDEX_BYTES_MAX, true);
    const cJSON *map = json ? cJSON_GetObjectItemCaseSensitive(json, "weight_map") : NULL;
    if (cJSON_IsObject(map) && map->child) {
        Seen seen = {.layers = arena_alloc_array(arena, SEEN_LAYERS_MAX, sizeof(*seen.layers))};
        for (const cJSON *item = map->child; item; item = item->next)
            see(&seen, item->string);
        Comparison comparison = {.model = model, .seen = &seen, .path = path, .place = place, .diag = diag};
        compare_layers(&comparison);
        compare_size(&comparison, json);
    }
    cJSON_Delete(json);
}
