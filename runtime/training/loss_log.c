// See loss_log.h.
#include "runtime/training/loss_log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ir/base/text.h"

static const char columns[] = "iteration,loss,validation_loss,learning_rate,skipped,iteration_s";
static const size_t log_limit = (size_t)1 << 32;

struct LossLog {
    FILE *file;
    char *path;
    uint32_t dropped_count; // columns
    bool bare;              // no row yet
};

static bool system_fault(const char *path, int code, Fault *fault)
{
    return fault_set(fault, fault_kind_of(code), "--losses %s: %s", path, strerrordesc_np(code));
}

// The rows of an earlier run that are not run again; of a training that is not resumed there are none. A file that is
// no log is not written over.
static bool keep_rows(const char *path, const char *header, uint64_t iteration, Text *kept, Fault *fault)
{
    size_t length;
    struct stat there;
    if (stat(path, &there) != 0)
        return errno == ENOENT || system_fault(path, errno, fault);
    if (!S_ISREG(there.st_mode) && !S_ISDIR(there.st_mode)) // of a pipe or device nothing is kept
        return true;
    char *text = file_read(path, log_limit, &length, fault);
    if (!text)
        return fault_prefix(fault, "--losses %s", path);
    bool is_log = strncmp(text, columns, strlen(columns)) == 0,
         has_columns = strncmp(text, header, strlen(header)) == 0;
    bool ok = length == 0 || has_columns || (is_log && iteration == 0) ||
              fault_set(fault, FAULT_INPUT,
                        is_log ? "--losses %s: its columns are those of a plan with another capacity or other layers: "
                                 "name another file"
                               : "--losses %s: it is no log of losses, and will not be written over",
                        path);
    char *line = ok && has_columns ? text + strlen(header) : NULL;
    while (line && *line) {
        char *end = strchr(line, '\n');
        if (!end || strtoull(line, NULL, 10) > iteration)
            break;
        text_append_bytes(kept, line, (size_t)(end + 1 - line));
        line = end + 1;
    }
    free(text);
    return ok;
}

static bool is_regular(const char *path)
{
    struct stat there;
    return stat(path, &there) == 0 && S_ISREG(there.st_mode);
}

// Has it no rows?
static bool is_bare(const char *path, size_t header_bytes)
{
    struct stat there;
    return stat(path, &there) != 0 || (uint64_t)there.st_size <= header_bytes;
}

static void append_header(const Plan *plan, Text *out)
{
    text_append(out, columns);
    for (uint32_t c = 0; plan->capacity > 0 && c < plan->choice_count; c++)
        text_format(out, ",dropped_layer_%" PRIu32, plan->choices[c].layer);
    text_append(out, "\n");
}

LossLog *loss_log_open(const char *path, uint64_t iteration, const Plan *plan, bool overwrite, Fault *fault)
{
    Text text = {0}, header = {0};
    append_header(plan, &header);
    text_append(&text, header.data);
    LossLog *log = calloc(1, sizeof(*log));
    bool ok = (log && (log->path = strdup(path))) || fault_set(fault, FAULT_MEMORY, "out of memory");
    if (ok)
        log->dropped_count = plan->capacity > 0 ? plan->choice_count : 0;
    if (ok && keep_rows(path, header.data, iteration, &text, fault)) {
        if (iteration == 0 && !overwrite && !is_bare(path, header.length) && !file_set_aside(path, fault))
            fault_prefix(fault, "--losses %s", path);
        else if (!file_write(path, text.data, text.length, fault))
            fault_prefix(fault, "--losses %s", path);
        else if (!(log->file = fopen(path, "ae")))
            system_fault(path, errno, fault);
    }
    if (log)
        log->bare = text.length == header.length && is_regular(path);
    text_free(&text);
    text_free(&header);
    if (log && log->file)
        return log;
    loss_log_close(log);
    return NULL;
}

bool loss_log_add(LossLog *log, const LossRow *row, Fault *fault)
{
    char loss[FORMAT_MAX], validation[FORMAT_MAX] = "";
    if (row->validated)
        format_double(validation, row->validation);
    log->bare = false;
    int put = fprintf(log->file, "%" PRIu64 ",%s,%s,%.7g,%d,%.6f", row->iteration, format_double(loss, row->loss),
                      validation, row->learning_rate, row->skipped, row->iteration_s);
    for (uint32_t c = 0; put >= 0 && row->dropped && c < log->dropped_count; c++)
        put = fprintf(log->file, ",%.0f", row->dropped[c]);
    put = put >= 0 ? fputc('\n', log->file) : put;
    return (put >= 0 && fflush(log->file) == 0) || system_fault(log->path, errno, fault);
}

void loss_log_close(LossLog *log)
{
    if (!log)
        return;
    if (log->file)
        fclose(log->file);
    if (log->file && log->bare)
        (void)unlink(log->path); // a run that has failed before its first iteration leaves none
    free(log->path);
    free(log);
}
