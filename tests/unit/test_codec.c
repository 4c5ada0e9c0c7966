// Compression kernels: what is selected against a sorted reference, both ends of a transfer bit for bit, and what is
// left out against what travels later. Odd sizes, all dtypes, guard bytes around every buffer.
// builds: dev fast
#include <math.h>

#include "ir/codec.h"
#include "tensors.h"

#define sr    codec_info(CODEC_SR)
#define delta codec_info(CODEC_DELTA)

static const uint64_t sizes[] = {1, 5, 255, 511, 512, 700, CODEC_BLOCK, CODEC_BLOCK + 1, 3 * CODEC_BLOCK + 777};
enum { SIZES = sizeof(sizes) / sizeof(*sizes) };

static Packing largest(double ratio)
{
    return (Packing){PACKET_LARGEST, ratio};
}

static Tensor make_packets(Tensor vectors, Packing packing)
{
    return make(DTYPE_U8, vectors.rows, packing_bytes(packing, vectors.cols, vectors.dtype));
}

static Tensor make_zero(Dtype dtype, uint64_t rows, uint64_t cols)
{
    Tensor tensor = make(dtype, rows, cols);
    memset(tensor.data, 0, rows * cols * dtype_bytes(dtype));
    return tensor;
}

static uint64_t tensor_bytes(Tensor tensor)
{
    return tensor.rows * tensor.cols * dtype_bytes(tensor.dtype);
}

static Tensor copy_of(Tensor tensor)
{
    Tensor copy = make(tensor.dtype, tensor.rows, tensor.cols);
    memcpy(copy.data, tensor.data, tensor_bytes(tensor));
    return copy;
}

static bool same(Tensor a, Tensor b)
{
    return memcmp(a.data, b.data, tensor_bytes(a)) == 0;
}

static double norm(Tensor a, Tensor b)
{
    double sum = 0;
    for (uint64_t i = 0; i < a.rows * a.cols; i++)
        sum += pow(at(a, i) - at(b, i), 2);
    return sqrt(sum);
}

// ---- selection -------------------------------------------------------------------------------------

typedef struct {
    uint32_t magnitude;
    uint16_t index;
} Ranked;

static int compare_ranked(const void *a, const void *b)
{
    const Ranked *x = a, *y = b;
    if (x->magnitude != y->magnitude)
        return x->magnitude < y->magnitude ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

static int compare_indices(const void *a, const void *b)
{
    return (int)*(const uint16_t *)a - (int)*(const uint16_t *)b;
}

static void expect_largest(const float *values, uint32_t count, uint32_t kept, const char *what)
{
    static Ranked ranked[CODEC_BLOCK];
    static uint16_t want[CODEC_BLOCK], got[CODEC_BLOCK + 1];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof(bits));
        ranked[i] = (Ranked){bits & 0x7FFFFFFF, (uint16_t)i};
    }
    qsort(ranked, count, sizeof(*ranked), compare_ranked);
    for (uint32_t i = 0; i < kept; i++)
        want[i] = ranked[i].index;
    qsort(want, kept, sizeof(*want), compare_indices);
    got[kept] = 0xA5A5;
    select_largest(values, count, kept, got);
    cr_assert_eq(memcmp(got, want, kept * sizeof(*want)), 0, "%s: %u of %u", what, kept, count);
    cr_assert_eq(got[kept], 0xA5A5, "%s: more than %u indices written", what, kept);
}

typedef enum { NORMAL, EQUAL, ZEROS, FEW_VALUES, TINY, INFINITE, WITH_NAN, RISING, CONTENTS } Content;
static const char *const content_names[] = {"normal", "equal",    "zeros",    "few values",
                                            "tiny",   "infinite", "with NaN", "rising"};

static float content_at(Content content, uint32_t index)
{
    double x = random_unit() + random_unit() + random_unit() - 1.5;
    switch (content) {
    case EQUAL:
        return index % 2 ? -0.25f : 0.25f;
    case ZEROS:
        return index % 3 ? -0.0f : 0.0f;
    case FEW_VALUES:
        return (float)(int)(4 * x);
    case TINY:
        return (float)(x * 1e-41);
    case INFINITE:
        return index % 7 == 3 ? -INFINITY : (float)x;
    case WITH_NAN:
        return index % 100 == 31 ? (index % 200 == 31 ? -NAN : NAN) : index % 50 == 2 ? INFINITY : (float)x;
    case RISING:
        return (float)index;
    default:
        return (float)x;
    }
}

Test(codec, the_largest_are_selected)
{
    static float values[CODEC_BLOCK];
    const uint32_t counts[] = {1, 2, 17, 255, 511, 512, 513, 1000, 4095, 4096};
    for (Content content = 0; content < CONTENTS; content++)
        for (int c = 0; c < 10; c++) {
            uint32_t count = counts[c];
            const uint32_t kepts[] = {0, 1, 2, 20, 81, 255, 256, 257, count / 2, count};
            for (uint32_t i = 0; i < count; i++)
                values[i] = content_at(content, i);
            for (int k = 0; k < 10; k++)
                if (kepts[k] <= count)
                    expect_largest(values, count, kepts[k], content_names[content]);
        }
}

// ---- experts ---------------------------------------------------------------------------------------

// Three held experts, of which the middle one is this rank's: its packet is never read.
enum { HELD = 3, OWN = 1 };

static Tensor row_of(Tensor tensor, uint64_t row)
{
    return (Tensor){element_in(tensor.data, tensor.dtype, row * tensor.cols), tensor.dtype, 1, tensor.cols};
}

static Tensor poison_own(Tensor packets)
{
    memset(row_of(packets, OWN).data, 0xFF, packets.cols);
    return packets;
}

static void check_sr(Dtype dtype, uint64_t elements, double ratio, bool with_shared)
{
    Packing packing = largest(ratio);
    Tensor experts = make_random(dtype, HELD, elements, 1), decoded = make(dtype, HELD, elements);
    Tensor shared = with_shared ? make_random(dtype, 1, elements, 0.5) : (Tensor){0};
    Tensor packets = make_packets(experts, packing);
    host_encode(sr, packing, experts, shared, packets);
    Tensor again = copy_of(packets);
    host_encode(sr, packing, experts, shared, again);
    cr_assert(same(packets, again), "the same input must give the same packet");
    host_decode(sr, packing, OWN, poison_own(packets), row_of(experts, OWN), shared, decoded);
    cr_assert(same(row_of(experts, OWN), row_of(decoded, OWN)), "own experts are used as they are");
    // bf16 keeps 8 bits of a value, its sum with the shared expert is rounded once more.
    double rounding = 0x1p-8 + (dtype == DTYPE_F32 ? 0x1p-23 : dtype == DTYPE_F16 ? 0x1p-10 : 0x1p-7);
    for (uint64_t row = 0; row < HELD; row++) {
        uint64_t exact = 0, kept = packing_bytes(packing, elements, dtype) / CODEC_ELEMENT_BYTES;
        for (uint64_t i = 0; i < elements; i++) {
            double base = with_shared ? at(shared, i) : 0, was = at(experts, row * elements + i);
            double is = at(decoded, row * elements + i);
            if (row != OWN && is != base)
                cr_assert(fabs(is - was) <= rounding * (fabs(was) + fabs(base)), "%g became %g", was, is);
            exact += is != base;
        }
        if (row != OWN)
            cr_assert(exact <= kept && exact + kept / 20 + 1 >= kept, "%llu of %llu kept elements are decoded",
                      (unsigned long long)exact, (unsigned long long)kept);
    }
    finish();
}

Test(codec, sr_rebuilds_the_shared_expert_and_the_largest_residuals)
{
    const double ratios[] = {0.5, 3, 50};
    for (int d = 0; d < 3; d++)
        for (int s = 0; s < SIZES; s++)
            for (int r = 0; r < 3; r++)
                for (int with_shared = 0; with_shared < 2; with_shared++)
                    check_sr(dtypes[d], sizes[s], ratios[r], with_shared);
}

// Moves all weights a little, as an optimizer does.
static void drift(Tensor weights, double scale)
{
    for (uint64_t i = 0; i < weights.rows * weights.cols; i++) {
        float value = (float)(at(weights, i) + scale * (2 * random_unit() - 1));
        host_from_f32(&value, element_in(weights.data, weights.dtype, i), weights.dtype, 1);
    }
}

static void check_replicas(Dtype dtype, uint64_t elements, Packing packing)
{
    Tensor experts = make_random(dtype, HELD, elements, 1), sent = copy_of(experts), replicas = copy_of(experts);
    Tensor packets = make_packets(experts, packing);
    for (int update = 0; update < 100; update++) {
        drift(experts, 0.01);
        host_encode(delta, packing, experts, sent, packets);
        host_decode(delta, packing, OWN, poison_own(packets), row_of(experts, OWN), (Tensor){0}, replicas);
        cr_assert(same(row_of(experts, OWN), row_of(replicas, OWN)), "own experts are used as they are");
        for (uint64_t row = 0; row < HELD; row += HELD - 1)
            cr_assert(same(row_of(sent, row), row_of(replicas, row)), "update %d of %llu elements in %s", update,
                      (unsigned long long)elements, dtype_name(dtype));
    }
    finish();
}

Test(codec, sender_and_receivers_stay_equal)
{
    for (int d = 0; d < 3; d++)
        for (int s = 0; s < SIZES; s++) {
            check_replicas(dtypes[d], sizes[s], largest(50));
            check_replicas(dtypes[d], sizes[s], (Packing){PACKET_SHORT, 200});
            check_replicas(dtypes[d], sizes[s], (Packing){PACKET_SIGN, 1});
        }
}

// The weights rest: what was left out travels later, until replicas are the weights.
Test(codec, delta_sends_later_what_it_left_out)
{
    for (int d = 0; d < 3; d++) {
        Dtype dtype = dtypes[d];
        Tensor experts = make_random(dtype, 1, 2 * CODEC_BLOCK + 100, 1);
        Tensor sent = make_zero(dtype, 1, experts.cols), packet = make_packets(experts, largest(10));
        double before = norm(experts, sent);
        for (int update = 0; update < 60; update++) {
            host_encode(delta, largest(10), experts, sent, packet);
            double after = norm(experts, sent);
            cr_assert(after < before || after == 0, "update %d: %g after %g", update, after, before);
            before = after;
        }
        double least = dtype == DTYPE_F32 ? 0x1p-16 : 0; // bf16 left 8 bits of a value, then 8 of what was left
        cr_assert(before <= least * sqrt((double)experts.cols), "%s: %g left", dtype_name(dtype), before);
        finish();
    }
}

Test(codec, values_that_are_no_numbers_travel)
{
    for (int d = 0; d < 3; d++) {
        Tensor experts = make_random(dtypes[d], 1, CODEC_BLOCK + 9, 1), sent = copy_of(experts);
        Tensor replicas = copy_of(experts), packet = make_packets(experts, largest(200));
        const uint64_t places[] = {7, CODEC_BLOCK + 8};
        for (int p = 0; p < 2; p++) {
            float bad = p ? INFINITY : NAN;
            host_from_f32(&bad, element_in(experts.data, dtypes[d], places[p]), dtypes[d], 1);
        }
        host_encode(delta, largest(200), experts, sent, packet);
        host_decode(delta, largest(200), 1, packet, (Tensor){sent.data, dtypes[d], 0, sent.cols}, (Tensor){0},
                    replicas);
        cr_assert(isnan(at(replicas, places[0])) && isinf(at(replicas, places[1])));
        finish();
    }
}

// ---- signs -----------------------------------------------------------------------------------------

static void expect_packet(Packing packing, const float *values, uint64_t count, const uint8_t *want, uint64_t bytes)
{
    Tensor experts = make(DTYPE_F32, 1, count), sent = make_zero(DTYPE_F32, 1, count);
    Tensor packet = make_packets(experts, packing);
    memcpy(experts.data, values, count * sizeof(*values));
    cr_assert_eq(packet.cols, bytes);
    host_encode(delta, packing, experts, sent, packet);
    cr_assert_arr_eq(packet.data, want, bytes);
    finish();
}

// 3.5 / 3 is 1 + 21.33 / 128: 0x3F95 in bf16. Of 40 elements element i is bit i / 2 of word i % 2.
Test(codec, signs_by_hand)
{
    const uint8_t three[] = {0x95, 0x3F, 0x02, 0, 0, 0, 0, 0};
    const uint8_t forty[] = {0x00, 0x3F, 0, 0, 0x08, 0, 0x02, 0, 0, 0, 0, 0};
    float halves[40];
    for (int i = 0; i < 40; i++)
        halves[i] = i == 3 || i == 38 ? -0.5f : 0.5f;
    expect_packet((Packing){PACKET_SIGN, 1}, (const float[]){1, -2, 0.5f}, 3, three, sizeof(three));
    expect_packet((Packing){PACKET_SIGN, 1}, halves, 40, forty, sizeof(forty));
}

// What the weights rest at is approached: |w - sent| sinks to the scale of the last step, which halves now and then.
Test(codec, signs_approach_weights_that_rest)
{
    for (int s = 0; s < SIZES; s++) {
        Packing packing = {PACKET_SIGN, 1};
        Tensor experts = make_random(DTYPE_F32, 1, sizes[s], 1), sent = make_zero(DTYPE_F32, 1, sizes[s]);
        Tensor packet = make_packets(experts, packing);
        double before = norm(experts, sent);
        for (int update = 0; update < 60; update++)
            host_encode(delta, packing, experts, sent, packet);
        cr_assert(norm(experts, sent) <= 0.1 * before, "%g of %g left", norm(experts, sent), before);
        finish();
    }
}

Test(codec, mean_of_all_experts)
{
    for (int d = 0; d < 3; d++)
        for (int s = 0; s < SIZES; s++) {
            Tensor experts = make_random(dtypes[d], HELD, sizes[s], 1), shared = make(dtypes[d], 1, sizes[s]);
            host_mean(2 * HELD, experts, shared);
            for (uint64_t i = 0; i < sizes[s]; i++) {
                double sum = 0;
                for (uint64_t row = 0; row < HELD; row++)
                    sum += at(experts, row * sizes[s] + i);
                cr_assert_float_eq(at(shared, i), sum / (2 * HELD), 4e-3);
            }
            finish();
        }
}

// ---- few bits --------------------------------------------------------------------------------------

// The scale is 3.5 / 7; byte 0 has the elements 0 and 2, byte 1 the elements 1 and, above, none. 1.25 lies between
// 2 and 3 steps: 2 is even. A second group begins with its own scale, 1.
Test(codec, four_bits_by_hand)
{
    const uint8_t three[] = {0x00, 0x3F, 8 + 7 + ((8 - 4) << 4), 8 + 2, 0, 0, 0, 0};
    expect_packet((Packing){PACKET_Q4, 1}, (const float[]){3.5f, 1.25f, -2}, 3, three, 4);
    float values[CODEC_GROUP + 1];
    uint8_t want[72] = {0x00, 0x3F};
    for (int i = 0; i < CODEC_GROUP; i++)
        values[i] = i == 70 ? -3.5f : i == 6 ? 0.6f : 0;
    values[CODEC_GROUP] = -7;
    memset(want + 2, 0x88, 64);
    want[2 + 6] = (8 + 1) | (8 - 7) << 4; // 0.6 is nearer to one step than to two; element 70 is 64 + 6
    want[66] = 0x80, want[67] = 0x3F, want[68] = 8 - 7;
    expect_packet((Packing){PACKET_Q4, 1}, values, CODEC_GROUP + 1, want, sizeof(want));
}

// Mean magnitude 1, bound 0.7: two elements count, their mean is 2.5. In base 3, lowest first, byte 0 of 2 has the
// elements 0, 2, 4, byte 1 the elements 1, 3, 5.
Test(codec, signs_and_zeros_by_hand)
{
    const float values[] = {3, 0.25f, -2, 0.5f, 0, 0.25f};
    const uint8_t want[] = {0x20, 0x40, 2 + 3 * 0 + 9 * 1, 1 + 3 * 1 + 9 * 1};
    expect_packet((Packing){PACKET_TERNARY, 1}, values, 6, want, sizeof(want));
}

// At ratio 4 of 20 bytes 5 are bought: 2 of scale, one element of 2. The scale is 14 / 7, the element 7 steps.
Test(codec, short_elements_by_hand)
{
    const float values[] = {1, -14, 3, 0, 2};
    const uint8_t want[] = {0x00, 0x40, 1, (8 - 7) << 4};
    expect_packet((Packing){PACKET_SHORT, 4}, values, 5, want, sizeof(want));
}

// Weights as they are, whatever was there before: senders and receivers then hold them. Gradients leave nothing out.
Test(codec, whole_packets_lose_nothing)
{
    const Packing whole = {PACKET_WHOLE, 1};
    static const Codec codecs[] = {CODEC_SR, CODEC_SIGN};
    for (int d = 0; d < 3; d++)
        for (int s = 0; s < SIZES; s++)
            for (size_t c = 0; c < COUNT_OF(codecs); c++) {
                const CodecInfo *codec = codec_info(codecs[c]);
                Tensor weights = make_random(dtypes[d], 2, sizes[s], 1), packet = make_packets(weights, whole);
                Tensor sent = make_random(dtypes[d], codec->remembers ? 2 : 1, sizes[s], 1);
                Tensor replicas = make_random(dtypes[d], 2, sizes[s], 1);
                Tensor none = {.dtype = dtypes[d], .cols = sizes[s]};
                host_encode(codec, whole, weights, sent, packet);
                host_decode(codec, whole, 0, packet, none, sent, replicas);
                cr_assert(same(replicas, weights));
                cr_assert(!codec->remembers || same(sent, weights));
                Tensor gathered = make_random(dtypes[d], 2, sizes[s], 1), error = make_zero(dtypes[d], 2, sizes[s]);
                Tensor sum = make(dtypes[d], 1, sizes[s]), zero = make_zero(dtypes[d], 2, sizes[s]);
                host_encode_gradient(whole, 0, 1, gathered, error, packet);
                cr_assert(same(error, zero));
                host_decode_gradient(whole, 0, gathered, packet, sum);
                for (uint64_t i = 0; i < sizes[s]; i++) { // in f32, rounded once
                    float want = (float)at(gathered, i) + (float)at(gathered, sizes[s] + i), stored;
                    uint32_t bits;
                    host_from_f32(&want, &bits, dtypes[d], 1);
                    host_to_f32(&bits, dtypes[d], &stored, 1);
                    cr_assert_eq((float)at(sum, i), stored);
                }
                finish();
            }
}

// Of every element what is left is at most half a step, or, of few bits, less than the largest.
Test(codec, few_bits_come_near)
{
    const struct {
        PacketForm form;
        double left;
    } forms[] = {{PACKET_Q4, 0.11}, {PACKET_TERNARY, 0.5}, {PACKET_SIGN, 0.62}};
    for (size_t f = 0; f < COUNT_OF(forms); f++)
        for (int d = 0; d < 3; d++)
            for (int s = 0; s < SIZES; s++) {
                Packing packing = {forms[f].form, 1};
                Tensor experts = make_random(dtypes[d], 1, sizes[s], 1), sent = make_zero(dtypes[d], 1, sizes[s]);
                Tensor packet = make_packets(experts, packing);
                double before = norm(experts, sent);
                host_encode(delta, packing, experts, sent, packet);
                cr_assert(norm(experts, sent) <= forms[f].left * before, "form %d: %g of %g left", (int)forms[f].form,
                          norm(experts, sent), before);
                finish();
            }
}

// What is no number makes its group, or its block, one that is none; others are as they are.
Test(codec, no_number_stays_none_in_few_bits)
{
    for (int p = PACKET_SIGN; p <= PACKET_TERNARY; p++)
        for (int bad = 0; bad < 2; bad++) {
            Packing packing = {(PacketForm)p, 1};
            Tensor experts = make_random(DTYPE_F32, 1, 2 * CODEC_BLOCK, 1),
                   sent = make_zero(DTYPE_F32, 1, experts.cols);
            Tensor packet = make_packets(experts, packing);
            ((float *)experts.data)[5] = bad ? INFINITY : NAN;
            host_encode(delta, packing, experts, sent, packet);
            cr_assert(!isfinite(at(sent, 5)) && isfinite(at(sent, CODEC_BLOCK)), "form %d", p);
            finish();
        }
}

// ---- gradients -------------------------------------------------------------------------------------

// After any number of rounds, what was decoded and the error that is left are together what went in.
static void check_feedback(Dtype dtype, uint64_t elements, Packing packing)
{
    Tensor gathered = make(dtype, HELD, elements), error = make_zero(dtype, HELD, elements);
    Tensor packets = make_packets(gathered, packing), own = copy_of(row_of(packets, OWN));
    Tensor decoded = make(dtype, HELD, elements);
    double *in = numbers(HELD * elements), *out = numbers(HELD * elements);
    for (int round = 0; round < 30; round++) {
        fill_random(gathered, 1);
        host_encode_gradient(packing, OWN, 1, gathered, error, packets);
        cr_assert(same(row_of(packets, OWN), own), "own gradients do not travel");
        host_decode(sr, packing, OWN, packets, row_of(gathered, OWN), (Tensor){0}, decoded);
        for (uint64_t i = 0; i < HELD * elements; i++) {
            in[i] += at(gathered, i);
            out[i] += at(decoded, i);
        }
    }
    double rounding = dtype == DTYPE_F32 ? 1e-5 : dtype == DTYPE_F16 ? 0.05 : 0.4; // 30 roundings of errors below 8
    for (uint64_t i = 0; i < HELD * elements; i++) {
        if (i / elements == OWN)
            cr_assert_eq(at(error, i), 0);
        else
            cr_assert(fabs(in[i] - out[i] - at(error, i)) <= rounding, "element %llu in %s: %g in, %g out, %g left",
                      (unsigned long long)i, dtype_name(dtype), in[i], out[i], at(error, i));
    }
    finish();
}

Test(codec, gradients_left_out_stay_in_the_error)
{
    for (int d = 0; d < 3; d++) {
        const Packing packings[] = {largest(20), {PACKET_SHORT, 100}, {PACKET_Q4, 1}, {PACKET_TERNARY, 1}};
        for (size_t p = 0; p < COUNT_OF(packings); p++) {
            check_feedback(dtypes[d], 3, packings[p]);
            check_feedback(dtypes[d], CODEC_BLOCK + 333, packings[p]);
        }
    }
}

static void check_meeting(Packing packing)
{
    enum { MEMBERS = 4, SHARD = 2, ME = 2 };
    for (int d = 0; d < 3; d++)
        for (int s = 0; s < SIZES; s++) {
            Tensor gathered = make_random(dtypes[d], MEMBERS * SHARD, sizes[s], 1);
            Tensor others = make_random(dtypes[d], MEMBERS * SHARD, sizes[s], 1);
            Tensor error = make_zero(dtypes[d], MEMBERS * SHARD, sizes[s]), shard = make(dtypes[d], SHARD, sizes[s]);
            Tensor received = make_packets(others, packing), decoded = make(dtypes[d], MEMBERS * SHARD, sizes[s]);
            host_encode_gradient(packing, ME * SHARD, SHARD, others, error, received);
            host_decode_gradient(packing, ME, gathered, received, shard);
            for (uint64_t b = 0; b < SHARD * received.cols; b++) // only to be decoded below
                ((uint8_t *)received.data)[ME * SHARD * received.cols + b] = 0;
            host_decode(sr, packing, MEMBERS * SHARD, received, (Tensor){shard.data, dtypes[d], 0, sizes[s]},
                        (Tensor){0}, decoded);
            for (uint64_t i = 0; i < SHARD * sizes[s]; i++) {
                double sum = at(gathered, ME * SHARD * sizes[s] + i);
                for (uint64_t m = 0; m < MEMBERS; m++)
                    sum += m == ME ? 0 : at(decoded, m * SHARD * sizes[s] + i);
                cr_assert_float_eq(at(shard, i), sum, dtypes[d] == DTYPE_BF16 ? 0.02 : 0.003);
            }
            finish();
        }
}

Test(codec, gradients_of_all_members_meet_at_the_owner)
{
    check_meeting(largest(8));
    check_meeting((Packing){PACKET_SHORT, 60});
    check_meeting((Packing){PACKET_Q4, 1});
    check_meeting((Packing){PACKET_TERNARY, 1});
}
