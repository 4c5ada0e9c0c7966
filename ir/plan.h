// The plan: one SPMD schedule for all ranks, and everything needed to run, check, simulate or show
// it. This header is the vocabulary shared by the compiler (which builds plans), the backends
// (which write them out) and the runtime (which executes them). Owns the data types only.
//
// All byte figures are per GPU unless a name says otherwise. Times are seconds.
#ifndef HEP_PLAN_H
#define HEP_PLAN_H

#include "ir/base/arena.h"

enum {
    LEVELS_MAX = 8,
    OPERANDS_MAX = 12,
    NONE = -1, // absent level, layer, group or buffer
};

// Name tables: X(NAME, "text"). Codes are positions and are stored in plan files: append only.
#define HEP_DTYPES(X) X(F32, "f32", 4) X(F16, "f16", 2) X(BF16, "bf16", 2) X(I32, "i32", 4) X(U8, "u8", 1)
#define HEP_STREAMS(X) X(COMPUTE, "compute") X(EXCHANGE, "exchange") X(MIGRATE, "migrate") X(SYNC, "sync")
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
#define X(name, ...) STREAM_##name,
typedef enum { HEP_STREAMS(X) STREAM_COUNT } Stream;
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
const char *dtype_name(Dtype), *stream_name(Stream), *pass_name(Pass), *dispatch_name(Dispatch),
    *exchange_kind_name(ExchangeKind), *codec_name(Codec), *activation_name(Activation), *group_kind_name(GroupKind),
    *buffer_kind_name(BufferKind), *status_name(SolveStatus);
int dtype_parse(const char *), stream_parse(const char *), pass_parse(const char *), dispatch_parse(const char *),
    exchange_kind_parse(const char *), codec_parse(const char *), activation_parse(const char *),
    group_kind_parse(const char *), buffer_kind_parse(const char *), status_parse(const char *);
uint32_t dtype_bytes(Dtype);
uint32_t activation_matrices(Activation); // weight matrices of hidden x inner per expert: 2, or 3 if gated

// ---- ops -------------------------------------------------------------------------------------

typedef enum { SHAPE_LOCAL, SHAPE_EXCHANGE, SHAPE_GATHER, SHAPE_SCATTER, SHAPE_REDUCE } OpShape;

#define HEP_OP(name, text, code, stream, shape, operands, doc) OP_##name = (code),
typedef enum {
#include "ir/ops.def"
} Op;
#undef HEP_OP

typedef enum { OPERAND_IN, OPERAND_OUT, OPERAND_INOUT, OPERAND_WORK } OperandRole;

typedef struct {
    const char *name;
    OperandRole role;
    bool optional;
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

const OpInfo *op_info(int code);         // NULL for an unknown code
const OpInfo *op_find(const char *name); // NULL for an unknown name
const OpInfo *op_table(size_t *count);   // all ops, in the order of ops.def

// ---- cluster and groups ----------------------------------------------------------------------

typedef struct {
    const char *name;
    uint32_t count;                                       // workers per parent, n_l
    double bandwidth_bytes_per_s, latency_s, overhead_s; // of a worker's port, each way; overhead per message
} Level;

typedef struct {
    double compute_flops;          // sustained FLOP/s of one GPU
    double memory_bytes;           // of one GPU
    double memory_bandwidth;       // bytes/s
    double half_rate_rows;         // rows at which a matrix product reaches half the rate
    double encode_bandwidth;       // dense bytes of experts or gradients that are encoded per second,
    double decode_bandwidth;       // and that are decoded
} Device;

// A worker of the outermost level, where these differ. A plan places workers at positions x_0: which of
// them form a domain, and at which offset, is part of the planner's answer.
typedef struct {
    const char *name;             // "paris"; "dc[3]" where the input names none
    uint32_t worker;              // its index in the input
    double bandwidth_bytes_per_s; // of its port, each way
    double latency_s;
} WorkerPort;

// The path between two workers of the outermost level, where it has a limit of its own: what goes from
// a to b, and as much from b to a, besides what their ports allow.
typedef struct {
    uint32_t a, b; // positions x_0, a < b
    double bandwidth_bytes_per_s, latency_s;
} WorkerLink;

typedef struct {
    const char *name;
    uint32_t level_count;
    Level levels[LEVELS_MAX]; // outermost first
    Device device;
    uint32_t port_count, link_count; // ports: levels[0].count, or 0: all like levels[0], unnamed
    WorkerPort *ports;               // by position
    WorkerLink *links;               // ascending by (a, b); pairs not listed are limited by their ports alone
} Cluster;

uint64_t cluster_gpus(const Cluster *cluster);                        // G = prod n_l
uint64_t cluster_gpus_below(const Cluster *cluster, uint32_t level);  // c_l = prod_{j>l} n_j
void cluster_coordinates(const Cluster *cluster, uint64_t rank, uint32_t out[LEVELS_MAX]);
uint64_t cluster_rank(const Cluster *cluster, const uint32_t coordinates[LEVELS_MAX]);

// A group is a formula over coordinates, the same for every rank (design section 2, Algorithm 1):
//   GATHER    level l, domain S: ranks equal in all coordinates but l, and equal in x_l / S
//   EXCHANGE  level l, domain S: ranks equal in all coordinates but l, and equal in x_l % S
//   LEVEL     level l: ranks equal in all coordinates but l
//   WORLD     every rank
typedef struct {
    GroupKind kind;
    int32_t level;   // NONE for WORLD
    uint32_t domain; // S; 1 for LEVEL and WORLD
} Group;

uint64_t group_size(const Cluster *cluster, const Group *group);
// The rank of member `index`, 0 <= index < group_size, of the group that `rank` is in; members are
// ordered by rank. group_index is the inverse for `rank` itself.
uint64_t group_member_rank(const Cluster *cluster, const Group *group, uint64_t rank, uint64_t index);
uint64_t group_index(const Cluster *cluster, const Group *group, uint64_t rank);

// Over all groups that differ in x_0 and the pairs of workers in each, where workers of level 0 differ.
typedef struct {
    double latency_s;       // the largest
    double link_s_per_byte; // of the slowest link; 0: only ports limit
} WorstPair;

// `linked` is scratch of one number per port.
WorstPair cluster_worst_pair(const Cluster *cluster, const Group *group, uint32_t linked[]);
double cluster_slowest_port(const Cluster *cluster); // bytes/s, of level 0

// Processes are launched in the order of the input, worker by worker; ranks of a plan count positions. The process
// that is a plan's rank, and the rank that a process is.
uint64_t cluster_process_of_rank(const Cluster *cluster, uint64_t rank);
uint64_t cluster_rank_of_process(const Cluster *cluster, uint64_t process);

// ---- model -----------------------------------------------------------------------------------

// Dimensions of the executed network (design section 8). All zero but
// `layers`, `experts`, `top_k` and the volumes when `abstract`.
typedef struct {
    const char *name;
    bool abstract; // volumes and times were given; can be simulated, not executed
    Dtype dtype;
    uint32_t layers, hidden, heads, kv_heads, head_dim, vocabulary, sequence, batch;
    uint32_t ffn_inner;                                  // of dense layers; 0 when there is none
    uint32_t experts, top_k, inner, shared_experts;      // inner: of one expert
    Activation activation;
    // Volumes and times of one MoE layer, per GPU and direction; of the dimensions, or as given.
    double data_bytes;   // D: token data before deduplication
    double expert_bytes; // P: owned experts as sent, after compression
    double pre_expert_s; // PE
    double total_parameters, active_parameters; // of the whole model, and of what a token passes; 0 if unknown
} ModelDims;

// Weight layouts, row-major, in elements of the model's dtype (f32 for router and norms is not
// used: one dtype throughout). H hidden, A = heads x head_dim, K = kv_heads x head_dim, I inner.
//   embedding  [vocabulary][H], positions [sequence][H], final norm gain [H], bias [H]
//   attention  norm gain [H], bias [H], Wq [H][A], Wk [H][K], Wv [H][K], Wo [A][H]
//   router     norm gain [H], bias [H], W [H][experts]
//   ffn        norm gain [H], bias [H], up [H][I'], (gate [H][I'] if swiglu), down [I'][H]; I' = ffn_inner
//   expert     up [H][I], (gate [H][I] if swiglu), down [I][H]; a rank's experts one after another
//   shared     like one expert with inner = shared_experts x inner
uint64_t model_tokens(const ModelDims *); // per GPU: sequence x batch
uint64_t model_embedding_elements(const ModelDims *), model_attention_elements(const ModelDims *),
    model_router_elements(const ModelDims *), model_ffn_elements(const ModelDims *),
    model_expert_elements(const ModelDims *), model_shared_elements(const ModelDims *);

// ---- plan ------------------------------------------------------------------------------------

// One per MoE layer, in layer order.
typedef struct {
    uint32_t layer;              // index in the model
    uint32_t domain[LEVELS_MAX]; // S_l; n_l at replica levels, where nothing is gathered or exchanged
    bool regather;               // drop replicas after the forward pass, gather again in the backward pass
} Choice;

// Expected bytes one GPU sends over a level in one iteration.
typedef struct {
    double exchange_bytes; // token rows, both directions, all passes
    double padding_bytes;  // of these, what fills messages up to their size; 0 where exchanges are counted
    double routing_bytes;  // records and counts that travel with them
    double gather_bytes;   // experts
    double reduce_bytes;   // gradients
} Traffic;

// A strategy that was evaluated; the first of a plan is the chosen one, the others are the
// baselines of the comparison table ("ep", "ep_dedup", "gather", "uniform": the best single choice).
typedef struct {
    const char *name;
    Dispatch dispatch;
    uint32_t domain[LEVELS_MAX]; // of the first MoE layer
    double iteration_s, exposed_s, memory_bytes; // exposed: of the iteration, spent on communication alone
    bool fits;
    Traffic traffic[LEVELS_MAX];
} Strategy;

// What an optimizer step does: AdamW, its learning rate over the iterations, and what the gradient is made of.
typedef struct {
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    uint32_t warmup, decay; // iterations of the linear rise, and of the cosine fall behind it; 0: none
    double final_rate;      // the learning rate behind the fall, over `learning_rate`
    double clip;            // the largest norm of the whole gradient; 0: no limit
    double balance;         // weight of the loss that makes loads of experts alike
} TrainingSettings;

typedef struct {
    const char *name;
    Dtype dtype;
    uint64_t rows, cols;
    BufferKind kind;
    int32_t layer;      // whose weights or temporaries; NONE if of no layer
    uint64_t offset;    // in the rank's arena, bytes, multiple of BUFFER_ALIGNMENT
} Buffer;

enum { BUFFER_ALIGNMENT = 256 };

typedef struct {
    Op op;
    int32_t layer, level, group;    // NONE where it has none; group indexes plan->groups
    uint32_t operand_first;         // into plan->operands; as many as op_info says; NONE if absent
    uint32_t after_first, after_count; // into plan->after: steps of other streams, smaller index
    double cost_s;                  // predicted time of this step alone
    double bytes;                   // expected bytes one GPU sends in it; 0 for LOCAL
    double busiest;                 // bytes of the GPU that sends or receives most over those; 0 where all are alike
} Step;

typedef struct {
    Arena *arena; // owns everything below
    Cluster cluster;
    ModelDims model;
    Pass pass;
    Dispatch dispatch;
    ExchangeKind exchange;     // padded: every message is as large as `plan_message_rows` says
    Codec codec;
    double codec_ratio;        // dense bytes / bytes sent, as wished; 1 for dense. See ir/codec.h
    uint32_t shared_every;       // iterations between two sums of the mean expert that `sr` subtracts; 0: none
    double gradient_ratio;     // the same for gradients of migrated experts; 1: dense
    double capacity;           // rows per expert and source over the balanced load; 0: nothing is dropped
    uint32_t replica_levels;   // outermost levels that hold whole copies of the experts
    uint32_t replica_slots;    // gathered layers alive at once, where replicas are dropped after use; 0: no limit
    const char *solver;
    SolveStatus status;
    double gap;                // relative; 0 when proven
    double iteration_s;        // the solver's objective, = the cost model's on the choices
    uint64_t arena_bytes;      // what a rank allocates
    TrainingSettings training; // where `pass` is training

    uint32_t choice_count, strategy_count, group_count, buffer_count, step_count, operand_count, after_count;
    Choice *choices;
    Strategy *strategies;
    Group *groups;
    Buffer *buffers;
    Step *steps;               // in an order that is valid to execute one by one
    int32_t *operands;         // buffer indices or NONE
    uint32_t *after;           // step indices
} Plan;

Plan *plan_create(void); // empty, with its own arena
void plan_destroy(Plan *plan);

static inline const int32_t *step_operands(const Plan *plan, const Step *step)
{
    return plan->operands + step->operand_first;
}

// Iterations from one execution of a step to the next, the first being in iteration 0: the mean of experts is not
// summed every time.
uint32_t plan_step_period(const Plan *plan, const Step *step);

uint64_t buffer_bytes(const Buffer *buffer); // rows x cols x element size; the loader has checked it fits

enum { RECORD_BYTES = 8 }; // i32 expert, f32 gate weight: a records buffer is i32 [rows][2 x records per row]

// Experts owned by one rank: experts / prod_{l >= replica_levels} n_l.
uint32_t plan_experts_per_rank(const Plan *plan);
// The first global expert that `rank` owns. Replica levels do not count.
uint32_t plan_first_expert(const Plan *plan, uint64_t rank);
// What the domain size vector S (of one layer) puts where. An expert's owner coordinates y are
// those of its owner with replica coordinates taken from the asking rank.
// - destination domain at `level` for a row that must meet `expert`: y_level / S_level
// - slot of `expert` among the experts gathered at `rank`: gathered shards are ordered with level 0
//   fastest: sum_l (y_l % S_l) prod_{j<l} S_j, then the expert's place in its shard; -1 if not held
uint32_t plan_expert_domain(const Plan *plan, const uint32_t domain[LEVELS_MAX], uint32_t expert, uint32_t level);
int64_t plan_expert_slot(const Plan *plan, const uint32_t domain[LEVELS_MAX], uint64_t rank, uint32_t expert);

#endif
