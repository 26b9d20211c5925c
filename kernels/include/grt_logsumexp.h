// The walk over a row of logits that the training head and the sampler share, so that the same logits
// give the same log-sum-exp, to the bit: strips of 128 columns, each by 8 lanes in one order; the
// strips of a tile of 1024 columns combined in ascending order; the tiles of the row likewise. Neither
// the wave's width nor the grid nor the other rows have a say. Products that a compiler could fuse
// with what follows in one kernel and not in another are spelled with grt_mul and grt_fma.
#pragma once
#include "grt.h"
#include "grt_math.h"

// Columns of a tile, as VOCAB_TILE in src/ops/cpu/logsumexp.rs, and of a strip of it.
#define GRT_VOCAB_TILE 1024
#define GRT_VOCAB_STRIP 128
#define GRT_STRIPS (GRT_VOCAB_TILE / GRT_VOCAB_STRIP)
// Strips of a tile that are within the vocabulary, whole or in part.
GRT_DEV int grt_strips(int vocab, int tile) {
    int n = (vocab - tile * GRT_VOCAB_TILE + GRT_VOCAB_STRIP - 1) / GRT_VOCAB_STRIP;
    return n < GRT_STRIPS ? n : GRT_STRIPS;
}
// Lanes that walk a strip.
#define GRT_STRIP_LANES 8
// What a forbidden token's logit becomes, and what lies beyond the vocabulary: its weight is 0.
#define GRT_FORBIDDEN -1e30f

// Statistics of some columns: the largest logit, the sum of exp(z - top), and that of
// exp(z - top) (z - top), which stays small where the logits are large.
struct grt_lse {
    float top, sum, weighted;
};

// A raw logit as the policy samples from it, if it is not forbidden.
GRT_DEV float grt_prepared(float raw, float inv_temperature) { return grt_mul(raw, inv_temperature); }

// Of a strip of prepared logits in shared memory, at an address that 16 divides. Lane l of each 8 has
// the columns 32 j + 4 l + i. All lanes of the wave must come here; the 8 that share a strip have its
// result.
GRT_DEV grt_lse grt_lse_strip(const float* strip) {
    float z[16];
    int lane = grt_lane() % GRT_STRIP_LANES;
    GRT_UNROLL for (int j = 0; j < 4; j++) {
        const float* from = strip + 32 * j + 4 * lane;
        GRT_UNROLL for (int i = 0; i < 4; i++) z[4 * j + i] = from[i];
    }
    grt_lse s = {z[0], 0, 0};
    GRT_UNROLL for (int i = 1; i < 16; i++) s.top = grt_max(s.top, z[i]);
    GRT_UNROLL for (int m = 1; m < GRT_STRIP_LANES; m <<= 1)
        s.top = grt_max(s.top, grt_shfl_xor(s.top, m));
    GRT_UNROLL for (int i = 0; i < 16; i++) {
        float below = z[i] - s.top, e = grt_exp_weight(below);
        s.sum += e;
        s.weighted = grt_fma(e, below, s.weighted);
    }
    GRT_UNROLL for (int m = 1; m < GRT_STRIP_LANES; m <<= 1) {
        s.sum += grt_shfl_xor(s.sum, m);
        s.weighted += grt_shfl_xor(s.weighted, m);
    }
    return s;
}

// A part as it counts beside a larger top.
struct grt_lse_share {
    float sum, weighted, factor;
};
GRT_DEV grt_lse_share grt_lse_beside(const grt_lse& part, float top) {
    float below = part.top - top;
    return {part.sum, grt_fma(below, part.sum, part.weighted), grt_exp_weight(below)};
}
// Adds the next part to statistics that have the largest top of all.
GRT_DEV void grt_lse_add(grt_lse& s, const grt_lse_share& part) {
    s.sum = grt_fma(part.sum, part.factor, s.sum);
    s.weighted = grt_fma(part.weighted, part.factor, s.weighted);
}

// Statistics of n parts, in ascending order; part(i) is a grt_lse.
template <class Part>
GRT_DEV grt_lse grt_lse_combine(int n, const Part& part) {
    grt_lse s = {part(0).top, 0, 0};
    for (int i = 1; i < n; i++) s.top = grt_max(s.top, part(i).top);
    for (int i = 0; i < n; i++) grt_lse_add(s, grt_lse_beside(part(i), s.top));
    return s;
}

// log sum exp(z), log-probability of a logit, and entropy of the softmax: z - lse and lse - sum p z,
// where the top cancels.
GRT_DEV float grt_lse_log(const grt_lse& s) { return s.top + grt_log(s.sum); }
GRT_DEV float grt_lse_logp(const grt_lse& s, float z) { return (z - s.top) - grt_log(s.sum); }
GRT_DEV float grt_lse_entropy(const grt_lse& s) { return grt_log(s.sum) - s.weighted / s.sum; }

// Statistics in global memory: the three numbers lie `plane` floats apart.
GRT_DEV void grt_lse_store(float* to, int64_t plane, const grt_lse& s) {
    grt_store(to, s.top);
    grt_store(to + plane, s.sum);
    grt_store(to + 2 * plane, s.weighted);
}
GRT_DEV grt_lse grt_lse_load(const float* from, int64_t plane) {
    return {grt_load(from), grt_load(from + plane), grt_load(from + 2 * plane)};
}

// Forbidden tokens of a tile: words from..to of the table, which the host makes (forbidden_words in
// src/ops/gpu/linear_logprob.rs): the number of tiles that it knows, for each of them where its tokens
// begin and behind them where the last one ends, then all tokens, ascending. Words count from `table`.
struct grt_word_range {
    int from, to;
};
GRT_DEV grt_word_range grt_forbidden(const int* table, int tile) {
    if (tile >= grt_load(table)) return {0, 0};
    return {grt_load(table + 1 + tile), grt_load(table + 2 + tile)};
}
