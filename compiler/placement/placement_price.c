// What a placement costs, asked of the planner once for every profile: a cache in front of the price.
#include <math.h>
#include <string.h>

#include "compiler/placement/placement_parts.h"

static size_t hash_profile(const PlacementProfile *profile)
{
    const double figures[] = {profile->row.latency_s, profile->row.link_s_per_byte, profile->column.latency_s,
                              profile->column.link_s_per_byte};
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < COUNT_OF(figures); i++) {
        uint64_t bits;
        memcpy(&bits, &figures[i], sizeof(bits));
        hash = (hash ^ bits) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return (size_t)(hash % PRICE_CACHE_SLOTS);
}

static bool profiles_equal(const PlacementProfile *a, const PlacementProfile *b)
{
    return a->row.latency_s == b->row.latency_s && a->row.link_s_per_byte == b->row.link_s_per_byte &&
           a->column.latency_s == b->column.latency_s && a->column.link_s_per_byte == b->column.link_s_per_byte;
}

double search_price(Search *search, const PlacementProfile *profile)
{
    CachedPrice *slot = &search->cache[hash_profile(profile)];
    if (!slot->used || !profiles_equal(&slot->profile, profile))
        *slot = (CachedPrice){true, *profile, search->price(search->context, search->domain, profile)};
    return slot->price_s;
}

double search_pair_price(Search *search, bool column, double s_per_byte, double latency_s)
{
    PlacementProfile profile = search->floor;
    WorstPair *group = column ? &profile.column : &profile.row;
    group->link_s_per_byte = fmax(group->link_s_per_byte, s_per_byte);
    group->latency_s = fmax(group->latency_s, latency_s);
    return search_price(search, &profile);
}

size_t search_latency_level(const Search *search, double latency_s)
{
    size_t level = search->latency_count - 1;
    while (level > 0 && search->latencies[level] > latency_s)
        level--;
    return level;
}
