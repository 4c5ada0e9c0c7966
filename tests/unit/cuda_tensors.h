// Device buffers for tests of CUDA kernels: guarded copies of host tensors, a queue with scratch exactly as large as
// the op asks for, comparison with what the host kernel made. One source serves the emulation and a real GPU.
#ifndef HEP_TEST_CUDA_TENSORS_H
#define HEP_TEST_CUDA_TENSORS_H

#include <math.h>
#include <stdlib.h>

#include "kernels/cuda/kernels.h"
#include "tensors.h"

#define EXPECT_SUCCESS(call) expect_success((call), __LINE__)

static inline void expect_success(cudaError_t error, int line)
{
    cr_assert_eq(error, cudaSuccess, "line %d: %s", line, cudaGetErrorString(error));
}

static struct {
    Tensor tensors[TENSORS_MAX];
    size_t count;
} on_device;

static inline uint64_t tensor_bytes(Tensor tensor)
{
    return tensor.rows * tensor.cols * dtype_bytes(tensor.dtype);
}

// A device buffer with guards, filled with NaN.
static inline Tensor device_make(Dtype dtype, uint64_t rows, uint64_t cols)
{
    Tensor tensor = {NULL, dtype, rows, cols};
    uint64_t bytes = tensor_bytes(tensor);
    char *base;
    EXPECT_SUCCESS(cudaMalloc((void **)&base, bytes + 2 * TENSOR_GUARD));
    EXPECT_SUCCESS(cudaMemset(base, 0xA5, bytes + 2 * TENSOR_GUARD));
    tensor.data = base + TENSOR_GUARD;
    EXPECT_SUCCESS(cudaMemset(tensor.data, 0xFF, bytes));
    cr_assert(on_device.count < TENSORS_MAX);
    return on_device.tensors[on_device.count++] = tensor;
}

static inline Tensor device_copy(Tensor host)
{
    if (!host.data)
        return host;
    Tensor tensor = device_make(host.dtype, host.rows, host.cols);
    EXPECT_SUCCESS(cudaMemcpy(tensor.data, host.data, tensor_bytes(host), cudaMemcpyHostToDevice));
    return tensor;
}

static inline Tensor device_like(Tensor host)
{
    return device_make(host.dtype, host.rows, host.cols);
}

static inline const int32_t *device_table(const int32_t *values, uint64_t count)
{
    Tensor tensor = device_make(DTYPE_I32, 1, count);
    EXPECT_SUCCESS(cudaMemcpy(tensor.data, values, count * sizeof(*values), cudaMemcpyHostToDevice));
    return tensor.data;
}

// A copy on the host, freed with the other host tensors.
static inline Tensor host_copy(Tensor device)
{
    Tensor host = make(device.dtype, device.rows, device.cols);
    EXPECT_SUCCESS(cudaMemcpy(host.data, device.data, tensor_bytes(device), cudaMemcpyDeviceToHost));
    return host;
}

static inline uint64_t *device_counter(void)
{
    Tensor counter = device_make(DTYPE_I32, 1, 2);
    EXPECT_SUCCESS(cudaMemset(counter.data, 0, sizeof(uint64_t)));
    return counter.data;
}

static inline uint64_t counter_value(const uint64_t *counter)
{
    uint64_t value;
    EXPECT_SUCCESS(cudaMemcpy(&value, counter, sizeof(value), cudaMemcpyDeviceToHost));
    return value;
}

static struct {
    CudaQueue queue;
    void *memory;
} running; // what the running test launches with

static inline void device_queue_end(void)
{
    cuda_queue_destroy(&running.queue);
    EXPECT_SUCCESS(cudaFree(running.memory)); // the emulation looks at its guards here
    running.memory = NULL;
}

// A queue with scratch of exactly `bytes`, filled with what is no place, no -1 and not small in any dtype. Kernels are
// tested, not chosen by whether they work.
static inline const CudaQueue *device_queue(uint64_t bytes)
{
    device_queue_end();
    setenv("HEP_EXPERT_KERNEL", "wgmma", true);
    EXPECT_SUCCESS(cudaMalloc(&running.memory, CUDA_BLAS_BYTES + bytes));
    EXPECT_SUCCESS(cudaMemset((char *)running.memory + CUDA_BLAS_BYTES, 0x7F, bytes));
    EXPECT_SUCCESS(cuda_queue_create(&running.queue, NULL, true, running.memory, CUDA_BLAS_BYTES + bytes));
    return &running.queue;
}

// Checks the guards on both sides and frees everything.
static inline void device_finish(void)
{
    EXPECT_SUCCESS(cudaDeviceSynchronize());
    device_queue_end();
    for (size_t t = 0; t < on_device.count; t++) {
        Tensor tensor = on_device.tensors[t];
        unsigned char guards[2][TENSOR_GUARD];
        char *base = (char *)tensor.data - TENSOR_GUARD;
        EXPECT_SUCCESS(cudaMemcpy(guards[0], base, TENSOR_GUARD, cudaMemcpyDeviceToHost));
        EXPECT_SUCCESS(
            cudaMemcpy(guards[1], (char *)tensor.data + tensor_bytes(tensor), TENSOR_GUARD, cudaMemcpyDeviceToHost));
        for (uint64_t i = 0; i < TENSOR_GUARD; i++) {
            cr_assert_eq(guards[0][i], 0xA5, "device tensor %zu: written before its begin", t);
            cr_assert_eq(guards[1][i], 0xA5, "device tensor %zu: written past its end", t);
        }
        EXPECT_SUCCESS(cudaFree(base));
    }
    on_device.count = 0;
    finish();
}

// Half the distance between neighbouring numbers near 1: what rounding once may change, relatively.
static inline double rounding(Dtype dtype)
{
    return dtype == DTYPE_F32 ? 0x1p-24 : dtype == DTYPE_F16 ? 0x1p-11 : 0x1p-8;
}

// The first `count` elements differ by at most `tolerance` x the largest of them.
static inline void expect_near(Tensor device, Tensor host, uint64_t count, double tolerance, const char *what)
{
    Tensor got = host_copy(device);
    double largest = 0;
    for (uint64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(at(host, i)));
    for (uint64_t i = 0; i < count; i++)
        cr_assert(fabs(at(got, i) - at(host, i)) <= tolerance * largest,
                  "%s, %s, element %llu of %llu: got %g, the host %g; tolerance %g of %g", what, dtype_name(got.dtype),
                  (unsigned long long)i, (unsigned long long)count, at(got, i), at(host, i), tolerance, largest);
}

// The first `bytes` are the same.
static inline void expect_same(Tensor device, Tensor host, uint64_t bytes, const char *what)
{
    Tensor got = host_copy(device);
    const unsigned char *a = got.data, *b = host.data;
    for (uint64_t i = 0; i < bytes; i++)
        cr_assert_eq(a[i], b[i], "%s: byte %llu of %llu: got %02x, the host %02x", what, (unsigned long long)i,
                     (unsigned long long)bytes, a[i], b[i]);
}

#ifdef HEP_ON_DEVICE
#include <stdio.h>
#include <unistd.h>

// Without a GPU there is nothing to test: 77 says so to whoever runs this.
__attribute__((constructor)) static void require_device(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0)
        return;
    fputs("SKIP: no CUDA device\n", stderr);
    _exit(77);
}
#endif

#endif
