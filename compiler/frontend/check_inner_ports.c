// Ports of workers inside the outermost level that differ: `port node[1]` is that of the second node of every data
// centre. Everybody in a group sends as much and waits for the slowest, and all groups have one schedule, so a level is
// as slow as its slowest worker: its bandwidth and latency become that worker's.
#include <string.h>

#include "compiler/frontend/check_keys.h"

// The level inside the outermost one that a reference such as `node[1]` names; 0 if none.
static uint32_t inner_level(const Cluster *cluster, const AstExpr *expr)
{
    for (uint32_t l = 1; expr && expr->kind == EXPR_INDEX && l < cluster->level_count; l++)
        if (strcmp(cluster->levels[l].name, expr->text) == 0)
            return l;
    return 0;
}

bool check_is_inner_port(const Checker *checker, const AstEntry *block)
{
    return !block->label && inner_level(&checker->spec->cluster, block->references.first) > 0;
}

static bool is_named(const AstEntry *names, const AstExpr *expr)
{
    if (!names || names->value->kind != EXPR_LIST || (expr->kind != EXPR_NAME && expr->kind != EXPR_STRING))
        return false;
    for (const AstExpr *item = names->value->items.first; item; item = item->next)
        if ((item->kind == EXPR_NAME || item->kind == EXPR_STRING) && strcmp(item->text, expr->text) == 0)
            return true;
    return false;
}

// Which worker it is matters to nobody, but there must be one.
static bool check_worker(Checker *checker, const AstExpr *expr, uint32_t level)
{
    const Level *of = &checker->spec->cluster.levels[level];
    uint32_t ignored;
    if (inner_level(&checker->spec->cluster, expr) != level) {
        diag_error(checker->diag, expr->span, "the ports of one block are of one level, '%s' here", of->name);
        return false;
    }
    return is_named(checker->inner_names[level], expr->left) ||
           evaluate_count(checker, expr->left, expr->text, 0, of->count - 1.0, &ignored);
}

void check_inner_port(Checker *checker, const AstEntry *block)
{
    uint32_t index = inner_level(&checker->spec->cluster, block->references.first);
    Level *level = &checker->spec->cluster.levels[index];
    WorkerPort given = {.bandwidth_bytes_per_s = level->bandwidth_bytes_per_s, .latency_s = level->latency_s};
    check_block(checker, BLOCK_PORT, block, &given);
    for (const AstExpr *expr = block->references.first; expr; expr = expr->next)
        if (!check_worker(checker, expr, index))
            return;
    if (given.bandwidth_bytes_per_s < level->bandwidth_bytes_per_s)
        level->bandwidth_bytes_per_s = given.bandwidth_bytes_per_s;
    if (given.latency_s > level->latency_s)
        level->latency_s = given.latency_s;
}

void check_inner_names(Checker *checker, const AstEntry *names, uint32_t level)
{
    const Level *of = &checker->spec->cluster.levels[level];
    uint32_t given = 0;
    if (names->value->kind != EXPR_LIST) {
        diag_error(checker->diag, names->value->span, "'names' needs a list, such as '[a, b]'");
        return;
    }
    for (const AstExpr *item = names->value->items.first; item; item = item->next)
        given++;
    if (given != of->count)
        diag_error(checker->diag, names->value->span, "level '%s' has %u workers, got %u names", of->name, of->count,
                   given);
    checker->inner_names[level] = names;
}
