// The canonical printer of the syntax tree. Requires a tree without syntax errors.
#include "grammar/ast.h"

static void print_entries(Text *out, AstEntries entries, int indent);
static void print_expr(const AstExpr *expr, Text *out);

static void print_items(Text *out, AstExprs items)
{
    for (const AstExpr *item = items.first; item; item = item->next) {
        if (item != items.first)
            text_append(out, ", ");
        print_expr(item, out);
    }
}

static void print_record(Text *out, AstEntries entries)
{
    text_append(out, "{ ");
    for (const AstEntry *entry = entries.first; entry; entry = entry->next) {
        AstEntries one = {(AstEntry *)entry, (AstEntry *)entry};
        print_entries(out, one, -1);
        text_append(out, " ");
    }
    text_append(out, "}");
}

static void print_binary(Text *out, const AstExpr *expr, const char *operator)
{
    print_expr(expr->left, out);
    text_append(out, operator);
    print_expr(expr->right, out);
}

static void print_expr(const AstExpr *expr, Text *out)
{
    switch (expr->kind) {
    case EXPR_NUMBER:
        text_number(out, expr->number);
        if (expr->unit)
            text_format(out, " %s", expr->unit->text);
        break;
    case EXPR_STRING:
        text_format(out, "\"%s\"", expr->text);
        break;
    case EXPR_NAME:
        text_append(out, expr->text);
        break;
    case EXPR_INDEX:
        text_format(out, "%s[", expr->text);
        print_expr(expr->left, out);
        text_append(out, "]");
        break;
    case EXPR_CALL:
        text_format(out, "%s(", expr->text);
        print_items(out, expr->items);
        text_append(out, ")");
        break;
    case EXPR_LIST:
        text_append(out, "[");
        print_items(out, expr->items);
        text_append(out, "]");
        break;
    case EXPR_RECORD:
        print_record(out, expr->entries);
        break;
    case EXPR_GROUP:
        text_append(out, "(");
        print_expr(expr->left, out);
        text_append(out, ")");
        break;
    case EXPR_NEGATE:
        text_append(out, "-");
        print_expr(expr->left, out);
        break;
    case EXPR_ADD:
        print_binary(out, expr, " + ");
        break;
    case EXPR_SUBTRACT:
        print_binary(out, expr, " - ");
        break;
    case EXPR_MULTIPLY:
        print_binary(out, expr, " * ");
        break;
    case EXPR_DIVIDE:
        print_binary(out, expr, " / ");
        break;
    }
}

static void print_head(Text *out, const AstEntry *block)
{
    text_append(out, block->name);
    if (block->label)
        text_format(out, " %s", block->label);
    if (block->from) {
        text_append(out, " from ");
        print_expr(block->from, out);
    }
    if (block->references.first) {
        text_append(out, " ");
        print_items(out, block->references);
    }
}

static void print_block(Text *out, const AstEntry *block, int indent)
{
    print_head(out, block);
    if (indent < 0) {
        text_append(out, " ");
        print_record(out, block->entries);
        return;
    }
    text_append(out, " {\n");
    print_entries(out, block->entries, indent + 1);
    text_format(out, "%*s}", 4 * indent, "");
}

static void print_entry(Text *out, const AstEntry *entry, int indent)
{
    switch (entry->kind) {
    case ENTRY_VALUE:
        text_format(out, "%s = ", entry->name);
        print_expr(entry->value, out);
        break;
    case ENTRY_LET:
        text_format(out, "let %s = ", entry->name);
        print_expr(entry->value, out);
        break;
    case ENTRY_INCLUDE:
        text_append(out, "include ");
        print_expr(entry->value, out);
        break;
    case ENTRY_BLOCK:
        print_block(out, entry, indent);
        break;
    }
}

// `indent` < 0: everything on one line.
static void print_entries(Text *out, AstEntries entries, int indent)
{
    for (const AstEntry *entry = entries.first; entry; entry = entry->next) {
        if (entry->kind == ENTRY_INCLUDE && entry->included) {
            print_entries(out, entry->included->entries, indent);
        } else if (indent < 0) {
            print_entry(out, entry, indent);
            return;
        } else {
            text_format(out, "%*s", 4 * indent, "");
            print_entry(out, entry, indent);
            text_append(out, "\n");
        }
    }
}

void ast_print(const Ast *ast, Text *out)
{
    text_append_bytes(out, "", 0);
    print_entries(out, ast->entries, 0);
}
