// Grouped products of bf16 matrices by the instructions of warp groups.
#include "kernels/cuda/grouped_warp_group.h"

const GroupedKernel grouped_warp_group_bf16 = grouped_warp_group_of<__nv_bfloat16>();
