// See coded.h.
#include "runtime/library/coded.h"

#include "engines/sums.h"

enum { ALIGNMENT = 64 };

static uint64_t tensor_bytes(Tensor tensor)
{
    return tensor.rows * tensor.cols * dtype_bytes(tensor.dtype);
}

// ---- what is remembered ----------------------------------------------------------------------------

// The next tensor of the memory, for which `at` is where it begins.
static Tensor lay_out(const Coded *coded, uint64_t rows, uint64_t *at)
{
    Tensor tensor = {
        .data = coded->memory ? coded->memory + *at : NULL, .dtype = coded->dtype, .rows = rows, .cols = coded->cols};
    *at += (tensor_bytes(tensor) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return tensor;
}

static void lay_out_all(Coded *coded, const CodedShape *shape)
{
    uint64_t together = 1;
    coded->bytes = 0;
    if (coded->encodes && codec_info(coded->coding->codec)->remembers) {
        coded->sent = lay_out(coded, coded->rows, &coded->bytes);
        coded->replicas = lay_out(coded, coded->rows * coded->members, &coded->bytes);
    }
    if (coded->encodes && shape->has_mean)
        coded->mean = lay_out(coded, 1, &coded->bytes);
    for (uint32_t c = 0; coded->returns && c < coded->crossings; c++) {
        together *= shape->crossings[c].members;
        coded->error[c] = lay_out(coded, coded->rows * together, &coded->bytes);
    }
}

bool coded_make(Coded *coded, const CodedShape *shape, Fault *fault)
{
    *coded = (Coded){.rows = shape->rows, .cols = shape->cols, .members = 1, .dtype = shape->dtype};
    for (uint32_t c = 0; c < shape->crossing_count; c++) {
        if (shape->crossings[c].level >= coding_levels(shape->coding, shape->level_count))
            break;
        coded->crossings++;
        coded->members *= shape->crossings[c].members;
    }
    if (coded->crossings == 0 || !coding_encodes(shape->coding))
        return true;
    coded->coding = shape->coding;
    coded->encodes = codec_info(shape->coding->codec)->encodes;
    coded->returns = shape->coding->gradient != GRADIENT_DENSE;
    lay_out_all(coded, shape);
    coded->moves = shape->moves;
    coded->memory = shape->moves->allocate(coded->bytes + 1);
    if (!coded->memory) {
        *coded = (Coded){0};
        return fault_set(fault, FAULT_MEMORY, "out of memory for what codecs remember");
    }
    lay_out_all(coded, shape);
    if (coded_reset(coded, shape->lane, fault))
        return true;
    coded_free(coded);
    return false;
}

void coded_free(Coded *coded)
{
    if (coded->memory)
        coded->moves->release(coded->memory);
    *coded = (Coded){0};
}

bool coded_reset(Coded *coded, Lane *lane, Fault *fault)
{
    coded->has_sent = coded->is_fresh = false;
    return !coded->memory || coded->moves->clear(lane->queue, coded->memory, coded->bytes, fault);
}

// ---- packets ---------------------------------------------------------------------------------------

static Packing packing_of(const Coded *coded, bool gradient, bool whole)
{
    return whole      ? (Packing){PACKET_WHOLE, 1}
           : gradient ? coding_gradient_packing(coded->coding)
                      : coding_packing(coded->coding);
}

uint64_t coded_packet_bytes(const Coded *coded, uint32_t crossing, bool gradient, bool whole)
{
    bool packed = crossing < coded->crossings && (gradient ? coded->returns : coded->encodes);
    return packed ? packing_bytes(packing_of(coded, gradient, whole), coded->cols, coded->dtype) : 0;
}

static Tensor packets_of(const Coded *coded, Packing packing, uint64_t rows)
{
    return (Tensor){.dtype = DTYPE_U8, .rows = rows, .cols = packing_bytes(packing, coded->cols, coded->dtype)};
}

static Tensor rows_at(Tensor tensor, uint64_t first, uint64_t count)
{
    tensor.data = (char *)tensor.data + first * tensor.cols * dtype_bytes(tensor.dtype);
    tensor.rows = count;
    return tensor;
}

// Calls in which members mean packets of another size are not the same.
static CommCall call_of(const Shares *shares, bool whole)
{
    enum { WHOLE = 1 << 8, PACKETS = 1 << 9 };
    CommCall call = shares->call;
    call.pass += PACKETS + (whole ? WHOLE : 0);
    return call;
}

// ---- weights ---------------------------------------------------------------------------------------

bool coded_sum_mean(Coded *coded, const Shares *shares, Fault *fault)
{
    const hep_context *context = shares->context;
    Tensor own = rows_at(shares->tensors[0], shares->slot * shares->rows, shares->rows);
    if (!coded->moves->mean(shares->lane->queue, context->plan->model.experts, own, coded->mean, fault))
        return false;
    for (uint32_t s = 0; s < context->sum_count; s++) {
        Meeting meeting = context->sums[s];
        meeting.call = call_of(shares, false);
        meeting.call.pass += (int32_t)s;
        meeting.queue = shares->lane->queue;
        uint64_t bytes = sums_reduce_scratch(meeting.place.members, coded->mean.cols, coded->dtype);
        void *scratch = pool_take(&shares->lane->sums, bytes + 1, fault);
        if (!scratch || !move_sum(&meeting, coded->mean, shares->lane->counts, scratch, fault))
            return false;
    }
    return true;
}

uint32_t coded_first_whole(const Coded *coded)
{
    return coded->encodes ? coded->crossings : 0;
}

// The own vectors as packets, then those of all that the crossings bring together.
static bool bring_packets(Coded *coded, const Shares *shares, Packing packing, Tensor packets, Fault *fault)
{
    const CodecInfo *codec = codec_info(coded->coding->codec);
    uint64_t slot = shares->slot % coded->members;
    Tensor own = rows_at(shares->tensors[0], shares->slot * shares->rows, shares->rows);
    struct encode_tensors encoded = {.own = own,
                                     .mean = coded->mean,
                                     .sent = coded->sent,
                                     .packet = rows_at(packets, slot * coded->rows, coded->rows)};
    if (!coded->moves->encode(shares->lane->queue, codec, packing, &encoded, fault))
        return false;
    Shares travelling = *shares;
    travelling.tensors[0] = packets;
    travelling.slot = slot;
    travelling.crossing_count = coded->crossings;
    travelling.call = call_of(shares, packing.form == PACKET_WHOLE);
    return shares_gather(&travelling, 0, fault);
}

bool coded_gather(Coded *coded, const Shares *shares, Fault *fault)
{
    if (!coded->encodes)
        return true;
    const CodecInfo *codec = codec_info(coded->coding->codec);
    bool whole = shares->whole || (codec->remembers && !coded->has_sent);
    Packing packing = packing_of(coded, false, whole);
    uint64_t rows = coded->rows * coded->members, first, count;
    Tensor packets = packets_of(coded, packing, rows), decoded = coded->replicas;
    uint64_t bytes = codec->remembers ? 0 : rows * coded->cols * dtype_bytes(coded->dtype);
    shares_block(shares, coded->crossings, &first, &count);
    Tensor block = rows_at(shares->tensors[0], first * coded->rows, rows);
    if (!codec->remembers || !coded->is_fresh) {
        char *memory = pool_take(&shares->lane->packets, bytes + tensor_bytes(packets) + 1, fault);
        if (!memory)
            return false;
        if (!codec->remembers)
            decoded = (Tensor){.data = memory, .dtype = coded->dtype, .rows = rows, .cols = coded->cols};
        packets.data = memory + bytes;
        if (!bring_packets(coded, shares, packing, packets, fault))
            return false;
        struct decode_tensors t = {.packet = packets,
                                   .own = rows_at(shares->tensors[0], shares->slot * coded->rows, coded->rows),
                                   .mean = coded->mean,
                                   .gathered = decoded,
                                   .replicas = decoded};
        if (!coded->moves->decode(shares->lane->queue, codec, packing, (shares->slot - first) * coded->rows, &t, fault))
            return false;
        coded->has_sent = coded->is_fresh = codec->remembers;
    }
    return coded->moves->copy(shares->lane->queue, block.data, decoded.data, tensor_bytes(block), fault);
}

// ---- gradients -------------------------------------------------------------------------------------

static bool return_packets(Coded *coded, const Shares *shares, uint32_t crossing, Fault *fault)
{
    const Crossing *over = &shares->crossings[crossing];
    Packing packing = packing_of(coded, true, shares->whole);
    uint64_t inner_first, inner, outer_first, outer;
    shares_block(shares, crossing, &inner_first, &inner);
    shares_block(shares, crossing + 1, &outer_first, &outer);
    Tensor gathered = rows_at(shares->tensors[0], outer_first * coded->rows, outer * coded->rows);
    Tensor shard = rows_at(shares->tensors[0], inner_first * coded->rows, inner * coded->rows);
    Tensor packets = packets_of(coded, packing, gathered.rows), received = packets;
    packets.data = pool_take(&shares->lane->packets, 2 * tensor_bytes(packets) + 1, fault);
    if (!packets.data)
        return false;
    received.data = (char *)packets.data + tensor_bytes(packets);
    Meeting meeting = over->home;
    meeting.call = call_of(shares, shares->whole);
    meeting.queue = shares->lane->queue;
    struct encode_gradient_tensors out = {.gathered = gathered, .error = coded->error[crossing], .packets = packets};
    struct decode_gradient_tensors in = {.gathered = gathered, .received = received, .shard = shard};
    Exchange exchange = engine_packet_exchange(packets, received, over->members, shares->lane->counts);
    exchange.call = meeting.call;
    return coded->moves->encode_gradient(meeting.queue, packing, &meeting.place, &out, fault) &&
           meeting.ops->exchange(&meeting, &exchange, fault) &&
           coded->moves->decode_gradient(meeting.queue, packing, &meeting.place, &in, fault);
}

bool coded_return(Coded *coded, const Shares *shares, Fault *fault)
{
    for (uint32_t c = shares->crossing_count; c-- > 0;) {
        bool ok = coded->returns && c < coded->crossings ? return_packets(coded, shares, c, fault)
                                                         : shares_return(shares, c, fault);
        if (!context_blame(shares->context, &shares->call, shares->crossings[c].level, ok, fault))
            return false;
    }
    return true;
}
