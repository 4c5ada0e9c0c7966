// Small things every module needs: attributes, checked size arithmetic, array length.
// Owns nothing; header only.
#ifndef HEP_BASE_H
#define HEP_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_CHECK                 __attribute__((warn_unused_result))
#define PRINTF_LIKE(string, first) __attribute__((format(printf, string, first)))
#define COUNT_OF(array)            (sizeof(array) / sizeof((array)[0]))

// Stores a * b (or a + b) in *out. False, and *out untouched in meaning, when it overflows.
static inline MUST_CHECK bool checked_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline MUST_CHECK bool checked_add(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

#endif
