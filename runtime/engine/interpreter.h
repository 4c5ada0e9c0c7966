// Runs the steps of a plan for one rank: every stream that has steps is a thread that executes them
// in order and waits for the steps of other streams that `after` names. Threads and all memory are
// made once; an iteration allocates nothing.
#ifndef HEP_INTERPRETER_H
#define HEP_INTERPRETER_H

#include "runtime/engine/engine.h"

typedef struct Interpreter Interpreter;

// Starts the threads. NULL and a fault when one cannot be started.
Interpreter *interpreter_create(const Plan *plan, const EngineOps *ops, Engine *engine, Comm *comm, Fault *fault);
void interpreter_destroy(Interpreter *interpreter); // takes NULL; no iteration is under way

// One iteration: returns when all streams are through. On a fault the world is aborted, so that no
// other rank waits for this one; the fault names rank, step and op. `skipped_steps`: [step] those that are not
// executed, the same on all ranks; NULL: none. Order and waits stay as they are.
bool interpreter_run(Interpreter *interpreter, const bool *skipped_steps, Fault *fault);

// Of the last iteration; a step that was skipped took no time.
const StepTime *interpreter_times(const Interpreter *interpreter);

// Where a stream stands. May be asked from any thread; the three are read one by one.
StreamPoint interpreter_point(const Interpreter *interpreter, Stream stream);
// As Watch.life_s. A stream inside a step that needs no peer makes progress, however long that takes; one inside a
// collective or waiting for a step has got on when it came there.
double interpreter_life_s(const Interpreter *interpreter, double now_s);

#endif
