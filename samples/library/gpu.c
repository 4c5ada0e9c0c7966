/* One rank of a job on GPUs by libhep: a process per GPU, started by torchrun, mpirun or srun. It gathers the experts
 * of every layer of a plan, sends tokens to them and back, once, and says how far the results are off. Experts here are
 * the identity, so that a token's result is the sum of its weights times the token.
 *
 *   cc gpu.c $(pkg-config --cflags --libs hep) -I$CUDA/include -L$CUDA/lib64 -lcudart -o gpu
 *   torchrun --no-python --nproc-per-node 8 ./gpu plan.hepb
 */
#include <cuda_runtime_api.h>
#include <hep.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static hep_context *context;
static cudaStream_t stream;

static void must(hep_status status, const char *what)
{
    hep_error error = {.struct_bytes = sizeof(error)};
    if (status == HEP_OK)
        return;
    hep_last_error(context, &error);
    fprintf(stderr, "gpu: %s: %s: %s\n", what, hep_status_name(status), error.message);
    exit(1);
}

static void must_cuda(cudaError_t error)
{
    if (error == cudaSuccess)
        return;
    fprintf(stderr, "gpu: %s\n", cudaGetErrorString(error));
    exit(1);
}

/* Memory of the GPU, [rows][cols]. */
static hep_tensor make(int64_t rows, int64_t cols, hep_dtype dtype)
{
    hep_tensor tensor = {NULL, rows, cols, 0, dtype, 0};
    must_cuda(cudaMalloc(&tensor.data, (size_t)(rows * cols + 1) * 4));
    return tensor;
}

static size_t bytes_of(const hep_tensor *tensor)
{
    return (size_t)(tensor->rows * tensor->cols) * 4;
}

static void put(const hep_tensor *to, const void *from)
{
    must_cuda(cudaMemcpyAsync(to->data, from, bytes_of(to), cudaMemcpyHostToDevice, stream));
    must_cuda(cudaStreamSynchronize(stream));
}

static void *bring(const hep_tensor *from)
{
    void *to = malloc(bytes_of(from) + 1);
    must_cuda(cudaMemcpyAsync(to, from->data, bytes_of(from), cudaMemcpyDeviceToHost, stream));
    must_cuda(cudaStreamSynchronize(stream));
    return to;
}

/* Expert e consists of e + 1. */
static void bind(const hep_plan *plan, int layer, int rank, int64_t elements, hep_tensor *full)
{
    hep_layer facts = {.struct_bytes = sizeof(facts)};
    int64_t first, count;
    must(hep_plan_layer(plan, layer, &facts), "a layer");
    must(hep_plan_owned(plan, layer, rank, &first, &count), "what the rank owns");
    hep_tensor own = facts.own ? make(facts.own, elements, HEP_F32) : make(1, facts.own_elements, HEP_F32);
    float *weights = calloc((size_t)(own.rows * own.cols), sizeof(*weights));
    for (int64_t i = 0; i < count; i++)
        weights[i] = (float)((first + i) / elements + 1);
    put(&own, weights);
    free(weights);
    *full = make(facts.gathered, elements, HEP_F32);
    must(hep_bind(context, layer, 1, &own, NULL, full), "hep_bind");
}

static double check_gathered(const hep_plan *plan, int layer, int rank, const hep_tensor *full)
{
    int first, count;
    double worst = 0;
    float *weights = bring(full);
    must(hep_plan_held(plan, layer, rank, &first, &count), "what the rank holds");
    for (int64_t i = 0; i < count * full->cols; i++)
        worst = fmax(worst, fabs(weights[i] - (double)(first + i / full->cols + 1)));
    free(weights);
    return worst;
}

/* In place of experts: a row times the weights of those that it names and that are here. */
static void compute(const hep_tensor *x, const hep_tensor *experts, const hep_tensor *weights, int64_t held,
                    const hep_tensor *results)
{
    float *rows = bring(x), *gates = bring(weights);
    int32_t *slots = bring(experts);
    for (int64_t r = 0; r < x->rows; r++) {
        float gate = 0;
        for (int64_t k = r * experts->cols; k < (r + 1) * experts->cols; k++)
            gate += slots[k] < held ? gates[k] : 0;
        for (int64_t c = 0; c < x->cols; c++)
            rows[r * x->cols + c] *= gate;
    }
    put(results, rows);
    free(rows);
    free(gates);
    free(slots);
}

static double send_tokens(const hep_facts *facts, int layer, int64_t held)
{
    int64_t tokens = facts->tokens, choices = tokens * facts->top_k, rows, records;
    hep_tensor x = make(tokens, facts->hidden, HEP_F32), experts = make(tokens, facts->top_k, HEP_I32),
               weights = make(tokens, facts->top_k, HEP_F32), out = make(tokens, facts->hidden, HEP_F32);
    float *ones = malloc(bytes_of(&x) + bytes_of(&weights)), *gates = ones + x.rows * x.cols;
    int32_t *chosen = malloc(bytes_of(&experts));
    double worst = 0;
    hep_route *route;
    for (int64_t i = 0; i < x.rows * x.cols; i++)
        ones[i] = 1;
    for (int64_t i = 0; i < choices; i++) {
        gates[i] = 1 / (float)facts->top_k;
        chosen[i] = (int32_t)((i / facts->top_k + i % facts->top_k * 3 + layer) % facts->experts);
    }
    put(&x, ones);
    put(&weights, gates);
    put(&experts, chosen);
    must(hep_dispatch(context, layer, &x, &experts, &weights, 0, stream, &route), "hep_dispatch");
    must(hep_route_rows(route, &rows, &records, NULL), "hep_route_rows");
    hep_tensor row_x = make(rows, facts->hidden, HEP_F32), row_experts = make(rows, records, HEP_I32),
               row_weights = make(rows, records, HEP_F32), results = make(rows, facts->hidden, HEP_F32);
    must(hep_dispatch_finish(route, &row_x, &row_experts, &row_weights, stream), "hep_dispatch_finish");
    compute(&row_x, &row_experts, &row_weights, held, &results);
    must(hep_combine(route, &results, &out, stream), "hep_combine");
    float *sums = bring(&out);
    for (int64_t i = 0; i < out.rows * out.cols; i++)
        worst = fmax(worst, fabs(sums[i] - 1.0));
    hep_route_free(route);
    hep_tensor *all[] = {&x, &experts, &weights, &out, &row_x, &row_experts, &row_weights, &results};
    for (size_t t = 0; t < sizeof(all) / sizeof(all[0]); t++)
        must_cuda(cudaFree(all[t]->data));
    free(ones);
    free(chosen);
    free(sums);
    return worst;
}

int main(int count, char *arguments[])
{
    hep_plan *plan;
    hep_comm *comm;
    hep_comm_options options = {.struct_bytes = sizeof(options), .device = -1, .timeout_s = 60};
    hep_facts facts = {.struct_bytes = sizeof(facts)};
    hep_tensor full[64];
    double worst = 0;
    if (count != 2) {
        fprintf(stderr, "usage: gpu PLAN\n");
        return 2;
    }
    must(hep_plan_read(arguments[1], &plan), arguments[1]);
    must(hep_plan_facts(plan, &facts), "facts");
    if (facts.dtype != HEP_F32 || facts.moe_layers > 64) {
        fprintf(stderr, "gpu: expected a plan in f32 of at most 64 layers\n");
        return 1;
    }
    const char *place = getenv("LOCAL_RANK"); /* as the launcher says; else the library finds it */
    if (place) {
        options.device = atoi(place);
        must_cuda(cudaSetDevice(options.device));
    }
    must_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    must(hep_comm_nccl_env(&options, &comm), "hep_comm_nccl_env");
    must(hep_create(plan, comm, NULL, &context), "hep_create");
    int rank = hep_rank(context);
    for (int k = 0; k < facts.moe_layers; k++)
        bind(plan, k, rank, facts.expert_elements, &full[k]);
    must(hep_begin(context, 0, stream), "hep_begin"); /* gathers of all layers, as far as there are slots */
    for (int k = 0; k < facts.moe_layers; k++) {
        must(hep_gathered(context, k, 0, stream), "hep_gathered");
        worst = fmax(worst, check_gathered(plan, k, rank, &full[k]));
        worst = fmax(worst, send_tokens(&facts, k, full[k].rows));
        must(hep_used(context, k, 0, stream), "hep_used");
    }
    must_cuda(cudaStreamSynchronize(stream));
    hep_destroy(context);
    hep_comm_free(comm);
    hep_plan_free(plan);
    if (rank == 0)
        printf("%d ranks, %d layers: largest error %g\n", facts.ranks, facts.moe_layers, worst);
    return worst > 1e-6;
}
