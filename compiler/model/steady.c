// See steady.h. A layer's pass is linear over maximum and plus: every part of the clock becomes the latest of parts
// before plus constants. Let two layers in a row advance every part by the same, and a layer much further on by as much
// again, if all did so in between. Then all did: what loses to the latest at both ends, growing evenly, loses in
// between, and what was the latest twice would exceed it at the end, did it not remain equal to it.
#include "compiler/model/steady.h"

#include <math.h>

enum { FIRST_TRY = 16, LEAP_LEAST = 16 }; // layers

static const double SAME = 4e-15; // of a time: what rounding may change

typedef struct {
    double at_s[CLOCK_SIZE]; // by how much every part of the clock advances
    IterationCost spent;
} Advance;

void steady_add_spent(IterationCost *out, const IterationCost *spent, double times)
{
    out->pre_expert_s += times * spent->pre_expert_s;
    out->exchange_s += times * spent->exchange_s;
    out->expert_s += times * spent->expert_s;
    out->gather_wait_s += times * spent->gather_wait_s;
    out->other_s += times * spent->other_s;
    out->return_s += times * spent->return_s;
}

// One layer. A part that was never set stays so.
static Advance advance(PassLayer pass, const Workload *work, const ClockedLayer *of, Clock *clock)
{
    Clock before = *clock;
    Advance advance = {0};
    pass(work, of, clock, &advance.spent);
    for (int i = 0; i < CLOCK_SIZE; i++)
        if (clock->at_s[i] != before.at_s[i])
            advance.at_s[i] = clock->at_s[i] - before.at_s[i];
    return advance;
}

static bool are_same(const Advance *a, const Advance *b, const Clock *now)
{
    double slack = SAME * now->at_s[CLOCK_CHAIN];
    bool same = fabs(a->spent.pre_expert_s - b->spent.pre_expert_s) <= slack &&
                fabs(a->spent.exchange_s - b->spent.exchange_s) <= slack &&
                fabs(a->spent.expert_s - b->spent.expert_s) <= slack &&
                fabs(a->spent.gather_wait_s - b->spent.gather_wait_s) <= slack &&
                fabs(a->spent.other_s - b->spent.other_s) <= slack &&
                fabs(a->spent.return_s - b->spent.return_s) <= slack;
    for (int i = 0; i < CLOCK_SIZE && same; i++)
        same = isfinite(a->at_s[i]) && fabs(a->at_s[i] - b->at_s[i]) <= slack;
    return same;
}

// Two layers, and, if their clocks advance evenly up to the last one, all that remain. Returns how many were passed.
static uint32_t pass_two_or_all(PassLayer pass, const Workload *work, const ClockedLayer *of, uint32_t remain,
                                Clock *clock, IterationCost *out)
{
    Advance first = advance(pass, work, of, clock), second = advance(pass, work, of, clock);
    steady_add_spent(out, &first.spent, 1);
    steady_add_spent(out, &second.spent, 1);
    if (!are_same(&first, &second, clock))
        return 2;
    uint32_t between = remain - 3;
    Clock far = *clock;
    for (int i = 0; i < CLOCK_SIZE; i++)
        far.at_s[i] += between * second.at_s[i];
    Advance last = advance(pass, work, of, &far);
    if (!are_same(&second, &last, &far))
        return 2;
    *clock = far;
    steady_add_spent(out, &second.spent, between);
    steady_add_spent(out, &last.spent, 1);
    return remain;
}

void steady_pass(PassLayer pass, const Workload *work, const ClockedLayer *of, uint32_t count, Clock *clock,
                 IterationCost *out)
{
    uint32_t done = 0, next_try = FIRST_TRY;
    while (done < count) {
        if (done < next_try || count - done < LEAP_LEAST) {
            pass(work, of, clock, out);
            done++;
            continue;
        }
        next_try = 2 * done;
        done += pass_two_or_all(pass, work, of, count - done, clock, out);
    }
}
