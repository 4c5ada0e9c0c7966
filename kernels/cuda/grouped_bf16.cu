// Grouped products of bf16 matrices.
#include "kernels/cuda/grouped_kernel.h"

const GroupedKernel grouped_bf16 = grouped_kernel_of<__nv_bfloat16>();
