// Words for where a rank stands. Reads what the interpreter publishes, from any thread; a stream that moves on
// meanwhile may be told with the time of its next step. Owns nothing; who asks and where it is printed is the
// caller's business.
#include "runtime/state.h"

#include <inttypes.h>

static void append_step(const Plan *plan, int64_t index, Text *out)
{
    const Step *step = &plan->steps[index];
    text_format(out, "step %" PRId64 ", '%s'", index, op_info(step->op)->name);
    if (step->layer != NONE)
        text_format(out, " of layer %" PRId32, step->layer);
    if (step->level != NONE)
        text_format(out, " at level '%s'", plan->cluster.levels[step->level].name);
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
