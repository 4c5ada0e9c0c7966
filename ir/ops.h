// Ops and their operands: ops.def and operands.def as types and data. An operand is never found by number: of a step
// whose op is known, `step_buffers(plan, step).route.origin` (plan.h) is its buffer; where several ops have it,
// step_operand(plan, step, OPERAND_origin) is.
#ifndef HEP_OPS_H
#define HEP_OPS_H

#include "ir/names.h"

enum { OPERANDS_MAX = 12 };

typedef enum { SHAPE_LOCAL, SHAPE_EXCHANGE, SHAPE_GATHER, SHAPE_SCATTER, SHAPE_REDUCE } OpShape;

#define HEP_OP(name, text, code, ...) OP_##name = (code),
typedef enum {
#include "ir/ops.def"
} Op;

#define HEP_OPERAND(name, ...) OPERAND_##name,
typedef enum {
#include "ir/operands.def"
    OPERAND_COUNT
} Operand;

typedef enum { ROLE_IN, ROLE_OUT, ROLE_INOUT, ROLE_PART } OperandRole;

// X(NAME): what a buffer has to be.
#define HEP_CONTENTS(X)                                                                                                \
    X(ANYTHING) /* constrained by the op's other operands alone */                                                     \
    X(HIDDEN)   /* hidden vectors */                                                                                   \
    X(RECORDS)  /* (expert, weight) pairs */                                                                           \
    X(COUNTS)   /* one i32 per member of the step's group */                                                           \
    X(INDICES)  /* one i32 a row */                                                                                    \
    X(F32)                                                                                                             \
    X(BYTES)                                                                                                           \
    X(TOKENS)                                                                                                          \
    X(SCALAR)    /* one f32 */                                                                                         \
    X(EMBEDDING) /* weights of the model, or their gradients */                                                        \
    X(DENSE)                                                                                                           \
    X(HELD_EXPERTS) /* experts that a rank holds after gathering */                                                    \
    X(OWN_EXPERTS)  /* that it owns */                                                                                 \
    X(ONE_EXPERT)
#define X(name) CONTENTS_##name,
typedef enum { HEP_CONTENTS(X) } Contents;
#undef X

// X(NAME, "text"): weights of a layer or of the network, what codecs remember of a layer's experts, and of dense
// weights, or in buffers of no layer of the embedding.
#define HEP_WEIGHTS(X)                                                                                                 \
    X(NONE, "none")                                                                                                    \
    X(EMBEDDING, "embedding")                                                                                          \
    X(DENSE, "dense")                                                                                                  \
    X(EXPERTS, "experts")                                                                                              \
    X(MEAN, "mean")                                                                                                    \
    X(SENT, "sent")                                                                                                    \
    X(REPLICAS, "replicas")                                                                                            \
    X(ERROR, "error")                                                                                                  \
    X(DENSE_SENT, "sent")                                                                                              \
    X(DENSE_REPLICAS, "replicas")                                                                                      \
    X(DENSE_ERROR, "error")
#define X(name, text) WEIGHT_##name,
typedef enum { HEP_WEIGHTS(X) WEIGHT_KINDS } WeightKind;
#undef X

typedef struct {
    Operand operand;
    const char *name; // text
    OperandRole role;
    bool optional;
    Contents contents;
    WeightKind weight;
} OperandInfo;

typedef struct {
    Op op;
    const char *name;
    Stream stream;
    OpShape shape;
    uint32_t operand_count;
    OperandInfo operands[OPERANDS_MAX];
    const char *doc;
} OpInfo;

extern const NameTable op_names;
const OpInfo *op_info(int code);       // NULL for an unknown code
const OpInfo *op_table(size_t *count); // all ops, in the order of ops.def

// Where the operand is among those of the op; -1 where the op has none of it.
int32_t op_operand_index(const OpInfo *info, Operand operand);
const char *operand_name(Operand operand);
WeightKind operand_weight(Operand operand);
const char *weight_kind_name(WeightKind kind);

#endif
