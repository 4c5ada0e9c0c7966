// See trace.h. An arrow goes from the last step of another stream that a step waited for, where it
// ended later than what the step's own stream did before.
#include "runtime/report/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/timeline.h"

static bool parse_rank(const char **text, uint64_t *rank)
{
    char *end;
    errno = 0;
    if (**text < '0' || **text > '9')
        return false;
    *rank = strtoull(*text, &end, 10);
    *text = end;
    return errno == 0;
}

static bool take_range(uint64_t first, uint64_t last, uint64_t rank_count, uint64_t *ranks, uint32_t *count,
                       Fault *fault)
{
    if (last < first || (*count > 0 && first <= ranks[*count - 1]))
        return fault_set(fault, FAULT_USAGE, "ranks ascend, each once");
    if (last >= rank_count)
        return fault_set(fault, FAULT_USAGE, "the plan has no such rank");
    if (last - first >= TRACE_RANKS_MAX - *count)
        return fault_set(fault, FAULT_USAGE, "more than %d ranks", TRACE_RANKS_MAX);
    for (uint64_t rank = first; rank <= last; rank++)
        ranks[(*count)++] = rank;
    return true;
}

bool trace_parse_ranks(const char *text, uint64_t rank_count, uint64_t *ranks, uint32_t *count, Fault *fault)
{
    *count = 0;
    if (!text)
        return take_range(0, (rank_count < TRACE_RANKS_DEFAULT ? rank_count : TRACE_RANKS_DEFAULT) - 1, rank_count,
                          ranks, count, fault);
    for (;;) {
        uint64_t first, last;
        if (!parse_rank(&text, &first))
            break;
        last = first;
        if (*text == '-') {
            text++;
            if (!parse_rank(&text, &last))
                break;
        }
        if (!take_range(first, last, rank_count, ranks, count, fault))
            return false;
        if (*text == '\0')
            return true;
        if (*text++ != ',')
            break;
    }
    return fault_set(fault, FAULT_USAGE, "expected ranks and ranges such as 0-3,8");
}

// The step of another stream that `step` waited for last; NONE if its own stream was later.
static int32_t find_cause(const Plan *plan, const StepTime *times, uint32_t step, double own_end_s)
{
    int32_t cause = NONE;
    double latest_s = own_end_s;
    for (uint32_t a = 0; a < plan->steps[step].after_count; a++) {
        uint32_t awaited = plan->after[plan->steps[step].after_first + a];
        if (times[awaited].end_s > latest_s) {
            latest_s = times[awaited].end_s;
            cause = (int32_t)awaited;
        }
    }
    return cause;
}

static void write_rank(Timeline *timeline, const Plan *plan, uint64_t rank, const StepTime *times)
{
    char name[32];
    double stream_end_s[STREAM_COUNT] = {0};
    int process = TIMELINE_RANK_0 + (int)rank;
    snprintf(name, sizeof(name), "rank %" PRIu64, rank);
    timeline_write_process(timeline, plan, process, name);
    for (uint32_t s = 0; s < plan->step_count; s++) {
        timeline_write_step(timeline, plan, process, s, times[s].start_s, times[s].end_s);
        double *own_end_s = &stream_end_s[step_stream(plan, &plan->steps[s])];
        int32_t cause = find_cause(plan, times, s, *own_end_s);
        if (cause != NONE) {
            TimelineWait wait = {.step = s,
                                 .cause = (uint32_t)cause,
                                 .begin_s = times[s].start_s,
                                 .cause_begin_s = times[cause].start_s};
            timeline_write_wait(timeline, plan, process, &wait);
        }
        *own_end_s = times[s].end_s;
    }
}

void trace_print_run(const Plan *plan, const JobOptions *options, const JobResult *result, Text *out)
{
    Timeline timeline = timeline_begin(plan, out);
    for (uint32_t i = 0; i < options->trace_count; i++)
        write_rank(&timeline, plan, options->trace_ranks[i], result->trace + (size_t)i * plan->step_count);
    timeline_end(&timeline);
}
