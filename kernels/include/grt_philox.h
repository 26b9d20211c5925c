// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), to the bit
// what src/base/rng.rs gives: every word is a function of the key and the counter, nothing has state.
#pragma once
#include "grt.h"

// Four random words.
struct grt_random {
    uint32_t w[4];
};

// The words at a counter. The key is the one that `Philox::key` gives for a seed and a domain.
GRT_DEV grt_random grt_philox(uint32_t key0, uint32_t key1, uint32_t step, uint32_t sample,
                              uint32_t token, uint32_t lane) {
    uint32_t c0 = token, c1 = sample, c2 = step, c3 = lane;
    GRT_UNROLL for (int round = 0; round < 10; round++) {
        uint32_t high0 = grt_mul_high(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        uint32_t high1 = grt_mul_high(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// A uniform number in [0, 1) with 24 bits.
GRT_DEV float grt_unit(uint32_t word) { return (float)(word >> 8) * (1.0f / 16777216.0f); }
