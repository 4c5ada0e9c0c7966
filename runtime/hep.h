/* libhep: the communication of a plan, on the caller's own tensors.
 *
 * `hepc` compiles a model and a cluster into a plan; `hep-run` executes it with a GPT of its own. This library executes
 * what of a plan is communication, for a training that is the caller's: experts' weights are gathered and their
 * gradients returned, tokens' rows are dispatched to their experts and combined again. What is computed in between, the
 * caller computes. The reference with an example is docs/library.md.
 *
 * C99 and later, C++. No MPI, CUDA or PyTorch type shows. The library never prints, never ends the process, and never
 * frees or keeps memory of the caller's beyond what is said here. Nothing is global: plans, communicators and contexts
 * are independent of each other.
 *
 * Ranks are those of the communicator, 0 to ranks - 1, in every function. Where a plan places heterogeneous workers in
 * another order than they were listed, the library translates.
 *
 * COLLECTIVE functions are called by all ranks, in one order, and may wait for the others. They fail, on all ranks,
 * when a rank fails, calls another function, another layer, or nothing at all within the communicator's time-out. An
 * error of a context stays: every later call of the context returns it, and all that is left is hep_destroy.
 *
 * THREADS. A context is used by one thread at a time, whichever; a call that meets another under way fails with
 * HEP_BAD_CALL, and so does the context. hep_abort, hep_last_error and hep_count may be called at any time from any
 * thread. Plans are read-only and may be shared; different contexts are independent.
 *
 * GPUS. Where a communicator is for a GPU, tensors lie in that GPU's memory, and `stream` is a cudaStream_t of it, NULL
 * the default one. A call comes after what is on the stream, and before what is enqueued there later: "waits" and
 * "until" then speak of the stream, and a call returns when its work is in line. Elsewhere `stream` is of no meaning.
 *
 * STRUCTS with a first member `struct_bytes` are the caller's; it is set to the struct's size by the caller before a
 * call, so that members can be added at their ends: what the library does not know stays as it is, what the caller does
 * not know is not written.
 */
#ifndef HEP_H
#define HEP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HEP_API __attribute__((visibility("default")))
#else
#define HEP_API
#endif

/* ---- versions and errors ------------------------------------------------------------------------------------- */

#define HEP_ABI        1 /* changes when a caller has to be compiled again */
#define HEP_LEVELS_MAX 8 /* of a cluster */

HEP_API int hep_abi(void);             /* HEP_ABI of the library: a wrapper refuses another than it was written for */
HEP_API const char *hep_version(void); /* "0.1.0" */

typedef enum {
    HEP_OK = 0,
    HEP_BAD_ARGUMENT = 1, /* NULL, a wrong shape or dtype, an index out of range */
    HEP_BAD_PLAN = 2,     /* not a plan, damaged, or one that the verifier refuses; of another size than the world */
    HEP_BAD_CALL = 3,     /* out of order, or from a second thread */
    HEP_UNSUPPORTED = 4,  /* of this build, or not by the library yet: the message says what */
    HEP_NO_MEMORY = 5,
    HEP_IO = 6,      /* a file cannot be read */
    HEP_COMM = 7,    /* communication failed: ranks disagree, or the transport has failed */
    HEP_TIMEOUT = 8, /* a rank did not come in time */
    HEP_ABORTED = 9, /* hep_abort was called, by this rank or another */
    HEP_INTERNAL = 10
} hep_status;

HEP_API const char *hep_status_name(hep_status status); /* "bad argument"; never NULL */

typedef struct {
    uint32_t struct_bytes;
    int32_t status;    /* hep_status; HEP_OK: nothing has failed */
    int64_t rank;      /* where it was found; -1: not known */
    int64_t step;      /* of the plan (hepc --dump=ir); -1: none */
    int64_t peer;      /* rank that was waited for, or differs; -1: none */
    char message[504]; /* one line, no newline */
} hep_error;

typedef struct hep_plan hep_plan;
typedef struct hep_comm hep_comm;
typedef struct hep_context hep_context; /* a plan on a communicator: channels, threads, slots */
typedef struct hep_route hep_route;     /* where the rows of one dispatch went */

/* The first error of a context. NULL: the last one of this thread in a function that takes no context (or whose context
 * does not exist yet). */
HEP_API void hep_last_error(const hep_context *context, hep_error *error);

/* Elements. The device of a tensor is that of its communicator: host memory, unless it was created for a GPU. */
typedef enum { HEP_F32 = 0, HEP_F16 = 1, HEP_BF16 = 2, HEP_I32 = 3, HEP_I64 = 4, HEP_U8 = 5 } hep_dtype;

/* Row-major [rows][cols]; the elements of a row are adjacent, `stride` is the distance of rows in elements (0: cols).
 * `data` may be NULL where there are no rows. */
typedef struct {
    void *data;
    int64_t rows, cols, stride;
    int32_t dtype, reserved; /* reserved: 0 */
} hep_tensor;

/* ---- plans: local, any thread -------------------------------------------------------------------------------- */

/* Loads a plan, binary or text, and verifies it. Every rank loads the same. `*plan` is freed by hep_plan_free, before
 * or after the contexts that use it. HEP_IO, HEP_BAD_PLAN, HEP_NO_MEMORY. */
HEP_API hep_status hep_plan_read(const char *path, hep_plan **plan);
HEP_API hep_status hep_plan_parse(const void *bytes, size_t size, hep_plan **plan); /* copied */
HEP_API void hep_plan_free(hep_plan *plan);                                         /* takes NULL */
/* A number of the plan's content: all ranks' must be equal. */
HEP_API uint64_t hep_plan_digest(const hep_plan *plan);

enum { HEP_NAIVE = 0, HEP_DEDUP = 1 }; /* hep_facts.dispatch: a row per record, or a row per destination */
/* hep_facts.codec of weights that travel; .gradient of gradients that return; .row_formats of token rows. */
enum { HEP_DENSE = 0, HEP_SR = 1, HEP_DELTA = 2, HEP_SIGN = 3, HEP_Q4 = 4 };
enum { HEP_GRADIENT_DENSE = 0, HEP_GRADIENT_TOPK = 1, HEP_GRADIENT_Q4 = 2, HEP_GRADIENT_TERNARY = 3 };
enum { HEP_TOKENS_FULL = 0, HEP_TOKENS_FP8 = 1, HEP_TOKENS_INT8 = 2, HEP_TOKENS_INT4 = 3 };

typedef struct {
    uint32_t struct_bytes;
    int32_t ranks, levels;
    int32_t layers, moe_layers; /* of the model; those with experts, which functions count from 0 */
    int32_t hidden, inner, experts, top_k;
    int32_t dtype;          /* hep_dtype of rows and weights */
    int32_t training;       /* 1: a plan with a backward pass; 0: forward alone */
    int32_t dispatch;       /* HEP_NAIVE or HEP_DEDUP */
    int32_t padded;         /* 1: messages have one size, whatever is sent */
    int32_t codec;          /* HEP_DENSE: experts travel as they are */
    int32_t micro_batches;  /* of an iteration: dispatches of a layer per gather of its experts */
    int32_t recompute;      /* 1: planned for activations that are computed again in the backward pass */
    int32_t groups;         /* see hep_plan_group */
    int32_t replica_levels; /* outermost levels over which every rank has all of its experts from the start */
    int32_t prefetch_slots; /* gathered layers at a time; 0: no limit */
    int32_t reserved;
    int64_t tokens;                     /* per rank and micro-batch, that the plan was made for */
    int64_t expert_elements;            /* of one expert's weights */
    double iteration_s;                 /* predicted, of all micro-batches */
    double memory_bytes;                /* of a rank, that hep-run takes */
    double codec_ratio, gradient_ratio; /* 1: dense */
    int32_t gradient;                   /* HEP_GRADIENT_*: of experts */
    int32_t dense_codec, dense_gradient;
    int32_t row_formats[4];   /* HEP_TOKENS_*: of rows to experts, of results, of gradients of rows, of results */
    int32_t whole_iterations; /* so many first ones in which packets hold whole values */
    double capacity;          /* records of an expert from a rank over the balanced number; 0: no limit */
} hep_facts;

HEP_API hep_status hep_plan_facts(const hep_plan *plan, hep_facts *facts);

typedef struct {
    uint32_t struct_bytes;
    int32_t count; /* workers per parent */
    double bandwidth_bytes_per_s, latency_s;
    const char *name; /* the plan's: as long as that */
} hep_level;

/* level: 0, the outermost, to levels - 1. */
HEP_API hep_status hep_plan_level(const hep_plan *plan, int level, hep_level *facts);

/* Of an MoE layer, the same for all ranks. */
typedef struct {
    uint32_t struct_bytes;
    int32_t model_layer; /* index among all layers */
    int32_t
        domain[HEP_LEVELS_MAX]; /* workers of a level that share the layer's experts by gathering; 1: tokens travel */
    int32_t own;                /* experts that a rank owns; 0: shares are no whole experts (owned_elements) */
    int32_t gathered;           /* experts that a rank holds once they are gathered: a whole number */
    int32_t hops;               /* levels that rows cross */
    int32_t gathers;            /* levels that experts cross */
    int32_t regather;           /* 1: dropped after the forward pass, gathered again in the backward pass */
    int32_t once;               /* of these, what came over so many outermost levels is kept */
    int32_t reserved;
    int64_t own_elements;                  /* of a rank's share, padding among them */
    double gather_s, exchange_s, return_s; /* predicted, per iteration: the steps' own times */
} hep_layer;

HEP_API hep_status hep_plan_layer(const hep_plan *plan, int moe_layer, hep_layer *facts);

/* Placement is the plan's. A rank holds, after gathering, the `count` experts from `first` on: expert e is number
 * e - first of its tensors [gathered][...]. */
HEP_API hep_status hep_plan_held(const hep_plan *plan, int moe_layer, int rank, int *first, int *count);
/* Which elements a rank owns of the layer's experts laid one after another [experts][expert_elements]: whole experts
 * where hep_layer.own is not 0. */
HEP_API hep_status hep_plan_owned(const hep_plan *plan, int moe_layer, int rank, int64_t *first, int64_t *count);
/* The rank that owns an expert's first element (with replica levels: the first such rank); -1: no such expert. */
HEP_API int hep_plan_owner(const hep_plan *plan, int moe_layer, int expert);

/* Most rows that a rank can receive from one dispatch when no rank has more than `tokens` tokens; -1: bad argument. */
HEP_API int64_t hep_plan_rows_bound(const hep_plan *plan, int moe_layer, int64_t tokens);

/* Groups of ranks that the plan's steps meet in, in the order in which all ranks would create communicators for them.
 * Group `index` (0 to groups - 1) is a formula: it divides all ranks into `count` sets of `size` each. */
enum { HEP_GROUP_EXCHANGE = 0, HEP_GROUP_GATHER = 1, HEP_GROUP_LEVEL = 2, HEP_GROUP_WORLD = 3 };
/* What a group is used for, each concurrent with the others: a communicator per bit. */
enum { HEP_USE_EXCHANGE = 1, HEP_USE_GATHER = 2, HEP_USE_RETURN = 4 };

typedef struct {
    uint32_t struct_bytes;
    int32_t kind, level; /* HEP_GROUP_*; level: -1 of the world */
    int32_t domain;      /* workers of the level that share experts by gathering */
    int32_t count, size; /* sets, ranks of each */
    int32_t uses;        /* HEP_USE_* */
    int32_t reserved;
} hep_group;

HEP_API hep_status hep_plan_group(const hep_plan *plan, int index, hep_group *facts);
/* The ranks of set `set` (0 to count - 1), in the order of members: ranks[size]. */
HEP_API hep_status hep_plan_group_ranks(const hep_plan *plan, int index, int set, int32_t ranks[]);

/* Bytes that a rank sends over a level: planned, expected of one iteration, or counted (hep_count). */
typedef struct {
    uint32_t struct_bytes, reserved;
    double exchange; /* rows of tokens and their gradients; `padding` is among them */
    double routing;  /* records, counts and gradients of gate weights that go with rows */
    double padding;
    double gather;                     /* experts' weights */
    double reduce;                     /* their gradients */
    double dense_gather, dense_reduce; /* dense weights, their gradients */
} hep_traffic;

HEP_API hep_status hep_plan_traffic(const hep_plan *plan, int level, hep_traffic *traffic);

/* ---- communicators ------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t struct_bytes;
    int32_t device;   /* of the GPU whose memory tensors are in; -1: host memory, or see hep_comm_nccl */
    double timeout_s; /* how long a collective waits for a rank that does not come; 0: 300 */
} hep_comm_options;

/* `options` may be NULL. A communicator may serve several contexts, one after another or at once, created in the same
 * order by all ranks. It is freed by hep_comm_free, before or after its contexts. */

/* All ranks are threads of this process: makes the communicators of all of them, comms[ranks]. Called once, by one
 * thread, which hands them out. With a `device` all ranks share that GPU. */
HEP_API hep_status hep_comm_threads(int ranks, const hep_comm_options *options, hep_comm *comms[]);

/* Over MPI: a communicator as MPI_Comm_c2f gives it, which is duplicated. COLLECTIVE over it. MPI must have been
 * initialised with MPI_THREAD_MULTIPLE. HEP_UNSUPPORTED where the library was built without MPI (hep_has_mpi). */
HEP_API hep_status hep_comm_mpi(int fortran_comm, const hep_comm_options *options, hep_comm **comm);
HEP_API int hep_has_mpi(void);

/* Over TCP, of the processes that torchrun, mpirun or srun started: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or
 * what mpirun and srun set in their place. COLLECTIVE. Once per process at a time. Processes of another job are told
 * apart by HEP_JOB_SECRET or what the launcher said; a process that dies is noticed by all others. */
HEP_API hep_status hep_comm_tcp(const hep_comm_options *options, hep_comm **comm);
/* The same of processes that know each other already, as many as they like of such communicators: rank 0 listens at
 * `port` of `host`, where the others reach it; `secret`, the same on all of them and random, is what they recognise
 * each other by. COLLECTIVE; waits for a minute at most. */
HEP_API hep_status hep_comm_tcp_at(int rank, int ranks, const char *host, int port, const uint8_t secret[32],
                                   const hep_comm_options *options, hep_comm **comm);

/* Carried by the caller, e.g. by torch.distributed. A channel is a set of ranks, for one of the uses above; calls on
 * one channel come in one order on all its members, those of different channels may come at the same time, from threads
 * of the library's own, unless `one_thread`. All functions return 0, or else the communicator has failed for good; what
 * is waited for has to fail by itself, with HEP_TIMEOUT, when a peer does not come within the time-out. */
typedef struct {
    uint32_t struct_bytes;
    int32_t one_thread; /* 1: called only from inside the caller's own calls; then nothing overlaps */
    int32_t unchecked;  /* 1: skip the small exchange by which members find out, before sizes that they know already are
                           relied on, that they are not in the same call */
    int32_t reserved;
    /* From inside hep_create. All ranks open all channels that they are a member of, numbered from 0 by the rank, those
     * of one set in one order. own: this rank's place in ranks[count], which may come in any order. */
    int (*open)(void *user, int channel, const int32_t *ranks, int count, int own);
    /* Every member sends send_bytes[m] bytes to member m, one member's after another's, and gets recv_bytes[m]; both
     * are 0 for itself. Blocks. */
    int (*exchange)(void *user, int channel, const void *send, const int64_t *send_bytes, void *recv,
                    const int64_t *recv_bytes);
    /* Every member gives `bytes` bytes and gets those of all, in the order of members: all[count][bytes]; `own` is not
     * within `all`, or in its place there. Blocks. May be NULL: made of `exchange`. */
    int (*all_gather)(void *user, int channel, const void *own, void *all, int64_t bytes);
    /* This rank has failed: make calls of other ranks fail soon, if there is a way. May be NULL. */
    void (*abort)(void *user, const char *why);
    /* Words for the last failure in this thread, or NULL. May be NULL. */
    const char *(*why)(void *user);
} hep_carrier;

HEP_API hep_status hep_comm_carrier(int rank, int ranks, const hep_carrier *carrier, void *user,
                                    const hep_comm_options *options, hep_comm **comm);

/* Over NCCL, of processes with a GPU each. Rank 0's process makes the id, which says where it will listen; the caller
 * brings it to the others. An id serves once. COLLECTIVE. options: `device` is the GPU of this process; -1: the one
 * with the rank's number, modulo how many the process sees. HEP_UNSUPPORTED: the library's plug-in for CUDA is not
 * installed, or cannot be loaded. Once a process or a context has failed, so have all contexts of the communicator. */
HEP_API hep_status hep_nccl_id(uint8_t id[128]);
HEP_API hep_status hep_comm_nccl(int rank, int ranks, const uint8_t id[128], const hep_comm_options *options,
                                 hep_comm **comm);
/* The same of the processes that a launcher started, as hep_comm_tcp finds them; -1: by the place on the machine. */
HEP_API hep_status hep_comm_nccl_env(const hep_comm_options *options, hep_comm **comm);

HEP_API void hep_comm_free(hep_comm *comm); /* takes NULL */

/* ---- contexts ------------------------------------------------------------------------------------------------ */

typedef struct {
    uint32_t struct_bytes, reserved;
    int64_t max_tokens; /* most tokens of a rank in one dispatch; 0: those of the plan */
} hep_options;

/* COLLECTIVE. All ranks give the same plan and options (NULL: defaults). HEP_BAD_PLAN: a plan for another number of
 * ranks, or not the same everywhere. HEP_UNSUPPORTED: a plan that the library does not execute: abstract workloads,
 * weights in less than 16 bits. */
HEP_API hep_status hep_create(const hep_plan *plan, hep_comm *comm, const hep_options *options, hep_context **context);
/* Pending and later calls of all ranks fail with HEP_ABORTED and `why` (may be NULL). From any thread. */
HEP_API void hep_abort(hep_context *context, const char *why);
/* Waits for transfers under way, unless the context has failed. No call of the context is under way, and none of its
 * routes is used afterwards but to be freed. Takes NULL. Not collective, but peers that still need this rank fail. */
HEP_API void hep_destroy(hep_context *context);

HEP_API int hep_rank(const hep_context *context);

/* ---- experts' weights ---------------------------------------------------------------------------------------- *
 * An expert's weights are one or more parameters; parameter p of all experts that a rank owns, or holds, is a tensor
 * whose row j is all of that parameter of one expert: [own][...] flattened to [own][cols], [gathered][cols]. The cols
 * of all parameters together are the plan's expert_elements, their dtype is the plan's. Where hep_layer.own is 0, a
 * rank owns a piece of a block of experts laid one after another, each expert's parameters one after another: `own` and
 * `grads` are then one tensor [1][own_elements].
 *
 *   bind        once per layer
 *   begin       once per iteration: starts the gathers of all layers in the plan's order, in the background
 *   gathered    before a layer's first dispatch: waits until its experts are there
 *   used        after its last use in the pass: the slot may serve the next gather
 *   begin(HEP_BACKWARD)    once, before the backward pass: gathers again what the plan says was dropped
 *   gathered, used         likewise
 *   return      once per layer, when the gradients of all micro-batches are summed: starts their way home
 *   finish      before the optimizer: all returned gradients are there
 *
 * Where the plan compresses experts or gradients, they travel as packets over its outer levels, and `full` is what
 * receivers make of these: own experts exactly, others approximately. What is left out goes with the next packets; the
 * context remembers it (hep_state_save). The first packets of weights hold whole values.
 */

/* Local; no transfer of the layer is under way. own: [count], or one tensor (above). grads: where the sums of returned
 * gradients are added, shaped and counted as `own`, f32 or the plan's dtype; NULL: this layer returns none. full:
 * [count], the caller's memory for the gathered experts. All are used until they are bound again, which may be at any
 * time between transfers of the layer, or the context is destroyed. Where layers are dropped after use (regather) and
 * hep_facts.prefetch_slots is n > 0, the layers that are gathered as number i and i + n of a pass may share `full`. */
HEP_API hep_status hep_bind(hep_context *context, int layer, int count, const hep_tensor own[],
                            const hep_tensor grads[], const hep_tensor full[]);

enum {
    HEP_BACKWARD = 1,     /* the backward pass */
    HEP_WEIGHTS_SAME = 2, /* of begin: weights have not changed since they were gathered: what is still there serves */
    HEP_NO_REGATHER = 4   /* of begin and used: nothing is dropped between forward and backward pass */
};

/* COLLECTIVE, but returns at once. The weights may not change until a layer's hep_gathered. */
HEP_API hep_status hep_begin(hep_context *context, int flags, void *stream);
/* Waits until a layer's experts are in its `full` tensors. HEP_BAD_CALL: begin did not start it, or it waits for a slot
 * that only hep_used of another layer frees. */
HEP_API hep_status hep_gathered(hep_context *context, int layer, int flags, void *stream);
HEP_API hep_status hep_used(hep_context *context, int layer, int flags, void *stream);
/* COLLECTIVE, but returns at once: gradients of all held experts [gathered][cols], each multiplied by `scale`, are
 * summed over the ranks that hold them and added to the owners' `grads`. full_grads are read until hep_finish; they may
 * be overwritten with partial sums. */
HEP_API hep_status hep_return(hep_context *context, int layer, int count, const hep_tensor full_grads[], double scale,
                              void *stream);
/* Waits until all gradients that were returned are in `grads` of their owners. */
HEP_API hep_status hep_finish(hep_context *context, void *stream);

/* ---- dense weights ------------------------------------------------------------------------------------------- *
 * A bundle is any flat tensor of the caller's that all ranks use whole, and own in equal shares: hep_dense_share
 * elements each, the last shares ending with padding, which is 0. Gathered outermost level first, returned innermost
 * first, so that each element crosses a slow port once per worker. */

/* Elements of a rank's share of a bundle, and where among the gathered shares [ranks][share] it lies. */
HEP_API hep_status hep_dense_share(const hep_context *context, int64_t elements, int64_t *share, int64_t *first);
/* COLLECTIVE. share: [1][share]; full: [1][ranks x share], which begins with the bundle's elements. Waits. */
HEP_API hep_status hep_dense_gather(hep_context *context, const hep_tensor *share, const hep_tensor *full,
                                    void *stream);
/* COLLECTIVE. The reverse: full, which is overwritten, times `scale`, summed over all ranks, is added to share. Waits.
 */
HEP_API hep_status hep_dense_return(hep_context *context, const hep_tensor *full, double scale, const hep_tensor *share,
                                    void *stream);

/* The same in the background, one transfer after another in the order of calls, those of experts' gradients among them;
 * and as packets where the plan compresses dense weights: then in no other way. Bundles have numbers, the same on all
 * ranks, 0 to HEP_BUNDLES_MAX - 1. */
#define HEP_BUNDLES_MAX 65536

/* Local; no transfer of the bundle is under way. share, full: as above; grad: where sums of returned gradients are
 * added, shaped as `share`, of any floating dtype; NULL: none are returned. All are used until they are bound again,
 * which takes a share of as many elements and the same dtype. */
HEP_API hep_status hep_dense_bind(hep_context *context, int bundle, const hep_tensor *share, const hep_tensor *grad,
                                  const hep_tensor *full);
/* COLLECTIVE, but returns at once: `full` is gathered, of weights that may not change until gathered returns.
 * HEP_WEIGHTS_SAME: they are as they were, so that packets need not travel once more. */
HEP_API hep_status hep_dense_begin(hep_context *context, int bundle, int flags, void *stream);
/* Waits until the bundle's transfers are done. HEP_BAD_CALL: begin did not start one. */
HEP_API hep_status hep_dense_gathered(hep_context *context, int bundle, void *stream);
/* COLLECTIVE, but returns at once: full_grad [1][ranks x share], which is overwritten until hep_finish, times `scale`,
 * summed over all ranks, is added to `grad`. Training plans. */
HEP_API hep_status hep_dense_send(hep_context *context, int bundle, const hep_tensor *full_grad, double scale,
                                  void *stream);

/* ---- tokens -------------------------------------------------------------------------------------------------- *
 *   dispatch        tokens' rows leave; what arrives is counted
 *   route_rows      how many rows the caller makes room for
 *   dispatch_finish the rows arrive there
 *   ... the caller applies its experts ...
 *   combine         results return and are summed into the tokens they came from
 * and in the backward pass
 *   combine_backward   gradients of tokens' results to where the results were made
 *   ... the caller's experts, backward ...
 *   dispatch_backward  gradients of rows and of gate weights return to the tokens
 */

enum {
    HEP_EXPANDED = 8, /* a row for each of a row's experts, ordered by expert */
    HEP_DROP = 16     /* what exceeds the plan's capacity is dropped, the last tokens' choices first */
};

/* COLLECTIVE. x [tokens][hidden] in the plan's dtype; experts [tokens][top_k], i32 or i64, global numbers, -1 where a
 * token has fewer; a token names an expert once. weights [tokens][top_k] f32: of the gate. Ranks may have different
 * numbers of tokens, also none. x and weights must stay as they are until dispatch_finish.
 *
 * Where messages are padded (hep_facts.padded) an expert takes at most hep_facts.capacity times its balanced share of
 * hep_options.max_tokens from a rank: more is HEP_BAD_ARGUMENT, or is dropped with HEP_DROP. A choice that is dropped
 * adds nothing to its token's result, and its weight gets no gradient. As many rows arrive in every dispatch; those
 * that nobody sent name no expert and are 0. */
HEP_API hep_status hep_dispatch(hep_context *context, int layer, const hep_tensor *x, const hep_tensor *experts,
                                const hep_tensor *weights, int flags, void *stream, hep_route **route);
/* Rows that will arrive and how many experts each names: their tensors are [rows][hidden] and [rows][records].
 * per_expert: [gathered], how many of the rows name each held expert; or NULL. */
HEP_API hep_status hep_route_rows(hep_route *route, int64_t *rows, int64_t *records, int64_t *per_expert);
/* COLLECTIVE. x [rows][hidden]; experts [rows][records], i32 or i64, indices into the layer's gathered experts,
 * `gathered` where there is none; weights [rows][records] f32. With HEP_EXPANDED records is 1, rows are ordered by
 * expert. */
HEP_API hep_status hep_dispatch_finish(hep_route *route, const hep_tensor *x, const hep_tensor *experts,
                                       const hep_tensor *weights, void *stream);
/* COLLECTIVE. results [rows][hidden]: for every row the sum over its experts of weight times expert(row). out
 * [tokens][hidden], written: the sum of a token's results. */
HEP_API hep_status hep_combine(hep_route *route, const hep_tensor *results, const hep_tensor *out, void *stream);
/* COLLECTIVE. dout [tokens][hidden]; dresults [rows][hidden], written. Training plans. */
HEP_API hep_status hep_combine_backward(hep_route *route, const hep_tensor *dout, const hep_tensor *dresults,
                                        void *stream);
/* COLLECTIVE. dx [rows][hidden], dweights [rows][records] f32: gradients of what dispatch_finish gave. out_dx
 * [tokens][hidden], out_dweights [tokens][top_k] f32, written: those of what dispatch took. Training plans. */
HEP_API hep_status hep_dispatch_backward(hep_route *route, const hep_tensor *dx, const hep_tensor *dweights,
                                         const hep_tensor *out_dx, const hep_tensor *out_dweights, void *stream);
/* Routes are counted references: dispatch gives one, which hep_route_free drops; keep adds one. Local. */
HEP_API void hep_route_keep(hep_route *route);
HEP_API void hep_route_free(hep_route *route); /* takes NULL */

/* ---- counters and state -------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t struct_bytes, reserved;
    double exchange_late_s, exchange_s; /* waiting until the last peer had come, and from then on */
    double gather_late_s, gather_s;     /* of gathers and returns, in the background */
    double waited_s;                    /* inside hep_gathered and hep_finish */
} hep_times;

/* What this rank sent since the last reset, per level: levels[facts.levels], of which the first one's struct_bytes
 * counts; times may be NULL. From any thread, while
 * no transfer is under way for exact figures. */
HEP_API hep_status hep_count(hep_context *context, hep_traffic *levels, hep_times *times, int reset);

/* What codecs remember of weights and gradients, rank by rank, for the caller's checkpoint: 0 bytes of a plan without
 * codecs. A state is of one rank of one plan, of its layers and the bundles that were bound when it was saved, and
 * loads into such a one. Between transfers: all that was begun was waited for. Loading NULL, 0 bytes, forgets
 * everything: the next packets hold whole values. After either, what was gathered is to be gathered again. All ranks
 * load alike. */
HEP_API hep_status hep_state_bytes(hep_context *context, uint64_t *bytes);
HEP_API hep_status hep_state_save(hep_context *context, void *bytes, uint64_t size, void *stream);
HEP_API hep_status hep_state_load(hep_context *context, const void *bytes, uint64_t size, void *stream);

#ifdef __cplusplus
}
#endif

#endif
