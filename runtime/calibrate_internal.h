// What the parts of the calibration share: one rank's side of it, and repeated, timed steps that all ranks do together.
#ifndef HEP_CALIBRATE_INTERNAL_H
#define HEP_CALIBRATE_INTERNAL_H

#include "runtime/calibrate.h"

enum { SAMPLES = 5, SAMPLES_MAX = 25 };

typedef struct {
    const CalibrateOptions *options;
    Calibration *calibration; // NULL but for one rank of this process
    Comm *comm;
    Fault *fault;
    uint64_t bytes_max; // that a buffer may take
} CalibrateRank;

// Does the work once. All ranks begin together; the time is the slowest rank's, the same on every rank.
typedef bool (*CalibrateWork)(void *context, Fault *fault);
bool calibrate_time(CalibrateRank *rank, CalibrateWork work, void *context, double *time_s) MUST_CHECK;
// `count` times, at most SAMPLES_MAX.
bool calibrate_sample(CalibrateRank *rank, CalibrateWork work, void *context, uint32_t count, Spread *times) MUST_CHECK;

// As much per second as `amount` in the times given.
Spread calibrate_rate(Spread times, double amount);

bool calibrate_links(CalibrateRank *rank) MUST_CHECK;
bool calibrate_device(CalibrateRank *rank) MUST_CHECK;

#endif
