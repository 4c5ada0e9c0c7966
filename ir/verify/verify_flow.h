// Values: what every buffer holds while the verifier follows the schedule. A value is symbolic ("rows of layer 3
// that crossed level dc"), so that one walk speaks for every rank and every routing. Private to verify_flow*.c:
// verify_flow.c walks, verify_values.c reads and writes values, the others say what steps make of them.
#ifndef HEP_VERIFY_FLOW_H
#define HEP_VERIFY_FLOW_H

#include "ir/verify/verify_parts.h"

// X(NAME, "as messages call it")
#define HOLDINGS(X)                                                                                                    \
    X(NOTHING, "nothing")                                                                                              \
    X(TOKENS, "tokens")                                                                                                \
    X(WEIGHT, "weights")                                                                                               \
    X(UPDATED, "updated weights")                                                                                      \
    X(STATE, "optimizer state")                                                                                        \
    X(PACKET, "encoded experts")                                                                                       \
    X(INPUT_ROWS, "the input")                                                                                         \
    X(ATTENDED, "the attention's output")                                                                              \
    X(ROWS, "rows")                                                                                                    \
    X(RECORDS, "records")                                                                                              \
    X(OWN_ROWS, "rows that stay")                                                                                      \
    X(OWN_RECORDS, "records that stay")                                                                                \
    X(SENT_ROWS, "rows to send")                                                                                       \
    X(SENT_RECORDS, "records to send")                                                                                 \
    X(SEND_COUNTS, "counts of rows sent")                                                                              \
    X(NEXT_COUNTS, "counts of rows received")                                                                          \
    X(ORIGIN, "origins of rows")                                                                                       \
    X(RESULTS, "results")                                                                                              \
    X(RETURNED, "returned results")                                                                                    \
    X(SHARED_RESULTS, "results of the shared experts")                                                                 \
    X(LOSS, "the loss")                                                                                                \
    X(DINPUT, "the gradient of the input")                                                                             \
    X(DATTENDED, "the gradient of the attention's output")                                                             \
    X(DRESULTS, "gradients of results")                                                                                \
    X(OWN_DRESULTS, "gradients of results that stay")                                                                  \
    X(SENT_DRESULTS, "gradients of results to send")                                                                   \
    X(DROWS, "gradients of rows")                                                                                      \
    X(DRECORDS, "gradients of records")                                                                                \
    X(RETURNED_DROWS, "returned gradients of rows")                                                                    \
    X(RETURNED_DRECORDS, "returned gradients of records")                                                              \
    X(DSHARED_ROWS, "gradients of the shared experts' rows")                                                           \
    X(DGATHERED, "gradients of gathered weights")                                                                      \
    X(ZEROS, "zeros")                                                                                                  \
    X(OTHER_HALF, "the words' part of the gradient")                                                                   \
    X(GRADIENT, "the gradient")                                                                                        \
    X(HALF_GRADIENT, "a part of the gradient")                                                                         \
    X(PARTS, "parts of the gradient")                                                                                  \
    X(COUNTS_AGAIN, "counts of gradients received")                                                                    \
    X(REMEMBERED, "what the last iteration left")                                                                      \
    X(SENT, "what was sent in this iteration")                                                                         \
    X(MEAN, "the mean of experts")                                                                                     \
    X(ERROR, "what this iteration left out")                                                                           \
    X(DPACKETS, "encoded gradients")                                                                                   \
    X(DRECEIVED, "encoded gradients of others")                                                                        \
    X(COUNTED, "the gradient, counted in the norm")                                                                    \
    X(SQUARES, "the sum of squares")                                                                                   \
    X(OUTER, "where workers met last")                                                                                 \
    X(MOVED, "what weights moved")                                                                                     \
    X(EQUAL, "weights that are equal again")
#define X(name, text) HOLDS_##name,
typedef enum { HOLDINGS(X) HOLDING_COUNT } Holding;
#undef X
typedef struct {
    Holding holds;
    int32_t layer;   // of rows and the like; `INPUT_ROWS` of layer `layers` is the network's output
    uint32_t levels; // one bit each: crossed by the rows, gathered by weights, summed over by gradients; of `PARTS`,
                     // the parts (DensePart)
    int32_t from;    // the step that counted or ordered rows, the buffer of weights
    bool packed;     // rows in the format of the exchange that carries them
} Value;

// What a layer's way out laid down for the way back.
typedef struct {
    int32_t route[LEVELS_MAX], dispatch[LEVELS_MAX];
    int32_t weights[WEIGHT_KINDS];                // buffers
    int32_t remembered[WEIGHT_KINDS][LEVELS_MAX]; // by codecs; errors are one per level, others the first
    uint32_t exchanged, gathered;                 // levels, of the choice
} LayerFlow;

typedef struct {
    Verifier *verifier;
    const Plan *plan;
    Value *values;     // [buffers]
    LayerFlow *layers; // [layers + 1]; the last is the network's own
    uint32_t step;
    int32_t layer;           // of the step
    uint32_t level;          // 0 where it has none
    uint32_t all;            // levels with several workers that share weights out
    uint32_t apart;          // with several workers that train apart
    uint32_t shared;         // levels that dense weights are gathered over
    const WeightKind *kinds; // [buffers]: which weights they hold, see bundle_kinds
    int8_t *ways;            // [buffers]: of plan_packed_ways
    int32_t weight_count;
} Flow;

// ---- what steps do with values -------------------------------------------------------------------

Value value_plain(Holding holds, int32_t layer);
Value value_staged(Holding holds, int32_t layer, uint32_t levels);
Value value_split(Holding holds, int32_t layer, uint32_t levels, int32_t from);
Value value_packed(Value value, bool packed);

// Of the step that is looked at: the buffer of an operand, NONE without it, and what it holds.
int32_t flow_operand(const Flow *flow, Operand operand);
Value flow_value(const Flow *flow, Operand operand);
LayerFlow *flow_layer(const Flow *flow);  // of its layer; the network's own for steps of none
int32_t flow_last_level(uint32_t levels); // the innermost; NONE for none

// Reports unless the operand is there and holds what is expected, or is absent.
void flow_take(const Flow *flow, Operand operand, Value expected);
void flow_take_none(const Flow *flow, Operand operand);
void flow_take_tokens(const Flow *flow);
// One buffer is the layer's weights of the operand's kind throughout, and was not updated yet. Returns it.
int32_t flow_take_weights(Flow *flow, Operand weights);
// What is known as the weights of a kind; of the first step that uses them those that the operand holds.
int32_t flow_note_weights(Flow *flow, Operand weights, WeightKind kind);
void flow_give(Flow *flow, Operand operand, Value value);
// Levels that the weights of an operand were gathered over.
uint32_t flow_gathered(const Flow *flow, Operand weights);
// What a gradient of weights gathered over these levels is: still to go home, or there.
Value flow_whole_gradient(int32_t layer, uint32_t levels, int32_t weights);
// A part of the gradient of the layer's dense weights, which the step reads, is written; with the last one it is whole.
void flow_give_part(Flow *flow, DensePart part);
// Which weights a step carries: those that the buffer of the operand holds, or was made of.
WeightKind flow_carried(const Flow *flow, Operand operand);

// ---- ops -----------------------------------------------------------------------------------------

// What each does with the values of the step that is looked at. verify_flow_rows.c: routes, exchanges, experts, and the
// same backward; verify_flow_weights.c: gathers, gradients on their way home, the optimizer; verify_flow_codec.c: their
// encoding; verify_flow_network.c: everything around.
#define HEP_OP(name, text, ...) void flow_##text(Flow *flow);
#include "ir/ops.def"

#endif
