// Losses by iteration as a CSV file that grows while a training runs, to be plotted or watched.
#ifndef HEP_LOSS_LOG_H
#define HEP_LOSS_LOG_H

#include "ir/base/fault.h"

typedef struct LossLog LossLog;

typedef struct {
    uint64_t iteration; // from 1
    double loss, learning_rate;
    double iteration_s;
    bool skipped; // the update
    bool validated;
    double validation; // loss of held-out data after the iteration
} LossRow;

// A new file; or, for a training that was resumed after `iteration`, the file that is there without what follows that.
// NULL and a fault that names the file.
LossLog *loss_log_open(const char *path, uint64_t iteration, Fault *fault) MUST_CHECK;
// A row is in the file when this returns.
bool loss_log_add(LossLog *log, const LossRow *row, Fault *fault) MUST_CHECK;
void loss_log_close(LossLog *log); // takes NULL

#endif
