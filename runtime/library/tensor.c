// Tensors of callers: are they what a call takes?
#include <inttypes.h>
#include <stdio.h>

#include "runtime/library/context.h"

static const struct {
    const char *name;
    uint32_t bytes;
    int dtype; // of the plan; -1: none
} dtypes[] = {
    [HEP_F32] = {"f32", 4, DTYPE_F32}, [HEP_F16] = {"f16", 2, DTYPE_F16}, [HEP_BF16] = {"bf16", 2, DTYPE_BF16},
    [HEP_I32] = {"i32", 4, DTYPE_I32}, [HEP_I64] = {"i64", 8, -1},        [HEP_U8] = {"u8", 1, DTYPE_U8}};

// Of floating dtypes either's codes are the other's.
_Static_assert((int)HEP_F32 == (int)DTYPE_F32 && (int)HEP_F16 == (int)DTYPE_F16 && (int)HEP_BF16 == (int)DTYPE_BF16,
               "dtypes of hep.h and of plans differ");

static void list_dtypes(uint32_t bits, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        if (bits & 1u << d && used < size)
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? " or " : "", dtypes[d].name);
}

static bool check_extent(const TensorShape *shape, const char *what, int64_t is, int64_t expected, Fault *fault)
{
    if (is < 0)
        return fault_set(fault, FAULT_USAGE, "'%s' has %" PRId64 " %s", shape->name, is, what);
    return expected < 0 || is == expected ||
           fault_set(fault, FAULT_USAGE, "'%s' has %" PRId64 " %s, expected %" PRId64, shape->name, is, what, expected);
}

// Of a GPU it is asked where it lies.
static bool check_place(const hep_context *context, const hep_tensor *tensor, const char *name, Fault *fault)
{
    return !context->device || context->device->owns(context->mover, tensor->data, name, fault);
}

bool tensor_check(const hep_context *context, const hep_tensor *tensor, const TensorShape *shape, Fault *fault)
{
    char expected[64];
    if (!library_given(tensor, shape->name, fault) || !check_extent(shape, "rows", tensor->rows, shape->rows, fault) ||
        !check_extent(shape, "columns", tensor->cols, shape->cols, fault))
        return false;
    if (tensor->dtype < 0 || (size_t)tensor->dtype >= COUNT_OF(dtypes) || !(shape->dtypes & 1u << tensor->dtype)) {
        list_dtypes(shape->dtypes, expected, sizeof(expected));
        bool known = tensor->dtype >= 0 && (size_t)tensor->dtype < COUNT_OF(dtypes);
        return fault_set(fault, FAULT_USAGE, "'%s' is %s, expected %s", shape->name,
                         known ? dtypes[tensor->dtype].name : "of an unknown dtype", expected);
    }
    if (tensor->stride != 0 && tensor->stride != tensor->cols && tensor->rows > 1)
        return fault_set(fault, FAULT_USAGE,
                         "rows of '%s' are %" PRId64 " elements apart, expected %" PRId64 ": they have to be adjacent",
                         shape->name, tensor->stride, tensor->cols);
    uint64_t elements, bytes;
    if (!checked_mul((uint64_t)tensor->rows, (uint64_t)tensor->cols, &elements) ||
        !checked_mul(elements, dtypes[tensor->dtype].bytes, &bytes) || bytes > INT64_MAX || tensor->rows > INT32_MAX)
        return fault_set(fault, FAULT_USAGE, "'%s' is too large", shape->name);
    if (elements > 0 && !tensor->data)
        return fault_set(fault, FAULT_USAGE, "'%s' has no data", shape->name);
    return elements == 0 || check_place(context, tensor, shape->name, fault);
}

bool tensor_take(const hep_context *context, const hep_tensor *tensor, const TensorShape *shape, Tensor *out,
                 Fault *fault)
{
    if (!tensor_check(context, tensor, shape, fault))
        return false;
    static char nothing[16]; // rows of a tensor without any are not pointed to by NULL
    *out = (Tensor){.data = tensor->data ? tensor->data : nothing,
                    .dtype = (Dtype)dtypes[tensor->dtype].dtype,
                    .rows = (uint64_t)tensor->rows,
                    .cols = (uint64_t)tensor->cols};
    return true;
}
