// What the doubles of CUDA and of NCCL tell each other: how long work that a stream or a graph holds is held, whose
// memory is whose.
#ifndef HEP_CUDA_DOUBLES_H
#define HEP_CUDA_DOUBLES_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

// As cudaLaunchHostFunc. `retire` is called when neither the stream nor a graph can run it any more.
cudaError_t emulation_launch_owned(cudaStream_t stream, cudaHostFn_t function, void *data, cudaHostFn_t retire);
int emulation_capturing(cudaStream_t stream);

// Called for all device memory before it is freed.
typedef void emulation_free_hook(void *memory, size_t bytes);
void emulation_set_free_hook(emulation_free_hook *hook);
// How many collectives are under way on a device, which may wait for peers: a kernel that is launched for the first
// time is loaded then, for which the driver may wait until nothing runs.
typedef int emulation_collectives_hook(int device);
void emulation_set_collectives_hook(emulation_collectives_hook *hook);
// From now on ncclMemFree frees it, or no longer. 0 where it is not allocated, or was already so.
int emulation_set_owner(void *memory, int by_nccl);
int emulation_is_device_memory(const void *memory, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
