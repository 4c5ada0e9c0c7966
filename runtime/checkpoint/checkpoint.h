// Checkpoints: what a training needs to resume bit by bit. A checkpoint is a directory DIR/step-000123, there whole or
// not at all, with `manifest.json`, `equal` (what all ranks have alike: stored once, and compared when it is written)
// and `rank-00000`.. (shares of bundles, own experts, their state, what codecs remember). Everything is checked before
// it is believed.
#ifndef HEP_CHECKPOINT_H
#define HEP_CHECKPOINT_H

#include <stdatomic.h>

#include "ir/base/text.h"
#include "runtime/engine/engine.h"
#include "runtime/training/data.h"

// What changes how a training goes on, in the words of the language: X(name, its value, the table of its words or NULL)
#define HEP_SETTINGS(X)                                                                                                \
    X(learning_rate, training->learning_rate, NULL)                                                                    \
    X(beta1, training->beta1, NULL)                                                                                    \
    X(beta2, training->beta2, NULL)                                                                                    \
    X(epsilon, training->epsilon, NULL)                                                                                \
    X(weight_decay, training->weight_decay, NULL)                                                                      \
    X(warmup, training->warmup, NULL)                                                                                  \
    X(decay, training->decay, NULL)                                                                                    \
    X(final_rate, training->final_rate, NULL)                                                                          \
    X(clip, training->clip, NULL)                                                                                      \
    X(balance, training->balance, NULL)                                                                                \
    X(batch, plan->model.batch, NULL)                                                                                  \
    X(capacity, plan->capacity, NULL)                                                                                  \
    X(micro_batches, plan->micro_batches, NULL)                                                                        \
    X(ranks, cluster_gpus(&plan->cluster), NULL)                                                                       \
    X(routing, routing, &routing_table)                                                                                \
    X(codec, plan->experts.codec, &codec_names)                                                                        \
    X(ratio, plan->experts.ratio, NULL)                                                                                \
    X(gradient, plan->experts.gradient, &gradient_names)                                                               \
    X(gradient_ratio, plan->experts.gradient_ratio, NULL)                                                              \
    X(dense_codec, plan->dense.codec, &codec_names)                                                                    \
    X(dense_gradient, plan->dense.gradient, &gradient_names)                                                           \
    X(whole_iterations, plan->whole_iterations, NULL)                                                                  \
    X(sync_every, plan->sync.every, NULL)                                                                              \
    X(tokens_dispatch, plan->tokens[WAY_DISPATCH], &token_format_names)                                                \
    X(tokens_combine, plan->tokens[WAY_COMBINE], &token_format_names)
enum {
#define SETTING(name, ...) SETTING_##name,
    HEP_SETTINGS(SETTING)
#undef SETTING
        SETTING_COUNT
};

typedef struct {
    double values[SETTING_COUNT]; // NAN: not known
} SavedSettings;

SavedSettings settings_of(const Plan *plan, const TrainingSettings *training, Routing routing);
// "learning_rate 0.01, was 0.003; ...": appends nothing where nothing differs or is known.
void settings_compare(const SavedSettings *there, const SavedSettings *here, Text *out);

// How far a training has come, and on what.
typedef struct {
    uint64_t iteration, skipped; // done; of these, without update
    uint64_t seed;
    DataIdentity data;
    SavedSettings settings;
} TrainingPoint;

// One rank's part in a collective call.
typedef struct {
    const Plan *plan;
    const EngineOps *ops;
    Engine *engine;
    Comm *comm;
    const atomic_bool *stopped; // ends the call soon when it becomes true; may be NULL
    _Atomic double *alive_s;    // CLOCK_MONOTONIC of the last sign of life
} CheckpointRank;

// ---- writing ---------------------------------------------------------------------------------

typedef struct CheckpointDir CheckpointDir;

// Opens, or makes, a directory for checkpoints of this plan's model; `first`: this process manages it for all (of a
// world: rank 0's). Removes what a killed run left unfinished. NULL and a fault when it cannot be written, another run
// writes there, it holds checkpoints of another model or of iterations beyond `iteration`, or the disk has not the
// space for `count` more.
CheckpointDir *checkpoint_dir_open(const char *path, const Plan *plan, uint64_t iteration, uint64_t count, bool first,
                                   Fault *fault) MUST_CHECK;
void checkpoint_dir_close(CheckpointDir *dir); // takes NULL; removes an unfinished checkpoint

// Writes a checkpoint, then removes all but the last two. Collective: with every rank between two iterations. When it
// returns true, on any rank, the checkpoint is complete on disk. *bytes: of all files.
bool checkpoint_write(CheckpointDir *dir, const CheckpointRank *rank, const TrainingPoint *point, uint64_t *bytes,
                      Fault *fault) MUST_CHECK;

// ---- reading ---------------------------------------------------------------------------------

typedef struct Checkpoint Checkpoint; // immutable: ranks' threads share one

// Whether `path` is a checkpoint or a directory with one.
bool checkpoint_exists(const char *path);
// The last one of a directory, and the one before a checkpoint in its directory; malloc'ed, NULL where there is none.
char *checkpoint_last(const char *dir, Fault *fault);
char *checkpoint_before(const char *path);
// Whether its files are what the manifest says, those whose number is `part` modulo `parts`: reads them from end to
// end.
bool checkpoint_verify(const Checkpoint *checkpoint, uint64_t part, uint64_t parts, Fault *fault) MUST_CHECK;
// Gives a checkpoint a name that no run takes it by: *name, malloc'ed.
bool checkpoint_set_aside(const char *path, char **name, Fault *fault) MUST_CHECK;
// `path`: a checkpoint, or a directory of them, of which the last is taken. Reads the manifest only. NULL and a fault
// that names the file, and the checkpoint before it where there is one.
Checkpoint *checkpoint_open(const char *path, Fault *fault) MUST_CHECK;
void checkpoint_close(Checkpoint *checkpoint); // takes NULL
const char *checkpoint_path(const Checkpoint *checkpoint);
TrainingPoint checkpoint_point(const Checkpoint *checkpoint);
uint32_t checkpoint_sum(const Checkpoint *checkpoint); // checksum of the manifest: the same file has the same

// Whether its weights are those of the plan's model; false and a fault that names what differs, with both values.
bool checkpoint_fits(const Checkpoint *checkpoint, const Plan *plan, Fault *fault) MUST_CHECK;
// Whether ranks and strategy are the same, so that every rank continues bit by bit. Otherwise experts are redistributed
// anew, and what codecs remember is made from the weights.
bool checkpoint_is_same_strategy(const Checkpoint *checkpoint, const Plan *plan);
// Fills the persistent buffers of one rank's engine. Not collective. Reads whole files and compares their checksums.
bool checkpoint_read(const Checkpoint *checkpoint, const CheckpointRank *rank, Fault *fault) MUST_CHECK;

#endif
