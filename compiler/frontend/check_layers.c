// What differs from layer to layer: which layers have experts, how large dense ones are, what mixes tokens. And the
// groups of experts that a token is limited to.
#include <string.h>

#include "compiler/frontend/check_keys.h"

// A list of layers, each once, into `marks`; false after reporting.
static bool mark_layers(Checker *checker, const AstEntry *entry, uint32_t *marks, uint32_t mark)
{
    const SpecModel *model = &checker->spec->model;
    Value value = evaluate(checker->environment, entry->value);
    if (value.kind == VALUE_ERROR)
        return false;
    if (value.kind != VALUE_LIST) {
        diag_error(checker->diag, value_span(checker, entry),
                   "'layers' must be a list of layers, counted from 0, such as '[0, 4, 8]', got %s",
                   value_text(checker->arena, &value));
        return false;
    }
    for (const AstExpr *item = value.expr->items.first; item; item = item->next) {
        uint32_t layer;
        if (!evaluate_count(checker, item, "layers", 0, model->layers - 1.0, &layer))
            return false;
        if (marks[layer] != model->mixer_count) {
            diag_error(checker->diag, item->span, "layer %u is listed twice", layer);
            return false;
        }
        marks[layer] = mark;
    }
    if (!value.expr->items.first)
        diag_error(checker->diag, value_span(checker, entry), "'layers' lists none");
    return value.expr->items.first != NULL;
}

// ---- experts ---------------------------------------------------------------------------------

static void check_expert_layers(Checker *checker)
{
    SpecModel *model = &checker->spec->model;
    const AstEntry *layers = checker->keys[KEY_MOE_layers], *first = checker->keys[KEY_MODEL_first_dense],
                   *every = checker->keys[KEY_MOE_every];
    model->is_moe = NULL;
    if (!layers)
        return;
    if (first || every) {
        diag_error(checker->diag, (first ? first : every)->name_span, "'%s' and 'layers' of 'moe' exclude one another",
                   first ? "first_dense" : "every");
        diag_note(checker->diag, layers->name_span, "'layers' is given here");
        return;
    }
    uint32_t *marks = arena_alloc_array(checker->arena, model->layers, sizeof(*marks)); // 0: mixers are counted later
    if (!mark_layers(checker, layers, marks, 1))
        return;
    model->is_moe = arena_alloc_array(checker->arena, model->layers, sizeof(*model->is_moe));
    for (uint32_t k = 0; k < model->layers; k++)
        model->is_moe[k] = marks[k] == 1;
}

// ---- dense layers ----------------------------------------------------------------------------

// Where all dense layers have one size, it is as if that were given.
static void check_inner_list(Checker *checker)
{
    SpecModel *model = &checker->spec->model;
    const AstEntry *inner = checker->keys[KEY_MODEL_inner];
    Value value = inner ? evaluate(checker->environment, inner->value) : (Value){0};
    model->inner_each = NULL;
    if (value.kind != VALUE_LIST)
        return;
    uint32_t *each = arena_alloc_array(checker->arena, model->layers, sizeof(*each)), count = 0;
    for (const AstExpr *item = value.expr->items.first; item; item = item->next, count++) {
        uint32_t size;
        if (!evaluate_count(checker, item, "inner", 0, key_info(KEY_MODEL_inner)->max, &size))
            return;
        if (count < model->layers)
            each[count] = size;
    }
    if (count != model->layers) {
        diag_error(checker->diag, value_span(checker, inner), "'inner' lists %u values, the model has %u layers", count,
                   model->layers);
        return;
    }
    uint32_t dense = 0, least = UINT32_MAX, most = 0;
    for (uint32_t k = 0; k < model->layers; k++) {
        if (spec_layer_is_moe(model, k))
            continue;
        dense++;
        least = each[k] < least ? each[k] : least;
        most = each[k] > most ? each[k] : most;
    }
    model->ffn_inner = most;
    if (dense > 0 && (least != most || most == 0))
        model->inner_each = each;
}

// ---- mixers ----------------------------------------------------------------------------------

static bool is_mixer(const AstEntry *entry)
{
    return entry->kind == ENTRY_BLOCK && strcmp(entry->name, block_info(BLOCK_MIXER)->name) == 0;
}

static void check_mixer(Checker *checker, const AstEntry *entry, uint32_t index, const AstEntry **rest)
{
    SpecModel *model = &checker->spec->model;
    SpecMixer *mixer = &model->mixers[index];
    const SpecMixer usual = spec_mixer(
        &(SpecModel){
            .heads = model->heads, .kv_heads = model->kv_heads, .head_dim = model->head_dim, .hidden = model->hidden},
        0);
    checker->blocks[BLOCK_MIXER] = entry;
    check_block(checker, BLOCK_MIXER, entry, mixer);
    mixer->name = entry->label ? entry->label : "";
    mixer->span = block_head_span(entry);
    if (strcmp(mixer->name, usual.name) == 0)
        diag_error(checker->diag, entry->label_span, "'%s' is what layers without a mixer have: choose another name",
                   usual.name);
    for (uint32_t other = 0; other < index; other++)
        if (strcmp(model->mixers[other].name, mixer->name) == 0)
            diag_error(checker->diag, entry->label_span, "there are two mixers '%s'", mixer->name);
    if (!checker->keys[KEY_MIXER_parameters])
        mixer->parameters = usual.parameters;
    if (!checker->keys[KEY_MIXER_scored])
        mixer->scored = usual.scored;
    const AstEntry *layers = checker->keys[KEY_MIXER_layers];
    if (layers) {
        (void)mark_layers(checker, layers, model->mixer, index);
    } else if (*rest) {
        diag_error(checker->diag, mixer->span, "two mixers without 'layers': which layers are whose?");
        diag_note(checker->diag, block_head_span(*rest), "the other one is here");
    } else {
        *rest = entry;
    }
}

void check_mixers(Checker *checker, const AstEntry *block)
{
    SpecModel *model = &checker->spec->model;
    uint32_t count = 0, index = 0;
    for (const AstEntry *entry = block->entries.first; entry; entry = entry->next)
        count += is_mixer(entry);
    model->mixers = arena_alloc_array(checker->arena, count, sizeof(*model->mixers));
    model->mixer_count = count;
    model->mixer = NULL;
    if (!count)
        return;
    model->mixer = arena_alloc_array(checker->arena, model->layers, sizeof(*model->mixer));
    for (uint32_t k = 0; k < model->layers; k++)
        model->mixer[k] = count;
    const AstEntry *rest = NULL;
    uint32_t rest_index = count;
    for (const AstEntry *entry = block->entries.first; entry; entry = entry->next) {
        if (!is_mixer(entry))
            continue;
        check_mixer(checker, entry, index, &rest);
        if (rest == entry)
            rest_index = index;
        index++;
    }
    for (uint32_t k = 0; k < model->layers; k++)
        if (model->mixer[k] == count)
            model->mixer[k] = rest_index;
}

void check_layer_lists(Checker *checker)
{
    size_t mark = diag_error_count(checker->diag);
    check_expert_layers(checker);
    if (diag_error_count(checker->diag) == mark && !checker->spec->model.abstract)
        check_inner_list(checker);
}

// ---- groups ----------------------------------------------------------------------------------

void check_groups(Checker *checker)
{
    SpecModel *model = &checker->spec->model;
    const AstEntry *groups = checker->keys[KEY_MOE_groups], *limit = checker->keys[KEY_MOE_group_top_k];
    if (!groups && limit)
        diag_error(checker->diag, limit->name_span, "'group_top_k' goes with 'groups'");
    if (!groups || !model->experts) {
        model->groups = model->group_top_k = 0;
        return;
    }
    if (!limit)
        model->group_top_k = model->groups;
    Span span = value_span(checker, limit ? limit : groups);
    if (model->experts % model->groups)
        diag_error(checker->diag, value_span(checker, groups),
                   "'groups' must divide 'experts': %u is not a multiple of %u", model->experts, model->groups);
    else if (model->group_top_k > model->groups)
        diag_error(checker->diag, span, "'group_top_k' must be at most 'groups': %u of %u", model->group_top_k,
                   model->groups);
    else if (model->top_k > (uint64_t)model->experts / model->groups * model->group_top_k)
        diag_error(checker->diag, span, "'top_k' is %u, and a token's groups have %u x %u experts", model->top_k,
                   model->group_top_k, model->experts / model->groups);
    else if (model->zero_experts > 0 && model->group_top_k < model->groups)
        diag_error(checker->diag, span, "'groups' and 'zero_experts' exclude one another");
    if (model->group_top_k == model->groups)
        model->groups = model->group_top_k = 0; // no limit
}
