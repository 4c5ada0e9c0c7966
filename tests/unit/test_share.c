// Shares of experts, by brute force: shares are filled with the numbers of their elements and really gathered and
// returned, for every valid choice of domain sizes of clusters where experts and GPUs do not fit each other.
// builds: dev  seconds: 2
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "ir/share.h"

static const uint32_t PADDING = UINT32_MAX;

typedef struct {
    uint32_t levels, counts[3];
    uint64_t experts;
    uint32_t valid; // choices of domain sizes that make a number of places that divides the experts
} Case;

// The counts of valid choices are those of an independent enumeration (a few lines of Python).
static const Case cases[] = {
    {1, {8}, 60, 3},        {2, {8, 8}, 160, 15}, {3, {4, 8, 8}, 8, 19}, {2, {18, 8}, 256, 8},
    {3, {4, 3, 2}, 12, 10}, {1, {4}, 3, 1},       {1, {6}, 5, 1},        {2, {2, 2}, 8, 4},
};

static Cluster cluster_of(const Case *c)
{
    Cluster cluster = {.level_count = c->levels};
    for (uint32_t l = 0; l < c->levels; l++)
        cluster.levels[l].count = c->counts[l];
    return cluster;
}

// What every rank has: `length` numbers of elements.
typedef struct {
    const Cluster *cluster;
    uint64_t ranks, length;
    uint32_t **now;
} Hands;

static Hands deal(const Cluster *cluster, const ExpertShares *shares)
{
    Hands hands = {.cluster = cluster, .ranks = cluster_gpus(cluster), .length = shares->rows * shares->cols};
    hands.now = calloc(hands.ranks, sizeof(*hands.now));
    for (uint64_t rank = 0; rank < hands.ranks; rank++) {
        ElementRange own = share_owned(shares, rank);
        hands.now[rank] = calloc(hands.length, sizeof(**hands.now));
        for (uint64_t i = 0; i < hands.length; i++)
            hands.now[rank][i] = i < own.count ? (uint32_t)(own.first + i) : PADDING;
    }
    return hands;
}

static void hands_free(Hands *hands)
{
    for (uint64_t rank = 0; rank < hands->ranks; rank++)
        free(hands->now[rank]);
    free(hands->now);
}

// Member 0's part first.
static void gather(Hands *hands, uint32_t level, uint32_t domain)
{
    Group group = {GROUP_GATHER, (int32_t)level, domain};
    uint32_t **next = calloc(hands->ranks, sizeof(*next));
    for (uint64_t rank = 0; rank < hands->ranks; rank++) {
        next[rank] = calloc(hands->length * domain, sizeof(**next));
        for (uint64_t m = 0; m < domain; m++)
            memcpy(next[rank] + m * hands->length, hands->now[group_member_rank(hands->cluster, &group, rank, m)],
                   hands->length * sizeof(**next));
    }
    hands_free(hands);
    hands->now = next;
    hands->length *= domain;
}

// Each keeps of its run the part of its own index in the group.
static void scatter(Hands *hands, uint32_t level, uint32_t domain)
{
    Group group = {GROUP_GATHER, (int32_t)level, domain};
    hands->length /= domain;
    for (uint64_t rank = 0; rank < hands->ranks; rank++)
        memmove(hands->now[rank], hands->now[rank] + group_index(hands->cluster, &group, rank) * hands->length,
                hands->length * sizeof(**hands->now));
}

// The block of the place, then padding alone.
static void expect_blocks(const Hands *hands, const ExpertShares *shares)
{
    for (uint64_t rank = 0; rank < hands->ranks; rank++) {
        ElementRange held = share_held(shares, rank);
        cr_assert_eq(held.first, share_place(shares, rank) * shares->block_experts * shares->expert_elements);
        cr_assert_eq(held.count, shares->block_experts * shares->expert_elements);
        cr_assert_geq(hands->length, held.count);
        for (uint64_t i = 0; i < hands->length; i++)
            cr_assert_eq(hands->now[rank][i], i < held.count ? (uint32_t)(held.first + i) : PADDING);
    }
}

static void expect_owners(const Hands *hands, const ExpertShares *shares)
{
    uint64_t total = shares->places * shares->block_experts * shares->expert_elements;
    uint8_t *owners = calloc(total, 1);
    for (uint64_t rank = 0; rank < hands->ranks; rank++) {
        for (uint64_t i = 0; i < hands->length; i++) {
            uint32_t element = hands->now[rank][i];
            cr_assert(element == PADDING || element < total);
            if (element != PADDING)
                owners[element]++;
        }
    }
    for (uint64_t element = 0; element < total; element++)
        cr_assert_eq(owners[element], 1, "element %lu has %d owners", element, owners[element]);
    free(owners);
}

// A row that goes to the named member level by level ends where its expert is held.
static void expect_ways(const Cluster *cluster, const ExpertShares *shares, uint64_t experts)
{
    for (uint64_t expert = 0; expert < experts; expert++) {
        uint64_t rank = cluster_gpus(cluster) - 1;
        for (uint32_t l = 0; l < cluster->level_count; l++) {
            Group group = {GROUP_EXCHANGE, (int32_t)l, shares->domain[l]};
            rank = group_member_rank(cluster, &group, rank, share_member(shares, expert, l));
        }
        ElementRange held = share_held(shares, rank);
        uint64_t first = expert * shares->expert_elements;
        cr_assert(first >= held.first && first + shares->expert_elements <= held.first + held.count);
    }
}

static void check_domain(const Case *c, const uint32_t domain[LEVELS_MAX], uint64_t elements)
{
    Cluster cluster = cluster_of(c);
    ExpertShares shares = expert_shares(&cluster, 0, domain, c->experts, elements);
    Hands hands = deal(&cluster, &shares);
    expect_owners(&hands, &shares);
    for (uint32_t l = 0; l < c->levels; l++)
        gather(&hands, l, domain[l]);
    expect_blocks(&hands, &shares);
    for (uint32_t l = c->levels; l-- > 0;)
        scatter(&hands, l, domain[l]);
    expect_owners(&hands, &shares);
    for (uint64_t rank = 0; rank < hands.ranks; rank++)
        if (share_owned(&shares, rank).count > 0)
            cr_assert_eq(hands.now[rank][0], share_owned(&shares, rank).first);
    hands_free(&hands);
    expect_ways(&cluster, &shares, c->experts);
}

// Calls `check` for every choice of divisors whose places divide the experts; returns how many there are.
static uint32_t each_domain(const Case *c, uint64_t elements)
{
    Cluster cluster = cluster_of(c);
    uint32_t found = 0;
    for (uint32_t a = 1; a <= c->counts[0]; a++)
        for (uint32_t b = 1; b <= (c->levels > 1 ? c->counts[1] : 1); b++)
            for (uint32_t d = 1; d <= (c->levels > 2 ? c->counts[2] : 1); d++) {
                const uint32_t domain[LEVELS_MAX] = {a, b, d};
                bool divides = c->counts[0] % a == 0 && (c->levels < 2 || c->counts[1] % b == 0) &&
                               (c->levels < 3 || c->counts[2] % d == 0);
                if (!divides || c->experts % share_places(&cluster, domain) != 0)
                    continue;
                check_domain(c, domain, elements);
                found++;
            }
    return found;
}

Test(share, every_element_has_one_owner_and_blocks_are_whole)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        for (uint64_t elements = 5; elements <= 29; elements += 12)
            cr_assert_eq(each_domain(&cases[i], elements), cases[i].valid, "case %zu", i);
}

static void expect_shape(const Case *c, uint32_t kept, uint64_t elements, uint64_t rows, uint64_t cols)
{
    Cluster cluster = cluster_of(c);
    uint64_t found_rows, found_cols;
    share_shape(&cluster, kept, c->experts, elements, &found_rows, &found_cols);
    cr_assert_eq(found_rows, rows);
    cr_assert_eq(found_cols, cols);
}

// Worked out by hand.
Test(share, shapes)
{
    expect_shape(&(Case){1, {4}, 3, 0}, 0, 100, 1, 80);    // 75 elements, rounded up
    expect_shape(&(Case){1, {6}, 5, 0}, 0, 96, 1, 80);     // exactly 80
    expect_shape(&(Case){1, {8}, 60, 0}, 0, 10, 1, 80);    // 75: 7 experts and a half
    expect_shape(&(Case){2, {2, 4}, 16, 0}, 0, 11, 2, 11); // whole experts are not padded
    expect_shape(&(Case){2, {2, 4}, 4, 0}, 0, 64, 1, 32);  // half an expert
    expect_shape(&(Case){2, {2, 4}, 4, 0}, 1, 64, 1, 64);  // an expert, where level 0 shares nothing
}

// 5 experts of 8 elements on 6 GPUs: one place, shares of 8 elements, the last of padding alone.
Test(share, padding_is_at_the_end_of_a_block)
{
    Cluster cluster = cluster_of(&(Case){1, {6}, 5, 0});
    ExpertShares shares = expert_shares(&cluster, 0, (const uint32_t[LEVELS_MAX]){6}, 5, 8);
    cr_assert_eq(shares.cols, 8); // 40 / 6 = 6.67
    cr_assert_eq(share_owned(&shares, 4).first, 32);
    cr_assert_eq(share_owned(&shares, 4).count, 8);
    cr_assert_eq(share_owned(&shares, 5).count, 0);
}
