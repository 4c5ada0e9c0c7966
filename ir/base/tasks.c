// See tasks.h.
#include "ir/base/tasks.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "ir/base/arena.h"

enum { HELPERS_MAX = 31 }; // threads besides the calling one

typedef struct {
    void (*task)(void *context, uint32_t index);
    void *context;
    uint32_t count;
    _Atomic uint32_t next;
    _Atomic bool exhausted; // memory
} Tasks;

uint32_t processors_online(void)
{
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (uint32_t)count : 1;
}

// The mask of a machine with many processors may not fit one of the usual size.
uint32_t processors_allowed(void)
{
    enum { PROCESSORS_MAX = 1 << 16 };
    for (int size = 1024; size <= PROCESSORS_MAX; size *= 4) {
        cpu_set_t *mask = CPU_ALLOC(size);
        int count =
            mask && sched_getaffinity(0, CPU_ALLOC_SIZE(size), mask) == 0 ? CPU_COUNT_S(CPU_ALLOC_SIZE(size), mask) : 0;
        CPU_FREE(mask);
        if (count > 0)
            return (uint32_t)count;
    }
    return processors_online();
}

static void take_tasks(void *context)
{
    Tasks *tasks = context;
    for (uint32_t i; !tasks->exhausted && (i = tasks->next++) < tasks->count;)
        tasks->task(tasks->context, i);
}

static void *work(void *context)
{
    Tasks *tasks = context;
    Fault fault = {0};
    if (!memory_guard(take_tasks, tasks, &fault))
        tasks->exhausted = true;
    return NULL;
}

void tasks_run(void (*task)(void *context, uint32_t index), void *context, uint32_t count)
{
    Tasks tasks = {.task = task, .context = context, .count = count};
    uint32_t processors = processors_allowed(), wanted = count < processors ? count : processors, helpers = 0;
    pthread_t threads[HELPERS_MAX];
    while (helpers < HELPERS_MAX && helpers + 1 < wanted && pthread_create(&threads[helpers], NULL, work, &tasks) == 0)
        helpers++;
    work(&tasks);
    for (uint32_t i = 0; i < helpers; i++)
        pthread_join(threads[i], NULL);
    if (tasks.exhausted)
        memory_exhausted();
}
