// What a model is trained on: windows of a file's bytes, or generated tokens. The same window for a (seed, rank,
// iteration, sequence) in every strategy, on every communicator.
#ifndef HEP_DATA_H
#define HEP_DATA_H

#include <stdatomic.h>

#include "ir/base/fault.h"
#include "ir/model.h"

typedef enum { DATA_TRAINING, DATA_VALIDATION } DataPart;

// Two that are equal give the same tokens for the same seed.
typedef struct {
    bool generated;
    uint64_t bytes;
    uint32_t crc; // of the whole file
} DataIdentity;

typedef struct {
    const char *path; // the options'; NULL: generated
    int descriptor;   // of the file, whose windows are read as they are wanted: processes share the system's copy
    size_t count;
    size_t training; // bytes at the start that are trained on; the others are held out
    bool sources;    // generated tokens have something to learn
    DataIdentity identity;
} Data;

typedef struct {
    const char *path;              // NULL: tokens are generated,
    bool sources;                  // from sources, or each by itself
    double validation_share;       // of the bytes, at the end of the file
    bool validates;                // windows of that part will be asked for
    const atomic_int *interrupted; // data_open ends when it becomes non-zero; may be NULL
} DataOptions;

// Reads a file once from end to end. False and a fault if it cannot be read, one of its parts has less than a rank's
// batch (sequences and the token after each), or it has bytes that the vocabulary does not.
bool data_open(const DataOptions *options, const ModelDims *dims, Data *out, Fault *fault) MUST_CHECK;
void data_close(Data *data);

// Which tokens: those that a rank takes in an iteration, counted from 0; of iterations of m micro-batches, in
// micro-batch i of iteration n, that of number n m + i, so that they are those of one batch that is m times as large.
typedef struct {
    uint64_t seed, rank, iteration;
    DataPart part;
} DataBatch;

// tokens: [batch][sequence + 1]. Of a file, windows at random places of the part. Generated without sources: every
// word as likely as any other. With them: every sequence comes from one of eight sources, each a Markov chain of its
// own in which a word is followed by one of four (probabilities 0.7, 0.2, 0.07, 0.03: 0.85 nats per token once the
// source is known), so that experts have something to specialise in. Of generated data validation has other sequences
// from the same sources.
// False and a fault where the file cannot be read any more.
bool data_fill(const Data *data, const ModelDims *dims, const DataBatch *batch, int32_t *tokens,
               Fault *fault) MUST_CHECK;

#endif
