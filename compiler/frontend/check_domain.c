// How experts are shared out, and the domain sizes that were asked for, by the file or on the command line. Requires a
// checked cluster, model and plan block.
#include <stdlib.h>
#include <string.h>

#include "compiler/frontend/check_keys.h"
#include "grammar/parse.h"
#include "ir/codec.h"

// ---- whole experts ---------------------------------------------------------------------------

static int find_level(const Cluster *cluster, const char *name)
{
    for (uint32_t l = 0; l < cluster->level_count; l++)
        if (strcmp(cluster->levels[l].name, name) == 0)
            return (int)l;
    return -1;
}

// A mean of experts is subtracted from whole ones: where a GPU owns parts of some, there is none.
static void check_packets(Checker *checker)
{
    const Spec *spec = checker->spec;
    if (!spec_needs_whole_experts(spec) || spec_owns_whole_experts(spec))
        return;
    uint64_t gpus = share_gpus(&spec->cluster, spec->replica_levels);
    uint32_t experts = spec->model.experts, below = 1, above = experts;
    diag_error(
        checker->diag, value_span(checker, checker->keys[KEY_MIGRATION_codec]),
        "%llu GPUs own parts of %u experts, and '%s' subtracts the mean of whole ones: expected 'dense', 'delta', "
        "'sign' or 'q4'",
        (unsigned long long)gpus, experts, codec_name(spec->plan.experts.codec));
    for (uint32_t d = 1; d <= experts; d++)
        if (experts % d == 0 && d < gpus)
            below = d;
        else if (experts % d == 0 && d < above)
            above = d;
    if (gpus < experts)
        diag_help(checker->diag, "%u or %u GPUs, which divide %u experts, would own whole ones", below, above, experts);
    else
        diag_help(checker->diag, "up to %u GPUs, one for every expert, could own whole ones", experts);
}

// Where packets are decoded. `key` may be NULL.
static void check_coded_levels(Checker *checker, const AstEntry *key, bool open, Coding *coding)
{
    Spec *spec = checker->spec;
    if (!key)
        return;
    int level = key->value->kind == EXPR_NAME ? find_level(&spec->cluster, key->value->text) : -1;
    if (level < 0)
        diag_error(checker->diag, value_span(checker, key),
                   "'levels' must be a level of the cluster: the innermost that packets cross");
    else if (!open && !coding_encodes(coding)) // `auto` may
        diag_error(checker->diag, value_span(checker, key),
                   "'levels' goes with a 'codec' or a 'gradient': here everything travels whole");
    else
        coding->whole_levels = spec->cluster.level_count - 1 - (uint32_t)level;
}

// Over which levels experts are gathered once and for all.
static void check_replicas(Checker *checker)
{
    Spec *spec = checker->spec;
    const AstEntry *key = checker->keys[KEY_PLAN_replicas];
    if (!key)
        return;
    int level = key->value->kind == EXPR_NAME ? find_level(&spec->cluster, key->value->text) : -1;
    if (level < 0)
        diag_error(checker->diag, value_span(checker, key),
                   "'replicas' must be a level of the cluster: the innermost over which experts are gathered once");
    else if (spec->plan.pass == PASS_TRAINING)
        diag_error(checker->diag, value_span(checker, key),
                   "experts change in every iteration of training: 'replicas' goes with pass 'forward'");
    else
        spec->plan.replicas = (uint32_t)level + 1;
}

// Whose workers train apart, each with all weights: one level at least is inside, whose workers share these out.
static void check_sync_level(Checker *checker)
{
    Spec *spec = checker->spec;
    const AstEntry *key = checker->keys[KEY_SYNC_level];
    if (!key)
        return;
    int level = key->value->kind == EXPR_NAME ? find_level(&spec->cluster, key->value->text) : -1;
    if (level < 0 || level + 1 == (int)spec->cluster.level_count)
        diag_error(
            checker->diag, value_span(checker, key),
            "'level' must be a level of the cluster, but not the innermost: its workers train apart, those inside "
            "share weights out");
    else
        spec->replica_levels = (uint32_t)level + 1;
}

// Dense weights that packets brought are kept: nothing brings those again.
static void check_kept_dense(Checker *checker)
{
    const SpecPlan *plan = &checker->spec->plan;
    const AstEntry *key = checker->keys[KEY_PLAN_once_dense];
    if (!key || plan->once_dense != ONCE_DENSE_NONE || !coding_encodes(&plan->dense))
        return;
    diag_error(checker->diag, value_span(checker, key),
               "dense weights that are encoded are not gathered again over all levels: expected 'auto' or 'all'");
}

// Outermost levels up to the one that is named: "none" of them, or all up to a level. -1: there is no such level.
static int find_boundary(const Cluster *cluster, const char *name)
{
    int level = find_level(cluster, name);
    return level >= 0 ? level + 1 : strcmp(name, "none") == 0 ? 0 : -1;
}

// The boundary of gradients.
static void check_once_gradient(Checker *checker)
{
    SpecPlan *plan = &checker->spec->plan;
    const AstEntry *key = checker->keys[KEY_PLAN_once_gradient];
    const char *name = key && key->value->kind == EXPR_NAME ? key->value->text : "";
    if (!key || strcmp(name, "auto") == 0)
        return;
    int levels = find_boundary(&checker->spec->cluster, name);
    bool as_weights = strcmp(name, "weights") == 0;
    if (plan->pass == PASS_FORWARD || checker->spec->model.abstract)
        diag_error(checker->diag, value_span(checker, key),
                   "'once_gradient' goes with training a model that is given by its dimensions");
    else if (levels < 0 && !as_weights)
        diag_error(checker->diag, value_span(checker, key),
                   "'once_gradient' must be auto, weights, none or a level of the cluster: the innermost that "
                   "gradients cross once per iteration");
    else if (plan->micro_batches < 2)
        diag_error(checker->diag, value_span(checker, key),
                   "gradients return once in an iteration of one micro-batch: 'once_gradient' goes with several "
                   "'micro_batches'");
    plan->gradient_request = as_weights ? GRADIENTS_AS_WEIGHTS : GRADIENTS_FORCED;
    plan->returns_apart = !as_weights && levels >= 0;
    plan->gradient_levels = plan->returns_apart ? (uint32_t)levels : 0;
}

static void check_kept_embedding(Checker *checker)
{
    const SpecPlan *plan = &checker->spec->plan;
    const AstEntry *key = checker->keys[KEY_PLAN_once_embedding];
    if (key && plan->once_embedding == ONCE_DENSE_NONE && coding_encodes(&plan->dense))
        diag_error(checker->diag, value_span(checker, key),
                   "an embedding that is encoded is not gathered again: expected 'auto' or 'all'");
}

// ---- domain sizes ----------------------------------------------------------------------------

static const char *list_divisors(Arena *arena, uint32_t count)
{
    enum { LISTED_MAX = 16 };
    Text text = {0};
    int listed = 0;
    for (uint32_t d = 1; d <= count && listed < LISTED_MAX; d++)
        if (count % d == 0)
            text_format(&text, listed++ ? ", %u" : "%u", d);
    if (listed == LISTED_MAX)
        text_append(&text, ", ...");
    const char *result = arena_copy_string(arena, text.data, text.length);
    text_free(&text);
    return result;
}

static void set_size(Checker *checker, uint32_t level, const AstExpr *expr)
{
    Spec *spec = checker->spec;
    const Level *of = &spec->cluster.levels[level];
    uint32_t size;
    if (!evaluate_count(checker, expr, of->name, 1, of->count, &size))
        return;
    if (of->count % size) {
        diag_error(checker->diag, expr->span,
                   "the domain size must divide the level's count: '%s' has %u workers, got %u", of->name, of->count,
                   size);
        diag_note(checker->diag, spec->level_spans[level], "the level is defined here");
        diag_help(checker->diag, "sizes that divide %u: %s", of->count, list_divisors(checker->arena, of->count));
        return;
    }
    if (level < spec->replica_levels && size != of->count) {
        diag_error(checker->diag, expr->span, "the domain size of '%s' can only be its count %u here, got %u", of->name,
                   of->count, size);
        if (spec->plan.sync.every > 0)
            diag_note(checker->diag, value_span(checker, checker->keys[KEY_SYNC_level]),
                      "every worker of '%s' trains apart, with all experts", of->name);
        else
            diag_note(checker->diag, key_span(checker, KEY_MOE_experts, BLOCK_MOE),
                      "in a forward pass experts do not change: the workers of '%s' gathered theirs before the first "
                      "iteration",
                      of->name);
        return;
    }
    spec->plan.domain[level] = size;
}

static void report_unknown_level(Checker *checker, const AstEntry *entry)
{
    const Cluster *cluster = &checker->spec->cluster;
    const char *names[LEVELS_MAX];
    for (uint32_t l = 0; l < cluster->level_count; l++)
        names[l] = cluster->levels[l].name;
    diag_error(checker->diag, entry->name_span, "cluster '%s' has no level '%s'", cluster->name, entry->name);
    const char *suggestion = nearest_word(entry->name, names, cluster->level_count);
    if (suggestion)
        diag_help(checker->diag, "did you mean '%s'?", suggestion);
}

static void set_sizes_by_name(Checker *checker, AstEntries entries)
{
    const AstEntry *given[LEVELS_MAX] = {0};
    for (const AstEntry *entry = entries.first; entry; entry = entry->next) {
        if (entry->kind != ENTRY_VALUE) {
            diag_error(checker->diag, entry->name_span, "expected a level and its domain size, such as 'dc = 2'");
            continue;
        }
        int level = find_level(&checker->spec->cluster, entry->name);
        if (level < 0) {
            report_unknown_level(checker, entry);
        } else if (given[level]) {
            diag_error(checker->diag, entry->name_span, "'%s' is given twice", entry->name);
            diag_note(checker->diag, given[level]->name_span, "first given here");
        } else {
            given[level] = entry;
            set_size(checker, (uint32_t)level, entry->value);
        }
    }
}

static void set_sizes_by_order(Checker *checker, const AstExpr *list)
{
    const Cluster *cluster = &checker->spec->cluster;
    uint32_t count = 0;
    for (const AstExpr *item = list->items.first; item; item = item->next)
        count++;
    if (count != cluster->level_count) {
        diag_error(checker->diag, list->span, "expected one domain size for each of the %u levels, got %u",
                   cluster->level_count, count);
        return;
    }
    uint32_t level = 0;
    for (const AstExpr *item = list->items.first; item; item = item->next)
        set_size(checker, level++, item);
}

static void fill_domain(Spec *spec, bool gather)
{
    spec_ep_domain(spec, spec->plan.domain);
    for (uint32_t l = 0; gather && l < spec->cluster.level_count; l++)
        spec->plan.domain[l] = spec->cluster.levels[l].count;
}

// Sizes that leave a number of places that does not divide the experts: says which one size would do instead.
static void report_places(Checker *checker, Span span, const uint32_t wanted[LEVELS_MAX])
{
    const Spec *spec = checker->spec;
    const Cluster *cluster = &spec->cluster;
    uint64_t places = 1;
    for (uint32_t l = 0; l < cluster->level_count; l++)
        places *= wanted[l] ? cluster->levels[l].count / wanted[l] : 1;
    diag_error(checker->diag, span, "%u experts cannot be divided evenly among %llu domains", spec->model.experts,
               (unsigned long long)places);
    diag_note(checker->diag, key_span(checker, KEY_MOE_experts, BLOCK_MOE), "'experts' is given here");
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        uint32_t other[LEVELS_MAX];
        memcpy(other, wanted, sizeof(other));
        other[l] = 0;
        if (wanted[l] && l >= spec->replica_levels && spec_least_domain(spec, other))
            diag_help(checker->diag, "'%s = %u' instead of %u would do", cluster->levels[l].name, other[l], wanted[l]);
    }
}

// The sizes that were given; other levels gather as little as they can with these.
static void complete_domain(Checker *checker, Span span)
{
    uint32_t wanted[LEVELS_MAX];
    memcpy(wanted, checker->spec->plan.domain, sizeof(wanted));
    if (!spec_least_domain(checker->spec, checker->spec->plan.domain))
        report_places(checker, span, wanted);
}

static bool find_request(const char *name, DomainRequest *out)
{
    static const struct {
        const char *name;
        DomainRequest request;
    } requests[] = {{"auto", DOMAIN_AUTO}, {"ep", DOMAIN_EP}, {"gather", DOMAIN_GATHER}};
    for (size_t i = 0; i < COUNT_OF(requests); i++) {
        if (strcmp(requests[i].name, name) == 0) {
            *out = requests[i].request;
            return true;
        }
    }
    return false;
}

static bool is_option(const Checker *checker, const AstExpr *expr)
{
    return strcmp(diag_source_name(checker->diag, expr->span.source), "--domain") == 0;
}

static void check_domain_value(Checker *checker, const AstExpr *expr)
{
    SpecPlan *plan = &checker->spec->plan;
    plan->domain_span = expr->span;
    if (expr->kind == EXPR_NAME && find_request(expr->text, &plan->domain_request)) {
        fill_domain(checker->spec, plan->domain_request == DOMAIN_GATHER);
        return;
    }
    Value value = evaluate(checker->environment, expr);
    if (value.kind == VALUE_SYMBOL && find_request(value.text, &plan->domain_request)) {
        fill_domain(checker->spec, plan->domain_request == DOMAIN_GATHER);
        return;
    }
    size_t mark = diag_error_count(checker->diag);
    plan->domain_request = DOMAIN_FORCED;
    memset(plan->domain, 0, sizeof(plan->domain));
    if (value.kind == VALUE_RECORD)
        set_sizes_by_name(checker, value.expr->entries);
    else if (value.kind == VALUE_LIST)
        set_sizes_by_order(checker, value.expr);
    else if (value.kind != VALUE_ERROR)
        environment_error(checker->environment, expr, "'domain' must be auto, ep, gather or sizes such as '%s', got %s",
                          is_option(checker, expr) ? "dc=2,gpu=8" : "{ dc = 2  gpu = 8 }",
                          value_text(checker->arena, &value));
    if (value.kind == VALUE_STRING)
        diag_help(checker->diag, "write it without quotes");
    if (diag_error_count(checker->diag) == mark)
        complete_domain(checker, expr->span);
}

// ---- --domain ----------------------------------------------------------------------------------

// "dc=2,gpu=8": the same as a record, with commas; "ep" and the like: a name. `text` is the option with all but
// one part of it blanked, so that places stay where they are.
static const AstExpr *parse_part(Checker *checker, uint32_t source, char *text, size_t begin, size_t end)
{
    size_t length = strlen(text);
    AstExpr *expr = arena_alloc(checker->arena, sizeof(*expr));
    *expr = (AstExpr){.kind = EXPR_NAME,
                      .depth = 1,
                      .span = {source, (uint32_t)begin, (uint32_t)end},
                      .text = arena_copy_string(checker->arena, text + begin, end - begin)};
    if (!memchr(text + begin, '=', end - begin))
        return expr;
    for (char *c = text; *c; c++)
        if (*c == ',')
            *c = ' ';
    Ast *ast = grammar_parse(checker->arena, checker->diag, source, text, length);
    if (!ast)
        return NULL;
    expr->kind = EXPR_RECORD;
    expr->entries = ast->entries;
    return expr;
}

// "3-5:" or "3:" before the sizes. Returns where the sizes begin; SIZE_MAX after reporting.
static size_t parse_layers(Checker *checker, uint32_t source, const char *option, size_t begin, size_t end,
                           ForcedRun *run)
{
    const char *colon = memchr(option + begin, ':', end - begin);
    uint32_t layers = checker->spec->model.layers;
    *run = (ForcedRun){.first_layer = 0, .last_layer = layers - 1};
    if (!colon)
        return begin;
    char *rest;
    unsigned long first = strtoul(option + begin, &rest, 10), last = first;
    bool good = rest != option + begin && option[begin] != '-';
    if (good && *rest == '-')
        last = strtoul(rest + 1, &rest, 10);
    if (good && rest == colon && first <= last && last < layers) {
        run->first_layer = (uint32_t)first;
        run->last_layer = (uint32_t)last;
        return (size_t)(colon - option) + 1;
    }
    diag_error(checker->diag, (Span){source, (uint32_t)begin, (uint32_t)(colon - option)},
               "expected layers such as '3' or '0-3', from 0 to %u", layers - 1);
    const char *name = arena_copy_string(checker->arena, option + begin, (size_t)(colon - option) - begin);
    if (find_level(&checker->spec->cluster, name) >= 0)
        diag_help(checker->diag, "sizes are written with '=', such as '%s=2'", name);
    return SIZE_MAX;
}

// A word that says what is kept of gathered experts is no size: it is blanked out, with what sets it apart.
static void take_word(Checker *checker, uint32_t source, char *text, char *word, size_t length, ForcedRun *run)
{
    uint32_t coded = spec_coded_levels(checker->spec);
    Span span = {source, (uint32_t)(word - text), (uint32_t)((size_t)(word - text) + length)};
    run->regather = true;
    memset(word, ' ', length);
    if (checker->spec->plan.pass == PASS_FORWARD)
        diag_error(checker->diag, span, "nothing is gathered again in a forward pass");
    else if (codec_info(checker->spec->plan.experts.codec)->remembers &&
             (run->once < coded || checker->spec->plan.experts.whole_levels == 0))
        diag_error(checker->diag, span, "codec '%s' keeps its replicas: nothing is gathered again%s",
                   codec_name(checker->spec->plan.experts.codec),
                   checker->spec->plan.experts.whole_levels > 0 ? " but inside of 'levels'" : "");
    while (word > text && (word[-1] == ' ' || word[-1] == ','))
        *--word = ' ';
}

// "once=dc": what that level and those outside it gather is kept, levels inside are gathered again; "all", "none".
static void take_once(Checker *checker, uint32_t source, char *text, char *word, ForcedRun *run)
{
    size_t key = strlen("once="), length = strcspn(word + key, " ,;");
    const char *name = arena_copy_string(checker->arena, word + key, length);
    int level = find_level(&checker->spec->cluster, name);
    bool all = strcmp(name, "all") == 0, none = strcmp(name, "none") == 0;
    Span span = {source, (uint32_t)(word - text) + (uint32_t)key, (uint32_t)((size_t)(word - text) + key + length)};
    if (level < 0 && !all && !none) {
        diag_error(checker->diag, span, "expected a level, 'all' or 'none' after 'once='");
        diag_help(checker->diag,
                  "the innermost level whose gathers happen once: what is inside is gathered again for the "
                  "backward pass");
    } else if (level >= 0 && codec_info(checker->spec->plan.experts.codec)->encodes &&
               (uint32_t)level + 1 < spec_coded_levels(checker->spec)) {
        diag_error(checker->diag, span, "packets of codec '%s' are decoded after %s: expected 'all' or 'none'",
                   codec_name(checker->spec->plan.experts.codec),
                   checker->spec->plan.experts.whole_levels > 0 ? "'levels'" : "all levels");
    }
    all |= level == (int)checker->spec->cluster.level_count - 1;
    run->once = level >= 0 && !all ? (uint32_t)level + 1 : 0;
    take_word(checker, source, text, word, key + length, run);
    run->regather = !all;
}

// "once_gradient=dc": gradients cross that level and those outside it once per iteration, levels inside in every lap;
// "all" and "none".
static void take_gradient(Checker *checker, uint32_t source, char *text, char *word, ForcedRun *run)
{
    size_t key = strlen("once_gradient="), length = strcspn(word + key, " ,;");
    const Cluster *cluster = &checker->spec->cluster;
    const char *name = arena_copy_string(checker->arena, word + key, length);
    int levels = strcmp(name, "all") == 0 ? (int)cluster->level_count : find_boundary(cluster, name);
    Span span = {source, (uint32_t)(word - text) + (uint32_t)key, (uint32_t)((size_t)(word - text) + key + length)};
    if (levels < 0) {
        diag_error(checker->diag, span, "expected a level, 'all' or 'none' after 'once_gradient='");
        diag_help(checker->diag, "the innermost level that gradients cross once per iteration of several laps");
    } else if (checker->spec->plan.pass == PASS_FORWARD || checker->spec->model.abstract) {
        diag_error(checker->diag, span, "'once_gradient' goes with training a model that is given by its dimensions");
    } else if (run->regather && (uint32_t)levels > run->once) {
        diag_error(checker->diag, span, "gradients do not cross a level once over which weights are gathered again");
        diag_help(checker->diag, "expected a level that is not inside that of 'once', or 'none'");
    }
    run->gives_gradients = true;
    run->once_gradient = levels > 0 ? (uint32_t)levels : 0;
    memset(word, ' ', key + length);
    while (word > text && (word[-1] == ' ' || word[-1] == ','))
        *--word = ' ';
}

void check_lap_size(Checker *checker, Span span, uint64_t lap)
{
    SpecPlan *plan = &checker->spec->plan;
    bool automatic = (int)plan->experts.codec == CODEC_AUTO && !coding_encodes(&plan->dense);
    if (lap == 0 || lap > plan->micro_batches || plan->micro_batches % lap != 0) {
        diag_error(checker->diag, span, "a lap has a number of micro-batches that divides the %u of the iteration",
                   plan->micro_batches);
        return;
    }
    if (lap < plan->micro_batches && !automatic && spec_encodes(checker->spec)) {
        diag_error(checker->diag, span, "%s that are encoded go with one lap of all %u micro-batches",
                   spec_encodes_experts(checker->spec) ? "experts" : "dense weights", plan->micro_batches);
        return;
    }
    plan->lap_request = (uint32_t)lap;
    plan->lap = lap < plan->micro_batches ? plan->lap_request : 0;
}

static bool is_in_name(char c)
{
    return c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

static char *find_lap(char *text)
{
    char *word = strstr(text, "lap=");
    while (word && word > text && is_in_name(word[-1]))
        word = strstr(word + 1, "lap=");
    return word;
}

// "lap=4": so many micro-batches pass a layer before the next one; of the whole plan, wherever it is written. It is
// blanked out, with what sets it apart.
static void take_lap(Checker *checker, uint32_t source, char *text)
{
    char *word = find_lap(text);
    if (!word)
        return;
    size_t key = strlen("lap="), length = strspn(word + key, "0123456789"), end = key + length;
    uint32_t begin = (uint32_t)(word - text) + (uint32_t)key;
    Span span = {source, begin, begin + (uint32_t)(length ? length : 1)};
    unsigned long lap = length && length < 10 ? strtoul(word + key, NULL, 10) : 0;
    memset(word, ' ', end);
    char *before = word;
    while (before > text && before[-1] == ' ')
        before--;
    if (before > text && before[-1] == ',')
        before[-1] = ' ';
    else if (word[end] == ',')
        word[end] = ' ';
    if (checker->spec->plan.pass == PASS_FORWARD || checker->spec->model.abstract)
        diag_error(checker->diag, span, "laps go with training a model that is given by its dimensions");
    else
        check_lap_size(checker, span, lap);
}

static void check_part(Checker *checker, uint32_t source, const char *option, size_t begin, size_t end, ForcedRun *run)
{
    size_t length = strlen(option), sizes = parse_layers(checker, source, option, begin, end, run);
    if (sizes == SIZE_MAX)
        return;
    char *text = arena_copy_string(checker->arena, option, length);
    memset(text, ' ', sizes);
    memset(text + end, ' ', length - end);
    char *regather = strstr(text, "regather"), *once = strstr(text, "once=");
    if (regather)
        take_word(checker, source, text, regather, strlen("regather"), run);
    else if (once)
        take_once(checker, source, text, once, run);
    char *gradient = strstr(text, "once_gradient=");
    if (gradient)
        take_gradient(checker, source, text, gradient, run);
    size_t last = end;
    while (last > sizes && (text[last - 1] == ' ' || text[last - 1] == ','))
        last--;
    const AstExpr *expr = parse_part(checker, source, text, sizes, last);
    if (expr)
        check_domain_value(checker, expr);
    memcpy(run->domain, checker->spec->plan.domain, sizeof(run->domain));
}

// "dc=2,gpu=8", or for layers apart "0-3:dc=2,gpu=8; 4-11:dc=1,gpu=8,regather".
static void check_domain_option(Checker *checker, const char *given)
{
    SpecPlan *plan = &checker->spec->plan;
    size_t length = strlen(given), parts = 1, mark = diag_error_count(checker->diag);
    uint32_t source = diag_add_source(checker->diag, "--domain", given, length, NULL);
    char *option = arena_copy_string(checker->arena, given, length);
    take_lap(checker, source, option);
    if (strspn(option, " ") == length && strspn(given, " ") < length)
        return; // nothing else
    for (const char *c = option; *c; c++)
        parts += *c == ';';
    ForcedRun *runs = arena_alloc_array(checker->arena, parts, sizeof(*runs));
    for (size_t begin = 0, i = 0; i < parts; i++) {
        const char *semicolon = strchr(option + begin, ';');
        size_t end = semicolon ? (size_t)(semicolon - option) : length;
        while (begin < end && option[begin] == ' ')
            begin++;
        check_part(checker, source, option, begin, end, &runs[i]);
        begin = end + 1;
    }
    if (diag_error_count(checker->diag) > mark || (parts == 1 && !runs[0].regather && !runs[0].gives_gradients &&
                                                   !strchr(option, ':') && !strstr(option, "once=")))
        return;
    if (plan->domain_request == DOMAIN_AUTO) {
        diag_error(checker->diag, (Span){source, 0, (uint32_t)length}, "'auto' goes with nothing else");
        return;
    }
    fill_domain(checker->spec, false); // layers in no run: plain EP
    plan->domain_request = DOMAIN_FORCED;
    plan->forced = runs;
    plan->forced_count = (uint32_t)parts;
}

void check_shares_and_domain(Checker *checker, const char *domain_option)
{
    Spec *spec = checker->spec;
    check_replicas(checker);
    if (spec->model.experts) // an abstract workload that does not say: every GPU owns its share
        spec->replica_levels = spec_replica_levels(spec);
    check_sync_level(checker);
    check_coded_levels(checker, checker->keys[KEY_MIGRATION_levels],
                       spec->plan.open[PRICED_EXPERTS] || spec->plan.open[PRICED_GRADIENTS], &spec->plan.experts);
    check_coded_levels(checker, checker->keys[KEY_DENSE_levels],
                       spec->plan.open[PRICED_DENSE] || spec->plan.open[PRICED_DENSE_GRADIENTS], &spec->plan.dense);
    check_kept_dense(checker);
    check_once_gradient(checker);
    check_kept_embedding(checker);
    check_packets(checker);
    const AstEntry *in_file = checker->keys[KEY_PLAN_domain];
    fill_domain(checker->spec, false);
    if (in_file)
        check_domain_value(checker, in_file->value);
    if (domain_option)
        check_domain_option(checker, domain_option);
}
