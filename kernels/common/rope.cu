// Rotary position embedding: two columns of a head turn together by an angle of the token, whose cosines
// and sines are read from tables. The two are column j and column j + half, or neighbours. Columns that
// do not turn are copied. No angle is computed here; the backward pass is the same kernel with the other
// sign.
#include "../include/grt_group.h"

// y1 = x1 cos - x2 sin, y2 = x2 cos + x1 sin for x [rows, heads * head_dim], cos and sin [rows, half];
// the first 2 half columns of a head turn. `sign` multiplies the sine.
struct RopeArgs {
    const void* x;
    const float* cos;
    const float* sin;
    void* y;
    int rows;
    int heads;
    int head_dim;
    int half;
    float sign;
    int unused;
};
static_assert(sizeof(RopeArgs) == 56, "mirrored in src/ops/rope.rs");

// Loads the first and the second columns of a group of pairs: neighbours, or `half` apart.
template <bool NEIGHBOURS, class S, int N, bool WIDE>
GRT_DEV void rope_load(const S* x, int half, const grt_group<WIDE>& g, float (&x1)[N],
                       float (&x2)[N]) {
    if (!NEIGHBOURS) {
        grt_load_group(x + g.col, g, x1);
        grt_load_group(x + g.col + half, g, x2);
        return;
    }
    float both[2 * N];
    grt_load_group(x + 2 * g.col, grt_group<WIDE>{g.at, g.row, g.col, 2 * g.count}, both);
    GRT_UNROLL for (int i = 0; i < N; i++) {
        x1[i] = both[2 * i];
        x2[i] = both[2 * i + 1];
    }
}
template <bool NEIGHBOURS, class S, int N, bool WIDE>
GRT_DEV void rope_store(S* y, int half, const grt_group<WIDE>& g, const float (&y1)[N],
                        const float (&y2)[N]) {
    if (!NEIGHBOURS) {
        grt_store_group(y + g.col, g, y1);
        grt_store_group(y + g.col + half, g, y2);
        return;
    }
    float both[2 * N];
    GRT_UNROLL for (int i = 0; i < N; i++) {
        both[2 * i] = y1[i];
        both[2 * i + 1] = y2[i];
    }
    grt_store_group(y + 2 * g.col, grt_group<WIDE>{g.at, g.row, g.col, 2 * g.count}, both);
}

// Turns a group of pairs: g.row is a head of a token, g.col the first pair.
template <class S, bool NEIGHBOURS, bool WIDE>
GRT_DEV void rope_turn(const RopeArgs& a, const grt_group<WIDE>& g) {
    constexpr int N = grt_vec<S>::N;
    int64_t angle = (int64_t)((uint32_t)g.row / (uint32_t)a.heads) * a.half + g.col;
    int64_t head = (int64_t)g.row * a.head_dim;
    float c[N], s[N], x1[N], x2[N], y1[N], y2[N];
    rope_load<NEIGHBOURS>((const S*)a.x + head, a.half, g, x1, x2);
    grt_load_group(a.cos + angle, g, c);
    grt_load_group(a.sin + angle, g, s);
    GRT_UNROLL for (int i = 0; i < N; i++) {
        float turn = a.sign * s[i];
        y1[i] = grt_fma(x1[i], c[i], -(x2[i] * turn));
        y2[i] = grt_fma(x2[i], c[i], x1[i] * turn);
    }
    rope_store<NEIGHBOURS>((S*)a.y + head, a.half, g, y1, y2);
}

// A thread per group of pairs, and per group of columns that are copied.
template <class S, bool NEIGHBOURS>
GRT_DEV void rope_any(const RopeArgs& a) {
    constexpr int N = grt_vec<S>::N;
    int rest = a.head_dim - 2 * a.half;
    uint32_t turns = (uint32_t)(a.half + N - 1) / N;
    uint32_t groups = turns + (uint32_t)(rest + N - 1) / N;
    uint32_t item = (uint32_t)grt_block_x() * grt_threads() + grt_tid();
    uint32_t row = item / groups, k = item - row * groups;
    if (row >= (uint32_t)(a.rows * a.heads)) return;
    bool turn = k < turns, wide = a.half % N == 0 && a.head_dim % N == 0;
    int col = (int)(turn ? k : k - turns) * N;
    int left = (turn ? a.half : rest) - col;
    grt_group<true> whole = {0, (int)row, col, N};
    grt_group<false> some = {0, (int)row, col, left < N ? left : N};
    if (turn) {
        if (wide) rope_turn<S, NEIGHBOURS>(a, whole);
        else rope_turn<S, NEIGHBOURS>(a, some);
    } else {
        int64_t at = (int64_t)row * a.head_dim + 2 * a.half + col;
        if (wide) grt_copy_group((const S*)a.x + at, (S*)a.y + at, whole);
        else grt_copy_group((const S*)a.x + at, (S*)a.y + at, some);
    }
}
GRT_KERNEL(rope_f32, RopeArgs, 256) { rope_any<float, false>(a); }
GRT_KERNEL(rope_bf16, RopeArgs, 256) { rope_any<grt_bf16, false>(a); }
GRT_KERNEL(rope_neighbours_f32, RopeArgs, 256) { rope_any<float, true>(a); }
GRT_KERNEL(rope_neighbours_bf16, RopeArgs, 256) { rope_any<grt_bf16, true>(a); }
