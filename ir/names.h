// The codes that a plan is written in: dtypes, passes, forms of exchanges, codecs and so on. Every word stands once, in
// ir/names.def; enum, name table and look-ups follow from it. Owns the words alone; ops have a table of their own.
#ifndef HEP_NAMES_H
#define HEP_NAMES_H

#include "ir/base/base.h"

enum { NONE = -1 }; // absent level, layer, group or buffer

typedef struct {
    const char *text; // NULL where no code is
    uint32_t size;    // bytes of an element, matrices of an expert: as the table says
} Name;

typedef struct {
    const char *what;  // "a dtype": what messages call one
    const Name *names; // by code
    int count;         // one more than the largest code
} NameTable;

const char *name_text(const NameTable *table, int code); // NULL for an unknown code
uint32_t name_size(const NameTable *table, int code);    // 0 for an unknown code
int name_code(const NameTable *table, const char *text); // -1 when unknown
// The words of the codes `first` to `last`, at most `max`, into `out`; returns their number.
size_t name_list(const NameTable *table, int first, int last, const char **out, size_t max);

#define HEP_NAMES(Type, name, what) typedef enum {
#define HEP_NAME(code, text, size)  code,
#define HEP_NAMES_END(Type, count)                                                                                     \
    count                                                                                                              \
    }                                                                                                                  \
    Type;
#include "ir/names.def"

// dtype_names, dtype_name(DTYPE_F32), ...
#define HEP_NAMES(Type, name, what)                                                                                    \
    extern const NameTable name##_names;                                                                               \
    static inline const char *name##_name(Type code)                                                                   \
    {                                                                                                                  \
        return name_text(&name##_names, (int)code);                                                                    \
    }
#include "ir/names.def"

static inline uint32_t dtype_bytes(Dtype dtype)
{
    return name_size(&dtype_names, (int)dtype);
}

// Weight matrices of hidden x inner per expert: 2, or 3 if gated.
static inline uint32_t activation_matrices(Activation activation)
{
    return name_size(&activation_names, (int)activation);
}

#endif
