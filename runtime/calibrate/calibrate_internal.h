// What the parts of the calibration share: one rank's side of it, and repeated, timed steps that all ranks do together.
#ifndef HEP_CALIBRATE_INTERNAL_H
#define HEP_CALIBRATE_INTERNAL_H

#include "ir/codec.h"
#include "runtime/calibrate/calibrate.h"

enum { SAMPLES = 5, SAMPLES_MAX = 25 };

typedef struct {
    const CalibrateOptions *options;
    Calibration *calibration; // NULL but for one rank of this process
    Comm *comm;
    Fault *fault;
    uint64_t bytes_max; // that a buffer may take
    bool shows;         // this rank says what is measured
} CalibrateRank;

// How ranks measure where their memory is not the host's.
struct CalibrateDevice {
    // As those of EngineDevice.
    Comm *(*join)(ThreadWorld *world, uint64_t rank, Fault *fault);
    void (*leave)(Comm *comm);
    uint64_t (*free_bytes)(const Comm *comm);
    void *(*allocate)(const Comm *comm, uint64_t bytes); // zeroed; NULL when it is exhausted
    void (*release)(void *memory);                       // takes NULL
    // A rank's exchanges with its siblings of a level: an exchange whose parts are of that memory, done on return.
    void *(*level_begin)(Comm *comm, uint32_t members, uint32_t own, Fault *fault);
    void (*level_end)(void *level); // takes NULL
    bool (*exchange)(void *level, int channel, const Exchange *exchange, Fault *fault);
    bool (*measure)(CalibrateRank *rank); // all but the links
    const char *memory_words;             // what was done with memory, for the comment beside the number
};

extern const CalibrateDevice cuda_calibrate; // of the CUDA plug-in

// calibrate_time.c.
typedef bool (*CalibrateWork)(void *context, Fault *fault);
// Does the work once. All ranks begin together; times[p] becomes the time of the slowest rank of those that pass `part`
// p, the same on every rank.
bool calibrate_time(CalibrateRank *rank, CalibrateWork work, void *context, uint32_t part, double *times,
                    uint32_t count) MUST_CHECK;
// `count` times, at most SAMPLES_MAX; the slowest of all ranks.
bool calibrate_sample(CalibrateRank *rank, CalibrateWork work, void *context, uint32_t count, Spread *times) MUST_CHECK;

// Says what is measured now, where this rank does.
void calibrate_say(const CalibrateRank *rank, const char *format, ...) PRINTF_LIKE(2, 3);

// As much per second as `amount` in the times given.
Spread calibrate_rate(Spread times, double amount);
// The same for work that has `amount` in it and is done *repeats times over in each sample, so that it takes long
// enough.
bool calibrate_repeated(CalibrateRank *rank, CalibrateWork work, void *context, uint32_t *repeats, double amount,
                        Spread *per_second) MUST_CHECK;

// Sorts the samples.
Spread calibrate_spread(double *samples, uint32_t count);

// One rank's side of exchanges with its siblings of a level.
typedef struct {
    CalibrateRank *rank;
    int channel;
    uint32_t level, members, own; // own: this rank's index in its group
    uint64_t rows;                // that pass a port each way
    uint32_t row_bytes;
    char *send, *recv; // [rows_max] of the largest row
    void *on_device;   // of CalibrateDevice, or NULL
    uint64_t rows_max;
    int32_t *send_counts, *recv_counts; // [members]
} LevelRun;

// calibrate_level.c.
bool level_exchange(void *context, Fault *fault) MUST_CHECK; // a CalibrateWork; context: a LevelRun
double level_port_bytes(const LevelRun *run);                // of all ranks below it
// Bandwidth of a port in exchanges that took so long; what a latency takes of the time is no part of it.
Spread level_rate(const LevelRun *run, Spread times);

enum { WORKERS_MAX = 64 };

extern const uint32_t calibrate_row_counts[MATRIX_SIZES];
extern const uint32_t calibrate_backward_counts[BACKWARD_SIZES];
// What is measured of codecs: packets of the largest elements, then of bits of all of them.
enum { CALIBRATE_CODECS = 2 };

typedef struct {
    Codec codec;
    double ratio;
} CalibrateCodec;

extern const CalibrateCodec calibrate_codecs[CALIBRATE_CODECS];
// The curves of the cost model through the measured matrix products.
void calibrate_fit_rate(Calibration *calibration);
void calibrate_fit_backward(Calibration *calibration);
// FLOPs of an expert's backward pass for so many rows: it computes the way into the inner dimension again, and two
// gradients of every product.
double calibrate_backward_amount(const ModelDims *dims, double rows);

bool calibrate_device(CalibrateRank *rank) MUST_CHECK;
bool calibrate_codec(CalibrateRank *rank) MUST_CHECK;
bool calibrate_links(CalibrateRank *rank) MUST_CHECK;
// Workers of the outermost level, up to WORKERS_MAX, one by one; `rows` passed a port when all were measured at once.
bool calibrate_workers(LevelRun *run, uint64_t rows) MUST_CHECK;

#endif
