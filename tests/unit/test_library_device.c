// libhep on a GPU's memory, emulated: what ranks get is bit for bit what the same calls give in host memory, over NCCL
// with a GPU a rank, and with ranks that share one; and callers that do what they should not.
//
// builds: dev fast  seconds: 20
#include "moe_client.h"

#include <cuda_runtime_api.h>
#include <pthread.h>

#include "compiled.h"
#include "fixed_plans.h"
#include "kernels/host/kernels.h"
#include "runtime/base/clock.h"

enum { RANKS = 4, LAYERS = 2, HIDDEN = 16, PARAMETERS = 2, TOKENS = 12, TOP_K = 2, BUNDLE = 70, ITERATIONS = 3 };

typedef enum { HOST, ONE_GPU, NCCL, PLACES } Place;

// Streams are threads, so that what is read too early shows.
static void begin(void)
{
    setenv("HEP_EMULATION_ASYNC", "1", 1);
    setenv("HEP_EMULATION_DEVICES", "4", 1);
}
TestSuite(library_device, .init = begin);

// ---- plans -----------------------------------------------------------------------------------------

typedef struct {
    const char *domain, *dtype, *dispatch, *keys;
    bool forward, expanded, wide;
    int experts; // 8 unless given
} Form;

static hep_plan *plan_of(const Form *form)
{
    char text[1024];
    snprintf(text, sizeof(text),
             "cluster c { level dc { count = 2  bandwidth = 1 Gbit/s  latency = 1 ms }\n"
             "  level gpu { count = 2  bandwidth = 10 Gbit/s  latency = 10 us }\n"
             "  device { compute = 1 TFLOP/s  memory = 8 GB  memory_bandwidth = 100 GB/s } }\n"
             "model m { layers = 2  hidden = 16  heads = 2  vocabulary = 64  sequence = 12  batch = 1  dtype = %s\n"
             "  moe { experts = %d  top_k = 2  inner = 8  activation = gelu } }\n"
             "plan { pass = %s  dispatch = %s %s }\n",
             form->dtype, form->experts ? form->experts : 8, form->forward ? "forward" : "training",
             form->dispatch ? form->dispatch : "dedup", form->keys ? form->keys : "");
    Compiled compiled = compiled_with(text, form->domain, strstr(form->domain, "once") ? 0 : PREFETCH_UNLIMITED);
    return plan_handed_over(&compiled);
}

// ---- a rank ----------------------------------------------------------------------------------------

typedef struct {
    Place place;
    int rank;
    const Form *form;
    hep_plan *plan;
    hep_comm *comm;
    const uint8_t *id; // of NCCL
    double timeout_s;
    hep_context *context;
    hep_layer layers[LAYERS];
    hep_dtype dtype;
    cudaStream_t stream;
    void *memory[1024]; // that is to be freed
    bool is_staged[1024];
    int memory_count;
    uint64_t digest; // of all that it got
    hep_traffic traffic[2];
    uint32_t numbers;          // drawn so far
    bool failed, failed_there; // in the call that was wrong on one rank
    hep_status status;         // of the first call that did not go through
    hep_error error;
} Rank;

static void *take(Rank *rank, size_t bytes)
{
    void *memory = NULL;
    if (rank->place == HOST)
        memory = malloc(bytes + 1);
    else if (cudaMalloc(&memory, bytes + 1) != cudaSuccess)
        memory = NULL;
    if (!memory || rank->memory_count == (int)COUNT_OF(rank->memory))
        abort();
    memset(memory, 0, bytes);
    return rank->memory[rank->memory_count++] = memory;
}

// Writes what lies in `staged`, malloc's, on the rank's stream: late.
static void write_later(Rank *rank, const hep_tensor *tensor, void *staged, size_t bytes)
{
    if (rank->place == HOST) {
        memcpy(tensor->data, staged, bytes);
        free(staged);
        return;
    }
    if (rank->memory_count == (int)COUNT_OF(rank->memory) ||
        cudaMemcpyAsync(tensor->data, staged, bytes, cudaMemcpyHostToDevice, rank->stream) != cudaSuccess)
        abort();
    rank->is_staged[rank->memory_count] = true;
    rank->memory[rank->memory_count++] = staged;
}

static void give_all(Rank *rank)
{
    while (rank->memory_count > 0) {
        void *memory = rank->memory[--rank->memory_count];
        if (rank->place == HOST || rank->is_staged[rank->memory_count])
            free(memory);
        else
            cudaFree(memory);
        rank->is_staged[rank->memory_count] = false;
    }
}

// Until what the rank's stream has been given is done.
static void sync(const Rank *rank)
{
    if (rank->place != HOST)
        cudaStreamSynchronize(rank->stream);
}

static bool ok(Rank *rank, hep_status status)
{
    if (status != HEP_OK && !rank->failed) {
        rank->failed = true;
        rank->status = status;
        rank->error = (hep_error){.struct_bytes = sizeof(rank->error)};
        hep_last_error(rank->context, &rank->error);
    }
    return status == HEP_OK;
}

static size_t element_bytes(hep_dtype dtype)
{
    return dtype == HEP_I64 ? 8 : dtype == HEP_F16 || dtype == HEP_BF16 ? 2 : 4;
}

static hep_tensor make(Rank *rank, int64_t rows, int64_t cols, hep_dtype dtype)
{
    return moe_tensor(take(rank, (size_t)(rows * cols) * element_bytes(dtype)), rows, cols, dtype);
}

// Numbers of the rank's own, in the tensor's dtype.
static void fill(Rank *rank, const hep_tensor *tensor)
{
    size_t each = element_bytes((hep_dtype)tensor->dtype), count = (size_t)(tensor->rows * tensor->cols);
    char *staged = malloc(count * each + 1);
    for (size_t i = 0; i < count; i++) {
        float number = moe_number((uint32_t)rank->rank + 1, rank->numbers++);
        host_from_f32(&number, staged + i * each, (Dtype)tensor->dtype, 1);
    }
    write_later(rank, tensor, staged, count * each);
}

// FNV-1a.
static void note(Rank *rank, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        rank->digest = (rank->digest ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
}

static void note_tensor(Rank *rank, const hep_tensor *tensor)
{
    sync(rank);
    note(rank, tensor->data, (size_t)(tensor->rows * tensor->cols) * element_bytes((hep_dtype)tensor->dtype));
}

// ---- tokens ----------------------------------------------------------------------------------------

typedef struct {
    hep_route *route;
    hep_tensor x, experts, weights;
} Arrived;

// Some ranks have fewer tokens, one has none in every third dispatch.
static int64_t token_count(const Rank *rank, int layer)
{
    return rank->rank == 1 && layer == 1 ? 0 : TOKENS - 3 * rank->rank;
}

static void choose(Rank *rank, int layer, const hep_tensor *experts)
{
    size_t bytes = (size_t)(experts->rows * TOP_K) * element_bytes((hep_dtype)experts->dtype);
    void *staged = malloc(bytes + 1);
    hep_facts facts = {.struct_bytes = sizeof(facts)};
    hep_plan_facts(rank->plan, &facts);
    for (int64_t i = 0; i < experts->rows * TOP_K; i++) {
        int64_t token = i / TOP_K, k = i % TOP_K, first = (token * 5 + rank->rank * 3 + layer) % facts.experts;
        int64_t expert = k > 0 && token % 5 == 4 ? -1 : (first + k * (1 + token % 3)) % facts.experts;
        if (experts->dtype == HEP_I64)
            ((int64_t *)staged)[i] = expert;
        else
            ((int32_t *)staged)[i] = (int32_t)expert;
    }
    write_later(rank, experts, staged, bytes);
}

static bool forward(Rank *rank, int layer, Arrived *out)
{
    int64_t tokens = token_count(rank, layer), rows, records, per_expert[64] = {0};
    hep_dtype index = rank->form->wide ? HEP_I64 : HEP_I32;
    bool limited = rank->form->keys && strstr(rank->form->keys, "capacity");
    hep_tensor x = make(rank, tokens, HIDDEN, rank->dtype), experts = make(rank, tokens, TOP_K, index),
               weights = make(rank, tokens, TOP_K, HEP_F32), sums = make(rank, tokens, HIDDEN, rank->dtype);
    int flags = (rank->form->expanded ? HEP_EXPANDED : 0) | (limited ? HEP_DROP : 0);
    fill(rank, &x);
    fill(rank, &weights);
    choose(rank, layer, &experts);
    if (!ok(rank, hep_dispatch(rank->context, layer, &x, &experts, &weights, flags, rank->stream, &out->route)) ||
        !ok(rank, hep_route_rows(out->route, &rows, &records, NULL)))
        return false;
    out->x = make(rank, rows, HIDDEN, rank->dtype);
    out->experts = make(rank, rows, records, index);
    out->weights = make(rank, rows, records, HEP_F32);
    if (!ok(rank, hep_dispatch_finish(out->route, &out->x, &out->experts, &out->weights, rank->stream)) ||
        !ok(rank, hep_route_rows(out->route, NULL, NULL, per_expert)) ||
        !ok(rank, hep_combine(out->route, &out->x, &sums, rank->stream)))
        return false;
    note(rank, &rows, sizeof(rows));
    note(rank, per_expert, sizeof(per_expert));
    note_tensor(rank, &out->x);
    note_tensor(rank, &out->experts);
    note_tensor(rank, &out->weights);
    note_tensor(rank, &sums);
    return true;
}

static bool backward(Rank *rank, int layer, const Arrived *arrived)
{
    int64_t tokens = token_count(rank, layer), rows = arrived->x.rows;
    hep_tensor dout = make(rank, tokens, HIDDEN, rank->dtype), dresults = make(rank, rows, HIDDEN, rank->dtype),
               dweights = make(rank, rows, arrived->weights.cols, HEP_F32),
               dx = make(rank, tokens, HIDDEN, rank->dtype), dgates = make(rank, tokens, TOP_K, HEP_F32);
    fill(rank, &dout);
    fill(rank, &dweights);
    if (!ok(rank, hep_combine_backward(arrived->route, &dout, &dresults, rank->stream)) ||
        !ok(rank, hep_dispatch_backward(arrived->route, &dresults, &dweights, &dx, &dgates, rank->stream)))
        return false;
    note_tensor(rank, &dresults);
    note_tensor(rank, &dx);
    note_tensor(rank, &dgates);
    return true;
}

// ---- weights ---------------------------------------------------------------------------------------

typedef struct {
    hep_tensor own[PARAMETERS], grads[PARAMETERS], full[PARAMETERS], sent[PARAMETERS];
    int owned; // tensors of own and grads
} Weights;

typedef struct {
    Weights layers[LAYERS];
    hep_tensor share, grad, all, sent;
} Bound;

static bool bind_layer(Rank *rank, int layer, Weights *out)
{
    hep_layer *facts = &rank->layers[layer];
    facts->struct_bytes = sizeof(*facts);
    if (!ok(rank, hep_plan_layer(rank->plan, layer, facts)))
        return false;
    out->owned = facts->own ? PARAMETERS : 1;
    for (int p = 0; p < PARAMETERS; p++) {
        int64_t cols = HIDDEN * 8; // of up and of down
        out->full[p] = make(rank, facts->gathered, cols, rank->dtype);
        out->sent[p] = make(rank, facts->gathered, cols, rank->dtype);
        if (p < out->owned) {
            out->own[p] = facts->own ? make(rank, facts->own, cols, rank->dtype)
                                     : make(rank, 1, facts->own_elements, rank->dtype);
            out->grads[p] = make(rank, out->own[p].rows, out->own[p].cols, HEP_F32);
        }
    }
    return ok(rank,
              hep_bind(rank->context, layer, PARAMETERS, out->own, rank->form->forward ? NULL : out->grads, out->full));
}

static bool bind_all(Rank *rank, Bound *out)
{
    int64_t share;
    for (int k = 0; k < LAYERS; k++)
        if (!bind_layer(rank, k, &out->layers[k]))
            return false;
    if (!ok(rank, hep_dense_share(rank->context, BUNDLE, &share, NULL)))
        return false;
    out->share = make(rank, 1, share, rank->dtype);
    out->grad = make(rank, 1, share, HEP_F32);
    out->all = make(rank, 1, RANKS * share, rank->dtype);
    out->sent = make(rank, 1, RANKS * share, rank->dtype);
    return ok(rank, hep_dense_bind(rank->context, 7, &out->share, &out->grad, &out->all));
}

// The optimizer's part.
static void change_weights(Rank *rank, Bound *bound)
{
    for (int k = 0; k < LAYERS; k++)
        for (int p = 0; p < bound->layers[k].owned; p++)
            fill(rank, &bound->layers[k].own[p]);
    fill(rank, &bound->share);
}

static bool return_layer(Rank *rank, int layer, Weights *weights)
{
    for (int p = 0; p < PARAMETERS; p++)
        fill(rank, &weights->sent[p]);
    return ok(rank, hep_return(rank->context, layer, PARAMETERS, weights->sent, 0.25, rank->stream));
}

static bool gathered(Rank *rank, int layer, int flags, const Weights *weights)
{
    if (!ok(rank, hep_gathered(rank->context, layer, flags, rank->stream)))
        return false;
    for (int p = 0; p < PARAMETERS; p++)
        note_tensor(rank, &weights->full[p]);
    return true;
}

static bool pass_back(Rank *rank, Bound *bound, const Arrived arrived[LAYERS])
{
    if (!ok(rank, hep_begin(rank->context, HEP_BACKWARD, rank->stream)))
        return false;
    for (int k = LAYERS; k-- > 0;)
        if (!gathered(rank, k, HEP_BACKWARD, &bound->layers[k]) || !backward(rank, k, &arrived[k]) ||
            !ok(rank, hep_used(rank->context, k, HEP_BACKWARD, rank->stream)) ||
            !return_layer(rank, k, &bound->layers[k]))
            return false;
    fill(rank, &bound->sent);
    if (!ok(rank, hep_dense_send(rank->context, 7, &bound->sent, 0.5, rank->stream)) ||
        !ok(rank, hep_finish(rank->context, rank->stream)))
        return false;
    for (int k = 0; k < LAYERS; k++)
        for (int p = 0; p < bound->layers[k].owned; p++)
            note_tensor(rank, &bound->layers[k].grads[p]);
    note_tensor(rank, &bound->grad);
    return true;
}

static bool iterate(Rank *rank, Bound *bound)
{
    Arrived arrived[LAYERS] = {0};
    change_weights(rank, bound);
    bool went = ok(rank, hep_begin(rank->context, 0, rank->stream)) &&
                ok(rank, hep_dense_begin(rank->context, 7, 0, rank->stream));
    for (int k = 0; k < LAYERS && went; k++)
        went = gathered(rank, k, 0, &bound->layers[k]) && forward(rank, k, &arrived[k]) &&
               ok(rank, hep_used(rank->context, k, 0, rank->stream));
    went = went && ok(rank, hep_dense_gathered(rank->context, 7, rank->stream));
    if (went)
        note_tensor(rank, &bound->all);
    went = went && (rank->form->forward || pass_back(rank, bound, arrived));
    sync(rank);
    for (int k = 0; k < LAYERS; k++)
        hep_route_free(arrived[k].route);
    return went;
}

// What codecs remember goes out, and comes in again where it was forgotten.
static bool save_and_load(Rank *rank)
{
    uint64_t bytes = 0;
    if (!ok(rank, hep_state_bytes(rank->context, &bytes)) || bytes == 0)
        return !rank->failed;
    char *state = calloc(1, bytes);
    bool went = ok(rank, hep_state_save(rank->context, state, bytes, rank->stream)) &&
                ok(rank, hep_state_load(rank->context, NULL, 0, rank->stream)) &&
                ok(rank, hep_state_load(rank->context, state, bytes, rank->stream));
    note(rank, state, went ? bytes : 0);
    free(state);
    return went;
}

// ---- all ranks -------------------------------------------------------------------------------------

// Communicator, stream and context. The thread's own device stays what it is.
static bool join(Rank *rank)
{
    hep_comm_options options = {.struct_bytes = sizeof(options), .device = rank->rank, .timeout_s = rank->timeout_s};
    hep_options made = {.struct_bytes = sizeof(made)};
    hep_facts facts = {.struct_bytes = sizeof(facts)};
    hep_plan_facts(rank->plan, &facts);
    rank->dtype = (hep_dtype)facts.dtype;
    rank->digest = 0xcbf29ce484222325u;
    if (rank->place != HOST)
        cudaSetDevice(rank->place == NCCL ? rank->rank : 0);
    if (rank->place != HOST && cudaStreamCreateWithFlags(&rank->stream, cudaStreamNonBlocking) != cudaSuccess)
        return false;
    if (rank->place == NCCL && !ok(rank, hep_comm_nccl(rank->rank, RANKS, rank->id, &options, &rank->comm)))
        return false;
    return ok(rank, hep_create(rank->plan, rank->comm, &made, &rank->context));
}

static void part(Rank *rank)
{
    hep_destroy(rank->context);
    hep_comm_free(rank->comm);
    give_all(rank);
    if (rank->stream)
        cudaStreamDestroy(rank->stream);
}

static void *run(void *argument)
{
    Rank *rank = argument;
    Bound bound = {0};
    bool went = join(rank) && bind_all(rank, &bound);
    for (int i = 0; i < ITERATIONS && went; i++)
        went = iterate(rank, &bound) && (i > 0 || save_and_load(rank));
    rank->traffic[0].struct_bytes = sizeof(rank->traffic[0]);
    if (went)
        (void)ok(rank, hep_count(rank->context, rank->traffic, NULL, 1));
    part(rank);
    return NULL;
}

static void run_all(Rank ranks[RANKS], Place place, const Form *form, double timeout_s, void *(*work)(void *))
{
    hep_plan *plan = plan_of(form);
    hep_comm *comms[RANKS] = {0};
    pthread_t threads[RANKS];
    uint8_t id[128];
    hep_comm_options options = {
        .struct_bytes = sizeof(options), .device = place == ONE_GPU ? 0 : -1, .timeout_s = timeout_s};
    if (place == NCCL)
        cr_assert_eq(hep_nccl_id(id), HEP_OK);
    else
        cr_assert_eq(hep_comm_threads(RANKS, &options, comms), HEP_OK);
    for (int r = 0; r < RANKS; r++) {
        ranks[r] = (Rank){
            .place = place, .rank = r, .form = form, .plan = plan, .comm = comms[r], .id = id, .timeout_s = timeout_s};
        pthread_create(&threads[r], NULL, work, &ranks[r]);
    }
    for (int r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
    hep_plan_free(plan);
}

static void expect_same(const Form *form, Place place)
{
    static Rank on_host[RANKS], on_device[RANKS];
    run_all(on_host, HOST, form, 20, run);
    run_all(on_device, place, form, 20, run);
    for (int r = 0; r < RANKS; r++) {
        cr_assert(!on_host[r].failed, "%s, rank %d on the host: %s", form->domain, r, on_host[r].error.message);
        cr_assert(!on_device[r].failed, "%s %s, rank %d: %s", form->domain, form->dtype, r, on_device[r].error.message);
        cr_assert_eq(on_device[r].digest, on_host[r].digest, "%s %s %s %s, rank %d: other bits", form->domain,
                     form->dtype, form->dispatch ? form->dispatch : "", form->keys ? form->keys : "", r);
        for (int l = 0; l < 2; l++) {
            const hep_traffic *is = &on_device[r].traffic[l], *of = &on_host[r].traffic[l];
            cr_assert_eq(is->exchange, of->exchange);
            cr_assert_eq(is->gather, of->gather);
            cr_assert_eq(is->reduce, of->reduce);
            cr_assert_eq(is->dense_gather, of->dense_gather);
            cr_assert_eq(is->dense_reduce, of->dense_reduce);
        }
    }
}

static const char *const domains[] = {"dc=1,gpu=1", "dc=2,gpu=1", "dc=1,gpu=2", "dc=2,gpu=2"};

Test(library_device, bits_are_those_of_the_host)
{
    static const char *const dtypes[] = {"f32", "bf16", "f16"};
    for (size_t d = 0; d < COUNT_OF(domains); d++)
        for (int kind = 0; kind < 3; kind++) {
            Form form = {.domain = domains[d],
                         .dtype = dtypes[(d + (size_t)kind) % 3],
                         .dispatch = kind == 1 ? "naive" : "dedup",
                         .expanded = kind == 2,
                         .wide = kind != 1};
            expect_same(&form, kind == 1 ? ONE_GPU : NCCL);
        }
}

Test(library_device, experts_in_pieces_and_gathered_again)
{
    const Form forms[] = {{.domain = "dc=2,gpu=2", .dtype = "f32", .experts = 6},
                          {.domain = "dc=2,gpu=2,once=none", .dtype = "f32"},
                          {.domain = "dc=2,gpu=2,once=dc", .dtype = "bf16", .expanded = true}};
    for (size_t f = 0; f < COUNT_OF(forms); f++)
        expect_same(&forms[f], f == 1 ? ONE_GPU : NCCL);
}

Test(library_device, packed_rows_and_padded_messages)
{
    const Form forms[] = {
        {.domain = "dc=1,gpu=1", .dtype = "bf16", .keys = "tokens = fp8"},
        {.domain = "dc=1,gpu=2", .dtype = "f32", .keys = "tokens = int4", .expanded = true},
        {.domain = "dc=1,gpu=1", .dtype = "f32", .keys = "capacity = 1  exchange = padded"},
        {.domain = "dc=2,gpu=1", .dtype = "f16", .keys = "capacity = 2  exchange = padded", .expanded = true}};
    for (size_t f = 0; f < COUNT_OF(forms); f++)
        expect_same(&forms[f], f == 3 ? ONE_GPU : NCCL);
}

Test(library_device, codecs_remember_the_same)
{
    const Form forms[] = {
        {.domain = "dc=2,gpu=2", .dtype = "f32", .keys = "migration { codec = delta  ratio = 8 }"},
        {.domain = "dc=2,gpu=2",
         .dtype = "bf16",
         .keys = "migration { codec = q4  gradient = q4 }  dense { codec = q4  gradient = q4 }"},
        {.domain = "dc=2,gpu=1", .dtype = "f32", .keys = "migration { codec = sr  ratio = 8  gradient = topk }"}};
    for (size_t f = 0; f < COUNT_OF(forms); f++)
        expect_same(&forms[f], f == 1 ? ONE_GPU : NCCL);
}

// ---- what callers should not do --------------------------------------------------------------------

typedef enum { WRONG_MEMORY, WRONG_GPU, WRONG_ALIGNMENT, WRONG_STREAM, ABORTS, STAYS_AWAY, WAYS } Way;

static Way way;
enum { CULPRIT = 2 };

// One dispatch into which one rank puts something wrong.
static hep_status dispatch_wrongly(Rank *rank)
{
    char on_host[TOKENS * HIDDEN * 4];
    hep_route *route = NULL;
    hep_tensor x = make(rank, TOKENS, HIDDEN, rank->dtype), experts = make(rank, TOKENS, TOP_K, HEP_I32),
               weights = make(rank, TOKENS, TOP_K, HEP_F32);
    void *stream = rank->stream, *elsewhere = NULL;
    choose(rank, 0, &experts);
    if (rank->rank == CULPRIT && way == WRONG_MEMORY)
        x.data = on_host;
    if (rank->rank == CULPRIT && way == WRONG_ALIGNMENT)
        x = (hep_tensor){.data = (char *)x.data + 4, .rows = 1, .cols = HIDDEN, .dtype = x.dtype};
    if (rank->rank == CULPRIT && way == WRONG_ALIGNMENT)
        experts.rows = weights.rows = 1;
    cudaSetDevice(0);
    if (rank->rank == CULPRIT && way == WRONG_GPU && cudaMalloc(&elsewhere, sizeof(on_host)) == cudaSuccess)
        x.data = elsewhere;
    cudaStream_t other = NULL;
    if (rank->rank == CULPRIT && way == WRONG_STREAM && cudaStreamCreate(&other) == cudaSuccess)
        stream = other;
    cudaSetDevice(rank->rank);
    hep_status status = hep_dispatch(rank->context, 0, &x, &experts, &weights, 0, stream, &route);
    hep_route_free(route);
    int device = -1;
    cudaGetDevice(&device);
    if (device != rank->rank)
        status = HEP_INTERNAL; // the library changed the thread's device
    cudaFree(elsewhere);
    if (other)
        cudaStreamDestroy(other);
    return status;
}

static void *run_wrongly(void *argument)
{
    Rank *rank = argument;
    Bound bound = {0};
    bool went = join(rank) && bind_all(rank, &bound) && iterate(rank, &bound) && iterate(rank, &bound);
    if (went && rank->rank == CULPRIT && way == ABORTS)
        hep_abort(rank->context, "the culprit has had enough");
    // The others have collectives in line that nobody joins, and wait for them on their streams.
    if (went && !(rank->rank == CULPRIT && (way == ABORTS || way == STAYS_AWAY))) {
        if (way >= ABORTS)
            went = ok(rank, hep_begin(rank->context, 0, rank->stream)) &&
                   ok(rank, hep_gathered(rank->context, 0, 0, rank->stream));
        sync(rank); // comes back
        went = went && ok(rank, dispatch_wrongly(rank));
        rank->failed_there = !went;
        while (went) // who did not meet the culprit there meets him, or those who did
            went = iterate(rank, &bound);
    }
    if (rank->rank == CULPRIT && way == STAYS_AWAY)
        clock_sleep_until(clock_now_s() + 3);
    // What has failed stays so, with its record.
    if (rank->failed && rank->context) {
        hep_error again = {.struct_bytes = sizeof(again)};
        cr_expect_eq(hep_begin(rank->context, 0, rank->stream), rank->status);
        cr_expect_eq(hep_finish(rank->context, rank->stream), rank->status);
        hep_last_error(rank->context, &again);
        cr_expect_str_eq(again.message, rank->error.message);
    }
    part(rank);
    return NULL;
}

Test(library_device, what_is_wrong_on_one_rank_fails_on_all)
{
    static const struct {
        hep_status status;
        const char *words;
    } expected[WAYS] = {{HEP_BAD_ARGUMENT, "'x' is not in memory of GPU 2"},
                        {HEP_BAD_ARGUMENT, "'x' is in memory of GPU 0, expected GPU 2"},
                        {HEP_BAD_ARGUMENT, "'x' does not begin at a multiple of 16 bytes"},
                        {HEP_BAD_ARGUMENT, "'stream' is not one of GPU 2"},
                        {HEP_ABORTED, "the culprit has had enough"},
                        {HEP_TIMEOUT, "has waited on the GPU for 1 s"}};
    static Rank ranks[RANKS];
    Form form = {.domain = "dc=2,gpu=1", .dtype = "f32"};
    for (way = 0; way < WAYS; way++) {
        run_all(ranks, NCCL, &form, way == STAYS_AWAY ? 1 : 20, run_wrongly);
        for (int r = 0; r < RANKS; r++) {
            if (r == CULPRIT && way >= ABORTS)
                continue;
            cr_expect_eq(ranks[r].status, expected[way].status, "way %d, rank %d: %s: %s", (int)way, r,
                         hep_status_name(ranks[r].status), ranks[r].error.message);
            cr_expect(strstr(ranks[r].error.message, expected[way].words), "way %d, rank %d: '%s'", (int)way, r,
                      ranks[r].error.message);
            cr_expect(r != (CULPRIT ^ 1) || ranks[r].failed_there, "way %d: who meets the culprit goes on", (int)way);
            cr_expect(ranks[r].error.rank == CULPRIT || way == STAYS_AWAY, "way %d, rank %d: found by %d", (int)way, r,
                      (int)ranks[r].error.rank);
        }
    }
}

// ---- several contexts ------------------------------------------------------------------------------

static void *run_two(void *argument)
{
    Rank *rank = argument;
    Bound bounds[2];
    memset(bounds, 0, sizeof(bounds));
    bool went = join(rank) && bind_all(rank, &bounds[0]);
    Rank second = *rank;
    second.memory_count = 0;
    hep_options made = {.struct_bytes = sizeof(made)};
    went = went && ok(&second, hep_create(second.plan, second.comm, &made, &second.context)) &&
           bind_all(&second, &bounds[1]);
    for (int i = 0; i < ITERATIONS && went; i++)
        went = iterate(rank, &bounds[0]) && iterate(&second, &bounds[1]);
    rank->failed = rank->failed || second.failed || !went;
    // Both got the same numbers, and so the same bits.
    rank->failed = rank->failed || rank->digest != second.digest;
    if (second.failed)
        rank->error = second.error;
    hep_destroy(second.context);
    give_all(&second);
    part(rank);
    return NULL;
}

Test(library_device, two_contexts_on_a_communicator)
{
    static Rank ranks[RANKS];
    Form form = {.domain = "dc=1,gpu=2", .dtype = "f32"};
    for (int place = ONE_GPU; place < PLACES; place++) {
        run_all(ranks, (Place)place, &form, 20, run_two);
        for (int r = 0; r < RANKS; r++)
            cr_assert(!ranks[r].failed, "rank %d: %s", r, ranks[r].error.message);
    }
}
