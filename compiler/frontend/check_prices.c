// Choices that are left open within a price: `auto` beside `max_loss_increase`. For all other checks they are exact;
// what they become is the planner's business (choose/choose_priced.c). Figures are those of ir/price.h.
#include <math.h>

#include "compiler/frontend/check_keys.h"

static const struct {
    KeyId key;
    int ratio; // the KeyId of its ratio; -1: it has none
} parts[PRICED_PARTS] = {
    [PRICED_EXPERTS] = {KEY_MIGRATION_codec, KEY_MIGRATION_ratio},
    [PRICED_GRADIENTS] = {KEY_MIGRATION_gradient, KEY_MIGRATION_gradient_ratio},
    [PRICED_DENSE] = {KEY_DENSE_codec, KEY_DENSE_ratio},
    [PRICED_DENSE_GRADIENTS] = {KEY_DENSE_gradient, KEY_DENSE_gradient_ratio},
    [PRICED_TOKENS] = {KEY_PLAN_tokens, -1},
};

// Without a price `auto` is a matter of experts' weights alone: the fastest codec, whatever it costs.
static void find_open_choices(const SpecPlan *plan, bool priced, bool open[PRICED_PARTS])
{
    open[PRICED_EXPERTS] = priced && (int)plan->experts.codec == CODEC_AUTO;
    open[PRICED_GRADIENTS] = (int)plan->experts.gradient == GRADIENT_COUNT;
    open[PRICED_DENSE] = (int)plan->dense.codec == CODEC_COUNT;
    open[PRICED_DENSE_GRADIENTS] = (int)plan->dense.gradient == GRADIENT_COUNT;
    open[PRICED_TOKENS] = (int)plan->tokens_all == TOKEN_FORMAT_COUNT;
}

static void make_exact(SpecPlan *plan)
{
    plan->experts.codec = plan->open[PRICED_EXPERTS] ? CODEC_DENSE : plan->experts.codec;
    plan->experts.gradient = plan->open[PRICED_GRADIENTS] ? GRADIENT_DENSE : plan->experts.gradient;
    plan->dense.codec = plan->open[PRICED_DENSE] ? CODEC_DENSE : plan->dense.codec;
    plan->dense.gradient = plan->open[PRICED_DENSE_GRADIENTS] ? GRADIENT_DENSE : plan->dense.gradient;
    plan->tokens_all = plan->open[PRICED_TOKENS] ? TOKENS_FULL : plan->tokens_all;
}

void check_open_choices(Checker *checker)
{
    SpecPlan *plan = &checker->spec->plan;
    bool priced = checker->keys[KEY_PLAN_max_loss_increase];
    if (!priced)
        plan->max_loss_increase = INFINITY;
    find_open_choices(plan, priced, plan->open);
    make_exact(plan);
    for (int part = 0; part < PRICED_PARTS; part++) {
        const AstEntry *ratio = parts[part].ratio >= 0 ? checker->keys[parts[part].ratio] : NULL;
        if (plan->open[part] && !priced)
            diag_error(checker->diag, value_span(checker, checker->keys[parts[part].key]),
                       "'auto' needs 'max_loss_increase' in 'plan', such as '0.5 %%': what may be lost");
        if (plan->open[part] && ratio) {
            diag_error(checker->diag, value_span(checker, ratio),
                       "'%s' does not go with 'auto' within 'max_loss_increase', which has ratios of its own",
                       ratio->name);
            checker->keys[parts[part].ratio] = NULL;
        }
    }
    if (plan->open[PRICED_TOKENS] && checker->blocks[BLOCK_TOKENS])
        diag_error(checker->diag, block_head_span(checker->blocks[BLOCK_TOKENS]),
                   "'tokens = auto' is of all ways: there are no figures of single ones");
}

static const char *choice_name(PricedPart part, int code)
{
    switch (part) {
    case PRICED_EXPERTS:
    case PRICED_DENSE:
        return codec_name((Codec)code);
    case PRICED_GRADIENTS:
    case PRICED_DENSE_GRADIENTS:
        return gradient_name((GradientReturn)code);
    case PRICED_TOKENS:
    case PRICED_PARTS:
        break;
    }
    return token_format_name((TokenFormat)code);
}

static void report_missing(Checker *checker, PricedPart part)
{
    Text known = {0};
    diag_error(checker->diag, key_span(checker, parts[part].key, BLOCK_PLAN),
               "'max_loss_increase' needs a figure of every choice, and there is none of this one of %s",
               priced_part_text(part));
    const Price *price;
    for (size_t i = 0; (price = price_at(i)); i++) {
        if (price->part != part)
            continue;
        text_format(&known, "%s'%s'", known.length > 0 ? ", " : "", choice_name(part, price->choice.code));
        if (price->choice.ratio > 1)
            text_format(&known, " at ratio %g", price->choice.ratio);
    }
    diag_help(checker->diag, "there are figures of %s%s", known.data,
              part == PRICED_TOKENS ? ", for all four ways alike" : "");
    text_free(&known);
}

void check_loss_increase(Checker *checker)
{
    const SpecPlan *plan = &checker->spec->plan;
    const AstEntry *key = checker->keys[KEY_PLAN_max_loss_increase];
    LossyChoice choices[PRICED_PARTS];
    PricedPart missing;
    double increase;
    if (!key)
        return;
    lossy_choices(&plan->experts, &plan->dense, plan->tokens, choices);
    if (plan->pass == PASS_FORWARD || checker->spec->model.abstract)
        diag_error(checker->diag, value_span(checker, key),
                   "'max_loss_increase' goes with training a model that is given by its dimensions");
    else if (plan->sync.every > 0)
        diag_error(checker->diag, value_span(checker, key),
                   "'max_loss_increase' needs a figure of every choice, and there is none of local steps ('sync')");
    else if (!price_sum(choices, &increase, &missing))
        report_missing(checker, missing);
    else if (price_exceeds(increase, plan->max_loss_increase))
        diag_error(checker->diag, value_span(checker, key),
                   "what the file asks for costs %.3g %% of the loss by our figures, more than %.3g %%", 100 * increase,
                   100 * plan->max_loss_increase);
}
