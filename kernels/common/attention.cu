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
    float scale_log2;
    int unused;
};
static_assert(sizeof(AttnFwdArgs) == 72, "mirrored in src/ops/gpu/attention.rs");

// The rows of a block of threads: which head rows, and how many keys each sees. Rows beyond the item
// see one key of a query of zeros.
template <int ROWS>
struct attn_rows {
    int head[ROWS];
    int visible[ROWS];
};

template <int ROWS>
GRT_DEV void attn_find_rows(attn_rows<ROWS>& rows, const AttnFwdArgs& a, const attn_item& item,
                            int kv) {
    int group = a.heads / a.kv_heads;
    for (int i = grt_tid(); i < ROWS; i += ATTN_THREADS) {
        int r = item.first + i, query = r / group;
        bool there = i < item.rows;
        rows.head[i] = there ? (item.row + query) * a.heads + kv * group + r % group : -1;
        rows.visible[i] = there ? item.visible + item.step * query : 1;
    }
}

// Keys that any row, and every row, of an item sees.
GRT_DEV int attn_most(const attn_item& x, int group) {
    return x.visible + x.step * ((x.first + x.rows - 1) / group);
}
GRT_DEV int attn_least(const attn_item& x, int group) {
    return x.visible + x.step * (x.first / group);
}

// Walks the key blocks of an item: tiles of keys and values arrive one block ahead of their use, the
// rows they lie in two blocks ahead.
template <int DP>
struct attn_walk {
    grt_tile<ATTN_BLOCK, DP>* tiles; // k, v of each stage
    int* rows;                       // of two blocks
    const AttnFwdArgs& a;
    int blocks, end, kv;

    GRT_DEV_MEMBER grt_tile<ATTN_BLOCK, DP>& k(int b) { return tiles[2 * (b % ATTN_STAGES)]; }
    GRT_DEV_MEMBER grt_tile<ATTN_BLOCK, DP>& v(int b) { return tiles[2 * (b % ATTN_STAGES) + 1]; }

    GRT_DEV_MEMBER void find(int b) {
        int i = grt_tid(), position = b * ATTN_BLOCK + i;
        if (i >= ATTN_BLOCK) return;
        int row = -1;
        if (position < end) row = attn_key_row(a.table, blocks, position) * a.kv_heads + kv;
        rows[b % 2 * ATTN_BLOCK + i] = row;
    }
    GRT_DEV_MEMBER void copy(int b) {
        attn_copy(k(b), a.k, v(b), a.v, a.head_dim, rows + b % 2 * ATTN_BLOCK);
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
            if ((b + 1) * ATTN_BLOCK < end) copy(b + 1);
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

// Hides what each row does not see of 16 keys from position `key`.
GRT_DEV void attn_hide(grt_frag_c& s, int key, const int* visible) {
    GRT_UNROLL for (int i = 0; i < GRT_ACC; i++)
        if (key + grt_acc_col(i) >= visible[grt_acc_row(i)]) s.v[i] = attn_no_score();
}

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

// Shared memory of the tall tiles: [queries] keys and values, then this.
template <int ROWS>
struct attn_tall_rest {
    grt_tile<16, 16> scratch[ATTN_WAVES];
    attn_rows<ROWS> rows;
    int key_rows[2 * ATTN_BLOCK];
};

// What the rows of 16 packed queries keep between blocks.
struct attn_state {
    float top[GRT_ROW_SLOTS], sum[GRT_ROW_SLOTS];
};

// Scores of 16 queries to weights; the outputs so far shrink.
template <int NT>
GRT_DEV void attn_soften(grt_frag_c (&s)[4], attn_state& x, grt_frag_c (&o)[NT], float scale_log2) {
    float top[GRT_ROW_SLOTS], shrink[GRT_ROW_SLOTS], part[4][GRT_ROW_SLOTS];
    GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) top[j] = attn_no_score();
    GRT_UNROLL for (int t = 0; t < 4; t++)
        GRT_UNROLL for (int i = 0; i < GRT_ACC; i++)
            top[grt_slot(i)] = grt_max(top[grt_slot(i)], s[t].v[i]);
    GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
        float most = grt_max(x.top[j], grt_row_max(top[j]));
        shrink[j] = grt_fast_exp2((x.top[j] - most) * scale_log2);
        x.top[j] = most;
        top[j] = -(most * scale_log2);
    }
    GRT_UNROLL for (int t = 0; t < 4; t++) attn_weigh(s[t], scale_log2, top, part[t]);
    GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
        float sum = (part[0][j] + part[1][j]) + (part[2][j] + part[3][j]);
        x.sum[j] = grt_fma(x.sum[j], shrink[j], sum);
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
    attn_tall_rest<ROWS>& rest = *(attn_tall_rest<ROWS>*)(shared + REST);

    int kv = grt_block_x() % a.kv_heads, group = a.heads / a.kv_heads;
    attn_item item = attn_load_item(a.table, a.first_item + grt_block_x() / a.kv_heads);
    int end = attn_most(item, group), all = attn_least(item, group), w = grt_wave();
    attn_find_rows(rest.rows, a, item, kv);
    grt_sync();
    attn_copy(q, a.q, a.head_dim, rest.rows.head);
    grt_async_commit();

    attn_state state[MT];
    grt_frag_c o[MT][KT];
    grt_frag_a kept[MT][KEEP ? KT : 1];
    GRT_UNROLL for (int m = 0; m < MT; m++) {
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
            state[m].top[j] = attn_no_score();
            state[m].sum[j] = 0;
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
    attn_walk<DP> walk = {(key_tile*)(shared + KEYS), rest.key_rows, a, item.blocks, end, kv};
    walk.start();
    for (int b = 0; b * ATTN_BLOCK < end; b++) {
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
            // Its length is not known to the compiler, which would keep all addresses otherwise.
            for (int k = 0; k < a.head_dim; k += 16) {
                grt_frag_a f[MT];
                GRT_UNROLL for (int m = 0; m < MT; m++)
                    grt_load_a(f[m], q, (w * MT + m) * 16, k);
                attn_score(s, f, walk.k(b), k);
            }
        }
        if ((b + 1) * ATTN_BLOCK > all)
            GRT_UNROLL for (int m = 0; m < MT; m++)
                GRT_UNROLL for (int t = 0; t < 4; t++)
                    attn_hide(s[m][t], b * ATTN_BLOCK + t * 16,
                              rest.rows.visible + (w * MT + m) * 16);
        GRT_UNROLL for (int m = 0; m < MT; m++)
            attn_soften(s[m], state[m], o[m], a.scale_log2);
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
            float sum = grt_row_sum(state[m].sum[j]);
            int head = rest.rows.head[(w * MT + m) * 16 + grt_slot_row(j)];
            if (head >= 0 && grt_acc_col(0) == 0)
                grt_store(a.lse + head, attn_lse(state[m].top[j], a.scale_log2, sum));
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
    float inverse[16];
    attn_rows<16> rows;
    int key_rows[2 * ATTN_BLOCK];
};

// Tiles of 16 packed rows. The chains are those of attn_tall: a lane's sum of 16 keys is a wave's here
// and one of four there, and is added in the same order.
template <int DP>
GRT_DEV void attn_short(const AttnFwdArgs& a, unsigned char* shared) {
    constexpr int KT = DP / 16, NT = (KT + ATTN_WAVES - 1) / ATTN_WAVES;
    typedef grt_tile<ATTN_BLOCK, DP> key_tile;
    constexpr int REST = 2 * ATTN_STAGES * sizeof(key_tile);
    attn_short_rest<DP>& rest = *(attn_short_rest<DP>*)(shared + REST);

    int kv = grt_block_x() % a.kv_heads, group = a.heads / a.kv_heads;
    attn_item item = attn_load_item(a.table, a.first_item + grt_block_x() / a.kv_heads);
    int end = attn_most(item, group), all = attn_least(item, group);
    int w = grt_wave(), lane = grt_lane();
    attn_find_rows(rest.rows, a, item, kv);
    grt_sync();
    attn_copy(rest.q, a.q, a.head_dim, rest.rows.head);
    grt_async_commit();
    attn_state state;
    grt_frag_c o[NT];
    GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
        state.top[j] = attn_no_score();
        state.sum[j] = 0;
    }
    GRT_UNROLL for (int n = 0; n < NT; n++) attn_clear(o[n]);

    attn_walk<DP> walk = {(key_tile*)shared, rest.key_rows, a, item.blocks, end, kv};
    walk.start();
    for (int b = 0; b * ATTN_BLOCK < end; b++) {
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
        if ((b + 1) * ATTN_BLOCK > all) attn_hide(s, b * ATTN_BLOCK + w * 16, rest.rows.visible);
        float top[GRT_ROW_SLOTS], shrink[GRT_ROW_SLOTS], part[GRT_ROW_SLOTS];
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) top[j] = attn_no_score();
        GRT_UNROLL for (int i = 0; i < GRT_ACC; i++)
            top[grt_slot(i)] = grt_max(top[grt_slot(i)], s.v[i]);
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
            top[j] = grt_row_max(top[j]);
            if (grt_acc_col(0) == 0) rest.top[w][grt_slot_row(j)] = top[j];
        }
        grt_sync();
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
            float most = state.top[j];
            GRT_UNROLL for (int i = 0; i < ATTN_WAVES; i++)
                most = grt_max(most, rest.top[i][grt_slot_row(j)]);
            shrink[j] = grt_fast_exp2((state.top[j] - most) * a.scale_log2);
            state.top[j] = most;
            top[j] = -(most * a.scale_log2);
        }
        attn_weigh(s, a.scale_log2, top, part);
        GRT_UNROLL for (int i = 0; i < GRT_ACC; i++)
            *rest.weights.ptr(grt_acc_row(i), w * 16 + grt_acc_col(i)) = grt_round_bf16(s.v[i]);
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) rest.part[w][j][lane] = part[j];
        grt_sync();
        GRT_UNROLL for (int j = 0; j < GRT_ROW_SLOTS; j++) {
            float sum = (rest.part[0][j][lane] + rest.part[1][j][lane]) +
                        (rest.part[2][j][lane] + rest.part[3][j][lane]);
            state.sum[j] = grt_fma(state.sum[j], shrink[j], sum);
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
        float sum = grt_row_sum(state.sum[j]);
        int head = rest.rows.head[grt_slot_row(j)];
        if (w == 0 && head >= 0 && grt_acc_col(0) == 0)
            grt_store(a.lse + head, attn_lse(state.top[j], a.scale_log2, sum));
        inverse[j] = 1.0f / sum;
    }
    GRT_UNROLL for (int n = 0; n < NT; n++) {
        int col = (w + ATTN_WAVES * n) * 16;
        if (col < DP) attn_put(rest.q, 0, col, o[n], inverse);
    }
    grt_sync();
    attn_write(a.o, rest.q, a.head_dim, rest.rows.head);
}
