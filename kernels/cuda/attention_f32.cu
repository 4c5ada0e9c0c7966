// Attention of f32 heads.
#include "kernels/cuda/attention_kernel.h"

const AttentionLaunches attention_f32 = attention_launches<float>();
