// The syntax tree of a .hep text, and its canonical printer. Names are not resolved and quantities
// not evaluated here. Everything lives in the arena it was parsed into.
#ifndef HEP_AST_H
#define HEP_AST_H

#include "grammar/units.h"
#include "ir/base/diag.h"
#include "ir/base/text.h"

typedef struct AstExpr AstExpr;
typedef struct AstEntry AstEntry;
typedef struct Ast Ast;

enum {
    NESTING_MAX = 100,     // open brackets of any kind
    EXPR_DEPTH_MAX = 1000, // operators on one path of an expression
    NAME_LENGTH_MAX = 64,
};

typedef struct {
    AstEntry *first, *last;
} AstEntries;

typedef enum {
    EXPR_NUMBER, // number, unit (NULL if plain)
    EXPR_STRING, // text
    EXPR_NAME,   // text
    EXPR_INDEX,  // text [ left ]: a worker of a level; block heads only, where EXPR_NAME is a named one
    EXPR_CALL,   // text ( items )
    EXPR_LIST,   // [ items ]
    EXPR_RECORD, // { entries }
    EXPR_GROUP,  // ( left )
    EXPR_NEGATE, // - left
    EXPR_ADD,    // left + right
    EXPR_SUBTRACT,
    EXPR_MULTIPLY,
    EXPR_DIVIDE,
} ExprKind;

typedef struct {
    AstExpr *first, *last;
} AstExprs;

struct AstExpr {
    ExprKind kind;
    uint32_t depth; // of the tree below, at most EXPR_DEPTH_MAX
    Span span;
    double number;
    const Unit *unit;
    const char *text;
    AstExpr *left, *right;
    AstExprs items;
    AstEntries entries;
    AstExpr *next; // in the list it is an item of
};

typedef enum {
    ENTRY_VALUE,   // name = value
    ENTRY_LET,     // let name = value
    ENTRY_INCLUDE, // include value
    ENTRY_BLOCK,   // name [label [from source] | references] { entries }
} EntryKind;

struct AstEntry {
    EntryKind kind;
    Span span, name_span; // the whole entry; its name, or the keyword of an include
    const char *name;     // NULL for an include
    AstExpr *value;
    const char *label; // NULL if none
    Span label_span;
    AstExpr *from;       // NULL if none
    AstExprs references; // EXPR_INDEX and EXPR_NAME; a single name is the label
    AstEntries entries;
    const Ast *included; // of an include, once it is resolved; empty if the file was read before
    AstEntry *next;
};

struct Ast {
    uint32_t source;
    AstEntries entries;
};

// Canonical text: one entry a line, four blanks per block, includes replaced by what they contain.
// Reading it back gives the same tree.
void ast_print(const Ast *ast, Text *out);

#endif
