// Random numbers as functions of what they are for: the finaliser of SplitMix64 applied to a key. Equal everywhere.
#ifndef HEP_RANDOM_H
#define HEP_RANDOM_H

#include <stdint.h>

static inline uint64_t random_mix(uint64_t z)
{
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static inline uint64_t random_key(uint64_t seed, uint64_t kind, uint64_t a, uint64_t b)
{
    return random_mix(random_mix(random_mix(random_mix(seed) + kind) + a) + b);
}

#endif
