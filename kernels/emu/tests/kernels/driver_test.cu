// Kernels of the test of the emulated drivers: one that works, one that never ends.
#include "../include/grt.h"

struct ScaleArgs {
    float* x;
    int64_t n;
    float by;
    int unused;
};

GRT_KERNEL(emu_scale, ScaleArgs, 256) {
    int64_t i = (int64_t)grt_block_x() * grt_threads() + grt_tid();
    if (i < a.n) grt_store(a.x + i, grt_load(a.x + i) * a.by);
}

GRT_KERNEL(emu_stuck, ScaleArgs, 256) {
    if (grt_tid() % 2 == 0) grt_shfl(1, 0);
    grt_store(a.x, 1.0f);
}
