// Name tables of the vocabulary in plan.h: code -> text, text -> code, and the facts that the
// tables carry beside the text. Derived from the X lists; owns no names of its own.
#include "ir/plan.h"

#include <string.h>

static int name_find(const char *const *names, int count, const char *text)
{
    for (int code = 0; code < count; code++)
        if (strcmp(names[code], text) == 0)
            return code;
    return -1;
}

#define NAME_TABLE(prefix, Type, LIST, COUNT)                                                                          \
    static const char *const prefix##_names[] = {LIST(X)};                                                             \
    const char *prefix##_name(Type code)                                                                               \
    {                                                                                                                  \
        return (unsigned)code < (unsigned)(COUNT) ? prefix##_names[code] : NULL;                                       \
    }                                                                                                                  \
    int prefix##_parse(const char *text)                                                                               \
    {                                                                                                                  \
        return name_find(prefix##_names, COUNT, text);                                                                 \
    }

#define X(name, text, ...) text,
NAME_TABLE(dtype, Dtype, HEP_DTYPES, DTYPE_COUNT)
NAME_TABLE(stream, Stream, HEP_STREAMS, STREAM_COUNT)
NAME_TABLE(pass, Pass, HEP_PASSES, PASS_COUNT)
NAME_TABLE(dispatch, Dispatch, HEP_DISPATCHES, DISPATCH_COUNT)
NAME_TABLE(exchange_kind, ExchangeKind, HEP_EXCHANGE_KINDS, EXCHANGE_KIND_COUNT)
NAME_TABLE(codec, Codec, HEP_CODECS, CODEC_COUNT)
NAME_TABLE(activation, Activation, HEP_ACTIVATIONS, ACTIVATION_COUNT)
NAME_TABLE(group_kind, GroupKind, HEP_GROUP_KINDS, GROUP_KIND_COUNT)
NAME_TABLE(buffer_kind, BufferKind, HEP_BUFFER_KINDS, BUFFER_KIND_COUNT)
NAME_TABLE(status, SolveStatus, HEP_STATUSES, STATUS_COUNT)
#undef X

uint32_t dtype_bytes(Dtype dtype)
{
#define X(name, text, bytes) bytes,
    static const uint8_t bytes[] = {HEP_DTYPES(X)};
#undef X
    return (unsigned)dtype < DTYPE_COUNT ? bytes[dtype] : 0;
}

uint32_t activation_matrices(Activation activation)
{
#define X(name, text, matrices) matrices,
    static const uint8_t matrices[] = {HEP_ACTIVATIONS(X)};
#undef X
    return (unsigned)activation < ACTIVATION_COUNT ? matrices[activation] : 0;
}
