// Activations and their derivatives for one element, in f32, in the forms of kernels/host/vector.c.
#ifndef HEP_CUDA_ACTIVATION_H
#define HEP_CUDA_ACTIVATION_H

#include "kernels/cuda/device.h"

// NaN stays NaN; results stay in the normal range, so that e / (1 + e) has no infinities to divide.
static __device__ __forceinline__ float exp_clamped(float x)
{
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.3f ? 88.3f : x;
    return expf(x);
}

// x (1 + tanh(u)) / 2 = x / (1 + exp(-2u)) with u = sqrt(2/pi) (x + 0.044715 x^3).
static __device__ __forceinline__ float activation_of(Activation activation, float up, float gate)
{
    switch (activation) {
    case ACTIVATION_RELU:
        return up > 0 ? up : 0;
    case ACTIVATION_GELU:
        return up / (1.0f + exp_clamped(-2.0f * 0.79788456f * (up + 0.044715f * up * up * up)));
    case ACTIVATION_SWIGLU:
        return up * gate / (1.0f + exp_clamped(-gate));
    case ACTIVATION_COUNT:
        break;
    }
    return 0;
}

// The same for results of 16 bits: a relative error of up to 2^-16, which rounding to them hides, for a third of the
// instructions.
static __device__ __forceinline__ float activation_of_16(Activation activation, float up, float gate)
{
    constexpr float LOG2_E = 1.44269504f, MOST = 83.0f; // __fdividef takes divisors below 2^126
    switch (activation) {
    case ACTIVATION_RELU:
        return up > 0 ? up : 0;
    case ACTIVATION_GELU: {
        float x = -2.0f * 0.79788456f * (up + 0.044715f * up * up * up);
        return __fdividef(up, 1.0f + exp2f(LOG2_E * (x > MOST ? MOST : x)));
    }
    case ACTIVATION_SWIGLU:
        return __fdividef(up * gate, 1.0f + exp2f(LOG2_E * (-gate > MOST ? MOST : -gate)));
    case ACTIVATION_COUNT:
        break;
    }
    return 0;
}

struct Derivatives {
    float act, by_up, by_gate;
};

// With s = 1 / (1 + e): (x s)' = s + x (e s) s slope, where 1 - s = e s loses no digits.
static __device__ __forceinline__ Derivatives derivatives_of(Activation activation, float up, float gate)
{
    switch (activation) {
    case ACTIVATION_RELU:
        return {up > 0 ? up : 0, up > 0 ? 1.0f : 0.0f, 0};
    case ACTIVATION_GELU: {
        float square = 0.044715f * up * up;
        float e = exp_clamped(-2.0f * 0.79788456f * up * (1.0f + square)), s = 1.0f / (1.0f + e), act = up * s;
        return {act, s + act * (e * s) * (2.0f * 0.79788456f * (1.0f + 3.0f * square)), 0};
    }
    case ACTIVATION_SWIGLU: {
        float e = exp_clamped(-gate), s = 1.0f / (1.0f + e), silu = gate * s;
        return {up * silu, silu, up * (s + silu * (e * s))};
    }
    case ACTIVATION_COUNT:
        break;
    }
    return {0, 0, 0};
}

#endif
