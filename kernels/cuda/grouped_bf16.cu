// Grouped products of bf16 matrices.
#include "kernels/cuda/grouped_kernel.h"

const GroupedLaunches grouped_bf16 = grouped_launches<__nv_bfloat16>();
