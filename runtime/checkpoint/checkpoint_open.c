// Finding a checkpoint and reading its manifest; the files are read by checkpoint_read.c.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/checkpoint/checkpoint_internal.h"

static const size_t manifest_limit = (size_t)1 << 30;

static bool file_exists(const char *dir, const char *name)
{
    struct stat there;
    char *path = checkpoint_join(dir, name);
    bool exists = stat(path, &there) == 0;
    free(path);
    return exists;
}

static char *step_path(const char *dir, uint64_t iteration)
{
    char name[CHECKPOINT_NAME_MAX];
    checkpoint_step_name(name, iteration, "");
    return checkpoint_join(dir, name);
}

// The directory that a checkpoint is in; malloc'ed.
static char *parent_of(const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    while (length > 0 && path[length - 1] != '/')
        length--;
    if (length == 0)
        return strdup(".");
    return strndup(path, length > 1 ? length - 1 : length);
}

char *checkpoint_last(const char *dir, Fault *fault)
{
    uint64_t *found;
    size_t count;
    if (!checkpoint_list(dir, &found, &count, fault))
        return NULL;
    char *path = count > 0 ? step_path(dir, found[count - 1]) : NULL;
    free(found);
    if (!path)
        fault_set(fault, FAULT_INPUT, "--resume %s: there is no checkpoint", dir);
    return path;
}

char *checkpoint_before(const char *path)
{
    uint64_t *found;
    size_t count;
    Fault ignored = {0};
    char *dir = parent_of(path), *before = NULL;
    const char *slash = strrchr(path, '/');
    if (dir && checkpoint_list(dir, &found, &count, &ignored)) {
        for (size_t i = 0; i + 1 < count; i++) {
            char name[CHECKPOINT_NAME_MAX];
            checkpoint_step_name(name, found[i + 1], "");
            if (strcmp(name, slash ? slash + 1 : path) == 0)
                before = step_path(dir, found[i]);
        }
        free(found);
    }
    free(dir);
    return before;
}

bool checkpoint_suggest(const Checkpoint *checkpoint, Fault *fault)
{
    size_t used = strlen(fault->message);
    if (checkpoint->before)
        snprintf(fault->message + used, sizeof(fault->message) - used, "; the checkpoint before it: --resume %s",
                 checkpoint->before);
    return false;
}

static bool read_manifest(Checkpoint *checkpoint, Fault *fault)
{
    size_t length;
    char *path = checkpoint_join(checkpoint->path, CHECKPOINT_MANIFEST);
    char *text = file_read(path, manifest_limit, &length, fault);
    bool ok = text || fault_prefix(fault, "%s", path);
    ok = ok && manifest_parse(path, text, &checkpoint->manifest, fault);
    free(text);
    free(path);
    return ok;
}

bool checkpoint_exists(const char *path)
{
    if (file_exists(path, CHECKPOINT_MANIFEST))
        return true;
    Fault ignored = {0};
    char *last = checkpoint_last(path, &ignored);
    bool found = last != NULL;
    free(last);
    return found;
}

Checkpoint *checkpoint_open(const char *path, Fault *fault)
{
    Checkpoint *checkpoint = calloc(1, sizeof(*checkpoint));
    if (!checkpoint) {
        fault_set(fault, FAULT_MEMORY, "out of memory for a checkpoint");
        return NULL;
    }
    checkpoint->path = file_exists(path, CHECKPOINT_MANIFEST) ? strdup(path) : checkpoint_last(path, fault);
    bool ok = checkpoint->path || fault_set(fault, FAULT_MEMORY, "out of memory for a checkpoint");
    for (size_t length = ok ? strlen(checkpoint->path) : 0; length > 1 && checkpoint->path[length - 1] == '/';)
        checkpoint->path[--length] = '\0';
    if (ok)
        checkpoint->before = checkpoint_before(checkpoint->path);
    if (ok && (read_manifest(checkpoint, fault) || checkpoint_suggest(checkpoint, fault)))
        return checkpoint;
    checkpoint_close(checkpoint);
    return NULL;
}

void checkpoint_close(Checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    manifest_free(&checkpoint->manifest);
    free(checkpoint->path);
    free(checkpoint->before);
    free(checkpoint);
}

const char *checkpoint_path(const Checkpoint *checkpoint)
{
    return checkpoint->path;
}

TrainingPoint checkpoint_point(const Checkpoint *checkpoint)
{
    return checkpoint->manifest.point;
}

uint32_t checkpoint_sum(const Checkpoint *checkpoint)
{
    return checkpoint->manifest.sum;
}

bool checkpoint_is_same_strategy(const Checkpoint *checkpoint, const Plan *plan)
{
    Manifest own;
    Fault ignored = {0};
    if (!manifest_of_plan(plan, &own, &ignored))
        return false;
    bool same = manifest_same_strategy(&checkpoint->manifest, &own);
    manifest_free(&own);
    return same;
}

bool checkpoint_fits(const Checkpoint *checkpoint, const Plan *plan, Fault *fault)
{
    if (!manifest_same_model(&checkpoint->manifest, plan, checkpoint->path, fault))
        return false;
    return checkpoint->manifest.replica_levels == 0 || checkpoint_is_same_strategy(checkpoint, plan) ||
           fault_set(fault, FAULT_INPUT,
                     "%s: workers trained apart, each with its own moments: expected a plan with the same workers, "
                     "domains and outer optimizer",
                     checkpoint->path);
}

bool checkpoint_set_aside(const char *path, char **name, Fault *fault)
{
    Text aside = {0};
    text_format(&aside, "%s.aside", path);
    for (int n = 2; access(aside.data, F_OK) == 0; n++) {
        text_free(&aside);
        text_format(&aside, "%s.aside%d", path, n);
    }
    *name = aside.data;
    return rename(path, aside.data) == 0 ||
           fault_set(fault, fault_kind_of(errno), "%s: %s", path, strerrordesc_np(errno));
}
