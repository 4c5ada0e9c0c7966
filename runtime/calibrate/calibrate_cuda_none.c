// Stands in for calibrate_cuda.c in builds without CUDA, whose CUDA engine refuses before anything is measured.
#include "runtime/calibrate/calibrate_internal.h"

const CalibrateDevice cuda_calibrate = {0};
