// What a model is trained on: windows of a file's bytes, or generated tokens. The same window for a (seed, rank,
// iteration, sequence) in every strategy, on every communicator.
#ifndef HEP_DATA_H
#define HEP_DATA_H

#include "kernels/host/kernels.h"
#include "runtime/fault.h"

typedef enum { DATA_TRAINING, DATA_VALIDATION } DataPart;

typedef struct {
    unsigned char *bytes; // of the file; NULL: generated
    size_t count;
    bool sources;         // generated tokens have something to learn
} Data;

// Reads `path`; NULL: tokens are generated, from `sources` or each by itself. False and a fault if the file cannot be
// read, has less than one sequence and the token after it, or has bytes that the vocabulary does not.
bool data_open(const char *path, bool sources, const ModelDims *dims, Data *out, Fault *fault) MUST_CHECK;
void data_close(Data *data);

// tokens: i32 [batch][sequence + 1]. Of a file, windows at random places. Generated without sources: every word as
// likely as any other. With them: every sequence comes from one of eight sources, each a Markov chain of its own in
// which a word is followed by one of four (probabilities 0.7, 0.2, 0.07, 0.03: 0.85 nats per token once the source
// is known), so that experts have something to specialise in.
void data_fill(const Data *data, const ModelDims *dims, uint64_t seed, uint64_t rank, uint64_t iteration,
               Tensor tokens);

#endif
