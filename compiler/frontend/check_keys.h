// The tables of grammar/keys.def in C, and the check of one block against them: are its keys known,
// given once, of the right kind, within limits; values go to the struct fields the table names.
// What blocks mean together is check.c's business. Private to the check.
#ifndef HEP_CHECK_KEYS_H
#define HEP_CHECK_KEYS_H

#include "compiler/frontend/check.h"
#include "compiler/frontend/evaluate.h"

typedef enum {
    BLOCK_FILE,
#define HEP_BLOCK(name, ...) BLOCK_##name,
#include "grammar/keys.def"
    BLOCK_COUNT
} BlockId;

#define HEP_KEY(block, key, ...) KEY_##block##_##key,
typedef enum {
#include "grammar/keys.def"
    KEY_COUNT
} KeyId;

// X(NAME, is it a number, of this kind, "what the reference calls it" or NULL: as the kind, words that it may be
// besides)
#define HEP_TAKES(X)                                                                                                   \
    X(COUNT, true, NUMBER, "whole number", NULL)                                                                       \
    X(NUMBER, true, NUMBER, NULL, NULL)                                                                                \
    X(BYTES, true, BYTES, NULL, NULL)                                                                                  \
    X(TIME, true, TIME, NULL, NULL)                                                                                    \
    X(BANDWIDTH, true, BANDWIDTH, NULL, NULL)                                                                          \
    X(RATE, true, RATE, NULL, NULL)                                                                                    \
    X(CAPACITY, true, NUMBER, "number or `off`", "off", NULL)                                                          \
    X(BITS, true, NUMBER, "`full`, `fp8`, `fp4` or number of bits", "full", "fp8", "fp4", NULL)                        \
    X(BUCKET, true, NUMBER, "`auto`, `none` or number of layers", "auto", "none", NULL)                                \
    X(LAYERS, false, NUMBER, "list of layers", NULL)                                                                   \
    X(ONE_OF, false, NUMBER, "word", NULL) /* of the key's name table */                                               \
    X(DOMAIN, false, NUMBER, "name, record or list", "auto", "ep", "gather", NULL)                                     \
    X(GRADIENTS, false, NUMBER, "`auto`, `weights`, `none` or level", "auto", "weights", "none", NULL)                 \
    X(WORKERS_OF, false, NUMBER, "level", NULL)                                                                        \
    X(NAMES, false, NUMBER, "list of names", NULL)                                                                     \
    X(FILE, false, NUMBER, "file name", NULL)                                                                          \
    X(SKEW, false, NUMBER, "law", "uniform", "zipf", NULL)
#define X(name, ...) TAKES_##name,
typedef enum { HEP_TAKES(X) TAKES_KINDS } Takes;
#undef X

typedef struct {
    bool is_number;
    Kind kind;            // of the quantity; KIND_NUMBER for what is none
    const char *text;     // NULL: what the kind is called
    const char *words[4]; // NULL-terminated
} TakesInfo;

enum { KEY_WORDS_MAX = 32 };

typedef enum { NEED_REQUIRED, NEED_REQUIRED_DIMENSIONS, NEED_OPTIONAL } Need;
typedef enum { FORM_ANY, FORM_DIMENSIONS, FORM_VOLUMES } Form;
typedef enum { OCCURS_ONE, OCCURS_MAYBE, OCCURS_MANY, OCCURS_ANY } Occurs;
typedef enum { LABEL_PLAIN, LABEL_LABELLED, LABEL_WORKERS } Label;

typedef struct {
    const char *name;
    BlockId parent;
    Label label;
    Occurs occurs;
    const char *doc;
} BlockInfo;

typedef struct {
    const char *name;
    BlockId block;
    Takes takes;
    const NameTable *names; // of TAKES_ONE_OF; else NULL
    bool or_auto;           // besides, `auto`: its code comes after the table's
    size_t offset;          // of the field in the block's struct
    Need need;
    Form form;
    bool has_fallback;
    double fallback;
    const char *computed; // NULL, or what the check sets when the key is absent
    double min, max;
    const char *doc;
} KeyInfo;

const BlockInfo *block_info(BlockId block);
const KeyInfo *key_info(KeyId key);
const TakesInfo *takes_info(Takes takes);
// The words that a key's value may be, a choice's in the order of their codes; returns their number.
size_t key_value_words(const KeyInfo *key, const char *out[KEY_WORDS_MAX]);
int key_meant(const char *name); // the KeyId that another program calls so, or -1
// The value of a let of a tree that was checked with these options; VALUE_ERROR if there is none.
Value check_let_value(const Ast *ast, const CheckOptions *options, const char *name, Arena *arena);

typedef struct {
    Arena *arena;
    Diag *diag;
    Environment *environment;
    Spec *spec;
    // Where things were said; NULL what was not. Of levels, only the one checked last.
    const AstEntry *blocks[BLOCK_COUNT], *keys[KEY_COUNT];
    // Names that were misspelt, and reported as that, are not reported as missing too.
    bool misspelt_blocks[BLOCK_COUNT], misspelt_keys[KEY_COUNT];
    const AstEntry *worker_names, *link_matrix; // of the outermost level; NULL if not given
    const AstEntry *inner_names[LEVELS_MAX];    // of levels inside it
} Checker;

// Checks the entries of `entry`, a block `id` (or the whole file, BLOCK_FILE), and stores keys in
// `target`. Nested blocks are recorded in checker->blocks, not checked; of a block that may
// occur more than once the first.
void check_block(Checker *checker, BlockId id, const AstEntry *entry, void *target);
void check_file_entries(Checker *checker, AstEntries entries);
// Reports all required keys of a block that are missing, in one message.
void check_required_keys(Checker *checker, BlockId id, Form form);

// A whole number within the limits. Reports and returns false otherwise; `name` is for messages.
bool evaluate_count(Checker *checker, const AstExpr *expr, const char *name, double min, double max, uint32_t *out);

Span block_head_span(const AstEntry *block);
Span value_span(const Checker *checker, const AstEntry *entry); // where it was written: on the command line, perhaps
// Span of a key's value, or of `block`'s head if it was not given.
Span key_span(const Checker *checker, KeyId key, BlockId block);

// check_links.c: names, ports and links of the outermost level's workers. Requires the levels checked.
void check_links(Checker *checker, const AstEntry *cluster);

// check_inner_ports.c: `port` blocks of levels inside the outermost one, which make their level as slow as that worker.
bool check_is_inner_port(const Checker *checker, const AstEntry *block);
void check_inner_port(Checker *checker, const AstEntry *block);
void check_inner_names(Checker *checker, const AstEntry *names, uint32_t level);

// check_layers.c. Which layers have experts, and the sizes of dense ones: requires the keys of `model` and `moe`
// stored.
void check_layer_lists(Checker *checker);
// What mixes tokens: requires heads and their sizes.
void check_mixers(Checker *checker, const AstEntry *model);
// Groups of experts that a token is limited to.
void check_groups(Checker *checker);

// check_routing.c: which experts are popular. Requires the model checked.
void check_routing(Checker *checker);

// check_prices.c. What is left open within a price, which is exact for all other checks; and what the rest costs.
void check_open_choices(Checker *checker);
void check_loss_increase(Checker *checker);

// check_domain.c: who owns whole experts, and domain sizes. Requires cluster, model and plan block checked.
// The number of micro-batches of a lap that is asked for: takes it, or reports why not.
void check_lap_size(Checker *checker, Span span, uint64_t lap);
void check_shares_and_domain(Checker *checker, const char *domain_option);

#endif
