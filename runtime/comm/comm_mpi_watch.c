// Who lives and who makes progress in a world of processes. In every process a thread listens: for signs of life of the
// process before it, so that a stopped one is noticed wherever the others wait; for faults that others report; and
// for questions. A stream that waits for a peer has that peer's process asked how far it is, and waits on as long as
// the answer is that the peer moves bytes, begins and ends steps, computes, or waits itself for one that does.
#include <math.h>
#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_mpi_internal.h"

static const double listen_s = 20e-3, beat_s = 0.5;

typedef struct {
    Stream stream;
    StreamPoint at;
    double for_s;  // of that point
    double idle_s; // since when nobody was seen to make progress, there and where it waits
} Answer;

struct Reply {
    Answer answer;
    MPI_Request request;
};

struct Listener {
    MpiWorld *world;
    pthread_t thread;
    atomic_bool quit;
    double period_s;           // of signs of life, and of questions
    MPI_Request alive;         // the latest sign of life sent
    double heard_s, beaten_s;  // from the process before; to the one after
    double looked_s;           // when the thread last looked around
    atomic_int open_questions; // that were not answered yet
    struct Question {
        Stream stream;
        MPI_Request request;
        double asked_s;
        bool open;
    } questions[STREAM_COUNT];
    struct Reply *replies; // [processes][STREAM_COUNT]
};

static int process_after(const MpiWorld *world)
{
    return (int)((world->process + 1) % world->comm.size);
}

static int process_before(const MpiWorld *world)
{
    return (int)((world->process + world->comm.size - 1) % world->comm.size);
}

static bool is_sent(MPI_Request *request)
{
    int done = 0;
    return MPI_Test(request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && done;
}

// ---- what streams wait for -------------------------------------------------------------------

double mpi_silence_s(const MpiWorld *world)
{
    return 2 * world->listener->period_s + 0.1;
}

// ---- questions and answers -------------------------------------------------------------------

static Answer answer_now(MpiWorld *world, Stream stream)
{
    double now_s = clock_now_s(), life_s = atomic_load(&world->progress_s);
    Answer answer = {.stream = stream, .at = {.step = -1, .awaited = -1, .since_s = now_s}};
    pthread_mutex_lock(&world->wait_mutex);
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        if (world->waits[s].channel)
            life_s = fmax(life_s, world->waits[s].life_s);
    }
    if (world->watch.point) {
        answer.at = world->watch.point(world->watch.context, stream);
        life_s = fmax(life_s, world->watch.life_s(world->watch.context, now_s));
    }
    pthread_mutex_unlock(&world->wait_mutex);
    answer.for_s = fmax(now_s - answer.at.since_s, 0);
    answer.idle_s = fmax(now_s - life_s, 0);
    return answer;
}

static void answer_questions(Listener *listener)
{
    MpiWorld *world = listener->world;
    Stream stream;
    for (int from; (from = mpi_control_receive(world, MPI_ANY_SOURCE, TAG_ASK, &stream, sizeof(stream))) >= 0;) {
        if ((unsigned)stream >= STREAM_COUNT)
            continue;
        // Who asks has had the last answer: its buffer is free.
        struct Reply *reply = &listener->replies[(size_t)from * STREAM_COUNT + stream];
        MPI_Wait(&reply->request, MPI_STATUS_IGNORE);
        reply->answer = answer_now(world, stream);
        MPI_Isend(&reply->answer, sizeof(reply->answer), MPI_BYTE, from, TAG_ANSWER, world->control, &reply->request);
    }
}

static void ask_peers(Listener *listener, double now_s)
{
    MpiWorld *world = listener->world;
    for (uint32_t s = 0; s < STREAM_COUNT; s++) {
        struct Question *question = &listener->questions[s];
        if (question->open || now_s < question->asked_s + listener->period_s || !is_sent(&question->request))
            continue;
        Wait wait = mpi_wait_known(world, (Stream)s);
        if (!wait.channel)
            continue;
        question->stream = (Stream)s;
        question->asked_s = now_s;
        question->open = true;
        atomic_fetch_add(&listener->open_questions, 1);
        MPI_Isend(&question->stream, sizeof(question->stream), MPI_BYTE, wait.process, TAG_ASK, world->control,
                  &question->request);
    }
}

// Ages count from when the question was sent: so no answer makes a peer look more alive than it was, and two ranks
// that wait for each other do not keep each other alive.
static void hear_answers(Listener *listener)
{
    MpiWorld *world = listener->world;
    Answer answer;
    for (int from; (from = mpi_control_receive(world, MPI_ANY_SOURCE, TAG_ANSWER, &answer, sizeof(answer))) >= 0;) {
        if ((unsigned)answer.stream >= STREAM_COUNT)
            continue;
        struct Question *question = &listener->questions[answer.stream];
        Wait *wait = &world->waits[answer.stream];
        question->open = false;
        atomic_fetch_sub(&listener->open_questions, 1);
        pthread_mutex_lock(&world->wait_mutex);
        if (wait->channel && wait->process == from) {
            wait->heard_s = question->asked_s;
            wait->life_s = fmax(wait->life_s, question->asked_s - answer.idle_s);
            wait->at = answer.at;
            wait->for_s = answer.for_s;
        }
        pthread_mutex_unlock(&world->wait_mutex);
    }
}

// ---- the thread ------------------------------------------------------------------------------

static void listen_for_faults(MpiWorld *world)
{
    Fault fault;
    if (mpi_control_receive(world, MPI_ANY_SOURCE, TAG_OVER, NULL, 0) >= 0)
        atomic_store(&world->over, true);
    if (mpi_control_receive(world, MPI_ANY_SOURCE, TAG_FAULT, &fault, sizeof(fault)) >= 0)
        mpi_end(world, &fault);
}

static void give_sign_of_life(Listener *listener, double now_s)
{
    MpiWorld *world = listener->world;
    if (now_s < listener->beaten_s + listener->period_s)
        return;
    listener->beaten_s = now_s;
    if (is_sent(&listener->alive))
        MPI_Isend(NULL, 0, MPI_BYTE, process_after(world), TAG_ALIVE, world->control, &listener->alive);
}

// A stream that waits for the silent process speaks first: it knows more to say.
static void look_for_life(Listener *listener, double now_s)
{
    MpiWorld *world = listener->world;
    int before = process_before(world);
    double timeout_s = world->options.timeout_s;
    // Who was stopped itself and continues has no reason to complain.
    if (mpi_control_receive(world, before, TAG_ALIVE, NULL, 0) >= 0 || now_s - listener->looked_s > timeout_s / 2)
        listener->heard_s = now_s;
    if (now_s <= listener->heard_s + timeout_s + mpi_silence_s(world))
        return;
    Fault fault = {0};
    fault_set(&fault, FAULT_RUN, "rank %d gave no sign of life for %g s", (int)mpi_rank_of(world, before), timeout_s);
    fault.peer = mpi_rank_of(world, before);
    mpi_abort(&world->comm, &fault);
}

static void *listener_main(void *argument)
{
    Listener *listener = argument;
    listener->heard_s = listener->looked_s = clock_now_s();
    while (!atomic_load(&listener->quit)) {
        double now_s = clock_now_s();
        listen_for_faults(listener->world);
        answer_questions(listener);
        hear_answers(listener);
        ask_peers(listener, now_s);
        give_sign_of_life(listener, now_s);
        look_for_life(listener, now_s);
        listener->looked_s = now_s;
        clock_sleep_until(now_s + listen_s);
    }
    return NULL;
}

bool mpi_listener_start(MpiWorld *world, Fault *fault)
{
    size_t replies = world->comm.size * STREAM_COUNT;
    Listener *listener = calloc(1, sizeof(*listener));
    world->listener = listener;
    if (listener)
        listener->replies = calloc(replies, sizeof(*listener->replies));
    if (!listener || !listener->replies)
        return fault_set(fault, FAULT_MEMORY, "out of memory for %d ranks", (int)world->comm.size);
    listener->world = world;
    listener->period_s = fmin(beat_s, world->options.timeout_s / 8);
    listener->alive = MPI_REQUEST_NULL;
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        listener->questions[s].request = MPI_REQUEST_NULL;
    for (size_t r = 0; r < replies; r++)
        listener->replies[r].request = MPI_REQUEST_NULL;
    return pthread_create(&listener->thread, NULL, listener_main, listener) == 0 ||
           fault_set(fault, FAULT_RUN, "cannot start the thread that listens");
}

// No question is open any more in any process, all are past a barrier: what may still be on its way are signs of
// life, and the last message comes after them.
void mpi_listener_stop(MpiWorld *world)
{
    Listener *listener = world->listener;
    double until_s = clock_now_s() + world->options.timeout_s;
    while (atomic_load(&listener->open_questions) > 0 && clock_now_s() < until_s)
        clock_sleep_until(clock_now_s() + listen_s);
    Fault ignored = {0};
    (void)world->comm.ops->barrier(&world->comm, &ignored);
    atomic_store(&listener->quit, true);
    pthread_join(listener->thread, NULL);
    MPI_Request last;
    MPI_Status status = {.MPI_TAG = TAG_ALIVE};
    MPI_Isend(NULL, 0, MPI_BYTE, process_after(world), TAG_LAST, world->control, &last);
    while (status.MPI_TAG != TAG_LAST)
        MPI_Recv(NULL, 0, MPI_BYTE, process_before(world), MPI_ANY_TAG, world->control, &status);
    MPI_Wait(&listener->alive, MPI_STATUS_IGNORE);
    MPI_Wait(&last, MPI_STATUS_IGNORE);
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        MPI_Wait(&listener->questions[s].request, MPI_STATUS_IGNORE);
    for (size_t r = 0; r < world->comm.size * STREAM_COUNT; r++)
        MPI_Wait(&listener->replies[r].request, MPI_STATUS_IGNORE);
    free(listener->replies);
    free(listener);
    world->listener = NULL;
}
