// See decision.h. What was decided follows from the domains of all layers, the reason from the figures of the chosen
// strategy beside those of the best baseline.
#include "backends/decision.h"

#include <math.h>
#include <stdio.h>

#include "ir/plan_facts.h"

static const double MATERIAL = 0.05; // of the baseline's bytes: less saved is no reason
static const double REASON = 0.1;    // of the transfers no longer exposed: ports relieved by less do not explain them
static const double EQUAL = 0.005;   // two iterations as long as each other: the ratio prints as 1.00x

// ---- what ------------------------------------------------------------------------------------

// The domain sizes of one level over all MoE layers.
typedef struct {
    uint32_t smallest, largest; // of the layers that gather at all
    uint32_t gathering, whole;  // how many layers gather here, and how many gather from all workers
} LevelUse;

static LevelUse level_use(const Plan *plan, uint32_t level)
{
    LevelUse use = {.smallest = UINT32_MAX};
    for (uint32_t i = 0; i < plan->choice_count; i++) {
        uint32_t size = plan->choices[i].domain[level];
        if (size < 2)
            continue;
        use.gathering++;
        use.whole += size == plan->cluster.levels[level].count;
        use.smallest = size < use.smallest ? size : use.smallest;
        use.largest = size > use.largest ? size : use.largest;
    }
    return use;
}

typedef enum { USE_NOTHING, USE_EXCHANGE, USE_GATHER, USE_GROUPS } UseKind;

static UseKind use_kind(const Plan *plan, uint32_t level)
{
    LevelUse use = level_use(plan, level);
    if (plan->cluster.levels[level].count < 2 || level < plan->replica_levels)
        return USE_NOTHING;
    if (use.gathering == 0)
        return USE_EXCHANGE;
    return use.whole == plan->choice_count ? USE_GATHER : USE_GROUPS;
}

// "tokens are exchanged across dc and gpu", if there are such levels. Returns whether there were.
static bool append_levels(const Plan *plan, UseKind kind, const char *what, Text *out)
{
    uint32_t count = 0, done = 0;
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        count += use_kind(plan, l) == kind;
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        if (use_kind(plan, l) != kind)
            continue;
        if (done++ == 0)
            text_format(out, "%s across ", what);
        else
            text_append(out, done < count ? ", " : " and ");
        text_append(out, plan->cluster.levels[l].name);
    }
    return count > 0;
}

// "in groups of 2 of the 8 gpu (10 of 12 MoE layers)"
static void append_group(const Plan *plan, uint32_t level, Text *out)
{
    LevelUse use = level_use(plan, level);
    const Level *at = &plan->cluster.levels[level];
    if (use.smallest == at->count)
        text_format(out, "across %s", at->name);
    else if (use.smallest == use.largest)
        text_format(out, "in groups of %u of the %u %s", use.smallest, at->count, at->name);
    else
        text_format(out, "in groups of %u to %u of the %u %s", use.smallest, use.largest, at->count, at->name);
    if (use.gathering < plan->choice_count)
        text_format(out, " (%u of %u MoE layers)", use.gathering, plan->choice_count);
}

// "experts are gathered across dc and in groups of 2 of the 8 gpu": returns whether anything is gathered.
static bool append_gathers(const Plan *plan, Text *out)
{
    bool any = append_levels(plan, USE_GATHER, "experts are gathered", out);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        if (use_kind(plan, l) != USE_GROUPS)
            continue;
        text_append(out, any ? " and " : "experts are gathered ");
        append_group(plan, l, out);
        any = true;
    }
    return any;
}

static void append_what(const Plan *plan, Text *out)
{
    size_t begin = out->length;
    bool exchanges = false;
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        exchanges = exchanges || use_kind(plan, l) == USE_EXCHANGE;
    if (append_gathers(plan, out) && exchanges)
        text_append(out, ", ");
    append_levels(plan, USE_EXCHANGE, "tokens are exchanged", out);
    if (plan->replica_levels)
        text_format(out, "%severy %s %s", out->length > begin ? ", " : "",
                    plan->cluster.levels[plan->replica_levels - 1].name,
                    plan->sync.every > 0 ? "trains apart" : "holds copies of all experts");
    if (out->length == begin)
        text_append(out, "there is one GPU, nothing is sent");
    if (plan->status == STATUS_FORCED)
        text_append(out, ", as the input asks");
    if (out->data[begin] >= 'a' && out->data[begin] <= 'z')
        out->data[begin] = (char)(out->data[begin] - 'a' + 'A');
}

// ---- why -------------------------------------------------------------------------------------

// The level where the choice relieves ports most, in time, against another strategy; level_count if nowhere by so much
// that it explains the gain.
static uint32_t most_relieved(const Plan *plan, const Strategy *other)
{
    uint32_t best = plan->cluster.level_count;
    double most_s = REASON * (other->exposed_s - plan->strategies[0].exposed_s);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        double then = traffic_total(&other->traffic[l]), now = traffic_total(&plan->strategies[0].traffic[l]);
        double saved_s = (then - now) * (double)cluster_gpus_below(&plan->cluster, l) /
                         plan->cluster.levels[l].bandwidth_bytes_per_s;
        if (then - now > MATERIAL * then && saved_s > most_s) {
            most_s = saved_s;
            best = l;
        }
    }
    return best;
}

static void append_gain(const Plan *plan, const Strategy *best, Text *out)
{
    const Strategy *chosen = &plan->strategies[0];
    char now[FORMAT_MAX], then[FORMAT_MAX];
    if (!(chosen->exposed_s < best->exposed_s))
        return;
    uint32_t level = most_relieved(plan, best);
    text_append(out, ", because ");
    if (level < plan->cluster.level_count)
        text_format(out, "a GPU sends %s instead of %s over %s and ",
                    format_bytes(now, traffic_total(&chosen->traffic[level])),
                    format_bytes(then, traffic_total(&best->traffic[level])), plan->cluster.levels[level].name);
    text_format(out, "%s instead of %s of transfers stay exposed", format_time(now, chosen->exposed_s),
                format_time(then, best->exposed_s));
}

// No better than the best baseline: what the way that was not taken costs.
static void append_no_gain(const Plan *plan, Text *out)
{
    const Strategy *gather = plan_find_baseline(plan, "gather");
    char value[FORMAT_MAX], other[FORMAT_MAX];
    if (plan->status == STATUS_FORCED)
        return;
    if (!gather)
        text_append(out,
                    plan->status == STATUS_OPTIMAL ? "; no smaller domain is faster" : "; no faster domain was found");
    else if (!gather->fits)
        text_format(out, "; gathering all experts would need %s of memory per GPU",
                    format_bytes(value, gather->memory_bytes));
    else
        text_format(out, "; gathering all experts would take %s instead of %s", format_time(value, gather->iteration_s),
                    format_time(other, plan->strategies[0].iteration_s));
}

static void append_why(const Plan *plan, Text *out)
{
    const Strategy *best = plan_best_baseline(plan);
    double ratio = plan_speed_up(plan, best);
    if (plan->strategy_count < 2 || cluster_gpus(&plan->cluster) < 2)
        return;
    if (ratio <= 0) {
        text_append(out, ": no form of EP fits the memory of a GPU");
        return;
    }
    if (fabs(ratio - 1) < EQUAL) {
        text_append(out, ": as fast as ");
        plan_append_strategy(plan, best, out);
        text_append(out, ", the best baseline");
        append_no_gain(plan, out);
        return;
    }
    text_format(out, ": %.2fx as fast as ", ratio);
    plan_append_strategy(plan, best, out);
    text_append(out, ", the best baseline");
    append_gain(plan, best, out);
}

static void append_micro_batches(const Plan *plan, Text *out)
{
    char value[FORMAT_MAX], laps[FORMAT_MAX] = "", turns[FORMAT_MAX] = "";
    if (plan->lap > 0)
        snprintf(laps, sizeof(laps), " in laps of %u", plan->lap);
    if (plan->abreast > 0)
        snprintf(turns, sizeof(turns), ", %u at a time in turns", plan->abreast);
    if (plan->micro_batches > 1)
        text_format(out, " An iteration is %u micro-batches%s%s, %s each%s.", plan->micro_batches, laps, turns,
                    format_time(value, plan->iteration_s / plan->micro_batches),
                    plan->recompute ? "; activations are recomputed" : "");
    else if (plan->recompute)
        text_append(out, " Activations are recomputed.");
}

void decision_append(const Plan *plan, Text *out)
{
    if (plan->choice_count == 0)
        return;
    append_what(plan, out);
    append_why(plan, out);
    text_append(out, ".");
    append_micro_batches(plan, out);
}
