// Rotary position embedding in the rotate-half form: column j of a head turns with column j + D/2 by
// the angle of its token, whose cosines and sines are read from tables. No angle is computed here; the
// backward pass is the same kernel with the other sign.
#include "../include/grt_group.h"

// y1 = x1 cos - x2 sin, y2 = x2 cos + x1 sin for x [rows, heads * 2 half], cos and sin [rows, half];
// `sign` multiplies the sine.
struct RopeArgs {
    const void* x;
    const float* cos;
    const float* sin;
    void* y;
    int rows;
    int heads;
    int half;
    float sign;
};
static_assert(sizeof(RopeArgs) == 48, "mirrored in src/ops/rope.rs");

template <class S>
GRT_DEV void rope_turn(const RopeArgs& a) {
    constexpr int N = grt_vec<S>::N;
    // Rows are the heads of all tokens, columns the first half of a head.
    grt_rows<S>(a.rows * a.heads, a.half, [&](auto g) {
        int64_t angle = (int64_t)((uint32_t)g.row / (uint32_t)a.heads) * a.half + g.col;
        int64_t at = (int64_t)g.row * a.half * 2 + g.col;
        float c[N], s[N], x1[N], x2[N], y1[N], y2[N];
        grt_load_group((const S*)a.x + at, g, x1);
        grt_load_group((const S*)a.x + at + a.half, g, x2);
        grt_load_group(a.cos + angle, g, c);
        grt_load_group(a.sin + angle, g, s);
        GRT_UNROLL for (int i = 0; i < N; i++) {
            float turn = a.sign * s[i];
            y1[i] = grt_fma(x1[i], c[i], -(x2[i] * turn));
            y2[i] = grt_fma(x2[i], c[i], x1[i] * turn);
        }
        grt_store_group((S*)a.y + at, g, y1);
        grt_store_group((S*)a.y + at + a.half, g, y2);
    });
}
GRT_KERNEL(rope_f32, RopeArgs, 256) { rope_turn<float>(a); }
GRT_KERNEL(rope_bf16, RopeArgs, 256) { rope_turn<grt_bf16>(a); }
