// Attention of bf16 heads.
#include "kernels/cuda/attention_kernel.h"

const AttentionLaunches attention_bf16 = attention_launches<__nv_bfloat16>();
