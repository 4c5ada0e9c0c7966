// The binary form of a plan, `.hepb` (docs/plan-format.md): the same records as the text form,
// fixed width, little-endian, with a checksum.
#ifndef HEP_BINARY_H
#define HEP_BINARY_H

#include "ir/plan.h"

enum { PLAN_FORMAT_VERSION = 11 };

// Same plan, same bytes. *bytes is malloc'ed, the caller frees it. False when the plan breaks a
// limit (schema.h).
bool plan_encode(const Plan *plan, uint8_t **bytes, size_t *length, Fault *fault) MUST_CHECK;

// Is this the beginning of a binary plan (damaged perhaps), rather than text?
bool plan_is_binary(const uint8_t *bytes, size_t length);

// Trusts nothing: every count, index, code and string is checked before use, and memory is taken in
// proportion to `length`. NULL and a fault unless the bytes are exactly what plan_encode would
// write. The plan is within the limits of schema.h; whether it makes sense plan_verify says.
Plan *plan_decode(const uint8_t *bytes, size_t length, Fault *fault) MUST_CHECK;

#endif
