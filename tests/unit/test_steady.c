// Layers alike in the time of a few, against the same layers one by one: layers that are maximum-plus maps drawn at
// random, whose parts advance unevenly at first, and at times overtake each other late.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "compiler/model/steady.h"

enum { PARTS = 6, LAYERS = 5000 };

static struct {
    double plus_s[PARTS][PARTS]; // [to][from]; -INFINITY: no way
    uint32_t passes;
} layer;

static double pick(double low, double high)
{
    return low + (high - low) * rand() / RAND_MAX;
}

// What the first part waits for the others is a wait.
static void pass(const Workload *work, const ClockedLayer *of, Clock *clock, IterationCost *out)
{
    (void)work;
    (void)of;
    layer.passes++;
    Clock before = *clock;
    for (int to = 0; to < PARTS; to++) {
        clock->at_s[to] = -INFINITY;
        for (int from = 0; from < PARTS; from++)
            clock->at_s[to] = fmax(clock->at_s[to], before.at_s[from] + layer.plus_s[to][from]);
    }
    double own_s = before.at_s[0] + layer.plus_s[0][0];
    out->expert_s += layer.plus_s[0][0];
    out->gather_wait_s += clock->at_s[0] - own_s;
}

// Every part keeps a time of its own, and takes that of some others; parts from the third on may be behind by far.
static Clock draw_layer(void)
{
    Clock clock = {0};
    for (int to = 0; to < PARTS; to++)
        for (int from = 0; from < PARTS; from++)
            layer.plus_s[to][from] = to == from ? pick(0.5, 1) : rand() % 3 ? -INFINITY : pick(-1, 1);
    for (int i = 0; i < PARTS; i++)
        clock.at_s[i] = i < 2 ? pick(0, 1) : rand() % 4 ? pick(-500, 1) : -INFINITY;
    layer.passes = 0;
    return clock;
}

static void near(double found, double expected, const char *what)
{
    cr_assert(found == expected || fabs(found - expected) <= 1e-10 * LAYERS, "%s: %.17g, not %.17g", what, found,
              expected);
}

Test(steady, many_layers_at_once_are_the_same_as_one_by_one)
{
    srand(11);
    uint32_t leaps = 0;
    for (int i = 0; i < 400; i++) {
        Clock clock = draw_layer(), plain = clock;
        IterationCost spent = {0}, plain_spent = {0};
        uint32_t count = 1 + (uint32_t)rand() % LAYERS;
        steady_pass(pass, NULL, NULL, count, &clock, &spent);
        cr_assert(layer.passes <= count + 40, "%u passes of %u layers", layer.passes, count);
        leaps += layer.passes < count / 2;
        for (uint32_t k = 0; k < count; k++)
            pass(NULL, NULL, &plain, &plain_spent);
        for (int part = 0; part < CLOCK_SIZE; part++)
            near(clock.at_s[part], plain.at_s[part], "clock");
        near(spent.expert_s, plain_spent.expert_s, "experts");
        near(spent.gather_wait_s, plain_spent.gather_wait_s, "waits");
        cr_assert_eq(spent.exchange_s, 0);
    }
    cr_assert(leaps > 300, "%u leaps", leaps);
}

// A port that begins far behind and is slower by a thousandth of a layer comes to be waited for at a layer in between:
// to go on as the first layers went would be wrong.
Test(steady, what_overtakes_later_is_not_passed_over)
{
    for (int from = 0; from < PARTS; from++)
        for (int to = 0; to < PARTS; to++)
            layer.plus_s[to][from] = to != from ? -INFINITY : to == 1 ? 1.001 : 1;
    layer.plus_s[0][1] = 1;
    for (int behind = 1; behind < 6; behind++) {
        Clock clock = {0};
        IterationCost spent = {0};
        clock.at_s[1] = -behind;
        steady_pass(pass, NULL, NULL, LAYERS, &clock, &spent);
        // After n layers the port is at 1.001 n - behind, the chain at n until it takes the port's time of a layer
        // before.
        double chain_s = fmax(LAYERS, 1.001 * (LAYERS - 1) - behind + 1);
        cr_assert(fabs(clock.at_s[0] - chain_s) < 1e-8, "%d behind: %.12g, not %.12g", behind, clock.at_s[0], chain_s);
        cr_assert(fabs(spent.gather_wait_s - (chain_s - LAYERS)) < 1e-8);
    }
}

Test(steady, few_layers_are_passed_one_by_one)
{
    for (uint32_t count = 0; count < 40; count++) {
        Clock clock = draw_layer();
        IterationCost spent = {0};
        steady_pass(pass, NULL, NULL, count, &clock, &spent);
        cr_assert(layer.passes <= count + 1, "%u passes of %u layers", layer.passes, count); // one to see the end
        cr_assert(count > 16 || layer.passes == count);
    }
}
