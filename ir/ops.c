// The op table: ops.def and operands.def as data. Owns nothing but the expansion and the look-ups.
#include "ir/ops.h"

#include "ir/base/braced.h"

#define HEP_OPERAND(name, text, contents, weight) static const char text_of_##name[] = text;
#include "ir/operands.def"

// What every operand of a name has in common.
#define HEP_OPERAND(name, text, contents, weight)                                                                      \
    COMMON_##name = CONTENTS_##contents, WEIGHT_OF_##name = WEIGHT_##weight,
enum {
#include "ir/operands.def"
};

#define OPERAND_OF(name, role, optional)                                                                               \
    BRACED(OPERAND_##name, text_of_##name, role, optional, (Contents)COMMON_##name, (WeightKind)WEIGHT_OF_##name)
#define IN(name)          OPERAND_OF(name, ROLE_IN, false)
#define OUT(name)         OPERAND_OF(name, ROLE_OUT, false)
#define INOUT(name)       OPERAND_OF(name, ROLE_INOUT, false)
#define PART(name)        OPERAND_OF(name, ROLE_PART, false)
#define MAYBE_IN(name)    OPERAND_OF(name, ROLE_IN, true)
#define MAYBE_OUT(name)   OPERAND_OF(name, ROLE_OUT, true)
#define MAYBE_INOUT(name) OPERAND_OF(name, ROLE_INOUT, true)
#define OPERANDS(...)                                                                                                  \
    sizeof((OperandInfo[]){__VA_ARGS__}) / sizeof(OperandInfo),                                                        \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }
#define HEP_OP(name, text, code, stream, shape, operands, doc)                                                         \
    {OP_##name, #text, STREAM_##stream, SHAPE_##shape, operands, doc},

static const OpInfo ops[] = {
#include "ir/ops.def"
};

// Place in `ops` of each code, plus one; 0 where there is no op.
#define HEP_OP(name, ...) PLACE_##name,
enum {
#include "ir/ops.def"
};
#define HEP_OP(name, ...) [OP_##name] = PLACE_##name + 1,
static const uint8_t places[] = {
#include "ir/ops.def"
};

#define HEP_OP(name, text, ...) [OP_##name] = {#text, 0},
static const Name op_list[] = {
#include "ir/ops.def"
};
const NameTable op_names = {"an op", op_list, (int)COUNT_OF(op_list)};

const OpInfo *op_table(size_t *count)
{
    *count = COUNT_OF(ops);
    return ops;
}

const OpInfo *op_info(int code)
{
    if (code < 0 || (size_t)code >= COUNT_OF(places) || places[code] == 0)
        return NULL;
    return &ops[places[code] - 1];
}

int32_t op_operand_index(const OpInfo *info, Operand operand)
{
    for (uint32_t k = 0; k < info->operand_count; k++)
        if (info->operands[k].operand == operand)
            return (int32_t)k;
    return -1;
}

static const struct {
    const char *name;
    WeightKind weight;
} operands[] = {
#define HEP_OPERAND(name, text, contents, weight) [OPERAND_##name] = {text_of_##name, WEIGHT_##weight},
#include "ir/operands.def"
};

const char *operand_name(Operand operand)
{
    return operands[operand].name;
}

WeightKind operand_weight(Operand operand)
{
    return operands[operand].weight;
}

const char *weight_kind_name(WeightKind kind)
{
    static const char *const names[] = {
#define X(name, text) text,
        HEP_WEIGHTS(X)
#undef X
    };
    return names[kind];
}
