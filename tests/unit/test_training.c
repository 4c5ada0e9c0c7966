// What a run makes of a plan's settings: the learning rate over the iterations, the scale of a clipped gradient, and
// the sum of squares that it follows from.
#include <criterion/criterion.h>
#include <math.h>

#include "runtime/engine/engine_common.h"
#include "runtime/training/training.h"
#include "tensors.h"

static double rate(TrainingSettings settings, uint64_t iteration)
{
    return training_rate(&settings, iteration);
}

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-12 * fmax(1, fabs(b));
}

Test(training, the_rate_rises_in_a_line_and_falls_as_a_cosine)
{
    TrainingSettings settings = {.learning_rate = 0.5, .warmup = 4, .decay = 10, .final_rate = 0.2};
    for (uint64_t i = 0; i < 4; i++)
        cr_expect(near(rate(settings, i), 0.5 * (double)(i + 1) / 4));
    cr_expect(near(rate(settings, 4), 0.5));
    cr_expect(near(rate(settings, 9), 0.3), "half way between 0.5 and 0.1: %g", rate(settings, 9));
    cr_expect(near(rate(settings, 14), 0.1));
    cr_expect(near(rate(settings, 1000000), 0.1));
    for (uint64_t i = 4; i < 14; i++)
        cr_expect_lt(rate(settings, i + 1), rate(settings, i));
}

Test(training, without_warmup_and_decay_the_rate_stays)
{
    TrainingSettings settings = {.learning_rate = 0.25, .final_rate = 0.1};
    cr_expect_eq(rate(settings, 0), 0.25);
    cr_expect_eq(rate(settings, 12345), 0.25);
}

Test(training, gradients_shrink_to_the_limit_and_no_further)
{
    TrainingSettings settings = {.clip = 2};
    // Sums over 4 ranks with norm 40: the mean's norm is 10, five times the limit.
    cr_expect(near(engine_gradient_scale(&settings, 4, 1600), 0.25 / 5));
    cr_expect(near(engine_gradient_scale(&settings, 4, 60), 0.25));
    settings.clip = 0;
    cr_expect(near(engine_gradient_scale(&settings, 4, 1600), 0.25));
}

Test(training, squares_of_all_dtypes_add_up)
{
    float values[1001], before = 3, sum;
    uint8_t stored[sizeof(values)];
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        double expected = 3;
        for (size_t i = 0; i < COUNT_OF(values); i++) {
            values[i] = (float)((int)(i % 17) - 8) / 4; // exact in all dtypes
            expected += (double)values[i] * (double)values[i];
        }
        host_from_f32(values, stored, dtypes[d], COUNT_OF(values));
        Tensor gradient = {stored, dtypes[d], 7, 143}, none = {0};
        Tensor first = {&before, DTYPE_F32, 1, 1}, squares = {&sum, DTYPE_F32, 1, 1};
        host_squares(gradient, first, squares);
        cr_expect(near((double)sum, (double)(float)expected), "%s: %g, not %g", dtype_name(dtypes[d]), (double)sum,
                  expected);
        host_squares(gradient, none, squares);
        cr_expect(near((double)sum, (double)(float)(expected - 3)));
    }
}
