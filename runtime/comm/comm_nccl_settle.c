// Calling NCCL: its communicators do not block, so what they are doing is asked for until it is done, a peer has failed
// or the time is over.
#include <sched.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_nccl_internal.h"

static const double spin_s = 200e-6, sleep_s = 100e-6, cause_s = 2;

bool nccl_enter(NcclWorld *world, Fault *fault)
{
    pthread_rwlock_rdlock(&world->lock);
    if (!world->dead)
        return true;
    pthread_rwlock_unlock(&world->lock);
    return !rendezvous_aborted(world->rendezvous, fault) && fault_set(fault, FAULT_RUN, "the communicators were ended");
}

void nccl_leave(NcclWorld *world)
{
    pthread_rwlock_unlock(&world->lock);
}

int nccl_block_limit(int multiprocessors)
{
    enum { SHARE = 4, AT_ONCE = STREAM_COUNT - 1 }; // streams that meet other ranks
    int limit = multiprocessors / SHARE / AT_ONCE;
    return limit > 0 ? limit : 1;
}

bool nccl_failed(ncclComm_t nccl, ncclResult_t result, const char *what, Fault *fault)
{
    const char *detail = nccl ? ncclGetLastError(nccl) : "";
    bool shared = result == ncclInvalidUsage;
    return fault_set(fault, FAULT_RUN, "cannot %s: NCCL says '%s'%s%s%s", what, ncclGetErrorString(result),
                     detail && detail[0] ? ": " : "", detail ? detail : "",
                     shared ? "; processes that share a GPU need an NCCL_HOSTID each" : "");
}

bool nccl_await_cause(NcclWorld *world, ncclResult_t result, Fault *fault)
{
    double until_s = clock_now_s() + (result == ncclRemoteError || result == ncclSystemError ? cause_s : 0);
    bool known = rendezvous_aborted(world->rendezvous, fault);
    while (!known && clock_now_s() < until_s) {
        clock_sleep_until(clock_now_s() + sleep_s);
        known = rendezvous_aborted(world->rendezvous, fault);
    }
    return known;
}

bool nccl_settle(NcclWorld *world, ncclComm_t nccl, ncclResult_t result, const char *what, Fault *fault)
{
    double began_s = clock_now_s();
    ncclResult_t state = result;
    while (nccl && (result == ncclSuccess || result == ncclInProgress)) {
        result = ncclCommGetAsyncError(nccl, &state);
        if (result == ncclSuccess && state != ncclInProgress) {
            result = state;
            break;
        }
        double now_s = clock_now_s();
        if (rendezvous_aborted(world->rendezvous, fault))
            return false;
        if (now_s - began_s > world->comm.timeout_s)
            return fault_set(fault, FAULT_RUN, "cannot %s: not all ranks took part within %g s", what,
                             world->comm.timeout_s);
        if (now_s - began_s < spin_s)
            sched_yield();
        else
            clock_sleep_until(now_s + sleep_s);
    }
    return result == ncclSuccess || (!nccl_await_cause(world, result, fault) && nccl_failed(nccl, result, what, fault));
}
