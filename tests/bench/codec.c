// What compression costs a core, beside what the same core does anyway: encoding after an AdamW step of the same
// weights, as a pass of its own and block by block while these are in the cache (what fusing the two could gain), and
// encoding and decoding beside a copy of the experts in the same run; and token rows of 4096 elements, as many. f32,
// processor time, medians.
// Usage: codec [elements of an expert] [experts]; default 1048576 and 8.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ir/base/exit_codes.h"
#include "ir/codec.h"
#include "kernels/host/kernels.h"

#define sr codec_info(CODEC_SR)

enum { REPEATS = 7, ROW = CODEC_BLOCK };

typedef struct {
    uint64_t elements, experts;
    Codec codec; // that remembers what it sent
    Packing packing;
    TokenFormat rows; // of token rows
    Tensor weights, gradient, state, sent, packet, packets, decoded, packed;
    char *copied;
} Work;

static void *allocate(uint64_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory)
        exit(exit_code_of(FAULT_RUN));
    return memory;
}

static Tensor make(Dtype dtype, uint64_t rows, uint64_t cols, float scale)
{
    Tensor tensor = {allocate(rows * cols * dtype_bytes(dtype)), dtype, rows, cols};
    uint64_t bits = rows + cols;
    for (uint64_t i = 0; dtype == DTYPE_F32 && i < rows * cols; i++) {
        float sum = 0;
        for (int j = 0; j < 4; j++) {
            bits = bits * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(bits >> 40) / 8388608.0f - 1;
        }
        ((float *)tensor.data)[i] = scale * sum;
    }
    return tensor;
}

static Work work_create(uint64_t elements, uint64_t experts, Codec codec, Packing packing)
{
    Work work = {.elements = elements, .experts = experts, .codec = codec, .packing = packing};
    work.weights = make(DTYPE_F32, experts, elements, 0.05f);
    work.gradient = make(DTYPE_F32, experts, elements, 0.01f);
    work.state = make(DTYPE_F32, experts, 2 * elements, 0.01f);
    work.sent = make(DTYPE_F32, experts, elements, 0.05f);
    work.decoded = make(DTYPE_F32, experts, elements, 0.05f);
    work.packet = make(DTYPE_U8, experts, packing_bytes(packing, elements, DTYPE_F32), 0);
    // Also of blocks by themselves, each a packet that ends with zeros.
    work.packets = make(DTYPE_U8, experts * elements / CODEC_BLOCK, packing_bytes(packing, CODEC_BLOCK, DTYPE_F32), 0);
    work.packed = make(DTYPE_U8, experts * elements / ROW, token_row_bytes(TOKENS_INT8, ROW, DTYPE_F32), 0);
    work.copied = allocate(experts * elements * sizeof(float));
    memcpy(work.sent.data, work.weights.data, experts * elements * sizeof(float));
    for (uint64_t i = 0; i < 2 * experts * elements; i++) // moments of a run under way: second ones are squares
        if (i / elements % 2)
            ((float *)work.state.data)[i] = 1e-4f + ((float *)work.state.data)[i] * ((float *)work.state.data)[i];
    memset(work.copied, 0, experts * elements * sizeof(float));
    return work;
}

static void work_destroy(Work *work)
{
    void *owned[] = {work->weights.data, work->gradient.data, work->state.data,  work->sent.data, work->packet.data,
                     work->packets.data, work->decoded.data,  work->packed.data, work->copied};
    for (size_t i = 0; i < COUNT_OF(owned); i++)
        free(owned[i]);
}

static AdamW settings(void)
{
    return (AdamW){
        .learning_rate = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f, .gradient_scale = 1, .step = 10};
}

static void update(Work *work)
{
    AdamW adamw = settings();
    host_optimizer(&adamw, &(ModelRanges){0}, work->weights, work->gradient, work->state);
}

static void encode(Work *work)
{
    host_encode(codec_info(work->codec), work->packing, work->weights, work->sent, work->packet);
}

static void update_then_encode(Work *work)
{
    update(work);
    encode(work);
}

static Tensor block_of(Tensor tensor, uint64_t block, uint64_t cols)
{
    return (Tensor){(char *)tensor.data + block * cols * dtype_bytes(tensor.dtype), tensor.dtype, 1, cols};
}

// The blocks of all experts as rows: what is updated is encoded at once.
static void update_and_encode(Work *work)
{
    AdamW adamw = settings();
    uint64_t bytes = packing_bytes(work->packing, CODEC_BLOCK, DTYPE_F32);
    for (uint64_t b = 0; b < work->experts * work->elements / CODEC_BLOCK; b++) {
        Tensor weights = block_of(work->weights, b, CODEC_BLOCK);
        host_optimizer(&adamw, &(ModelRanges){0}, weights, block_of(work->gradient, b, CODEC_BLOCK),
                       block_of(work->state, b, 2 * CODEC_BLOCK));
        host_encode(codec_info(work->codec), work->packing, weights, block_of(work->sent, b, CODEC_BLOCK),
                    block_of(work->packets, b, bytes));
    }
}

static void copy(Work *work)
{
    memcpy(work->copied, work->weights.data, work->experts * work->elements * sizeof(float));
}

static void decode_sr(Work *work)
{
    Tensor own = {work->weights.data, DTYPE_F32, 0, work->elements};
    host_decode(sr, work->packing, 0, work->packet, own, block_of(work->weights, 0, work->elements), work->decoded);
}

static void decode(Work *work)
{
    Tensor own = {work->weights.data, DTYPE_F32, 0, work->elements};
    host_decode(codec_info(work->codec), work->packing, 0, work->packet, own, (Tensor){0}, work->decoded);
}

// With feedback of what is left out; nothing is the rank's own.
static void encode_gradient(Work *work)
{
    host_encode_gradient(work->packing, work->experts, 0, work->gradient, work->sent, work->packet);
}

// What another member sent of the second half of the experts, added to the first half.
static void decode_gradient(Work *work)
{
    Tensor shard = work->decoded;
    shard.rows = work->experts / 2;
    host_decode_gradient(work->packing, 0, work->gradient, work->packet, shard);
}

// The experts' elements as token rows.
static void pack_rows(Work *work)
{
    Tensor rows = {work->weights.data, DTYPE_F32, work->packed.rows, ROW};
    Tensor packed = {work->packed.data, DTYPE_U8, work->packed.rows, token_row_bytes(work->rows, ROW, DTYPE_F32)};
    host_encode_rows(work->rows, rows.rows, rows, packed);
}

static void unpack_rows(Work *work)
{
    Tensor rows = {work->decoded.data, DTYPE_F32, work->packed.rows, ROW};
    Tensor packed = {work->packed.data, DTYPE_U8, work->packed.rows, token_row_bytes(work->rows, ROW, DTYPE_F32)};
    host_decode_rows(work->rows, rows.rows, packed, rows);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Of this thread alone: other load may take the core away.
static double processor_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// Every way begins with the same values: how long a selection takes depends on them.
static double median_s(const Work *like, void (*run)(Work *))
{
    double times[REPEATS];
    Work begun = work_create(like->elements, like->experts, like->codec, like->packing), *work = &begun;
    work->rows = like->rows;
    update(work);
    encode(work);
    if (work->rows != TOKENS_FULL)
        pack_rows(work);
    run(work);
    for (int r = 0; r < REPEATS; r++) {
        double begin_s = processor_now_s();
        run(work);
        times[r] = processor_now_s() - begin_s;
    }
    work_destroy(work);
    qsort(times, REPEATS, sizeof(*times), compare);
    return times[REPEATS / 2];
}

// GB/s: dense bytes of the experts over the time.
static void print_line(const Work *work, const char *what, double time_s, double base_s)
{
    double bytes = (double)(work->experts * work->elements) * sizeof(float);
    printf("%-44s %10.2f %10.2f %10.2f\n", what, 1e3 * time_s, bytes / time_s / 1e9, time_s / base_s);
}

// How far decoded experts are from the weights, both norms over all of them: what `sr` leaves out where experts were
// drawn independently, with their mean as the shared expert and without.
static double left_out(const Work *work, Tensor shared)
{
    Tensor own = {work->weights.data, DTYPE_F32, 0, work->elements};
    double errors = 0, squares = 0;
    host_encode(sr, work->packing, work->weights, shared, work->packet);
    host_decode(sr, work->packing, 0, work->packet, own, shared, work->decoded);
    for (uint64_t i = 0; i < work->experts * work->elements; i++) {
        double weight = (double)((float *)work->weights.data)[i];
        double error = weight - (double)((float *)work->decoded.data)[i];
        errors += error * error;
        squares += weight * weight;
    }
    return sqrt(errors / squares);
}

static void print_left_out(uint64_t elements, uint64_t experts, double ratio)
{
    Work work = work_create(elements, experts, CODEC_SR, codec_packing(CODEC_SR, ratio));
    Tensor mean = make(DTYPE_F32, 1, elements, 0);
    host_mean(experts, work.weights, mean);
    printf("sr leaves out, of the norm of experts as they are drawn: %.2f, without shared expert %.2f\n\n",
           left_out(&work, mean), left_out(&work, (Tensor){0}));
    free(mean.data);
    work_destroy(&work);
}

static void measure(uint64_t elements, uint64_t experts, Codec codec, double ratio)
{
    Work work = {.elements = elements, .experts = experts, .codec = codec, .packing = codec_packing(codec, ratio)};
    char title[64];
    snprintf(title, sizeof(title), "%s, 1/%.4g", codec_name(codec), packing_ratio(work.packing, DTYPE_F32));
    double adamw_s = median_s(&work, update), copy_s = median_s(&work, copy);
    printf("%-44s %10s %10s %10s\n%-44s %10s %10s %10s\n", title, "time", "dense", "over", "", "ms", "GB/s", "AdamW");
    print_line(&work, "AdamW", adamw_s, adamw_s);
    print_line(&work, "AdamW, then encode", median_s(&work, update_then_encode), adamw_s);
    print_line(&work, "AdamW and encode, block by block", median_s(&work, update_and_encode), adamw_s);
    printf("%-44s %10s %10s %10s\n", "", "", "", "copy");
    print_line(&work, "copy of the experts", copy_s, copy_s);
    print_line(&work, "encode", median_s(&work, encode), copy_s);
    print_line(&work, "decode", median_s(&work, decode), copy_s);
    if (!packet_has_ratio(work.packing.form))
        return;
    print_line(&work, "decode, sr", median_s(&work, decode_sr), copy_s);
    print_left_out(elements, experts, ratio);
}

static void measure_gradient(uint64_t elements, uint64_t experts, GradientReturn gradient, double ratio)
{
    Packing packing = gradient_packing(gradient, ratio);
    Work work = {.elements = elements, .experts = experts, .codec = CODEC_DELTA, .packing = packing};
    char title[64];
    snprintf(title, sizeof(title), "gradients, %s 1/%.4g", gradient_name(gradient), packing_ratio(packing, DTYPE_F32));
    double copy_s = median_s(&work, copy);
    printf("%-44s %10s %10s %10s\n%-44s %10s %10s %10s\n", title, "time", "dense", "over", "", "ms", "GB/s", "copy");
    print_line(&work, "copy", copy_s, copy_s);
    print_line(&work, "encode with feedback", median_s(&work, encode_gradient), copy_s);
    print_line(&work, "decode and add, of half of them", median_s(&work, decode_gradient), copy_s);
}

static void measure_rows(uint64_t elements, uint64_t experts, TokenFormat format)
{
    Work work = {.elements = elements,
                 .experts = experts,
                 .codec = CODEC_DELTA,
                 .packing = codec_packing(CODEC_DELTA, 50),
                 .rows = format};
    char title[64];
    snprintf(title, sizeof(title), "token rows, %s 1/%.4g", token_format_name(format),
             (double)ROW * sizeof(float) / (double)token_row_bytes(format, ROW, DTYPE_F32));
    double copy_s = median_s(&work, copy);
    printf("%-44s %10s %10s %10s\n%-44s %10s %10s %10s\n", title, "time", "dense", "over", "", "ms", "GB/s", "copy");
    print_line(&work, "copy", copy_s, copy_s);
    print_line(&work, "pack", median_s(&work, pack_rows), copy_s);
    print_line(&work, "unpack", median_s(&work, unpack_rows), copy_s);
}

int main(int argc, char **argv)
{
    uint64_t elements = argc > 1 ? strtoull(argv[1], NULL, 10) : 1048576;
    uint64_t experts = argc > 2 ? strtoull(argv[2], NULL, 10) : 8;
    if (elements == 0 || elements % CODEC_BLOCK || elements > 1u << 30 || experts == 0 || experts % 2 ||
        experts > 1024) {
        fprintf(stderr, "usage: codec [elements, a multiple of %d] [experts, an even number]\n", CODEC_BLOCK);
        return exit_code_of(FAULT_USAGE);
    }
    host_kernels_init(1, UINT64_MAX);
    printf("# %llu experts of %llu elements, f32, processor time of one core; medians of %d\n\n",
           (unsigned long long)experts, (unsigned long long)elements, REPEATS);
    measure(elements, experts, CODEC_DELTA, 50);
    measure(elements, experts, CODEC_DELTA, 200);
    measure(elements, experts, CODEC_SIGN, 1);
    measure_gradient(elements, experts, GRADIENT_TOPK, 50);
    measure_gradient(elements, experts, GRADIENT_TOPK, 200);
    measure_gradient(elements, experts, GRADIENT_Q4, 1);
    measure_gradient(elements, experts, GRADIENT_TERNARY, 1);
    for (int format = TOKENS_FP8; format < TOKEN_FORMAT_COUNT; format++)
        measure_rows(elements, experts, (TokenFormat)format);
    return exit_code_of(FAULT_NONE);
}
