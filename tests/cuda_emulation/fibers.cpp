// Runs the blocks of an emulated kernel one after another on the calling thread, the threads of a block as fibers that
// change places at barriers and in warp operations. A barrier that some live threads never reach ends the process.
// HEP_EMULATION_REVERSE=1 runs blocks and fibers last to first.
#include "emulate.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation
{

__thread Place here;
__thread unsigned char *dynamic_shared;

namespace
{

constexpr unsigned THREADS_MAX = 1024, LANES = 32;
constexpr size_t STACK_BYTES = 128 << 10, SHARED_MAX = 227 << 10;
// From stack to stack: at a power of two the tops of all would share a few lines of the cache.
constexpr size_t STACK_STRIDE = STACK_BYTES + 17 * 64;

enum class State { READY, AT_BARRIER, AT_MEETING, DONE };

struct Context {
#if defined(__x86_64__)
    void *stack_pointer;
#else
    ucontext_t context;
#endif
    const void *stack_bottom;
    size_t stack_bytes;
    void *race_fiber; // of ThreadSanitizer
};

struct Warp {
    unsigned live, arrived, generation;
    uint64_t given[2][LANES]; // by generation: a lane reads one while early lanes fill the other
};

struct Fiber {
    Context context;
    State state;
    unsigned awaited; // generation of the barrier or meeting it waits for the end of
    uint3 place;
};

// Whose turn it is: a warp runs as far as it can before the next one does, so that what others still have to read or
// write shows. Fibers hand over to one another by it; the scheduler begins and ends.
struct Turn {
    unsigned threads, warp, lane; // the next to be looked at, in the order of running
    bool backwards;
    bool warp_runs, any_runs; // in this pass over the warp's lanes, over the warps
};

struct Runner {
    Context scheduler;
    Fiber fibers[THREADS_MAX];
    Warp warps[THREADS_MAX / LANES];
    Fiber *current;
    unsigned live, arrived, generation;
    Turn turn;
    char *stacks;
    std::vector<unsigned char> shared;
    const std::function<void()> *kernel;

    Runner() : scheduler(), stacks(nullptr), shared(SHARED_MAX + 16)
    {
        void *memory = mmap(nullptr, THREADS_MAX * STACK_STRIDE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            abort();
        stacks = static_cast<char *>(memory);
        for (unsigned t = 0; t < THREADS_MAX; t++) {
            fibers[t].context.stack_bottom = stacks + t * STACK_STRIDE;
            fibers[t].context.stack_bytes = STACK_BYTES;
        }
    }

    ~Runner()
    {
        munmap(stacks, THREADS_MAX * STACK_STRIDE);
    }
};

__thread Runner *runner;

bool reversed()
{
    const char *value = getenv("HEP_EMULATION_REVERSE");
    return value && *value == '1';
}

#if defined(__x86_64__)
extern "C" void emulation_switch(void **save, void *load);
asm(R"(
    .text
    .globl emulation_switch
    .type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulation_switch, .-emulation_switch
)");
#endif

// `from` goes to sleep here. AddressSanitizer is not told: it would follow the switches for what throws exceptions and
// for frames that outlive their functions, and take a fifth of the time.
void switch_context(Context *from, Context *to)
{
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to->race_fiber, 0);
#endif
#if defined(__x86_64__)
    emulation_switch(&from->stack_pointer, to->stack_pointer);
#else
    swapcontext(&from->context, &to->context);
#endif
}

void arrive(Fiber *fiber)
{
    here.thread = fiber->place;
}

void end_meeting(Warp *warp)
{
    if (warp->live > 0 && warp->arrived == warp->live) {
        warp->arrived = 0;
        warp->generation++;
    }
}

void end_barrier()
{
    if (runner->live > 0 && runner->arrived == runner->live) {
        runner->arrived = 0;
        runner->generation++;
    }
}

bool may_run(const Fiber *fiber)
{
    switch (fiber->state) {
    case State::READY:
        return true;
    case State::AT_BARRIER:
        return runner->generation != fiber->awaited;
    case State::AT_MEETING:
        return runner->warps[fiber->place.x / LANES].generation != fiber->awaited;
    case State::DONE:
        return false;
    }
    return false;
}

// NULL if no fiber may run.
Fiber *next_fiber()
{
    if (runner->live == 0)
        return nullptr;
    Turn *turn = &runner->turn;
    unsigned warps = (turn->threads + LANES - 1) / LANES;
    for (;;) {
        unsigned warp = turn->backwards ? warps - 1 - turn->warp : turn->warp;
        while (turn->lane < LANES) {
            unsigned lane = turn->lane++, thread = warp * LANES + (turn->backwards ? LANES - 1 - lane : lane);
            Fiber *fiber = &runner->fibers[thread];
            if (thread >= turn->threads || !may_run(fiber))
                continue;
            turn->warp_runs = turn->any_runs = true;
            fiber->state = State::READY;
            return runner->current = fiber;
        }
        turn->lane = 0;
        if (turn->warp_runs) {
            turn->warp_runs = false;
            continue;
        }
        if (++turn->warp < warps)
            continue;
        turn->warp = 0;
        if (!turn->any_runs)
            return nullptr;
        turn->any_runs = false;
    }
}

void sleep_until_resumed(Fiber *fiber)
{
    Fiber *next = next_fiber();
    if (next != fiber)
        switch_context(&fiber->context, next ? &next->context : &runner->scheduler);
    arrive(fiber);
}

extern "C" void emulation_fiber_main()
{
    Fiber *fiber = runner->current;
    arrive(fiber);
    (*runner->kernel)();
    fiber->state = State::DONE;
    Warp *warp = &runner->warps[fiber->place.x / LANES];
    warp->live--;
    runner->live--;
    end_meeting(warp);
    end_barrier();
    Fiber *next = next_fiber();
    switch_context(&fiber->context, next ? &next->context : &runner->scheduler);
    abort();
}

void prepare(Fiber *fiber, unsigned thread)
{
    fiber->state = State::READY;
    fiber->place = {thread, 0, 0};
#if defined(__x86_64__)
    char *top = static_cast<char *>(const_cast<void *>(fiber->context.stack_bottom)) + STACK_BYTES;
    void **words = reinterpret_cast<void **>(top) - 2; // the stack as a call would leave it: 16-byte aligned + 8
    *words = reinterpret_cast<void *>(emulation_fiber_main);
    fiber->context.stack_pointer = words - 6;
    for (int i = 0; i < 6; i++)
        words[-1 - i] = nullptr;
#else
    getcontext(&fiber->context.context);
    fiber->context.context.uc_stack.ss_sp = const_cast<void *>(fiber->context.stack_bottom);
    fiber->context.context.uc_stack.ss_size = STACK_BYTES;
    fiber->context.context.uc_link = nullptr;
    makecontext(&fiber->context.context, emulation_fiber_main, 0);
#endif
#if defined(__SANITIZE_THREAD__)
    if (!fiber->context.race_fiber)
        fiber->context.race_fiber = __tsan_create_fiber(0);
#endif
}

void run_block(unsigned threads, bool backwards)
{
    Runner *r = runner;
    r->live = threads;
    r->arrived = 0;
    r->turn = Turn{threads, 0, 0, backwards, false, false};
    for (unsigned w = 0; w * LANES < threads; w++)
        r->warps[w] = Warp{threads - w * LANES < LANES ? threads - w * LANES : LANES, 0, 0, {}};
    for (unsigned t = 0; t < threads; t++)
        prepare(&r->fibers[t], t);
    switch_context(&r->scheduler, &next_fiber()->context);
    if (r->live > 0) {
        fprintf(stderr, "emulation: block %u,%u,%u: some threads wait where others never come\n", here.block.x,
                here.block.y, here.block.z);
        abort();
    }
}

} // namespace

void block_barrier()
{
    Fiber *fiber = runner->current;
    fiber->awaited = runner->generation;
    fiber->state = State::AT_BARRIER;
    runner->arrived++;
    end_barrier();
    sleep_until_resumed(fiber);
}

const uint64_t *warp_meet(uint64_t given)
{
    Fiber *fiber = runner->current;
    Warp *warp = &runner->warps[fiber->place.x / LANES];
    unsigned generation = warp->generation;
    warp->given[generation % 2][fiber->place.x % LANES] = given;
    fiber->awaited = generation;
    fiber->state = State::AT_MEETING;
    warp->arrived++;
    end_meeting(warp);
    if (warp->generation == generation)
        sleep_until_resumed(fiber);
    return warp->given[generation % 2];
}

bool grid_is_valid(dim3 grid, unsigned threads, size_t shared_bytes)
{
    return grid.x > 0 && grid.x <= 0x7FFFFFFFu && grid.y > 0 && grid.y <= 65535 && grid.z > 0 && grid.z <= 65535 &&
           threads > 0 && threads <= THREADS_MAX && shared_bytes <= SHARED_MAX;
}

void run_grid(dim3 grid, unsigned threads, size_t shared_bytes, const std::function<void()> &kernel)
{
    static thread_local Runner own;
    bool backwards = reversed();
    runner = &own;
#if defined(__SANITIZE_THREAD__)
    own.scheduler.race_fiber = __tsan_get_current_fiber();
#endif
    own.kernel = &kernel;
    size_t misaligned = reinterpret_cast<uintptr_t>(own.shared.data()) % 16;
    dynamic_shared = own.shared.data() + (misaligned ? 16 - misaligned : 0);
    here.block_size = {threads, 1, 1};
    here.grid_size = {grid.x, grid.y, grid.z};
    uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t block = backwards ? blocks - 1 - i : i;
        here.block = {static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
                      static_cast<unsigned>(block / grid.x / grid.y)};
        memset(dynamic_shared, 0xFF, shared_bytes); // NaN: what is read unwritten shows
        engines_begin(threads, shared_bytes, backwards);
        run_block(threads, backwards);
        engines_end(threads);
    }
}

} // namespace emulation
