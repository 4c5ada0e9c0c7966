// The op table: ops.def as data. Owns nothing but the expansion and the two look-ups.
#include "ir/plan.h"

#include <string.h>

#define IN(name)                                                                                                       \
    {                                                                                                                  \
#name, OPERAND_IN, false                                                                                       \
    }
#define OUT(name)                                                                                                      \
    {                                                                                                                  \
#name, OPERAND_OUT, false                                                                                      \
    }
#define INOUT(name)                                                                                                    \
    {                                                                                                                  \
#name, OPERAND_INOUT, false                                                                                    \
    }
#define WORK(name)                                                                                                     \
    {                                                                                                                  \
#name, OPERAND_WORK, false                                                                                     \
    }
#define MAYBE_IN(name)                                                                                                 \
    {                                                                                                                  \
#name, OPERAND_IN, true                                                                                        \
    }
#define MAYBE_OUT(name)                                                                                                \
    {                                                                                                                  \
#name, OPERAND_OUT, true                                                                                       \
    }
#define MAYBE_INOUT(name)                                                                                              \
    {                                                                                                                  \
#name, OPERAND_INOUT, true                                                                                     \
    }
#define OPERANDS(...)                                                                                                  \
    sizeof((OperandInfo[]){__VA_ARGS__}) / sizeof(OperandInfo),                                                        \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }
#define HEP_OP(name, text, code, stream, shape, operands, doc)                                                         \
    {OP_##name, text, STREAM_##stream, SHAPE_##shape, operands, doc},

static const OpInfo ops[] = {
#include "ir/ops.def"
};

// Place in `ops` of each code, plus one; 0 where there is no op.
#undef HEP_OP
#define HEP_OP(name, text, code, stream, shape, operands, doc) PLACE_##name,
enum {
#include "ir/ops.def"
};
#undef HEP_OP
#define HEP_OP(name, text, code, stream, shape, operands, doc) [code] = PLACE_##name + 1,
static const uint8_t places[] = {
#include "ir/ops.def"
};

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

const OpInfo *op_find(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(ops); i++)
        if (strcmp(ops[i].name, name) == 0)
            return &ops[i];
    return NULL;
}
