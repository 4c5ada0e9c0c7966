// What of migration counts as exposed: computation waited for gathered experts when it had all else.
#include <criterion/criterion.h>
#include <math.h>

#include "plans.h"
#include "runtime/job/exposure.h"

// Of the hand-made plan's expert step, when its gather ends at `gathered_s` and its rows are there at `rows_s`.
static double exposed(double gathered_s, double rows_s)
{
    Plan *plan = plan_of_four_ranks();
    StepTime times[PLAN_STEPS] = {0};
    double waited_s[PLAN_STEPS] = {0}, others = 0;
    times[PLAN_GATHER].end_s = gathered_s;
    times[PLAN_DISPATCH].end_s = rows_s;
    times[PLAN_ROUTE].end_s = 1;
    exposure_add(plan, times, waited_s);
    exposure_add(plan, times, waited_s); // a second iteration adds up
    for (uint32_t s = 0; s < PLAN_STEPS; s++)
        others += s == PLAN_EXPERT ? 0 : waited_s[s];
    cr_expect_eq(others, 0);
    double own = waited_s[PLAN_EXPERT];
    plan_destroy(plan);
    return own;
}

Test(exposure, only_what_nothing_else_hides)
{
    cr_expect_eq(exposed(5, 3), 4, "two iterations of 2 s each, got %g", exposed(5, 3));
    cr_expect_eq(exposed(3, 5), 0, "the rows came later");
    cr_expect_eq(exposed(0.5, 0.7), 0, "the step before ended later");
    cr_expect_eq(exposed(2.5, 0.5), 3, "the step before ended at 1, got %g", exposed(2.5, 0.5));
}
