// Routing in reverse against the forward copies, of which it is the adjoint; AdamW against its formula.
// builds: dev fast
#include <math.h>

#include "tensors.h"

static double tolerance(Dtype dtype) // of a value near 1 that was rounded once, or twice
{
    return dtype == DTYPE_F16 ? 1e-3 : 8e-3;
}

static Record *records_of(Tensor records)
{
    return records.data;
}

// ---- routing ---------------------------------------------------------------------------------------

typedef struct {
    uint32_t hidden, records, fanout, members, own;
    uint64_t rows, spare;
    bool no_padding; // of record rows
} RouteCase;

enum { ROUTED_EXPERTS = 12 };

typedef struct {
    RouteTable table;
    uint64_t present, own_count, sent;
    Tensor rows, records, next_rows, next_records, send_rows, send_records, counts, origin;
} Routed;

static Routed run_route(const RouteCase *c, const int32_t *member_of_expert)
{
    uint64_t capacity = c->rows + c->spare, all = capacity * c->fanout * c->records;
    Routed r = {.table = {member_of_expert, ROUTED_EXPERTS, c->members, c->own}, .present = c->rows * c->fanout};
    r.rows = make_random(DTYPE_F32, capacity, c->hidden, 1);
    r.records = make(DTYPE_I32, capacity * c->fanout, 2 * c->records);
    for (uint64_t i = 0; i < r.present * c->records; i++) {
        double padding = c->no_padding ? 0 : 0.3;
        int32_t expert = random_unit() < padding ? -1 : (int32_t)(random_unit() * ROUTED_EXPERTS);
        records_of(r.records)[i] = (Record){expert, expert < 0 ? 0 : (float)random_unit()};
    }
    r.next_rows = make(DTYPE_F32, all, c->hidden);
    r.send_rows = make(DTYPE_F32, all, c->hidden);
    r.next_records = make(DTYPE_I32, all, 2 * c->records);
    r.send_records = make(DTYPE_I32, all, 2 * c->records);
    r.counts = make(DTYPE_I32, c->members, 1);
    r.origin = make(DTYPE_I32, 2 * all, 1);
    uint64_t lost = host_route(&r.table, r.present, c->fanout, r.rows, r.records, r.next_rows, r.next_records,
                               r.send_rows, r.send_records, r.counts, r.origin);
    cr_assert_eq(lost, 0);
    for (uint32_t m = 0; m < c->members; m++)
        *(m == c->own ? &r.own_count : &r.sent) += (uint64_t)((int32_t *)r.counts.data)[m];
    return r;
}

static double product(Tensor a, Tensor b, uint64_t rows)
{
    double sum = 0;
    for (uint64_t i = 0; i < rows * a.cols; i++)
        sum += at(a, i) * at(b, i);
    return sum;
}

// Sum over some records rows of weight x gradient; padding must have neither.
static double record_product(Tensor records, Tensor gradients, uint64_t rows)
{
    double sum = 0;
    for (uint64_t i = 0; i < rows * gradients.cols; i++)
        sum += (double)records_of(records)[i].weight * at(gradients, i);
    return sum;
}

// What an expert would answer to copied records: something where there is one, 0 where padding is.
static Tensor answer(Tensor records, uint64_t rows)
{
    Tensor gradients = make_random(DTYPE_F32, records.rows, records.cols / 2, 1);
    for (uint64_t i = 0; i < rows * gradients.cols; i++)
        if (records_of(records)[i].expert < 0)
            ((float *)gradients.data)[i] = 0;
    return gradients;
}

// <copies(rows), g> = <rows, route_backward(g)> for all g, and the same for records and for unroute: a linear
// map and its adjoint. Some hundred products of numbers below 1, rounded to 6e-8 each.
static void check_route(const RouteCase *c, const int32_t *member_of_expert)
{
    Routed r = run_route(c, member_of_expert);
    Tensor dnext = make_random(DTYPE_F32, r.next_rows.rows, c->hidden, 1);
    Tensor returned = make_random(DTYPE_F32, r.send_rows.rows, c->hidden, 1);
    Tensor dnext_records = answer(r.next_records, r.own_count), returned_records = answer(r.send_records, r.sent);
    Tensor drows = make(DTYPE_F32, r.rows.rows, c->hidden), drecords = make(DTYPE_F32, r.records.rows, c->records);
    host_route_backward(&r.table, r.present, c->fanout, dnext, dnext_records, returned, returned_records, r.counts,
                        r.origin, drows, drecords);
    double there = product(r.next_rows, dnext, r.own_count) + product(r.send_rows, returned, r.sent);
    cr_assert_float_eq(there, product(r.rows, drows, c->rows), 1e-4);
    there = record_product(r.next_records, dnext_records, r.own_count) +
            record_product(r.send_records, returned_records, r.sent);
    cr_assert_float_eq(there, record_product(r.records, drecords, r.present), 1e-4);

    Tensor sums = make(DTYPE_F32, r.rows.rows, c->hidden), dsums = make_random(DTYPE_F32, r.rows.rows, c->hidden, 1);
    Tensor dresults = make(DTYPE_F32, r.next_rows.rows, c->hidden), send = make(DTYPE_F32, r.send_rows.rows, c->hidden);
    host_unroute(&r.table, r.present, c->fanout, dnext, returned, r.counts, r.origin, sums,
                 make_work(&(ModelDims){.hidden = c->hidden}, OP_UNROUTE, c->rows, c->records, c->fanout));
    host_unroute_backward(&r.table, c->fanout, dsums, r.counts, r.origin, dresults, send);
    there = product(dnext, dresults, r.own_count) + product(returned, send, r.sent);
    cr_assert_float_eq(product(sums, dsums, c->rows), there, 1e-4);
    for (uint64_t i = 0; i < (r.sent + r.own_count) * c->hidden; i++) {
        uint64_t row = i / c->hidden, from = (uint64_t)((int32_t *)r.origin.data)[row] / c->fanout;
        double got = row < r.own_count ? at(dresults, i) : at(send, i - r.own_count * c->hidden);
        cr_assert_eq(got, at(dsums, from * c->hidden + i % c->hidden));
    }
    finish();
}

Test(kernels_reverse, routing_in_reverse)
{
    const int32_t spread[ROUTED_EXPERTS] = {0, 1, 2, 0, 1, 2, 2, 1, 0, 1, 1, 2}, all_here[ROUTED_EXPERTS] = {0};
    const int32_t all_there[ROUTED_EXPERTS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const RouteCase cases[] = {
        {5, 1, 1, 3, 1, 17, 0, true},  {5, 1, 2, 3, 0, 17, 3, true}, {259, 2, 1, 3, 2, 19, 0, false},
        {3, 4, 1, 3, 1, 33, 5, false}, {7, 3, 1, 3, 0, 1, 0, false}, {4, 2, 1, 3, 0, 0, 2, false},
        {1, 1, 4, 3, 2, 40, 0, true},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        check_route(&cases[i], spread);
        check_route(&cases[i], all_here);
        check_route(&cases[i], all_there);
    }
}

// A gradient by the whole way: rows -> route -> own experts and another's -> unroute, in one process. Two copies
// of a row, each with its records in place, must give the gradients that no routing at all gives.
Test(kernels_reverse, two_members_give_what_one_gives)
{
    enum { ROWS = 9, TOP_K = 3, EXPERTS = 4 };
    const int32_t members[EXPERTS] = {0, 1, 0, 1}, slots[EXPERTS] = {0, 1, 2, 3};
    ModelDims dims = {.dtype = DTYPE_F32, .activation = ACTIVATION_GELU, .hidden = 5, .inner = 3, .experts = EXPERTS};
    RouteTable table = {.member_of_expert = members, .experts = EXPERTS, .members = 2, .own = 0};
    Tensor rows = make_random(DTYPE_F32, ROWS, 5, 1), records = make(DTYPE_I32, ROWS, 2 * TOP_K);
    Tensor experts = make_random(DTYPE_F32, EXPERTS, model_expert_elements(&dims), 0.7);
    Tensor dresults = make_random(DTYPE_F32, ROWS, 5, 1);
    for (int i = 0; i < ROWS * TOP_K; i++)
        records_of(records)[i] = (Record){(i + i / TOP_K) % EXPERTS, (float)random_unit()};
    Tensor want_rows = make(DTYPE_F32, ROWS, 5), want_records = make(DTYPE_F32, ROWS, TOP_K);
    Tensor want_experts = make(DTYPE_F32, EXPERTS, experts.cols);
    host_expert_backward(&dims, slots, ROWS, 1, rows, records, experts, dresults, want_rows, want_records, want_experts,
                         make_work(&dims, OP_EXPERT_BACKWARD, ROWS, TOP_K, 1));

    Tensor part_rows[2], part_records[2], drows[2], drecords[2], dparts[2], dresult_parts[2];
    Tensor counts = make(DTYPE_I32, 2, 1), origin = make(DTYPE_I32, 2 * ROWS, 1);
    for (int m = 0; m < 2; m++) {
        part_rows[m] = make(DTYPE_F32, ROWS, 5), part_records[m] = make(DTYPE_I32, ROWS, 2 * TOP_K);
        drows[m] = make(DTYPE_F32, ROWS, 5), drecords[m] = make(DTYPE_F32, ROWS, TOP_K);
        dparts[m] = make(DTYPE_F32, EXPERTS, experts.cols), dresult_parts[m] = make(DTYPE_F32, ROWS, 5);
    }
    cr_assert_eq(host_route(&table, ROWS, 1, rows, records, part_rows[0], part_records[0], part_rows[1],
                            part_records[1], counts, origin),
                 0);
    host_unroute_backward(&table, 1, dresults, counts, origin, dresult_parts[0], dresult_parts[1]);
    for (int m = 0; m < 2; m++)
        host_expert_backward(&dims, slots, (uint64_t)((int32_t *)counts.data)[m], 1, part_rows[m], part_records[m],
                             experts, dresult_parts[m], drows[m], drecords[m], dparts[m],
                             make_work(&dims, OP_EXPERT_BACKWARD, ROWS, TOP_K, 1));
    Tensor got_rows = make(DTYPE_F32, ROWS, 5), got_records = make(DTYPE_F32, ROWS, TOP_K);
    host_route_backward(&table, ROWS, 1, drows[0], drecords[0], drows[1], drecords[1], counts, origin, got_rows,
                        got_records);
    for (uint64_t i = 0; i < ROWS * 5; i++)
        cr_assert_float_eq(at(got_rows, i), at(want_rows, i), 1e-5);
    for (uint64_t i = 0; i < ROWS * TOP_K; i++)
        cr_assert_float_eq(at(got_records, i), at(want_records, i), 1e-5);
    for (uint64_t i = 0; i < EXPERTS * experts.cols; i++)
        cr_assert_float_eq(at(dparts[0], i) + at(dparts[1], i), at(want_experts, i), 1e-5);
    finish();
}

// 16-bit rows are summed in f32: one rounding, however many copies.
Test(kernels_reverse, copies_of_16_bit_rows_are_rounded_once)
{
    const int32_t members[ROUTED_EXPERTS] = {0, 1, 2, 0, 1, 2, 2, 1, 0, 1, 1, 2};
    const RouteCase c = {261, 4, 1, 3, 1, 21, 0, false};
    for (size_t d = 1; d < COUNT_OF(dtypes); d++) {
        Routed r = run_route(&c, members);
        Tensor dnext = make_random(dtypes[d], r.next_rows.rows, c.hidden, 1);
        Tensor none = answer(r.next_records, r.own_count);
        Tensor returned = make_random(dtypes[d], r.send_rows.rows, c.hidden, 1), drows = make(dtypes[d], 21, c.hidden);
        Tensor drecords = make(DTYPE_F32, 21, 4);
        host_route_backward(&r.table, r.present, 1, dnext, none, returned, answer(r.send_records, r.sent), r.counts,
                            r.origin, drows, drecords);
        double *want = numbers(21ull * c.hidden);
        for (uint64_t i = 0; i < r.own_count + r.sent; i++) {
            uint64_t to = (uint64_t)((int32_t *)r.origin.data)[i] * c.hidden;
            bool own = i < r.own_count;
            for (uint64_t h = 0; h < c.hidden; h++)
                want[to + h] += own ? at(dnext, i * c.hidden + h) : at(returned, (i - r.own_count) * c.hidden + h);
        }
        for (uint64_t i = 0; i < 21ull * c.hidden; i++) {
            float once = (float)want[i];
            uint16_t rounded;
            host_from_f32(&once, &rounded, dtypes[d], 1);
            float back;
            host_to_f32(&rounded, dtypes[d], &back, 1);
            cr_assert_float_eq(at(drows, i), (double)back, tolerance(dtypes[d]) * fmax(fabs(want[i]), 1e-3));
        }
        finish();
    }
}

// ---- optimizer -------------------------------------------------------------------------------------

// Ten steps of the formula in double, from the same gradients. What f32 state and master copy lose per step is some
// roundings of 6e-8 relative to weights and moments below 2; weights as stored are one rounding more.
static void check_optimizer(Dtype dtype, Dtype of_gradient, uint64_t rows, uint64_t cols)
{
    uint64_t count = rows * cols, values = dtype == DTYPE_F32 ? 2 : 3;
    Tensor weights = make_random(dtype, rows, cols, 1), gradient = make(of_gradient, rows, cols);
    Tensor state = make(DTYPE_F32, rows, values * cols);
    double *w = values_of(weights), *m = numbers(count), *v = numbers(count);
    AdamW adamw = {.beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f, .weight_decay = 0.1f, .gradient_scale = 0.25f};
    const ModelRanges undecayed = {2, {{0, count / 3}, {count / 2, count / 4}}};
    double b1 = (double)adamw.beta1, b2 = (double)adamw.beta2;
    host_optimizer_begin(weights, state);
    for (adamw.step = 1; adamw.step <= 10; adamw.step++) {
        adamw.learning_rate = 0.01f * (float)adamw.step;
        double rate = (double)adamw.learning_rate, t = (double)adamw.step;
        fill_random(gradient, 2);
        host_optimizer(&adamw, &undecayed, weights, gradient, state);
        for (uint64_t i = 0; i < count; i++) {
            double g = at(gradient, i) * (double)adamw.gradient_scale;
            m[i] = b1 * m[i] + (1 - b1) * g;
            v[i] = b2 * v[i] + (1 - b2) * g * g;
            double m_hat = m[i] / (1 - pow(b1, t)), v_hat = v[i] / (1 - pow(b2, t));
            bool decays = i >= count / 3 && (i < count / 2 || i >= count / 2 + count / 4);
            double decay = decays ? (double)adamw.weight_decay : 0;
            w[i] -= rate * (m_hat / (sqrt(v_hat) + (double)adamw.epsilon) + decay * w[i]);
            uint64_t row = i / cols * values * cols, col = i % cols;
            cr_assert_float_eq(at(state, row + col), m[i], 1e-6);
            cr_assert_float_eq(at(state, row + cols + col), v[i], 1e-6);
            if (values == 3)
                cr_assert_float_eq(at(state, row + 2 * cols + col), w[i], 1e-5);
            cr_assert_float_eq(at(weights, i), w[i], dtype == DTYPE_F32 ? 1e-5 : 2 * tolerance(dtype));
        }
    }
    finish();
}

Test(kernels_reverse, adamw)
{
    for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
        check_optimizer(dtypes[d], dtypes[d], 1, 519);
        check_optimizer(dtypes[d], dtypes[d], 3, 37);
        check_optimizer(dtypes[d], dtypes[d], 1, 1);
        check_optimizer(dtypes[d], DTYPE_F32, 3, 519); // a sum over micro-batches
    }
}

// Steps too small for the weights' dtype add up in the master copy.
Test(kernels_reverse, small_steps_add_up_in_the_master_copy)
{
    Tensor weights = make(DTYPE_BF16, 1, 1), gradient = make(DTYPE_BF16, 1, 1), state = make(DTYPE_F32, 1, 3);
    const ModelRanges undecayed = {0};
    float one = 1;
    host_from_f32(&one, weights.data, DTYPE_BF16, 1);
    host_from_f32(&one, gradient.data, DTYPE_BF16, 1);
    host_optimizer_begin(weights, state);
    AdamW adamw = {.learning_rate = 1e-4f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .gradient_scale = 1};
    for (adamw.step = 1; adamw.step <= 10; adamw.step++)
        host_optimizer(&adamw, &undecayed, weights, gradient, state);
    cr_assert_eq(at(weights, 0), 1);
    for (; adamw.step <= 100; adamw.step++)
        host_optimizer(&adamw, &undecayed, weights, gradient, state);
    cr_assert_float_eq(at(state, 2), 0.99, 1e-5);
    cr_assert_float_eq(at(weights, 0), 0.99, 2e-3);
    finish();
}

// ---- local steps -----------------------------------------------------------------------------------

// Rows of two weights in two workers that moved apart; figures by hand.
Test(kernels_reverse, workers_meet)
{
    static const float begin[] = {1, 2, 3, 4}, first[] = {2, 2, 1, 4}, second[] = {2, 1, 2, 8};
    Tensor weights = make(DTYPE_F32, 2, 2), average = make(DTYPE_F32, 2, 2), gradient = make(DTYPE_F32, 2, 2);
    memcpy(weights.data, begin, sizeof(begin));
    host_outer_begin(weights, average);
    float sum[4];
    memcpy(weights.data, first, sizeof(first));
    host_outer_gradient(weights, average, gradient);
    static const float moved[] = {-1, 0, 2, 0};
    for (uint64_t i = 0; i < 4; i++) {
        cr_assert_eq(at(gradient, i), moved[i]);
        sum[i] = moved[i] + begin[i] - second[i];
    }
    memcpy(gradient.data, sum, sizeof(sum));
    host_outer_step(&(OuterStep){1, 0, 2}, gradient, average, weights);
    static const float mean[] = {2, 1.5, 1.5, 6};
    for (uint64_t i = 0; i < 4; i++) {
        cr_assert_eq(at(weights, i), mean[i]);
        cr_assert_eq(at(average, i), mean[i]);
    }
    finish();
}

// One weight that moves by -1 each time: momentum 0.5 is 1, 1.5, ..., the steps 0.8 x (1 + 0.5 x that).
Test(kernels_reverse, the_outer_optimizer_has_momentum)
{
    Tensor weights = make(DTYPE_F32, 1, 1), outer = make(DTYPE_F32, 1, 2), gradient = make(DTYPE_F32, 1, 1);
    static const double steps[] = {0.8 * 1.5, 0.8 * 1.75, 0.8 * 1.875};
    double expected = 0;
    *(float *)weights.data = 0;
    host_outer_begin(weights, outer);
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        *(float *)weights.data += 1; // what every worker did
        host_outer_gradient(weights, outer, gradient);
        *(float *)gradient.data *= 4; // the sum over four
        host_outer_step(&(OuterStep){0.8f, 0.5f, 4}, gradient, outer, weights);
        expected += steps[i];
        cr_assert_float_eq(at(weights, 0), expected, 1e-6);
        cr_assert_eq(at(outer, 0), at(weights, 0));
    }
    finish();
}
