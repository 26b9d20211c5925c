// Attention forward: o = softmax(q k^T scale) v and the logarithm of the denominator, one pass over the
// keys with a running maximum. No score leaves the block of threads; no two blocks work on one row, so
// nothing is ever summed across blocks. Segments, tables and what keeps a row's bits its own:
// grt_attention.h.
//
// Three heights of tile, equal bits: 128 and 64 packed rows, where each wave has its rows and all keys
// of a block, and 16 rows for decoding, where each wave has 16 keys of a block, then a quarter of the
// columns. What is rounded where (the weights to bf16 for the second product, their sum not) is as in
// src/ops/cpu/attention. Online softmax: Milakov and Gimelshein 2018; tiles: Dao 2023.
#include "../include/grt_attention.h"
#include "../include/grt_attention_f32.h"

struct AttnFwdArgs {
    const void* q;
    const void* k;
    const void* v;
    void* o;
    float* lse;
    const int* table;
    int heads;
    int kv_heads;
    int head_dim;
    int first_item;
    float scale;
    float scale_log2;
};
static_assert(sizeof(AttnFwdArgs) == 72, "mirrored in src/ops/gpu/attention.rs");

// Replaces scores by weights; `part` receives this lane's sum of them for each row.
GRT_DEV void attn_weigh(grt_frag_c& s, float scale_log2, const float (&negative_top)[GRT_ROW_SLOTS],
                        float (&part)[GRT_ROW_SLOTS]) {
    GRT_UNROLL for (int i = 0; i < GRT_ROW_SLOTS; i++) part[i] = 0;
    GRT_UNROLL for (int i = 0; i < GRT_ACC; i++) {
        s.v[i] = grt_fast_exp2(grt_fma(s.v[i], scale_log2, negative_top[grt_slot(i)]));
        part[grt_slot(i)] += s.v[i];
    }
}

// Whether a wave's queries stay in registers: their tile then lies where the keys come.
template <int MT>
struct attn_keeps_queries {
    static constexpr bool value = MT == 1 || GRT_WAVE == 64;
};

// Shared memory of the tall tiles: [queries] keys and values, then this. The sums are each thread's
// own: as registers they would be spilled.
template <int MT>
struct attn_tall_rest {
    grt_tile<16, 16> scratch[ATTN_WAVES];
    float sum[MT][GRT_ROW_SLOTS][ATTN_THREADS];
    attn_rows<16 * MT * ATTN_WAVES> rows;
};


// Scores of 16 queries to weights; the outputs so far shrink. `top` and `sum` are the largest score of
// each row and this lane's part of the denominator, so far.
template <int NT>
GRT_DEV void attn_soften(grt_frag_c (&s)[4], float (&top)[GRT_ROW_SLOTS],
                         float (&sum)[GRT_ROW_SLOTS][ATTN_THREADS], grt_frag_c (&o)[NT],
                         float scale_log2) {
    float before[GRT_ROW_SLOTS], shrink[GRT_ROW_SLOTS], part[4][GRT_ROW_SLOTS];
    GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) before[j] = top[j];
    GRT_UNROLL for (int t = 0; t < 4; t++)
        GRT_UNROLL for (int i = 0; i < GRT_ACC; i++)
            top[grt_slot(i)] = grt_max(top[grt_slot(i)], s[t].v[i]);
    GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
        top[j] = grt_row_max(top[j]);
        shrink[j] = grt_fast_exp2((before[j] - top[j]) * scale_log2);
        before[j] = -(top[j] * scale_log2);
    }
    GRT_UNROLL for (int t = 0; t < 4; t++) attn_weigh(s[t], scale_log2, before, part[t]);
    GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
        float more = (part[0][j] + part[1][j]) + (part[2][j] + part[3][j]);
        float& x = sum[j][grt_tid()];
        x = grt_fma(x, shrink[j], more);
    }
    GRT_UNROLL for (int n = 0; n < NT; n++)
        GRT_UNROLL for (int i = 0; i < GRT_ACC; i++) o[n].v[i] *= shrink[grt_slot(i)];
}

// Adds 16 columns of a head to the scores of 16 * MT queries and 64 keys.
template <int DP, int MT>
GRT_DEV void attn_score(grt_frag_c (&s)[MT][4], const grt_frag_a (&q)[MT],
                        const grt_tile<ATTN_BLOCK, DP>& k, int col) {
    GRT_UNROLL for (int t = 0; t < 4; t++) {
        grt_frag_b keys;
        grt_load_b(keys, k, t * 16, col);
        GRT_UNROLL for (int m = 0; m < MT; m++) grt_mma(s[m][t], q[m], keys);
    }
}

// Tiles of 64 * MT packed rows: a wave has 16 * MT of them.
template <int DP, int MT>
GRT_DEV void attn_tall(const AttnFwdArgs& a, unsigned char* shared) {
    constexpr int ROWS = 16 * MT * ATTN_WAVES, KT = DP / 16;
    constexpr bool KEEP = attn_keeps_queries<MT>::value;
    typedef grt_tile<ROWS, DP> query_tile;
    typedef grt_tile<ATTN_BLOCK, DP> key_tile;
    static_assert(!KEEP || sizeof(query_tile) <= 2 * ATTN_STAGES * sizeof(key_tile), "they overlap");
    constexpr int KEYS = KEEP ? 0 : sizeof(query_tile);
    constexpr int REST = KEYS + 2 * ATTN_STAGES * sizeof(key_tile);
    query_tile& q = *(query_tile*)shared;
    attn_tall_rest<MT>& rest = *(attn_tall_rest<MT>*)(shared + REST);

    int w = grt_wave();
    attn_find_rows(rest.rows, a, 0);
    attn_copy(q, a.q, a.head_dim, rest.rows.head);
    grt_async_commit();

    float top[MT][GRT_ROW_SLOTS];
    grt_frag_c o[MT][KT];
    grt_frag_a kept[MT][KEEP ? KT : 1];
    GRT_UNROLL for (int m = 0; m < MT; m++) {
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
            top[m][j] = attn_no_score();
            rest.sum[m][j][grt_tid()] = 0;
        }
        GRT_UNROLL for (int n = 0; n < KT; n++) attn_clear(o[m][n]);
    }
    if constexpr (KEEP) {
        grt_async_wait<0>();
        grt_sync();
        GRT_UNROLL for (int m = 0; m < MT; m++)
            GRT_UNROLL for (int k = 0; k < KT; k++)
                grt_load_a(kept[m][k], q, (w * MT + m) * 16, k * 16);
        grt_sync();
    }
    attn_walk<DP, ATTN_BLOCK, ROWS, AttnFwdArgs> walk = {(key_tile*)(shared + KEYS), rest.rows, a};
    walk.start();
    for (int b = 0; walk.is_block(b); b++) {
        walk.arrive(b);
        grt_frag_c s[MT][4];
        GRT_UNROLL for (int m = 0; m < MT; m++)
            GRT_UNROLL for (int t = 0; t < 4; t++) attn_clear(s[m][t]);
        if constexpr (KEEP) {
            GRT_UNROLL for (int k = 0; k < KT; k++) {
                grt_frag_a f[MT];
                GRT_UNROLL for (int m = 0; m < MT; m++) f[m] = kept[m][k];
                attn_score(s, f, walk.k(b), k * 16);
            }
        } else {
            GRT_ROLLED for (int k = 0; k < a.head_dim; k += 16) {
                grt_frag_a f[MT];
                GRT_UNROLL for (int m = 0; m < MT; m++)
                    grt_load_a(f[m], q, (w * MT + m) * 16, k);
                attn_score(s, f, walk.k(b), k);
            }
        }
        if ((b + 1) * ATTN_BLOCK > rest.rows.least)
            GRT_UNROLL for (int m = 0; m < MT; m++)
                GRT_UNROLL for (int t = 0; t < 4; t++)
                    attn_hide(s[m][t], b * ATTN_BLOCK + t * 16,
                              rest.rows.visible + (w * MT + m) * 16);
        GRT_UNROLL for (int m = 0; m < MT; m++)
            attn_soften(s[m], top[m], rest.sum[m], o[m], a.scale_log2);
        GRT_UNROLL for (int t = 0; t < 4; t++) {
            grt_frag_a p[MT];
            GRT_UNROLL for (int m = 0; m < MT; m++) grt_acc_to_a(p[m], s[m][t], rest.scratch[w]);
            GRT_UNROLL for (int n = 0; n < KT; n++) {
                grt_frag_b values;
                grt_load_b_trans(values, walk.v(b), t * 16, n * 16);
                GRT_UNROLL for (int m = 0; m < MT; m++) grt_mma(o[m][n], p[m], values);
            }
        }
    }
    grt_sync();
    GRT_UNROLL for (int m = 0; m < MT; m++) {
        float inverse[GRT_ROW_SLOTS];
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
            float sum = grt_row_sum(rest.sum[m][j][grt_tid()]);
            int head = rest.rows.head[(w * MT + m) * 16 + grt_slot_row(j)];
            if (head >= 0 && grt_acc_col(0) == 0)
                grt_store(a.lse + head, attn_lse(top[m][j], a.scale_log2, sum));
            inverse[j] = 1.0f / sum;
        }
        GRT_UNROLL for (int n = 0; n < KT; n++)
            attn_put(q, (w * MT + m) * 16, n * 16, o[m][n], inverse);
    }
    grt_sync();
    attn_write(a.o, q, a.head_dim, rest.rows.head);
}

// Shared memory of the short tiles: keys and values, then this.
template <int DP>
struct attn_short_rest {
    grt_tile<16, DP> q;
    grt_tile<16, ATTN_BLOCK> weights;
    float top[ATTN_WAVES][16];
    float part[ATTN_WAVES][GRT_ROW_SLOTS][GRT_WAVE];
    attn_rows<16> rows;
};

// Tiles of 16 packed rows. The chains are those of attn_tall: a lane's sum of 16 keys is a wave's here
// and one of four there, and is added in the same order.
template <int DP>
GRT_DEV void attn_short(const AttnFwdArgs& a, unsigned char* shared) {
    constexpr int KT = DP / 16, NT = (KT + ATTN_WAVES - 1) / ATTN_WAVES;
    typedef grt_tile<ATTN_BLOCK, DP> key_tile;
    constexpr int REST = 2 * ATTN_STAGES * sizeof(key_tile);
    attn_short_rest<DP>& rest = *(attn_short_rest<DP>*)(shared + REST);

    int w = grt_wave(), lane = grt_lane();
    attn_find_rows(rest.rows, a, 0);
    attn_copy(rest.q, a.q, a.head_dim, rest.rows.head);
    grt_async_commit();
    float top[GRT_ROW_SLOTS], sum[GRT_ROW_SLOTS];
    grt_frag_c o[NT];
    GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
        top[j] = attn_no_score();
        sum[j] = 0;
    }
    GRT_UNROLL for (int n = 0; n < NT; n++) attn_clear(o[n]);

    attn_walk<DP, ATTN_BLOCK, 16, AttnFwdArgs> walk = {(key_tile*)shared, rest.rows, a};
    walk.start();
    for (int b = 0; walk.is_block(b); b++) {
        walk.arrive(b);
        grt_frag_c s;
        attn_clear(s);
        for (int k = 0; k < a.head_dim; k += 16) {
            grt_frag_a queries;
            grt_frag_b keys;
            grt_load_a(queries, rest.q, 0, k);
            grt_load_b(keys, walk.k(b), w * 16, k);
            grt_mma(s, queries, keys);
        }
        if ((b + 1) * ATTN_BLOCK > rest.rows.least) attn_hide(s, b * ATTN_BLOCK + w * 16, rest.rows.visible);
        float before[GRT_ROW_SLOTS], shrink[GRT_ROW_SLOTS], part[GRT_ROW_SLOTS];
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) before[j] = top[j];
        GRT_UNROLL for (int i = 0; i < GRT_ACC; i++)
            top[grt_slot(i)] = grt_max(top[grt_slot(i)], s.v[i]);
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
            top[j] = grt_row_max(top[j]);
            if (grt_acc_col(0) == 0) rest.top[w][grt_slot_row(j)] = top[j];
        }
        grt_sync();
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
            GRT_UNROLL for (int i = 0; i < ATTN_WAVES; i++)
                top[j] = grt_max(top[j], rest.top[i][grt_slot_row(j)]);
            shrink[j] = grt_fast_exp2((before[j] - top[j]) * a.scale_log2);
            before[j] = -(top[j] * a.scale_log2);
        }
        attn_weigh(s, a.scale_log2, before, part);
        GRT_UNROLL for (int i = 0; i < GRT_ACC; i++)
            *rest.weights.ptr(grt_acc_row(i), w * 16 + grt_acc_col(i)) = grt_round_bf16(s.v[i]);
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) rest.part[w][j][lane] = part[j];
        grt_sync();
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
            float more = (rest.part[0][j][lane] + rest.part[1][j][lane]) +
                         (rest.part[2][j][lane] + rest.part[3][j][lane]);
            sum[j] = grt_fma(sum[j], shrink[j], more);
        }
        GRT_UNROLL for (int n = 0; n < NT; n++)
            GRT_UNROLL for (int i = 0; i < GRT_ACC; i++) o[n].v[i] *= shrink[grt_slot(i)];
        GRT_UNROLL for (int t = 0; t < 4; t++) {
            grt_frag_a p;
            grt_load_a(p, rest.weights, 0, t * 16);
            GRT_UNROLL for (int n = 0; n < NT; n++) {
                int col = (w + ATTN_WAVES * n) * 16;
                if (col >= DP) break;
                grt_frag_b values;
                grt_load_b_trans(values, walk.v(b), t * 16, col);
                grt_mma(o[n], p, values);
            }
        }
    }
    grt_sync();
    float inverse[GRT_ROW_SLOTS];
    GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
        sum[j] = grt_row_sum(sum[j]);
        int head = rest.rows.head[grt_slot_row(j)];
        if (w == 0 && head >= 0 && grt_acc_col(0) == 0)
            grt_store(a.lse + head, attn_lse(top[j], a.scale_log2, sum[j]));
        inverse[j] = 1.0f / sum[j];
    }
    GRT_UNROLL for (int n = 0; n < NT; n++) {
        int col = (w + ATTN_WAVES * n) * 16;
        if (col < DP) attn_put(rest.q, 0, col, o[n], inverse);
    }
    grt_sync();
    attn_write(a.o, rest.q, a.head_dim, rest.rows.head);
}

// Shared memory beside the tiles of bf16 rows.
#define ATTN_32(with_32, with_64) (GRT_WAVE == 32 ? with_32 : with_64)
static_assert(sizeof(attn_tall_rest<2>) == ATTN_32(5760, 11904), "FORWARD_REST in attention.rs");
static_assert(sizeof(attn_tall_rest<1>) == ATTN_32(4224, 7296), "FORWARD_REST in attention.rs");
static_assert(sizeof(attn_short_rest<64>) - sizeof(grt_tile<16, 64>) == ATTN_32(4096, 7168),
              "FORWARD_REST in attention.rs");
static_assert(sizeof(attn_f32_rows) == 8448, "F32_REST in attention.rs");

// One instance per head size; others run in the next larger one, whose columns are zeros in shared
// memory only. No alignment is asked for: head sizes that are no multiple of 8 are loaded one by one.
GRT_KERNEL(attention_fwd_m128_d16_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<16, 2>(a, shared);
}
GRT_KERNEL(attention_fwd_m64_d16_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<16, 1>(a, shared);
}
GRT_KERNEL(attention_fwd_m16_d16_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_short<16>(a, shared);
}
GRT_KERNEL(attention_fwd_m128_d32_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<32, 2>(a, shared);
}
GRT_KERNEL(attention_fwd_m64_d32_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<32, 1>(a, shared);
}
GRT_KERNEL(attention_fwd_m16_d32_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_short<32>(a, shared);
}
GRT_KERNEL(attention_fwd_m128_d64_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<64, 2>(a, shared);
}
GRT_KERNEL(attention_fwd_m64_d64_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<64, 1>(a, shared);
}
GRT_KERNEL(attention_fwd_m16_d64_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_short<64>(a, shared);
}
GRT_KERNEL(attention_fwd_m128_d80_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<80, 2>(a, shared);
}
GRT_KERNEL(attention_fwd_m64_d80_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<80, 1>(a, shared);
}
GRT_KERNEL(attention_fwd_m16_d80_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_short<80>(a, shared);
}
GRT_KERNEL(attention_fwd_m128_d96_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<96, 2>(a, shared);
}
GRT_KERNEL(attention_fwd_m64_d96_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<96, 1>(a, shared);
}
GRT_KERNEL(attention_fwd_m16_d96_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_short<96>(a, shared);
}
GRT_KERNEL(attention_fwd_m128_d128_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<128, 2>(a, shared);
}
GRT_KERNEL(attention_fwd_m64_d128_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_tall<128, 1>(a, shared);
}
GRT_KERNEL(attention_fwd_m16_d128_bf16, AttnFwdArgs, ATTN_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_short<128>(a, shared);
}

GRT_KERNEL(attention_fwd_f32, AttnFwdArgs, ATTN_F32_THREADS) {
    GRT_DYNAMIC_SHARED(shared);
    attn_forward_f32(a, shared);
}
