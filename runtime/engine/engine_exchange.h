// What travels when a step meets the members of its group, from where to where: built here once, and handed to the
// communicator by every engine. Pointers are those of the tensors: the engine's own memory. Counts are the host's.
#ifndef HEP_ENGINE_EXCHANGE_H
#define HEP_ENGINE_EXCHANGE_H

#include "engines/step_tensors.h"
#include "runtime/comm/comm.h"

// A rank among the members of a group, and how large their messages are.
typedef struct {
    uint32_t own, members;
    uint64_t message_rows; // of exchanges that are padded, else 0
} MessagePlace;

// The rank's place in a group, and that of the group a step meets. `message_rows` is 0 for steps that do not exchange
// rows.
MessagePlace engine_group_place(const Plan *plan, const Group *group, uint64_t rank);
MessagePlace engine_step_place(const Plan *plan, const Step *step, uint64_t rank);

// Rows, records where there are any, and in padded exchanges the counts, too: rows of others come to lie after the own
// ones, or after their place. counts: [members] rows that go to each member, and that come from each; NULL where the
// host does not know them, which may be in padded exchanges alone. False and a fault: the own rows do not fit.
bool engine_dispatch_exchange(const MessagePlace *place, const struct dispatch_tensors *t, const int32_t *send_counts,
                              int32_t *recv_counts, Exchange *exchange, Fault *fault) MUST_CHECK;

enum { RETURN_PARTS_MAX = 2 };

// What the rows of a dispatch became goes back to where they came from.
typedef struct {
    uint32_t part_count;
    Tensor from[RETURN_PARTS_MAX];   // as they lie on this rank, own rows first
    Tensor to[RETURN_PARTS_MAX];     // as they are to lie there
    Tensor next_counts, send_counts; // of the way out
} ReturnTensors;

ReturnTensors engine_return_tensors(Op op, const StepTensors *operands);
// Counts as above, of the way back: what came goes.
Exchange engine_return_exchange(const MessagePlace *place, const ReturnTensors *t, const int32_t *send_counts,
                                int32_t *recv_counts);

// Every member learns how many rows the others send it. ones: [members] of 1.
Exchange engine_counts_exchange(const MessagePlace *place, Tensor send_counts, Tensor next_counts, int32_t *ones);

// A message holds no more rows than it has places for.
bool engine_counts_check(const MessagePlace *place, const int32_t *counts, Fault *fault) MUST_CHECK;
// Rows of padding in the messages to the other members, or from them.
uint64_t engine_padding_rows(const MessagePlace *place, const int32_t *counts);

// A shard that every member gets, and finds in its place among those that are gathered: of an exchange of parts like
// this one, sent to all alike (ROWS_SAME). The own one is copied by others.
ExchangePart engine_shard_part(Tensor shard, Tensor gathered);

// Packets [members x rows of each][bytes]: to every member those of its experts, and as many back. `counts`
// [2 x members] is filled and must live as long as the exchange.
Exchange engine_packet_exchange(Tensor packets, Tensor received, uint32_t members, int32_t *counts);

#endif
