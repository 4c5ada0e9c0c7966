// Moves in a GPU's memory, in order: the queues of one caller, what is in line in each, and what comes after what
// (moves.h says what can be put in line). Made by the CUDA plug-in.
#ifndef HEP_MOVER_H
#define HEP_MOVER_H

#include "runtime/engine/moves.h"

typedef struct Mover Mover;
typedef struct MoveMark MoveMark; // a point of a queue

// The caller's own stream, and two that run beside it.
typedef enum { LANE_CALLER, LANE_GATHERS, LANE_RETURNS, LANE_COUNT } MoveLane;

typedef struct {
    const MoveOps *moves;
    // Queues on the communicator's GPU. False and a fault.
    bool (*create)(Comm *comm, Mover **mover, Fault *fault);
    // Waits for what is in line, unless the communicator has failed. Takes NULL.
    void (*destroy)(Mover *mover);
    MoveQueue *(*queue)(Mover *mover, MoveLane lane);

    // Around a call of the caller's: the thread's current device is the mover's in between.
    void (*enter)(Mover *mover);
    void (*leave)(Mover *mover);
    // In between: the caller's queue is this stream (a cudaStream_t) of his, after what it was before. False and a
    // fault where it is not one of the GPU.
    bool (*attach)(Mover *mover, void *stream, Fault *fault);
    // Does what the caller calls `name` lie in the GPU's memory, or where it can be reached?
    bool (*owns)(Mover *mover, const void *data, const char *name, Fault *fault);

    // *mark, which is made if it is NULL, becomes the queue's end; from now on the queue comes after a mark (NULL:
    // none).
    bool (*mark)(MoveQueue *queue, MoveMark **mark, Fault *fault);
    bool (*follow)(MoveQueue *queue, const MoveMark *mark, Fault *fault);
    void (*unmark)(MoveMark *mark);                // takes NULL
    bool (*drain)(MoveQueue *queue, Fault *fault); // waits for its end, or a failure

    // Are collectives put in line, or waited for one by one? The latter, as at first, while kernels run that have not
    // run before: the driver loads kernels only when nothing runs.
    void (*hurry)(Mover *mover, bool hurries);
    // False, the call and a fault: a rank has failed, the GPU has, or a collective waits for longer than the
    // communicator's time-out. Cheap; from any thread.
    bool (*look)(Mover *mover, CommCall *call, Fault *fault);
} MoverOps;

#endif
