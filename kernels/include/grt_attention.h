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
#include "grt_math.h"
#include "grt_mma.h"

// KEY_BLOCK in src/ops/attention.rs.
#define ATTN_BLOCK 64
// Waves of a block of threads.
#define ATTN_WAVES 4
#define ATTN_THREADS (ATTN_WAVES * GRT_WAVE)
// Tiles of keys under way: copies are in the background where waves have 32 lanes; elsewhere a second
// tile would take the room of a second block of threads.
#define ATTN_STAGES (GRT_WAVE == 32 ? 2 : 1)

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

// Keys of a tile whose gradients have one owner, and queries of a block that it walks. Blocks of queries
// begin at multiples of their size by position in the segment, so a key's gradient does not depend on
// where its segment's rows lie.
#define ATTN_DKV_KEYS 64
#define ATTN_DKV_QUERIES 32

// Consecutive key rows that the same queries see; four words of the table.
struct attn_key_item {
    int row, rows;
    // Word of the table with its first viewer; blocks of queries of all viewers and heads of a group.
    int viewers, blocks;
};
#define ATTN_KEY_ITEM_WORDS 4

GRT_DEV attn_key_item attn_load_key_item(const int* table, int index) {
    const int* w = table + (int64_t)index * ATTN_KEY_ITEM_WORDS;
    attn_key_item x;
    x.row = grt_load(w);
    x.rows = grt_load(w + 1);
    x.viewers = grt_load(w + 2);
    x.blocks = grt_load(w + 3);
    return x;
}

// A segment whose queries see a tile of keys; six words of the table.
struct attn_viewer {
    // Row of its first query; number of queries.
    int row, queries;
    // Query i sees sees + step * i keys of the tile (negative: none; more than it has: all).
    int sees, step;
    // First query of the first block, which may lie before 0; number of blocks.
    int first, blocks;
};
#define ATTN_VIEWER_WORDS 6

GRT_DEV attn_viewer attn_load_viewer(const int* w) {
    attn_viewer x;
    x.row = grt_load(w);
    x.queries = grt_load(w + 1);
    x.sees = grt_load(w + 2);
    x.step = grt_load(w + 3);
    x.first = grt_load(w + 4);
    x.blocks = grt_load(w + 5);
    return x;
}

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
    GRT_ROLLED for (int c = grt_tid(); c < ROWS * CHUNKS; c += ATTN_THREADS) {
        int r = c / CHUNKS, col = c % CHUNKS * 8, at = tile.at(r, col), row = rows[r];
        attn_copy8(tile.data + at, (const grt_bf16*)x, head_dim, row, col);
        attn_copy8(second.data + at, (const grt_bf16*)y, head_dim, row, col);
    }
}
template <int ROWS, int DP>
GRT_DEV void attn_copy(grt_tile<ROWS, DP>& tile, const void* x, int head_dim, const int* rows) {
    constexpr int CHUNKS = DP / 8;
    GRT_ROLLED for (int c = grt_tid(); c < ROWS * CHUNKS; c += ATTN_THREADS) {
        int r = c / CHUNKS, col = c % CHUNKS * 8;
        attn_copy8(tile.ptr(r, col), (const grt_bf16*)x, head_dim, rows[r], col);
    }
}

// The rows of a block of threads: which head rows, and how many keys each sees. Rows beyond the item
// see one key of a query of zeros. It all lies in shared memory: registers are short.
template <int ROWS>
struct attn_rows {
    int head[ROWS];
    int visible[ROWS];
    int keys[2 * ATTN_BLOCK]; // head rows of the keys of two blocks
    int most, least;          // keys that any row sees, and that every row sees
    int blocks, kv;           // of the item; key head
};

// The rows of this block of threads, for all threads: those of its item from `skip` on. False if there
// are none.
template <int ROWS, class Args>
GRT_DEV bool attn_find_rows(attn_rows<ROWS>& rows, const Args& a, int skip) {
    attn_item item = attn_load_item(a.table, a.first_item + grt_block_x() / a.kv_heads);
    int kv = grt_block_x() % a.kv_heads, group = a.heads / a.kv_heads;
    item.first += skip;
    item.rows = item.rows - skip < ROWS ? item.rows - skip : ROWS;
    if (item.rows <= 0) return false;
    if (grt_tid() == 0) {
        rows.most = item.visible + item.step * ((item.first + item.rows - 1) / group);
        rows.least = item.visible + item.step * (item.first / group);
        rows.blocks = item.blocks;
        rows.kv = kv;
    }
    for (int i = grt_tid(); i < ROWS; i += ATTN_THREADS) {
        int r = item.first + i, query = r / group;
        bool there = i < item.rows;
        rows.head[i] = there ? (item.row + query) * a.heads + kv * group + r % group : -1;
        rows.visible[i] = there ? item.visible + item.step * query : 1;
    }
    grt_sync();
    return true;
}

// Walks the keys of the rows in blocks of KEYS: tiles of keys and values arrive one block ahead of their use, the
// rows they lie in two blocks ahead.
template <int DP, int KEYS, int ROWS, class Args>
struct attn_walk {
    grt_tile<KEYS, DP>* tiles; // k, v of each stage
    attn_rows<ROWS>& rows;
    const Args& a;

    GRT_DEV_MEMBER grt_tile<KEYS, DP>& k(int b) { return tiles[2 * (b % ATTN_STAGES)]; }
    GRT_DEV_MEMBER grt_tile<KEYS, DP>& v(int b) { return tiles[2 * (b % ATTN_STAGES) + 1]; }
    GRT_DEV_MEMBER bool is_block(int b) { return b * KEYS < rows.most; }

    GRT_DEV_MEMBER void find(int b) {
        int i = grt_tid(), position = b * KEYS + i;
        if (i >= KEYS) return;
        int row = -1;
        if (position < rows.most)
            row = attn_key_row(a.table, rows.blocks, position) * a.kv_heads + rows.kv;
        rows.keys[b % 2 * KEYS + i] = row;
    }
    GRT_DEV_MEMBER void copy(int b) {
        attn_copy(k(b), a.k, v(b), a.v, a.head_dim, rows.keys + b % 2 * KEYS);
        grt_async_commit();
    }
    // Before the first block. Nothing may use the tiles' room any more.
    GRT_DEV_MEMBER void start() {
        find(0);
        grt_sync();
        if (ATTN_STAGES > 1) {
            copy(0);
            find(1);
        }
    }
    // Block b is there for all threads afterwards.
    GRT_DEV_MEMBER void arrive(int b) {
        if (ATTN_STAGES > 1) {
            grt_async_wait<0>();
            grt_sync();
            if (is_block(b + 1)) copy(b + 1);
            find(b + 2);
        } else {
            grt_sync();
            copy(b);
            find(b + 1);
            grt_async_wait<0>();
            grt_sync();
        }
    }
};

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

// Hides what each row does not see of 16 keys from position `key`.
GRT_DEV void attn_hide(grt_frag_c& s, int key, const int* visible) {
    GRT_UNROLL for (int i = 0; i < GRT_ACC; i++)
        if (key + grt_acc_col(i) >= visible[grt_acc_row(i)]) s.v[i] = attn_no_score();
}

// lse of a row whose weights sum to `sum` relative to the largest score `top`, both in units of the
// unscaled score.
GRT_DEV float attn_lse(float top, float scale_log2, float sum) {
    return grt_fma(top * scale_log2, ATTN_LN2, grt_log(sum));
}
