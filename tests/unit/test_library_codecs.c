// libhep under plans that compress weights and gradients: what every rank gathers and what comes home, bit for bit,
// against packets that are made and opened here, share by share, without any communication; bytes against the plan's;
// what codecs remember, saved, loaded and forgotten.
//
// builds: dev  seconds: 6
#include "moe_client.h"

#include <pthread.h>

#include "compiled.h"
#include "fixed_plans.h"
#include "hub.h"
#include "ir/codec.h"
#include "kernels/host/kernels.h"

enum { RANKS = 8, LEVELS = 2, LAYERS = 2, UP = 64 * 40, ELEMENTS = 2 * UP, ITERATIONS = 5, BUNDLE = 9001 };

static const int counts[LEVELS] = {2, 4};
static const double scale = 0.25;

static const char *const description =
    "cluster c { level dc { count = 2  bandwidth = 1 Mbit/s  latency = 1 ms }\n"
    "            level gpu { count = 4  bandwidth = 10 Gbit/s  latency = 10 us }\n"
    "            device { compute = 1 TFLOP/s  memory = 8 GB  memory_bandwidth = 100 GB/s } }\n"
    "model m { layers = 2  hidden = 64  heads = 2  vocabulary = 64  sequence = 8  batch = 1  dtype = f32\n"
    "          moe { experts = %d  top_k = 2  inner = 40  activation = gelu } }\n"
    "plan { pass = training  %s }\n";

// ---- numbers ---------------------------------------------------------------------------------------

// Weights drift, a few of them fast. layer LAYERS: of the dense bundle.
static float weight_of(int iteration, int layer, int64_t element)
{
    float drift = moe_number((uint32_t)(900 + layer), (uint32_t)element);
    float jump = element % 97 == iteration % 97 ? 1 : 0.01f;
    return moe_number((uint32_t)(800 + layer), (uint32_t)element) + (float)iteration * jump * drift;
}

static float gradient_of(int iteration, int layer, int rank, int64_t element)
{
    return moe_number((uint32_t)(1000 + (iteration * 4 + layer) * RANKS + rank), (uint32_t)element);
}

// ---- the same in one place -------------------------------------------------------------------------

// A bundle as all ranks share it: every rank owns `rows` vectors of `cols`, elements `first` to `first + count`.
typedef struct {
    const Coding *coding;
    int domain[LEVELS];
    uint64_t rows, cols;
    int64_t first[RANKS], count[RANKS];
    uint32_t every;     // iterations between two sums of the mean; 0: none
    double of_mean;     // experts that it is of
    int whole;          // iterations
    int members;        // shares that packets bring together
    float *sent[RANKS]; // [rows x cols], by owner
    float *mean;        // [cols]
    float *error[RANKS][LEVELS][RANKS];
} Shared;

static uint64_t share_floats(const Shared *of)
{
    return of->rows * of->cols;
}

static int coordinate(int rank, int level)
{
    return level == 0 ? rank / 4 : rank % 4;
}

static bool is_coded(const Shared *of, int level)
{
    return level < (int)coding_levels(of->coding, LEVELS);
}

// Does `rank` hold what `owner` owns, once all is gathered?
static bool holds(const Shared *of, int rank, int owner)
{
    bool same = true;
    for (int l = 0; l < LEVELS; l++)
        same = same && coordinate(rank, l) / of->domain[l] == coordinate(owner, l) / of->domain[l];
    return same;
}

static void share_of(const Shared *of, int iteration, int layer, int owner, float *out)
{
    memset(out, 0, share_floats(of) * sizeof(*out));
    for (int64_t i = 0; i < of->count[owner]; i++)
        out[i] = weight_of(iteration, layer, of->first[owner] + i);
}

static Tensor floats(float *data, uint64_t rows, uint64_t cols)
{
    return (Tensor){.data = data, .dtype = DTYPE_F32, .rows = rows, .cols = cols};
}

static Tensor packets(Packing packing, uint64_t rows, uint64_t cols)
{
    uint64_t bytes = packing_bytes(packing, cols, DTYPE_F32);
    return (Tensor){.data = calloc(rows, bytes), .dtype = DTYPE_U8, .rows = rows, .cols = bytes};
}

static void sum_mean(Shared *of, int iteration, int layer)
{
    float *share = malloc(share_floats(of) * sizeof(float)), parts[RANKS][4096 * 3];
    cr_assert_leq(of->cols, 4096 * 3);
    for (int r = 0; r < RANKS; r++) {
        share_of(of, iteration, layer, r, share);
        for (uint64_t i = 0; i < of->cols; i++) {
            parts[r][i] = 0;
            for (uint64_t row = 0; row < of->rows; row++)
                parts[r][i] += share[row * of->cols + i];
            parts[r][i] /= (float)of->of_mean;
        }
    }
    for (uint64_t i = 0; i < of->cols; i++) { // inner level first
        float dcs[2];
        for (int d = 0; d < 2; d++)
            dcs[d] = ((parts[4 * d][i] + parts[4 * d + 1][i]) + parts[4 * d + 2][i]) + parts[4 * d + 3][i];
        of->mean[i] = dcs[0] + dcs[1];
    }
    free(share);
}

// What others make of every owner's share: into sent.
static void send_weights(Shared *of, int iteration, int layer)
{
    const CodecInfo *codec = codec_info(of->coding->codec);
    bool whole = iteration < of->whole || (codec->remembers && iteration == 0);
    Packing packing = whole ? (Packing){PACKET_WHOLE, 1} : coding_packing(of->coding);
    if (of->every && iteration % (int)of->every == 0)
        sum_mean(of, iteration, layer);
    float *share = malloc(share_floats(of) * sizeof(float));
    Tensor mean = of->every ? floats(of->mean, 1, of->cols) : (Tensor){0}, none = floats(share, 0, of->cols);
    for (int owner = 0; owner < RANKS; owner++) {
        Tensor packet = packets(packing, of->rows, of->cols), own = floats(share, of->rows, of->cols);
        Tensor sent = floats(of->sent[owner], of->rows, of->cols);
        share_of(of, iteration, layer, owner, share);
        if (codec->encodes && codec->remembers) {
            host_encode(codec, packing, own, sent, packet);
        } else if (codec->encodes) {
            host_encode(codec, packing, own, mean, packet);
            host_decode(codec, packing, 0, packet, none, mean, sent);
        } else {
            memcpy(of->sent[owner], share, share_floats(of) * sizeof(float));
        }
        free(packet.data);
    }
    free(share);
}

// An owner's share as a rank has it, in `out`: exactly, if it came over no level of packets.
static void held(const Shared *of, int iteration, int layer, int rank, int owner, float *out)
{
    bool exact = true;
    for (int l = 0; l < LEVELS; l++)
        exact = exact && (!is_coded(of, l) || coordinate(rank, l) == coordinate(owner, l));
    if (!exact)
        memcpy(out, of->sent[owner], (size_t)of->count[owner] * sizeof(*out));
    for (int64_t i = 0; i < of->count[owner] && exact; i++)
        out[i] = weight_of(iteration, layer, of->first[owner] + i);
}

// to += what a packet of `from`, with `error` added, holds; the rest stays in `error`.
static void add_packet(const Shared *of, Packing packing, float *from, float *error, float *to)
{
    Tensor packet = packets(packing, of->rows, of->cols), none = floats(from, 0, of->cols);
    float *opened = malloc(share_floats(of) * sizeof(float));
    host_encode_gradient(packing, 0, 0, floats(from, of->rows, of->cols), floats(error, of->rows, of->cols), packet);
    host_decode(codec_info(CODEC_SR), packing.form == PACKET_WHOLE ? packing : packing, 0, packet, none, (Tensor){0},
                floats(opened, of->rows, of->cols));
    for (uint64_t i = 0; i < share_floats(of); i++)
        to[i] += opened[i];
    free(opened);
    free(packet.data);
}

// Gradients of every share, as held, on their way home: grads[rank][owner], of which grads[r][r] remains.
static void return_gradients(Shared *of, int iteration, float *grads[RANKS][RANKS])
{
    Packing packing = iteration < of->whole ? (Packing){PACKET_WHOLE, 1} : coding_gradient_packing(of->coding);
    for (int l = LEVELS; l-- > 0;) {
        float *sums[RANKS][RANKS] = {0};
        for (int r = 0; r < RANKS; r++)
            for (int o = 0; o < RANKS; o++) {
                if (!grads[r][o] || coordinate(r, l) != coordinate(o, l) || of->domain[l] == 1)
                    continue;
                bool coded = of->coding->gradient != GRADIENT_DENSE && is_coded(of, l) && of->members > 1;
                float *sum = sums[r][o] = calloc(share_floats(of), sizeof(float));
                if (coded)
                    memcpy(sum, grads[r][o], share_floats(of) * sizeof(float));
                bool first = true;
                for (int m = 0; m < RANKS; m++) {
                    bool member = coordinate(m, 1 - l) == coordinate(r, 1 - l) && grads[m][o];
                    if (!member || (coded && m == r))
                        continue;
                    if (coded)
                        add_packet(of, packing, grads[m][o], of->error[m][l][o], sum);
                    for (uint64_t i = 0; i < share_floats(of) && !coded; i++)
                        sum[i] = first ? grads[m][o][i] : sum[i] + grads[m][o][i];
                    first = false;
                }
            }
        for (int r = 0; r < RANKS; r++)
            for (int o = 0; o < RANKS && of->domain[l] > 1; o++) {
                free(grads[r][o]);
                grads[r][o] = sums[r][o];
            }
    }
}

static void shared_make(Shared *of)
{
    of->members = 1;
    for (int l = 0; l < LEVELS; l++)
        of->members *= is_coded(of, l) ? of->domain[l] : 1;
    of->mean = calloc(of->cols, sizeof(float));
    for (int r = 0; r < RANKS; r++) {
        of->sent[r] = calloc(share_floats(of), sizeof(float));
        for (int l = 0; l < LEVELS; l++)
            for (int o = 0; o < RANKS; o++)
                of->error[r][l][o] = calloc(share_floats(of), sizeof(float));
    }
}

static void shared_free(Shared *of)
{
    free(of->mean);
    for (int r = 0; r < RANKS; r++) {
        free(of->sent[r]);
        for (int l = 0; l < LEVELS; l++)
            for (int o = 0; o < RANKS; o++)
                free(of->error[r][l][o]);
    }
}

// ---- expected values -------------------------------------------------------------------------------

typedef struct {
    Shared of[LAYERS + 1]; // the last: the dense bundle
    // By iteration, layer or bundle, and rank: what it holds, of elements `first` to `first + count`; its own gradient.
    float *full[ITERATIONS][LAYERS + 1][RANKS], *grads[ITERATIONS][LAYERS + 1][RANKS];
    int64_t first[LAYERS + 1][RANKS], count[LAYERS + 1][RANKS];
} Expected;

static void expect_weights(Expected *out, int iteration, int layer)
{
    Shared *of = &out->of[layer];
    send_weights(of, iteration, layer);
    for (int r = 0; r < RANKS; r++) {
        float *full = out->full[iteration][layer][r] = calloc((size_t)out->count[layer][r], sizeof(float));
        for (int o = 0; o < RANKS; o++)
            if (holds(of, r, o))
                held(of, iteration, layer, r, o, full + of->first[o] - out->first[layer][r]);
    }
}

static void expect_gradients(Expected *out, int iteration, int layer)
{
    Shared *of = &out->of[layer];
    float *grads[RANKS][RANKS] = {0};
    for (int r = 0; r < RANKS; r++)
        for (int o = 0; o < RANKS; o++) {
            if (!holds(of, r, o))
                continue;
            grads[r][o] = calloc(share_floats(of), sizeof(float));
            for (int64_t i = 0; i < of->count[o]; i++)
                grads[r][o][i] = gradient_of(iteration, layer, r, of->first[o] + i);
        }
    return_gradients(of, iteration, grads);
    for (int r = 0; r < RANKS; r++)
        for (int o = 0; o < RANKS; o++) {
            for (uint64_t i = 0; i < share_floats(of) && r == o; i++)
                grads[r][o][i] = (float)scale * grads[r][o][i];
            if (r == o)
                out->grads[iteration][layer][r] = grads[r][o];
            else
                free(grads[r][o]);
        }
}

static void expected_free(Expected *of)
{
    for (int k = 0; k <= LAYERS; k++) {
        shared_free(&of->of[k]);
        for (int i = 0; i < ITERATIONS; i++)
            for (int r = 0; r < RANKS; r++) {
                free(of->full[i][k][r]);
                free(of->grads[i][k][r]);
            }
    }
}

// ---- one rank --------------------------------------------------------------------------------------

typedef struct {
    hep_plan *plan;
    const Expected *expected;
    int rank, reload; // after so many iterations the context is made anew, with the state of the one before
    bool backwards;   // bundles first
    int forgets;      // after so many, everything is forgotten
    hep_comm *comm, *again;
    hep_context *context;
    float *own[LAYERS][2], *grads[LAYERS][2], *full[LAYERS][2], *sent[LAYERS][2];
    float *share, *grad, *all, *sent_all;
    int64_t bundle_share, bundle_first;
    char *state;
    uint64_t state_bytes;
    hep_traffic traffic[ITERATIONS][LEVELS];
    char problem[200];
} Worker;

static bool is_ok(Worker *worker, hep_status status, const char *what)
{
    hep_error error = {.struct_bytes = sizeof(error)};
    if (status == HEP_OK)
        return true;
    hep_last_error(worker->context, &error);
    if (!worker->problem[0])
        snprintf(worker->problem, sizeof(worker->problem), "rank %d, %s: %.150s", worker->rank, what, error.message);
    return false;
}

static bool is_equal(Worker *worker, int iteration, int layer, const char *what, const float *is, const float *expected,
                     int64_t count)
{
    if (memcmp(is, expected, (size_t)count * sizeof(float)) == 0)
        return true;
    for (int64_t i = 0; i < count; i++)
        if (memcmp(&is[i], &expected[i], sizeof(float)) != 0) {
            if (!worker->problem[0])
                snprintf(worker->problem, sizeof(worker->problem),
                         "rank %d, iteration %d, layer %d: %s %lld is %.9g, not %.9g", worker->rank, iteration, layer,
                         what, (long long)i, (double)is[i], (double)expected[i]);
            return false;
        }
    return true;
}

static bool is_whole(const Worker *worker)
{
    return worker->expected->of[0].rows > 1 || worker->expected->of[0].cols == ELEMENTS;
}

// Owned elements to the caller's parameters, or the piece.
static void fill_own(Worker *worker, int iteration, int layer)
{
    const Shared *of = &worker->expected->of[layer];
    for (int64_t i = 0; i < of->count[worker->rank]; i++) {
        float value = weight_of(iteration, layer, of->first[worker->rank] + i);
        if (is_whole(worker))
            worker->own[layer][i % ELEMENTS >= UP][i / ELEMENTS * UP + i % UP] = value;
        else
            worker->own[layer][0][i] = value;
    }
}

static bool check_full(Worker *worker, int iteration, int layer)
{
    const Expected *expected = worker->expected;
    int64_t count = expected->count[layer][worker->rank];
    float *flat = malloc((size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++)
        flat[i] = worker->full[layer][i % ELEMENTS >= UP][i / ELEMENTS * UP + i % UP];
    bool ok = is_equal(worker, iteration, layer, "weight", flat, expected->full[iteration][layer][worker->rank], count);
    free(flat);
    return ok;
}

static bool check_grads(Worker *worker, int iteration, int layer)
{
    const Shared *of = &worker->expected->of[layer];
    int64_t count = of->count[worker->rank];
    float *flat = malloc((size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++)
        flat[i] = is_whole(worker) ? worker->grads[layer][i % ELEMENTS >= UP][i / ELEMENTS * UP + i % UP]
                                   : worker->grads[layer][0][i];
    bool ok = is_equal(worker, iteration, layer, "gradient", flat,
                       worker->expected->grads[iteration][layer][worker->rank], count);
    free(flat);
    return ok;
}

static bool bind_all(Worker *worker)
{
    const Expected *expected = worker->expected;
    bool ok = true;
    for (int k = 0; k < LAYERS && ok; k++) {
        const Shared *of = &expected->of[k];
        hep_tensor own[2], grads[2], full[2];
        int64_t held_experts = expected->count[k][worker->rank] / ELEMENTS;
        int64_t rows = is_whole(worker) ? (int64_t)of->rows : 1, cols = is_whole(worker) ? UP : (int64_t)of->cols;
        for (int p = 0; p < 2; p++) {
            own[p] = moe_tensor(worker->own[k][p], rows, cols, HEP_F32);
            grads[p] = moe_tensor(worker->grads[k][p], rows, cols, HEP_F32);
            full[p] = moe_tensor(worker->full[k][p], held_experts, UP, HEP_F32);
        }
        ok = is_ok(worker, hep_bind(worker->context, k, 2, own, grads, full), "bind");
    }
    int64_t share = worker->bundle_share;
    hep_tensor own = moe_tensor(worker->share, 1, share, HEP_F32), grad = moe_tensor(worker->grad, 1, share, HEP_F32),
               full = moe_tensor(worker->all, 1, share * RANKS, HEP_F32);
    return ok && is_ok(worker, hep_dense_bind(worker->context, 3, &own, &grad, &full), "dense_bind");
}

static bool context_make(Worker *worker, hep_comm *comm)
{
    return is_ok(worker, hep_create(worker->plan, comm, NULL, &worker->context), "create") && bind_all(worker);
}

static bool forward(Worker *worker, int iteration)
{
    const Expected *expected = worker->expected;
    bool ok = true;
    for (int k = 0; k < LAYERS; k++)
        fill_own(worker, iteration, k);
    for (int64_t i = 0; i < worker->bundle_share; i++)
        worker->share[i] =
            worker->bundle_first + i < BUNDLE ? weight_of(iteration, LAYERS, worker->bundle_first + i) : 0;
    if (worker->backwards)
        ok = is_ok(worker, hep_dense_begin(worker->context, 3, 0, NULL), "dense_begin");
    ok = ok && is_ok(worker, hep_begin(worker->context, 0, NULL), "begin");
    if (!worker->backwards)
        ok = ok && is_ok(worker, hep_dense_begin(worker->context, 3, 0, NULL), "dense_begin");
    for (int k = 0; k < LAYERS && ok; k++)
        ok = is_ok(worker, hep_gathered(worker->context, k, 0, NULL), "gathered") && check_full(worker, iteration, k) &&
             is_ok(worker, hep_used(worker->context, k, 0, NULL), "used");
    return ok && is_ok(worker, hep_dense_gathered(worker->context, 3, NULL), "dense_gathered") &&
           is_equal(worker, iteration, LAYERS, "weight", worker->all, expected->full[iteration][LAYERS][worker->rank],
                    BUNDLE);
}

static bool backward(Worker *worker, int iteration)
{
    const Expected *expected = worker->expected;
    bool ok = is_ok(worker, hep_begin(worker->context, HEP_BACKWARD, NULL), "begin backward");
    for (int k = LAYERS; k-- > 0 && ok;) {
        hep_tensor sent[2];
        int64_t count = expected->count[k][worker->rank];
        for (int64_t i = 0; i < count; i++)
            worker->sent[k][i % ELEMENTS >= UP][i / ELEMENTS * UP + i % UP] =
                gradient_of(iteration, k, worker->rank, expected->first[k][worker->rank] + i);
        for (int p = 0; p < 2; p++)
            sent[p] = moe_tensor(worker->sent[k][p], count / ELEMENTS, UP, HEP_F32);
        const Shared *of = &expected->of[k];
        for (int p = 0; p < 2; p++)
            memset(worker->grads[k][p], 0, share_floats(of) * sizeof(float));
        ok = is_ok(worker, hep_gathered(worker->context, k, HEP_BACKWARD, NULL), "gathered again") &&
             check_full(worker, iteration, k) &&
             is_ok(worker, hep_used(worker->context, k, HEP_BACKWARD, NULL), "used") &&
             is_ok(worker, hep_return(worker->context, k, 2, sent, scale, NULL), "return");
    }
    memset(worker->grad, 0, (size_t)worker->bundle_share * sizeof(float));
    for (int64_t i = 0; i < worker->bundle_share * RANKS; i++)
        worker->sent_all[i] = i < BUNDLE ? gradient_of(iteration, LAYERS, worker->rank, i) : 0;
    hep_tensor sent = moe_tensor(worker->sent_all, 1, worker->bundle_share * RANKS, HEP_F32);
    ok = ok && is_ok(worker, hep_dense_send(worker->context, 3, &sent, scale, NULL), "dense_send") &&
         is_ok(worker, hep_finish(worker->context, NULL), "finish");
    for (int k = 0; k < LAYERS && ok; k++)
        ok = check_grads(worker, iteration, k);
    return ok && is_equal(worker, iteration, LAYERS, "gradient", worker->grad,
                          expected->grads[iteration][LAYERS][worker->rank], worker->bundle_share);
}

static bool save_and_load(Worker *worker)
{
    bool ok = is_ok(worker, hep_state_bytes(worker->context, &worker->state_bytes), "state_bytes");
    worker->state = malloc(worker->state_bytes + 1);
    ok = ok && is_ok(worker, hep_state_save(worker->context, worker->state, worker->state_bytes, NULL), "state_save");
    hep_destroy(worker->context);
    return ok && context_make(worker, worker->again) &&
           is_ok(worker, hep_state_load(worker->context, worker->state, worker->state_bytes, NULL), "state_load");
}

static void worker_allocate(Worker *worker)
{
    const Expected *expected = worker->expected;
    for (int k = 0; k < LAYERS; k++)
        for (int p = 0; p < 2; p++) {
            worker->own[k][p] = calloc(share_floats(&expected->of[k]), sizeof(float));
            worker->grads[k][p] = calloc(share_floats(&expected->of[k]), sizeof(float));
            worker->full[k][p] = malloc((size_t)expected->count[k][worker->rank] * sizeof(float));
            worker->sent[k][p] = malloc((size_t)expected->count[k][worker->rank] * sizeof(float));
        }
    uint64_t share = expected->of[LAYERS].cols;
    worker->bundle_share = (int64_t)share;
    worker->bundle_first = expected->of[LAYERS].first[worker->rank];
    worker->share = calloc(share, sizeof(float));
    worker->grad = calloc(share, sizeof(float));
    worker->all = malloc(share * RANKS * sizeof(float));
    worker->sent_all = malloc(share * RANKS * sizeof(float));
}

static void worker_free(Worker *worker)
{
    for (int k = 0; k < LAYERS; k++)
        for (int p = 0; p < 2; p++) {
            free(worker->own[k][p]);
            free(worker->grads[k][p]);
            free(worker->full[k][p]);
            free(worker->sent[k][p]);
        }
    free(worker->share);
    free(worker->grad);
    free(worker->all);
    free(worker->sent_all);
    free(worker->state);
}

static void *worker_run(void *argument)
{
    Worker *worker = argument;
    worker_allocate(worker);
    bool ok = context_make(worker, worker->comm);
    for (int i = 0; i < ITERATIONS && ok; i++) {
        int at = worker->forgets && i >= worker->forgets ? i - worker->forgets : i; // it begins anew
        if (worker->reload && i == worker->reload)
            ok = save_and_load(worker);
        if (worker->forgets && i == worker->forgets)
            ok = is_ok(worker, hep_state_load(worker->context, NULL, 0, NULL), "forget");
        worker->traffic[i][0].struct_bytes = sizeof(hep_traffic);
        ok = ok && forward(worker, at) && backward(worker, at) &&
             is_ok(worker, hep_count(worker->context, worker->traffic[i], NULL, 1), "count");
    }
    hep_destroy(worker->context);
    hep_comm_free(worker->comm);
    hep_comm_free(worker->again);
    return NULL;
}

// ---- all ranks -------------------------------------------------------------------------------------

typedef struct {
    const char *keys, *domain;
    int sizes[LEVELS];
    int experts, reload, forgets;
    bool over_hub;
    uint32_t every; // as in the keys
    int whole;
} Case;

static Compiled compile_case(const Case *of)
{
    char text[1400];
    snprintf(text, sizeof(text), description, of->experts, of->keys);
    return compiled_from(text, of->domain);
}

static Coding codings[2];

static void expected_make(Expected *out, const Case *of, const hep_plan *plan)
{
    memset(out, 0, sizeof(*out));
    for (int k = 0; k <= LAYERS; k++) {
        Shared *shared = &out->of[k];
        *shared = (Shared){.coding = &codings[k == LAYERS],
                           .whole = of->whole,
                           .every = k < LAYERS ? of->every : 0,
                           .of_mean = of->experts};
        for (int l = 0; l < LEVELS; l++)
            shared->domain[l] = k < LAYERS ? of->sizes[l] : counts[l];
        hep_layer facts = {.struct_bytes = sizeof(facts)};
        cr_assert_eq(hep_plan_layer(plan, k < LAYERS ? k : 0, &facts), HEP_OK);
        shared->rows = k < LAYERS && facts.own ? (uint64_t)facts.own : 1;
        shared->cols = k == LAYERS ? (BUNDLE + 63) / 64 * 8 : (uint64_t)facts.own_elements / shared->rows;
        for (int r = 0; r < RANKS; r++) {
            int first = 0, count = 0;
            cr_assert_eq(hep_plan_held(plan, k < LAYERS ? k : 0, r, &first, &count), HEP_OK);
            out->first[k][r] = k < LAYERS ? (int64_t)first * ELEMENTS : 0;
            out->count[k][r] = k < LAYERS ? (int64_t)count * ELEMENTS : BUNDLE;
            cr_assert_eq(hep_plan_owned(plan, k < LAYERS ? k : 0, r, &shared->first[r], &shared->count[r]), HEP_OK);
            if (k < LAYERS)
                continue;
            // Outermost level fastest.
            shared->first[r] = (coordinate(r, 0) + 2 * coordinate(r, 1)) * (int64_t)shared->cols;
            int64_t left = BUNDLE - shared->first[r];
            shared->count[r] = left < 0 ? 0 : left < (int64_t)shared->cols ? left : (int64_t)shared->cols;
        }
        shared_make(shared);
        if (shared->members == 1)
            shared->every = 0;
        for (int i = 0; i < ITERATIONS; i++) {
            expect_weights(out, i, k);
            expect_gradients(out, i, k);
        }
    }
}

static Hub hubs[2];
static HubRank hub_ranks[2][RANKS];

static void make_comms(bool over_hub, int which, hep_comm *comms[RANKS])
{
    hep_comm_options options = {.struct_bytes = sizeof(options), .device = -1, .timeout_s = 20};
    hep_carrier carrier = {.struct_bytes = sizeof(carrier), .open = hub_open, .exchange = hub_exchange, .why = hub_why};
    if (!over_hub) {
        cr_assert_eq(hep_comm_threads(RANKS, &options, comms), HEP_OK);
        return;
    }
    hub_init(&hubs[which], 20);
    memset(hub_ranks[which], 0, sizeof(hub_ranks[which]));
    for (int r = 0; r < RANKS; r++) {
        hub_ranks[which][r].hub = &hubs[which];
        cr_assert_eq(hep_comm_carrier(r, RANKS, &carrier, &hub_ranks[which][r], &options, &comms[r]), HEP_OK);
    }
}

// Of iterations whose packets are not whole: the plan's bytes, of a mean that is summed every other time on average.
static void check_bytes(const Case *of, const hep_plan *plan, const Worker *worker)
{
    for (int l = 0; l < LEVELS; l++) {
        hep_traffic planned = {.struct_bytes = sizeof(planned)}, is = {0};
        cr_assert_eq(hep_plan_traffic(plan, l, &planned), HEP_OK);
        for (int i = ITERATIONS - 2; i < ITERATIONS; i++) {
            is.gather += worker->traffic[i][l].gather / 2;
            is.reduce += worker->traffic[i][l].reduce / 2;
            cr_expect_geq(worker->traffic[i][l].dense_gather, 0);
        }
        cr_expect_float_eq(is.gather, planned.gather, 1e-9 * planned.gather,
                           "%s, %s, level %d: gathered %.0f, not %.0f", of->keys, of->domain, l, is.gather,
                           planned.gather);
        cr_expect_float_eq(is.reduce, planned.reduce, 1e-9 * planned.reduce,
                           "%s, %s, level %d: returned %.0f, not %.0f", of->keys, of->domain, l, is.reduce,
                           planned.reduce);
    }
}

// Outer shares travel once, inner ones with what outer levels brought.
static void check_dense_bytes(const Expected *expected, const Worker *worker)
{
    const Shared *of = &expected->of[LAYERS];
    double together = 1;
    for (int l = 0; l < LEVELS; l++) {
        bool coded = is_coded(of, l);
        uint64_t full = of->cols * 4;
        bool encodes = codec_info(of->coding->codec)->encodes, returns = of->coding->gradient != GRADIENT_DENSE;
        uint64_t gather = coded && encodes ? packing_bytes(coding_packing(of->coding), of->cols, DTYPE_F32) : full;
        uint64_t home =
            coded && returns ? packing_bytes(coding_gradient_packing(of->coding), of->cols, DTYPE_F32) : full;
        cr_expect_eq(worker->traffic[ITERATIONS - 1][l].dense_gather, together * (double)gather * (counts[l] - 1));
        cr_expect_eq(worker->traffic[ITERATIONS - 1][l].dense_reduce, together * (double)home * (counts[l] - 1));
        together *= counts[l];
    }
}

static void run_case(const Case *of)
{
    static Worker workers[RANKS];
    static Expected expected;
    hep_comm *comms[RANKS], *again[RANKS] = {0};
    pthread_t threads[RANKS];
    Compiled compiled = compile_case(of);
    codings[0] = compiled.plan->experts;
    codings[1] = compiled.plan->dense;
    hep_plan *plan = plan_handed_over(&compiled);
    expected_make(&expected, of, plan);
    make_comms(of->over_hub, 0, comms);
    if (of->reload)
        make_comms(of->over_hub, 1, again);
    for (int r = 0; r < RANKS; r++) {
        workers[r] = (Worker){.plan = plan,
                              .expected = &expected,
                              .rank = r,
                              .reload = of->reload,
                              .forgets = of->forgets,
                              .comm = comms[r],
                              .again = again[r],
                              .backwards = of->over_hub};
        pthread_create(&threads[r], NULL, worker_run, &workers[r]);
    }
    for (int r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
    for (int r = 0; r < RANKS; r++)
        cr_expect(!workers[r].problem[0], "%s, %s: %s", of->keys, of->domain, workers[r].problem);
    for (int r = 0; r < RANKS; r++) {
        if (!workers[r].problem[0]) {
            check_bytes(of, plan, &workers[r]);
            check_dense_bytes(&expected, &workers[r]);
        }
        worker_free(&workers[r]);
    }
    expected_free(&expected);
    hep_plan_free(plan);
}

#define DENSE "dense { codec = q4  gradient = ternary }"

Test(library_codecs, packets_bring_what_they_hold)
{
    const Case cases[] = {
        {"migration { codec = delta  ratio = 20  gradient = topk  gradient_ratio = 20 } " DENSE,
         "dc=2,gpu=2",
         {2, 2},
         .experts = 16,
         .over_hub = true},
        {"migration { codec = delta  ratio = 200  gradient = topk  gradient_ratio = 100 }",
         "dc=2,gpu=4",
         {2, 4},
         .experts = 16},
        {"migration { codec = sign  gradient = ternary } dense { codec = sign  gradient = q4 }",
         "dc=1,gpu=4",
         {1, 4},
         .experts = 16},
        {"migration { codec = q4  gradient = q4  levels = dc } dense { codec = delta  ratio = 9  gradient = topk  "
         "gradient_ratio = 9  levels = dc }",
         "dc=2,gpu=2",
         {2, 2},
         .experts = 16},
        {"migration { codec = q4  levels = dc }", "dc=1,gpu=2", {1, 2}, .experts = 16},
        {"migration { gradient = topk  gradient_ratio = 30 }", "dc=2,gpu=1", {2, 1}, .experts = 16},
        {"migration { codec = sr  ratio = 10  shared_every = 2 }", "dc=2,gpu=2", {2, 2}, .experts = 16, .every = 2},
        {"migration { codec = sr  ratio = 10  shared_every = 0 }", "dc=2,gpu=4", {2, 4}, .experts = 16},
        {"migration { codec = q4  gradient = q4 } whole_iterations = 3 " DENSE,
         "dc=2,gpu=2",
         {2, 2},
         .experts = 16,
         .whole = 3},
    };
    for (size_t c = 0; c < COUNT_OF(cases); c++)
        run_case(&cases[c]);
}

// 12 experts on 8 ranks: vectors are parts of experts, with padding at their ends.
Test(library_codecs, packets_may_hold_parts_of_experts)
{
    run_case(&(Case){"migration { codec = sign  gradient = topk  gradient_ratio = 20 } " DENSE,
                     "dc=2,gpu=2",
                     {2, 2},
                     .experts = 12,
                     .over_hub = true});
    run_case(&(Case){"migration { codec = q4  gradient = q4  levels = dc }", "dc=2,gpu=4", {2, 4}, .experts = 12});
}

// What was decoded once is kept; inside, experts are gathered again.
Test(library_codecs, packets_travel_once_an_iteration)
{
    run_case(
        &(Case){"migration { codec = q4  gradient = q4  levels = dc }", "dc=2,gpu=4,once=dc", {2, 4}, .experts = 16});
    run_case(&(Case){"migration { codec = sr  ratio = 10  shared_every = 2 }",
                     "dc=2,gpu=2,once=none",
                     {2, 2},
                     .experts = 16,
                     .every = 2});
}

Test(library_codecs, state_is_saved_and_loaded_and_forgotten)
{
    const char *keys = "migration { codec = delta  ratio = 20  gradient = topk  gradient_ratio = 20 } " DENSE,
               *whole = "migration { codec = sign  gradient = q4 } whole_iterations = 2";
    run_case(&(Case){keys, "dc=2,gpu=2", {2, 2}, .experts = 16, .reload = 3});
    run_case(&(Case){keys, "dc=2,gpu=2", {2, 2}, .experts = 12, .reload = 1, .over_hub = true});
    run_case(&(Case){whole, "dc=2,gpu=2", {2, 2}, .experts = 16, .reload = 1, .whole = 2});
    run_case(&(Case){keys, "dc=2,gpu=2", {2, 2}, .experts = 16, .forgets = 2});
}

// ---- wrong calls -----------------------------------------------------------------------------------

typedef hep_status (*Misuse)(hep_context *context, char *state, uint64_t bytes);

static hep_status of_another_size(hep_context *context, char *state, uint64_t bytes)
{
    return hep_state_load(context, state, bytes - 1, NULL);
}

static hep_status without_memory(hep_context *context, char *state, uint64_t bytes)
{
    (void)state;
    return hep_state_load(context, NULL, bytes, NULL);
}

static hep_status no_state(hep_context *context, char *state, uint64_t bytes)
{
    memset(state, 0, bytes);
    return hep_state_load(context, state, bytes, NULL);
}

static hep_status of_another_rank(hep_context *context, char *state, uint64_t bytes)
{
    state[24] ^= 1;
    return hep_state_load(context, state, bytes, NULL);
}

static hep_status of_another_plan(hep_context *context, char *state, uint64_t bytes)
{
    state[16] ^= 1;
    return hep_state_load(context, state, bytes, NULL);
}

static hep_status of_other_parts(hep_context *context, char *state, uint64_t bytes)
{
    state[48 + 1] ^= 1; // how long the first part is
    return hep_state_load(context, state, bytes, NULL);
}

static hep_status saved_too_small(hep_context *context, char *state, uint64_t bytes)
{
    return hep_state_save(context, state, bytes - 8, NULL);
}

static hep_status bundle_unbound(hep_context *context, char *state, uint64_t bytes)
{
    (void)state, (void)bytes;
    return hep_dense_begin(context, 0, 0, NULL);
}

static hep_status bundle_of_no_number(hep_context *context, char *state, uint64_t bytes)
{
    (void)bytes;
    hep_tensor share = moe_tensor(state, 1, 8, HEP_F32), full = moe_tensor(state, 1, 64, HEP_F32);
    return hep_dense_bind(context, HEP_BUNDLES_MAX, &share, NULL, &full);
}

static hep_status bundle_resized(hep_context *context, char *state, uint64_t bytes)
{
    (void)bytes;
    hep_tensor share = moe_tensor(state, 1, 8, HEP_F32), full = moe_tensor(state, 1, 64, HEP_F32);
    hep_tensor larger = moe_tensor(state, 1, 16, HEP_F32), all = moe_tensor(state, 1, 128, HEP_F32);
    hep_status status = hep_dense_bind(context, 5, &share, NULL, &full);
    return status ? status : hep_dense_bind(context, 5, &larger, NULL, &all);
}

static hep_status bundle_without_gradient(hep_context *context, char *state, uint64_t bytes)
{
    (void)bytes;
    hep_tensor share = moe_tensor(state, 1, 8, HEP_F32), full = moe_tensor(state, 1, 64, HEP_F32);
    hep_status status = hep_dense_bind(context, 5, &share, NULL, &full);
    return status ? status : hep_dense_send(context, 5, &full, 1, NULL);
}

static hep_status bundle_not_begun(hep_context *context, char *state, uint64_t bytes)
{
    (void)bytes;
    hep_tensor share = moe_tensor(state, 1, 8, HEP_F32), full = moe_tensor(state, 1, 64, HEP_F32);
    hep_status status = hep_dense_bind(context, 5, &share, NULL, &full);
    return status ? status : hep_dense_gathered(context, 5, NULL);
}

static hep_status gathered_without_memory(hep_context *context, char *state, uint64_t bytes)
{
    (void)bytes;
    hep_tensor share = moe_tensor(state, 1, 8, HEP_F32), full = moe_tensor(state, 1, 64, HEP_F32);
    return hep_dense_gather(context, &share, &full, NULL);
}

typedef struct {
    hep_plan *plan;
    hep_comm *comm;
    Misuse misuse; // NULL: a rank that does nothing
    hep_status status;
    hep_error error;
} Misuser;

static void *misuser_run(void *argument)
{
    Misuser *one = argument;
    hep_context *context = NULL;
    uint64_t bytes = 0;
    one->error.struct_bytes = sizeof(one->error);
    one->status = hep_create(one->plan, one->comm, NULL, &context);
    if (one->misuse && one->status == HEP_OK && hep_state_bytes(context, &bytes) == HEP_OK) {
        char *state = malloc(bytes);
        one->status = hep_state_save(context, state, bytes, NULL);
        if (one->status == HEP_OK)
            one->status = one->misuse(context, state, bytes);
        hep_last_error(context, &one->error);
        free(state);
    }
    hep_destroy(context);
    hep_comm_free(one->comm);
    return NULL;
}

Test(library_codecs, wrong_states_and_bundles_are_refused)
{
    static const struct {
        Misuse misuse;
        hep_status status;
        const char *words;
    } cases[] = {{of_another_size, HEP_BAD_ARGUMENT, " bytes of state, expected "},
                 {without_memory, HEP_BAD_ARGUMENT, "'bytes' is NULL"},
                 {no_state, HEP_BAD_ARGUMENT, "not a state of this version of the library"},
                 {of_another_rank, HEP_BAD_ARGUMENT, "the state is of another plan, or of rank 3"},
                 {of_another_plan, HEP_BAD_ARGUMENT, "the state is of another plan, or of rank 2"},
                 {of_other_parts, HEP_BAD_ARGUMENT, "the state is damaged, or of other bundles"},
                 {saved_too_small, HEP_BAD_ARGUMENT, " bytes of state, expected "},
                 {bundle_unbound, HEP_BAD_CALL, "bundle 0 is not bound"},
                 {bundle_of_no_number, HEP_BAD_ARGUMENT, "bundle 65536: expected 0 to 65535"},
                 {bundle_resized, HEP_BAD_ARGUMENT, "bundle 5 had 8 elements a share before"},
                 {bundle_without_gradient, HEP_BAD_CALL, "bundle 5 was bound without 'grad'"},
                 {bundle_not_begun, HEP_BAD_CALL, "hep_dense_begin did not start a gather of bundle 5"},
                 {gathered_without_memory, HEP_BAD_CALL, "what it remembers of a bundle belongs to hep_dense_bind"}};
    Compiled compiled =
        compile_case(&(Case){"migration { codec = q4  gradient = q4 } " DENSE, "dc=2,gpu=2", {2, 2}, .experts = 16});
    hep_plan *plan = plan_handed_over(&compiled);
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        Misuser ranks[RANKS];
        hep_comm *comms[RANKS];
        pthread_t threads[RANKS];
        make_comms(false, 0, comms);
        for (int r = 0; r < RANKS; r++) {
            ranks[r] = (Misuser){.plan = plan, .comm = comms[r], .misuse = r == 2 ? cases[c].misuse : NULL};
            pthread_create(&threads[r], NULL, misuser_run, &ranks[r]);
        }
        for (int r = 0; r < RANKS; r++)
            pthread_join(threads[r], NULL);
        cr_expect_eq(ranks[2].status, cases[c].status, "case %zu: '%s' (%s)", c, hep_status_name(ranks[2].status),
                     ranks[2].error.message);
        cr_expect(strstr(ranks[2].error.message, cases[c].words), "case %zu: '%s' does not say '%s'", c,
                  ranks[2].error.message, cases[c].words);
    }
    hep_plan_free(plan);
}
