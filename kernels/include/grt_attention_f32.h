// Attention for singles: plain fused multiply-adds on tiles in shared memory, forward and backward. Every
// element is one chain over its inner index, ascending, so tiles and grid show in no bit. Weights are
// those of the CPU's exponential, not the fast one. No matrix unit is used here.
//
// Tiles have ATTN_F32_ROWS rows (packed queries, or keys); 16 lanes work on 4 of them, each lane on
// every 16th of the other side's rows and on every 16th column. Head sizes up to 128, rows in shared
// memory d + 1 apart.
#pragma once
#include "grt_attention.h"

#define ATTN_F32_ROWS 32
#define ATTN_F32_THREADS 128

GRT_DEV float attn_lanes16_max(float x) {
    GRT_UNROLL for (int m = 1; m < 16; m <<= 1) x = grt_max(x, grt_shfl_xor(x, m));
    return x;
}
GRT_DEV float attn_lanes16_sum(float x) {
    GRT_UNROLL for (int m = 1; m < 16; m <<= 1) x += grt_shfl_xor(x, m);
    return x;
}

// Copies one head row, or zeros if it is -1, by 16 lanes.
GRT_DEV void attn_copy_row_f32(float* to, const void* x, int head_dim, int row) {
    const float* from = (const float*)x + (row < 0 ? 0 : (int64_t)row * head_dim);
    for (int i = grt_tid() & 15; i < head_dim; i += 16) to[i] = row < 0 ? 0.0f : grt_load(from + i);
}
// Copies `n` head rows that an array in shared memory names.
GRT_DEV void attn_copy_f32(float* tile, const void* x, int head_dim, int n, const int* rows) {
    for (int r = grt_tid() >> 4; r < n; r += grt_threads() >> 4)
        attn_copy_row_f32(tile + r * (head_dim + 1), x, head_dim, rows[r]);
}
// Copies the `n` keys (or values) from position `first`.
template <class Args>
GRT_DEV void attn_copy_keys_f32(float* tile, const void* x, const Args& a, int blocks, int kv,
                                int first, int n) {
    for (int r = grt_tid() >> 4; r < n; r += grt_threads() >> 4) {
        int row = attn_key_row(a.table, blocks, first + r) * a.kv_heads + kv;
        attn_copy_row_f32(tile + r * (a.head_dim + 1), x, a.head_dim, row);
    }
}

// Products of R rows with every 16th of 16 * C rows.
template <int R, int C>
GRT_DEV void attn_products_f32(float (&s)[R][C], const float* x, const float* y, int head_dim) {
    int width = head_dim + 1;
    GRT_UNROLL for (int r = 0; r < R; r++)
        GRT_UNROLL for (int j = 0; j < C; j++) s[r][j] = 0;
    GRT_ROLLED for (int i = 0; i < head_dim; i++) {
        float b[C];
        GRT_UNROLL for (int j = 0; j < C; j++) b[j] = y[16 * j * width + i];
        GRT_UNROLL for (int r = 0; r < R; r++) {
            float c = x[r * width + i];
            GRT_UNROLL for (int j = 0; j < C; j++) s[r][j] = grt_fma(c, b[j], s[r][j]);
        }
    }
}

// Adds weights times rows to four sums: weights[r * stride + i] times row i of `n`, columns l, l + 16...
GRT_DEV void attn_add_f32(float (&sum)[4][8], const float* weights, int stride, const float* rows,
                          int n, int head_dim) {
    int width = head_dim + 1, l = grt_tid() & 15;
    for (int i = 0; i < n; i++) {
        float x[8];
        GRT_UNROLL for (int j = 0; j < 8; j++)
            x[j] = l + 16 * j < head_dim ? rows[i * width + l + 16 * j] : 0.0f;
        GRT_UNROLL for (int r = 0; r < 4; r++) {
            float w = weights[r * stride + i];
            GRT_UNROLL for (int j = 0; j < 8; j++) sum[r][j] = grt_fma(w, x[j], sum[r][j]);
        }
    }
}

GRT_DEV void attn_clear_f32(float (&sum)[4][8]) {
    GRT_UNROLL for (int r = 0; r < 4; r++)
        GRT_UNROLL for (int j = 0; j < 8; j++) sum[r][j] = 0;
}
GRT_DEV void attn_write_row_f32(void* x, int head_dim, int row, const float (&sum)[8], float factor) {
    float* to = (float*)x + (int64_t)row * head_dim;
    int l = grt_tid() & 15;
    GRT_UNROLL for (int j = 0; j < 8; j++)
        if (l + 16 * j < head_dim) grt_store(to + l + 16 * j, sum[j] * factor + 0.0f);
}

struct attn_f32_rows {
    float weights[ATTN_F32_ROWS][ATTN_BLOCK];
    int head[ATTN_F32_ROWS], visible[ATTN_F32_ROWS];
};

// The packed rows of a block of threads: those of `item` from 32 times the block's second index on.
// `item` becomes these rows; false if there are none.
template <class Args>
GRT_DEV bool attn_find_rows_f32(attn_f32_rows& rows, const Args& a, attn_item& item, int kv) {
    int skip = grt_block_y() * ATTN_F32_ROWS, group = a.heads / a.kv_heads;
    item.first += skip;
    item.rows = item.rows - skip < ATTN_F32_ROWS ? item.rows - skip : ATTN_F32_ROWS;
    if (item.rows <= 0) return false;
    for (int i = grt_tid(); i < ATTN_F32_ROWS; i += grt_threads()) {
        int r = item.first + i, query = r / group;
        bool there = i < item.rows;
        rows.head[i] = there ? (item.row + query) * a.heads + kv * group + r % group : -1;
        rows.visible[i] = there ? item.visible + item.step * query : 1;
    }
    grt_sync();
    return true;
}

// The forward pass of one block of threads. Shared memory: the above, queries [32][d+1], and a block of
// keys, then of values [64][d+1].
template <class Args>
GRT_DEV void attn_forward_f32(const Args& a, unsigned char* shared) {
    attn_f32_rows& rows = *(attn_f32_rows*)shared;
    int d = a.head_dim, width = d + 1, l = grt_tid() & 15, set = grt_tid() >> 4;
    float* q = (float*)(shared + sizeof(attn_f32_rows));
    float* tile = q + ATTN_F32_ROWS * width;
    attn_item item = attn_load_item(a.table, a.first_item + grt_block_x() / a.kv_heads);
    int kv = grt_block_x() % a.kv_heads;
    if (!attn_find_rows_f32(rows, a, item, kv)) return;
    attn_copy_f32(q, a.q, d, ATTN_F32_ROWS, rows.head);
    float o[4][8], top[4], sum[4];
    GRT_UNROLL for (int r = 0; r < 4; r++) {
        top[r] = attn_no_score();
        sum[r] = 0;
    }
    attn_clear_f32(o);
    int end = item.visible + item.step * ((item.first + item.rows - 1) / (a.heads / a.kv_heads));
    for (int first = 0; first < end; first += ATTN_BLOCK) {
        int n = end - first < ATTN_BLOCK ? end - first : ATTN_BLOCK;
        grt_sync();
        attn_copy_keys_f32(tile, a.k, a, item.blocks, kv, first, n);
        grt_sync();
        float s[4][4];
        attn_products_f32(s, q + 4 * set * width, tile + l * width, d);
        GRT_UNROLL for (int r = 0; r < 4; r++) {
            float before = top[r], most = attn_no_score();
            GRT_UNROLL for (int j = 0; j < 4; j++) {
                if (first + l + 16 * j >= rows.visible[4 * set + r]) s[r][j] = attn_no_score();
                most = grt_max(most, s[r][j]);
            }
            top[r] = grt_max(before, attn_lanes16_max(most) * a.scale);
            float shrink = grt_exp_weight(before - top[r]);
            GRT_UNROLL for (int j = 0; j < 4; j++) {
                s[r][j] = grt_exp_weight(grt_fma(s[r][j], a.scale, -top[r]));
                rows.weights[4 * set + r][l + 16 * j] = s[r][j];
            }
            sum[r] = grt_fma(sum[r], shrink, (s[r][0] + s[r][1]) + (s[r][2] + s[r][3]));
            GRT_UNROLL for (int j = 0; j < 8; j++) o[r][j] *= shrink;
        }
        grt_sync();
        attn_copy_keys_f32(tile, a.v, a, item.blocks, kv, first, n);
        grt_sync();
        attn_add_f32(o, rows.weights[4 * set], ATTN_BLOCK, tile, n, d);
    }
    GRT_UNROLL for (int r = 0; r < 4; r++) {
        sum[r] = attn_lanes16_sum(sum[r]);
        int head = rows.head[4 * set + r];
        if (head < 0) continue;
        if (l == 0) grt_store(a.lse + head, top[r] + grt_log(sum[r]));
        attn_write_row_f32(a.o, d, head, o[r], 1.0f / sum[r]);
    }
}

// The gradient of 32 packed queries, and delta. Shared memory: attn_f32_rows, queries, gradients of the
// outputs, and a block of values, then of keys, [32][d+1] each.
template <class Args>
GRT_DEV void attn_backward_dq_f32(const Args& a, unsigned char* shared) {
    attn_f32_rows& rows = *(attn_f32_rows*)shared;
    int d = a.head_dim, width = d + 1, l = grt_tid() & 15, set = grt_tid() >> 4;
    float* q = (float*)(shared + sizeof(attn_f32_rows));
    float* dout = q + ATTN_F32_ROWS * width;
    float* tile = dout + ATTN_F32_ROWS * width;
    attn_item item = attn_load_item(a.table, a.first_item + grt_block_x() / a.kv_heads);
    int kv = grt_block_x() % a.kv_heads;
    if (!attn_find_rows_f32(rows, a, item, kv)) return;
    attn_copy_f32(q, a.q, d, ATTN_F32_ROWS, rows.head);
    attn_copy_f32(dout, a.dout, d, ATTN_F32_ROWS, rows.head);
    grt_sync();
    float dq[4][8], lse[4], delta[4];
    attn_clear_f32(dq);
    GRT_UNROLL for (int r = 0; r < 4; r++) {
        int head = rows.head[4 * set + r];
        const float* o = (const float*)a.o + (int64_t)(head < 0 ? 0 : head) * d;
        float sum = 0;
        if (head >= 0)
            for (int i = l; i < d; i += 16)
                sum = grt_fma(grt_load(o + i), dout[(4 * set + r) * width + i], sum);
        delta[r] = attn_lanes16_sum(sum);
        lse[r] = head < 0 ? 0.0f : grt_load(a.lse + head);
        if (head >= 0 && l == 0) grt_store(a.delta + head, delta[r]);
    }
    int end = item.visible + item.step * ((item.first + item.rows - 1) / (a.heads / a.kv_heads));
    for (int first = 0; first < end; first += ATTN_F32_ROWS) {
        int n = end - first < ATTN_F32_ROWS ? end - first : ATTN_F32_ROWS;
        float s[4][2], dp[4][2];
        grt_sync();
        attn_copy_keys_f32(tile, a.v, a, item.blocks, kv, first, n);
        grt_sync();
        attn_products_f32(dp, dout + 4 * set * width, tile + l * width, d);
        grt_sync();
        attn_copy_keys_f32(tile, a.k, a, item.blocks, kv, first, n);
        grt_sync();
        attn_products_f32(s, q + 4 * set * width, tile + l * width, d);
        GRT_UNROLL for (int r = 0; r < 4; r++)
            GRT_UNROLL for (int j = 0; j < 2; j++) {
                bool seen = first + l + 16 * j < rows.visible[4 * set + r];
                float p = grt_exp_weight(grt_fma(s[r][j], a.scale, -lse[r]));
                rows.weights[4 * set + r][l + 16 * j] = seen ? p * (dp[r][j] - delta[r]) : 0.0f;
            }
        grt_sync();
        attn_add_f32(dq, rows.weights[4 * set], ATTN_BLOCK, tile, n, d);
    }
    GRT_UNROLL for (int r = 0; r < 4; r++)
        if (rows.head[4 * set + r] >= 0)
            attn_write_row_f32(a.dq, d, rows.head[4 * set + r], dq[r], a.scale);
}

// Queries of a step of the walk below.
#define ATTN_F32_QUERIES 16

struct attn_f32_keys {
    float p[ATTN_F32_ROWS][ATTN_F32_QUERIES], ds[ATTN_F32_ROWS][ATTN_F32_QUERIES];
    int query_heads[ATTN_F32_QUERIES], key_heads[ATTN_F32_ROWS];
};

// Adds what 16 queries of a viewer, from `first` on, give to four keys of each 16 lanes. Shared memory
// as below.
template <class Args>
GRT_DEV void attn_visit_f32(const Args& a, const attn_viewer& x, int first, int head, int skip,
                            attn_f32_keys& keys, float (&dk)[4][8], float (&dv)[4][8]) {
    int d = a.head_dim, width = d + 1, l = grt_tid() & 15, set = grt_tid() >> 4;
    float* k = (float*)(&keys + 1);
    float* v = k + ATTN_F32_ROWS * width;
    float* q = v + ATTN_F32_ROWS * width;
    float* dout = q + ATTN_F32_QUERIES * width;
    int query = first + l;
    bool there = query >= 0 && query < x.queries;
    int row = there ? (x.row + query) * a.heads + head : -1;
    grt_sync();
    if (set == 0) keys.query_heads[l] = row;
    grt_sync();
    attn_copy_f32(q, a.q, d, ATTN_F32_QUERIES, keys.query_heads);
    attn_copy_f32(dout, a.dout, d, ATTN_F32_QUERIES, keys.query_heads);
    grt_sync();
    float s[4][1], dp[4][1];
    attn_products_f32(s, k + 4 * set * width, q + l * width, d);
    attn_products_f32(dp, v + 4 * set * width, dout + l * width, d);
    float lse = there ? grt_load(a.lse + row) : 0.0f;
    float delta = there ? grt_load(a.delta + row) : 0.0f;
    GRT_UNROLL for (int r = 0; r < 4; r++) {
        bool seen = there && skip + 4 * set + r < x.sees + x.step * query;
        float p = seen ? grt_exp_weight(grt_fma(s[r][0], a.scale, -lse)) : 0.0f;
        keys.p[4 * set + r][l] = p;
        keys.ds[4 * set + r][l] = p * (dp[r][0] - delta);
    }
    grt_sync();
    attn_add_f32(dv, keys.p[4 * set], ATTN_F32_QUERIES, dout, ATTN_F32_QUERIES, d);
    attn_add_f32(dk, keys.ds[4 * set], ATTN_F32_QUERIES, q, ATTN_F32_QUERIES, d);
}

// The gradients of 32 key rows. Shared memory: attn_f32_keys, keys and values [32][d+1], queries and
// gradients of the outputs [16][d+1].
template <class Args>
GRT_DEV void attn_backward_dkv_f32(const Args& a, unsigned char* shared) {
    attn_f32_keys& keys = *(attn_f32_keys*)shared;
    int d = a.head_dim, width = d + 1, set = grt_tid() >> 4, skip = grt_block_y() * ATTN_F32_ROWS;
    float* k = (float*)(&keys + 1);
    attn_key_item item = attn_load_key_item(a.table, grt_block_x() / a.kv_heads);
    int kv = grt_block_x() % a.kv_heads, group = a.heads / a.kv_heads;
    if (skip >= item.rows) return;
    for (int i = grt_tid(); i < ATTN_F32_ROWS; i += grt_threads())
        keys.key_heads[i] = skip + i < item.rows ? (item.row + skip + i) * a.kv_heads + kv : -1;
    grt_sync();
    attn_copy_f32(k, a.k, d, ATTN_F32_ROWS, keys.key_heads);
    attn_copy_f32(k + ATTN_F32_ROWS * width, a.v, d, ATTN_F32_ROWS, keys.key_heads);
    float dk[4][8], dv[4][8];
    attn_clear_f32(dk);
    attn_clear_f32(dv);
    const int* word = a.table + item.viewers;
    for (int b = 0; b < item.blocks; word += ATTN_VIEWER_WORDS) {
        attn_viewer x = attn_load_viewer(word);
        for (int head = 0; head < group; head++) {
            int end = x.first + x.blocks * ATTN_DKV_QUERIES;
            for (int first = x.first; first < end; first += ATTN_F32_QUERIES)
                attn_visit_f32(a, x, first, kv * group + head, skip, keys, dk, dv);
        }
        b += x.blocks * group;
    }
    GRT_UNROLL for (int r = 0; r < 4; r++) {
        int head = keys.key_heads[4 * set + r];
        if (head < 0) continue;
        attn_write_row_f32(a.dk, d, head, dk[r], a.scale);
        attn_write_row_f32(a.dv, d, head, dv[r], 1.0f);
    }
}
