// Routing by the host kernels over several levels: rows arrive where their experts are, once where they are
// deduplicated, and what comes back is what computing in place would give.
// builds: dev fast
#include "expected.h"

enum { LEVELS = 3, RANKS_MAX = 12, EXPERTS = 24, HIDDEN = 5, TOKENS = 71, CAPACITY = 3500 };

// A cluster in miniature: routing at every level, outermost first, on domains of one, with the
// exchange done by copying. "Expert e" multiplies by e + 1, so results can be computed directly.
typedef struct {
    Dtype dtype;
    uint32_t counts[LEVELS], ranks, top_k, fanout, per_row;
    struct {
        uint64_t rows_present[LEVELS + 1]; // record rows of each stage
        Tensor rows[LEVELS + 1], records[LEVELS + 1], results[LEVELS + 1];
        Tensor send_rows[LEVELS], send_records[LEVELS], send_counts[LEVELS], origin[LEVELS], returned[LEVELS];
    } rank[RANKS_MAX];
} Mini;

static uint32_t coordinate(const Mini *mini, uint32_t rank, uint32_t level)
{
    for (uint32_t l = LEVELS - 1; l > level; l--)
        rank /= mini->counts[l];
    return rank % mini->counts[level];
}

static uint32_t peer(const Mini *mini, uint32_t rank, uint32_t level, uint32_t member)
{
    uint32_t below = 1;
    for (uint32_t l = LEVELS - 1; l > level; l--)
        below *= mini->counts[l];
    return rank + (member - coordinate(mini, rank, level)) * below;
}

static uint32_t owner(const Mini *mini, uint32_t expert)
{
    return expert / (EXPERTS / mini->ranks);
}

static RouteTable make_table(const Mini *mini, uint32_t rank, uint32_t level, int32_t *members)
{
    for (uint32_t e = 0; e < EXPERTS; e++)
        members[e] = (int32_t)coordinate(mini, owner(mini, e), level);
    return (RouteTable){.member_of_expert = members,
                        .experts = EXPERTS,
                        .members = mini->counts[level],
                        .own = coordinate(mini, rank, level)};
}

static void mini_begin(Mini *mini)
{
    bool naive = mini->fanout > 1 || mini->top_k == 1;
    mini->per_row = naive ? 1 : mini->top_k;
    for (uint32_t r = 0; r < mini->ranks; r++) {
        Tensor rows = make_random(mini->dtype, TOKENS, HIDDEN, 1), records = make(DTYPE_I32, TOKENS, 2 * mini->top_k);
        for (uint64_t i = 0; i < TOKENS * mini->top_k; i++) { // token 3: everything dropped; most on expert 0
            int32_t expert = (int32_t)(random_unit() * EXPERTS);
            expert = random_unit() < 0.3 ? 0 : expert;
            ((Record *)records.data)[i] = (Record){i / mini->top_k == 3 ? -1 : expert, (float)random_unit()};
        }
        if (naive)
            records.rows *= mini->top_k, records.cols = 2;
        mini->rank[r].rows[0] = rows;
        mini->rank[r].records[0] = records;
        mini->rank[r].rows_present[0] = records.rows;
    }
}

static uint32_t stage_fanout(const Mini *mini, uint32_t level)
{
    return level == 0 ? mini->fanout : 1;
}

static void mini_route(Mini *mini, uint32_t level)
{
    int32_t members[EXPERTS];
    for (uint32_t r = 0; r < mini->ranks; r++) {
        Tensor *next_rows = &mini->rank[r].rows[level + 1], *next_records = &mini->rank[r].records[level + 1];
        *next_rows = make(mini->dtype, CAPACITY, HIDDEN);
        *next_records = make(DTYPE_I32, CAPACITY, 2 * mini->per_row);
        mini->rank[r].send_rows[level] = make(mini->dtype, CAPACITY, HIDDEN);
        mini->rank[r].send_records[level] = make(DTYPE_I32, CAPACITY, 2 * mini->per_row);
        mini->rank[r].send_counts[level] = make(DTYPE_I32, mini->counts[level], 1);
        mini->rank[r].origin[level] = make(DTYPE_I32, CAPACITY, 1);
        RouteTable table = make_table(mini, r, level, members);
        cr_assert_eq(host_route(&table, mini->rank[r].rows_present[level], stage_fanout(mini, level),
                                mini->rank[r].rows[level], mini->rank[r].records[level], *next_rows, *next_records,
                                mini->rank[r].send_rows[level], mini->rank[r].send_records[level],
                                mini->rank[r].send_counts[level], mini->rank[r].origin[level]),
                     0);
        mini->rank[r].rows_present[level + 1] = (uint64_t)((int32_t *)mini->rank[r].send_counts[level].data)[table.own];
    }
}

static void copy_rows(Tensor from, uint64_t from_row, Tensor to, uint64_t to_row, uint64_t count)
{
    uint64_t bytes = from.cols * dtype_bytes(from.dtype);
    cr_assert(from_row + count <= from.rows && to_row + count <= to.rows);
    memcpy((char *)to.data + to_row * bytes, (const char *)from.data + from_row * bytes, count * bytes);
}

// Where in `rank`'s send buffer the rows for `member` begin.
static uint64_t send_begin(const Mini *mini, uint32_t rank, uint32_t level, uint32_t member)
{
    const int32_t *counts = mini->rank[rank].send_counts[level].data;
    uint64_t begin = 0;
    for (uint32_t m = 0; m < member; m++)
        begin += m == coordinate(mini, rank, level) ? 0 : (uint64_t)counts[m];
    return begin;
}

static uint64_t sent(const Mini *mini, uint32_t rank, uint32_t level, uint32_t member)
{
    return (uint64_t)((int32_t *)mini->rank[rank].send_counts[level].data)[member];
}

// Dispatch, or with `back` combine: rows to the other members, or results back to them.
static void mini_exchange(Mini *mini, uint32_t level, bool back)
{
    for (uint32_t r = 0; r < mini->ranks; r++) {
        uint32_t own = coordinate(mini, r, level);
        uint64_t place = sent(mini, r, level, own);
        for (uint32_t m = 0; m < mini->counts[level]; m++) {
            uint32_t other = peer(mini, r, level, m);
            if (m == own)
                continue;
            uint64_t count = sent(mini, other, level, own), begin = send_begin(mini, other, level, own);
            if (back) {
                copy_rows(mini->rank[r].results[level + 1], place, mini->rank[other].returned[level], begin, count);
            } else {
                copy_rows(mini->rank[other].send_rows[level], begin, mini->rank[r].rows[level + 1], place, count);
                copy_rows(mini->rank[other].send_records[level], begin, mini->rank[r].records[level + 1], place, count);
            }
            place += count;
        }
        if (!back)
            mini->rank[r].rows_present[level + 1] = place;
    }
}

// The experts of every rank, on the rows of the last stage. Every record must be at its owner.
static void mini_experts(Mini *mini)
{
    for (uint32_t r = 0; r < mini->ranks; r++) {
        Tensor results = mini->rank[r].results[LEVELS] = make(mini->dtype, CAPACITY, HIDDEN);
        for (uint64_t row = 0; row < mini->rank[r].rows_present[LEVELS]; row++) {
            double factor = 0;
            bool any = false;
            for (uint32_t j = 0; j < mini->per_row; j++) {
                const Record *chosen = record(mini->rank[r].records[LEVELS], row * mini->per_row + j);
                any = any || chosen->expert >= 0;
                cr_assert(chosen->expert < 0 || owner(mini, (uint32_t)chosen->expert) == r);
                factor += chosen->expert < 0 ? 0 : (double)chosen->weight * (chosen->expert + 1);
            }
            cr_assert(any, "a row came without a record");
            for (uint64_t i = 0; i < HIDDEN; i++) {
                float value = (float)(factor * at(mini->rank[r].rows[LEVELS], row * HIDDEN + i));
                host_from_f32(&value, (char *)results.data + (row * HIDDEN + i) * dtype_bytes(mini->dtype), mini->dtype,
                              1);
            }
        }
    }
}

static void mini_unroute(Mini *mini, uint32_t level)
{
    ModelDims dims = {.dtype = mini->dtype, .hidden = HIDDEN};
    int32_t members[EXPERTS];
    for (uint32_t r = 0; r < mini->ranks; r++)
        mini->rank[r].returned[level] = make(mini->dtype, CAPACITY, HIDDEN);
    mini_exchange(mini, level, true);
    for (uint32_t r = 0; r < mini->ranks; r++) {
        uint64_t capacity = level == 0 ? TOKENS : CAPACITY;
        mini->rank[r].results[level] = make(mini->dtype, capacity, HIDDEN);
        RouteTable table = make_table(mini, r, level, members);
        host_unroute(&table, mini->rank[r].rows_present[level], stage_fanout(mini, level),
                     mini->rank[r].results[level + 1], mini->rank[r].returned[level], mini->rank[r].send_counts[level],
                     mini->rank[r].origin[level], mini->rank[r].results[level],
                     make_work(&dims, OP_UNROUTE, capacity, mini->per_row, 1));
    }
}

static void mini_check(const Mini *mini)
{
    for (uint32_t r = 0; r < mini->ranks; r++) {
        double want[TOKENS * HIDDEN] = {0};
        for (uint64_t i = 0; i < TOKENS * mini->top_k; i++) {
            const Record *chosen = record(mini->rank[r].records[0], i);
            for (uint64_t h = 0; h < HIDDEN && chosen->expert >= 0; h++)
                want[i / mini->top_k * HIDDEN + h] += (double)chosen->weight * (chosen->expert + 1) *
                                                      at(mini->rank[r].rows[0], i / mini->top_k * HIDDEN + h);
        }
        expect_close(mini->rank[r].results[0], want, TOKENS * HIDDEN, "route and back");
    }
}

// Rows that left `rank` at `level`.
static uint64_t mini_sent(const Mini *mini, uint32_t rank, uint32_t level)
{
    uint64_t total = 0;
    for (uint32_t m = 0; m < mini->counts[level]; m++)
        total += m == coordinate(mini, rank, level) ? 0 : sent(mini, rank, level, m);
    return total;
}

static uint64_t mini_run(Dtype dtype, const uint32_t counts[LEVELS], uint32_t top_k, bool naive)
{
    Mini *mini = calloc(1, sizeof(*mini));
    *mini =
        (Mini){.dtype = dtype, .ranks = counts[0] * counts[1] * counts[2], .top_k = top_k, .fanout = naive ? top_k : 1};
    memcpy(mini->counts, counts, sizeof(mini->counts));
    random_state = 7;
    mini_begin(mini);
    for (uint32_t level = 0; level < LEVELS; level++) {
        mini_route(mini, level);
        mini_exchange(mini, level, false);
    }
    mini_experts(mini);
    for (uint32_t level = LEVELS; level-- > 0;)
        mini_unroute(mini, level);
    mini_check(mini);
    uint64_t total = mini_sent(mini, 0, 0);
    free(mini);
    finish();
    return total;
}

Test(kernels_route, routing_over_levels_equals_direct_computation)
{
    const uint32_t clusters[][LEVELS] = {{1, 1, 4}, {2, 1, 3}, {2, 3, 2}, {1, 1, 1}};
    for (size_t c = 0; c < COUNT_OF(clusters); c++) {
        for (uint32_t top_k = 1; top_k <= 4; top_k *= 2) {
            for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
                uint64_t naive = mini_run(dtypes[d], clusters[c], top_k, true);
                uint64_t dedup = mini_run(dtypes[d], clusters[c], top_k, false);
                cr_assert(dedup <= naive && (top_k < 4 || clusters[c][0] == 1 || dedup < naive));
            }
        }
    }
}

Test(kernels_route, deduplicated_rows_go_to_each_member_once)
{
    const int32_t members[] = {0, 0, 1, 1, 2, 2};
    RouteTable table = {.member_of_expert = members, .experts = 6, .members = 3, .own = 1};
    Tensor rows = make_random(DTYPE_BF16, 3, 2, 1), records = make(DTYPE_I32, 3, 6);
    const Record chosen[] = {{0, 1}, {2, 2}, {1, 3}, {-1, 0}, {-1, 0}, {-1, 0}, {4, 4}, {-1, 0}, {3, 5}};
    memcpy(records.data, chosen, sizeof(chosen));
    Tensor next_rows = make(DTYPE_BF16, 2, 2), next_records = make(DTYPE_I32, 2, 6), send_rows = make(DTYPE_BF16, 2, 2);
    Tensor send_records = make(DTYPE_I32, 2, 6), counts = make(DTYPE_I32, 3, 1), origin = make(DTYPE_I32, 4, 1);
    cr_assert_eq(
        host_route(&table, 3, 1, rows, records, next_rows, next_records, send_rows, send_records, counts, origin), 0);
    const int32_t want_counts[] = {1, 2, 1}, want_origin[] = {0, 2, 0, 2};
    const Record want_next[] = {{-1, 0}, {2, 2}, {-1, 0}, {-1, 0}, {-1, 0}, {3, 5}};
    const Record want_send[] = {{0, 1}, {-1, 0}, {1, 3}, {4, 4}, {-1, 0}, {-1, 0}}; // records keep their places
    cr_assert_arr_eq(counts.data, want_counts, sizeof(want_counts));
    cr_assert_arr_eq(origin.data, want_origin, sizeof(want_origin));
    cr_assert_arr_eq(next_records.data, want_next, sizeof(want_next));
    cr_assert_arr_eq(send_records.data, want_send, sizeof(want_send));
    for (uint64_t i = 0; i < 4; i++) {
        cr_assert_eq(at(next_rows, i), at(rows, i / 2 * 4 + i % 2));
        cr_assert_eq(at(send_rows, i), at(rows, i / 2 * 4 + i % 2));
    }
    finish();
}

Test(kernels_route, rows_that_do_not_fit_are_counted_and_not_written)
{
    const int32_t members[] = {0, 1};
    RouteTable table = {.member_of_expert = members, .experts = 2, .members = 2, .own = 0};
    Tensor rows = make_random(DTYPE_F32, 10, 3, 1), records = make(DTYPE_I32, 10, 2);
    for (int32_t i = 0; i < 10; i++)
        ((Record *)records.data)[i] = (Record){i < 6, 1};
    Tensor next_rows = make(DTYPE_F32, 1, 3), next_records = make(DTYPE_I32, 1, 2), send_rows = make(DTYPE_F32, 4, 3);
    Tensor send_records = make(DTYPE_I32, 4, 2), counts = make(DTYPE_I32, 2, 1), origin = make(DTYPE_I32, 7, 1);
    cr_assert_eq(
        host_route(&table, 10, 1, rows, records, next_rows, next_records, send_rows, send_records, counts, origin),
        3 + 3); // of 4 own rows 1 fits; of 6 others 4, but `origin` ends after 4 own and 3 others
    cr_assert_eq(((int32_t *)counts.data)[0], 4);
    cr_assert_eq(((int32_t *)counts.data)[1], 6);
    finish();
}
