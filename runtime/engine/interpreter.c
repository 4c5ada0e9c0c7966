// The step loop. A step is done when its counter equals the number of the iteration; a stream that
// finds a counter behind sleeps on a condition of its own until the step's stream wakes it, and no other.
// Where a communicator wants its collectives in one order on all ranks (DeviceCommOps.ordered) a collective waits, too,
// for the one before it in the plan; and in an iteration that has steps which never ran each waits until the one before
// it is done, on the device.
// Owns the streams' threads and the times; what a step does is the engine's business.
#include "runtime/engine/interpreter.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"

typedef struct {
    Interpreter *interpreter;
    Stream stream;
    uint32_t *steps; // in order
    uint32_t step_count;
    pthread_t thread;
    bool started;
    pthread_cond_t woken;
    _Atomic int64_t sleeps_for;       // a step; -1: awake
    _Atomic int64_t current, awaited; // as StreamPoint
    _Atomic double since_s;
} StreamState;

struct Interpreter {
    const Plan *plan;
    const EngineOps *ops;
    Engine *engine;
    Comm *comm;
    StreamState streams[STREAM_COUNT];
    StreamState *first; // run by the caller
    uint32_t *step_memory;
    _Atomic uint32_t *done; // [step] number of the last iteration it was done in
    bool *awaited;          // [step] another stream waits for it
    uint32_t *turn_after;   // [step] where collectives have one order: the one before it, plus one; 0: none
    bool *ran;              // [step] likewise: has been in an iteration
    StepTime *times;

    pthread_mutex_t mutex;
    pthread_cond_t changed;    // there is another iteration, or none any more
    pthread_cond_t through;    // the streams other than the first are
    uint32_t iteration;        // number of the iteration under way; guarded by mutex
    const bool *skipped_steps; // of it; guarded by mutex until it begins
    bool one_by_one;           // it has steps that never ran; guarded likewise
    uint32_t running;          // streams other than the first that are not through
    uint32_t others;
    bool quit;
    atomic_bool failed;
    atomic_bool finishing; // all steps are enqueued, the engine waits for them
    Fault fault;
};

// One that says that it sleeps holds the mutex until it does.
static void stream_wake(Interpreter *interpreter, StreamState *stream)
{
    pthread_mutex_lock(&interpreter->mutex);
    pthread_mutex_unlock(&interpreter->mutex);
    pthread_cond_signal(&stream->woken);
}

// `index` -1: none in particular.
static void step_fail(Interpreter *interpreter, int64_t index, Fault *fault)
{
    if (fault->rank < 0) { // otherwise it is another rank's, handed on
        fault->rank = (int64_t)interpreter->comm->rank;
        fault->step = index;
    }
    interpreter->comm->ops->abort(interpreter->comm, fault);
    pthread_mutex_lock(&interpreter->mutex);
    if (interpreter->fault.kind == FAULT_NONE)
        interpreter->fault = *fault;
    atomic_store(&interpreter->failed, true);
    pthread_mutex_unlock(&interpreter->mutex);
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        pthread_cond_signal(&interpreter->streams[s].woken);
}

// The order of "say what is slept for, look at the counter" here and "set the counter, look who sleeps for it"
// in step_finish makes sure that one of the two sees the other.
static bool step_await(Interpreter *interpreter, StreamState *stream, uint32_t awaited, uint32_t iteration)
{
    if (atomic_load(&interpreter->done[awaited]) == iteration)
        return true;
    pthread_mutex_lock(&interpreter->mutex);
    atomic_store(&stream->sleeps_for, awaited);
    while (atomic_load(&interpreter->done[awaited]) != iteration && !atomic_load(&interpreter->failed))
        pthread_cond_wait(&stream->woken, &interpreter->mutex);
    atomic_store(&stream->sleeps_for, -1);
    pthread_mutex_unlock(&interpreter->mutex);
    return !atomic_load(&interpreter->failed);
}

static void step_finish(Interpreter *interpreter, uint32_t index, uint32_t iteration)
{
    atomic_store(&interpreter->done[index], iteration);
    for (uint32_t s = 0; interpreter->awaited[index] && s < STREAM_COUNT; s++) {
        if (atomic_load(&interpreter->streams[s].sleeps_for) == index)
            stream_wake(interpreter, &interpreter->streams[s]);
    }
}

// Publishes what the stream waits for, or that its step starts.
static void stream_waits(StreamState *stream, int64_t awaited)
{
    atomic_store_explicit(&stream->since_s, clock_now_s(), memory_order_relaxed);
    atomic_store_explicit(&stream->awaited, awaited, memory_order_relaxed);
}

static bool step_execute(Interpreter *interpreter, uint32_t index)
{
    Fault fault = {0};
    interpreter->times[index].start_s = clock_now_s();
    bool ok = interpreter->ops->execute(interpreter->engine, index, &fault) &&
              (!interpreter->one_by_one || !interpreter->ops->queue ||
               interpreter->ops->queue->complete(interpreter->engine, index, &fault));
    interpreter->times[index].end_s = clock_now_s();
    if (!ok)
        step_fail(interpreter, index, &fault);
    return ok;
}

// Waits for the step that has its turn before this one. False once another stream has failed.
static bool turn_await(Interpreter *interpreter, StreamState *stream, uint32_t index, uint32_t iteration)
{
    uint32_t after = interpreter->one_by_one ? index : interpreter->turn_after[index];
    if (after == 0)
        return true;
    stream_waits(stream, after - 1);
    return step_await(interpreter, stream, after - 1, iteration);
}

static void stream_run(Interpreter *interpreter, StreamState *stream, uint32_t iteration)
{
    const Plan *plan = interpreter->plan;
    for (uint32_t i = 0; i < stream->step_count; i++) {
        uint32_t index = stream->steps[i];
        const Step *step = &plan->steps[index];
        atomic_store_explicit(&stream->current, index, memory_order_relaxed);
        for (uint32_t a = 0; a < step->after_count; a++) {
            stream_waits(stream, plan->after[step->after_first + a]);
            if (!step_await(interpreter, stream, plan->after[step->after_first + a], iteration))
                return;
        }
        if (!turn_await(interpreter, stream, index, iteration))
            return;
        stream_waits(stream, -1);
        if (atomic_load_explicit(&interpreter->failed, memory_order_relaxed))
            return;
        if (interpreter->skipped_steps && interpreter->skipped_steps[index])
            interpreter->times[index].start_s = interpreter->times[index].end_s = clock_now_s();
        else if (!step_execute(interpreter, index))
            return;
        step_finish(interpreter, index, iteration);
    }
    stream_waits(stream, -1);
    atomic_store_explicit(&stream->current, -1, memory_order_relaxed);
}

static void *stream_main(void *argument)
{
    StreamState *stream = argument;
    Interpreter *interpreter = stream->interpreter;
    uint32_t iteration = 0;
    pthread_mutex_lock(&interpreter->mutex);
    for (;;) {
        while (!interpreter->quit && interpreter->iteration == iteration)
            pthread_cond_wait(&interpreter->changed, &interpreter->mutex);
        if (interpreter->quit)
            break;
        iteration = interpreter->iteration;
        pthread_mutex_unlock(&interpreter->mutex);
        stream_run(interpreter, stream, iteration);
        pthread_mutex_lock(&interpreter->mutex);
        if (--interpreter->running == 0)
            pthread_cond_signal(&interpreter->through);
    }
    pthread_mutex_unlock(&interpreter->mutex);
    return NULL;
}

// Steps that an engine enqueues may fail after they were executed.
static void finish(Interpreter *interpreter)
{
    Fault fault = {0};
    atomic_store(&interpreter->finishing, true);
    if (interpreter->ops->queue && !atomic_load(&interpreter->failed) &&
        !interpreter->ops->queue->finish(interpreter->engine, interpreter->times, &fault))
        step_fail(interpreter, -1, &fault);
    atomic_store(&interpreter->finishing, false);
}

// All steps at once, if the engine can: true when that is done, or has failed.
static bool replay(Interpreter *interpreter, const bool *skipped_steps)
{
    Fault fault = {0};
    if (!interpreter->ops->queue)
        return false;
    bool done = interpreter->ops->queue->replay(interpreter->engine, skipped_steps, &fault);
    if (!done && fault.kind != FAULT_NONE)
        step_fail(interpreter, -1, &fault);
    return done || fault.kind != FAULT_NONE;
}

static bool is_ordered(const Interpreter *interpreter)
{
    return interpreter->comm->device && interpreter->comm->device->ordered;
}

// Has the iteration steps that were in none before?
static bool note_new_steps(Interpreter *interpreter, const bool *skipped_steps)
{
    bool any = false;
    for (uint32_t s = 0; s < interpreter->plan->step_count; s++) {
        any = any || (!interpreter->ran[s] && !(skipped_steps && skipped_steps[s]));
        interpreter->ran[s] = interpreter->ran[s] || !(skipped_steps && skipped_steps[s]);
    }
    return any;
}

static void step_by_step(Interpreter *interpreter, const bool *skipped_steps)
{
    pthread_mutex_lock(&interpreter->mutex);
    uint32_t iteration = ++interpreter->iteration;
    interpreter->skipped_steps = skipped_steps;
    interpreter->one_by_one = is_ordered(interpreter) && note_new_steps(interpreter, skipped_steps);
    interpreter->running = interpreter->others;
    pthread_cond_broadcast(&interpreter->changed);
    pthread_mutex_unlock(&interpreter->mutex);
    if (interpreter->first)
        stream_run(interpreter, interpreter->first, iteration);
    pthread_mutex_lock(&interpreter->mutex);
    while (interpreter->running > 0)
        pthread_cond_wait(&interpreter->through, &interpreter->mutex);
    pthread_mutex_unlock(&interpreter->mutex);
}

bool interpreter_run(Interpreter *interpreter, const bool *skipped_steps, Fault *fault)
{
    if (!replay(interpreter, skipped_steps))
        step_by_step(interpreter, skipped_steps);
    finish(interpreter);
    pthread_mutex_lock(&interpreter->mutex);
    bool ok = interpreter->fault.kind == FAULT_NONE;
    if (!ok && fault->kind == FAULT_NONE)
        *fault = interpreter->fault;
    pthread_mutex_unlock(&interpreter->mutex);
    return ok;
}

// ---- creation --------------------------------------------------------------------------------

static bool interpreter_allocate(Interpreter *interpreter)
{
    const Plan *plan = interpreter->plan;
    size_t steps = (size_t)plan->step_count + 1;
    interpreter->step_memory = calloc(steps, sizeof(*interpreter->step_memory));
    interpreter->done = calloc(steps, sizeof(*interpreter->done));
    interpreter->awaited = calloc(steps, sizeof(*interpreter->awaited));
    interpreter->times = calloc(steps, sizeof(*interpreter->times));
    interpreter->turn_after = calloc(steps, sizeof(*interpreter->turn_after));
    interpreter->ran = calloc(steps, sizeof(*interpreter->ran));
    return interpreter->turn_after && interpreter->ran && interpreter->step_memory && interpreter->done &&
           interpreter->awaited && interpreter->times;
}

static void streams_divide(Interpreter *interpreter)
{
    const Plan *plan = interpreter->plan;
    uint32_t *next = interpreter->step_memory;
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        StreamState *stream = &interpreter->streams[s];
        stream->interpreter = interpreter;
        stream->stream = (Stream)s;
        stream->steps = next;
        atomic_store(&stream->current, -1);
        atomic_store(&stream->awaited, -1);
        for (uint32_t i = 0; i < plan->step_count; i++) {
            if (step_stream(plan, &plan->steps[i]) == (Stream)s)
                *next++ = i;
        }
        stream->step_count = (uint32_t)(next - stream->steps);
        if (stream->step_count > 0 && !interpreter->first)
            interpreter->first = stream;
    }
    for (uint32_t i = 0; i < plan->step_count; i++) {
        for (uint32_t a = 0; a < plan->steps[i].after_count; a++)
            interpreter->awaited[plan->after[plan->steps[i].after_first + a]] = true;
    }
}

// All steps are awaited: in some iterations by the next one.
static void turns_resolve(Interpreter *interpreter)
{
    const Plan *plan = interpreter->plan;
    uint32_t before = 0;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        interpreter->awaited[s] = true;
        if (plan->steps[s].group == NONE || group_size(&plan->cluster, &plan->groups[plan->steps[s].group]) < 2)
            continue;
        interpreter->turn_after[s] = before;
        before = s + 1;
    }
}

static bool streams_start(Interpreter *interpreter, Fault *fault)
{
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        StreamState *stream = &interpreter->streams[s];
        if (stream->step_count == 0 || stream == interpreter->first)
            continue;
        int error = pthread_create(&stream->thread, NULL, stream_main, stream);
        if (error)
            return fault_set(fault, FAULT_RUN, "cannot start a thread for stream '%s': %s", stream_name((Stream)s),
                             strerror(error));
        stream->started = true;
        interpreter->others++;
    }
    return true;
}

Interpreter *interpreter_create(const Plan *plan, const EngineOps *ops, Engine *engine, Comm *comm, Fault *fault)
{
    Interpreter *interpreter = calloc(1, sizeof(*interpreter));
    if (!interpreter) {
        fault_set(fault, FAULT_MEMORY, "out of memory");
        return NULL;
    }
    interpreter->plan = plan;
    interpreter->ops = ops;
    interpreter->engine = engine;
    interpreter->comm = comm;
    pthread_mutex_init(&interpreter->mutex, NULL);
    clock_cond_init(&interpreter->changed);
    clock_cond_init(&interpreter->through);
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        clock_cond_init(&interpreter->streams[s].woken);
        atomic_store(&interpreter->streams[s].sleeps_for, -1);
    }
    bool ok = interpreter_allocate(interpreter) || fault_set(fault, FAULT_MEMORY, "out of memory");
    if (ok) {
        streams_divide(interpreter);
        if (is_ordered(interpreter))
            turns_resolve(interpreter);
        ok = streams_start(interpreter, fault);
    }
    if (!ok) {
        interpreter_destroy(interpreter);
        return NULL;
    }
    return interpreter;
}

void interpreter_destroy(Interpreter *interpreter)
{
    if (!interpreter)
        return;
    pthread_mutex_lock(&interpreter->mutex);
    interpreter->quit = true;
    pthread_cond_broadcast(&interpreter->changed);
    pthread_mutex_unlock(&interpreter->mutex);
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        if (interpreter->streams[s].started)
            pthread_join(interpreter->streams[s].thread, NULL);
    }
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        pthread_cond_destroy(&interpreter->streams[s].woken);
    pthread_cond_destroy(&interpreter->changed);
    pthread_cond_destroy(&interpreter->through);
    pthread_mutex_destroy(&interpreter->mutex);
    free(interpreter->step_memory);
    free((void *)interpreter->done);
    free(interpreter->awaited);
    free(interpreter->turn_after);
    free(interpreter->ran);
    free(interpreter->times);
    free(interpreter);
}

const StepTime *interpreter_times(const Interpreter *interpreter)
{
    return interpreter->times;
}

StreamPoint interpreter_point(const Interpreter *interpreter, Stream stream)
{
    const StreamState *state = &interpreter->streams[stream];
    return (StreamPoint){.step = atomic_load_explicit(&state->current, memory_order_relaxed),
                         .awaited = atomic_load_explicit(&state->awaited, memory_order_relaxed),
                         .since_s = atomic_load_explicit(&state->since_s, memory_order_relaxed)};
}

double interpreter_life_s(const Interpreter *interpreter, double now_s)
{
    double life_s = 0;
    if (atomic_load(&interpreter->finishing))
        return now_s;
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        StreamPoint at = interpreter_point(interpreter, (Stream)s);
        if (at.step >= 0 && at.awaited < 0 && interpreter->plan->steps[at.step].group == NONE)
            return now_s;
        life_s = fmax(life_s, at.since_s);
    }
    return life_s;
}
