// Grouped products of f32 matrices.
#include "kernels/cuda/grouped_kernel.h"

const GroupedLaunches grouped_f32 = grouped_launches<float>();
