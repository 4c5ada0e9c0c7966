// Rows and weights on the move, in memory of any kind: what steps of the host engine and calls of libhep do when they
// route, exchange, gather or return, on whatever tensors they are given. What a kind of memory takes for that is a
// table of functions, MoveOps: host memory's is here, that of a GPU is the CUDA plug-in's. Plans, steps and arenas are
// the callers'.
#ifndef HEP_MOVES_H
#define HEP_MOVES_H

#include "kernels/host/kernels.h"
#include "runtime/comm/comm_sums.h"
#include "runtime/engine/engine_exchange.h"

// Where what is asked for is put in line, of memory that is not the host's: a stream with its scratch. NULL: everything
// is done when its call returns.
typedef struct MoveQueue MoveQueue;
typedef struct MoveOps MoveOps;

// Where members of a group meet.
typedef struct {
    Comm *comm;
    int channel;
    MessagePlace place;
    CommCall call; // what for, where members are to find out that they mean the same
    const MoveOps *ops;
    MoveQueue *queue;
} Meeting;

// Record rows that are split at a level, or that come back from there.
typedef struct {
    const RouteTable *table; // its places of experts are memory of the kind
    uint64_t rows;
    uint32_t fanout, copies_max; // record rows a row; most copies of a row
} MoveRoute;

// Records of rows [rows x per_row] that have rows of their own.
typedef struct {
    const uint32_t *order;     // [count] the record of each
    const int32_t *count_here; // `count`, in memory of the kind
    uint64_t count, rows;
    uint32_t per_row;
} MovePairs;

enum { MOVE_FOLD_COLUMNS = 256 };

// All tensors, and `from` and `to`, lie in memory of the kind, unless they are said to be the host's. False and a
// fault: it was not done, or could not be put in line.
struct MoveOps {
    bool of_device; // exchanges need the host to know all counts

    void *(*allocate)(uint64_t bytes); // 64-byte aligned; NULL
    void (*release)(void *memory);     // takes NULL

    bool (*copy)(MoveQueue *queue, void *to, const void *from, uint64_t bytes,
                 Fault *fault); // may overlap: `to` before
    bool (*clear)(MoveQueue *queue, void *at, uint64_t bytes, Fault *fault);
    bool (*put)(MoveQueue *queue, void *to, const void *host, uint64_t bytes, Fault *fault);
    bool (*bring)(MoveQueue *queue, void *host, const void *from, uint64_t bytes, Fault *fault); // waits for it

    bool (*exchange)(const Meeting *meeting, const Exchange *exchange, Fault *fault);
    // out = the sum of the members' parts in their order: `own`, and those that lie in the group's scratch.
    bool (*sum)(MoveQueue *queue, const SumGroup *group, Tensor own, Tensor out, Fault *fault);

    bool (*route)(MoveQueue *queue, const MoveRoute *route, const struct route_tensors *t, Fault *fault);
    // work: host memory's alone, as engines/host_scratch.h says.
    bool (*unroute)(MoveQueue *queue, const MoveRoute *route, const struct unroute_tensors *t, Tensor work,
                    Fault *fault);
    bool (*unroute_backward)(MoveQueue *queue, const MoveRoute *route, const struct unroute_backward_tensors *t,
                             Fault *fault);
    bool (*route_backward)(MoveQueue *queue, const MoveRoute *route, const struct route_backward_tensors *t,
                           Fault *fault);
    bool (*give_records)(MoveQueue *queue, const GivenRecords *given, Fault *fault);
    // To each pair the row of its record; and back, sums over the records of a row. work: host memory's alone, f32
    // [rows x MOVE_FOLD_COLUMNS]. Records: f32 [count] of pairs, [rows x per_row] of rows, 0 where no pair is; `data`
    // NULL: none.
    bool (*spread_pairs)(MoveQueue *queue, const MovePairs *pairs, Tensor rows, Tensor of_pairs, Fault *fault);
    bool (*fold_pairs)(MoveQueue *queue, const MovePairs *pairs, const struct route_backward_tensors *t, Tensor work,
                       Fault *fault); // drows_next, drecords_next -> drows, drecords
    // Rows [rows] of which no record [rows x per_row] names an expert become 0.
    bool (*clear_padding)(MoveQueue *queue, const Record *records, uint32_t per_row, Tensor rows, Fault *fault);

    bool (*encode_rows)(MoveQueue *queue, TokenFormat format, Tensor rows, Tensor packed, Fault *fault);
    bool (*decode_rows)(MoveQueue *queue, TokenFormat format, Tensor packed, Tensor rows, Fault *fault);
    // `sent`, `replicas`: of codecs that remember; else `mean`, `gathered`.
    bool (*encode)(MoveQueue *queue, const CodecInfo *codec, Packing packing, const struct encode_tensors *t,
                   Fault *fault);
    bool (*decode)(MoveQueue *queue, const CodecInfo *codec, Packing packing, uint64_t own_first,
                   const struct decode_tensors *t, Fault *fault); // many parameters: those of a kernel
    bool (*mean)(MoveQueue *queue, uint64_t all, Tensor experts, Tensor mean, Fault *fault);
    bool (*encode_gradient)(MoveQueue *queue, Packing packing, const MessagePlace *place,
                            const struct encode_gradient_tensors *t, Fault *fault);
    bool (*decode_gradient)(MoveQueue *queue, Packing packing, const MessagePlace *place,
                            const struct decode_gradient_tensors *t, Fault *fault);
    bool (*add)(MoveQueue *queue, Tensor from, double scale, Tensor to, Fault *fault); // to += scale x from
};

extern const MoveOps host_moves;

// Rows to their domains, with records where there are any. counts: the host's, [members] each; `known`: next_counts are
// there already (move_counts).
typedef struct {
    int32_t *send, *next;
    bool known;
} MoveCounts;

bool move_dispatch(const Meeting *meeting, const struct dispatch_tensors *t, MoveCounts counts,
                   Fault *fault) MUST_CHECK;
// Counts alone: next_counts says how many rows will come from each other member. ones: [members], scratch of the host.
bool move_counts(const Meeting *meeting, Tensor send_counts, Tensor next_counts, int32_t *ones,
                 Fault *fault) MUST_CHECK;
// What the rows of a dispatch became, back to where they came from. `counts`: of the way out.
bool move_back(const Meeting *meeting, const ReturnTensors *t, MoveCounts counts, Fault *fault) MUST_CHECK;

enum { MOVE_PARTS_MAX = EXCHANGE_PARTS_MAX };

// Shards that travel together: [rows][cols] each. `gathered` [members][rows][cols].
typedef struct {
    uint32_t count; // at most MOVE_PARTS_MAX
    Tensor shard[MOVE_PARTS_MAX], gathered[MOVE_PARTS_MAX];
    int32_t *counts; // [2][members], scratch of the host
} MovedShards;

// Every member's shards to all. The own ones are copied to their places among those gathered, if they are not there.
bool move_gather(const Meeting *meeting, const MovedShards *t, Fault *fault) MUST_CHECK;
// The reverse: every member ends with the sums of its shards, which are in their places among those gathered or
// elsewhere. scratch: of sums_scatter_scratch for each part.
bool move_scatter(const Meeting *meeting, const MovedShards *t, void *scratch, Fault *fault) MUST_CHECK;
// Every member ends with the same sum, for which it sends 2 (members - 1) / members of the elements. counts: as above;
// scratch: of sums_reduce_scratch.
bool move_sum(const Meeting *meeting, Tensor tensor, int32_t *counts, void *scratch, Fault *fault) MUST_CHECK;

#endif
