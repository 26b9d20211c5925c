// Attention backward: p and ds are computed again from lse, block by block, never stored. The gradient of
// the queries walks the keys as the forward pass does; the gradient of keys and values has one owner per
// key row, which walks all queries that see it in one order. No sum crosses a block of threads.
//
//   p = exp(q k^T scale - lse)    dv = p^T do    ds = p (do v^T - delta)    dq = ds k scale
//   delta = sum of o do           dk = ds^T q scale
//
// p and ds are rounded to bf16 for the products, all else is in singles and rounded once. Segments,
// tables and packed rows: grt_attention.h.
#include "../include/grt_attention.h"
#include "../include/grt_attention_f32.h"

struct AttnDqArgs {
    const void* q;
    const void* k;
    const void* v;
    const void* o;
    const float* lse;
    const void* dout;
    void* dq;
    float* delta;
    const int* table;
    int heads;
    int kv_heads;
    int head_dim;
    int first_item;
    float scale;
    float scale_log2;
};
static_assert(sizeof(AttnDqArgs) == 96, "mirrored in src/ops/gpu/attention.rs");

struct AttnDkvArgs {
    const void* q;
    const void* k;
    const void* v;
    const float* lse;
    const void* dout;
    const float* delta;
    void* dk;
    void* dv;
    const int* table;
    int heads;
    int kv_heads;
    int head_dim;
    int unused;
    float scale;
    float scale_log2;
};
static_assert(sizeof(AttnDkvArgs) == 96, "mirrored in src/ops/gpu/attention.rs");

// Packed rows of a tile, and keys of a block. Sums over keys go on in steps of 16 whatever the block is.
#define ATTN_DQ_ROWS 64
#define ATTN_DQ_KEYS (GRT_WAVE == 32 ? 64 : 32)

// Shared memory of the queries' gradient; keys and values follow.
template <int DP>
struct attn_dq_room {
    grt_tile<ATTN_DQ_ROWS, DP> q, dout;
    grt_tile<16, 16> scratch[ATTN_WAVES];
    attn_rows<ATTN_DQ_ROWS> rows;
    float lse[ATTN_DQ_ROWS], delta[ATTN_DQ_ROWS]; // lse in units of log 2
};

// Eight products of neighbours, in order.
GRT_DEV float attn_dot8(const grt_bf16* x, const grt_bf16* y, int n, bool whole, float sum) {
    if (whole) {
        float a[8], b[8];
        grt_load_vec(x, a);
        grt_load_vec(y, b);
        GRT_UNROLL for (int i = 0; i < 8; i++) sum = grt_fma(a[i], b[i], sum);
    } else {
        for (int i = 0; i < n; i++) sum = grt_fma(grt_load(x + i), grt_load(y + i), sum);
    }
    return sum;
}

// lse and delta of the rows; delta is stored too. Some lanes share a row.
template <int ROWS>
GRT_DEV void attn_statistics(const AttnDqArgs& a, const int* heads, float* lse, float* delta) {
    constexpr int LANES = ATTN_THREADS / ROWS;
    int r = grt_tid() / LANES, part = grt_tid() % LANES, head = heads[r];
    bool whole = a.head_dim % 8 == 0;
    float sum = 0;
    if (head >= 0) {
        const grt_bf16* o = (const grt_bf16*)a.o + (int64_t)head * a.head_dim;
        const grt_bf16* g = (const grt_bf16*)a.dout + (int64_t)head * a.head_dim;
        for (int col = part * 8; col < a.head_dim; col += LANES * 8) {
            int n = a.head_dim - col < 8 ? a.head_dim - col : 8;
            sum = attn_dot8(o + col, g + col, n, whole, sum);
        }
    }
    GRT_UNROLL for (int m = 1; m < LANES; m <<= 1) sum += grt_shfl_xor(sum, m);
    if (part == 0) {
        delta[r] = sum;
        lse[r] = head >= 0 ? grt_load(a.lse + head) * GRT_LOG2_E : 0.0f;
        if (head >= 0) grt_store(a.delta + head, sum);
    }
}

// Scores, and gradients of the weights, to gradients of the scores without the factor `scale`. The
// statistics are those of the row slots.
GRT_DEV void attn_grade(grt_frag_c& s, const grt_frag_c& dp, float scale_log2,
                        const float (&lse)[GRT_ROW_SLOTS], const float (&delta)[GRT_ROW_SLOTS]) {
    GRT_UNROLL for (int i = 0; i < GRT_ACC; i++) {
        int j = grt_slot(i);
        float p = grt_fast_exp2(grt_fma(s.v[i], scale_log2, -lse[j]));
        s.v[i] = p * (dp.v[i] - delta[j]);
    }
}

// The two products that both gradients recompute, of one 16-row strip of two tiles with 16-row strips of
// two others: s = left x right^T and dp = left2 x right2^T.
template <int TILES, class Left, class Right>
GRT_DEV void attn_two_products(grt_frag_c (&s)[TILES], grt_frag_c (&dp)[TILES], const Left& left,
                               const Left& left2, int row, const Right& right,
                               const Right& right2, int head_dim) {
    GRT_UNROLL for (int t = 0; t < TILES; t++) {
        attn_clear(s[t]);
        attn_clear(dp[t]);
    }
    GRT_ROLLED for (int k = 0; k < head_dim; k += 16) {
        grt_frag_a a, a2;
        grt_load_a(a, left, row, k);
        grt_load_a(a2, left2, row, k);
        GRT_UNROLL for (int t = 0; t < TILES; t++) {
            grt_frag_b f;
            grt_load_b(f, right, t * 16, k);
            grt_mma(s[t], a, f);
            grt_load_b(f, right2, t * 16, k);
            grt_mma(dp[t], a2, f);
        }
    }
}

template <int DP>
GRT_DEV void attn_backward_dq(const AttnDqArgs& a, unsigned char* shared) {
    constexpr int KT = DP / 16, TILES = ATTN_DQ_KEYS / 16;
    attn_dq_room<DP>& room = *(attn_dq_room<DP>*)shared;
    int row = grt_wave() * 16;
    if (!attn_find_rows(room.rows, a, grt_block_y() * ATTN_DQ_ROWS)) return;
    attn_copy(room.q, a.q, room.dout, a.dout, a.head_dim, room.rows.head);
    grt_async_commit();
    attn_statistics<ATTN_DQ_ROWS>(a, room.rows.head, room.lse, room.delta);
    grt_sync();
    float lse[GRT_ROW_SLOTS], delta[GRT_ROW_SLOTS], scale[GRT_ROW_SLOTS];
    GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
        lse[j] = room.lse[row + grt_slot_row(j)];
        delta[j] = room.delta[row + grt_slot_row(j)];
        scale[j] = a.scale;
    }
    grt_frag_c dq[KT];
    GRT_UNROLL for (int n = 0; n < KT; n++) attn_clear(dq[n]);
    attn_walk<DP, ATTN_DQ_KEYS, ATTN_DQ_ROWS, AttnDqArgs> walk = {
        (grt_tile<ATTN_DQ_KEYS, DP>*)(shared + sizeof(attn_dq_room<DP>)), room.rows, a};
    walk.start();
    for (int b = 0; walk.is_block(b); b++) {
        walk.arrive(b);
        grt_frag_c s[TILES], dp[TILES];
        attn_two_products(s, dp, room.q, room.dout, row, walk.k(b), walk.v(b), a.head_dim);
        if ((b + 1) * ATTN_DQ_KEYS > room.rows.least)
            GRT_UNROLL for (int t = 0; t < TILES; t++)
                attn_hide(s[t], b * ATTN_DQ_KEYS + t * 16, room.rows.visible + row);
        GRT_UNROLL for (int t = 0; t < TILES; t++) {
            grt_frag_a ds;
            attn_grade(s[t], dp[t], a.scale_log2, lse, delta);
            grt_acc_to_a(ds, s[t], room.scratch[grt_wave()]);
            GRT_UNROLL for (int n = 0; n < KT; n++) {
                grt_frag_b keys;
                grt_load_b_trans(keys, walk.k(b), t * 16, n * 16);
                grt_mma(dq[n], ds, keys);
            }
        }
    }
    grt_sync();
    GRT_UNROLL for (int n = 0; n < KT; n++) attn_put(room.q, row, n * 16, dq[n], scale);
    grt_sync();
    attn_write(a.dq, room.q, a.head_dim, room.rows.head);
}

// Queries of a block: head rows, how many keys of the tile each sees, statistics (lse in units of log 2).
struct attn_query_block {
    int head[ATTN_DKV_QUERIES], sees[ATTN_DKV_QUERIES];
    float lse[ATTN_DKV_QUERIES], delta[ATTN_DKV_QUERIES];
};

// Shared memory of the keys' gradient; queries and gradients of the outputs follow.
template <int DP>
struct attn_dkv_room {
    grt_tile<ATTN_DKV_KEYS, DP> k, v;
    grt_tile<16, 16> scratch[ATTN_WAVES];
    attn_query_block blocks[3]; // in use, being copied, being found
    int key_heads[ATTN_DKV_KEYS];
};

// Walks the queries that see a tile: viewers in order, of each all heads of the group, of each all
// blocks. Queries arrive one block ahead of their use, their rows two blocks ahead.
template <int DP>
struct attn_query_walk {
    attn_dkv_room<DP>& room;
    grt_tile<ATTN_DKV_QUERIES, DP>* tiles; // q, do of each stage
    const AttnDkvArgs& a;
    int blocks, kv;
    int viewer, head, block; // what `find` comes to next: word of the table, head of the group, block

    GRT_DEV_MEMBER grt_tile<ATTN_DKV_QUERIES, DP>& q(int b) { return tiles[2 * (b % ATTN_STAGES)]; }
    GRT_DEV_MEMBER grt_tile<ATTN_DKV_QUERIES, DP>& dout(int b) {
        return tiles[2 * (b % ATTN_STAGES) + 1];
    }

    GRT_DEV_MEMBER void find(int b) {
        int i = grt_tid();
        if (i >= ATTN_DKV_QUERIES || b >= blocks) return;
        attn_viewer x = attn_load_viewer(a.table + viewer);
        attn_query_block& to = room.blocks[b % 3];
        int query = x.first + block * ATTN_DKV_QUERIES + i, group = a.heads / a.kv_heads;
        bool there = query >= 0 && query < x.queries;
        int row = there ? (x.row + query) * a.heads + kv * group + head : -1;
        to.head[i] = row;
        to.sees[i] = there ? x.sees + x.step * query : 0;
        to.lse[i] = there ? grt_load(a.lse + row) * GRT_LOG2_E : 0.0f;
        to.delta[i] = there ? grt_load(a.delta + row) : 0.0f;
        if (++block < x.blocks) return;
        block = 0;
        if (++head < group) return;
        head = 0;
        viewer += ATTN_VIEWER_WORDS;
    }
    GRT_DEV_MEMBER void copy(int b) {
        attn_copy(q(b), a.q, dout(b), a.dout, a.head_dim, room.blocks[b % 3].head);
        grt_async_commit();
    }
    GRT_DEV_MEMBER void start() {
        find(0);
        grt_sync();
        if (ATTN_STAGES > 1) {
            if (blocks > 0) copy(0);
            find(1);
        }
    }
    // Block b is there for all threads afterwards.
    GRT_DEV_MEMBER void arrive(int b) {
        if (ATTN_STAGES > 1) {
            grt_async_wait<0>();
            grt_sync();
            if (b + 1 < blocks) copy(b + 1);
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

// Scores of 16 keys (from `key` of the tile) and 16 queries (from `query` of the block) to weights, and
// gradients of the weights to gradients of the scores without the factor `scale`.
GRT_DEV void attn_grade_keys(grt_frag_c& s, grt_frag_c& dp, float scale_log2,
                             const attn_query_block& x, int key, int query) {
    GRT_UNROLL for (int i = 0; i < GRT_ACC; i++) {
        int c = query + grt_acc_col(i);
        float p = grt_fast_exp2(grt_fma(s.v[i], scale_log2, -x.lse[c]));
        p = key + grt_acc_row(i) < x.sees[c] ? p : 0.0f;
        s.v[i] = p;
        dp.v[i] = p * (dp.v[i] - x.delta[c]);
    }
}

template <int DP>
GRT_DEV void attn_backward_dkv(const AttnDkvArgs& a, unsigned char* shared) {
    constexpr int KT = DP / 16, TILES = ATTN_DKV_QUERIES / 16;
    attn_dkv_room<DP>& room = *(attn_dkv_room<DP>*)shared;
    attn_key_item item = attn_load_key_item(a.table, grt_block_x() / a.kv_heads);
    int kv = grt_block_x() % a.kv_heads, key = grt_wave() * 16;
    for (int i = grt_tid(); i < ATTN_DKV_KEYS; i += ATTN_THREADS)
        room.key_heads[i] = i < item.rows ? (item.row + i) * a.kv_heads + kv : -1;
    grt_sync();
    attn_copy(room.k, a.k, room.v, a.v, a.head_dim, room.key_heads);
    grt_async_commit();
    grt_frag_c dk[KT], dv[KT];
    GRT_UNROLL for (int n = 0; n < KT; n++) {
        attn_clear(dk[n]);
        attn_clear(dv[n]);
    }
    attn_query_walk<DP> walk = {
        room, (grt_tile<ATTN_DKV_QUERIES, DP>*)(shared + sizeof(attn_dkv_room<DP>)), a,
        item.blocks, kv, item.viewers, 0, 0};
    walk.start();
    for (int b = 0; b < walk.blocks; b++) {
        walk.arrive(b);
        grt_frag_c s[TILES], dp[TILES];
        attn_two_products(s, dp, room.k, room.v, key, walk.q(b), walk.dout(b), a.head_dim);
        GRT_UNROLL for (int t = 0; t < TILES; t++) {
            grt_frag_a p, ds;
            attn_grade_keys(s[t], dp[t], a.scale_log2, room.blocks[b % 3], key, t * 16);
            grt_acc_to_a(p, s[t], room.scratch[grt_wave()]);
            grt_acc_to_a(ds, dp[t], room.scratch[grt_wave()]);
            GRT_UNROLL for (int n = 0; n < KT; n++) {
                grt_frag_b f;
                grt_load_b_trans(f, walk.dout(b), t * 16, n * 16);
                grt_mma(dv[n], p, f);
                grt_load_b_trans(f, walk.q(b), t * 16, n * 16);
                grt_mma(dk[n], ds, f);
            }
        }
    }
    grt_async_wait<0>();
    grt_sync();
    float scale[GRT_ROW_SLOTS], one[GRT_ROW_SLOTS];
    GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
        scale[j] = a.scale;
        one[j] = 1.0f;
    }
    GRT_UNROLL for (int n = 0; n < KT; n++) {
        attn_put(room.k, key, n * 16, dk[n], scale);
        attn_put(room.v, key, n * 16, dv[n], one);
    }
    grt_sync();
    attn_write(a.dk, room.k, a.head_dim, room.key_heads);
    attn_write(a.dv, room.v, a.head_dim, room.key_heads);
}

// Shared memory beside the tiles of bf16 rows.
static_assert(sizeof(attn_dq_room<64>) - 2 * sizeof(grt_tile<ATTN_DQ_ROWS, 64>) == 3712,
              "DQ_REST in src/ops/gpu/attention.rs");
static_assert(sizeof(attn_dkv_room<64>) - 2 * sizeof(grt_tile<ATTN_DKV_KEYS, 64>) == 3840,
              "DKV_REST in src/ops/gpu/attention.rs");
static_assert(sizeof(attn_f32_keys) == 4288, "F32_DKV_REST in src/ops/gpu/attention.rs");

// Instances as in attention.cu.
GRT_KERNEL(attention_bwd_dq_d16_bf16, AttnDqArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dq<16>(a, shared);
}
GRT_KERNEL(attention_bwd_dkv_d16_bf16, AttnDkvArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dkv<16>(a, shared);
}
GRT_KERNEL(attention_bwd_dq_d32_bf16, AttnDqArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dq<32>(a, shared);
}
GRT_KERNEL(attention_bwd_dkv_d32_bf16, AttnDkvArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dkv<32>(a, shared);
}
GRT_KERNEL(attention_bwd_dq_d64_bf16, AttnDqArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dq<64>(a, shared);
}
GRT_KERNEL(attention_bwd_dkv_d64_bf16, AttnDkvArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dkv<64>(a, shared);
}
GRT_KERNEL(attention_bwd_dq_d80_bf16, AttnDqArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dq<80>(a, shared);
}
GRT_KERNEL(attention_bwd_dkv_d80_bf16, AttnDkvArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dkv<80>(a, shared);
}
GRT_KERNEL(attention_bwd_dq_d96_bf16, AttnDqArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dq<96>(a, shared);
}
GRT_KERNEL(attention_bwd_dkv_d96_bf16, AttnDkvArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dkv<96>(a, shared);
}
GRT_KERNEL(attention_bwd_dq_d128_bf16, AttnDqArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dq<128>(a, shared);
}
GRT_KERNEL(attention_bwd_dkv_d128_bf16, AttnDkvArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dkv<128>(a, shared);
}

GRT_KERNEL(attention_bwd_dq_f32, AttnDqArgs, ATTN_F32_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dq_f32(a, shared);
}
GRT_KERNEL(attention_bwd_dkv_f32, AttnDkvArgs, ATTN_F32_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_backward_dkv_f32(a, shared);
}
