// Attention of f16 heads.
#include "kernels/cuda/attention_kernel.h"

const AttentionLaunches attention_f16 = attention_launches<__half>();
