// What the parts of checkpoints share: files and directories (checkpoint_files.c), the manifest
// (checkpoint_manifest.c, its JSON in checkpoint_json.c), writing (checkpoint_write.c), reading (checkpoint_read*.c).
#ifndef HEP_CHECKPOINT_INTERNAL_H
#define HEP_CHECKPOINT_INTERNAL_H

#include <cjson/cJSON.h>

#include "ir/base/text.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/training/persistent.h"

enum { CHECKPOINT_VERSION = 2, CHECKPOINT_CHUNK = 1 << 20, CHECKPOINT_NAME_MAX = 32 };

#define CHECKPOINT_MANIFEST "manifest.json"
#define CHECKPOINT_EQUAL    "equal"

// ---- files and directories -------------------------------------------------------------------

// A file being written: its checksum follows, and it is on disk before it is closed.
typedef struct {
    int descriptor; // -1: none, of what is appended there is the checksum
    char *path;
    uint32_t crc;
    uint64_t bytes, unsynced;
} CheckpointFile;

bool checkpoint_file_begin(CheckpointFile *file, const char *dir, const char *name, Fault *fault) MUST_CHECK;
bool checkpoint_file_append(CheckpointFile *file, const void *data, uint64_t bytes, Fault *fault) MUST_CHECK;
// Either way the file is closed; one that failed is removed.
bool checkpoint_file_end(CheckpointFile *file, bool ok, Fault *fault) MUST_CHECK;

// The numbers of complete checkpoints in a directory, ascending; malloc'ed. False when it cannot be read.
bool checkpoint_list(const char *dir, uint64_t **iterations, size_t *count, Fault *fault) MUST_CHECK;
// Like "step-000123", with an ending.
void checkpoint_step_name(char out[CHECKPOINT_NAME_MAX], uint64_t iteration, const char *ending);
void checkpoint_rank_name(char out[CHECKPOINT_NAME_MAX], uint64_t rank);
char *checkpoint_join(const char *dir, const char *name); // malloc'ed
bool checkpoint_sync_directory(const char *path, Fault *fault) MUST_CHECK;
// Of a checkpoint, complete or not: its files, then itself, unless there is something else in it. Of a link, no more
// than the link.
bool checkpoint_remove(const char *path, Fault *fault) MUST_CHECK;
// Every unfinished checkpoint in a directory.
bool checkpoint_remove_unfinished(const char *dir, Fault *fault) MUST_CHECK;

// ---- the manifest ----------------------------------------------------------------------------

typedef struct {
    char *name;
    Dtype dtype;
    uint64_t rows, cols;
    Persistence persistence;
    int32_t layer; // of experts; NONE of the rest
    // Of a plan's buffers, as in PersistentInfo; `buffer`: of the plan whose manifest it is, NONE in one that was read.
    Rebuild rebuild;
    uint32_t parts;
    uint64_t elements;
    int32_t buffer;
    uint64_t offset; // in the file that holds it
} SavedBuffer;

typedef struct {
    char *name;
    uint64_t bytes;
    uint32_t crc;
} SavedFile;

typedef struct {
    uint32_t layer;
    uint32_t domain[LEVELS_MAX];
} SavedChoice;

typedef struct {
    TrainingPoint point;
    ModelDims model; // name included, `abstract` and volumes not
    Dispatch dispatch;
    Codec codec;
    uint64_t ranks;
    uint32_t level_count, levels[LEVELS_MAX]; // workers per parent
    uint32_t replica_levels;                  // outermost ones whose workers train apart, each with all weights
    uint32_t choice_count, buffer_count;
    SavedChoice *choices;
    SavedBuffer *buffers;
    SavedFile *files; // [1 + ranks]: what all have alike, then each rank's
    uint32_t sum;     // of the manifest
} Manifest;

uint64_t saved_bytes(const SavedBuffer *buffer);
// How the experts of a layer of the manifest were shared out; the layer is one of its choices.
ExpertShares manifest_shares(const Manifest *manifest, int32_t layer);
// Of the ranks of a plan; files have names, no lengths yet.
bool manifest_of_plan(const Plan *plan, Manifest *out, Fault *fault) MUST_CHECK;
void manifest_free(Manifest *manifest);
// The dimensions that weights depend on, and that a continued training must share: their names, NULL beyond the last.
const char *manifest_dimension(size_t index);
uint32_t *manifest_dimension_in(ModelDims *model, size_t index);
// Buffers lie in their file one after another, in the order of the list. False when that is more than can be.
bool manifest_place_buffers(Manifest *manifest) MUST_CHECK;
void manifest_print(const Manifest *manifest, Text *out);
// `path` is for messages.
bool manifest_parse(const char *path, const char *text, Manifest *out, Fault *fault) MUST_CHECK;
// False and a fault that names the first dimension that differs; `where` begins the message.
bool manifest_same_model(const Manifest *of, const Plan *plan, const char *where, Fault *fault) MUST_CHECK;
bool manifest_same_strategy(const Manifest *a, const Manifest *b);
// checkpoint_settings.c. False where they are damaged; a manifest may have none.
void settings_print(const SavedSettings *settings, cJSON *root);
bool settings_parse(const cJSON *root, SavedSettings *out) MUST_CHECK;

// ---- reading ---------------------------------------------------------------------------------

struct Checkpoint {
    char *path;   // of the directory
    char *before; // of the checkpoint before it, or NULL
    Manifest manifest;
};

// Adds to the fault of a file of this checkpoint what to take instead; false.
bool checkpoint_suggest(const Checkpoint *checkpoint, Fault *fault);

typedef struct {
    uint64_t from, bytes; // in the file
    uint32_t buffer;
    uint64_t to;
} CheckpointCopy;

typedef struct {
    const Checkpoint *checkpoint;
    const CheckpointRank *rank;
    Manifest own; // of the plan that is to run
    char *chunk;  // CHECKPOINT_CHUNK bytes
    CheckpointCopy *copies;
    size_t count, capacity;
} CheckpointReader;

// checkpoint_reader.c.
bool reader_add(CheckpointReader *reader, CheckpointCopy copy, Fault *fault) MUST_CHECK;
// Reads a file from end to end, compares it with the manifest and makes the copies, which are done with then.
bool reader_read(CheckpointReader *reader, uint64_t index, Fault *fault) MUST_CHECK;
// A sign of life; false and a fault when the run is interrupted.
bool reader_goes_on(const CheckpointRank *rank, Fault *fault) MUST_CHECK;
// Fills the buffers of a rank from what another strategy wrote: checkpoint_deal.c.
bool reader_deal(CheckpointReader *reader, Fault *fault) MUST_CHECK;

#endif
