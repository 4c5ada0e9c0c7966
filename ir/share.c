// See share.h.
#include "ir/share.h"

uint64_t share_places(const Cluster *cluster, const uint32_t domain[LEVELS_MAX])
{
    uint64_t places = 1;
    for (uint32_t l = 0; l < cluster->level_count; l++)
        places *= cluster->levels[l].count / domain[l];
    return places;
}

uint64_t share_gpus(const Cluster *cluster, uint32_t kept_levels)
{
    return kept_levels == 0 ? cluster_gpus(cluster) : cluster_gpus_below(cluster, kept_levels - 1);
}

// ceil(experts x elements / gpus) without the product of all three.
static uint64_t elements_of_share(uint64_t experts, uint64_t elements, uint64_t gpus)
{
    uint64_t rest = experts % gpus * elements;
    uint64_t exact = experts / gpus * elements + rest / gpus + (rest % gpus != 0);
    return (exact + SHARE_ALIGNMENT - 1) / SHARE_ALIGNMENT * SHARE_ALIGNMENT;
}

void share_shape(const Cluster *cluster, uint32_t kept_levels, uint64_t experts, uint64_t expert_elements,
                 uint64_t *rows, uint64_t *cols)
{
    uint64_t gpus = share_gpus(cluster, kept_levels);
    bool whole = experts % gpus == 0;
    *rows = whole ? experts / gpus : 1;
    *cols = whole ? expert_elements : elements_of_share(experts, expert_elements, gpus);
}

ExpertShares expert_shares(const Cluster *cluster, uint32_t kept_levels, const uint32_t domain[LEVELS_MAX],
                           uint64_t experts, uint64_t expert_elements)
{
    ExpertShares shares = {.level_count = cluster->level_count,
                           .kept_levels = kept_levels,
                           .places = share_places(cluster, domain),
                           .members = 1,
                           .expert_elements = expert_elements};
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        shares.counts[l] = cluster->levels[l].count;
        shares.domain[l] = domain[l];
        shares.members *= l < kept_levels ? 1 : domain[l];
    }
    shares.block_experts = experts / shares.places;
    share_shape(cluster, kept_levels, experts, expert_elements, &shares.rows, &shares.cols);
    return shares;
}

uint64_t share_place(const ExpertShares *shares, uint64_t rank)
{
    uint64_t place = 0, stride = 1;
    for (uint32_t l = shares->level_count; l-- > 0; rank /= shares->counts[l]) {
        place += rank % shares->counts[l] / shares->domain[l] * stride;
        stride *= shares->counts[l] / shares->domain[l];
    }
    return place;
}

uint64_t share_slot(const ExpertShares *shares, uint64_t rank)
{
    uint64_t slot = 0, stride = shares->members;
    for (uint32_t l = shares->level_count; l-- > shares->kept_levels; rank /= shares->counts[l]) {
        stride /= shares->domain[l];
        slot += rank % shares->counts[l] % shares->domain[l] * stride;
    }
    return slot;
}

uint32_t share_member(const ExpertShares *shares, uint64_t expert, uint32_t level)
{
    uint64_t place = expert / shares->block_experts;
    for (uint32_t l = shares->level_count; l-- > level + 1;)
        place /= shares->counts[l] / shares->domain[l];
    return (uint32_t)(place % (shares->counts[level] / shares->domain[level]));
}

ElementRange share_held(const ExpertShares *shares, uint64_t rank)
{
    uint64_t elements = shares->block_experts * shares->expert_elements;
    return (ElementRange){share_place(shares, rank) * elements, elements};
}

// The block's elements from share `slot` on, `count` shares: none beyond its end, where the last shares are padding.
static ElementRange shares_from(const ExpertShares *shares, uint64_t rank, uint64_t slot, uint64_t count)
{
    ElementRange block = share_held(shares, rank);
    uint64_t share = shares->rows * shares->cols, begin = slot * share;
    if (begin >= block.count)
        return (ElementRange){block.first + block.count, 0};
    uint64_t left = block.count - begin, length = count * share;
    return (ElementRange){block.first + begin, left < length ? left : length};
}

ElementRange share_owned(const ExpertShares *shares, uint64_t rank)
{
    return shares_from(shares, rank, share_slot(shares, rank), 1);
}

ElementRange share_held_part(const ExpertShares *shares, uint64_t rank, uint64_t count)
{
    uint64_t parts = count > 0 ? count : 1;
    return shares_from(shares, rank, share_slot(shares, rank) / parts * parts, count);
}
