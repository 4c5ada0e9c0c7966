// cuda_empty.cu for the processor.
#include "emulate.h"

#include "cuda_empty.cu"
