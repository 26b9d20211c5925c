// A mixture of experts: who computes what, products by expert, and the sum of what they made. Pairs
// (token, choice) are sorted by expert; the rows of an expert then lie side by side and their product
// with its matrix is one of tiles like any other (grt_gemm.h), whose rows go back to the places of
// their pairs. How many rows an expert has is read here, never by the host. A row's sums are one chain
// each, whatever other rows there are and whatever tile it falls in.
//
// T tokens, K experts of a token, E experts. Pair p = t K + k is choice k of token t.
#include "../include/grt_gemm.h"
#include "../include/grt_group.h"
#include "../include/grt_math.h"
#include "../include/grt_reduce.h"

struct RouteArgs {
    const float* logits; // [T, E]
    float* weight;       // [T, K]
    int* expert;         // [T, K]
    int rows;
    int experts;
    int top_k;
    int normalize;
};
static_assert(sizeof(RouteArgs) == 40, "mirrored in src/ops/gpu/experts.rs");

// Whether expert i with logit x comes before expert j with logit y: by logit, NaN last, a tie by number.
GRT_DEV bool route_before(float x, int i, float y, int j) {
    const bool x_nan = x != x, y_nan = y != y;
    if (x == y || (x_nan && y_nan)) return i < j;
    return x > y || y_nan;
}

// A wave per token. Each choice is the first expert among those after the choice before it.
GRT_KERNEL(route_fwd_f32, RouteArgs, 256) {
    const int row = grt_block_x() * grt_waves() + grt_wave();
    if (row >= a.rows) return;
    const float* z = a.logits + (int64_t)row * a.experts;
    float* weight = a.weight + (int64_t)row * a.top_k;
    int* expert = a.expert + (int64_t)row * a.top_k;
    float top = 0, last = 0, sum = 0;
    int last_id = -1;
    for (int k = 0; k < a.top_k; k++) {
        float best = 0;
        int id = a.experts; // none yet
        for (int e = grt_lane(); e < a.experts; e += GRT_WAVE) {
            const float x = grt_load(z + e);
            const bool left = k == 0 || route_before(last, last_id, x, e);
            if (left && (id == a.experts || route_before(x, e, best, id))) {
                best = x;
                id = e;
            }
        }
        GRT_UNROLL for (int m = GRT_WAVE / 2; m; m >>= 1) {
            const float x = grt_shfl_xor(best, m);
            const int e = grt_shfl_xor(id, m);
            if (e < a.experts && (id == a.experts || route_before(x, e, best, id))) {
                best = x;
                id = e;
            }
        }
        if (k == 0) top = best;
        last = best;
        last_id = id;
        const float w = grt_exp(best - top);
        sum += w;
        if (grt_lane() == 0) {
            grt_store(weight + k, w);
            grt_store(expert + k, id);
        }
    }
    if (!a.normalize) {
        float part = 0;
        for (int e = grt_lane(); e < a.experts; e += GRT_WAVE) part += grt_exp(grt_load(z + e) - top);
        sum = grt_wave_sum(part);
    }
    // The lane that stored them.
    if (grt_lane() == 0)
        for (int k = 0; k < a.top_k; k++) grt_store(weight + k, grt_load(weight + k) / sum);
}

struct RouteOrderArgs {
    const int* expert; // [pairs]
    int* order;        // [pairs]
    int* first;        // [E + 1]
    int pairs;
    int unused;
};
static_assert(sizeof(RouteOrderArgs) == 32, "mirrored in src/ops/gpu/experts.rs");

struct route_counts {
    int below[256];
    int mine[256];
};

// Block e writes where expert e begins, and its pairs; block E the number of pairs. A thread looks
// through a run of neighbouring pairs twice: to count, and to write behind what the threads before it
// counted.
GRT_KERNEL(route_order, RouteOrderArgs, 256) {
    GRT_SHARED(route_counts, count);
    const int e = grt_block_x();
    const int run = (a.pairs + grt_threads() - 1) / grt_threads();
    const int begin = grt_tid() * run;
    const int end = begin + run < a.pairs ? begin + run : a.pairs;
    int below = 0, mine = 0;
    for (int p = begin; p < end; p++) {
        const int x = grt_load(a.expert + p);
        below += x < e;
        mine += x == e;
    }
    count.below[grt_tid()] = below;
    count.mine[grt_tid()] = mine;
    grt_sync();
    int first = 0, at = 0;
    for (int t = 0; t < grt_threads(); t++) {
        first += count.below[t];
        if (t < grt_tid()) at += count.mine[t];
    }
    if (grt_tid() == 0) grt_store(a.first + e, first);
    at += first;
    if (mine == 0) return;
    for (int p = begin; p < end; p++)
        if (grt_load(a.expert + p) == e) grt_store(a.order + at++, p);
}

struct RouteBwdArgs {
    const float* weight; // [T, K]
    const int* expert;
    const float* dweight;
    const float* logits; // [T, E], or null: weights were normalised
    float* dlogits;      // [T, E]
    int rows;
    int experts;
    int top_k;
    int unused;
};
static_assert(sizeof(RouteBwdArgs) == 56, "mirrored in src/ops/gpu/experts.rs");

// A thread per logit. Of normalised weights, a softmax over the chosen experts: dz = w times the sum of
// w' (dw - dw'). Otherwise dz = p (dw - c) with c = sum of w dw, where dw of an expert that was not
// chosen is 0 and p is the largest weight times e^(z - its logit).
GRT_KERNEL(route_bwd_f32, RouteBwdArgs, 256) {
    const int64_t at = (int64_t)grt_block_x() * grt_threads() + grt_tid();
    const int row = (int)(at / a.experts);
    if (row >= a.rows) return;
    const int e = (int)(at - (int64_t)row * a.experts);
    const int64_t first = (int64_t)row * a.top_k;
    float p = 0, dw = 0;
    bool chosen = false;
    for (int k = 0; k < a.top_k; k++) {
        if (grt_load(a.expert + first + k) != e) continue;
        chosen = true;
        p = grt_load(a.weight + first + k);
        dw = grt_load(a.dweight + first + k);
    }
    float sum = 0;
    if (!a.logits) {
        for (int k = 0; chosen && k < a.top_k; k++)
            sum = grt_fma(grt_load(a.weight + first + k), dw - grt_load(a.dweight + first + k), sum);
    } else {
        for (int k = 0; k < a.top_k; k++)
            sum = grt_fma(grt_load(a.weight + first + k), grt_load(a.dweight + first + k), sum);
        sum = dw - sum;
        if (!chosen) {
            const int best = grt_load(a.expert + first);
            const float top = grt_load(a.logits + (int64_t)row * a.experts + best);
            p = grt_load(a.weight + first) * grt_exp(grt_load(a.logits + at) - top);
        }
    }
    grt_store(a.dlogits + at, p * sum);
}

struct MixArgs {
    const void* y;       // [TK, cols]
    const float* weight; // [T, K], or null: all are 1
    void* out;           // [T, cols]
    int rows;
    int cols;
    int top_k;
    int unused;
};
static_assert(sizeof(MixArgs) == 40, "mirrored in src/ops/gpu/experts.rs");

template <class S>
GRT_DEV void mix_experts_fwd(const MixArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_rows<S>(a.rows, a.cols, [&](auto g) {
        const int64_t first = (int64_t)g.row * a.top_k;
        float sum[N] = {};
        for (int k = 0; k < a.top_k; k++) {
            float y[N];
            grt_load_group((const S*)a.y + (first + k) * a.cols + g.col, g, y);
            const float w = a.weight ? grt_load(a.weight + first + k) : 1.0f;
            GRT_UNROLL for (int i = 0; i < N; i++) sum[i] = grt_fma(w, y[i], sum[i]);
        }
        grt_store_group((S*)a.out + g.at, g, sum);
    });
}
GRT_KERNEL(mix_experts_fwd_f32, MixArgs, 256) { mix_experts_fwd<float>(a); }
GRT_KERNEL(mix_experts_fwd_bf16, MixArgs, 256) { mix_experts_fwd<grt_bf16>(a); }

struct MixBwdArgs {
    const void* y;       // [TK, cols]
    const float* weight; // [T, K]
    const void* dout;    // [T, cols]
    void* dy;            // [TK, cols]
    float* dweight;      // [T, K]
    int cols;
    int top_k;
};
static_assert(sizeof(MixBwdArgs) == 48, "mirrored in src/ops/gpu/experts.rs");

template <class S, class G>
GRT_DEV float mix_experts_bwd_group(const MixBwdArgs& a, const G& g, float w, int64_t from) {
    constexpr int N = grt_vec<S>::N;
    float y[N], d[N], dy[N];
    grt_load_group((const S*)a.y + g.at, g, y);
    grt_load_group((const S*)a.dout + from, g, d);
    float dot = 0;
    GRT_UNROLL for (int i = 0; i < N; i++) {
        dy[i] = w * d[i];
        dot = grt_fma(y[i], d[i], dot);
    }
    grt_store_group((S*)a.dy + g.at, g, dy);
    return dot;
}

// A block per pair.
template <class S>
GRT_DEV void mix_experts_bwd(const MixBwdArgs& a) {
    constexpr int N = grt_vec<S>::N;
    GRT_SHARED(grt_block_scratch, scratch);
    const int p = grt_block_x();
    const float w = grt_load(a.weight + p);
    float dot = 0;
    for (int col = grt_tid() * N; col < a.cols; col += grt_threads() * N) {
        const int left = a.cols - col;
        const int64_t at = (int64_t)p * a.cols + col, from = (int64_t)(p / a.top_k) * a.cols + col;
        if (a.cols % N == 0)
            dot += mix_experts_bwd_group<S>(a, grt_group<true>{at, p, col, N}, w, from);
        else
            dot += mix_experts_bwd_group<S>(
                a, grt_group<false>{at, p, col, left < N ? left : N}, w, from);
    }
    dot = grt_block_sum(dot, scratch);
    if (grt_tid() == 0) grt_store(a.dweight + p, dot);
}
GRT_KERNEL(mix_experts_bwd_f32, MixBwdArgs, 256) { mix_experts_bwd<float>(a); }
GRT_KERNEL(mix_experts_bwd_bf16, MixBwdArgs, 256) { mix_experts_bwd<grt_bf16>(a); }

// out[i] = x[order[i] / per_row].
struct ExpertGatherArgs {
    const void* x;
    const int* order;
    void* out;
    int rows;
    int cols;
    int per_row;
    int unused;
};
static_assert(sizeof(ExpertGatherArgs) == 40, "mirrored in src/ops/gpu/experts.rs");

template <class S>
GRT_DEV void expert_gather(const ExpertGatherArgs& a) {
    grt_rows<S>(a.rows, a.cols, [&](auto g) {
        const int row = grt_load(a.order + g.row) / a.per_row;
        grt_copy_group((const S*)a.x + (int64_t)row * a.cols + g.col, (S*)a.out + g.at, g);
    });
}
GRT_KERNEL(expert_gather_f32, ExpertGatherArgs, 256) { expert_gather<float>(a); }
GRT_KERNEL(expert_gather_bf16, ExpertGatherArgs, 256) { expert_gather<grt_bf16>(a); }

// Tiles of `height` rows: of which expert, from which row of the order, to which. An expert's last tile
// may be lower; tiles beyond the last expert's have no rows.
struct ExpertTilesArgs {
    const int* first; // [E + 1]
    int* tile;        // [tiles, 3]
    int experts;
    int tiles;
    int height;
    int unused;
};
static_assert(sizeof(ExpertTilesArgs) == 32, "mirrored in src/ops/gpu/experts.rs");

GRT_KERNEL(expert_tiles, ExpertTilesArgs, 64) {
    const int mine = grt_block_x() * grt_threads() + grt_tid();
    if (mine >= a.tiles) return;
    int expert = 0, begin = 0, end = 0, tiles = 0;
    for (int e = 0; e < a.experts; e++) {
        const int first = grt_load(a.first + e), last = grt_load(a.first + e + 1);
        const int row = first + (mine - tiles) * a.height;
        tiles += grt_tiles(last - first, a.height);
        if (mine < tiles) {
            expert = e;
            begin = row;
            end = row + a.height < last ? row + a.height : last;
            break;
        }
    }
    grt_store(a.tile + 3 * mine, expert);
    grt_store(a.tile + 3 * mine + 1, begin);
    grt_store(a.tile + 3 * mine + 2, end);
}

struct ExpertMatmulArgs {
    const void* x;    // [pairs, depth] in the order of experts
    const void* w;    // of each expert [cols, depth], or [depth, cols] on the way back
    const int* order; // [pairs]
    const int* tile;  // [tiles, 3]
    void* y;          // [pairs, cols] in the order of pairs
    int tiles;
    int cols;
    int depth;
    int vectors; // 1: rows of y are multiples of 16 bytes
};
static_assert(sizeof(ExpertMatmulArgs) == 56, "mirrored in src/ops/gpu/experts.rs");

// Rows to the places of their pairs.
template <class S, int VEC>
struct expert_finish {
    const ExpertMatmulArgs& a;
    int begin, rows, n0;

    GRT_DEV_MEMBER void operator()(int row, int col, float (&v)[VEC]) const {
        static_assert(VEC == grt_vec<S>::N, "a run is a vector");
        const int n = n0 + col;
        if (row >= rows || n >= a.cols) return;
        S* to = (S*)a.y + (int64_t)grt_load(a.order + begin + row) * a.cols + n;
        if (a.vectors) {
            grt_store_vec(to, v);
            return;
        }
        GRT_UNROLL for (int c = 0; c < VEC; c++)
            if (n + c < a.cols) grt_store(to + c, v[c]);
    }
};

// One block, one tile of an expert's rows by columns of its matrix.
template <class G, grt_lie B>
GRT_DEV void expert_tile(const ExpertMatmulArgs& a, typename G::Shared& shared) {
    using S = typename G::Type;
    int m, n;
    grt_tile_order(grt_block_x(), a.tiles, grt_tiles(a.cols, G::BN), m, n);
    const int expert = grt_load(a.tile + 3 * m), begin = grt_load(a.tile + 3 * m + 1);
    const int rows = grt_load(a.tile + 3 * m + 2) - begin;
    if (rows <= 0) return;
    const S* x = (const S*)a.x + (int64_t)begin * a.depth;
    const S* w = (const S*)a.w + (int64_t)expert * a.cols * a.depth;
    const grt_term<S> term = {
        {x, a.depth, rows}, {w, B == GRT_ALONG ? a.depth : a.cols, a.cols}, a.depth};
    G g;
    g.clear();
    g.multiply(shared, term, grt_no_term<S>(), 0, n * G::BN);
    expert_finish<S, G::VEC> finish = {a, begin, rows, n * G::BN};
    g.vectors(shared, finish);
}

// SHARED: bytes that the host asks for, with waves of 32 and of 64.
template <class G, grt_lie B, int SHARED_32, int SHARED_64>
GRT_DEV void expert_dynamic(const ExpertMatmulArgs& a) {
    static_assert(sizeof(typename G::Shared) == (GRT_WAVE == 32 ? SHARED_32 : SHARED_64),
                  "mirrored in src/ops/gpu/experts.rs");
    GRT_DYNAMIC_SHARED(raw);
    expert_tile<G, B>(a, *(typename G::Shared*)raw);
}
template <class G, grt_lie B>
GRT_DEV void expert_static(const ExpertMatmulArgs& a) {
    GRT_SHARED(typename G::Shared, shared);
    expert_tile<G, B>(a, shared);
}

// dw[e] += dy^T x over the expert's pairs.
struct ExpertDwArgs {
    const void* dy;   // [pairs, rows] in the order of experts
    const void* x;    // [pairs, cols]
    const int* first; // [E + 1]
    float* dw;        // [E, rows, cols]
    int rows;
    int cols;
    int vectors; // 1: rows of dw are multiples of 16 bytes
    int unused;
};
static_assert(sizeof(ExpertDwArgs) == 48, "mirrored in src/ops/gpu/experts.rs");

template <int VEC>
struct expert_dw_finish {
    const ExpertDwArgs& a;
    float* dw;
    int m0, n0;

    GRT_DEV_MEMBER void operator()(int row, int col, float (&v)[VEC]) const {
        const int m = m0 + row, n = n0 + col;
        if (m >= a.rows || n >= a.cols) return;
        float* to = dw + (int64_t)m * a.cols + n;
        if (a.vectors) {
            GRT_UNROLL for (int i = 0; i < VEC; i += 4) {
                if (n + i >= a.cols) break;
                float x[4];
                grt_load_vec(to + i, x);
                GRT_UNROLL for (int c = 0; c < 4; c++) x[c] += v[i + c];
                grt_store_vec(to + i, x);
            }
            return;
        }
        GRT_UNROLL for (int c = 0; c < VEC; c++)
            if (n + c < a.cols) grt_store(to + c, grt_load(to + c) + v[c]);
    }
};

// One block, one tile of one expert's gradient.
template <class G>
GRT_DEV void expert_dw_tile(const ExpertDwArgs& a, typename G::Shared& shared) {
    using S = typename G::Type;
    const int tiles_m = grt_tiles(a.rows, G::BM), tiles_n = grt_tiles(a.cols, G::BN);
    const int expert = grt_block_x() / (tiles_m * tiles_n);
    const int begin = grt_load(a.first + expert);
    const int pairs = grt_load(a.first + expert + 1) - begin;
    if (pairs <= 0) return;
    int m, n;
    grt_tile_order(grt_block_x() - expert * tiles_m * tiles_n, tiles_m, tiles_n, m, n);
    const S* dy = (const S*)a.dy + (int64_t)begin * a.rows;
    const S* x = (const S*)a.x + (int64_t)begin * a.cols;
    const grt_term<S> term = {{dy, a.rows, a.rows}, {x, a.cols, a.cols}, pairs};
    G g;
    g.clear();
    g.multiply(shared, term, grt_no_term<S>(), m * G::BM, n * G::BN);
    float* dw = a.dw + (int64_t)expert * a.rows * a.cols;
    expert_dw_finish<G::VEC> finish = {a, dw, m * G::BM, n * G::BN};
    g.vectors(shared, finish);
}
template <class G, int SHARED_32, int SHARED_64>
GRT_DEV void expert_dw_dynamic(const ExpertDwArgs& a) {
    static_assert(sizeof(typename G::Shared) == (GRT_WAVE == 32 ? SHARED_32 : SHARED_64),
                  "mirrored in src/ops/gpu/experts.rs");
    GRT_DYNAMIC_SHARED(raw);
    expert_dw_tile<G>(a, *(typename G::Shared*)raw);
}
template <class G>
GRT_DEV void expert_dw_static(const ExpertDwArgs& a) {
    GRT_SHARED(typename G::Shared, shared);
    expert_dw_tile<G>(a, shared);
}

// As in matmul.cu: square tiles for training, flat ones for decoding, one for sizes without vectors.
template <grt_lie A, grt_lie B>
using ExpertTile128x128 = grt_gemm<128, 128, 32, 128, 2, 2, 4, A, B, GRT_BY_16>;
template <grt_lie A, grt_lie B>
using ExpertTile64x64 = grt_gemm<64, 64, 64, 128, 2, 2, 4, A, B, GRT_BY_16>;
template <grt_lie A, grt_lie B>
using ExpertTile16x64 = grt_gemm<16, 64, 64, 128, 1, 4, 8, A, B, GRT_BY_16>;
template <grt_lie A, grt_lie B>
using ExpertTileOdd = grt_gemm<32, 32, 32, 64, 2, 1, 2, A, B, GRT_BY_ELEMENT>;
template <grt_lie A, grt_lie B>
using ExpertSingle64x64 = grt_gemm_f32<64, 64, 16, 2, 2, A, B, true>;
template <grt_lie A, grt_lie B>
using ExpertSingleOdd = grt_gemm_f32<32, 32, 16, 1, 1, A, B, false>;

GRT_KERNEL(expert_matmul_fwd_128x128_bf16, ExpertMatmulArgs, 128) {
    expert_dynamic<ExpertTile128x128<GRT_ALONG, GRT_ALONG>, GRT_ALONG, 65536, 32768>(a);
}
GRT_KERNEL(expert_matmul_fwd_64x64_bf16, ExpertMatmulArgs, 128) {
    expert_dynamic<ExpertTile64x64<GRT_ALONG, GRT_ALONG>, GRT_ALONG, 65536, 32768>(a);
}
GRT_KERNEL(expert_matmul_fwd_16x64_bf16, ExpertMatmulArgs, 128) {
    expert_dynamic<ExpertTile16x64<GRT_ALONG, GRT_ALONG>, GRT_ALONG, 81920, 20480>(a);
}
GRT_KERNEL(expert_matmul_fwd_odd_bf16, ExpertMatmulArgs, 64) {
    expert_static<ExpertTileOdd<GRT_ALONG, GRT_ALONG>, GRT_ALONG>(a);
}
GRT_KERNEL(expert_matmul_fwd_64x64_f32, ExpertMatmulArgs, 64) {
    expert_static<ExpertSingle64x64<GRT_ALONG, GRT_ALONG>, GRT_ALONG>(a);
}
GRT_KERNEL(expert_matmul_fwd_odd_f32, ExpertMatmulArgs, 64) {
    expert_static<ExpertSingleOdd<GRT_ALONG, GRT_ALONG>, GRT_ALONG>(a);
}

GRT_KERNEL(expert_matmul_bwd_dx_128x128_bf16, ExpertMatmulArgs, 128) {
    expert_dynamic<ExpertTile128x128<GRT_ALONG, GRT_ACROSS>, GRT_ACROSS, 65536, 32768>(a);
}
GRT_KERNEL(expert_matmul_bwd_dx_64x64_bf16, ExpertMatmulArgs, 128) {
    expert_dynamic<ExpertTile64x64<GRT_ALONG, GRT_ACROSS>, GRT_ACROSS, 65536, 32768>(a);
}
GRT_KERNEL(expert_matmul_bwd_dx_odd_bf16, ExpertMatmulArgs, 64) {
    expert_static<ExpertTileOdd<GRT_ALONG, GRT_ACROSS>, GRT_ACROSS>(a);
}
GRT_KERNEL(expert_matmul_bwd_dx_64x64_f32, ExpertMatmulArgs, 64) {
    expert_static<ExpertSingle64x64<GRT_ALONG, GRT_ACROSS>, GRT_ACROSS>(a);
}
GRT_KERNEL(expert_matmul_bwd_dx_odd_f32, ExpertMatmulArgs, 64) {
    expert_static<ExpertSingleOdd<GRT_ALONG, GRT_ACROSS>, GRT_ACROSS>(a);
}

GRT_KERNEL(expert_matmul_bwd_dw_128x128_bf16, ExpertDwArgs, 128) {
    expert_dw_dynamic<ExpertTile128x128<GRT_ACROSS, GRT_ACROSS>, 65536, 32768>(a);
}
GRT_KERNEL(expert_matmul_bwd_dw_64x64_bf16, ExpertDwArgs, 128) {
    expert_dw_dynamic<ExpertTile64x64<GRT_ACROSS, GRT_ACROSS>, 65536, 32768>(a);
}
GRT_KERNEL(expert_matmul_bwd_dw_odd_bf16, ExpertDwArgs, 64) {
    expert_dw_static<ExpertTileOdd<GRT_ACROSS, GRT_ACROSS>>(a);
}
GRT_KERNEL(expert_matmul_bwd_dw_64x64_f32, ExpertDwArgs, 64) {
    expert_dw_static<ExpertSingle64x64<GRT_ACROSS, GRT_ACROSS>>(a);
}
GRT_KERNEL(expert_matmul_bwd_dw_odd_f32, ExpertDwArgs, 64) {
    expert_dw_static<ExpertSingleOdd<GRT_ACROSS, GRT_ACROSS>>(a);
}
