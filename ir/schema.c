// The field tables of a plan's records, and access to records by kind and index; see schema.h.
#include "ir/schema.h"

#include <assert.h>
#include <string.h>

#include "ir/base/braced.h"

// A type is one of HEP_FIELD_TYPES; of words ONE_OF(dtype), by the name of their table.
#define FIELD_ONE_OF(name) FIELD_ONE_OF, .names = &name##_names
#define FIELD(struct_type, text, member, takes)                                                                        \
    BRACED(.key = (text), .offset = offsetof(struct_type, member), .type = FIELD_##takes)
#define AMOUNT(struct_type, text, member, of)                                                                          \
    BRACED(.key = (text), .offset = offsetof(struct_type, member), .type = FIELD_NUMBER, .unit = UNIT_##of)
#define FIRST(struct_type, text, member, takes)                                                                        \
    BRACED(.key = (text), .offset = offsetof(struct_type, member), .positional = true, .type = FIELD_##takes)
#define MAYBE(struct_type, text, member, takes)                                                                        \
    BRACED(.key = (text), .offset = offsetof(struct_type, member), .optional = true, .type = FIELD_##takes)
#define ADDED(struct_type, text, member, takes)                                                                        \
    BRACED(.key = (text), .offset = offsetof(struct_type, member), .added = true, .type = FIELD_##takes)

static const RecordInfo records[RECORD_COUNT] = {
    [RECORD_CLUSTER] = {.keyword = "cluster", .fields = {FIRST(Cluster, "name", name, NAME)}},
    [RECORD_LEVEL] = {.keyword = "level",
                      .fields = {FIRST(Level, "name", name, NAME), FIELD(Level, "count", count, U32),
                                 AMOUNT(Level, "bandwidth", bandwidth_bytes_per_s, LINK_RATE),
                                 AMOUNT(Level, "latency", latency_s, SECONDS),
                                 AMOUNT(Level, "overhead", overhead_s, SECONDS)}},
    [RECORD_PORT] = {.keyword = "port",
                     .fields = {FIRST(WorkerPort, "name", name, NAME), FIELD(WorkerPort, "worker", worker, U32),
                                AMOUNT(WorkerPort, "bandwidth", bandwidth_bytes_per_s, LINK_RATE),
                                AMOUNT(WorkerPort, "latency", latency_s, SECONDS)}},
    [RECORD_LINK] = {.keyword = "link",
                     .fields = {FIRST(WorkerLink, "a", a, U32), FIRST(WorkerLink, "b", b, U32),
                                AMOUNT(WorkerLink, "bandwidth", bandwidth_bytes_per_s, LINK_RATE),
                                AMOUNT(WorkerLink, "latency", latency_s, SECONDS)}},
    [RECORD_DEVICE] = {.keyword = "device",
                       .fields = {AMOUNT(Device, "compute", compute_flops, FLOP_RATE),
                                  AMOUNT(Device, "memory", memory_bytes, BYTES),
                                  AMOUNT(Device, "memory_bandwidth", memory_bandwidth, MEMORY_RATE),
                                  FIELD(Device, "half_rate_rows", half_rate_rows, NUMBER),
                                  AMOUNT(Device, "encode_bandwidth", encode_bandwidth, MEMORY_RATE),
                                  AMOUNT(Device, "decode_bandwidth", decode_bandwidth, MEMORY_RATE),
                                  AMOUNT(Device, "quantize_bandwidth", quantize_bandwidth, MEMORY_RATE),
                                  AMOUNT(Device, "dequantize_bandwidth", dequantize_bandwidth, MEMORY_RATE),
                                  FIELD(Device, "engine", engine, ONE_OF(engine_kind)),
                                  MAYBE(Device, "peak", peak_flops, NUMBER)}},
    [RECORD_MODEL] = {.keyword = "model",
                      .fields = {FIRST(ModelDims, "name", name, NAME),
                                 FIELD(ModelDims, "abstract", abstract, BOOL),
                                 FIELD(ModelDims, "dtype", dtype, ONE_OF(dtype)),
                                 FIELD(ModelDims, "layers", layers, U32),
                                 FIELD(ModelDims, "hidden", hidden, U32),
                                 FIELD(ModelDims, "heads", heads, U32),
                                 FIELD(ModelDims, "kv_heads", kv_heads, U32),
                                 FIELD(ModelDims, "head_dim", head_dim, U32),
                                 FIELD(ModelDims, "vocabulary", vocabulary, U32),
                                 FIELD(ModelDims, "sequence", sequence, U32),
                                 FIELD(ModelDims, "batch", batch, U32),
                                 FIELD(ModelDims, "ffn_inner", ffn_inner, U32),
                                 FIELD(ModelDims, "experts", experts, U32),
                                 FIELD(ModelDims, "top_k", top_k, U32),
                                 FIELD(ModelDims, "inner", inner, U32),
                                 FIELD(ModelDims, "shared_experts", shared_experts, U32),
                                 MAYBE(ModelDims, "shared_inner", shared_inner, U32),
                                 MAYBE(ModelDims, "groups", groups, U32),
                                 MAYBE(ModelDims, "group_top_k", group_top_k, U32),
                                 MAYBE(ModelDims, "zero_experts", zero_experts, U32),
                                 MAYBE(ModelDims, "expert_bits", expert_bits, NUMBER),
                                 FIELD(ModelDims, "activation", activation, ONE_OF(activation)),
                                 AMOUNT(ModelDims, "data_bytes", data_bytes, BYTES),
                                 AMOUNT(ModelDims, "expert_bytes", expert_bytes, BYTES),
                                 AMOUNT(ModelDims, "pre_expert_s", pre_expert_s, SECONDS),
                                 AMOUNT(ModelDims, "total_parameters", total_parameters, PARAMETERS),
                                 AMOUNT(ModelDims, "active_parameters", active_parameters, PARAMETERS)}},
    [RECORD_LAYER] = {.keyword = "layer",
                      .fields = {FIRST(LayerDims, "mixer", mixer, NAME), FIELD(LayerDims, "elements", elements, U64),
                                 MAYBE(LayerDims, "bits", bits, NUMBER)}},
    [RECORD_PLAN] =
        {.keyword = "plan",
         .fields = {FIELD(Plan, "pass", pass, ONE_OF(pass)),
                    FIELD(Plan, "dispatch", dispatch, ONE_OF(dispatch)),
                    MAYBE(Plan, "exchange", exchange, ONE_OF(exchange_kind)),
                    FIELD(Plan, "codec", experts.codec, ONE_OF(codec)),
                    FIELD(Plan, "ratio", experts.ratio, NUMBER),
                    FIELD(Plan, "shared_every", shared_every, U32),
                    FIELD(Plan, "gradient", experts.gradient, ONE_OF(gradient)),
                    FIELD(Plan, "gradient_ratio", experts.gradient_ratio, NUMBER),
                    MAYBE(Plan, "whole_levels", experts.whole_levels, U32),
                    MAYBE(Plan, "dense_codec", dense.codec, ONE_OF(codec)),
                    ADDED(Plan, "dense_ratio", dense.ratio, NUMBER),
                    MAYBE(Plan, "dense_gradient", dense.gradient, ONE_OF(gradient)),
                    ADDED(Plan, "dense_gradient_ratio", dense.gradient_ratio, NUMBER),
                    MAYBE(Plan, "dense_whole_levels", dense.whole_levels, U32),
                    MAYBE(Plan, "whole_iterations", whole_iterations, U32),
                    MAYBE(Plan, "tokens_dispatch", tokens[WAY_DISPATCH], ONE_OF(token_format)),
                    MAYBE(Plan, "tokens_combine", tokens[WAY_COMBINE], ONE_OF(token_format)),
                    MAYBE(Plan, "tokens_dispatch_gradient", tokens[WAY_DISPATCH_GRADIENT], ONE_OF(token_format)),
                    MAYBE(Plan, "tokens_combine_gradient", tokens[WAY_COMBINE_GRADIENT], ONE_OF(token_format)),
                    FIELD(Plan, "capacity", capacity, NUMBER),
                    FIELD(Plan, "replica_levels", replica_levels, U32),
                    FIELD(Plan, "replica_slots", replica_slots, U32),
                    MAYBE(Plan, "outer_levels", outer_levels, U32),
                    FIELD(Plan, "regather_dense", regather_dense, BOOL),
                    FIELD(Plan, "once_dense", once_dense, U32),
                    MAYBE(Plan, "returns_dense_apart", returns_dense_apart, BOOL),
                    MAYBE(Plan, "once_dense_gradient", once_dense_gradient, U32),
                    MAYBE(Plan, "regather_embedding", regather_embedding, BOOL),
                    FIELD(Plan, "micro_batches", micro_batches, U32),
                    MAYBE(Plan, "lap", lap, U32),
                    MAYBE(Plan, "abreast", abreast, U32),
                    MAYBE(Plan, "bucket", bucket, U32),
                    FIELD(Plan, "recompute", recompute, BOOL),
                    FIELD(Plan, "solver", solver, NAME),
                    FIELD(Plan, "status", status, ONE_OF(status)),
                    AMOUNT(Plan, "gap", gap, SHARE),
                    AMOUNT(Plan, "iteration_s", iteration_s, SECONDS),
                    FIELD(Plan, "arena_bytes", arena_bytes, U64),
                    FIELD(Plan, "engine_bytes", engine_bytes, U64),
                    MAYBE(Plan, "sync_every", sync.every, U32),
                    MAYBE(Plan, "outer_optimizer", sync.optimizer, ONE_OF(outer_optimizer)),
                    MAYBE(Plan, "outer_rate", sync.learning_rate, NUMBER),
                    MAYBE(Plan, "outer_momentum", sync.momentum, NUMBER)}},
    [RECORD_TRAINING] = {.keyword = "training",
                         .fields = {FIELD(TrainingSettings, "learning_rate", learning_rate, NUMBER),
                                    FIELD(TrainingSettings, "beta1", beta1, NUMBER),
                                    FIELD(TrainingSettings, "beta2", beta2, NUMBER),
                                    FIELD(TrainingSettings, "epsilon", epsilon, NUMBER),
                                    FIELD(TrainingSettings, "weight_decay", weight_decay, NUMBER),
                                    FIELD(TrainingSettings, "warmup", warmup, U32),
                                    FIELD(TrainingSettings, "decay", decay, U32),
                                    FIELD(TrainingSettings, "final_rate", final_rate, NUMBER),
                                    FIELD(TrainingSettings, "clip", clip, NUMBER),
                                    FIELD(TrainingSettings, "balance", balance, NUMBER)}},
    [RECORD_CHOICE] = {.keyword = "choice",
                       .fields = {FIELD(Choice, "layer", layer, U32), FIELD(Choice, "regather", regather, BOOL),
                                  FIELD(Choice, "once", once, U32), MAYBE(Choice, "returns_apart", returns_apart, BOOL),
                                  MAYBE(Choice, "once_gradient", once_gradient, U32),
                                  FIELD(Choice, "domain", domain, DOMAIN)}},
    [RECORD_STRATEGY] =
        {.keyword = "strategy",
         .fields = {FIRST(Strategy, "name", name, NAME), FIELD(Strategy, "dispatch", dispatch, ONE_OF(dispatch)),
                    FIELD(Strategy, "domain", domain, DOMAIN), AMOUNT(Strategy, "iteration_s", iteration_s, SECONDS),
                    AMOUNT(Strategy, "exposed_s", exposed_s, SECONDS),
                    AMOUNT(Strategy, "memory_bytes", memory_bytes, BYTES), FIELD(Strategy, "fits", fits, BOOL)}},
    [RECORD_TRAFFIC] = {.keyword = "traffic",
                        .fields = {AMOUNT(Traffic, "exchange_bytes", exchange_bytes, BYTES),
                                   MAYBE(Traffic, "padding_bytes", padding_bytes, NUMBER),
                                   AMOUNT(Traffic, "routing_bytes", routing_bytes, BYTES),
                                   AMOUNT(Traffic, "gather_bytes", gather_bytes, BYTES),
                                   AMOUNT(Traffic, "reduce_bytes", reduce_bytes, BYTES),
                                   AMOUNT(Traffic, "dense_gather_bytes", dense_gather_bytes, BYTES),
                                   AMOUNT(Traffic, "dense_reduce_bytes", dense_reduce_bytes, BYTES)}},
    [RECORD_GROUP] = {.keyword = "group",
                      .id = 'g',
                      .fields = {FIRST(Group, "kind", kind, ONE_OF(group_kind)), MAYBE(Group, "level", level, LEVEL),
                                 FIELD(Group, "domain", domain, U32)}},
    [RECORD_BUFFER] = {.keyword = "buffer",
                       .fields = {FIRST(Buffer, "name", name, NAME), FIELD(Buffer, "dtype", dtype, ONE_OF(dtype)),
                                  FIELD(Buffer, "rows", rows, U64), FIELD(Buffer, "cols", cols, U64),
                                  FIELD(Buffer, "kind", kind, ONE_OF(buffer_kind)),
                                  MAYBE(Buffer, "layer", layer, LAYER),
                                  MAYBE(Buffer, "span", span, ONE_OF(buffer_span)),
                                  FIELD(Buffer, "offset", offset, U64)}},
    [RECORD_STEP] = {.keyword = "step",
                     .id = 's',
                     .fields = {FIRST(Step, "op", op, ONE_OF(op)), MAYBE(Step, "when", when, ONE_OF(step_when)),
                                MAYBE(Step, "joined", joined, BOOL), MAYBE(Step, "layer", layer, LAYER),
                                MAYBE(Step, "level", level, LEVEL), MAYBE(Step, "group", group, GROUP),
                                AMOUNT(Step, "cost_s", cost_s, SECONDS), MAYBE(Step, "bytes", bytes, NUMBER),
                                MAYBE(Step, "busiest", busiest, NUMBER)}},
};

const char *field_unit_name(FieldUnit unit)
{
#define X(name, text) text,
    static const char *const names[UNIT_COUNT] = {HEP_FIELD_UNITS(X)};
#undef X
    return names[unit];
}

const RecordInfo *record_info(RecordKind kind)
{
    return &records[kind];
}

bool record_is_single(RecordKind kind)
{
    return kind == RECORD_CLUSTER || kind == RECORD_DEVICE || kind == RECORD_MODEL || kind == RECORD_PLAN ||
           kind == RECORD_TRAINING;
}

int record_find(const char *keyword)
{
    for (int kind = 0; kind < RECORD_COUNT; kind++)
        if (strcmp(records[kind].keyword, keyword) == 0)
            return kind;
    return -1;
}

uint32_t record_bytes(RecordKind kind)
{
    uint32_t bytes = 0;
    for (const Field *field = records[kind].fields; field->key; field++)
        bytes += field_bytes(field->type);
    return bytes;
}

uint32_t record_count(const Plan *plan, RecordKind kind)
{
    switch (kind) {
    case RECORD_CLUSTER:
    case RECORD_DEVICE:
    case RECORD_MODEL:
    case RECORD_PLAN:
        return 1;
    case RECORD_TRAINING:
        return plan->pass == PASS_TRAINING;
    case RECORD_LEVEL:
        return plan->cluster.level_count;
    case RECORD_PORT:
        return plan->cluster.port_count;
    case RECORD_LINK:
        return plan->cluster.link_count;
    case RECORD_LAYER:
        return plan->layer_count;
    case RECORD_CHOICE:
        return plan->choice_count;
    case RECORD_STRATEGY:
        return plan->strategy_count;
    case RECORD_TRAFFIC:
        return plan->strategy_count * plan->cluster.level_count;
    case RECORD_GROUP:
        return plan->group_count;
    case RECORD_BUFFER:
        return plan->buffer_count;
    case RECORD_STEP:
        return plan->step_count;
    case RECORD_COUNT:
        break;
    }
    return 0;
}

void *record_at(const Plan *plan, RecordKind kind, uint32_t index)
{
    Plan *owner = (Plan *)plan; // the caller decides whether it may write
    assert(index < record_count(plan, kind));
    switch (kind) {
    case RECORD_CLUSTER:
        return &owner->cluster;
    case RECORD_LEVEL:
        return &owner->cluster.levels[index];
    case RECORD_PORT:
        return &owner->cluster.ports[index];
    case RECORD_LINK:
        return &owner->cluster.links[index];
    case RECORD_DEVICE:
        return &owner->cluster.device;
    case RECORD_MODEL:
        return &owner->model;
    case RECORD_PLAN:
        return owner;
    case RECORD_TRAINING:
        return &owner->training;
    case RECORD_LAYER:
        return &owner->layers[index];
    case RECORD_CHOICE:
        return &owner->choices[index];
    case RECORD_STRATEGY:
        return &owner->strategies[index];
    case RECORD_TRAFFIC:
        return &owner->strategies[index / plan->cluster.level_count].traffic[index % plan->cluster.level_count];
    case RECORD_GROUP:
        return &owner->groups[index];
    case RECORD_BUFFER:
        return &owner->buffers[index];
    case RECORD_STEP:
        return &owner->steps[index];
    case RECORD_COUNT:
        break;
    }
    return NULL;
}

const char *field_takes(const Field *field)
{
    static const char *const texts[] = {
#define X(name, text, bytes) text,
        HEP_FIELD_TYPES(X)
#undef X
    };
    return field->names ? field->names->what : texts[field->type];
}

uint32_t field_bytes(FieldType type)
{
    static const uint8_t sizes[] = {
#define X(name, text, bytes) bytes,
        HEP_FIELD_TYPES(X)
#undef X
    };
    return sizes[type];
}
