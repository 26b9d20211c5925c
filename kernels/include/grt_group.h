// Tensors as groups of N neighbours, N what 16 bytes hold. A thread owns a group: it moves in one
// access where it is whole and aligned, element by element elsewhere (the end of a tensor, rows whose
// length is not a multiple of N). The code for a group is compiled once for either sort, so that whole
// groups meet no branch between their loads. The numbers do not depend on how they were moved.
#pragma once
#include "grt.h"

// A group: `count` neighbours of a tensor; of a matrix, columns of `row` from `col` on.
template <bool WIDE>
struct grt_group {
    static constexpr bool wide = WIDE; // whole and aligned
    int64_t at;                        // first element, counted from the tensor's start
    int row;
    int col;
    int count;
};

// Calls f(group) for this thread's group of a tensor of n elements that has no rows.
template <class S, class F>
GRT_DEV void grt_flat(int64_t n, F f) {
    constexpr int N = grt_vec<S>::N;
    int64_t at = ((int64_t)grt_block_x() * grt_threads() + grt_tid()) * N;
    int64_t left = n - at;
    if (left >= N) f(grt_group<true>{at, 0, 0, N});
    else if (left > 0) f(grt_group<false>{at, 0, 0, (int)left});
}

// Calls f(group) for this thread's group of a matrix. There must be fewer than 2^31 groups.
template <class S, class F>
GRT_DEV void grt_rows(int rows, int cols, F f) {
    constexpr int N = grt_vec<S>::N;
    uint32_t groups = (uint32_t)(cols + N - 1) / N;
    uint32_t item = (uint32_t)grt_block_x() * grt_threads() + grt_tid();
    uint32_t row = item / groups;
    if (row >= (uint32_t)rows) return;
    int col = (int)(item - row * groups) * N;
    int left = cols - col;
    int64_t at = (int64_t)row * cols + col;
    if (cols % N == 0) f(grt_group<true>{at, (int)row, col, N});
    else f(grt_group<false>{at, (int)row, col, left < N ? left : N});
}

// Loads a group as singles; what is missing of N is 0.
template <class S, int N, bool WIDE>
GRT_DEV void grt_load_group(const S* p, const grt_group<WIDE>& g, float (&x)[N]) {
    constexpr int V = grt_vec<S>::N;
    static_assert(N % V == 0, "a group is whole vectors");
    if (WIDE) {
        GRT_UNROLL for (int k = 0; k < N; k += V) {
            float v[V];
            grt_load_vec(p + k, v);
            GRT_UNROLL for (int i = 0; i < V; i++) x[k + i] = v[i];
        }
    } else {
        GRT_UNROLL for (int i = 0; i < N; i++) x[i] = i < g.count ? grt_load(p + i) : 0.0f;
    }
}

// Stores a group, each element rounded once.
template <class S, int N, bool WIDE>
GRT_DEV void grt_store_group(S* p, const grt_group<WIDE>& g, const float (&x)[N]) {
    constexpr int V = grt_vec<S>::N;
    static_assert(N % V == 0, "a group is whole vectors");
    if (WIDE) {
        GRT_UNROLL for (int k = 0; k < N; k += V) {
            float v[V];
            GRT_UNROLL for (int i = 0; i < V; i++) v[i] = x[k + i];
            grt_store_vec(p + k, v);
        }
    } else {
        GRT_UNROLL for (int i = 0; i < N; i++)
            if (i < g.count) grt_store(p + i, x[i]);
    }
}

// Copies a group as it is.
template <class S, bool WIDE>
GRT_DEV void grt_copy_group(const S* from, S* to, const grt_group<WIDE>& g) {
    if (WIDE) {
        grt_store16(to, grt_load16(from));
    } else {
        for (int i = 0; i < g.count; i++) grt_store(to + i, grt_load(from + i));
    }
}

// The elements in 16 bytes that were loaded before.
GRT_DEV void grt_unpack(grt_u128 u, float (&x)[4]) {
    GRT_UNROLL for (int i = 0; i < 4; i++) x[i] = grt_float(u.w[i]);
}
GRT_DEV void grt_unpack(grt_u128 u, float (&x)[8]) {
    GRT_UNROLL for (int i = 0; i < 4; i++) {
        x[2 * i] = grt_float(u.w[i] << 16);
        x[2 * i + 1] = grt_float(u.w[i] & 0xffff0000u);
    }
}
