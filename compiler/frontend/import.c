// See import.h. Field names are those of the transformers library's configuration classes, and of the code that
// publishers ship beside their models.
#include "compiler/frontend/import.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/frontend/import_parts.h"
#include "compiler/frontend/read.h"
#include "grammar/parse.h"

enum { CONFIG_BYTES_MAX = 1 << 24 };

static const Field
    field_layers = {"number of layers",
                    KEY_MODEL_layers,
                    {"num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_decoder_layers"}},
    field_hidden = {"hidden size", KEY_MODEL_hidden, {"hidden_size", "n_embd", "d_model", "dim", "model_dim"}},
    field_vocabulary = {"vocabulary", KEY_MODEL_vocabulary, {"vocab_size", "padded_vocab_size", "n_vocab"}},
    field_experts = {"number of experts",
                     KEY_MOE_experts,
                     {"n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "num_routed_experts",
                      "moe_num_primary_experts", "n_experts", "moe_num_routed_experts"}},
    field_top_k = {"experts per token",
                   KEY_MOE_top_k,
                   {"num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts",
                    "num_selected_experts", "experts_per_token", "moe_num_active_primary_experts",
                    "num_activated_experts", "n_activated_experts", "moe_router_topk"}},
    field_expert_inner = {"expert size",
                          KEY_MOE_inner,
                          {"moe_intermediate_size", "expert_ffn_hidden_size", "expert_dim", "moe_ffn_hidden_size",
                           "expert_intermediate_size", "moe_inter_dim", "expert_hidden_dim"}},
    field_inner = {"feed-forward size",
                   KEY_COUNT,
                   {"intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "hidden_dim", "inter_dim",
                    "dense_intermediate_size", "ffn_intermediate_size"}},
    field_dense_inner = {"dense feed-forward size", KEY_MODEL_inner, {"intermediate_size_mlp"}},
    field_shared = {"shared experts",
                    KEY_MOE_shared_experts,
                    {"n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert",
                     "n_shared_expert", "num_share_experts"}},
    field_shared_inner = {"shared expert size",
                          KEY_MOE_shared_inner,
                          {"shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim",
                           "moe_shared_expert_intermediate_size", "shared_expert_dim",
                           "shared_expert_ffn_hidden_size"}},
    field_zero = {"experts that compute nothing",
                  KEY_MOE_zero_experts,
                  {"zero_expert_num", "num_zero_experts", "n_zero_experts"}},
    field_groups = {"groups of experts",
                    KEY_MOE_groups,
                    {"n_group", "num_expert_group", "moe_num_groups", "n_expert_groups", "num_expert_groups"}},
    field_group_top_k = {"groups per token",
                         KEY_MOE_group_top_k,
                         {"topk_group", "moe_topk_group", "n_limited_groups", "num_limited_groups", "group_topk",
                          "num_expert_groups_per_tok"}};

static const char *const tied_names[] = {"tie_word_embeddings",
                                         "tied_embeddings",
                                         "tie_embedding",
                                         "tie_embeddings",
                                         "tie_lm_head",
                                         "share_embedding",
                                         NULL};
static const char *const activation_names_of[] = {"mlp_hidden_act",      "ffn_act_fn",
                                                  "hidden_act",          "hidden_activation",
                                                  "activation_function", "hidden_activation_function",
                                                  "ffn_activation",      NULL};

// ---- experts ---------------------------------------------------------------------------------

// SiLU and GELU are gated in all families but where a field says otherwise; squared ReLU is none.
static Activation import_activation(Importer *in)
{
    static const char *const gates[] = {"gated_linear_unit", "is_gated_act", "use_glu", "ffn_glu", "mlp_gated", NULL};
    const char *name = NULL, *text = "";
    Activation activation = ACTIVATION_SWIGLU;
    const cJSON *item = import_find(in, activation_names_of, &name), *gated = import_find(in, gates, NULL);
    if (cJSON_IsObject(item))
        item = import_inside(in, item, "name");
    if (cJSON_IsString(item))
        text = item->valuestring;
    bool plain = cJSON_IsFalse(gated);
    if (strncmp(text, "relu", 4) == 0)
        activation = ACTIVATION_RELU;
    else if (plain)
        activation = ACTIVATION_GELU;
    text_format(&in->moe, "activation = %s  # %s%s\n", activation_name(activation),
                name ? name : "none given: gated as usual",
                name && activation == ACTIVATION_SWIGLU ? ", gated as all families with SiLU and GELU are" : "");
    return activation;
}

// What stands beside the experts of a layer: shared experts, counted or as one size, or a dense branch.
static void import_shared(Importer *in, const Sizes *s, bool dense_apart)
{
    const char *count_name = NULL, *inner_name = NULL, *branch = NULL;
    double count = import_number(in, &field_shared, 0, &count_name);
    double inner = import_number(in, &field_shared_inner, 0, &inner_name);
    double branch_inner = 0;
    const cJSON *mixed = import_member(in, "use_mixed_mlp_moe");
    bool residual = import_is_true(in, "residual_moe") || import_is_true(in, "enable_moe_block");
    if (import_is_true(in, "parallel_attn_mlp_res")) { // as wide as the model
        branch = "parallel_attn_mlp_res";
        (void)import_member(in, "use_residual");
        branch_inner = s->hidden;
    } else if (residual && s->inner > 0) {
        branch = "a dense branch beside the experts";
        branch_inner = s->inner;
    } else if (strncmp(import_text(in, "model_type"), "longcat_flash", 13) == 0) {
        branch = "two feed-forward parts a layer";
        branch_inner = 2 * s->inner;
    }
    if (cJSON_IsFalse(mixed) && !import_said(in, KEY_MOE_shared_experts))
        count = 0;
    if (count < 0 && inner <= 0 && dense_apart) { // where dense layers have a size of their own
        count = 1;
        count_name = "intermediate_size_mlp";
    }
    if (import_said(in, KEY_MOE_shared_experts) || import_said(in, KEY_MOE_shared_inner))
        return;
    if (count > 1 && inner > 0 && inner != count * s->expert_inner)
        import_doubt(in, "'%s' is %.0f and '%s' is %.0f: the latter was taken for all shared experts together",
                     count_name, count, inner_name, inner);
    if (branch) {
        import_give(&in->moe, "shared_inner", branch_inner + fmax(0, inner > 0 ? inner : count * s->expert_inner),
                    branch);
    } else if (inner > 0 && fmod(inner, s->expert_inner) != 0) {
        import_give(&in->moe, "shared_inner", inner, inner_name);
    } else if (inner > 0 || count > 0) {
        import_give(&in->moe, "shared_experts", inner > 0 ? inner / s->expert_inner : count,
                    inner > 0 ? inner_name : count_name);
    }
}

// Groups that limit a token, and choices that are no experts.
static void import_router(Importer *in)
{
    const char *name = NULL, *limit_name = NULL, *zero_name = NULL;
    double groups = import_number(in, &field_groups, 0, &name);
    double limit = import_number(in, &field_group_top_k, 0, &limit_name);
    double zero = import_number(in, &field_zero, 0, &zero_name);
    const char *kind = import_text(in, "zero_expert_type");
    bool said = import_said(in, KEY_MOE_groups) || import_said(in, KEY_MOE_group_top_k);
    if (groups > 1 && limit > 0 && limit < groups && !said && strcmp(import_text(in, "topk_method"), "greedy") != 0) {
        import_give(&in->moe, "groups", groups, name);
        import_give(&in->moe, "group_top_k", limit, limit_name);
    }
    if (zero > 0)
        import_give(&in->moe, "zero_experts", zero, zero_name);
    if (zero > 0 && kind[0] && strcmp(kind, "identity") != 0 && strcmp(kind, "zero") != 0)
        import_doubt(in, "'zero_expert_type' is '%.40s': taken for experts that compute nothing", kind);
}

static void import_experts(Importer *in, Sizes *s)
{
    const char *name = NULL;
    s->experts = import_number(in, &field_experts, 0, &name);
    if (s->experts <= 0) {
        if (!in->errors)
            import_report_missing(in, &field_experts,
                                  ": it describes a dense model, and there is nothing to plan for one");
        return;
    }
    import_give(&in->moe, "experts", s->experts, name);
    s->top_k = import_required(in, &field_top_k, 1, &name);
    import_give(&in->moe, "top_k", s->top_k, name ? name : "");
    double inner = import_number(in, &field_inner, 1, &name);
    const char *inner_name = name;
    s->expert_inner = import_optional(in, &field_expert_inner, 1, inner, &name);
    if (s->expert_inner < 0 && !in->errors)
        import_report_missing(in, &field_expert_inner, "");
    if (in->errors)
        return;
    import_give(&in->moe, "inner", s->expert_inner, name ? name : inner_name);
    const AstEntry *said = import_said(in, KEY_MODEL_inner);
    bool listed = said && evaluate(in->environment, said->value).kind == VALUE_LIST;
    s->inner = listed ? -1 : import_optional(in, &field_dense_inner, 1, inner, &name);
    bool dense_apart = name && !said;
    s->inner_name = name ? name : inner_name;
    import_shared(in, s, dense_apart);
    import_router(in);
    (void)import_activation(in);
}

// ---- layers ------------------------------------------------------------------------------------

// Which layers have experts, by their first and their distance where that says it, else as a list.
static void give_moe_layers(Importer *in, const Sizes *s)
{
    double first = 0, every = 0;
    uint32_t layers = (uint32_t)s->layers, count = 0;
    for (uint32_t k = 0; k < layers; k++)
        count += s->kinds[k].part == PART_MOE;
    while (first < layers && s->kinds[(uint32_t)first].part != PART_MOE)
        first++;
    for (double try_every = 1; try_every <= layers && every <= 0 && count > 0; try_every++) {
        bool fits = fmod(first + 1, try_every) == 0;
        for (uint32_t k = (uint32_t)first; k < layers && fits; k++)
            fits = (s->kinds[k].part == PART_MOE) == (fmod(k + 1, try_every) == 0);
        every = fits ? try_every : 0;
    }
    if (!count) {
        import_error(in, "no layer has experts");
    } else if (every > 0) {
        // As many dense layers at the start as there are, less what the distance says already.
        double start = first + 1 == every ? 0 : first;
        if (start > 0)
            import_give(&in->keys, "first_dense", start, "layers with experts");
        if (every > 1)
            import_give(&in->moe, "every", every, "layers with experts");
    } else {
        text_append(&in->moe, "layers = [");
        for (uint32_t k = 0, listed = 0; k < layers; k++)
            if (s->kinds[k].part == PART_MOE)
                text_format(&in->moe, "%s%u", listed++ ? ", " : "", k);
        text_append(&in->moe, "]  # layers with experts\n");
    }
}

static void import_dense_layers(Importer *in, const Sizes *s)
{
    bool dense = false, none = false;
    for (uint32_t k = 0; k < s->layers; k++) {
        dense = dense || s->kinds[k].part == PART_DENSE;
        none = none || s->kinds[k].part == PART_NONE;
    }
    const AstEntry *said = import_said(in, KEY_MODEL_inner);
    if (dense && s->inner < 0 && !said && !import_said(in, KEY_MOE_layers))
        import_report_missing(in, &field_inner, " for its dense layers");
    if (!none && s->inner > 0)
        import_give(&in->keys, "inner", s->inner, s->inner_name);
    if (!none || said)
        return;
    text_append(&in->keys, "inner = [");
    for (uint32_t k = 0; k < s->layers; k++)
        text_format(&in->keys, "%s%.0f", k ? ", " : "", s->kinds[k].part == PART_DENSE ? s->inner : 0);
    text_append(&in->keys, "]  # layers with a feed-forward part\n");
}

// ---- the whole -------------------------------------------------------------------------------

static void import_dtype(Importer *in)
{
    static const char *const names[] = {"dtype", "torch_dtype", NULL};
    static const struct {
        const char *theirs, *ours;
    } dtypes[] = {{"bfloat16", "bf16"}, {"float16", "f16"}, {"float32", "f32"}, {"float8_e4m3fn", "bf16"}};
    const char *name = NULL;
    const cJSON *item = import_find(in, names, &name);
    for (size_t i = 0; cJSON_IsString(item) && i < COUNT_OF(dtypes); i++)
        if (strcmp(item->valuestring, dtypes[i].theirs) == 0)
            text_format(&in->keys, "dtype = %s  # %s\n", dtypes[i].ours, name);
}

// The entry that says the same thing: of the same name and, of mixers, with the same label.
static AstEntry *find_given(AstEntries entries, const AstEntry *like)
{
    AstEntry *entry = entries.first;
    while (entry && (!entry->name || strcmp(entry->name, like->name) != 0 ||
                     (entry->label && like->label && strcmp(entry->label, like->label) != 0)))
        entry = entry->next;
    return entry;
}

// Appends what the block does not say itself.
static void merge(AstEntries *into, AstEntries from)
{
    for (AstEntry *entry = from.first, *next; entry; entry = next) {
        next = entry->next;
        AstEntry *given = find_given(*into, entry);
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

// Do experts work on rows of another size than the hidden one?
static bool has_latent_rows(Importer *in, const char **name)
{
    static const char *const sizes[] = {"moe_latent_size", "moe_hidden_size", NULL};
    double size = 0, hidden_size = 0;
    const cJSON *item = import_find(in, sizes, name), *hidden = import_find(in, field_hidden.names, NULL);
    if (hidden)
        (void)import_number_of(hidden, &hidden_size);
    return item && import_number_of(item, &size) && size > 0 && size != hidden_size;
}

// Kinds of models that are refused, with the reason.
static bool is_refused(Importer *in)
{
    static const char *const encoders[] = {"num_encoder_layers", "encoder_layers", "num_sparse_encoder_layers", NULL};
    const char *name = "is_encoder_decoder";
    double layers = 0;
    const cJSON *item = import_find(in, encoders, &name);
    bool counted = item && import_number_of(item, &layers) && layers > 0;
    if (import_is_true(in, "is_encoder_decoder") || counted) {
        import_error(in,
                     "it describes an encoder and a decoder ('%s'), and only models that are decoders alone can be "
                     "planned",
                     counted ? name : "is_encoder_decoder");
    } else if (has_latent_rows(in, &name)) {
        import_error(in, "its experts work on rows of a size of their own ('%s'), which cannot be planned", name);
    } else if (strcmp(import_text(in, "model_type"), "jetmoe") == 0) {
        import_error(in, "its attention has experts, too ('model_type' is 'jetmoe'), which cannot be planned");
    }
    return in->errors > 0;
}

// Extra prediction heads have layers of their own, which are not counted.
static uint32_t extra_layers(Importer *in)
{
    static const char *const names[] = {"num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers",
                                        "num_mtp_layers",           "mtp_num_layers",  NULL};
    double value = 0;
    const cJSON *item = import_find(in, names, NULL);
    return item && import_number_of(item, &value) && value > 0 && value < 100 ? (uint32_t)value : 0;
}

static bool read_config(Importer *in, Sizes *s, SpecModel *model)
{
    const char *name = NULL;
    if (is_refused(in))
        return false;
    s->layers = import_number(in, &field_layers, 1, &name);
    if (!name)
        s->layers = import_listed_layers(in, &name);
    if (!name)
        import_report_missing(in, &field_layers, "");
    else if (s->layers > key_info(KEY_MODEL_layers)->max)
        import_error(in, "'%s' has %.0f layers, at most %.0f can be planned", name, s->layers,
                     key_info(KEY_MODEL_layers)->max);
    import_give(&in->keys, "layers", s->layers, name ? name : "");
    s->hidden = import_required(in, &field_hidden, 1, &name);
    import_give(&in->keys, "hidden", s->hidden, name ? name : "");
    if (in->errors) // nothing else is worth looking for
        return false;
    s->kinds = arena_alloc_array(in->arena, (uint64_t)s->layers, sizeof(*s->kinds));
    import_layer_kinds(in, (uint32_t)s->layers, s->kinds);
    import_attention(in, s);
    s->vocabulary = import_required(in, &field_vocabulary, 1, &name);
    import_give(&in->keys, "vocabulary", s->vocabulary, name ? name : "");
    import_dtype(in);
    import_experts(in, s);
    if (in->errors)
        return false;
    bool said =
        import_said(in, KEY_MODEL_first_dense) || import_said(in, KEY_MOE_every) || import_said(in, KEY_MOE_layers);
    if (!said)
        give_moe_layers(in, s);
    import_dense_layers(in, s);
    import_weights(in);
    model->published = true;
    model->head_apart = !cJSON_IsTrue(import_find_outer(in, tied_names));
    model->extra_layers = extra_layers(in);
    return in->errors == 0;
}

// Parses what was found, and adds it to the block.
static bool complete(Importer *in, AstEntry *block)
{
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
    cJSON *json = import_load(arena, diag, in.place, in.path, CONFIG_BYTES_MAX, false);
    if (!json)
        return false;
    Sizes sizes = {0};
    bool good = import_is_searchable(&in, json);
    if (good) {
        import_choose_config(&in, json);
        good = read_config(&in, &sizes, model);
    }
    if (good)
        import_report_unknown(&in, sizes.layers);
    good = good && complete(&in, block);
    cJSON_Delete(json);
    text_free(&in.keys);
    text_free(&in.moe);
    text_free(&in.doubts);
    return good;
}
