// Grouped products of f32 matrices.
#include "kernels/cuda/grouped_kernel.h"

const GroupedKernel grouped_f32 = grouped_kernel_of<float>();
