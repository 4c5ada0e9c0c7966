// What the files of the importer share: the configuration being read, and how its fields are found. Every member of it
// that is read is marked, so that unread fields can be reported at the end. Private to import*.c.
#ifndef HEP_IMPORT_PARTS_H
#define HEP_IMPORT_PARTS_H

#include <cjson/cJSON.h>

#include "compiler/frontend/check_keys.h"

enum { ALIASES_MAX = 12, CONFIG_DEPTH_MAX = 8, CONFIG_MEMBERS_MAX = 20000 };

// What a quantity is called in one family or another, and the key that it becomes; KEY_COUNT if it is none by itself.
typedef struct {
    const char *what;
    KeyId key;
    const char *names[ALIASES_MAX];
} Field;

typedef struct {
    Arena *arena;
    Diag *diag;
    Span place;                        // of the file's name in the .hep file
    const char *path;                  // of the file
    const cJSON *at[CONFIG_DEPTH_MAX]; // the text model's object, the one around it, and so on to the file's
    uint32_t depth;
    const cJSON **used; // members that were read
    size_t used_count, used_capacity;
    Environment *environment;
    const AstEntry *block; // of the model: what it says wins
    Text keys, moe;        // what was found, as keys of the language
    Text doubts;           // fields that may mean something else than was read
    size_t errors;
} Importer;

// ---- import_fields.c -------------------------------------------------------------------------

// The member of any of these names: of the text model's object, of objects inside of it, or of those around it. All
// members of these names count as read. `name` (or NULL) is what it is called.
const cJSON *import_find(Importer *in, const char *const names[], const char **name);
const cJSON *import_member(Importer *in, const char *name); // of one name
// The same as import_find, but the outermost counts: what a composite model decides for its parts.
const cJSON *import_find_outer(Importer *in, const char *const names[]);
// A member of an object that was found so.
const cJSON *import_inside(Importer *in, const cJSON *object, const char *name);
bool import_is_true(Importer *in, const char *name);
double import_plain_number(Importer *in, const char *name); // 0 where there is none
const char *import_text(Importer *in, const char *name);    // "" where there is none

// The number that an item is: itself, or what all entries of a list are. False for anything else.
bool import_number_of(const cJSON *item, double *value);
bool import_is_not_finite(const cJSON *item);

// A whole number of at least `least`; -1 where neither the block nor the file says. `name` is where it was found, NULL
// if nowhere.
double import_number(Importer *in, const Field *field, double least, const char **name);
double import_required(Importer *in, const Field *field, double least, const char **name);
// A 0 in the file says that there is none.
double import_optional(Importer *in, const Field *field, double least, double fallback, const char **name);
void import_report_missing(Importer *in, const Field *field, const char *why);

// What the block says of a key itself; NULL if nothing.
const AstEntry *import_said(const Importer *in, KeyId key);
bool import_said_block(const Importer *in, BlockId block); // of the model
bool import_said_number(const Importer *in, const Field *field, double least, double *value);

void import_give(Text *keys, const char *key, double value, const char *source);
void import_error(Importer *in, const char *format, ...) PRINTF_LIKE(2, 3);
// A field that was read, and may mean something else.
void import_doubt(Importer *in, const char *format, ...) PRINTF_LIKE(2, 3);
// False and an error where there are more members to look through, for every name, than a configuration has.
bool import_is_searchable(Importer *in, const cJSON *file);
// Which object describes the text model: fills `at`.
void import_choose_config(Importer *in, const cJSON *file);
// Warns of doubts, and of every member that nobody read and that may be structure.
void import_report_unknown(Importer *in, double layers);

// ---- import_layers.c -------------------------------------------------------------------------

typedef enum { PART_MOE, PART_DENSE, PART_NONE } LayerPart;
typedef enum { MIX_FULL, MIX_WINDOW, MIX_CHUNK, MIX_RECURRENT, MIX_NONE } MixKind;

typedef struct {
    LayerPart part;
    MixKind mix;
} LayerKind;

// How many layers lists describe, for files that give no number; `name` is the list, NULL where there is none (and 0).
double import_listed_layers(Importer *in, const char **name);
// kinds [layers]: what every layer has.
void import_layer_kinds(Importer *in, uint32_t layers, LayerKind *kinds);

// ---- import_mixers.c -------------------------------------------------------------------------

typedef struct {
    double layers, hidden, heads, kv_heads, head_dim, vocabulary;
    double experts, top_k, expert_inner, inner;
    const char *inner_name; // of the field that gives it
    LayerKind *kinds;       // [layers]
} Sizes;

// Heads, and mixers where attention is not what heads say.
void import_attention(Importer *in, Sizes *sizes);
// How weights are stored.
void import_weights(Importer *in);

// ---- import_index.c --------------------------------------------------------------------------

// Reads a JSON file with what Python adds to JSON; NULL after reporting. `optional`: silent where there is no such
// file.
cJSON *import_load(Arena *arena, Diag *diag, Span place, const char *path, size_t limit, bool optional);

#endif
