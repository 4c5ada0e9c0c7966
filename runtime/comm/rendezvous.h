// How processes that no MPI joins find each other and keep in touch: each is told its rank by its launcher's
// environment, connects to rank 0 by TCP, and stays connected. Over those connections go barriers, reductions, the
// plan and causes of failure, never a step's rows. A process that dies is noticed at once by its connection's end.
// Every wait is bounded, but for those in which the ranks work between calls: there a rank that lives may take its
// time.
#ifndef HEP_RENDEZVOUS_H
#define HEP_RENDEZVOUS_H

#include "runtime/base/standing.h"
#include "runtime/comm/job_secret.h"

enum { RENDEZVOUS_HOST_MAX = 256 };

typedef struct {
    const char *launcher; // "torchrun", "mpirun"
    uint64_t rank, size;
    uint64_t local_rank;            // among the processes of this machine
    char host[RENDEZVOUS_HOST_MAX]; // where rank 0 listens
    uint16_t port;
    Secret secret; // that the processes of this job have in common
} Launch;

typedef enum { LAUNCH_NONE, LAUNCH_FOUND, LAUNCH_WRONG } LaunchState;

// Reads RANK, WORLD_SIZE, LOCAL_RANK or what mpirun and srun set in their place; rank 0's address from MASTER_ADDR and
// MASTER_PORT, else, on one machine or under srun, found by itself. WRONG, with a fault, where something is missing.
LaunchState launch_read(Launch *launch, Fault *fault) MUST_CHECK;
// The same where there must be one: false and a fault if there is none, too.
bool launch_find(Launch *launch, Fault *fault) MUST_CHECK;

typedef struct Rendezvous Rendezvous;

// Joins all processes; `timeout_s` bounds the wait for the last. NULL and a fault on every process otherwise.
Rendezvous *rendezvous_create(const Launch *launch, double timeout_s, Fault *fault) MUST_CHECK;
// Takes NULL. Not collective: the others learn that this process has left, which ends a call that waits for it.
void rendezvous_destroy(Rendezvous *rendezvous);

// How many of the processes are on this machine.
uint64_t rendezvous_machine_size(const Rendezvous *rendezvous);

// Collective, in one order on all processes, by one thread at a time. False and a fault once any process has failed
// or left.
// all: [size][bytes], in the order of the ranks.
bool rendezvous_all_gather(Rendezvous *rendezvous, const void *own, void *all, uint64_t bytes, Fault *fault) MUST_CHECK;
// Rank 0's bytes to all.
bool rendezvous_broadcast(Rendezvous *rendezvous, void *data, uint64_t bytes, Fault *fault) MUST_CHECK;

// Has all processes told, a few times within the time limit, where this rank's device stands.
void rendezvous_stand(Rendezvous *rendezvous, const Standing *standing);
// Where a rank was when it last told; iteration 0 where it never did.
Standing rendezvous_standing(Rendezvous *rendezvous, uint64_t rank);

// Makes every process's pending and later calls fail with `cause`, soon. From any thread; the first cause wins.
void rendezvous_abort(Rendezvous *rendezvous, const Fault *cause);
// True, with the first cause as the fault, once a process has failed. Cheap; from any thread.
bool rendezvous_aborted(Rendezvous *rendezvous, Fault *fault);
// After a failure: waits until the cause is known to all and leaves it in `fault` where this process is the one that
// reports it (rank 0, or rank 1 where that is gone), else the kind alone.
void rendezvous_settle(Rendezvous *rendezvous, Fault *fault);

#endif
