// The doubles of NCCL and of the CUDA runtime refuse what the real ones forbid: every test plants a fault of use, and
// beside it the right use, which goes through. Without this a hang on a GPU would be a passed test here.
// builds: fast  seconds: 3
#include <criterion/criterion.h>
#include <nccl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/kernels.h"
#include "runtime/comm/comm_nccl_internal.h"

enum { COUNT = 64 };

static void expect_cuda(cudaError_t found, cudaError_t expected, int line)
{
    cr_assert_eq(found, expected, "line %d: %d, not %d", line, (int)found, (int)expected);
}
#define CUDA(call, expected) expect_cuda(call, expected, __LINE__)
#define NCCL(call, expected)                                                                                           \
    do {                                                                                                               \
        ncclResult_t found_ = call;                                                                                    \
        cr_assert_eq(found_, expected, "line %d: %d, not %d", __LINE__, (int)found_, (int)(expected));                 \
    } while (0)

// Streams are threads, and what hangs counts as such soon.
static void begin(void)
{
    setenv("HEP_EMULATION_ASYNC", "1", 1);
    setenv("HEP_EMULATION_PATIENCE", "0.2", 1);
    setenv("HEP_EMULATION_DEVICES", "2", 1);
}
TestSuite(cuda_doubles, .init = begin);

static cudaStream_t stream_create(void)
{
    cudaStream_t stream;
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    return stream;
}

static char *memory_create(void)
{
    char *memory;
    CUDA(cudaMalloc((void **)&memory, 2 * COUNT), cudaSuccess);
    return memory;
}

// Ranks of one communicator, each of a device of its own.
static void comms_create(ncclComm_t comms[], int size, int blocking)
{
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = blocking;
    NCCL(ncclGetUniqueId(&id), ncclSuccess);
    for (int r = 0; r < size; r++) {
        CUDA(cudaSetDevice(r), cudaSuccess);
        NCCL(ncclCommInitRankConfig(&comms[r], size, id, r, &config), ncclSuccess);
    }
    CUDA(cudaSetDevice(0), cudaSuccess);
}

static ncclComm_t comm_create(int blocking)
{
    ncclComm_t comm;
    comms_create(&comm, 1, blocking);
    return comm;
}

static ncclResult_t settle(ncclComm_t comm)
{
    ncclResult_t state;
    NCCL(ncclCommGetAsyncError(comm, &state), ncclSuccess);
    return state;
}

// What the communicator says once its work has ended.
static ncclResult_t outcome(ncclComm_t comm, cudaStream_t stream)
{
    ncclResult_t state = settle(comm);
    for (int i = 0; i < 2000 && state == ncclSuccess && cudaStreamQuery(stream) == cudaErrorNotReady; i++) {
        usleep(1000);
        state = settle(comm);
    }
    return settle(comm);
}

// ---- what ends communicators -----------------------------------------------------------------

static cudaGraphExec_t graph_with_calls(ncclComm_t comm, cudaStream_t stream)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    char *memory = memory_create();
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), cudaSuccess);
    NCCL(ncclAllGather(memory, memory, COUNT, ncclInt8, comm, stream), ncclSuccess);
    CUDA(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    CUDA(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    CUDA(cudaGraphDestroy(graph), cudaSuccess);
    CUDA(cudaGraphLaunch(exec, stream), cudaSuccess);
    CUDA(cudaStreamSynchronize(stream), cudaSuccess);
    return exec;
}

Test(cuda_doubles, abort_waits_for_graphs, .signal = SIGABRT)
{
    ncclComm_t comm = comm_create(1);
    graph_with_calls(comm, stream_create());
    ncclCommAbort(comm);
}

Test(cuda_doubles, finalize_waits_for_graphs, .signal = SIGABRT)
{
    ncclComm_t comm = comm_create(1);
    graph_with_calls(comm, stream_create());
    ncclCommFinalize(comm);
}

Test(cuda_doubles, graphs_go_first)
{
    ncclComm_t comm = comm_create(1);
    CUDA(cudaGraphExecDestroy(graph_with_calls(comm, stream_create())), cudaSuccess);
    NCCL(ncclCommAbort(comm), ncclSuccess);
}

// The second one's work comes after the first one's, which waits for a peer that never calls.
static void one_stream(ncclComm_t first[2], ncclComm_t second[2])
{
    cudaStream_t stream = stream_create();
    char *memory = memory_create();
    comms_create(first, 2, 1);
    comms_create(second, 2, 1);
    NCCL(ncclAllGather(memory, memory, COUNT, ncclInt8, first[0], stream), ncclSuccess);
    NCCL(ncclAllGather(memory, memory, COUNT, ncclInt8, second[0], stream), ncclSuccess);
}

Test(cuda_doubles, abort_waits_for_the_stream, .signal = SIGABRT)
{
    ncclComm_t first[2], second[2];
    one_stream(first, second);
    ncclCommAbort(second[0]);
}

Test(cuda_doubles, abort_of_all_together)
{
    ncclComm_t first[2], second[2];
    one_stream(first, second);
    NCCL(ncclGroupStart(), ncclSuccess);
    NCCL(ncclCommAbort(second[0]), ncclSuccess);
    NCCL(ncclCommAbort(first[0]), ncclSuccess);
    NCCL(ncclGroupEnd(), ncclSuccess);
}

Test(cuda_doubles, use_after_the_end, .signal = SIGABRT)
{
    ncclComm_t comm = comm_create(1);
    NCCL(ncclCommDestroy(comm), ncclSuccess);
    settle(comm);
}

// ---- launches --------------------------------------------------------------------------------

static ncclResult_t gather(ncclComm_t comm, cudaStream_t stream, char *memory)
{
    return ncclAllGather(memory, memory, COUNT, ncclInt8, comm, stream);
}

Test(cuda_doubles, launches_of_two_at_once)
{
    ncclComm_t a = comm_create(0), b = comm_create(0);
    cudaStream_t stream = stream_create();
    char *memory = memory_create();
    NCCL(gather(a, stream, memory), ncclInProgress);
    NCCL(gather(b, stream, memory), ncclInvalidUsage);
    cr_assert_not_null(strstr(ncclGetLastError(b), "race to launch on one device"));
}

Test(cuda_doubles, launches_one_by_one)
{
    ncclComm_t a = comm_create(0), b = comm_create(0);
    cudaStream_t stream = stream_create();
    char *memory = memory_create();
    NCCL(gather(a, stream, memory), ncclInProgress);
    NCCL(settle(a), ncclSuccess);
    NCCL(gather(b, stream, memory), ncclInProgress);
    NCCL(settle(b), ncclSuccess);
    CUDA(cudaStreamSynchronize(stream), cudaSuccess);
}

Test(cuda_doubles, use_before_it_has_launched)
{
    ncclComm_t comm = comm_create(0);
    cudaStream_t stream = stream_create();
    char *memory = memory_create();
    NCCL(gather(comm, stream, memory), ncclInProgress);
    NCCL(gather(comm, stream, memory), ncclInvalidArgument);
}

// Two communicators that both ranks share; the second rank launches them in the order given.
static ncclResult_t two_orders(int same)
{
    ncclComm_t a[2], b[2];
    cudaStream_t streams[4];
    char *memory[2] = {memory_create(), memory_create()};
    comms_create(a, 2, 1);
    comms_create(b, 2, 1);
    for (int s = 0; s < 4; s++)
        streams[s] = stream_create();
    NCCL(gather(a[0], streams[0], memory[0]), ncclSuccess);
    NCCL(gather(b[0], streams[1], memory[0]), ncclSuccess);
    NCCL(gather(same ? a[1] : b[1], streams[same ? 2 : 3], memory[1]), ncclSuccess);
    NCCL(gather(same ? b[1] : a[1], streams[same ? 3 : 2], memory[1]), ncclSuccess);
    ncclResult_t results[] = {outcome(a[0], streams[0]), outcome(b[0], streams[1])};
    return results[0] != ncclSuccess ? results[0] : results[1];
}

Test(cuda_doubles, launches_in_another_order)
{
    NCCL(two_orders(0), ncclInvalidUsage);
}

Test(cuda_doubles, launches_in_one_order)
{
    NCCL(two_orders(1), ncclSuccess);
}

static void *ask_often(void *comm)
{
    for (int i = 0; i < 200000; i++)
        settle(comm);
    return NULL;
}

Test(cuda_doubles, two_threads_ask_for_errors, .signal = SIGABRT)
{
    ncclComm_t comm = comm_create(0);
    cudaStream_t stream = stream_create();
    char *memory = memory_create();
    pthread_t other;
    pthread_create(&other, NULL, ask_often, comm);
    for (int i = 0; i < 20000; i++)
        if (gather(comm, stream, memory) == ncclInProgress)
            settle(comm);
}

// Any kernel: the embedding of one token.
static cudaError_t run_kernel(void)
{
    ModelDims dims = {.dtype = DTYPE_F32, .hidden = 4, .vocabulary = 1, .sequence = 1, .batch = 1, .heads = 1};
    CudaQueue queue = {.stream = stream_create()};
    Tensor tokens = {memory_create(), DTYPE_I32, 1, 2}, embedding = {memory_create(), DTYPE_F32, 1, 8};
    Tensor x = {memory_create(), DTYPE_F32, 1, 4};
    CUDA(cudaMemset(tokens.data, 0, COUNT), cudaSuccess);
    CUDA(cudaStreamSynchronize(NULL), cudaSuccess);
    cudaError_t error = cuda_embed(&queue, &dims, tokens, embedding, x);
    CUDA(cudaStreamSynchronize(queue.stream), cudaSuccess);
    return error;
}

static ncclComm_t waiting_collective(void)
{
    ncclComm_t comms[2];
    comms_create(comms, 2, 1);
    NCCL(gather(comms[0], stream_create(), memory_create()), ncclSuccess);
    return comms[0];
}

Test(cuda_doubles, kernels_loaded_behind_a_collective, .signal = SIGABRT)
{
    waiting_collective();
    run_kernel();
}

Test(cuda_doubles, kernels_loaded_before_a_collective)
{
    CUDA(run_kernel(), cudaSuccess);
    ncclComm_t comm = waiting_collective();
    CUDA(run_kernel(), cudaSuccess);
    NCCL(ncclCommAbort(comm), ncclSuccess);
}

// ---- messages --------------------------------------------------------------------------------

static ncclResult_t pair(uint64_t sent, uint64_t received)
{
    ncclComm_t comms[2];
    cudaStream_t streams[2] = {stream_create(), stream_create()};
    comms_create(comms, 2, 1);
    NCCL(ncclSend(memory_create(), sent, ncclInt8, 1, comms[0], streams[0]), ncclSuccess);
    NCCL(ncclRecv(memory_create(), received, ncclInt8, 0, comms[1], streams[1]), ncclSuccess);
    return outcome(comms[1], streams[1]);
}

Test(cuda_doubles, messages_of_other_sizes)
{
    NCCL(pair(COUNT, COUNT), ncclSuccess);
    NCCL(pair(COUNT, COUNT - 1), ncclInvalidArgument);
}

static void both_ways(ncclComm_t comm, int peer, cudaStream_t stream, char *memory, int grouped)
{
    if (grouped)
        NCCL(ncclGroupStart(), ncclSuccess);
    NCCL(ncclSend(memory, COUNT, ncclInt8, peer, comm, stream), ncclSuccess);
    NCCL(ncclRecv(memory + COUNT, COUNT, ncclInt8, peer, comm, stream), ncclSuccess);
    if (grouped)
        NCCL(ncclGroupEnd(), ncclSuccess);
}

// 0 once both streams have ended.
static int both_ways_of_both(int grouped)
{
    ncclComm_t comms[2];
    cudaStream_t streams[2] = {stream_create(), stream_create()};
    comms_create(comms, 2, 1);
    for (int r = 0; r < 2; r++)
        both_ways(comms[r], 1 - r, streams[r], memory_create(), grouped);
    for (int i = 0; i < 300; i++) {
        if (cudaStreamQuery(streams[0]) == cudaSuccess && cudaStreamQuery(streams[1]) == cudaSuccess)
            return 0;
        usleep(1000);
    }
    NCCL(ncclGroupStart(), ncclSuccess);
    NCCL(ncclCommAbort(comms[0]), ncclSuccess);
    NCCL(ncclCommAbort(comms[1]), ncclSuccess);
    NCCL(ncclGroupEnd(), ncclSuccess);
    return 1;
}

Test(cuda_doubles, both_send_first)
{
    cr_assert_eq(both_ways_of_both(1), 0, "what is in a group goes both ways");
    cr_assert_eq(both_ways_of_both(0), 1, "outside of one each waits for the other to receive");
}

// ---- memory ----------------------------------------------------------------------------------

Test(cuda_doubles, registered_memory_is_freed, .signal = SIGABRT)
{
    char *memory = memory_create();
    void *handle;
    NCCL(ncclCommRegister(comm_create(1), memory, COUNT, &handle), ncclSuccess);
    cudaFree(memory);
}

Test(cuda_doubles, memory_is_whose_it_is)
{
    char *memory = memory_create(), on_host[COUNT];
    void *handle, *of_nccl;
    ncclComm_t comm = comm_create(1);
    NCCL(ncclCommRegister(comm, on_host, COUNT, &handle), ncclInvalidArgument);
    NCCL(ncclCommRegister(comm, memory, COUNT, &handle), ncclSuccess);
    NCCL(ncclCommDeregister(comm, handle), ncclSuccess);
    NCCL(ncclCommDeregister(comm, memory), ncclInvalidUsage);
    NCCL(ncclMemAlloc(&of_nccl, COUNT), ncclSuccess);
    CUDA(cudaFree(of_nccl), cudaErrorInvalidValue);
    NCCL(ncclMemFree(of_nccl), ncclSuccess);
    NCCL(ncclMemFree(memory), ncclUnhandledCudaError);
    CUDA(cudaFree(memory), cudaSuccess);
    CUDA(cudaFreeHost(on_host), cudaErrorInvalidValue);
}

// To the device cudaMemcpy returns when the source was read; streams that do not block do not wait for the rest.
Test(cuda_doubles, pageable_copies_are_late)
{
    setenv("HEP_EMULATION_ASYNC", "3000", 1);
    char *memory = memory_create(), from[COUNT], to[COUNT];
    int late = 0;
    for (int i = 0; i < 20; i++) {
        memset(from, i, COUNT);
        CUDA(cudaMemcpy(memory, from, COUNT, cudaMemcpyHostToDevice), cudaSuccess);
        late += cudaStreamQuery(NULL) == cudaErrorNotReady;
        memset(from, -1, COUNT);
        CUDA(cudaStreamSynchronize(NULL), cudaSuccess);
        CUDA(cudaMemcpy(to, memory, COUNT, cudaMemcpyDeviceToHost), cudaSuccess);
        cr_assert_eq(to[COUNT - 1], i);
    }
    cr_assert_gt(late, 0);
}

// ---- captures --------------------------------------------------------------------------------

typedef struct {
    cudaStream_t origin, other;
    cudaEvent_t event, before;
    char *memory;
    cudaGraphExec_t exec;
} Captured;

static cudaError_t do_nothing(Captured *c)
{
    return cudaMemsetAsync(c->memory, 0, COUNT, c->origin);
}

static cudaError_t synchronize(Captured *c)
{
    return cudaStreamSynchronize(c->origin);
}

static cudaError_t query(Captured *c)
{
    return cudaStreamQuery(c->origin);
}

static cudaError_t await_event(Captured *c)
{
    CUDA(cudaEventRecord(c->event, c->origin), cudaSuccess);
    return cudaEventSynchronize(c->event);
}

static cudaError_t query_event(Captured *c)
{
    CUDA(cudaEventRecord(c->event, c->origin), cudaSuccess);
    return cudaEventQuery(c->event);
}

static cudaError_t wait_for_the_past(Captured *c)
{
    return cudaStreamWaitEvent(c->origin, c->before, 0);
}

static cudaError_t replay(Captured *c)
{
    return cudaGraphLaunch(c->exec, c->origin);
}

static cudaError_t allocate(Captured *c)
{
    void *memory;
    (void)c;
    return cudaMalloc(&memory, COUNT);
}

static cudaError_t fork_off(Captured *c)
{
    CUDA(cudaEventRecord(c->event, c->origin), cudaSuccess);
    CUDA(cudaStreamWaitEvent(c->other, c->event, 0), cudaSuccess);
    return cudaMemsetAsync(c->memory, 0, COUNT, c->other);
}

static cudaError_t fork_and_join(Captured *c)
{
    CUDA(fork_off(c), cudaSuccess);
    CUDA(cudaEventRecord(c->event, c->other), cudaSuccess);
    return cudaStreamWaitEvent(c->origin, c->event, 0);
}

static const struct {
    cudaError_t (*does)(Captured *);
    enum cudaStreamCaptureMode mode;
    cudaError_t returns, ends;
} captures[] = {
    {do_nothing, cudaStreamCaptureModeGlobal, cudaSuccess, cudaSuccess},
    {fork_and_join, cudaStreamCaptureModeGlobal, cudaSuccess, cudaSuccess},
    {fork_off, cudaStreamCaptureModeGlobal, cudaSuccess, cudaErrorStreamCaptureUnjoined},
    {synchronize, cudaStreamCaptureModeRelaxed, cudaErrorStreamCaptureUnsupported, cudaErrorStreamCaptureInvalidated},
    {query, cudaStreamCaptureModeRelaxed, cudaErrorStreamCaptureUnsupported, cudaErrorStreamCaptureInvalidated},
    {await_event, cudaStreamCaptureModeRelaxed, cudaErrorCapturedEvent, cudaErrorStreamCaptureInvalidated},
    {query_event, cudaStreamCaptureModeRelaxed, cudaErrorCapturedEvent, cudaErrorStreamCaptureInvalidated},
    {wait_for_the_past, cudaStreamCaptureModeRelaxed, cudaErrorStreamCaptureIsolation,
     cudaErrorStreamCaptureInvalidated},
    {replay, cudaStreamCaptureModeRelaxed, cudaErrorStreamCaptureUnsupported, cudaErrorStreamCaptureInvalidated},
    {allocate, cudaStreamCaptureModeRelaxed, cudaSuccess, cudaSuccess},
    {allocate, cudaStreamCaptureModeThreadLocal, cudaErrorStreamCaptureUnsupported, cudaErrorStreamCaptureInvalidated},
    {allocate, cudaStreamCaptureModeGlobal, cudaErrorStreamCaptureUnsupported, cudaErrorStreamCaptureInvalidated},
};

Test(cuda_doubles, captures)
{
    for (size_t i = 0; i < sizeof(captures) / sizeof(captures[0]); i++) {
        Captured c = {.origin = stream_create(), .other = stream_create(), .memory = memory_create()};
        cudaGraph_t graph = NULL;
        CUDA(cudaEventCreate(&c.event), cudaSuccess);
        CUDA(cudaEventCreate(&c.before), cudaSuccess);
        CUDA(cudaEventRecord(c.before, c.other), cudaSuccess);
        c.exec = graph_with_calls(comm_create(1), c.origin);
        CUDA(cudaStreamBeginCapture(c.origin, captures[i].mode), cudaSuccess);
        cudaError_t returned = captures[i].does(&c), ended = cudaStreamEndCapture(c.origin, &graph);
        cr_assert_eq(returned, captures[i].returns, "%zu: %d", i, (int)returned);
        cr_assert_eq(ended, captures[i].ends, "%zu: %d at the end", i, (int)ended);
    }
}

static void *end_elsewhere(void *stream)
{
    cudaGraph_t graph;
    CUDA(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureWrongThread);
    return NULL;
}

Test(cuda_doubles, captures_of_threads_and_events)
{
    cudaStream_t stream = stream_create(), other = stream_create();
    cudaEvent_t event, untimed;
    cudaGraph_t graph;
    float ms;
    pthread_t thread;
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    pthread_create(&thread, NULL, end_elsewhere, stream);
    pthread_join(thread, NULL);
    CUDA(cudaEventCreate(&event), cudaSuccess);
    CUDA(cudaEventRecord(event, stream), cudaSuccess);
    CUDA(cudaStreamBeginCapture(other, cudaStreamCaptureModeGlobal), cudaSuccess);
    CUDA(cudaStreamWaitEvent(other, event, 0), cudaErrorStreamCaptureMerge);
    CUDA(cudaStreamEndCapture(other, &graph), cudaErrorStreamCaptureInvalidated);
    CUDA(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    CUDA(cudaStreamWaitEvent(other, event, 0), cudaErrorCapturedEvent);
    CUDA(cudaEventRecordWithFlags(event, other, cudaEventRecordExternal), cudaErrorInvalidValue);
    CUDA(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming), cudaSuccess);
    CUDA(cudaEventRecord(untimed, other), cudaSuccess);
    CUDA(cudaEventRecord(event, other), cudaSuccess);
    CUDA(cudaStreamSynchronize(other), cudaSuccess);
    CUDA(cudaEventElapsedTime(&ms, untimed, event), cudaErrorInvalidResourceHandle);
}

// ---- blocks of collectives -------------------------------------------------------------------

Test(cuda_doubles, collectives_leave_most_of_the_device)
{
    cr_assert_eq(nccl_block_limit(132), 6, "33 of an H200's multiprocessors, for five streams");
    cr_assert_eq(nccl_block_limit(108), 5);
    cr_assert_eq(nccl_block_limit(1), 1);
}
