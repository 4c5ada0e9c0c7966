// See price.h.
#include "ir/price.h"

#define HEP_PRICE(part, code, ratio, percent) {part, {code, ratio}, (percent) / 100.0},
static const Price prices[] = {
#include "ir/prices.def"
};

const Price *price_at(size_t index)
{
    return index < COUNT_OF(prices) ? &prices[index] : NULL;
}

const char *priced_part_text(PricedPart part)
{
    static const char *const texts[PRICED_PARTS] = {[PRICED_EXPERTS] = "weights of experts",
                                                    [PRICED_GRADIENTS] = "gradients of experts",
                                                    [PRICED_DENSE] = "dense weights",
                                                    [PRICED_DENSE_GRADIENTS] = "gradients of dense weights",
                                                    [PRICED_TOKENS] = "token rows"};
    return texts[part];
}

static void add_coding(const Coding *coding, LossyChoice *weights, LossyChoice *gradients)
{
    bool sized = codec_info(coding->codec)->encodes && packet_has_ratio(coding_packing(coding).form);
    bool returned = coding->gradient != GRADIENT_DENSE && packet_has_ratio(coding_gradient_packing(coding).form);
    *weights = (LossyChoice){(int)coding->codec, sized ? coding->ratio : 1};
    *gradients = (LossyChoice){(int)coding->gradient, returned ? coding->gradient_ratio : 1};
}

void lossy_choices(const Coding *experts, const Coding *dense, const TokenFormat tokens[TOKEN_WAYS],
                   LossyChoice out[PRICED_PARTS])
{
    enum { DIFFERENT = -1 };
    add_coding(experts, &out[PRICED_EXPERTS], &out[PRICED_GRADIENTS]);
    add_coding(dense, &out[PRICED_DENSE], &out[PRICED_DENSE_GRADIENTS]);
    out[PRICED_TOKENS] = (LossyChoice){(int)tokens[0], 1};
    for (uint32_t way = 1; way < TOKEN_WAYS; way++)
        if (tokens[way] != tokens[0])
            out[PRICED_TOKENS].code = DIFFERENT;
}

static const Price *find_price(PricedPart part, LossyChoice choice)
{
    for (size_t i = 0; i < COUNT_OF(prices); i++)
        if (prices[i].part == part && prices[i].choice.code == choice.code && prices[i].choice.ratio == choice.ratio)
            return &prices[i];
    return NULL;
}

bool price_sum(const LossyChoice choices[PRICED_PARTS], double *increase, PricedPart *missing)
{
    *increase = 0;
    for (int part = 0; part < PRICED_PARTS; part++) {
        const Price *price = choices[part].code ? find_price((PricedPart)part, choices[part]) : NULL;
        if (choices[part].code && !price) {
            *missing = (PricedPart)part;
            return false;
        }
        *increase += price ? price->increase : 0;
    }
    return true;
}

bool price_exceeds(double increase, double most)
{
    static const double rounding = 1e-9;
    return increase > most * (1 + rounding);
}
