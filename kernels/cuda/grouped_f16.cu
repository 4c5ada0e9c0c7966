// Grouped products of f16 matrices.
#include "kernels/cuda/grouped_kernel.h"

const GroupedLaunches grouped_f16 = grouped_launches<__half>();
