// Sums and maxima over a wave and over a block, each in one fixed order. Block sizes are multiples of
// 64, so that a block is whole waves on every target.
#pragma once
#include "grt.h"

GRT_DEV float grt_wave_sum(float x) {
    GRT_UNROLL for (int m = GRT_WAVE / 2; m; m >>= 1) x += grt_shfl_xor(x, m);
    return x;
}
GRT_DEV float grt_wave_max(float x) {
    GRT_UNROLL for (int m = GRT_WAVE / 2; m; m >>= 1) x = grt_max(x, grt_shfl_xor(x, m));
    return x;
}
GRT_DEV int grt_wave_sum(int x) {
    GRT_UNROLL for (int m = GRT_WAVE / 2; m; m >>= 1) x += grt_shfl_xor(x, m);
    return x;
}

// Work space of a block's reduction.
struct grt_block_scratch {
    float part[1024 / GRT_WAVE];
};

// The sum over all threads of the block, in every thread. Every thread must come here; the scratch may
// be used again at once.
GRT_DEV float grt_block_sum(float x, grt_block_scratch& s) {
    x = grt_wave_sum(x);
    if (grt_lane() == 0) s.part[grt_wave()] = x;
    grt_sync();
    float sum = 0;
    for (int i = 0; i < grt_waves(); i++) sum += s.part[i];
    grt_sync();
    return sum;
}
GRT_DEV float grt_block_max(float x, grt_block_scratch& s) {
    x = grt_wave_max(x);
    if (grt_lane() == 0) s.part[grt_wave()] = x;
    grt_sync();
    float top = s.part[0];
    for (int i = 1; i < grt_waves(); i++) top = grt_max(top, s.part[i]);
    grt_sync();
    return top;
}
