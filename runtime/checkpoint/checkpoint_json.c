// The JSON of a manifest, around a checksum of itself. One that was read is as hostile as any file: every number is
// bounded before it is used, and no file outside of the checkpoint is named.
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "runtime/checkpoint/checkpoint_internal.h"

enum { RANKS_MAX = 1 << 24, RECORDS_MAX = 1 << 20 };
static const double integers_max = 9007199254740992.0; // that a JSON number holds exactly

// ---- printing --------------------------------------------------------------------------------

static void add_count(cJSON *object, const char *key, uint64_t value)
{
    cJSON_AddNumberToObject(object, key, (double)value);
}

static void add_crc(cJSON *object, uint32_t crc)
{
    char text[16];
    snprintf(text, sizeof(text), "%08" PRIx32, crc);
    cJSON_AddStringToObject(object, "crc32", text);
}

static void print_what(const Manifest *manifest, cJSON *root)
{
    char seed[24];
    snprintf(seed, sizeof(seed), "%" PRIu64, manifest->point.seed); // beyond what a JSON number holds
    cJSON_AddStringToObject(root, "format", "hep_checkpoint");
    add_count(root, "version", CHECKPOINT_VERSION);
    add_count(root, "iteration", manifest->point.iteration);
    add_count(root, "skipped", manifest->point.skipped);
    cJSON_AddStringToObject(root, "seed", seed);
    cJSON *data = cJSON_AddObjectToObject(root, "data");
    cJSON_AddBoolToObject(data, "generated", manifest->point.data.generated);
    add_count(data, "bytes", manifest->point.data.bytes);
    add_crc(data, manifest->point.data.crc);
    settings_print(&manifest->point.settings, root);
    cJSON *model = cJSON_AddObjectToObject(root, "model");
    cJSON_AddStringToObject(model, "name", manifest->model.name);
    cJSON_AddStringToObject(model, "dtype", dtype_name(manifest->model.dtype));
    cJSON_AddStringToObject(model, "activation", activation_name(manifest->model.activation));
    ModelDims dims = manifest->model;
    for (size_t d = 0; manifest_dimension(d); d++)
        add_count(model, manifest_dimension(d), *manifest_dimension_in(&dims, d));
}

static void print_world(const Manifest *manifest, cJSON *root)
{
    add_count(root, "ranks", manifest->ranks);
    cJSON *levels = cJSON_AddArrayToObject(root, "levels");
    for (uint32_t l = 0; l < manifest->level_count; l++)
        cJSON_AddItemToArray(levels, cJSON_CreateNumber(manifest->levels[l]));
    if (manifest->replica_levels > 0)
        add_count(root, "replica_levels", manifest->replica_levels);
    cJSON_AddStringToObject(root, "dispatch", dispatch_name(manifest->dispatch));
    cJSON_AddStringToObject(root, "codec", codec_name(manifest->codec));
    cJSON *choices = cJSON_AddArrayToObject(root, "choices");
    for (uint32_t c = 0; c < manifest->choice_count; c++) {
        cJSON *choice = cJSON_CreateObject();
        add_count(choice, "layer", manifest->choices[c].layer);
        cJSON *domain = cJSON_AddArrayToObject(choice, "domain");
        for (uint32_t l = 0; l < manifest->level_count; l++)
            cJSON_AddItemToArray(domain, cJSON_CreateNumber(manifest->choices[c].domain[l]));
        cJSON_AddItemToArray(choices, choice);
    }
}

static void print_bytes(const Manifest *manifest, cJSON *root)
{
    cJSON *buffers = cJSON_AddArrayToObject(root, "buffers");
    for (uint32_t b = 0; b < manifest->buffer_count; b++) {
        const SavedBuffer *of = &manifest->buffers[b];
        cJSON *buffer = cJSON_CreateObject();
        cJSON_AddStringToObject(buffer, "name", of->name);
        cJSON_AddStringToObject(buffer, "dtype", dtype_name(of->dtype));
        add_count(buffer, "rows", of->rows);
        add_count(buffer, "cols", of->cols);
        cJSON_AddStringToObject(buffer, "of", name_text(&persistence_names, of->persistence));
        if (of->layer != NONE)
            add_count(buffer, "layer", (uint64_t)of->layer);
        cJSON_AddItemToArray(buffers, buffer);
    }
    cJSON *files = cJSON_AddArrayToObject(root, "files");
    for (uint64_t f = 0; f <= manifest->ranks; f++) {
        const SavedFile *of = &manifest->files[f];
        cJSON *file = cJSON_CreateObject();
        cJSON_AddStringToObject(file, "name", of->name);
        add_count(file, "bytes", of->bytes);
        add_crc(file, of->crc);
        cJSON_AddItemToArray(files, file);
    }
}

// Of an object as cJSON prints it: what is read back prints the same.
static uint32_t sum_of(const cJSON *object)
{
    char *printed = cJSON_PrintUnformatted(object);
    uint32_t sum = printed ? (uint32_t)crc32_z(0, (const Bytef *)printed, strlen(printed)) : 0;
    cJSON_free(printed);
    return sum;
}

void manifest_print(const Manifest *manifest, Text *out)
{
    cJSON *root = cJSON_CreateObject(), *checkpoint = cJSON_AddObjectToObject(root, "checkpoint");
    print_what(manifest, checkpoint);
    print_world(manifest, checkpoint);
    print_bytes(manifest, checkpoint);
    add_crc(root, sum_of(checkpoint));
    char *printed = cJSON_Print(root);
    text_append(out, printed ? printed : "");
    text_append(out, "\n");
    cJSON_free(printed);
    cJSON_Delete(root);
}

// ---- parsing ---------------------------------------------------------------------------------

static bool get_count(const cJSON *object, const char *key, double max, uint64_t *out)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    bool ok = cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble <= max &&
              item->valuedouble == floor(item->valuedouble);
    *out = ok ? (uint64_t)item->valuedouble : 0;
    return ok;
}

static bool get_u32(const cJSON *object, const char *key, uint32_t *out)
{
    uint64_t value;
    bool ok = get_count(object, key, UINT32_MAX, &value);
    *out = (uint32_t)value;
    return ok;
}

static const char *get_text(const cJSON *object, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
    return text ? text : "";
}

static bool get_code(const cJSON *object, const char *key, const NameTable *names, int *out)
{
    *out = name_code(names, get_text(object, key));
    return *out >= 0;
}

static bool get_crc(const cJSON *object, uint32_t *out)
{
    const char *text = get_text(object, "crc32");
    *out = (uint32_t)strtoul(text, NULL, 16);
    return strlen(text) == 8 && strspn(text, "0123456789abcdef") == 8;
}

static bool parse_what(const cJSON *root, Manifest *out)
{
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(root, "data");
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(root, "model");
    int dtype, activation;
    const char *seed = get_text(root, "seed");
    char *end;
    out->point.seed = strtoull(seed, &end, 10);
    out->point.data.generated = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(data, "generated"));
    bool ok = *seed >= '0' && *seed <= '9' && *end == '\0' &&
              get_count(root, "iteration", integers_max, &out->point.iteration) &&
              get_count(root, "skipped", integers_max, &out->point.skipped) &&
              out->point.skipped <= out->point.iteration && settings_parse(root, &out->point.settings) &&
              get_count(data, "bytes", integers_max, &out->point.data.bytes) && get_crc(data, &out->point.data.crc) &&
              get_code(model, "dtype", &dtype_names, &dtype) &&
              get_code(model, "activation", &activation_names, &activation);
    for (size_t d = 0; ok && manifest_dimension(d); d++)
        ok = get_u32(model, manifest_dimension(d), manifest_dimension_in(&out->model, d));
    if (ok) {
        out->model.dtype = (Dtype)dtype;
        out->model.activation = (Activation)activation;
    }
    return ok;
}

// An array of numbers, one per level.
static bool parse_levels(const cJSON *array, uint32_t count, uint32_t out[LEVELS_MAX])
{
    if (!cJSON_IsArray(array) || (uint32_t)cJSON_GetArraySize(array) != count)
        return false;
    uint32_t l = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        if (!cJSON_IsNumber(item) || item->valuedouble < 1 || item->valuedouble > RANKS_MAX)
            return false;
        out[l++] = (uint32_t)item->valuedouble;
    }
    return true;
}

static bool parse_world(const cJSON *root, Manifest *out)
{
    const cJSON *levels = cJSON_GetObjectItemCaseSensitive(root, "levels");
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(root, "choices"), *choice;
    int dispatch, codec, level_count = cJSON_GetArraySize(levels), choice_count = cJSON_GetArraySize(choices);
    if (level_count < 1 || level_count > LEVELS_MAX || choice_count < 0 || choice_count > RECORDS_MAX ||
        !get_count(root, "ranks", RANKS_MAX, &out->ranks) || !get_code(root, "dispatch", &dispatch_names, &dispatch) ||
        !get_code(root, "codec", &codec_names, &codec) || !parse_levels(levels, (uint32_t)level_count, out->levels))
        return false;
    out->level_count = (uint32_t)level_count;
    if (cJSON_HasObjectItem(root, "replica_levels") &&
        (!get_u32(root, "replica_levels", &out->replica_levels) || out->replica_levels >= out->level_count))
        return false;
    out->choice_count = (uint32_t)choice_count;
    out->dispatch = (Dispatch)dispatch;
    out->codec = (Codec)codec;
    out->choices = calloc((size_t)choice_count + 1, sizeof(*out->choices));
    SavedChoice *at = out->choices;
    cJSON_ArrayForEach(choice, choices)
    {
        if (!at || !get_u32(choice, "layer", &at->layer) ||
            !parse_levels(cJSON_GetObjectItemCaseSensitive(choice, "domain"), out->level_count, at->domain))
            return false;
        at++;
    }
    return out->choices;
}

static bool parse_buffers(const cJSON *array, Manifest *out)
{
    int count = cJSON_GetArraySize(array), dtype, persistence;
    if (count < 1 || count > RECORDS_MAX)
        return false;
    out->buffers = calloc((size_t)count, sizeof(*out->buffers));
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        SavedBuffer *at = out->buffers ? &out->buffers[out->buffer_count++] : NULL;
        if (!at || !get_code(item, "dtype", &dtype_names, &dtype) ||
            !get_code(item, "of", &persistence_names, &persistence) || persistence == PERSISTENCE_NONE ||
            !get_count(item, "rows", integers_max, &at->rows) || !get_count(item, "cols", integers_max, &at->cols))
            return false;
        at->name = strdup(get_text(item, "name"));
        at->dtype = (Dtype)dtype;
        at->persistence = (Persistence)persistence;
        at->buffer = NONE;
        at->layer = NONE;
        uint64_t layer = 0;
        bool of_experts = persistence_is_of_experts(at->persistence);
        if (!at->name || (of_experts && !get_count(item, "layer", INT32_MAX, &layer)))
            return false;
        if (of_experts)
            at->layer = (int32_t)layer;
    }
    return manifest_place_buffers(out);
}

static uint64_t file_length(const Manifest *manifest, bool equal)
{
    uint64_t bytes = 0;
    for (uint32_t b = 0; b < manifest->buffer_count; b++)
        if ((manifest->buffers[b].persistence == PERSISTENCE_EQUAL) == equal)
            bytes += saved_bytes(&manifest->buffers[b]);
    return bytes;
}

// File names are those that this program gives: nothing outside of the directory is read.
static bool parse_files(const cJSON *array, Manifest *out)
{
    uint64_t f = 0;
    const cJSON *item;
    out->files = calloc(out->ranks + 1, sizeof(*out->files));
    if (!out->files || (uint64_t)cJSON_GetArraySize(array) != out->ranks + 1)
        return false;
    cJSON_ArrayForEach(item, array)
    {
        char name[CHECKPOINT_NAME_MAX] = CHECKPOINT_EQUAL;
        SavedFile *at = &out->files[f];
        if (f > 0)
            checkpoint_rank_name(name, f - 1);
        at->name = strdup(name);
        if (!at->name || strcmp(name, get_text(item, "name")) != 0 || !get_crc(item, &at->crc) ||
            !get_count(item, "bytes", integers_max, &at->bytes) || at->bytes != file_length(out, f == 0))
            return false;
        f++;
    }
    return true;
}

static bool has_choice(const Manifest *manifest, int32_t layer)
{
    for (uint32_t c = 0; c < manifest->choice_count; c++)
        if (manifest->choices[c].layer == (uint32_t)layer)
            return true;
    return false;
}

// Domain sizes make places that divide the experts, and the ranks are those of the levels.
static bool check_domains(const Manifest *manifest)
{
    uint64_t ranks = 1;
    for (uint32_t l = 0; l < manifest->level_count; l++)
        if (!checked_mul(ranks, manifest->levels[l], &ranks))
            return false;
    for (uint32_t c = 0; c < manifest->choice_count; c++) {
        uint64_t places = 1;
        for (uint32_t l = 0; l < manifest->level_count; l++) {
            uint32_t domain = manifest->choices[c].domain[l];
            if (manifest->levels[l] % domain != 0 || (l < manifest->replica_levels && domain != manifest->levels[l]))
                return false;
            places *= manifest->levels[l] / manifest->choices[c].domain[l];
        }
        if (manifest->model.experts % places != 0)
            return false;
    }
    return ranks == manifest->ranks;
}

// What is owned of experts has the shape of a share: one value, or several, for each of its elements.
static bool check_shares(const Manifest *manifest)
{
    for (uint32_t b = 0; b < manifest->buffer_count; b++) {
        const SavedBuffer *of = &manifest->buffers[b];
        if (of->layer == NONE)
            continue;
        if (!has_choice(manifest, of->layer))
            return false;
        ExpertShares shares = manifest_shares(manifest, of->layer);
        if (shares.cols == 0 || of->cols % shares.cols != 0)
            return false;
        if (of->persistence == PERSISTENCE_OWN && of->rows != shares.rows)
            return false;
    }
    return true;
}

static bool parse_checkpoint(const char *path, const cJSON *root, Manifest *out, Fault *fault)
{
    uint32_t version;
    if (strcmp(get_text(root, "format"), "hep_checkpoint") != 0 || !get_u32(root, "version", &version))
        return fault_set(fault, FAULT_INPUT, "%s: not the manifest of a checkpoint", path);
    if (version != CHECKPOINT_VERSION)
        return fault_set(fault, FAULT_INPUT, "%s: version %" PRIu32 " of the format, this program reads %d", path,
                         version, CHECKPOINT_VERSION);
    if (parse_what(root, out) && parse_world(root, out) &&
        parse_buffers(cJSON_GetObjectItemCaseSensitive(root, "buffers"), out) &&
        parse_files(cJSON_GetObjectItemCaseSensitive(root, "files"), out) && check_domains(out) && check_shares(out))
        return true;
    manifest_free(out);
    return fault_set(fault, FAULT_INPUT, "%s: the manifest misses values or has impossible ones", path);
}

bool manifest_parse(const char *path, const char *text, Manifest *out, Fault *fault)
{
    *out = (Manifest){0};
    cJSON *root = cJSON_Parse(text);
    const cJSON *checkpoint = cJSON_GetObjectItemCaseSensitive(root, "checkpoint");
    uint32_t sum = 0;
    bool ok = checkpoint && get_crc(root, &sum) && sum == sum_of(checkpoint);
    if (!ok)
        fault_set(fault, FAULT_INPUT, "%s: damaged: %s", path,
                  checkpoint ? "its checksum is another" : "not what a checkpoint begins with");
    ok = ok && parse_checkpoint(path, checkpoint, out, fault);
    out->sum = sum;
    cJSON_Delete(root);
    return ok;
}
