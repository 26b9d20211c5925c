// One vocabulary of matrix tiles over mma.sync (waves of 32) and MFMA (waves of 64): a wave multiplies
// 16x16 by 16x16 bf16 and adds to a 16x16 tile of singles. Kernels that use nothing else of the
// hardware's layouts than what is here run on both. Each element of the product depends on its own row
// of A and column of B alone.
//
// Layouts: PTX ISA, "mma.m16n8k16" and "ldmatrix"; AMD matrix instruction calculator for
// v_mfma_f32_16x16x16_bf16.
#pragma once
#include "grt.h"

// A tile of bf16 in shared memory, rows of COLS elements, chunks of 8 exchanged within a row so that a
// column of chunks lies in different banks. COLS is a multiple of 16.
template <int ROWS, int COLS>
struct alignas(128) grt_tile {
    static_assert(COLS % 16 == 0, "rows are whole fragments");
    static constexpr int CHUNKS = COLS / 8;
    // Chunks that a row exchanges: the largest power of two that divides them, at most 8.
    static constexpr int MASK = (CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2) - 1;
    // Rows that share a chunk order: 128 bytes are all banks.
    static constexpr int PERIOD = (MASK + 1) >= 8 ? 1 : 8 / (MASK + 1);
    uint16_t data[ROWS * COLS];

    // Place of element (row, col).
    GRT_DEV_MEMBER static int at(int row, int col) {
        int chunk = (col >> 3) ^ ((row / PERIOD) & MASK);
        return row * COLS + chunk * 8 + (col & 7);
    }
    GRT_DEV_MEMBER uint16_t* ptr(int row, int col) { return data + at(row, col); }
    GRT_DEV_MEMBER const uint16_t* ptr(int row, int col) const { return data + at(row, col); }
};

#if GRT_WAVE == 32
// Per lane: 8 elements of an operand, 8 of the accumulator, 2 of its rows.
#define GRT_ROW_SLOTS 2
struct grt_frag_a {
    uint32_t r[4];
};
struct grt_frag_b {
    uint32_t r[4];
};
#else
// Per lane: 4 elements of an operand, 4 of the accumulator, 4 of its rows.
#define GRT_ROW_SLOTS 4
struct grt_frag_a {
    uint32_t r[2];
};
struct grt_frag_b {
    uint32_t r[2];
};
#endif
#define GRT_ACC (256 / GRT_WAVE)

// A 16x16 accumulator.
struct grt_frag_c {
    float v[GRT_ACC];
};

#if GRT_WAVE == 32

#if defined(GRT_CUDA)
GRT_DEV void grt_ldmatrix4(uint32_t (&r)[4], const uint16_t* row) {
    uint32_t p = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(p)
                 : "memory");
}
GRT_DEV void grt_ldmatrix4_trans(uint32_t (&r)[4], const uint16_t* row) {
    uint32_t p = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(p)
                 : "memory");
}
GRT_DEV void grt_mma16816(float* c, const uint32_t* a, const uint32_t* b) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// Row slot of accumulator element i, and the row and column of the tile that it is.
GRT_DEV int grt_slot(int i) { return (i >> 1) & 1; }
GRT_DEV int grt_slot_row(int slot) { return (grt_lane() >> 2) + 8 * slot; }
GRT_DEV int grt_acc_row(int i) { return grt_slot_row(grt_slot(i)); }
GRT_DEV int grt_acc_col(int i) { return 8 * (i >> 2) + 2 * (grt_lane() & 3) + (i & 1); }
// Over the lanes that share this lane's rows.
GRT_DEV float grt_row_sum(float x) {
    x += grt_shfl_xor(x, 1);
    x += grt_shfl_xor(x, 2);
    return x;
}
GRT_DEV float grt_row_max(float x) {
    x = grt_max(x, grt_shfl_xor(x, 1));
    x = grt_max(x, grt_shfl_xor(x, 2));
    return x;
}

// A[m][k] from a tile that holds it by rows: rows row.., columns col... of the tile.
template <int R, int C>
GRT_DEV void grt_load_a(grt_frag_a& f, const grt_tile<R, C>& t, int row, int col) {
    int l = grt_lane();
    grt_ldmatrix4(f.r, t.ptr(row + (l & 15), col + (l >> 4) * 8));
}
// A[m][k] from a tile that holds its transpose: the tile's rows are k (from row), its columns m.
template <int R, int C>
GRT_DEV void grt_load_a_trans(grt_frag_a& f, const grt_tile<R, C>& t, int row, int col) {
    int l = grt_lane();
    grt_ldmatrix4_trans(f.r, t.ptr(row + (l & 7) + (l >> 4) * 8, col + ((l >> 3) & 1) * 8));
}
// B[k][n] from a tile whose rows are n (weights by output, keys): rows row.., columns k from col.
template <int R, int C>
GRT_DEV void grt_load_b(grt_frag_b& f, const grt_tile<R, C>& t, int row, int col) {
    int l = grt_lane();
    grt_ldmatrix4(f.r, t.ptr(row + (l & 7) + (l >> 4) * 8, col + ((l >> 3) & 1) * 8));
}
// B[k][n] from a tile that holds it by rows: the tile's rows are k (from row), its columns n.
template <int R, int C>
GRT_DEV void grt_load_b_trans(grt_frag_b& f, const grt_tile<R, C>& t, int row, int col) {
    int l = grt_lane();
    grt_ldmatrix4_trans(f.r, t.ptr(row + (l & 15), col + (l >> 4) * 8));
}
GRT_DEV void grt_mma(grt_frag_c& c, const grt_frag_a& a, const grt_frag_b& b) {
    grt_mma16816(c.v, a.r, b.r);
    grt_mma16816(c.v + 4, a.r, b.r + 2);
}
// An accumulator, rounded to bf16, as the left factor of another product. The scratch is one 16x16
// tile of the wave's own in shared memory; this target needs none.
GRT_DEV void grt_acc_to_a(grt_frag_a& f, const grt_frag_c& c, grt_tile<16, 16>&) {
    GRT_UNROLL for (int i = 0; i < 4; i++) f.r[i] = grt_pack_bf16(c.v[2 * i], c.v[2 * i + 1]);
}

#else // waves of 64

#if defined(GRT_HIP)
typedef short grt_short4 __attribute__((ext_vector_type(4)));
typedef float grt_float4 __attribute__((ext_vector_type(4)));
GRT_DEV void grt_mfma16(float* c, const uint32_t* a, const uint32_t* b) {
    grt_short4 x, y;
    __builtin_memcpy(&x, a, 8);
    __builtin_memcpy(&y, b, 8);
    grt_float4 z = {c[0], c[1], c[2], c[3]};
    z = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(x, y, z, 0, 0, 0);
    GRT_UNROLL for (int i = 0; i < 4; i++) c[i] = z[i];
}
#endif

GRT_DEV int grt_slot(int i) { return i; }
GRT_DEV int grt_slot_row(int slot) { return 4 * (grt_lane() >> 4) + slot; }
GRT_DEV int grt_acc_row(int i) { return grt_slot_row(i); }
GRT_DEV int grt_acc_col(int) { return grt_lane() & 15; }
GRT_DEV float grt_row_sum(float x) {
    GRT_UNROLL for (int m = 1; m < 16; m <<= 1) x += grt_shfl_xor(x, m);
    return x;
}
GRT_DEV float grt_row_max(float x) {
    GRT_UNROLL for (int m = 1; m < 16; m <<= 1) x = grt_max(x, grt_shfl_xor(x, m));
    return x;
}

// Four neighbours of a row, 8 bytes.
template <int R, int C>
GRT_DEV void grt_load_along(uint32_t (&r)[2], const grt_tile<R, C>& t, int row, int col) {
    const uint32_t* p = (const uint32_t*)t.ptr(row, col);
    r[0] = p[0];
    r[1] = p[1];
}
// Four neighbours of a column.
template <int R, int C>
GRT_DEV void grt_load_across(uint32_t (&r)[2], const grt_tile<R, C>& t, int row, int col) {
    r[0] = *t.ptr(row, col) | (uint32_t)*t.ptr(row + 1, col) << 16;
    r[1] = *t.ptr(row + 2, col) | (uint32_t)*t.ptr(row + 3, col) << 16;
}
template <int R, int C>
GRT_DEV void grt_load_a(grt_frag_a& f, const grt_tile<R, C>& t, int row, int col) {
    int l = grt_lane();
    grt_load_along(f.r, t, row + (l & 15), col + 4 * (l >> 4));
}
template <int R, int C>
GRT_DEV void grt_load_a_trans(grt_frag_a& f, const grt_tile<R, C>& t, int row, int col) {
    int l = grt_lane();
    grt_load_across(f.r, t, row + 4 * (l >> 4), col + (l & 15));
}
template <int R, int C>
GRT_DEV void grt_load_b(grt_frag_b& f, const grt_tile<R, C>& t, int row, int col) {
    int l = grt_lane();
    grt_load_along(f.r, t, row + (l & 15), col + 4 * (l >> 4));
}
template <int R, int C>
GRT_DEV void grt_load_b_trans(grt_frag_b& f, const grt_tile<R, C>& t, int row, int col) {
    int l = grt_lane();
    grt_load_across(f.r, t, row + 4 * (l >> 4), col + (l & 15));
}
GRT_DEV void grt_mma(grt_frag_c& c, const grt_frag_a& a, const grt_frag_b& b) {
    grt_mfma16(c.v, a.r, b.r);
}
GRT_DEV void grt_acc_to_a(grt_frag_a& f, const grt_frag_c& c, grt_tile<16, 16>& scratch) {
    grt_sync_wave();
    GRT_UNROLL for (int i = 0; i < GRT_ACC; i++)
        *scratch.ptr(grt_acc_row(i), grt_acc_col(i)) = grt_round_bf16(c.v[i]);
    grt_sync_wave();
    grt_load_a(f, scratch, 0, 0);
}
#endif
