// Local search: swaps of two workers, steered by an energy in which bad pairs outweigh all others, with a tabu
// list and deterministic kicks. Keeps the cheapest placement it has seen by its true price.
#include <math.h>
#include <string.h>

#include "compiler/placement/placement_parts.h"

enum {
    TABU_MIN = 3,
    TABU_SPREAD = 8, // moves for which a swapped worker stays
    PATIENCE = 60,   // moves without a new best before a kick
    KICK_SWAPS = 4,
    PRICED_MAX = 512, // pair prices computed; others take the next worse one's
    MOVES_MIN = 20,
};

typedef struct {
    Search *search;
    uint32_t count, domain;
    float *row, *column; // [count][count]: energy of a pair in a row or a column
    uint32_t *worker;    // by position
    uint32_t *still;     // [count] by worker: tabu up to this move
    uint64_t random;
} Local;

static uint32_t next_random(Local *local, uint32_t below)
{
    local->random ^= local->random << 13;
    local->random ^= local->random >> 7;
    local->random ^= local->random << 17;
    return (uint32_t)(local->random >> 33) % below;
}

// ---- energies --------------------------------------------------------------------------------

static size_t rank_of(const Search *search, double s_per_byte)
{
    size_t low = 0, high = search->slowness_count - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (search->slownesses[middle] < s_per_byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// Prices of a pair by latency level and rank of its slowness. A level stands for latencies up to the next.
static double *price_table(Search *search, bool column)
{
    size_t ranks = search->slowness_count, step = 1 + ranks * search->latency_count / PRICED_MAX;
    double *table = arena_alloc_array(search->arena, ranks * search->latency_count, sizeof(*table));
    for (size_t level = 0; level < search->latency_count; level++) {
        for (size_t from = 0; from < ranks; from += step) {
            size_t last = from + step < ranks ? from + step - 1 : ranks - 1;
            double price_s = search_pair_price(search, column, search->slownesses[last], search->latencies[level]);
            for (size_t rank = from; rank <= last; rank++)
                table[level * ranks + rank] = price_s;
        }
    }
    return table;
}

// The eighth power of what a pair adds to the floor, of the most any pair adds.
static void fill_energies(Local *local, bool column, float *energy)
{
    Search *search = local->search;
    const Pairs *pairs = search->pairs;
    double *table = price_table(search, column), base_s = search_price(search, &search->floor), most_s = 0;
    size_t ranks = search->slowness_count;
    for (size_t i = 0; i < ranks * search->latency_count; i++)
        most_s = fmax(most_s, table[i] - base_s);
    for (uint32_t a = 0; a < local->count && most_s > 0; a++) {
        for (uint32_t b = 0; b < a; b++) {
            size_t at = (size_t)a * local->count + b;
            size_t level = search_latency_level(search, pairs->latency_s[at]);
            double share = (table[level * ranks + rank_of(search, pairs->s_per_byte[at])] - base_s) / most_s;
            share *= share;
            share *= share;
            energy[at] = energy[(size_t)b * local->count + a] = (float)(share * share);
        }
    }
}

// Energy of worker `w` at position `x`, without the pairs with position `skip`.
static double energy_at(const Local *local, uint32_t w, uint32_t x, uint32_t skip)
{
    const float *row = local->row + (size_t)w * local->count, *column = local->column + (size_t)w * local->count;
    uint32_t first = x / local->domain * local->domain;
    double sum = 0;
    for (uint32_t y = first; y < first + local->domain; y++)
        if (y != x && y != skip)
            sum += row[local->worker[y]];
    for (uint32_t y = x % local->domain; y < local->count; y += local->domain)
        if (y != x && y != skip)
            sum += column[local->worker[y]];
    return sum;
}

// ---- moves -----------------------------------------------------------------------------------

static void swap_positions(Local *local, uint32_t x, uint32_t y)
{
    uint32_t w = local->worker[x];
    local->worker[x] = local->worker[y];
    local->worker[y] = w;
}

// The position with the worst pair; of its two ends the one that fares worse.
static uint32_t worst_position(const Local *local)
{
    float worst = -1;
    uint32_t x = 0, y = 0;
    for (uint32_t a = 0; a < local->count; a++) {
        const float *row = local->row + (size_t)local->worker[a] * local->count,
                    *column = local->column + (size_t)local->worker[a] * local->count;
        for (uint32_t b = a + 1; b < (a / local->domain + 1) * local->domain; b++)
            if (row[local->worker[b]] > worst) {
                worst = row[local->worker[b]];
                x = a;
                y = b;
            }
        for (uint32_t b = a + local->domain; b < local->count; b += local->domain)
            if (column[local->worker[b]] > worst) {
                worst = column[local->worker[b]];
                x = a;
                y = b;
            }
    }
    return energy_at(local, local->worker[x], x, x) >= energy_at(local, local->worker[y], y, y) ? x : y;
}

// The best partner to swap position x with; x itself if all are tabu.
static uint32_t best_partner(const Local *local, uint32_t x, uint32_t move)
{
    uint32_t best = x, w = local->worker[x];
    double least = INFINITY;
    for (uint32_t y = 0; y < local->count; y++) {
        uint32_t v = local->worker[y];
        if (y == x || (local->still[v] > move && local->still[w] > move))
            continue;
        double change = energy_at(local, v, x, y) + energy_at(local, w, y, x) - energy_at(local, w, x, y) -
                        energy_at(local, v, y, x);
        if (change < least) {
            least = change;
            best = y;
        }
    }
    return best;
}

double placement_improve(Search *search, uint64_t work, uint32_t worker[])
{
    uint32_t count = search->count;
    size_t bytes = count * sizeof(*worker);
    Local local = {.search = search, .count = count, .domain = search->domain, .random = 88172645463325252u};
    local.row = arena_alloc_array(search->arena, (size_t)count * count, sizeof(*local.row));
    local.column = arena_alloc_array(search->arena, (size_t)count * count, sizeof(*local.column));
    local.still = arena_alloc_array(search->arena, count, sizeof(*local.still));
    local.worker = arena_alloc_array(search->arena, count, sizeof(*local.worker));
    memcpy(local.worker, worker, bytes);
    fill_energies(&local, false, local.row);
    fill_energies(&local, true, local.column);
    PlacementProfile profile = placement_profile(search->pairs, search->domain, worker);
    double best_s = search_price(search, &profile), floor_s = search_price(search, &search->floor);
    uint64_t moves = work / (4 * (uint64_t)count * (search->domain + search->columns));
    moves = moves < MOVES_MIN ? MOVES_MIN : moves > 40u * count ? 40u * count : moves;
    for (uint32_t move = 1, last = 0; move <= moves && best_s > floor_s; move++) {
        uint32_t x = worst_position(&local), y = best_partner(&local, x, move);
        if (y == x)
            y = (x + 1 + next_random(&local, count - 1)) % count;
        uint32_t until = move + TABU_MIN + next_random(&local, TABU_SPREAD);
        local.still[local.worker[x]] = local.still[local.worker[y]] = until;
        swap_positions(&local, x, y);
        profile = placement_profile(search->pairs, search->domain, local.worker);
        double price_s = search_price(search, &profile);
        if (price_s < best_s) {
            best_s = price_s;
            last = move;
            memcpy(worker, local.worker, bytes);
        } else if (move - last >= PATIENCE) {
            last = move;
            memcpy(local.worker, worker, bytes);
            for (int swap = 0; swap < KICK_SWAPS; swap++)
                swap_positions(&local, next_random(&local, count), next_random(&local, count));
        }
    }
    return best_s;
}
