// The records of a plan as data: which fields each has, their types and where they lie in the
// structs of plan.h. Text printer, text parser, binary codec and the checks common to both derive
// from these tables, so that a field is declared once. Operands and `after` edges, which vary in
// number, are left to those modules.
#ifndef HEP_SCHEMA_H
#define HEP_SCHEMA_H

#include "ir/plan.h"

// In file order.
typedef enum {
    RECORD_CLUSTER,
    RECORD_LEVEL,
    RECORD_PORT,
    RECORD_LINK,
    RECORD_DEVICE,
    RECORD_MODEL,
    RECORD_LAYER, // of models that can be planned, not executed
    RECORD_PLAN,
    RECORD_TRAINING, // of training plans
    RECORD_CHOICE,
    RECORD_STRATEGY,
    RECORD_TRAFFIC,
    RECORD_GROUP,
    RECORD_BUFFER,
    RECORD_STEP,
    RECORD_COUNT
} RecordKind;

// X(NAME, "what it is called in messages", bytes in the binary form)
#define HEP_FIELD_TYPES(X)                                                                                             \
    X(NAME, "a name", 4)              /* const char *; binary: offset in the strings section */                        \
    X(BOOL, "'yes' or 'no'", 4)       /* bool */                                                                       \
    X(U32, "a whole number", 4)       /* uint32_t */                                                                   \
    X(U64, "a whole number", 8)       /* uint64_t */                                                                   \
    X(NUMBER, "a number", 8)          /* double, finite, not negative */                                               \
    X(LAYER, "a layer", 4)            /* int32_t; NONE where there is none */                                          \
    X(LEVEL, "a level's name", 4)     /* int32_t; NONE where there is none */                                          \
    X(GROUP, "a group", 4)            /* int32_t; NONE where there is none */                                          \
    X(DOMAIN, "a size per level", 32) /* uint32_t[LEVELS_MAX], 0 beyond the cluster's levels */                        \
    X(ONE_OF, "a word", 4)            /* int, a code of the field's name table */
#define X(name, ...) FIELD_##name,
typedef enum { HEP_FIELD_TYPES(X) FIELD_TYPE_COUNT } FieldType;
#undef X

enum { FIELDS_MAX = 64 }; // more than the longest record has, so that a field is added by its line alone

// What numbers are counted in. X(NAME, "text")
#define HEP_FIELD_UNITS(X)                                                                                             \
    X(NONE, "")                                                                                                        \
    X(BYTES, "B")                                                                                                      \
    X(SECONDS, "s") X(LINK_RATE, "B/s") X(MEMORY_RATE, "B/s") X(FLOP_RATE, "FLOP/s") X(PARAMETERS, "") X(SHARE, "")
#define X(name, ...) UNIT_##name,
typedef enum { HEP_FIELD_UNITS(X) UNIT_COUNT } FieldUnit;
#undef X

typedef struct {
    const char *key;
    FieldType type;
    const NameTable *names; // of FIELD_ONE_OF; else NULL
    FieldUnit unit;
    bool positional; // the text form leaves the key out; these come first
    bool optional;   // the text form leaves the field out where it is 0, NONE or the first word
    bool added;      // older text forms lack the field, which then is as plan_create leaves it
    size_t offset;   // in the record's struct
} Field;

typedef struct {
    const char *keyword;
    char id;                  // 'g' or 's' where the text form numbers the records, else 0
    Field fields[FIELDS_MAX]; // ends at the first without a key
} RecordInfo;

const RecordInfo *record_info(RecordKind kind);
bool record_is_single(RecordKind kind); // one per plan, or none
int record_find(const char *keyword);   // -1 when unknown
uint32_t record_bytes(RecordKind kind); // in the binary form, without operands and edges
uint32_t record_count(const Plan *plan, RecordKind kind);
// The struct that holds record `index`. Traffic records go strategy by strategy, level by level.
void *record_at(const Plan *plan, RecordKind kind, uint32_t index);

const char *field_takes(const Field *field); // "a number", "a dtype"
const char *field_unit_name(FieldUnit unit); // that files count in; "" for plain numbers
uint32_t field_bytes(FieldType type);

typedef struct {
    RecordKind kind;
    uint32_t index;
} RecordPlace;

enum {
    NAME_BYTES_MAX = 255,
    PLAN_LAYERS_MAX = 1 << 16,
    PLAN_PORTS_MAX = 1 << 20,
    PLAN_LINKS_MAX = 1 << 22,
    PLAN_STRATEGIES_MAX = 64,
    PLAN_GROUPS_MAX = 4096,
    PLAN_BUFFERS_MAX = 1 << 20,
    PLAN_STEPS_MAX = 1 << 20,
    BITS_MAX = 64, // of a stored weight
};

// What any code may rely on before it walks a plan: known codes, indices in range (edges included),
// finite and sensible numbers, products that do not overflow, unique names. The fault's message begins with the record,
// which `place` (or NULL) is, and its step is that of a step's record.
bool plan_within_limits(const Plan *plan, RecordPlace *place, Fault *fault) MUST_CHECK;
// "buffer 'L0.rows'", "step 12 ('gate')" into `out`.
void plan_describe_record(const Plan *plan, RecordKind kind, uint32_t index, char *out, size_t size);

#endif
