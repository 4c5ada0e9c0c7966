// What a plan's lossy choices cost in loss, as far as our own study has figures (prices.def, docs/prices.md): compiler
// and summaries share them. A figure is of one choice alone; of several the sum is taken.
#ifndef HEP_PRICE_H
#define HEP_PRICE_H

#include "ir/codec.h"
#include "ir/token_rows.h"

typedef enum {
    PRICED_EXPERTS,   // how weights of experts travel: a Codec
    PRICED_GRADIENTS, // how their gradients return: a GradientReturn
    PRICED_DENSE,     // the same of dense weights
    PRICED_DENSE_GRADIENTS,
    PRICED_TOKENS, // in what token rows travel, all ways alike: a TokenFormat
    PRICED_PARTS
} PricedPart;

// Of every part the code of what is chosen, 0 where nothing is lost, and the ratio of packets that have one, else 1.
typedef struct {
    int code;
    double ratio;
} LossyChoice;

typedef struct {
    PricedPart part;
    LossyChoice choice;
    double increase; // of the loss, over that of training without
} Price;

const Price *price_at(size_t index); // of all figures; NULL after the last
const char *priced_part_text(PricedPart part);

// What is chosen of every part. Token rows whose ways differ are a choice of their own, with code -1.
void lossy_choices(const Coding *experts, const Coding *dense, const TokenFormat tokens[TOKEN_WAYS],
                   LossyChoice out[PRICED_PARTS]);
// What that comes to. False if there is no figure of one of them, `missing` then.
bool price_sum(const LossyChoice choices[PRICED_PARTS], double *increase, PricedPart *missing) MUST_CHECK;
bool price_exceeds(double increase, double most); // by more than rounding of the sum

#endif
