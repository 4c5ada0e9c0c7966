// Losses by iteration as a CSV file that grows while a training runs, to be plotted or watched.
#ifndef HEP_LOSS_LOG_H
#define HEP_LOSS_LOG_H

#include "ir/base/fault.h"
#include "ir/plan.h"

typedef struct LossLog LossLog;

typedef struct {
    uint64_t iteration; // from 1
    double loss, learning_rate;
    double iteration_s;
    bool skipped; // the update
    bool validated;
    double validation;     // loss of held-out data after the iteration
    const double *dropped; // [choice_count] choices of all ranks' gates beyond the capacity, or NULL
} LossRow;

// A new file; or, for a training that was resumed after `iteration`, the file that is there without what follows that.
// Rows of another training, one that is not resumed, are kept beside (file_set_aside) unless `overwrite`.
// NULL and a fault that names the file. A plan with a capacity has a column for every MoE layer.
LossLog *loss_log_open(const char *path, uint64_t iteration, const Plan *plan, bool overwrite, Fault *fault) MUST_CHECK;
// A row is in the file when this returns.
bool loss_log_add(LossLog *log, const LossRow *row, Fault *fault) MUST_CHECK;
void loss_log_close(LossLog *log); // takes NULL

#endif
