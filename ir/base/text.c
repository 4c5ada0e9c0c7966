// Growing text, numbers as text, and the nearest word to a misspelt one. Memory that has run
// out is what arena.h says.
#include "ir/base/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "ir/base/arena.h"

void text_free(Text *text)
{
    free(text->data);
    *text = (Text){0};
}

static void text_reserve(Text *text, size_t more)
{
    if (more >= SIZE_MAX / 4 || text->length >= SIZE_MAX / 4)
        memory_exhausted();
    size_t need = text->length + more + 1;
    if (need <= text->capacity)
        return;
    size_t capacity = text->capacity ? text->capacity : 64;
    while (capacity < need)
        capacity *= 2;
    char *data = realloc(text->data, capacity);
    if (!data)
        memory_exhausted();
    text->data = data;
    text->capacity = capacity;
}

void text_append_bytes(Text *text, const void *bytes, size_t length)
{
    text_reserve(text, length);
    if (length)
        memcpy(text->data + text->length, bytes, length);
    text->length += length;
    text->data[text->length] = '\0';
}

void text_append(Text *text, const char *string)
{
    text_append_bytes(text, string, strlen(string));
}

void text_format(Text *text, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length >= 0) {
        text_reserve(text, (size_t)length);
        vsnprintf(text->data + text->length, (size_t)length + 1, format, again);
        text->length += (size_t)length;
    }
    va_end(again);
}

static void format_finite(char text[FORMAT_MAX], double value)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, FORMAT_MAX, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    // "2e+10" and "20000000000" read back alike; whole numbers are printed the way people write them.
    if (strpbrk(text, "eE") && fabs(value) < 1e15 && value == floor(value))
        snprintf(text, FORMAT_MAX, "%.0f", value);
}

const char *format_double(char out[FORMAT_MAX], double value)
{
    char text[FORMAT_MAX] = "nan";
    if (isfinite(value))
        format_finite(text, value);
    else if (!isnan(value))
        strcpy(text, value < 0 ? "-inf" : "inf");
    memcpy(out, text, FORMAT_MAX);
    return out;
}

void text_number(Text *text, double value)
{
    char number[FORMAT_MAX];
    text_append(text, format_double(number, value));
}

bool text_ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

typedef struct {
    double factor;
    const char *unit;
} Scale;

// Three significant digits in the largest unit that leaves at least 1; `scales` descends. A value
// that rounds up to 1000 moves to the next unit. Trailing zeros go, but not those of whole numbers.
static const char *format_scaled(char out[FORMAT_MAX], double value, const Scale *scales, size_t count)
{
    if (!isfinite(value)) {
        char plain[FORMAT_MAX];
        snprintf(out, FORMAT_MAX, "%.8s %s", format_double(plain, value), scales[count - 1].unit);
        return out;
    }
    size_t chosen = count - 1;
    for (size_t i = 0; i < count; i++) {
        if (fabs(value) >= scales[i].factor * 0.9995) {
            chosen = i;
            break;
        }
    }
    if (value == 0) // zero has no size: the base unit
        for (size_t i = 0; i < count; i++)
            if (scales[i].factor == 1)
                chosen = i;
    double scaled = value / scales[chosen].factor, size = fabs(scaled);
    if (size >= 1e6)
        snprintf(out, FORMAT_MAX, "%.3g %s", scaled, scales[chosen].unit);
    else if (size >= 99.95)
        snprintf(out, FORMAT_MAX, "%.0f %s", scaled, scales[chosen].unit);
    else
        snprintf(out, FORMAT_MAX, "%.3g %s", scaled, scales[chosen].unit);
    return out;
}

const char *format_bytes(char out[FORMAT_MAX], double bytes)
{
    static const Scale scales[] = {{1e15, "PB"}, {1e12, "TB"}, {1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}, {1, "B"}};
    return format_scaled(out, bytes, scales, COUNT_OF(scales));
}

const char *format_time(char out[FORMAT_MAX], double time_s)
{
    static const Scale scales[] = {{1, "s"}, {1e-3, "ms"}, {1e-6, "us"}, {1e-9, "ns"}};
    return format_scaled(out, time_s, scales, COUNT_OF(scales));
}

const char *format_change(char out[FORMAT_MAX], double share)
{
    double percent = 100 * share;
    snprintf(out, FORMAT_MAX, fabs(percent) < 0.05 ? "0.0 %%" : "%+.1f %%", percent);
    return out;
}

const char *format_bandwidth(char out[FORMAT_MAX], double bytes_per_s)
{
    static const Scale scales[] = {{1e15, "Pbit/s"}, {1e12, "Tbit/s"}, {1e9, "Gbit/s"},
                                   {1e6, "Mbit/s"},  {1e3, "kbit/s"},  {1, "bit/s"}};
    return format_scaled(out, bytes_per_s * 8, scales, COUNT_OF(scales));
}

const char *format_rate(char out[FORMAT_MAX], double flop_per_s)
{
    static const Scale scales[] = {{1e18, "EFLOP/s"}, {1e15, "PFLOP/s"}, {1e12, "TFLOP/s"}, {1e9, "GFLOP/s"},
                                   {1e6, "MFLOP/s"},  {1e3, "kFLOP/s"},  {1, "FLOP/s"}};
    return format_scaled(out, flop_per_s, scales, COUNT_OF(scales));
}

const char *format_count(char out[FORMAT_MAX], double count)
{
    static const Scale scales[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}, {1, ""}};
    return format_scaled(out, count, scales, COUNT_OF(scales));
}

enum { WORD_MAX = 64 };

// Edits (insert, delete, replace, swap of neighbours) that lead from `a` to `b`; both at most WORD_MAX.
static size_t edit_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t rows[3][WORD_MAX + 1];
    for (size_t j = 0; j <= b_length; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        size_t *row = rows[i % 3], *above = rows[(i - 1) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best)
                best = above[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && above2[j - 2] + 1 < best)
                best = above2[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[a_length % 3][b_length];
}

const char *nearest_word(const char *word, const char *const *candidates, size_t count)
{
    size_t length = strlen(word);
    if (!length || length > WORD_MAX)
        return NULL;
    size_t limit = length <= 2 ? 1 : length <= 5 ? 2 : 1 + length / 3;
    const char *best = NULL;
    size_t best_distance = limit + 1;
    for (size_t i = 0; i < count; i++) {
        size_t other = candidates[i] ? strlen(candidates[i]) : 0;
        if (!other || other > WORD_MAX)
            continue;
        bool same = strcasecmp(word, candidates[i]) == 0; // another case alone is a slip of any length
        size_t distance = same ? 0 : edit_distance(word, length, candidates[i], other);
        if (distance < best_distance && distance < other) {
            best_distance = distance;
            best = candidates[i];
        }
    }
    return best;
}
