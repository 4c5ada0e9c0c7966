// Words for where a rank stands and what went wrong there. Reads what the interpreter publishes, from any thread; a
// stream that moves on meanwhile may be told with the time of its next step. Owns nothing; who asks and where it is
// printed is the caller's business.
#include "runtime/job/state.h"

#include <inttypes.h>

#include "ir/unroll.h"

// "step 12, 'gather' of layer 0 at level 'dc'".
static void append_step(const Plan *plan, int64_t index, Text *out)
{
    const Step *step = &plan->steps[index];
    text_format(out, "step %" PRId64 ", '%s'", plan->unrolled ? (int64_t)step->written : index,
                op_info(step->op)->name);
    if (plan->unrolled && step_repeats(step))
        text_format(out, " of micro-batch %" PRIu32, step->micro_batch);
    if (step->layer != NONE)
        text_format(out, " of layer %" PRId32, step->layer);
    if (step->level != NONE)
        text_format(out, " at level '%s'", plan->cluster.levels[step->level].name);
}

static bool has_step(const Plan *plan, int64_t index)
{
    return plan && index >= 0 && index < (int64_t)plan->step_count;
}

static void append_peer(const Plan *plan, const Fault *fault, Text *out)
{
    const StreamPoint *at = &fault->peer_at;
    char since[FORMAT_MAX];
    text_format(out, "; there, stream '%s' ", stream_name(fault->peer_stream));
    if (!has_step(plan, at->step)) {
        text_append(out, "is between iterations");
        return;
    }
    text_append(out, "is at ");
    append_step(plan, at->step, out);
    if (has_step(plan, at->awaited)) {
        text_append(out, ", waiting for ");
        append_step(plan, at->awaited, out);
    }
    text_format(out, ", for %s", format_time(since, fault->peer_for_s));
}

void state_append_fault(const Plan *plan, const Fault *fault, Text *out)
{
    if (fault->rank >= 0)
        text_format(out, "rank %" PRId64 ": ", fault->rank);
    if (has_step(plan, fault->step)) {
        append_step(plan, fault->step, out);
        text_append(out, ": ");
    }
    text_append(out, fault->message);
    if (fault->peer >= 0 && fault->peer_told && fault->peer_stream < STREAM_COUNT)
        append_peer(plan, fault, out);
    text_append(out, "\n");
}

static void append_stream(const Plan *plan, uint64_t rank, Stream stream, const StreamPoint *point, double now_s,
                          Text *out)
{
    char since[FORMAT_MAX];
    text_format(out, "rank %" PRIu64 ": stream '%s': ", rank, stream_name(stream));
    append_step(plan, point->step, out);
    double passed_s = now_s > point->since_s ? now_s - point->since_s : 0;
    text_format(out, ", %s ", point->awaited < 0 ? "under way for" : "waits for");
    if (point->awaited >= 0) {
        append_step(plan, point->awaited, out);
        text_append(out, ", for ");
    }
    text_format(out, "%s\n", format_time(since, passed_s));
}

void state_append(const Plan *plan, uint64_t rank, const Interpreter *interpreter, double now_s, Text *out)
{
    bool any = false;
    for (uint32_t s = 0; interpreter && s < STREAM_COUNT; s++) {
        StreamPoint point = interpreter_point(interpreter, (Stream)s);
        if (point.step < 0)
            continue;
        any = true;
        append_stream(plan, rank, (Stream)s, &point, now_s, out);
    }
    if (!any)
        text_format(out, "rank %" PRIu64 ": %s\n", rank, interpreter ? "between iterations" : "not prepared yet");
}
