// Tensors as groups of N neighbours, N what 16 bytes hold. A thread owns a group: it moves in one
// access where it is whole and aligned, element by element elsewhere (the end of a tensor, rows whose
// length is not a multiple of N). The numbers do not depend on how they were moved.
#pragma once
#include "grt.h"

// A group of a matrix: `count` columns of `row` from `col` on; none if the thread has nothing to do.
struct grt_group {
    int64_t at; // first element, counted from the tensor's start
    int row;
    int col;
    int count;
    bool wide; // moves in one access
};

// This thread's group of a tensor of n elements that has no rows.
template <class S>
GRT_DEV grt_group grt_flat_group(int64_t n) {
    constexpr int N = grt_vec<S>::N;
    int64_t at = ((int64_t)grt_block_x() * grt_threads() + grt_tid()) * N;
    int64_t left = n - at;
    int count = left >= N ? N : left > 0 ? (int)left : 0;
    return {at, 0, 0, count, count == N};
}

// This thread's group of a matrix. There must be fewer than 2^31 groups.
template <class S>
GRT_DEV grt_group grt_row_group(int rows, int cols) {
    constexpr int N = grt_vec<S>::N;
    uint32_t groups = (uint32_t)(cols + N - 1) / N;
    uint32_t item = (uint32_t)grt_block_x() * grt_threads() + grt_tid();
    uint32_t row = item / groups;
    int col = (int)(item - row * groups) * N;
    int left = cols - col;
    int count = row >= (uint32_t)rows ? 0 : left < N ? left : N;
    return {(int64_t)row * cols + col, (int)row, col, count, cols % N == 0};
}

// Loads `count` of N elements as singles; the rest are 0. `wide`: all N, aligned.
template <class S, int N>
GRT_DEV void grt_load_group(const S* p, int count, bool wide, float (&x)[N]) {
    constexpr int V = grt_vec<S>::N;
    static_assert(N % V == 0, "a group is whole vectors");
    if (wide) {
        GRT_UNROLL for (int k = 0; k < N; k += V) {
            float v[V];
            grt_load_vec(p + k, v);
            GRT_UNROLL for (int i = 0; i < V; i++) x[k + i] = v[i];
        }
    } else {
        GRT_UNROLL for (int i = 0; i < N; i++) x[i] = i < count ? grt_load(p + i) : 0.0f;
    }
}

// Stores `count` of N elements, each rounded once.
template <class S, int N>
GRT_DEV void grt_store_group(S* p, int count, bool wide, const float (&x)[N]) {
    constexpr int V = grt_vec<S>::N;
    static_assert(N % V == 0, "a group is whole vectors");
    if (wide) {
        GRT_UNROLL for (int k = 0; k < N; k += V) {
            float v[V];
            GRT_UNROLL for (int i = 0; i < V; i++) v[i] = x[k + i];
            grt_store_vec(p + k, v);
        }
    } else {
        GRT_UNROLL for (int i = 0; i < N; i++)
            if (i < count) grt_store(p + i, x[i]);
    }
}

// Copies a group as it is.
template <class S>
GRT_DEV void grt_copy_group(const S* from, S* to, int count, bool wide) {
    if (wide) {
        grt_store16(to, grt_load16(from));
    } else {
        for (int i = 0; i < count; i++) grt_store(to + i, grt_load(from + i));
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
