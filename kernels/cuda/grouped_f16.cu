// Grouped products of f16 matrices.
#include "kernels/cuda/grouped_kernel.h"

const GroupedKernel grouped_f16 = grouped_kernel_of<__half>();
