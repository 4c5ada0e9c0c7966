// The codes that a plan is written in: dtypes, passes, forms of exchanges, codecs and so on. Every list stands once;
// enum, text and its reverse follow from it. Owns the words alone; ops have a table of their own.
#ifndef HEP_NAMES_H
#define HEP_NAMES_H

#include "ir/base/base.h"

enum { NONE = -1 }; // absent level, layer, group or buffer

// Name tables: X(NAME, "text"). Codes are positions and are stored in plan files: append only.
#define HEP_DTYPES(X) X(F32, "f32", 4) X(F16, "f16", 2) X(BF16, "bf16", 2) X(I32, "i32", 4) X(U8, "u8", 1)
#define HEP_PASSES(X) X(FORWARD, "forward") X(TRAINING, "training")
#define HEP_DISPATCHES(X) X(NAIVE, "naive") X(DEDUP, "dedup")
#define HEP_EXCHANGE_KINDS(X) X(COUNTED, "counted") X(PADDED, "padded")
#define HEP_CODECS(X) X(DENSE, "dense") X(SR, "sr") X(DELTA, "delta")
#define HEP_ACTIVATIONS(X) X(RELU, "relu", 2) X(GELU, "gelu", 2) X(SWIGLU, "swiglu", 3) // 3rd: matrices per expert
#define HEP_GROUP_KINDS(X) X(EXCHANGE, "exchange") X(GATHER, "gather") X(LEVEL, "level") X(WORLD, "world")
#define HEP_BUFFER_KINDS(X)                                                                                    \
    X(WEIGHT, "weight") X(INPUT, "input") X(TEMPORARY, "temporary") X(GRADIENT, "gradient") X(STATE, "state")  \
    X(REPLICA, "replica") // what codecs remember from one iteration to the next
#define HEP_STATUSES(X) X(OPTIMAL, "optimal") X(FEASIBLE, "feasible") X(FORCED, "forced")

#define X(name, ...) DTYPE_##name,
typedef enum { HEP_DTYPES(X) DTYPE_COUNT } Dtype;
#undef X
#define X(name, ...) PASS_##name,
typedef enum { HEP_PASSES(X) PASS_COUNT } Pass;
#undef X
#define X(name, ...) DISPATCH_##name,
typedef enum { HEP_DISPATCHES(X) DISPATCH_COUNT } Dispatch;
#undef X
#define X(name, ...) EXCHANGE_##name,
typedef enum { HEP_EXCHANGE_KINDS(X) EXCHANGE_KIND_COUNT } ExchangeKind;
#undef X
#define X(name, ...) CODEC_##name,
typedef enum { HEP_CODECS(X) CODEC_COUNT } Codec;
#undef X
#define X(name, ...) ACTIVATION_##name,
typedef enum { HEP_ACTIVATIONS(X) ACTIVATION_COUNT } Activation;
#undef X
#define X(name, ...) GROUP_##name,
typedef enum { HEP_GROUP_KINDS(X) GROUP_KIND_COUNT } GroupKind;
#undef X
#define X(name, ...) BUFFER_##name,
typedef enum { HEP_BUFFER_KINDS(X) BUFFER_KIND_COUNT } BufferKind;
#undef X
#define X(name, ...) STATUS_##name,
typedef enum { HEP_STATUSES(X) STATUS_COUNT } SolveStatus;
#undef X

// Text of each code; NULL outside the table. Reverse: -1 when unknown.
const char *dtype_name(Dtype), *pass_name(Pass), *dispatch_name(Dispatch), *exchange_kind_name(ExchangeKind),
    *codec_name(Codec), *activation_name(Activation), *group_kind_name(GroupKind), *buffer_kind_name(BufferKind),
    *status_name(SolveStatus);
int dtype_parse(const char *), pass_parse(const char *), dispatch_parse(const char *),
    exchange_kind_parse(const char *), codec_parse(const char *), activation_parse(const char *),
    group_kind_parse(const char *), buffer_kind_parse(const char *), status_parse(const char *);
uint32_t dtype_bytes(Dtype);
uint32_t activation_matrices(Activation); // weight matrices of hidden x inner per expert: 2, or 3 if gated

#endif
