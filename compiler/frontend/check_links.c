// Workers of the outermost level that differ: their names, ports and links, from `names`, `port`, `link` and
// the matrix of `links` to the tables of the Cluster, in the order of the input. Requires checked levels.
// Where workers are placed is the planner's part.
#include <stdlib.h>
#include <string.h>

#include "compiler/frontend/check_keys.h"
#include "compiler/frontend/link_matrix.h"

enum {
    NAMED_WORKERS_MAX = 1 << 14,
    LINKED_WORKERS_MAX = 1 << 12, // every pair may have a link
};

// A link that a block gives.
typedef struct {
    WorkerLink link;
    bool has_bandwidth, has_latency;
    size_t order;
    Span span;
} GivenLink;

typedef struct {
    Checker *checker;
    Cluster *cluster;
    uint32_t count;          // of workers
    const char **names;      // [count]; NULL if none are given
    const Span **port_spans; // [count]; NULL where no port is given
    GivenLink *links;
    size_t link_count, link_capacity;
    LinkMatrix matrix;
} Links;

static bool is_worker_block(const AstEntry *entry, BlockId id)
{
    return entry->kind == ENTRY_BLOCK && strcmp(entry->name, block_info(id)->name) == 0;
}

// ---- names -----------------------------------------------------------------------------------

static const char *worker_name(const AstExpr *expr)
{
    return expr->kind == EXPR_NAME || expr->kind == EXPR_STRING ? expr->text : NULL;
}

static bool add_name(Links *links, const AstExpr *expr, const AstExpr *first_item, uint32_t index)
{
    Diag *diag = links->checker->diag;
    const char *name = worker_name(expr);
    if (!name || !name[0]) {
        diag_error(diag, expr->span, "expected the name of a worker");
        return false;
    }
    if (strlen(name) > NAME_LENGTH_MAX) {
        diag_error(diag, expr->span, "the name is too long: at most %d characters", NAME_LENGTH_MAX);
        return false;
    }
    const AstExpr *other = first_item;
    for (uint32_t i = 0; i < index; i++, other = other->next) {
        if (links->names[i] && strcmp(links->names[i], name) == 0) {
            diag_error(diag, expr->span, "there are two workers '%s'", name);
            diag_note(diag, other->span, "the first one is here");
            return false;
        }
    }
    links->names[index] = name;
    return true;
}

static void read_names(Links *links, const AstEntry *entry)
{
    Diag *diag = links->checker->diag;
    if (entry->value->kind != EXPR_LIST) {
        diag_error(diag, entry->value->span, "'names' needs a list, such as '[paris, oslo]'");
        return;
    }
    uint32_t given = 0;
    for (const AstExpr *item = entry->value->items.first; item; item = item->next)
        given++;
    if (given != links->count) {
        diag_error(diag, entry->value->span, "level '%s' has %u workers, got %u names", links->cluster->levels[0].name,
                   links->count, given);
        return;
    }
    links->names = arena_alloc_array(links->checker->arena, links->count, sizeof(*links->names));
    uint32_t index = 0;
    for (const AstExpr *item = entry->value->items.first; item; item = item->next, index++)
        if (!add_name(links, item, entry->value->items.first, index))
            links->names[index] = "";
}

// ---- references ------------------------------------------------------------------------------

static bool find_named(Links *links, const AstExpr *expr, uint32_t *out)
{
    Diag *diag = links->checker->diag;
    for (*out = 0; links->names && *out < links->count; ++*out)
        if (strcmp(links->names[*out], expr->text) == 0)
            return true;
    const char *level = links->cluster->levels[0].name;
    diag_error(diag, expr->span, "level '%s' has no worker '%s'", level, expr->text);
    const char *suggestion = links->names ? nearest_word(expr->text, links->names, links->count) : NULL;
    if (suggestion)
        diag_help(diag, "did you mean '%s'?", suggestion);
    else if (!links->names)
        diag_help(diag, "its workers have no names: write '%s[0]', or name them by 'names = [...]'", level);
    return false;
}

static bool check_reference_level(Links *links, const AstExpr *expr)
{
    const Cluster *cluster = links->cluster;
    const char *names[LEVELS_MAX];
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        names[l] = cluster->levels[l].name;
        if (strcmp(names[l], expr->text) != 0)
            continue;
        if (l == 0)
            return true;
        diag_error(links->checker->diag, expr->span,
                   "only workers of the outermost level, '%s' here, can have links of their own", names[0]);
        return false;
    }
    diag_error(links->checker->diag, expr->span, "cluster '%s' has no level '%s'", cluster->name, expr->text);
    const char *suggestion = nearest_word(expr->text, names, cluster->level_count);
    if (suggestion)
        diag_help(links->checker->diag, "did you mean '%s'?", suggestion);
    return false;
}

// `dc[3]`, `dc[paris]`, `dc["new york"]` or `paris`.
static bool find_worker(Links *links, const AstExpr *expr, uint32_t *out)
{
    if (expr->kind == EXPR_NAME)
        return find_named(links, expr, out);
    if (!check_reference_level(links, expr))
        return false;
    if (expr->left->kind == EXPR_STRING)
        return find_named(links, expr->left, out);
    if (expr->left->kind == EXPR_NAME && links->names) // a name wins over a let
        for (*out = 0; *out < links->count; ++*out)
            if (strcmp(links->names[*out], expr->left->text) == 0)
                return true;
    Value value = evaluate(links->checker->environment, expr->left);
    if (value.kind == VALUE_SYMBOL)
        return find_named(links, &(AstExpr){.kind = EXPR_NAME, .text = value.text, .span = expr->left->span}, out);
    if (!evaluate_count(links->checker, expr->left, expr->text, 0, links->count - 1.0, out)) {
        if (value.kind == VALUE_QUANTITY)
            diag_help(links->checker->diag, "the %u workers of '%s' are counted from 0", links->count, expr->text);
        return false;
    }
    return true;
}

// The workers of a block's head; a single name is its label. NULL after reporting.
static uint32_t *find_workers(Links *links, const AstEntry *block, uint32_t *count)
{
    const AstExpr label = {.kind = EXPR_NAME, .text = block->label, .span = block->label_span};
    const AstExpr *first = block->label ? &label : block->references.first;
    *count = 0;
    for (const AstExpr *expr = first; expr; expr = expr->next)
        ++*count;
    uint32_t *workers = arena_alloc_array(links->checker->arena, *count, sizeof(*workers));
    bool good = true;
    uint32_t at = 0;
    for (const AstExpr *expr = first; expr; expr = expr->next, at++) {
        if (!find_worker(links, expr, &workers[at])) {
            good = false;
            continue;
        }
        for (uint32_t i = 0; good && i < at; i++) {
            if (workers[i] == workers[at]) {
                diag_error(links->checker->diag, expr->span, "this worker is named twice");
                good = false;
            }
        }
    }
    return good ? workers : NULL;
}

static bool gives_something(Links *links, const AstEntry *block, KeyId bandwidth, KeyId latency)
{
    const Checker *checker = links->checker;
    if (checker->keys[bandwidth] || checker->keys[latency] || checker->misspelt_keys[bandwidth] ||
        checker->misspelt_keys[latency])
        return true;
    diag_error(checker->diag, block->name_span, "this '%s' gives neither bandwidth nor latency", block->name);
    return false;
}

// ---- ports -----------------------------------------------------------------------------------

static void add_port(Links *links, const AstEntry *block)
{
    Diag *diag = links->checker->diag;
    const Level *level = &links->cluster->levels[0];
    WorkerPort given = {.bandwidth_bytes_per_s = level->bandwidth_bytes_per_s, .latency_s = level->latency_s};
    check_block(links->checker, BLOCK_PORT, block, &given);
    uint32_t count, *workers = find_workers(links, block, &count);
    if (!gives_something(links, block, KEY_PORT_bandwidth, KEY_PORT_latency) || !workers)
        return;
    for (uint32_t i = 0; i < count; i++) {
        WorkerPort *port = &links->cluster->ports[workers[i]];
        if (links->port_spans[workers[i]]) {
            diag_error(diag, block->name_span, "the port of '%s' is given twice", port->name);
            diag_note(diag, *links->port_spans[workers[i]], "first given here");
            continue;
        }
        links->port_spans[workers[i]] = &block->name_span;
        port->bandwidth_bytes_per_s = given.bandwidth_bytes_per_s;
        port->latency_s = given.latency_s;
    }
}

static void make_ports(Links *links)
{
    Cluster *cluster = links->cluster;
    const Level *level = &cluster->levels[0];
    Arena *arena = links->checker->arena;
    cluster->port_count = links->count;
    cluster->ports = arena_alloc_array(arena, links->count, sizeof(*cluster->ports));
    links->port_spans = arena_alloc_array(arena, links->count, sizeof(*links->port_spans));
    for (uint32_t w = 0; w < links->count; w++)
        cluster->ports[w] = (WorkerPort){
            .name = links->names ? links->names[w] : arena_format(arena, "%s[%u]", level->name, w),
            .worker = w,
            .bandwidth_bytes_per_s = level->bandwidth_bytes_per_s,
            .latency_s = level->latency_s,
        };
}

// ---- links -----------------------------------------------------------------------------------

static GivenLink *append_link(Links *links)
{
    if (links->link_count == links->link_capacity) {
        size_t capacity = links->link_capacity ? 2 * links->link_capacity : 64;
        GivenLink *larger = arena_alloc_array(links->checker->arena, capacity, sizeof(*larger));
        if (links->link_count)
            memcpy(larger, links->links, links->link_count * sizeof(*larger));
        links->links = larger;
        links->link_capacity = capacity;
    }
    return &links->links[links->link_count++];
}

// Every pair of the block's workers.
static void add_link(Links *links, const AstEntry *block)
{
    WorkerLink given = {0};
    check_block(links->checker, BLOCK_LINK, block, &given);
    bool has_bandwidth = links->checker->keys[KEY_LINK_bandwidth], has_latency = links->checker->keys[KEY_LINK_latency];
    uint32_t count, *workers = find_workers(links, block, &count);
    if (!gives_something(links, block, KEY_LINK_bandwidth, KEY_LINK_latency) || !workers)
        return;
    if (count < 2) {
        diag_error(links->checker->diag, block->name_span, "a link joins two workers, such as 'link %s[0], %s[1]'",
                   links->cluster->levels[0].name, links->cluster->levels[0].name);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = i + 1; j < count; j++) {
            uint32_t a = workers[i], b = workers[j];
            size_t order = links->link_count;
            GivenLink *link = append_link(links);
            *link = (GivenLink){.link = given,
                                .has_bandwidth = has_bandwidth,
                                .has_latency = has_latency,
                                .order = order,
                                .span = block->name_span};
            link->link.a = a < b ? a : b;
            link->link.b = a < b ? b : a;
        }
    }
}

static int compare_links(const void *left, const void *right)
{
    const GivenLink *x = left, *y = right;
    if (x->link.a != y->link.a)
        return x->link.a < y->link.a ? -1 : 1;
    if (x->link.b != y->link.b)
        return x->link.b < y->link.b ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

// Joins what several blocks say of one pair; what they say differently is an error.
static void join_given(Links *links)
{
    size_t kept = 0;
    if (links->link_count)
        qsort(links->links, links->link_count, sizeof(*links->links), compare_links);
    for (size_t i = 0; i < links->link_count; i++) {
        GivenLink *link = &links->links[i], *last = kept ? &links->links[kept - 1] : NULL;
        if (!last || last->link.a != link->link.a || last->link.b != link->link.b) {
            links->links[kept++] = *link;
            continue;
        }
        bool contradicts = (last->has_bandwidth && link->has_bandwidth &&
                            last->link.bandwidth_bytes_per_s != link->link.bandwidth_bytes_per_s) ||
                           (last->has_latency && link->has_latency && last->link.latency_s != link->link.latency_s);
        if (contradicts) {
            const WorkerPort *ports = links->cluster->ports;
            diag_error(links->checker->diag, link->span, "the link of '%s' and '%s' is given twice, and differently",
                       ports[link->link.a].name, ports[link->link.b].name);
            diag_note(links->checker->diag, last->span, "first given here");
        }
        if (link->has_bandwidth)
            last->link.bandwidth_bytes_per_s = link->link.bandwidth_bytes_per_s;
        if (link->has_latency)
            last->link.latency_s = link->link.latency_s;
        last->has_bandwidth |= link->has_bandwidth;
        last->has_latency |= link->has_latency;
    }
    links->link_count = kept;
}

// What is known of a pair: its block first, then the matrix, then its ports.
static WorkerLink complete_link(const Links *links, uint32_t a, uint32_t b, const GivenLink *given)
{
    const WorkerPort *x = &links->cluster->ports[a], *y = &links->cluster->ports[b];
    WorkerLink link = {.a = a, .b = b};
    if (given && given->has_bandwidth)
        link.bandwidth_bytes_per_s = given->link.bandwidth_bytes_per_s;
    else if (links->matrix.bytes_per_s)
        link.bandwidth_bytes_per_s = links->matrix.bytes_per_s[(size_t)a * links->count + b];
    else
        link.bandwidth_bytes_per_s =
            x->bandwidth_bytes_per_s < y->bandwidth_bytes_per_s ? x->bandwidth_bytes_per_s : y->bandwidth_bytes_per_s;
    link.latency_s = given && given->has_latency   ? given->link.latency_s
                     : x->latency_s > y->latency_s ? x->latency_s
                                                   : y->latency_s;
    return link;
}

static void make_links(Links *links)
{
    Cluster *cluster = links->cluster;
    size_t pairs = links->matrix.bytes_per_s ? (size_t)links->count * (links->count - 1) / 2 : links->link_count;
    cluster->links = arena_alloc_array(links->checker->arena, pairs, sizeof(*cluster->links));
    size_t next = 0;
    if (!links->matrix.bytes_per_s) {
        for (; next < links->link_count; next++)
            cluster->links[next] =
                complete_link(links, links->links[next].link.a, links->links[next].link.b, &links->links[next]);
        cluster->link_count = (uint32_t)next;
        return;
    }
    for (uint32_t a = 0; a < links->count; a++) {
        for (uint32_t b = a + 1; b < links->count; b++) {
            const GivenLink *given = next < links->link_count ? &links->links[next] : NULL;
            bool matches = given && given->link.a == a && given->link.b == b;
            cluster->links[cluster->link_count++] = complete_link(links, a, b, matches ? given : NULL);
            next += matches;
        }
    }
}

static bool is_too_many(Links *links, bool linked)
{
    uint32_t most = linked ? LINKED_WORKERS_MAX : NAMED_WORKERS_MAX;
    if (links->count <= most)
        return false;
    diag_error(links->checker->diag, links->checker->spec->level_spans[0],
               "too many workers to tell apart: at most %u %s", most,
               linked ? "where pairs have links of their own" : "where they have names or ports of their own");
    return true;
}

void check_links(Checker *checker, const AstEntry *cluster)
{
    Links links = {
        .checker = checker, .cluster = &checker->spec->cluster, .count = checker->spec->cluster.levels[0].count};
    bool ports = checker->worker_names, linked = checker->link_matrix;
    for (const AstEntry *entry = cluster->entries.first; entry; entry = entry->next) {
        linked |= is_worker_block(entry, BLOCK_LINK);
        if (is_worker_block(entry, BLOCK_PORT) && check_is_inner_port(checker, entry))
            check_inner_port(checker, entry);
        else
            ports |= is_worker_block(entry, BLOCK_PORT);
    }
    if ((!ports && !linked) || is_too_many(&links, linked))
        return;
    size_t mark = diag_error_count(checker->diag);
    if (checker->worker_names)
        read_names(&links, checker->worker_names);
    bool good = diag_error_count(checker->diag) == mark;
    LinkWorkers workers = {.level = links.cluster->levels[0].name, .names = links.names, .count = links.count};
    if (good && checker->link_matrix)
        good = link_matrix_read(checker->link_matrix, &workers, checker->arena, checker->diag, &links.matrix);
    if (!good)
        return;
    if (links.matrix.names)
        links.names = links.matrix.names;
    make_ports(&links);
    for (const AstEntry *entry = cluster->entries.first; entry; entry = entry->next)
        if (is_worker_block(entry, BLOCK_PORT) && !check_is_inner_port(checker, entry))
            add_port(&links, entry);
    for (const AstEntry *entry = cluster->entries.first; entry; entry = entry->next)
        if (is_worker_block(entry, BLOCK_LINK))
            add_link(&links, entry);
    join_given(&links);
    make_links(&links);
}
