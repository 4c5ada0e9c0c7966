// The k largest of a block by magnitude, in time proportional to its length: a bound from maxima of columns leaves a
// few candidates, whose k-th largest a radix search finds. Magnitudes are compared as the bits of floats without the
// sign, so that NaN is larger than everything and the choice is the same on every machine.
#include "ir/codec.h"
#include "kernels/host/internal.h"

enum {
    COLUMNS = 256, // a block seen as rows of so many
    DIGIT_BITS = 8,
    FIRST_SHIFT = 31 - DIGIT_BITS,
    BOUND_ROUGH = FIRST_SHIFT - DIGIT_BITS, // a bound that is a little low lets a few more candidates through
};

typedef uint32_t Histogram[1u << DIGIT_BITS];

static uint32_t digit_of(int32_t key, uint32_t shift)
{
    return (uint32_t)key >> shift & ((1u << DIGIT_BITS) - 1);
}

// Counts in four at a time: keys that are alike would wait for one another's.
static void count_digits(const int32_t *keys, uint32_t count, uint32_t shift, Histogram histogram)
{
    Histogram more[3] = {{0}};
    uint32_t i = 0;
    memset(histogram, 0, sizeof(Histogram));
    for (; i + 4 <= count; i += 4) {
        histogram[digit_of(keys[i], shift)]++;
        more[0][digit_of(keys[i + 1], shift)]++;
        more[1][digit_of(keys[i + 2], shift)]++;
        more[2][digit_of(keys[i + 3], shift)]++;
    }
    for (; i < count; i++)
        histogram[digit_of(keys[i], shift)]++;
    for (uint32_t d = 0; d < 1u << DIGIT_BITS; d++)
        histogram[d] += more[0][d] + more[1][d] + more[2][d];
}

// The k-th largest key, 1 <= k <= count, with the lowest `rough` bits taken as 0. Keys are below 2^31 and are shuffled.
static int32_t kth_largest(int32_t *keys, uint32_t count, uint32_t k, uint32_t rough)
{
    for (uint32_t shift = FIRST_SHIFT;; shift = shift > DIGIT_BITS ? shift - DIGIT_BITS : 0) {
        Histogram histogram;
        uint32_t digit = (1u << DIGIT_BITS) - 1, left = 0;
        count_digits(keys, count, shift, histogram);
        while (histogram[digit] < k)
            k -= histogram[digit--];
        for (uint32_t i = 0; i < count && histogram[digit] < count; i++) {
            int32_t key = keys[i];
            keys[left] = key;
            left += digit_of(key, shift) == digit;
        }
        count = histogram[digit];
        if (shift <= rough || count == 1)
            return (int32_t)((uint32_t)keys[0] >> rough << rough);
    }
}

// Each of these is compiled twice from one body, without and with wide instructions.
#define BODY static inline __attribute__((always_inline)) void

// maxima[c] = the largest magnitude of column c; count >= COLUMNS.
BODY maxima_body(const int32_t *restrict bits, uint32_t count, int32_t *restrict maxima)
{
    for (uint32_t c = 0; c < COLUMNS; c++)
        maxima[c] = bits[c] & INT32_MAX;
    for (uint32_t first = COLUMNS; first < count; first += COLUMNS) {
        uint32_t length = count - first < COLUMNS ? count - first : COLUMNS;
        for (uint32_t c = 0; c < length; c++) {
            int32_t key = bits[first + c] & INT32_MAX;
            maxima[c] = key > maxima[c] ? key : maxima[c];
        }
    }
}

BODY mark_body(const int32_t *restrict bits, uint32_t count, int32_t bound, uint8_t *restrict marks)
{
    for (uint32_t i = 0; i < count; i++)
        marks[i] = (bits[i] & INT32_MAX) >= bound;
}

static void maxima_portable(const int32_t *bits, uint32_t count, int32_t *maxima)
{
    maxima_body(bits, count, maxima);
}

static void mark_portable(const int32_t *bits, uint32_t count, int32_t bound, uint8_t *marks)
{
    mark_body(bits, count, bound, marks);
}

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2")))

WIDE static void maxima_wide(const int32_t *bits, uint32_t count, int32_t *maxima)
{
    maxima_body(bits, count, maxima);
}

WIDE static void mark_wide(const int32_t *bits, uint32_t count, int32_t bound, uint8_t *marks)
{
    mark_body(bits, count, bound, marks);
}

static void maxima_of(const int32_t *bits, uint32_t count, int32_t *maxima)
{
    (__builtin_cpu_supports("avx2") ? maxima_wide : maxima_portable)(bits, count, maxima);
}

static void mark_from(const int32_t *bits, uint32_t count, int32_t bound, uint8_t *marks)
{
    (__builtin_cpu_supports("avx2") ? mark_wide : mark_portable)(bits, count, bound, marks);
}
#else
static void maxima_of(const int32_t *bits, uint32_t count, int32_t *maxima)
{
    maxima_portable(bits, count, maxima);
}

static void mark_from(const int32_t *bits, uint32_t count, int32_t bound, uint8_t *marks)
{
    mark_portable(bits, count, bound, marks);
}
#endif

typedef struct {
    int32_t keys[CODEC_BLOCK];
    uint16_t indices[CODEC_BLOCK];
    uint32_t count;
} Candidates;

// Elements with a magnitude of at least `bound`, ascending by index.
static void candidates_collect(const int32_t *bits, uint32_t count, int32_t bound, Candidates *out)
{
    uint8_t marks[CODEC_BLOCK + sizeof(uint64_t)];
    mark_from(bits, count, bound, marks);
    memset(marks + count, 0, sizeof(uint64_t));
    out->count = 0;
    for (uint32_t first = 0; first < count; first += sizeof(uint64_t)) {
        uint64_t some;
        memcpy(&some, marks + first, sizeof(some));
        for (uint32_t i = first; some && i < first + sizeof(uint64_t); i++) {
            out->keys[out->count] = bits[i] & INT32_MAX;
            out->indices[out->count] = (uint16_t)i;
            out->count += marks[i];
        }
    }
}

static void candidates_all(const int32_t *bits, uint32_t count, Candidates *out)
{
    for (uint32_t i = 0; i < count; i++) {
        out->keys[i] = bits[i] & INT32_MAX;
        out->indices[i] = (uint16_t)i;
    }
    out->count = count;
}

void select_largest(const float *values, uint32_t count, uint32_t kept, uint16_t *indices)
{
    assert(count <= CODEC_BLOCK && kept <= count);
    if (kept == 0)
        return;
    const int32_t *bits = (const int32_t *)values;
    Candidates candidates;
    if (kept <= COLUMNS && count >= 2 * COLUMNS) {
        int32_t maxima[COLUMNS];
        maxima_of(bits, count, maxima);
        candidates_collect(bits, count, kth_largest(maxima, COLUMNS, kept, BOUND_ROUGH), &candidates);
    } else {
        candidates_all(bits, count, &candidates);
    }
    int32_t keys[CODEC_BLOCK];
    memcpy(keys, candidates.keys, candidates.count * sizeof(*keys));
    int32_t least = kth_largest(keys, candidates.count, kept, 0);
    uint32_t ties = kept, taken = 0;
    for (uint32_t i = 0; i < candidates.count; i++)
        ties -= candidates.keys[i] > least;
    for (uint32_t i = 0; i < candidates.count && taken < kept; i++) {
        bool tie = candidates.keys[i] == least;
        if (candidates.keys[i] < least || (tie && ties == 0))
            continue;
        ties -= tie;
        indices[taken++] = candidates.indices[i];
    }
    assert(taken == kept);
}
