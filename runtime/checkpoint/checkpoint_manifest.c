// The manifest of a checkpoint: what was trained, how far, on how many ranks, which bytes lie where. Made of a plan
// here, and compared with one; its JSON is checkpoint_json.c.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/braced.h"
#include "runtime/checkpoint/checkpoint_internal.h"

// The dimensions that weights depend on, and that a continued training must share.
static const struct {
    const char *key;
    size_t offset;
} dimensions[] = {
#define DIMENSION(name) BRACED(#name, offsetof(ModelDims, name))
    DIMENSION(layers),   DIMENSION(hidden),     DIMENSION(heads),    DIMENSION(kv_heads),
    DIMENSION(head_dim), DIMENSION(vocabulary), DIMENSION(sequence), DIMENSION(ffn_inner),
    DIMENSION(experts),  DIMENSION(top_k),      DIMENSION(inner),    DIMENSION(shared_experts),
#undef DIMENSION
};

const char *manifest_dimension(size_t index)
{
    return index < COUNT_OF(dimensions) ? dimensions[index].key : NULL;
}

uint32_t *manifest_dimension_in(ModelDims *model, size_t index)
{
    return (uint32_t *)((char *)model + dimensions[index].offset);
}

static uint32_t dimension_of(const ModelDims *model, size_t index)
{
    return *(const uint32_t *)((const char *)model + dimensions[index].offset);
}

uint64_t saved_bytes(const SavedBuffer *buffer)
{
    return buffer->rows * buffer->cols * dtype_bytes(buffer->dtype);
}

void manifest_free(Manifest *manifest)
{
    for (uint32_t b = 0; manifest->buffers && b < manifest->buffer_count; b++)
        free(manifest->buffers[b].name);
    for (uint64_t f = 0; manifest->files && f <= manifest->ranks; f++)
        free(manifest->files[f].name);
    free(manifest->choices);
    free(manifest->buffers);
    free(manifest->files);
    *manifest = (Manifest){0};
}

static bool out_of_memory(Fault *fault)
{
    return fault_set(fault, FAULT_MEMORY, "out of memory for the manifest of a checkpoint");
}

static bool manifest_allocate(Manifest *manifest)
{
    manifest->choices = calloc((size_t)manifest->choice_count + 1, sizeof(*manifest->choices));
    manifest->buffers = calloc((size_t)manifest->buffer_count + 1, sizeof(*manifest->buffers));
    manifest->files = calloc(manifest->ranks + 1, sizeof(*manifest->files));
    return manifest->choices && manifest->buffers && manifest->files;
}

bool manifest_place_buffers(Manifest *manifest)
{
    uint64_t equal = 0, own = 0;
    for (uint32_t b = 0; b < manifest->buffer_count; b++) {
        SavedBuffer *buffer = &manifest->buffers[b];
        uint64_t *end = buffer->persistence == PERSISTENCE_EQUAL ? &equal : &own;
        uint64_t elements, bytes;
        buffer->offset = *end;
        if (!checked_mul(buffer->rows, buffer->cols, &elements) ||
            !checked_mul(elements, dtype_bytes(buffer->dtype), &bytes) || !checked_add(*end, bytes, end))
            return false;
    }
    return true;
}

ExpertShares manifest_shares(const Manifest *manifest, int32_t layer)
{
    Cluster cluster = {.level_count = manifest->level_count};
    for (uint32_t l = 0; l < manifest->level_count; l++)
        cluster.levels[l].count = manifest->levels[l];
    uint32_t c = 0;
    while (manifest->choices[c].layer != (uint32_t)layer)
        c++;
    return expert_shares(&cluster, manifest->replica_levels, manifest->choices[c].domain, manifest->model.experts,
                         model_expert_elements(&manifest->model));
}

// ---- of a plan -------------------------------------------------------------------------------

static bool fill_buffers(const Plan *plan, const PersistentInfo infos[], Manifest *out)
{
    for (uint32_t b = 0, saved = 0; b < plan->buffer_count; b++) {
        const Buffer *buffer = &plan->buffers[b];
        const PersistentInfo *info = &infos[b];
        if (info->persistence == PERSISTENCE_NONE)
            continue;
        int32_t layer = persistence_is_of_experts(info->persistence) ? buffer->layer : NONE;
        out->buffers[saved++] = (SavedBuffer){.name = strdup(buffer->name),
                                              .dtype = buffer->dtype,
                                              .rows = buffer->rows,
                                              .cols = buffer->cols,
                                              .persistence = info->persistence,
                                              .rebuild = info->rebuild,
                                              .parts = info->parts,
                                              .elements = info->elements,
                                              .layer = layer,
                                              .buffer = (int32_t)b};
        if (!out->buffers[saved - 1].name)
            return false;
    }
    return manifest_place_buffers(out);
}

static bool fill_files(Manifest *out)
{
    for (uint64_t f = 0; f <= out->ranks; f++) {
        char name[CHECKPOINT_NAME_MAX] = CHECKPOINT_EQUAL;
        if (f > 0)
            checkpoint_rank_name(name, f - 1);
        out->files[f] = (SavedFile){.name = strdup(name)};
        if (!out->files[f].name)
            return false;
    }
    return true;
}

bool manifest_of_plan(const Plan *plan, Manifest *out, Fault *fault)
{
    *out = (Manifest){.model = plan->model,
                      .dispatch = plan->dispatch,
                      .codec = plan->experts.codec,
                      .ranks = cluster_gpus(&plan->cluster),
                      .level_count = plan->cluster.level_count,
                      .replica_levels = plan->pass == PASS_TRAINING ? plan->replica_levels : 0,
                      .choice_count = plan->choice_count};
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        out->levels[l] = plan->cluster.levels[l].count;
    PersistentInfo *infos = malloc((plan->buffer_count + 1) * sizeof(*infos));
    bool ok = infos && persistent_infos(plan, infos);
    for (uint32_t b = 0; ok && b < plan->buffer_count; b++)
        out->buffer_count += infos[b].persistence != PERSISTENCE_NONE;
    ok = ok && manifest_allocate(out);
    for (uint32_t c = 0; ok && c < plan->choice_count; c++) {
        out->choices[c].layer = plan->choices[c].layer;
        memcpy(out->choices[c].domain, plan->choices[c].domain, sizeof(plan->choices[c].domain));
    }
    ok = ok && fill_buffers(plan, infos, out) && fill_files(out);
    free(infos);
    if (ok)
        return true;
    manifest_free(out);
    return out_of_memory(fault);
}

// ---- comparing -------------------------------------------------------------------------------

static bool differs(const char *where, const char *field, const char *there, const char *here, Fault *fault)
{
    return fault_set(fault, FAULT_INPUT, "%s: the model's %s is %s there, %s in the plan", where, field, there, here);
}

bool manifest_same_model(const Manifest *of, const Plan *plan, const char *where, Fault *fault)
{
    char there[24], here[24];
    if (of->model.dtype != plan->model.dtype)
        return differs(where, "dtype", dtype_name(of->model.dtype), dtype_name(plan->model.dtype), fault);
    if (of->model.activation != plan->model.activation)
        return differs(where, "activation", activation_name(of->model.activation),
                       activation_name(plan->model.activation), fault);
    for (size_t d = 0; d < COUNT_OF(dimensions); d++) {
        snprintf(there, sizeof(there), "%" PRIu32, dimension_of(&of->model, d));
        snprintf(here, sizeof(here), "%" PRIu32, dimension_of(&plan->model, d));
        if (strcmp(there, here) != 0)
            return differs(where, dimensions[d].key, there, here, fault);
    }
    snprintf(there, sizeof(there), "%" PRIu32, of->choice_count);
    snprintf(here, sizeof(here), "%" PRIu32, plan->choice_count);
    if (of->choice_count != plan->choice_count)
        return differs(where, "number of MoE layers", there, here, fault);
    for (uint32_t c = 0; c < plan->choice_count; c++) {
        snprintf(there, sizeof(there), "%" PRIu32, of->choices[c].layer);
        snprintf(here, sizeof(here), "%" PRIu32, plan->choices[c].layer);
        if (strcmp(there, here) != 0)
            return differs(where, "MoE layer", there, here, fault);
    }
    return true;
}

bool manifest_same_strategy(const Manifest *a, const Manifest *b)
{
    bool same = a->ranks == b->ranks && a->replica_levels == b->replica_levels && a->level_count == b->level_count &&
                a->buffer_count == b->buffer_count && a->choice_count == b->choice_count &&
                memcmp(a->levels, b->levels, sizeof(a->levels)) == 0;
    for (uint32_t c = 0; same && c < a->choice_count; c++)
        same = memcmp(a->choices[c].domain, b->choices[c].domain, a->level_count * sizeof(uint32_t)) == 0;
    for (uint32_t i = 0; same && i < a->buffer_count; i++) {
        const SavedBuffer *x = &a->buffers[i], *y = &b->buffers[i];
        same = strcmp(x->name, y->name) == 0 && x->dtype == y->dtype && x->rows == y->rows && x->cols == y->cols &&
               x->persistence == y->persistence;
    }
    return same;
}
