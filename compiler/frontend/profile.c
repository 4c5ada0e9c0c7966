// Keys of a profile that are read; there are more, for people. `model`: layers, hidden, sequence, experts, top_k, inner
// and batch (in which alone a profile may differ from the model); `loss_s`; `layers`, one object each: `pre_expert_s`
// (attention), `dense_s` (feed-forward, or shared experts), and where there are experts `gate_s`, `expert_s`,
// `expert_flops` and `expert_rows` (of the busiest GPU: time, FLOPs, rows per expert), `histogram` (how often each
// expert was chosen). Profiles of training plans have each of these times of the backward pass, too, as
// `loss_backward_s` and so on. Times in seconds, for the tokens of one GPU.
#include "compiler/frontend/profile.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/text.h"

enum { PROFILE_BYTES_MAX = 1 << 28 };
static const double seconds_max = 1e6, number_max = 1e24; // sums and ratios of them remain finite

typedef struct {
    const char *path;
    SpecModel *model;
    Arena *arena;
    Diag *diag;
} Reader;

static bool complain(const Reader *reader, const char *what, uint32_t layer)
{
    diag_error_plain(reader->diag, "%s: layer %u: expected %s", reader->path, layer, what);
    return false;
}

static bool read_number(const cJSON *object, const char *key, double *out)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    *out = cJSON_IsNumber(item) ? item->valuedouble : NAN;
    return *out >= 0 && *out <= number_max; // not if it is no number
}

static bool read_seconds(const cJSON *object, const char *key, double *out)
{
    return read_number(object, key, out) && *out <= seconds_max;
}

// 0 where it was not measured.
static bool read_optional_seconds(const cJSON *object, const char *key, double *out)
{
    *out = 0;
    return !cJSON_GetObjectItemCaseSensitive(object, key) || read_seconds(object, key, out);
}

static bool read_backward(const cJSON *layer, MeasuredLayer *out)
{
    return read_optional_seconds(layer, "pre_expert_backward_s", &out->pre_expert_backward_s) &&
           read_optional_seconds(layer, "gate_backward_s", &out->gate_backward_s) &&
           read_optional_seconds(layer, "dense_backward_s", &out->dense_backward_s) &&
           read_optional_seconds(layer, "expert_backward_s", &out->expert_backward_s);
}

static bool read_histogram(const Reader *reader, const cJSON *layer, uint32_t index)
{
    SpecModel *model = reader->model;
    const cJSON *histogram = cJSON_GetObjectItemCaseSensitive(layer, "histogram"), *item;
    if (!cJSON_IsArray(histogram) || cJSON_GetArraySize(histogram) != (int)model->experts)
        return complain(reader, "a 'histogram' with a number for every expert", index);
    double *popularity = arena_alloc_array(reader->arena, model->experts, sizeof(*popularity));
    uint32_t chosen = 0, e = 0;
    cJSON_ArrayForEach(item, histogram)
    {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > number_max)
            return complain(reader, "numbers from 0 in 'histogram'", index);
        popularity[e++] = item->valuedouble;
        chosen += item->valuedouble > 0;
    }
    if (chosen < model->top_k)
        return complain(reader, "at least top_k experts in 'histogram' that were ever chosen", index);
    model->layer_popularity[index] = popularity;
    return true;
}

static bool read_layer(const Reader *reader, const cJSON *layer, uint32_t index, MeasuredLayer *out)
{
    if (!read_seconds(layer, "pre_expert_s", &out->pre_expert_s) || !read_seconds(layer, "dense_s", &out->dense_s))
        return complain(reader, "'pre_expert_s' and 'dense_s', in seconds", index);
    if (!read_backward(layer, out))
        return complain(reader, "times of the backward pass in seconds", index);
    if (!spec_layer_is_moe(reader->model, index))
        return true;
    if (!read_seconds(layer, "gate_s", &out->gate_s) || !read_seconds(layer, "expert_s", &out->expert_s) ||
        !read_number(layer, "expert_flops", &out->expert_flops) ||
        !read_number(layer, "expert_rows", &out->expert_rows))
        return complain(reader, "'gate_s' and 'expert_s' in seconds, 'expert_flops' and 'expert_rows'", index);
    return read_histogram(reader, layer, index);
}

// The model that was run must be the one that is compiled, but for the batch.
static bool check_model(const Reader *reader, const cJSON *root)
{
    const SpecModel *model = reader->model;
    const cJSON *dims = cJSON_GetObjectItemCaseSensitive(root, "model");
    const struct {
        const char *key;
        uint32_t value;
    } keys[] = {{"layers", model->layers},   {"hidden", model->hidden}, {"sequence", model->sequence},
                {"experts", model->experts}, {"top_k", model->top_k},   {"inner", model->inner}};
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        double value;
        if (read_number(dims, keys[i].key, &value) && value == keys[i].value)
            continue;
        diag_error_plain(reader->diag, "%s: a profile of another model: '%s' is %g there and %u here", reader->path,
                         keys[i].key, value, keys[i].value);
        return false;
    }
    return true;
}

static bool read_profile(const Reader *reader, const cJSON *root)
{
    SpecModel *model = reader->model;
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(root, "format"), *layer;
    double version, batch;
    if (!cJSON_IsString(format) || strcmp(format->valuestring, "hep-profile") != 0 ||
        !read_number(root, "profile_version", &version) || version != 1) {
        diag_error_plain(reader->diag, "%s: no profile of version 1, as 'hep-run --profile' writes it", reader->path);
        return false;
    }
    if (!check_model(reader, root))
        return false;
    MeasuredTimes *times = arena_alloc(reader->arena, sizeof(*times));
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(root, "layers");
    if (!read_number(cJSON_GetObjectItemCaseSensitive(root, "model"), "batch", &batch) || batch < 1 ||
        !read_seconds(root, "loss_s", &times->loss_s) ||
        !read_optional_seconds(root, "loss_backward_s", &times->loss_backward_s) ||
        cJSON_GetArraySize(layers) != (int)model->layers) {
        diag_error_plain(reader->diag, "%s: expected 'batch', 'loss_s' and an object in 'layers' for each of them",
                         reader->path);
        return false;
    }
    times->tokens = batch * model->sequence;
    times->layers = arena_alloc_array(reader->arena, model->layers, sizeof(*times->layers));
    model->layer_popularity = arena_alloc_array(reader->arena, model->layers, sizeof(*model->layer_popularity));
    uint32_t index = 0;
    cJSON_ArrayForEach(layer, layers)
    {
        if (!read_layer(reader, layer, index, &times->layers[index]))
            return false;
        index++;
    }
    model->times = times;
    return true;
}

bool profile_read(const char *path, SpecModel *model, Arena *arena, Diag *diag)
{
    size_t length;
    Fault fault = {0};
    Reader reader = {.path = path, .model = model, .arena = arena, .diag = diag};
    if (model->abstract) {
        diag_error_plain(diag, "%s: a profile is of a model given by its dimensions, not by volumes", path);
        return false;
    }
    char *text = file_read(path, PROFILE_BYTES_MAX, &length, &fault);
    if (!text) {
        diag_error_plain(diag, "cannot read '%s': %s", path, fault.message);
        return false;
    }
    cJSON *root = cJSON_ParseWithLength(text, length);
    bool ok = read_profile(&reader, root);
    cJSON_Delete(root);
    free(text);
    return ok;
}
