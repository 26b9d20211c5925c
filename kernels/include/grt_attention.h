// What the attention kernels share: the tables that the host makes from the segments, tiles of a head's
// rows in shared memory, and the softmax's numbers. Nothing here knows whether it runs forward or
// backward.
//
// A head row is one head of one row: q[T,N*D] is T*N head rows of D elements, k[S,M*D] is S*M. The rows
// of a segment are packed: packed row r is head r % group of query r / group, so the heads that share a
// key head fill tiles together.
//
// Keys are walked in blocks of ATTN_BLOCK by their position within the segment, whatever rows they lie
// in, and products over them in steps of 16. A hidden key has weight 0 and adds nothing: a row's bits
// depend on its own query and keys alone, not on the tile, the grid or the number of queries.
#pragma once
#include "grt_mma.h"

// KEY_BLOCK in src/ops/attention.rs.
#define ATTN_BLOCK 64
// Waves of a block of threads.
#define ATTN_WAVES 4
#define ATTN_THREADS (ATTN_WAVES * GRT_WAVE)
// Tiles of keys under way: copies are in the background where waves have 32 lanes; elsewhere a second
// tile would take the room of a second block of threads.
#define ATTN_STAGES (GRT_WAVE == 32 ? 2 : 1)

#define ATTN_LOG2E 1.44269504088896340736f
#define ATTN_LN2 0.69314718055994530942f

// Some packed rows of a segment; six words of the table.
struct attn_item {
    // Row of the segment's first query; first packed row and number of them.
    int row, first, rows;
    // Query i of the segment sees visible + step * i keys.
    int visible, step;
    // Word of the table with the first span of key block 0; the other blocks follow.
    int blocks;
};
#define ATTN_ITEM_WORDS 6

GRT_DEV attn_item attn_load_item(const int* table, int index) {
    const int* w = table + (int64_t)index * ATTN_ITEM_WORDS;
    attn_item x;
    x.row = grt_load(w);
    x.first = grt_load(w + 1);
    x.rows = grt_load(w + 2);
    x.visible = grt_load(w + 3);
    x.step = grt_load(w + 4);
    x.blocks = grt_load(w + 5);
    return x;
}

// Row of the key at a position. A span is two words: the position after its last key, and its first row
// less the position of its first key.
GRT_DEV int attn_key_row(const int* table, int blocks, int position) {
    int s = grt_load(table + blocks + position / ATTN_BLOCK);
    while (position >= grt_load(table + s)) s += 2;
    return position + grt_load(table + s + 1);
}

// Loops that copy are not unrolled in full: their addresses would push sums out of the registers.
#if defined(GRT_EMU)
#define ATTN_UNROLL_2
#else
#define ATTN_UNROLL_2 _Pragma("unroll 2")
#endif

// Starts copying 8 columns of a head row, zeros if it is -1; columns from head_dim on are zeros.
GRT_DEV void attn_copy8(uint16_t* to, const grt_bf16* x, int head_dim, int row, int col) {
    const grt_bf16* from = x + (row >= 0 ? (int64_t)row * head_dim + col : 0);
    if (head_dim % 8 == 0) {
        grt_async_copy16(to, from, row >= 0 && col < head_dim);
    } else { // not aligned
        for (int i = 0; i < 8; i++) {
            bool valid = row >= 0 && col + i < head_dim;
            to[i] = valid ? grt_round_bf16(grt_load(from + i)) : 0;
        }
    }
}

// Starts copying head rows of two tensors into tiles: `rows` (in shared memory) names them.
template <int ROWS, int DP>
GRT_DEV void attn_copy(grt_tile<ROWS, DP>& tile, const void* x, grt_tile<ROWS, DP>& second,
                       const void* y, int head_dim, const int* rows) {
    constexpr int CHUNKS = DP / 8;
    ATTN_UNROLL_2 for (int c = grt_tid(); c < ROWS * CHUNKS; c += ATTN_THREADS) {
        int r = c / CHUNKS, col = c % CHUNKS * 8, at = tile.at(r, col), row = rows[r];
        attn_copy8(tile.data + at, (const grt_bf16*)x, head_dim, row, col);
        attn_copy8(second.data + at, (const grt_bf16*)y, head_dim, row, col);
    }
}
template <int ROWS, int DP>
GRT_DEV void attn_copy(grt_tile<ROWS, DP>& tile, const void* x, int head_dim, const int* rows) {
    constexpr int CHUNKS = DP / 8;
    ATTN_UNROLL_2 for (int c = grt_tid(); c < ROWS * CHUNKS; c += ATTN_THREADS) {
        int r = c / CHUNKS, col = c % CHUNKS * 8;
        attn_copy8(tile.ptr(r, col), (const grt_bf16*)x, head_dim, rows[r], col);
    }
}

// Copies head rows from a tile to memory; those at -1 stay.
template <int ROWS, int DP>
GRT_DEV void attn_write(void* x, const grt_tile<ROWS, DP>& tile, int head_dim, const int* rows) {
    constexpr int CHUNKS = DP / 8;
    bool whole = head_dim % 8 == 0;
    for (int c = grt_tid(); c < ROWS * CHUNKS; c += ATTN_THREADS) {
        int r = c / CHUNKS, col = c % CHUNKS * 8;
        int row = rows[r];
        if (row < 0 || col >= head_dim) continue;
        grt_bf16* to = (grt_bf16*)x + (int64_t)row * head_dim + col;
        const uint16_t* from = tile.ptr(r, col);
        if (whole) {
            grt_store16(to, *(const grt_u128*)from);
        } else {
            for (int i = 0; i < 8 && col + i < head_dim; i++) grt_store_bits(to + i, from[i]);
        }
    }
}

// Writes a 16x16 accumulator times a factor per row slot into a tile. + 0: how many zeros a sum was
// lengthened by shows in nothing but the sign of a zero.
template <int ROWS, int DP>
GRT_DEV void attn_put(grt_tile<ROWS, DP>& tile, int row, int col, const grt_frag_c& c,
                      const float (&factor)[GRT_ROW_SLOTS]) {
    GRT_UNROLL for (int i = 0; i < GRT_ACC; i++) {
        float x = c.v[i] * factor[grt_slot(i)] + 0.0f;
        *tile.ptr(row + grt_acc_row(i), col + grt_acc_col(i)) = grt_round_bf16(x);
    }
}

GRT_DEV void attn_clear(grt_frag_c& c) {
    GRT_UNROLL for (int i = 0; i < GRT_ACC; i++) c.v[i] = 0;
}

GRT_DEV float attn_no_score() { return grt_float(0xff800000u); }

// Natural logarithm of a normal positive number, within two units in the last place:
// 2 atanh(s) with s = (m-1)/(m+1) and m between sqrt(1/2) and sqrt(2).
GRT_DEV float attn_log(float x) {
    uint32_t bits = grt_bits(x);
    int exponent = (int)(bits - 0x3f3504f3u) >> 23;
    float m = grt_float(bits - ((uint32_t)exponent << 23));
    float s = (m - 1.0f) / (m + 1.0f), t = s * s;
    float y = grt_fma(t, 2.0f / 9, 2.0f / 7);
    y = grt_fma(t, y, 2.0f / 5);
    y = grt_fma(t, y, 2.0f / 3);
    y = grt_fma(t * s, y, 2.0f * s);
    return grt_fma((float)exponent, ATTN_LN2, y);
}

// lse of a row whose weights sum to `sum` relative to the largest score `top`, both in units of the
// unscaled score.
GRT_DEV float attn_lse(float top, float scale_log2, float sum) {
    return grt_fma(top * scale_log2, ATTN_LN2, attn_log(sum));
}
