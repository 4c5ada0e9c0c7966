// See jobs.h.
#include "runtime/library/jobs.h"

#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/library/dense.h"
#include "runtime/library/experts.h"
#include "runtime/library/order.h"

static bool job_run(hep_context *context, const Job *job, Fault *fault)
{
    switch (job->kind) {
    case JOB_RETURN:
        return experts_return(context, job, fault);
    case JOB_DENSE_GATHER:
        return dense_gather(context, job, fault);
    case JOB_DENSE_RETURN:
        return dense_return(context, job, fault);
    }
    return false;
}

// The mutex is held, but not while weights move.
static void job_next(hep_context *context)
{
    Job *job = context->jobs;
    Fault fault = {0};
    pthread_mutex_unlock(&context->mutex);
    bool ok = job_run(context, job, &fault) &&
              (!job->bundle || order_mark(context, LANE_RETURNS, &job->bundle->done, &fault));
    if (!ok)
        context_fail(context, &fault);
    pthread_mutex_lock(&context->mutex);
    context->jobs = job->next;
    if (!context->jobs)
        context->jobs_end = &context->jobs;
    context->returning--;
    if (job->bundle) {
        job->bundle->moving--;
        job->bundle->is_gathered = job->bundle->is_gathered || (ok && job->kind == JOB_DENSE_GATHER);
    }
    free(job);
    pthread_cond_broadcast(&context->changed);
}

static void *courier_run(void *argument)
{
    hep_context *context = argument;
    pthread_mutex_lock(&context->mutex);
    while (!context->stopping && !atomic_load(&context->failed)) {
        if (context->jobs)
            job_next(context);
        else
            pthread_cond_wait(&context->changed, &context->mutex);
    }
    pthread_mutex_unlock(&context->mutex);
    context_tell(context, 1u << STREAM_SYNC);
    return NULL;
}

bool jobs_start(hep_context *context, Fault *fault)
{
    return pthread_create(&context->courier, NULL, courier_run, context) == 0 ||
           fault_set(fault, FAULT_MEMORY, "a thread cannot be started");
}

void jobs_stop(hep_context *context)
{
    if (context->threads_run)
        pthread_join(context->courier, NULL);
    while (context->jobs) {
        Job *job = context->jobs;
        context->jobs = job->next;
        free(job);
    }
}

bool jobs_add(hep_context *context, const Job *job, Fault *fault)
{
    Job *added = malloc(sizeof(*added));
    if (!added)
        return fault_set(fault, FAULT_MEMORY, "out of memory for a transfer of weights");
    *added = *job;
    added->next = NULL;
    pthread_mutex_lock(&context->mutex);
    *context->jobs_end = added;
    context->jobs_end = &added->next;
    context->returning++;
    if (job->bundle) {
        job->bundle->moving++;
        job->bundle->is_gathered = job->bundle->is_gathered && job->kind != JOB_DENSE_GATHER;
    }
    if (!context->threads_run)
        job_next(context);
    bool ok = !context_has_failed(context, fault);
    pthread_cond_broadcast(&context->changed);
    pthread_mutex_unlock(&context->mutex);
    return ok;
}

bool jobs_wait(hep_context *context, const Bundle *bundle, Fault *fault)
{
    double begin_s = clock_now_s();
    pthread_mutex_lock(&context->mutex);
    while ((bundle ? bundle->moving > 0 : context->returning > 0) && !atomic_load(&context->failed))
        pthread_cond_wait(&context->changed, &context->mutex);
    context->waited_s += clock_now_s() - begin_s;
    bool ok = !context_has_failed(context, fault);
    pthread_mutex_unlock(&context->mutex);
    return ok;
}
