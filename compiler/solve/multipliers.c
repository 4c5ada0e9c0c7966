// See multipliers.h. Options are weighted by multiplicative weights, paths answer best; the flow of
// the averaged paths is the multiplier.
#include "compiler/solve/multipliers.h"

#include <math.h>
#include <string.h>

typedef struct {
    const StageProblem *problem;
    const OptionsInPlay *options;
    uint32_t edge_count;   // forward and backward together
    double **weights;      // [stages][edges][kept]: of every option's maps, side by side as paths ask for them
    double **maps;         // [stages][kept][edges]: the same, option by option; alike stages share both
    double **memory;       // [stages][kept]: of every option
    double **share;        // [stages][kept]: the mixed strategy
    double **loss;         // [stages][kept]: cumulated
    double *mixed;         // [stages][edges]: weights of the maps under the shares
    double *absent;        // [stages][edges]: -INFINITY where the maps of some option lack the edge, else 0
    uint8_t *path[2];      // [stages]: edges of the longest path, forward and backward
    uint8_t *came_from[2]; // [stages][clock]: edge that decided each component
    double *flow;          // [stages][edges]: average of the paths
    double memory_price;
} Game;

static const double SHARE_MIN = 1e-5;  // smaller shares are left out of the maps
static const double EXPONENT_MAX = 12; // exp(-12) is below SHARE_MIN

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

static void mix_maps(Game *game)
{
    const StageProblem *problem = game->problem;
    memcpy(game->mixed, game->absent, (size_t)problem->stage_count * game->edge_count * sizeof(*game->mixed));
    for (uint32_t k = 0; k < problem->stage_count; k++) {
        size_t kept = game->options->kept_count[k], edges = game->edge_count;
        double *mixed = game->mixed + k * edges;
        for (size_t i = 0; i < kept; i++) {
            double share = game->share[k][i];
            const double *map = game->maps[k] + i * edges;
            for (size_t e = 0; share >= SHARE_MIN && e < edges; e++)
                mixed[e] += share * map[e]; // -INFINITY where an option lacks the edge: the bound stays one
        }
    }
}

// One stage of the longest path: what each component becomes, and through which edge.
static void extend(const StageEdge *edges, uint32_t count, const double *weights, double clock[STAGE_CLOCK_MAX],
                   uint8_t came_from[STAGE_CLOCK_MAX])
{
    double next[STAGE_CLOCK_MAX];
    for (uint32_t i = 0; i < STAGE_CLOCK_MAX; i++)
        next[i] = -INFINITY;
    for (uint32_t e = 0; e < count; e++) {
        double at_s = clock[edges[e].from] + weights[e];
        if (at_s > next[edges[e].to]) {
            next[edges[e].to] = at_s;
            came_from[edges[e].to] = (uint8_t)e;
        }
    }
    memcpy(clock, next, sizeof(next));
}

static void find_path(Game *game)
{
    const StageProblem *problem = game->problem;
    uint32_t stages = problem->stage_count, width = game->edge_count;
    double clock[STAGE_CLOCK_MAX];
    memcpy(clock, problem->begin, sizeof(clock));
    for (uint32_t k = 0; k < stages; k++)
        extend(problem->forward, problem->forward_count, game->mixed + (size_t)k * width, clock,
               game->came_from[0] + k * STAGE_CLOCK_MAX);
    if (problem->training) {
        memcpy(clock, problem->turn, sizeof(clock));
        for (uint32_t k = stages; k-- > 0;)
            extend(problem->backward, problem->backward_count, game->mixed + (size_t)k * width + problem->forward_count,
                   clock, game->came_from[1] + k * STAGE_CLOCK_MAX);
        uint32_t at = 0;
        for (uint32_t i = 1; i < problem->clock_count; i++)
            if (clock[i] + problem->end[i] > clock[at] + problem->end[at])
                at = i;
        for (uint32_t k = 0; k < stages; k++) {
            game->path[1][k] = game->came_from[1][k * STAGE_CLOCK_MAX + at];
            at = problem->backward[game->path[1][k]].from;
        }
    }
    uint32_t at = 0; // the chain ends the forward pass
    for (uint32_t k = stages; k-- > 0;) {
        game->path[0][k] = game->came_from[0][k * STAGE_CLOCK_MAX + at];
        at = problem->forward[game->path[0][k]].from;
    }
}

// Shares from cumulated losses: softmax of -rate x loss.
static void update_shares(Game *game, double rate)
{
    for (uint32_t k = 0; k < game->problem->stage_count; k++) {
        size_t kept = game->options->kept_count[k];
        const double *loss = game->loss[k];
        double *share = game->share[k], least = INFINITY, total = 0;
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

// Every option pays for the path; the path joins the flow.
static void answer(Game *game, double weight)
{
    const StageProblem *problem = game->problem;
    for (uint32_t k = 0; k < problem->stage_count; k++) {
        size_t forward = game->path[0][k], backward = problem->forward_count + game->path[1][k];
        size_t kept = game->options->kept_count[k];
        double *flow = game->flow + (size_t)k * game->edge_count, *loss = game->loss[k];
        const double *way = game->weights[k] + forward * kept, *memory = game->memory[k];
        double memory_weight = weight * game->memory_price;
        flow[forward] += weight;
        for (size_t i = 0; i < kept; i++)
            loss[i] += weight * way[i] + memory_weight * memory[i];
        if (!problem->training)
            continue;
        flow[backward] += weight;
        const double *way_back = game->weights[k] + backward * kept;
        for (size_t i = 0; i < kept; i++)
            loss[i] += weight * way_back[i];
    }
}

static void evaluate(const Game *game, Multipliers *m, Arena *arena)
{
    const StageProblem *problem = game->problem;
    uint32_t stages = problem->stage_count, width = game->edge_count;
    *m = (Multipliers){
        .clock_weight = arena_alloc_array(arena, stages + 1, sizeof(*m->clock_weight)),
        .functional_weight = arena_alloc_array(arena, stages + 1, sizeof(*m->functional_weight)),
        .rest_s = arena_alloc_array(arena, stages + 1, sizeof(*m->rest_s)),
        .edges = arena_alloc_array(arena, (size_t)stages * width + 1, sizeof(*m->edges)),
        .memory_price = game->memory_price,
    };
    memcpy(m->edges, game->flow, (size_t)stages * width * sizeof(*m->edges));
    // Functional weights come from the end of the backward pass, clock weights from that of the forward.
    double(*beta)[STAGE_CLOCK_MAX] = m->functional_weight;
    if (problem->training) {
        for (uint32_t k = 0; k < stages; k++) {
            const double *flow = game->flow + (size_t)k * width + problem->forward_count;
            for (uint32_t e = 0; e < problem->backward_count; e++) {
                if (k == 0)
                    beta[0][problem->backward[e].to] += flow[e];
                beta[k + 1][problem->backward[e].from] += flow[e];
            }
        }
    }
    double(*alpha)[STAGE_CLOCK_MAX] = m->clock_weight;
    alpha[stages][0] = 1;
    m->rest_s[stages] = problem->loss_s;
    for (uint32_t i = 0; problem->training && i < problem->clock_count; i++)
        if (beta[stages][i] > 0)
            m->rest_s[stages] += beta[stages][i] * problem->turn[i];
    for (uint32_t k = stages; k-- > 0;) {
        const double *flow = game->flow + (size_t)k * width;
        for (uint32_t e = 0; e < problem->forward_count; e++)
            alpha[k][problem->forward[e].from] += flow[e];
        uint32_t best;
        double best_s = best_price(problem, game->options, k, flow, game->memory_price, &best);
        m->rest_s[k] = m->rest_s[k + 1] + best_s;
    }
    double begin[STAGE_CLOCK_MAX];
    stages_begin_functional(problem, begin);
    m->value_s = m->rest_s[0] - (game->memory_price > 0 ? game->memory_price * problem->memory : 0);
    for (uint32_t i = 0; i < problem->clock_count; i++) {
        if (alpha[0][i] > 0)
            m->value_s += alpha[0][i] * problem->begin[i];
        if (beta[0][i] > 0)
            m->value_s += beta[0][i] * begin[i];
    }
}

static void play(Game *game, double incumbent_s, uint32_t rounds)
{
    const StageProblem *problem = game->problem;
    uint32_t stages = problem->stage_count;
    for (uint32_t k = 0; k < stages; k++)
        memset(game->loss[k], 0, game->options->kept_count[k] * sizeof(**game->loss));
    size_t entries = (size_t)stages * game->edge_count;
    memset(game->flow, 0, entries * sizeof(*game->flow));
    double unit_s = incumbent_s / fmax(1, stages), total_weight = 0;
    for (uint32_t round = 1; round <= rounds; round++) {
        update_shares(game, 4 / (unit_s * round));
        mix_maps(game);
        find_path(game);
        answer(game, round); // later paths answer better shares
        total_weight += round;
    }
    for (size_t e = 0; e < entries; e++)
        game->flow[e] /= total_weight;
}

// Has the stage the same options in play as the one before?
static bool is_like_previous(const Game *game, uint32_t k)
{
    const PlanStage *stages = game->problem->stages;
    const OptionsInPlay *options = game->options;
    return k > 0 && stages[k].options == stages[k - 1].options &&
           options->kept_count[k] == options->kept_count[k - 1] &&
           memcmp(options->kept[k], options->kept[k - 1], options->kept_count[k] * sizeof(**options->kept)) == 0;
}

static void copy_options(Game *game, uint32_t k, Arena *arena)
{
    const StageProblem *problem = game->problem;
    size_t kept = game->options->kept_count[k], edges = game->edge_count;
    double *absent = game->absent + k * edges;
    if (is_like_previous(game, k)) {
        game->weights[k] = game->weights[k - 1];
        game->maps[k] = game->maps[k - 1];
        game->memory[k] = game->memory[k - 1];
        memcpy(absent, absent - edges, edges * sizeof(*absent));
        return;
    }
    game->weights[k] = arena_alloc_array(arena, kept * edges + 1, sizeof(**game->weights));
    game->maps[k] = arena_alloc_array(arena, kept * edges + 1, sizeof(**game->maps));
    game->memory[k] = arena_alloc_array(arena, kept + 1, sizeof(**game->memory));
    for (size_t i = 0; i < kept; i++) {
        const StageOption *option = &problem->stages[k].options[game->options->kept[k][i]];
        double *map = game->maps[k] + i * edges;
        memcpy(map, option->forward, problem->forward_count * sizeof(*map));
        if (problem->backward_count)
            memcpy(map + problem->forward_count, option->backward, problem->backward_count * sizeof(*map));
        game->memory[k][i] = option->memory;
        for (size_t e = 0; e < edges; e++) {
            game->weights[k][e * kept + i] = map[e];
            if (map[e] == -INFINITY)
                absent[e] = -INFINITY;
        }
    }
}

static Game *create_game(const StageProblem *problem, const OptionsInPlay *options, Arena *arena)
{
    Game *game = arena_alloc(arena, sizeof(*game));
    uint32_t stages = problem->stage_count;
    game->problem = problem;
    game->options = options;
    game->edge_count = problem->forward_count + problem->backward_count;
    size_t entries = (size_t)stages * game->edge_count + 1;
    game->mixed = arena_alloc_array(arena, entries, sizeof(*game->mixed));
    game->absent = arena_alloc_array(arena, entries, sizeof(*game->absent));
    game->flow = arena_alloc_array(arena, entries, sizeof(*game->flow));
    for (int pass = 0; pass < 2; pass++) {
        game->path[pass] = arena_alloc_array(arena, stages + 1, 1);
        game->came_from[pass] = arena_alloc_array(arena, (size_t)(stages + 1) * STAGE_CLOCK_MAX, 1);
    }
    double ***by_stage[] = {&game->weights, &game->maps, &game->memory, &game->share, &game->loss};
    for (size_t i = 0; i < COUNT_OF(by_stage); i++)
        *by_stage[i] = arena_alloc_array(arena, stages + 1, sizeof(**by_stage[i]));
    for (uint32_t k = 0; k < stages; k++) {
        size_t kept = options->kept_count[k];
        game->share[k] = arena_alloc_array(arena, kept + 1, sizeof(**game->share));
        game->loss[k] = arena_alloc_array(arena, kept + 1, sizeof(**game->loss));
        copy_options(game, k, arena);
    }
    return game;
}

// Memory of the options that are best under a bound.
static double memory_under(const Game *game, const Multipliers *m)
{
    double used = 0;
    for (uint32_t k = 0; k < game->problem->stage_count; k++) {
        uint32_t best = 0;
        best_price(game->problem, game->options, k, m->edges + (size_t)k * game->edge_count, m->memory_price, &best);
        used += game->problem->stages[k].options[best].memory;
    }
    return used;
}

uint32_t multipliers_find(const StageProblem *problem, const OptionsInPlay *options, double incumbent_s,
                          uint32_t rounds, Multipliers out[MULTIPLIERS_MAX], Arena *arena)
{
    enum { QUICK_ROUNDS = 40, PRICES = 8, PRICES_MANY = 2 };
    Arena *scratch = arena_create();
    Game *game = create_game(problem, options, scratch);
    uint32_t count = 0;
    if (rounds > QUICK_ROUNDS) { // often enough to see that nothing is to be gained
        play(game, incumbent_s, QUICK_ROUNDS);
        evaluate(game, &out[0], arena);
        count = out[0].value_s >= incumbent_s;
    }
    if (count == 0) {
        play(game, incumbent_s, rounds);
        evaluate(game, &out[count++], arena);
    }
    // The memory's price, by bisection on whether the best options of the bound fit.
    double low = 0, high = 0, best_s = out[0].value_s;
    int prices = problem->stage_count > STAGES_MANY ? PRICES_MANY : PRICES;
    for (int step = 0; problem->memory < INFINITY && step < prices && best_s < incumbent_s; step++) {
        const Multipliers *m = &out[count - 1];
        double used = memory_under(game, m);
        if (used <= problem->memory && step == 0)
            break;
        if (used <= problem->memory)
            high = m->memory_price;
        else
            low = m->memory_price;
        double first = 0.1 * incumbent_s / fmax(used, 1);
        game->memory_price = high > 0 ? 0.5 * (low + high) : low > 0 ? 4 * low : first;
        play(game, incumbent_s, rounds / 4 + 1);
        if (count < MULTIPLIERS_MAX)
            count++;
        evaluate(game, &out[count - 1], arena);
        best_s = fmax(best_s, out[count - 1].value_s);
    }
    arena_destroy(scratch);
    for (uint32_t i = 1; i < count; i++)
        if (out[i].value_s > out[0].value_s) {
            Multipliers better = out[i];
            out[i] = out[0];
            out[0] = better;
        }
    return count;
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
