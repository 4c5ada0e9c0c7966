// See multipliers.h. Options are weighted by multiplicative weights, paths answer best; the flow of
// the averaged paths is the multiplier.
#include "compiler/solve/multipliers.h"

#include <math.h>
#include <string.h>

// One option of a stage's mix.
typedef struct {
    const double *map;
    double share;
} Part;

typedef struct {
    const StageProblem *problem;
    const OptionsInPlay *options;
    uint32_t edge_count;                    // forward and backward together
    uint32_t first[2][STAGE_CLOCK_MAX + 1]; // of each component, the first of the edges that lead to it
    uint32_t block_count;
    uint32_t *block;  // [blocks + 1]: the first stage of each; stages of one are alike, and mix options in equal shares
    double **weights; // [blocks][edges][kept]: of every option's maps, side by side as paths ask for them
    double **maps;    // [blocks][kept][edges]: the same, option by option, 0 where absent; alike blocks share both
    double **memory;  // [blocks][kept]: of every option
    double **share;   // [blocks][kept]: the mixed strategy
    double **loss;    // [blocks][kept]: cumulated, the mean of the block's stages
    Part *parts;      // [kept]: of the block that is mixed
    double *mixed;    // [blocks][edges]: weights of the maps under the shares
    double *absent;   // [blocks][edges]: -INFINITY where the maps of some option lack the edge, else 0
    uint8_t *path[2]; // [stages]: edges of the longest path, forward and backward
    double (*clock[2])[STAGE_CLOCK_MAX]; // [stages + 1]: before and after every stage, in the order of the pass
    double *flow;                        // [stages][edges]: sum of the paths, by weight
    double weight;                       // of all of them
    uint32_t round;
    double memory_price;
} Game;

enum { QUICK_ROUNDS = 40, STALLS_MAX = 4, EDGES_AT_ONCE = 8 };
enum { BLOCKS_MAX = 1250 }; // so many blocks, or more where stages are not alike

static const double SHARE_MIN = 1e-3; // smaller shares are left out of the maps: any paths make a bound
static const double EXPONENT_MAX = 7; // exp(-7) is below SHARE_MIN
static const double STALLED = 0.05;   // of what is missing to the incumbent: a smaller gain is none

static double option_price(const StageProblem *problem, const StageOption *option, const double *flow, double price)
{
    double total = price * option->memory;
    for (uint32_t e = 0; e < problem->forward_count; e++)
        if (flow[e] > 0)
            total += flow[e] * option->forward[e];
    flow += problem->forward_count;
    for (uint32_t e = 0; e < problem->backward_count; e++)
        if (flow[e] > 0)
            total += flow[e] * option->backward[e];
    return total;
}

static double best_price(const StageProblem *problem, const OptionsInPlay *options, uint32_t stage, const double *flow,
                         double price, uint32_t *best)
{
    double best_s = INFINITY;
    for (uint32_t i = 0; i < options->kept_count[stage]; i++) {
        uint32_t o = options->kept[stage][i];
        double price_s = option_price(problem, &problem->stages[stage].options[o], flow, price);
        if (price_s < best_s) {
            best_s = price_s;
            *best = o;
        }
    }
    return best_s;
}

static size_t block_kept(const Game *game, uint32_t block)
{
    return game->options->kept_count[game->block[block]];
}

static size_t list_parts(const Game *game, uint32_t block, Part *parts)
{
    size_t count = 0;
    for (size_t i = 0; i < block_kept(game, block); i++)
        if (game->share[block][i] >= SHARE_MIN)
            parts[count++] = (Part){game->maps[block] + i * game->edge_count, game->share[block][i]};
    return count;
}

// So many edges at a time that their sums stay in registers.
static void mix_maps(Game *game)
{
    uint32_t edges = game->edge_count;
    for (uint32_t b = 0; b < game->block_count; b++) {
        double *mixed = game->mixed + (size_t)b * edges, *absent = game->absent + (size_t)b * edges;
        size_t parts = list_parts(game, b, game->parts);
        uint32_t e = 0;
        for (; e + EDGES_AT_ONCE <= edges; e += EDGES_AT_ONCE) {
            double sum[EDGES_AT_ONCE];
            memcpy(sum, absent + e, sizeof(sum));
            for (size_t i = 0; i < parts; i++)
                for (int j = 0; j < EDGES_AT_ONCE; j++)
                    sum[j] += game->parts[i].share * game->parts[i].map[e + j];
            memcpy(mixed + e, sum, sizeof(sum));
        }
        for (; e < edges; e++) {
            mixed[e] = absent[e];
            for (size_t i = 0; i < parts; i++)
                mixed[e] += game->parts[i].share * game->parts[i].map[e];
        }
    }
}

// One stage of the longest path: what each component becomes.
static void extend(const StageEdge *edges, const uint32_t *first, uint32_t components, const double *weights,
                   const double *before, double *after)
{
    for (uint32_t to = 0; to < components; to++) {
        double latest = -INFINITY;
        for (uint32_t e = first[to]; e < first[to + 1]; e++) {
            double at_s = before[edges[e].from] + weights[e];
            latest = at_s > latest ? at_s : latest;
        }
        after[to] = latest;
    }
}

// The edge through which the component got its value.
static uint32_t decisive_edge(const StageEdge *edges, const uint32_t *first, uint32_t to, const double *weights,
                              const double *before)
{
    uint32_t decisive = first[to];
    for (uint32_t e = first[to] + 1; e < first[to + 1]; e++)
        if (before[edges[e].from] + weights[e] > before[edges[decisive].from] + weights[decisive])
            decisive = e;
    return decisive;
}

// Back from component `at` at the end of the forward pass.
static void trace_forward(Game *game, uint32_t at)
{
    const StageProblem *problem = game->problem;
    for (uint32_t b = game->block_count; b-- > 0;) {
        const double *weights = game->mixed + (size_t)b * game->edge_count;
        for (uint32_t k = game->block[b + 1]; k-- > game->block[b];) {
            uint32_t edge = decisive_edge(problem->forward, game->first[0], at, weights, game->clock[0][k]);
            game->path[0][k] = (uint8_t)edge;
            at = problem->forward[edge].from;
        }
    }
}

// The backward pass goes through the stages from the last to the first; so back is forth.
static void trace_backward(Game *game, uint32_t at)
{
    const StageProblem *problem = game->problem;
    for (uint32_t b = 0; b < game->block_count; b++) {
        const double *weights = game->mixed + (size_t)b * game->edge_count + problem->forward_count;
        for (uint32_t k = game->block[b]; k < game->block[b + 1]; k++) {
            uint32_t edge = decisive_edge(problem->backward, game->first[1], at, weights, game->clock[1][k + 1]);
            game->path[1][k] = (uint8_t)edge;
            at = problem->backward[edge].from;
        }
    }
}

static void find_path(Game *game)
{
    const StageProblem *problem = game->problem;
    uint32_t count = problem->clock_count;
    for (uint32_t b = 0; b < game->block_count; b++)
        for (uint32_t k = game->block[b]; k < game->block[b + 1]; k++)
            extend(problem->forward, game->first[0], count, game->mixed + (size_t)b * game->edge_count,
                   game->clock[0][k], game->clock[0][k + 1]);
    trace_forward(game, 0); // the chain ends the forward pass
    if (!problem->training)
        return;
    for (uint32_t b = game->block_count; b-- > 0;)
        for (uint32_t k = game->block[b + 1]; k-- > game->block[b];)
            extend(problem->backward, game->first[1], count,
                   game->mixed + (size_t)b * game->edge_count + problem->forward_count, game->clock[1][k + 1],
                   game->clock[1][k]);
    const double *clock = game->clock[1][0];
    uint32_t at = 0;
    for (uint32_t i = 1; i < count; i++)
        if (clock[i] + problem->end[i] > clock[at] + problem->end[at])
            at = i;
    trace_backward(game, at);
}

// Shares from cumulated losses: softmax of -rate x loss.
static void update_shares(Game *game, double rate)
{
    for (uint32_t b = 0; b < game->block_count; b++) {
        size_t kept = block_kept(game, b);
        const double *loss = game->loss[b];
        double *share = game->share[b], least = INFINITY, total = 0;
        for (size_t i = 0; i < kept; i++)
            least = loss[i] < least ? loss[i] : least;
        for (size_t i = 0; i < kept; i++) {
            double exponent = rate * (loss[i] - least);
            total += share[i] = exponent > EXPONENT_MAX ? 0 : exp(-exponent);
        }
        double part = 1 / total;
        for (size_t i = 0; i < kept; i++)
            share[i] *= part;
    }
}

// The path joins the flow, and every option of the block pays for what of it passes the block's stages.
static void answer_block(Game *game, uint32_t b, bool backward, double weight)
{
    size_t kept = block_kept(game, b), offset = backward ? game->problem->forward_count : 0;
    uint32_t first = game->block[b], end = game->block[b + 1];
    double *loss = game->loss[b], part = weight / (end - first);
    const uint8_t *path = game->path[backward];
    for (uint32_t k = first, same = 0; k < end; k++) {
        game->flow[(size_t)k * game->edge_count + offset + path[k]] += weight;
        same++;
        if (k + 1 < end && path[k + 1] == path[k])
            continue;
        const double *way = game->weights[b] + (offset + path[k]) * kept;
        double paid = same * part;
        for (size_t i = 0; i < kept; i++)
            loss[i] += paid * way[i];
        same = 0;
    }
}

static void answer(Game *game, double weight)
{
    double memory_weight = weight * game->memory_price;
    for (uint32_t b = 0; b < game->block_count; b++) {
        for (size_t i = 0; i < block_kept(game, b); i++)
            game->loss[b][i] += memory_weight * game->memory[b][i];
        answer_block(game, b, false, weight);
        if (game->problem->training)
            answer_block(game, b, true, weight);
    }
}

static Multipliers multipliers_create(const Game *game, Arena *arena)
{
    size_t stages = game->problem->stage_count;
    Multipliers m = {.rest_s = arena_alloc_array(arena, stages + 1, sizeof(*m.rest_s)),
                     .edges = arena_alloc_array(arena, stages * game->edge_count + 1, sizeof(*m.edges))};
    m.clock_weight = arena_alloc_array(arena, stages + 1, sizeof(*m.clock_weight));
    m.functional_weight = arena_alloc_array(arena, stages + 1, sizeof(*m.functional_weight));
    return m;
}

// Functional weights come from the end of the backward pass, clock weights from that of the forward.
static void weigh(const Game *game, Multipliers *m)
{
    const StageProblem *problem = game->problem;
    uint32_t stages = problem->stage_count, width = game->edge_count;
    double(*alpha)[STAGE_CLOCK_MAX] = m->clock_weight, (*beta)[STAGE_CLOCK_MAX] = m->functional_weight;
    memset(alpha, 0, (stages + 1) * sizeof(*alpha));
    memset(beta, 0, (stages + 1) * sizeof(*beta));
    for (uint32_t k = 0; k < stages; k++) {
        const double *flow = m->edges + (size_t)k * width + problem->forward_count;
        for (uint32_t e = 0; e < problem->backward_count; e++) {
            if (k == 0)
                beta[0][problem->backward[e].to] += flow[e];
            beta[k + 1][problem->backward[e].from] += flow[e];
        }
    }
    alpha[stages][0] = 1;
    for (uint32_t k = 0; k < stages; k++)
        for (uint32_t e = 0; e < problem->forward_count; e++)
            alpha[k][problem->forward[e].from] += m->edges[(size_t)k * width + e];
}

// The bound that the average of the paths gives. Returns what the best options of all stages take of the memory.
static double evaluate(const Game *game, Multipliers *m)
{
    const StageProblem *problem = game->problem;
    uint32_t stages = problem->stage_count, width = game->edge_count;
    double used = 0;
    m->memory_price = game->memory_price;
    for (size_t e = 0; e < (size_t)stages * width; e++)
        m->edges[e] = game->flow[e] / game->weight;
    weigh(game, m);
    m->rest_s[stages] = problem->loss_s;
    for (uint32_t i = 0; problem->training && i < problem->clock_count; i++)
        if (m->functional_weight[stages][i] > 0)
            m->rest_s[stages] += m->functional_weight[stages][i] * problem->turn[i];
    for (uint32_t k = stages; k-- > 0;) {
        uint32_t best = 0;
        const double *flow = m->edges + (size_t)k * width;
        m->rest_s[k] = m->rest_s[k + 1] + best_price(problem, game->options, k, flow, m->memory_price, &best);
        used += problem->stages[k].options[best].memory;
    }
    double begin[STAGE_CLOCK_MAX];
    stages_begin_functional(problem, begin);
    m->value_s = m->rest_s[0] - (m->memory_price > 0 ? m->memory_price * problem->memory : 0);
    for (uint32_t i = 0; i < problem->clock_count; i++) {
        if (m->clock_weight[0][i] > 0)
            m->value_s += m->clock_weight[0][i] * problem->begin[i];
        if (m->functional_weight[0][i] > 0)
            m->value_s += m->functional_weight[0][i] * begin[i];
    }
    return used;
}

static void play(Game *game, double unit_s, uint32_t until)
{
    while (game->round < until) {
        game->round++;
        update_shares(game, 4 / (unit_s * game->round));
        mix_maps(game);
        find_path(game);
        answer(game, game->round); // later paths answer better shares
        game->weight += game->round;
    }
}

// Another price for the memory. The paths so far stay in the game, with the weight of half as many rounds.
static void reprice(Game *game, double price)
{
    const StageProblem *problem = game->problem;
    game->round = (game->round + 1) / 2;
    double weight = game->round * (game->round + 1.0) / 2, part = weight / game->weight;
    double more = weight * (price - game->memory_price);
    for (size_t e = 0; e < (size_t)problem->stage_count * game->edge_count; e++)
        game->flow[e] *= part;
    for (uint32_t b = 0; b < game->block_count; b++)
        for (size_t i = 0; i < block_kept(game, b); i++)
            game->loss[b][i] = part * game->loss[b][i] + more * game->memory[b][i];
    game->weight = weight;
    game->memory_price = price;
}

// Have both stages the same options in play?
static bool are_alike(const StageProblem *problem, const OptionsInPlay *options, uint32_t a, uint32_t b)
{
    return problem->stages[a].options == problem->stages[b].options &&
           options->kept_count[a] == options->kept_count[b] &&
           memcmp(options->kept[a], options->kept[b], options->kept_count[a] * sizeof(**options->kept)) == 0;
}

// Cuts the stages into blocks, of one stage unless there are very many.
static void cut_blocks(Game *game, Arena *arena)
{
    uint32_t stages = game->problem->stage_count, most = (stages + BLOCKS_MAX - 1) / BLOCKS_MAX;
    game->block = arena_alloc_array(arena, (size_t)stages + 1, sizeof(*game->block));
    for (uint32_t k = 0; k < stages; k++) {
        uint32_t first = game->block_count ? game->block[game->block_count - 1] : 0;
        if (k == 0 || k - first == most || !are_alike(game->problem, game->options, first, k))
            game->block[game->block_count++] = k;
    }
    game->block[game->block_count] = stages;
}

static void copy_options(Game *game, uint32_t b, Arena *arena)
{
    const StageProblem *problem = game->problem;
    uint32_t k = game->block[b];
    size_t kept = block_kept(game, b), edges = game->edge_count;
    double *absent = game->absent + b * edges;
    if (b > 0 && are_alike(problem, game->options, game->block[b - 1], k)) {
        game->weights[b] = game->weights[b - 1];
        game->maps[b] = game->maps[b - 1];
        game->memory[b] = game->memory[b - 1];
        memcpy(absent, absent - edges, edges * sizeof(*absent));
        return;
    }
    game->weights[b] = arena_alloc_array(arena, kept * edges + 1, sizeof(**game->weights));
    game->maps[b] = arena_alloc_array(arena, kept * edges + 1, sizeof(**game->maps));
    game->memory[b] = arena_alloc_array(arena, kept + 1, sizeof(**game->memory));
    for (size_t i = 0; i < kept; i++) {
        const StageOption *option = &problem->stages[k].options[game->options->kept[k][i]];
        double *map = game->maps[b] + i * edges;
        memcpy(map, option->forward, problem->forward_count * sizeof(*map));
        if (problem->backward_count)
            memcpy(map + problem->forward_count, option->backward, problem->backward_count * sizeof(*map));
        game->memory[b][i] = option->memory;
        for (size_t e = 0; e < edges; e++) {
            game->weights[b][e * kept + i] = map[e];
            if (map[e] == -INFINITY) {
                absent[e] = -INFINITY; // the bound stays one
                map[e] = 0;
            }
        }
    }
}

// Edges come in the order of the components that they lead to.
static void index_edges(const StageEdge *edges, uint32_t count, uint32_t first[STAGE_CLOCK_MAX + 1])
{
    uint32_t e = 0;
    for (uint32_t to = 0; to <= STAGE_CLOCK_MAX; to++) {
        while (e < count && edges[e].to < to)
            e++;
        first[to] = e;
    }
}

static Game *create_game(const StageProblem *problem, const OptionsInPlay *options, Arena *arena)
{
    Game *game = arena_alloc(arena, sizeof(*game));
    uint32_t stages = problem->stage_count;
    game->problem = problem;
    game->options = options;
    game->edge_count = problem->forward_count + problem->backward_count;
    cut_blocks(game, arena);
    size_t blocks = game->block_count, entries = blocks * game->edge_count + 1;
    game->mixed = arena_alloc_array(arena, entries, sizeof(*game->mixed));
    game->absent = arena_alloc_array(arena, entries, sizeof(*game->absent));
    game->flow = arena_alloc_array(arena, (size_t)stages * game->edge_count + 1, sizeof(*game->flow));
    for (int pass = 0; pass < 2; pass++) {
        game->path[pass] = arena_alloc_array(arena, stages + 1, 1);
        game->clock[pass] = arena_alloc_array(arena, (size_t)stages + 1, sizeof(**game->clock));
    }
    memcpy(game->clock[0][0], problem->begin, sizeof(problem->begin));
    memcpy(game->clock[1][stages], problem->turn, sizeof(problem->turn));
    index_edges(problem->forward, problem->forward_count, game->first[0]);
    index_edges(problem->backward, problem->backward_count, game->first[1]);
    double ***by_block[] = {&game->weights, &game->maps, &game->memory, &game->share, &game->loss};
    for (size_t i = 0; i < COUNT_OF(by_block); i++)
        *by_block[i] = arena_alloc_array(arena, blocks + 1, sizeof(**by_block[i]));
    size_t most = 0;
    for (uint32_t b = 0; b < blocks; b++) {
        size_t kept = block_kept(game, b);
        most = kept > most ? kept : most;
        game->share[b] = arena_alloc_array(arena, kept + 1, sizeof(**game->share));
        game->loss[b] = arena_alloc_array(arena, kept + 1, sizeof(**game->loss));
        copy_options(game, b, arena);
    }
    game->parts = arena_alloc_array(arena, most + 1, sizeof(*game->parts));
    return game;
}

// ---- bounds ------------------------------------------------------------------------------------

// One price of the memory: its bound, and by how much its best options exceed the memory.
typedef struct {
    double price, value_s, excess;
} Priced;

typedef struct {
    Game *game;
    double incumbent_s;
    Multipliers *out; // [MULTIPLIERS_MAX]
    uint32_t count;
    Multipliers spare;
    Arena *arena;
} Bounding;

static uint32_t find_extreme(const Bounding *b, bool worst)
{
    uint32_t found = 0;
    for (uint32_t i = 1; i < b->count; i++)
        if (worst ? b->out[i].value_s < b->out[found].value_s : b->out[i].value_s > b->out[found].value_s)
            found = i;
    return found;
}

static double best_value(const Bounding *b)
{
    return b->count ? b->out[find_extreme(b, false)].value_s : -INFINITY;
}

// The spare joins; where there are enough, in the place of the worst, if it is better.
static void keep_spare(Bounding *b)
{
    if (b->count < MULTIPLIERS_MAX) {
        b->out[b->count++] = b->spare;
        b->spare = multipliers_create(b->game, b->arena);
        return;
    }
    uint32_t worst = find_extreme(b, true);
    if (b->spare.value_s <= b->out[worst].value_s)
        return;
    Multipliers other = b->out[worst];
    b->out[worst] = b->spare;
    b->spare = other;
}

// Plays at one price, twice as many rounds each time, until the bound gains little of what is missing.
static Priced settle(Bounding *b, uint32_t rounds)
{
    const StageProblem *problem = b->game->problem;
    double unit_s = b->incumbent_s / fmax(1, problem->stage_count), before_s = -INFINITY;
    uint32_t last = b->game->round + rounds;
    Priced priced = {.price = b->game->memory_price, .value_s = -INFINITY};
    int stalls = 0;
    for (uint32_t part = QUICK_ROUNDS; b->game->round < last; part *= 2) {
        uint32_t until = b->game->round + part > last ? last : b->game->round + part;
        play(b->game, unit_s, until);
        double used = evaluate(b->game, &b->spare);
        if (b->spare.value_s > priced.value_s) {
            priced.value_s = b->spare.value_s;
            priced.excess = used - problem->memory;
            keep_spare(b);
        }
        double missing_s = b->incumbent_s - priced.value_s;
        stalls = priced.value_s - before_s < STALLED * missing_s ? stalls + 1 : 0;
        // Bounds first fall, at times, before they rise; where another price follows, that one matters more.
        bool is_last = priced.price == 0 && priced.excess <= 0;
        if (missing_s <= 0 || stalls == (is_last ? STALLS_MAX : 1))
            break;
        before_s = priced.value_s;
    }
    return priced;
}

// The next price to try, given one at which too much memory is used and one at which too little is, if that is known:
// where their tangents meet, or where the tangent reaches the incumbent. 0: nothing is to be gained.
static double next_price(const Bounding *b, const Priced *low, const Priced *high)
{
    double best_s = best_value(b), missing_s = b->incumbent_s - best_s;
    if (high->price == 0)
        return fmax(2 * low->price, low->price + (b->incumbent_s - low->value_s) / low->excess);
    double slope = low->excess - high->excess, span = high->price - low->price;
    double price = (high->value_s - low->value_s + low->excess * low->price - high->excess * high->price) / slope;
    double at_most_s = low->value_s + low->excess * (price - low->price);
    if (!(at_most_s > best_s + STALLED * missing_s))
        return 0;
    return fmin(fmax(price, low->price + span / 8), high->price - span / 8);
}

// The memory's price: a search for the best bound, which is concave in it.
static void find_price(Bounding *b, Priced low, uint32_t rounds)
{
    enum { PRICES = 8, PRICES_MANY = 2 };
    int prices = b->game->problem->stage_count > STAGES_MANY ? PRICES_MANY : PRICES;
    Priced high = {0};
    for (int step = 0; step < prices && low.excess > 0 && best_value(b) < b->incumbent_s; step++) {
        double price = next_price(b, &low, &high);
        if (price <= 0)
            return;
        reprice(b->game, price);
        Priced priced = settle(b, rounds);
        *(priced.excess > 0 ? &low : &high) = priced;
    }
}

uint32_t multipliers_find(const StageProblem *problem, const OptionsInPlay *options, double incumbent_s,
                          uint32_t rounds, Multipliers out[MULTIPLIERS_MAX], Arena *arena)
{
    Arena *scratch = arena_create();
    Bounding b = {.game = create_game(problem, options, scratch), .incumbent_s = incumbent_s, .out = out};
    b.arena = arena;
    b.spare = multipliers_create(b.game, arena);
    Priced unpriced = settle(&b, rounds);
    if (problem->memory < INFINITY)
        find_price(&b, unpriced, rounds / 4 + 1);
    arena_destroy(scratch);
    uint32_t best = find_extreme(&b, false);
    Multipliers first = out[0];
    out[0] = out[best];
    out[best] = first;
    return b.count;
}

void multipliers_reduced_s(const StageProblem *problem, const OptionsInPlay *options, const Multipliers *m,
                           uint32_t stage, double reduced_s[])
{
    const double *flow = m->edges + (size_t)stage * (problem->forward_count + problem->backward_count);
    double best_s = INFINITY;
    for (uint32_t i = 0; i < options->kept_count[stage]; i++) {
        const StageOption *option = &problem->stages[stage].options[options->kept[stage][i]];
        reduced_s[i] = option_price(problem, option, flow, m->memory_price);
        best_s = fmin(best_s, reduced_s[i]);
    }
    for (uint32_t i = 0; i < options->kept_count[stage]; i++)
        reduced_s[i] -= best_s;
}
