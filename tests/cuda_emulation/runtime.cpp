// The functions of the CUDA runtime that hep calls, on the processor: device memory is guarded host memory filled with
// NaN, streams run what they are given at once, events remember the time, a captured graph is a list of what was
// enqueued. What CUDA forbids is refused, in captures above all. Linked instead of libcudart.
#include "doubles.h"
#include "emulate.h"
#include "stream_worker.h"

#include <malloc.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(begin, bytes)   ((void)(begin), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(begin, bytes) ((void)(begin), (void)(bytes))
#endif

using Work = std::function<void()>;

struct CUgraph_st {
    std::vector<Work> work;
    cudaError_t invalid; // why the capture was, or cudaSuccess
    cudaStreamCaptureMode mode;
    std::thread::id thread; // that began it
    int least, greatest;    // priorities of its streams that had work
};

struct CUgraphExec_st {
    std::vector<Work> work;
};

struct CUstream_st {
    CUgraph_st *capture; // the graph that this stream's work becomes part of
    bool is_origin;      // of the capture
    bool is_joined;      // since its last captured work another stream of the capture has waited for it
    int priority;
    int device;
    std::unique_ptr<emulation::StreamWorker> worker; // where streams are threads
};

struct CUevent_st {
    std::shared_ptr<emulation::EventState> state; // work that is enqueued may outlive the event
    bool recorded;
    bool is_timed;
    CUgraph_st *capture;   // recorded in a stream that was captured
    CUstream_st *recorder; // the stream, while it is captured
    int device;
};

namespace
{

constexpr size_t GUARD = 256;
constexpr unsigned char GUARD_BYTE = 0xA5;
constexpr int COMPUTE_CAPABILITY = 9; // .0
constexpr size_t MEMORY_TOTAL = size_t{16} << 30;
constexpr size_t UNWRITTEN_CHUNK = 4 << 20;
// HEP_EMULATION_COUNT_MEMORY: there is room for everything, and the first allocation says its size and ends the
// program.
const bool counts_memory = getenv("HEP_EMULATION_COUNT_MEMORY") != nullptr;

// Freed memory serves again: page by page from the kernel, and back, it would take most of the time.
const bool memory_is_kept = mallopt(M_MMAP_MAX, 0) && mallopt(M_TRIM_THRESHOLD, INT_MAX);

struct Allocation {
    size_t bytes;
    bool by_nccl; // ncclMemFree frees it, and nothing else
    int device;
};

std::mutex lock;
std::unordered_map<void *, Allocation> allocations;
std::unordered_map<void *, size_t> pinned;
emulation_free_hook *before_free; // what NCCL has to say of memory that is freed
emulation_collectives_hook *collectives;
std::unordered_map<int, std::unordered_set<const void *>> loaded; // kernels, by device
std::vector<CUstream_st *> streams;
size_t allocated;
thread_local cudaError_t last_error;
thread_local int current_device;
CUstream_st default_stream; // the legacy one, of all devices

cudaError_t result(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

CUstream_st *stream_of(cudaStream_t stream)
{
    return stream ? stream : &default_stream;
}

double now_ms()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}

bool guards_hold(const unsigned char *base, size_t bytes)
{
    for (size_t i = 0; i < GUARD; i++)
        if (base[i] != GUARD_BYTE || base[GUARD + bytes + i] != GUARD_BYTE)
            return false;
    return true;
}

size_t guarded_bytes(size_t bytes)
{
    return (bytes + 2 * GUARD + GUARD - 1) / GUARD * GUARD;
}

// A file of bytes 0xFF, as memory that nobody has written yet shows.
int unwritten_file()
{
    static const int file = [] {
        int made = memfd_create("hep unwritten", MFD_CLOEXEC);
        std::vector<unsigned char> bytes(UNWRITTEN_CHUNK, 0xFF);
        bool is_written = made >= 0 && write(made, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size());
        return is_written ? made : -1;
    }();
    return file;
}

// Of a large block only what is touched costs time: most is workspace of 32 MB for cuBLAS, made again with every queue,
// and left alone by the emulated one.
unsigned char *unwritten_create(size_t bytes)
{
    if (bytes < UNWRITTEN_CHUNK) {
        void *small = aligned_alloc(GUARD, bytes);
        return static_cast<unsigned char *>(small ? memset(small, 0xFF, bytes) : nullptr);
    }
    void *large = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (large == MAP_FAILED)
        return nullptr;
    for (size_t at = 0; at < bytes; at += UNWRITTEN_CHUNK) {
        void *chunk = mmap(static_cast<char *>(large) + at, std::min(bytes - at, UNWRITTEN_CHUNK),
                           PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, unwritten_file(), 0);
        if (chunk == MAP_FAILED) {
            munmap(large, bytes);
            return nullptr;
        }
    }
    return static_cast<unsigned char *>(large);
}

void unwritten_destroy(unsigned char *memory, size_t bytes)
{
    if (bytes < UNWRITTEN_CHUNK)
        free(memory);
    else
        munmap(memory, bytes);
}

// Events remember captures that are over.
bool is_under_way(const CUgraph_st *capture)
{
    std::lock_guard<std::mutex> hold(lock);
    for (CUstream_st *stream : streams)
        if (stream->capture == capture)
            return true;
    return false;
}

cudaError_t invalidate(CUgraph_st *capture, cudaError_t why)
{
    if (is_under_way(capture) && capture->invalid == cudaSuccess)
        capture->invalid = why;
    return result(why);
}

// The current one for what is no device memory.
int device_of(const void *memory)
{
    std::lock_guard<std::mutex> hold(lock);
    const char *at = static_cast<const char *>(memory);
    for (const auto &[begin, allocation] : allocations)
        if (at >= static_cast<char *>(begin) && at < static_cast<char *>(begin) + allocation.bytes)
            return allocation.device;
    return current_device;
}

// Copies and fills that the caller gave no stream of its own run late, too. Its thread lives as long as the program.
emulation::StreamWorker *legacy_worker()
{
    static emulation::StreamWorker *const worker = emulation::async_us() > 0 ? new emulation::StreamWorker : nullptr;
    return worker;
}

emulation::StreamWorker *worker_of(CUstream_st *stream)
{
    return stream == &default_stream ? legacy_worker() : stream->worker.get();
}

// A capture ends the wait for what is enqueued: on a GPU it would wait for ever.
cudaError_t synchronize(cudaStream_t stream)
{
    CUstream_st *s = stream_of(stream);
    if (s->capture)
        return invalidate(s->capture, cudaErrorStreamCaptureUnsupported);
    if (worker_of(s))
        worker_of(s)->drain();
    return cudaSuccess;
}

void drain_all(int device)
{
    std::lock_guard<std::mutex> hold(lock);
    for (CUstream_st *stream : streams)
        if (stream->worker && stream->device == device)
            stream->worker->drain();
    if (legacy_worker())
        legacy_worker()->drain();
}

bool any_capture()
{
    std::lock_guard<std::mutex> hold(lock);
    for (CUstream_st *stream : streams)
        if (stream->capture)
            return true;
    return default_stream.capture != nullptr;
}

// What allocates or frees is forbidden while a capture is under way, but in the relaxed mode: of any thread in the
// global one, of its own otherwise.
cudaError_t capture_forbids()
{
    CUgraph_st *forbids = nullptr;
    {
        std::lock_guard<std::mutex> hold(lock);
        for (CUstream_st *stream : streams) {
            CUgraph_st *capture = stream->is_origin ? stream->capture : nullptr;
            bool own = capture && capture->thread == std::this_thread::get_id();
            if (capture && (capture->mode == cudaStreamCaptureModeGlobal ||
                            (capture->mode == cudaStreamCaptureModeThreadLocal && own)))
                forbids = capture;
        }
    }
    return forbids ? invalidate(forbids, cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

bool is_pinned(const void *memory, size_t bytes)
{
    std::lock_guard<std::mutex> hold(lock);
    const char *first = static_cast<const char *>(memory);
    for (const auto &[begin, size] : pinned)
        if (first >= static_cast<char *>(begin) && first + bytes <= static_cast<char *>(begin) + size)
            return true;
    return false;
}

} // namespace

cudaError_t emulation::submit(cudaStream_t stream, Work work)
{
    CUstream_st *s = stream_of(stream);
    if (s->capture) {
        s->capture->work.push_back(std::move(work));
        s->capture->least = std::min(s->capture->least, s->priority);
        s->capture->greatest = std::max(s->capture->greatest, s->priority);
        s->is_joined = false;
    } else if (worker_of(s)) {
        worker_of(s)->push(std::move(work));
    } else {
        work();
    }
    return cudaSuccess;
}

static thread_local uint64_t enqueued;

void emulation::count_enqueued()
{
    enqueued++;
}

void emulation::load_kernel(const void *kernel)
{
    std::lock_guard<std::mutex> hold(lock);
    if (!loaded[current_device].insert(kernel).second || !collectives || collectives(current_device) == 0)
        return;
    fprintf(stderr,
            "emulation: a kernel is loaded while collectives are under way: peers that do so, too, wait for ever\n");
    abort();
}

static thread_local uint64_t product_flops;

void emulation::count_flops(uint64_t flops)
{
    product_flops += flops;
}

extern "C" {

// Kernels, products, copies and fills that the calling thread has enqueued so far.
uint64_t emulation_enqueued(void)
{
    return enqueued;
}

// Multiplications and additions of the products that it has given cuBLAS.
uint64_t emulation_product_flops(void)
{
    return product_flops;
}

// ---- memory --------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    *memory = nullptr;
    if (capture_forbids() != cudaSuccess)
        return last_error;
    std::lock_guard<std::mutex> hold(lock);
    if (counts_memory) {
        fprintf(stderr, "allocates %zu\n", bytes);
        _exit(0);
    }
    if (bytes > MEMORY_TOTAL - allocated)
        return result(cudaErrorMemoryAllocation);
    size_t whole = guarded_bytes(bytes);
    unsigned char *base = unwritten_create(whole);
    if (!base)
        return result(cudaErrorMemoryAllocation);
    memset(base, GUARD_BYTE, GUARD);
    memset(base + GUARD + bytes, GUARD_BYTE, whole - GUARD - bytes);
    ASAN_POISON_MEMORY_REGION(base, GUARD); // reads show, too
    ASAN_POISON_MEMORY_REGION(base + GUARD + bytes, whole - GUARD - bytes);
    allocations[base + GUARD] = {bytes, false, current_device};
    allocated += bytes;
    *memory = base + GUARD;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    if (!memory)
        return cudaSuccess;
    if (capture_forbids() != cudaSuccess)
        return last_error;
    drain_all(device_of(memory));
    std::lock_guard<std::mutex> hold(lock);
    auto found = allocations.find(memory);
    if (found == allocations.end() || found->second.by_nccl)
        return result(cudaErrorInvalidValue);
    size_t bytes = found->second.bytes;
    if (before_free)
        before_free(memory, bytes);
    unsigned char *base = static_cast<unsigned char *>(memory) - GUARD;
    ASAN_UNPOISON_MEMORY_REGION(base, guarded_bytes(bytes));
    if (!guards_hold(base, bytes)) {
        fprintf(stderr, "emulation: device memory of %zu bytes was written outside its bounds\n", bytes);
        abort();
    }
    allocated -= bytes;
    allocations.erase(found);
    unwritten_destroy(base, guarded_bytes(bytes));
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    *memory = malloc(bytes ? bytes : 1);
    if (!*memory)
        return result(cudaErrorMemoryAllocation);
    std::lock_guard<std::mutex> hold(lock);
    pinned[*memory] = bytes;
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned)
{
    return cudaMallocHost(memory, bytes);
}

cudaError_t cudaFreeHost(void *memory)
{
    if (!memory)
        return cudaSuccess;
    {
        std::lock_guard<std::mutex> hold(lock);
        if (pinned.erase(memory) == 0)
            return result(cudaErrorInvalidValue);
    }
    free(memory);
    return cudaSuccess;
}

// HEP_EMULATION_ALL_MEMORY: all memory is device memory, for programs whose memory is not allocated here.
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *memory)
{
    *attributes = {};
    if (getenv("HEP_EMULATION_ALL_MEMORY")) {
        attributes->type = cudaMemoryTypeManaged;
        return cudaSuccess;
    }
    bool is_device = emulation_is_device_memory(memory, 1);
    attributes->type = is_device              ? cudaMemoryTypeDevice
                       : is_pinned(memory, 1) ? cudaMemoryTypeHost
                                              : cudaMemoryTypeUnregistered;
    attributes->device = is_device ? device_of(memory) : -1;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    std::lock_guard<std::mutex> hold(lock);
    *available = counts_memory ? SIZE_MAX : MEMORY_TOTAL - allocated;
    *total = counts_memory ? SIZE_MAX : MEMORY_TOTAL;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream)
{
    emulation::count_enqueued();
    return emulation::submit(stream, [=] {
        if (bytes > 0)
            memmove(to, from, bytes);
    });
}

// Returns when `from` may be written again. To the device that is when it was read, unless it is pinned: what follows
// in another stream that does not wait for the legacy one may still find what was there before.
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    if (any_capture())
        return result(cudaErrorStreamCaptureUnsupported);
    if (kind != cudaMemcpyHostToDevice || is_pinned(from, bytes)) {
        cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
        return error != cudaSuccess || kind == cudaMemcpyDeviceToDevice ? error : synchronize(nullptr);
    }
    const char *first = static_cast<const char *>(from);
    auto staged = std::make_shared<std::vector<char>>(first, first + bytes);
    emulation::count_enqueued();
    return emulation::submit(nullptr, [=] {
        if (bytes > 0)
            memmove(to, staged->data(), bytes);
    });
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    emulation::count_enqueued();
    return emulation::submit(stream, [=] {
        if (bytes > 0)
            memset(to, value, bytes);
    });
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    return cudaMemsetAsync(to, value, bytes, nullptr);
}

// ---- streams and events --------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned, int priority)
{
    std::lock_guard<std::mutex> hold(lock);
    *stream = new CUstream_st{nullptr, false, true, priority, current_device, nullptr};
    if (emulation::async_us() > 0)
        (*stream)->worker = std::make_unique<emulation::StreamWorker>();
    streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithPriority(stream, 0, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (stream->capture)
        invalidate(stream->capture, cudaErrorStreamCaptureUnsupported);
    if (stream->worker)
        stream->worker->drain();
    std::lock_guard<std::mutex> hold(lock);
    for (size_t s = 0; s < streams.size(); s++) {
        if (streams[s] == stream) {
            streams.erase(streams.begin() + static_cast<long>(s));
            delete stream;
            return cudaSuccess;
        }
    }
    return result(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    return synchronize(stream);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    CUstream_st *s = stream_of(stream);
    if (!s->capture && worker_of(s) && !worker_of(s)->is_idle())
        return cudaErrorNotReady;
    return synchronize(stream);
}

cudaError_t cudaDeviceSynchronize(void)
{
    if (any_capture())
        return result(cudaErrorStreamCaptureUnsupported);
    drain_all(current_device);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    bool is_timed = !(flags & cudaEventDisableTiming);
    *event =
        new CUevent_st{std::make_shared<emulation::EventState>(), false, is_timed, nullptr, nullptr, current_device};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

// While the stream is captured an event only orders the graph, unless its record is to be a part of that.
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags)
{
    bool external = flags & cudaEventRecordExternal;
    std::shared_ptr<emulation::EventState> state = event->state;
    CUgraph_st *capture = stream_of(stream)->capture;
    if (external && !capture)
        return result(cudaErrorInvalidValue);
    if (event->device != (stream ? stream->device : current_device))
        return result(cudaErrorInvalidResourceHandle);
    event->capture = external ? nullptr : capture;
    event->recorder = event->capture ? stream_of(stream) : nullptr;
    event->recorded = true;
    if (capture && !external)
        return cudaSuccess;
    uint64_t record = capture ? state->last() : state->issue();
    return emulation::submit(stream, [=] { state->reach(record, now_ms()); });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    if (event->capture)
        return invalidate(event->capture, cudaErrorCapturedEvent);
    return event->state->is_reached() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (event->capture)
        return invalidate(event->capture, cudaErrorCapturedEvent);
    event->state->await(event->state->last());
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    if (!from->recorded || !to->recorded || !from->is_timed || !to->is_timed)
        return result(cudaErrorInvalidResourceHandle);
    if (!from->state->is_reached() || !to->state->is_reached())
        return cudaErrorNotReady;
    *ms = static_cast<float>(to->state->reached_ms() - from->state->reached_ms());
    return cudaSuccess;
}

// The work before the event is done first, or comes before in the graph; a stream that waits for a captured event
// joins. What was recorded outside of a capture cannot be waited for in it, but as a node of its own.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    CUstream_st *s = stream_of(stream);
    if (event->capture) {
        if (!is_under_way(event->capture))
            return result(cudaErrorCapturedEvent);
        if (s->capture && s->capture != event->capture)
            return invalidate(s->capture, cudaErrorStreamCaptureMerge);
        if (s == &default_stream)
            return invalidate(event->capture, cudaErrorStreamCaptureImplicit);
        if (!s->capture)
            s->is_joined = false;
        s->capture = event->capture;
        if (event->recorder != s)
            event->recorder->is_joined = true;
        return cudaSuccess;
    }
    if (s->capture && event->recorded && !(flags & cudaEventWaitExternal))
        return invalidate(s->capture, cudaErrorStreamCaptureIsolation);
    std::shared_ptr<emulation::EventState> state = event->state;
    uint64_t record = state->last();
    if (s->capture)
        return emulation::submit(stream, [=] { state->await(state->last()); });
    if (worker_of(s))
        worker_of(s)->push([=] { state->await(record); });
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    return emulation::submit(stream, [=] { function(data); });
}

cudaError_t emulation_launch_owned(cudaStream_t stream, cudaHostFn_t function, void *data, cudaHostFn_t retire)
{
    std::shared_ptr<void> owner(data, retire);
    return emulation::submit(stream, [=] { function(owner.get()); });
}

int emulation_capturing(cudaStream_t stream)
{
    return stream_of(stream)->capture != nullptr;
}

void emulation_set_free_hook(emulation_free_hook *hook)
{
    before_free = hook;
}

void emulation_set_collectives_hook(emulation_collectives_hook *hook)
{
    collectives = hook;
}

int emulation_set_owner(void *memory, int by_nccl)
{
    std::lock_guard<std::mutex> hold(lock);
    auto found = allocations.find(memory);
    if (found == allocations.end() || found->second.by_nccl == static_cast<bool>(by_nccl))
        return 0;
    found->second.by_nccl = by_nccl;
    return 1;
}

int emulation_is_device_memory(const void *memory, size_t bytes)
{
    std::lock_guard<std::mutex> hold(lock);
    const char *first = static_cast<const char *>(memory);
    for (const auto &[begin, allocation] : allocations)
        if (first >= static_cast<char *>(begin) && first + bytes <= static_cast<char *>(begin) + allocation.bytes)
            return 1;
    return 0;
}

// ---- graphs --------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    if (!stream || stream->capture)
        return result(cudaErrorStreamCaptureUnsupported);
    std::lock_guard<std::mutex> hold(lock);
    stream->capture = new CUgraph_st{{}, cudaSuccess, mode, std::this_thread::get_id(), INT_MAX, INT_MIN};
    stream->is_origin = true;
    stream->is_joined = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = nullptr;
    if (!stream->capture || !stream->is_origin)
        return result(cudaErrorStreamCaptureUnmatched);
    CUgraph_st *captured = stream->capture;
    if (captured->mode != cudaStreamCaptureModeRelaxed && captured->thread != std::this_thread::get_id())
        return result(cudaErrorStreamCaptureWrongThread);
    bool joined = true;
    {
        std::lock_guard<std::mutex> hold(lock);
        for (CUstream_st *other : streams) {
            if (other->capture != captured)
                continue;
            joined = joined && (other == stream || other->is_joined);
            other->capture = nullptr;
        }
    }
    stream->is_origin = false;
    if (captured->invalid != cudaSuccess || !joined) {
        bool invalid = captured->invalid != cudaSuccess;
        delete captured;
        return result(invalid ? cudaErrorStreamCaptureInvalidated : cudaErrorStreamCaptureUnjoined);
    }
    *graph = captured;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    *status = stream_of(stream)->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

// Not forbidden, and never meant.
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    if (graph->least < graph->greatest && !(flags & cudaGraphInstantiateFlagUseNodePriority))
        fprintf(stderr, "emulation: a graph forgets the priorities of the streams that it was captured from\n");
    *exec = new CUgraphExec_st{graph->work};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    if (stream_of(stream)->capture)
        return invalidate(stream_of(stream)->capture, cudaErrorStreamCaptureUnsupported);
    for (const Work &work : exec->work) {
        cudaError_t error = emulation::submit(stream, work);
        if (error != cudaSuccess)
            return result(error);
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

// ---- device and errors ---------------------------------------------------------------------------

// HEP_EMULATION_DEVICES: how many there are, 1 unless given.
cudaError_t cudaGetDeviceCount(int *count)
{
    const char *value = getenv("HEP_EMULATION_DEVICES");
    *count = value ? atoi(value) : 1;
    return result(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    int count;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || device < 0 || device >= count)
        return error != cudaSuccess ? error : result(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int)
{
    *properties = {};
    strcpy(properties->name, "emulated");
    properties->major = COMPUTE_CAPABILITY;
    properties->totalGlobalMem = MEMORY_TOTAL;
    properties->multiProcessorCount = 1;
    return cudaSuccess;
}

// Few multiprocessors, so that kernels which fill the device take several turns.
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int)
{
    *value = attribute == cudaDevAttrMultiProcessorCount      ? 1
             : attribute == cudaDevAttrComputeCapabilityMajor ? COMPUTE_CAPABILITY
                                                              : 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int)
{
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaSuccess                 ? "no error"
           : error == cudaErrorMemoryAllocation ? "out of memory"
           : error == cudaErrorNoDevice         ? "no CUDA-capable device is detected"
                                                : "an error of the emulated device";
}

const char *cudaGetErrorName(cudaError_t error)
{
    return cudaGetErrorString(error);
}

} // extern "C"
