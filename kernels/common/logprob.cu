// The language-model head with what GRPO needs of it: log-probability of a token, log-sum-exp and
// entropy per row, and the gradients. A block makes the logits of 128 rows and a strip of the
// vocabulary with the matrix units, takes their statistics in shared memory and forgets them: no logit
// reaches global memory, but for that of each row's token. The bits are those of logits that the
// matmul op stores and the sampler walks (grt_gemm.h, grt_logsumexp.h).
//
// T rows, H hidden, V vocabulary.
#include "../include/grt_gemm.h"
#include "../include/grt_logsumexp.h"

// Rows of a block's tile, and its threads: four waves of either width.
#define HEAD_BM 128
#define HEAD_THREADS (4 * GRT_WAVE)
// Rows of a strip that are in shared memory at a time, and their distance there: 8 columns more, so
// that a wave's accumulators go to different banks.
#define HEAD_ROWS 64
#define HEAD_STRIDE (GRT_VOCAB_STRIP + 8)

// The tile of all products here: 128 x 128. Rows that are not multiples of 16 bytes take the Odd ones.
#define HEAD_WAVES_N (HEAD_THREADS / 64)
template <grt_lie A, grt_lie B>
using HeadTile = grt_gemm<HEAD_BM, 128, 32, HEAD_THREADS, 2, HEAD_WAVES_N, 4, A, B, true>;
template <grt_lie A, grt_lie B>
using HeadTileOdd = grt_gemm<HEAD_BM, 128, 32, HEAD_THREADS, 2, HEAD_WAVES_N, 2, A, B, false>;
template <grt_lie A, grt_lie B>
using HeadSingle = grt_gemm_f32<HEAD_BM, 128, 16, 512 / HEAD_THREADS, 2, A, B, true>;
template <grt_lie A, grt_lie B>
using HeadSingleOdd = grt_gemm_f32<HEAD_BM, 128, 16, 512 / HEAD_THREADS, 2, A, B, false>;

// A strip of prepared logits on its way through shared memory.
struct HeadStrip {
    alignas(16) float z[HEAD_ROWS * HEAD_STRIDE];

    GRT_DEV_MEMBER float* row(int r) { return z + r * HEAD_STRIDE; }
};

// Takes accumulators to the strip: rows from `first` on, and `left` columns of the vocabulary.
struct head_prepare {
    HeadStrip& strip;
    int first, left;
    float inv_temperature;

    GRT_DEV_MEMBER void operator()(int row, int col, float& value) const {
        int r = row - first;
        if (r < 0 || r >= HEAD_ROWS) return;
        strip.row(r)[col] = col < left ? grt_prepared(value, inv_temperature) : GRT_FORBIDDEN;
    }
};

// Rows from `first` on of the block's tile, from vocabulary index `col0` on, in shared memory for all
// threads. What was there before is free when all threads have come here.
template <class G>
GRT_DEV void head_stage(G& g, HeadStrip& strip, const int* table, int first, int col0, int vocab,
                        float inv_temperature) {
    grt_sync();
    head_prepare prepare = {strip, first, vocab - col0, inv_temperature};
    g.each(prepare);
    grt_sync();
    grt_word_range words = grt_forbidden(table, col0 / GRT_VOCAB_TILE);
    if (words.from == words.to) return;
    for (int i = words.from + grt_tid(); i < words.to; i += grt_threads()) {
        int c = grt_load(table + i) - col0;
        if (c < 0 || c >= GRT_VOCAB_STRIP) continue;
        for (int r = 0; r < HEAD_ROWS; r++) strip.row(r)[c] = GRT_FORBIDDEN;
    }
    grt_sync();
}

struct LogprobFwdArgs {
    const void* h;     // [T,H]
    const void* w;     // [V,H]
    const int* target; // [T]
    const int* table;  // forbidden tokens, see grt_forbidden
    float* logp;       // [T]
    float* lse;
    float* entropy;
    float* parts; // [tiles,3,T] statistics of the tiles
    int rows;
    int hidden;
    int vocab;
    int tiles;
    float inv_temperature;
    int unused;
};
static_assert(sizeof(LogprobFwdArgs) == 88, "mirrored in src/ops/gpu/linear_logprob.rs");

template <class G>
struct LogprobFwdShared {
    union {
        typename G::Shared gemm;
        HeadStrip strip;
    };
    grt_lse strips[GRT_STRIPS][HEAD_BM];
};

// Statistics and targets of the rows in the strip.
GRT_DEV void logprob_absorb(const LogprobFwdArgs& a, HeadStrip& strip, grt_lse* stats, int row0,
                            int col0) {
    for (int r = grt_tid() / GRT_STRIP_LANES; r < HEAD_ROWS; r += HEAD_THREADS / GRT_STRIP_LANES) {
        grt_lse s = grt_lse_strip(strip.row(r));
        if (grt_tid() % GRT_STRIP_LANES == 0) stats[r] = s;
    }
    int row = row0 + grt_tid();
    if (grt_tid() < HEAD_ROWS && row < a.rows) {
        int c = grt_load(a.target + row) - col0;
        if (c >= 0 && c < GRT_VOCAB_STRIP) grt_store(a.logp + row, strip.row(grt_tid())[c]);
    }
}

// A block has 128 rows and a tile of the vocabulary. Leaves the target's logit in `logp`.
template <class G>
GRT_DEV void logprob_tile(const LogprobFwdArgs& a) {
    using S = typename G::Type;
    GRT_DYNAMIC_SHARED(raw);
    LogprobFwdShared<G>& s = *(LogprobFwdShared<G>*)raw;
    int m, tile;
    grt_tile_order(grt_block_x(), grt_tiles(a.rows, HEAD_BM), a.tiles, m, tile);
    const int row0 = m * HEAD_BM, tile0 = tile * GRT_VOCAB_TILE;
    const int strips = grt_strips(a.vocab, tile);
    const grt_term<S> term = {{(const S*)a.h, a.hidden, a.rows}, {(const S*)a.w, a.hidden, a.vocab}, a.hidden};
    GRT_ROLLED for (int i = 0; i < strips; i++) {
        const int col0 = tile0 + i * GRT_VOCAB_STRIP;
        G g;
        g.clear();
        g.multiply(s.gemm, term, grt_no_term<S>(), row0, col0);
        GRT_ROLLED for (int first = 0; first < HEAD_BM; first += HEAD_ROWS) {
            if (row0 + first >= a.rows) break;
            head_stage(g, s.strip, a.table, first, col0, a.vocab, a.inv_temperature);
            logprob_absorb(a, s.strip, s.strips[i] + first, row0 + first, col0);
        }
        grt_sync();
    }
    const int r = grt_tid(), row = row0 + r;
    if (r >= HEAD_BM || row >= a.rows) return;
    grt_lse all = grt_lse_combine(strips, [&](int i) { return s.strips[i][r]; });
    grt_lse_store(a.parts + (int64_t)3 * tile * a.rows + row, a.rows, all);
}

// SHARED: bytes that the host asks for, with waves of 32 and of 64.
template <class G, int SHARED_32, int SHARED_64>
GRT_DEV void logprob_fwd(const LogprobFwdArgs& a) {
    static_assert(sizeof(LogprobFwdShared<G>) == (GRT_WAVE == 32 ? SHARED_32 : SHARED_64),
                  "mirrored in src/ops/gpu/linear_logprob.rs");
    logprob_tile<G>(a);
}
GRT_KERNEL(linear_logprob_fwd_bf16, LogprobFwdArgs, HEAD_THREADS) {
    logprob_fwd<HeadTile<GRT_ALONG, GRT_ALONG>, 77824, 47104>(a);
}
GRT_KERNEL(linear_logprob_fwd_odd_bf16, LogprobFwdArgs, HEAD_THREADS) {
    logprob_fwd<HeadTileOdd<GRT_ALONG, GRT_ALONG>, 47104, 47104>(a);
}
GRT_KERNEL(linear_logprob_fwd_f32, LogprobFwdArgs, HEAD_THREADS) {
    logprob_fwd<HeadSingle<GRT_ALONG, GRT_ALONG>, 47104, 47104>(a);
}
GRT_KERNEL(linear_logprob_fwd_odd_f32, LogprobFwdArgs, HEAD_THREADS) {
    logprob_fwd<HeadSingleOdd<GRT_ALONG, GRT_ALONG>, 47104, 47104>(a);
}

// Statistics of a row from those of its tiles.
GRT_DEV grt_lse logprob_row(const float* parts, int tiles, int rows, int row) {
    return grt_lse_combine(tiles, [=](int i) {
        return grt_lse_load(parts + (int64_t)3 * i * rows + row, rows);
    });
}

// A thread has a row: `logp` holds the target's logit at first.
GRT_KERNEL(linear_logprob_fwd_rows, LogprobFwdArgs, 64) {
    int row = grt_block_x() * grt_threads() + grt_tid();
    if (row >= a.rows) return;
    grt_lse all = logprob_row(a.parts, a.tiles, a.rows, row);
    grt_store(a.lse + row, grt_lse_log(all));
    grt_store(a.logp + row, grt_lse_logp(all, grt_load(a.logp + row)));
    grt_store(a.entropy + row, grt_lse_entropy(all));
}

// The backward pass takes the vocabulary in chunks of whole tiles; `first` and `cols` say which chunk
// it is. Only active rows (dlogp or dentropy is not 0) take part: the n-th is row index[n] of the batch, and there
// are *count of them. The gradients of a chunk's logits are in `dz` up to whole strips, 0 beyond the
// vocabulary.
struct LogprobBwdArgs {
    const void* h; // [T,H]
    const void* w; // [V,H]
    const int* target;
    const float* lse;
    const float* dlogp;
    const float* held_entropy; // null without a gradient of the entropy
    const float* dentropy;     // likewise
    const int* table;
    void* dh;       // [T,H], zeros at first
    void* active;   // [T,H] active rows of h
    void* dz;       // [T,stride]
    float* strips;  // [strips of a chunk,3,T], if `check`
    float* sums;    // [T,H] dh of the active rows
    float* dw;      // [V,H] or null
    float* logp;    // [T], written if `check`
    float* entropy; // [T], likewise
    float* parts;   // [tiles,3,T], if `check`
    float* logits;  // [T] of the targets of active rows, if `check`
    int* index;     // [T]
    int* count;
    int rows;
    int hidden;
    int vocab;
    int tiles;
    int first;
    int cols;
    int stride;
    int check;
    float inv_temperature;
    int unused;
};
static_assert(sizeof(LogprobBwdArgs) == 200, "mirrored in src/ops/gpu/linear_logprob.rs");

#define ROWS_THREADS 1024

// One block lists the active rows, in order.
GRT_KERNEL(linear_logprob_bwd_rows, LogprobBwdArgs, ROWS_THREADS) {
    using Counts = int[ROWS_THREADS / GRT_WAVE];
    GRT_SHARED(Counts, counts);
    int listed = 0;
    for (int from = 0; from < a.rows; from += ROWS_THREADS) {
        int row = from + grt_tid();
        int mine = row < a.rows && grt_load(a.dlogp + row) != 0.0f;
        if (a.dentropy && row < a.rows) mine |= grt_load(a.dentropy + row) != 0.0f;
        int before = mine;
        GRT_UNROLL for (int d = 1; d < GRT_WAVE; d <<= 1) {
            int other = grt_shfl(before, grt_lane() - d);
            if (grt_lane() >= d) before += other;
        }
        if (grt_lane() == GRT_WAVE - 1) counts[grt_wave()] = before;
        grt_sync();
        int at = listed + before - mine;
        for (int i = 0; i < ROWS_THREADS / GRT_WAVE; i++) {
            if (i < grt_wave()) at += counts[i];
            listed += counts[i];
        }
        if (mine) grt_store(a.index + at, row);
        grt_sync();
    }
    if (grt_tid() == 0) grt_store(a.count, listed);
}

// Copies an active row of h beside the others. A block has a row.
template <class S>
GRT_DEV void logprob_gather(const LogprobBwdArgs& a) {
    constexpr int N = grt_vec<S>::N;
    const int n = grt_block_x();
    if (n >= grt_load(a.count)) return;
    const S* from = (const S*)a.h + (int64_t)grt_load(a.index + n) * a.hidden;
    S* to = (S*)a.active + (int64_t)n * a.hidden;
    if (a.hidden % N == 0) {
        for (int c = N * grt_tid(); c < a.hidden; c += N * grt_threads())
            grt_store16(to + c, grt_load16(from + c));
    } else {
        for (int c = grt_tid(); c < a.hidden; c += grt_threads())
            grt_store(to + c, grt_load(from + c));
    }
}
GRT_KERNEL(linear_logprob_bwd_gather_f32, LogprobBwdArgs, 128) { logprob_gather<float>(a); }
GRT_KERNEL(linear_logprob_bwd_gather_bf16, LogprobBwdArgs, 128) { logprob_gather<grt_bf16>(a); }

// What the gradient of a row's logits depends on.
struct LogprobRow {
    int target;
    float lse;
    float slope; // gradient of the row's raw logits: dlogp / temperature
    float bonus; // dentropy / temperature
    float entropy;
};

template <class G>
struct LogprobBwdShared {
    union {
        typename G::Shared gemm;
        HeadStrip strip;
    };
    LogprobRow rows[HEAD_BM];
};

// Stores the gradients of runs of 8 columns of the strip, each rounded once. `row0` is that of the
// strip's first row, `left` the number of active rows from there on.
template <class S>
GRT_DEV void logprob_store_dz(const LogprobBwdArgs& a, HeadStrip& strip, const LogprobRow* rows,
                              int row0, int left, int col0) {
    constexpr int RUNS = GRT_VOCAB_STRIP / 8, N = grt_vec<S>::N;
    S* to = (S*)a.dz + (int64_t)row0 * a.stride + (col0 - a.first);
    GRT_ROLLED for (int run = grt_tid(); run < HEAD_ROWS * RUNS; run += HEAD_THREADS) {
        const int r = run / RUNS, c = run % RUNS * 8;
        if (r >= left) return;
        const LogprobRow row = rows[r];
        GRT_UNROLL for (int k = 0; k < 8; k += N) {
            float d[N];
            GRT_UNROLL for (int i = 0; i < N; i++) {
                float z = strip.row(r)[c + k + i];
                float p = grt_exp_weight(z - row.lse), e = row.slope * p;
                bool hit = col0 + c + k + i == row.target;
                // From the sum in singles: the difference of two roundings would be half as exact.
                d[i] = hit ? row.slope - e : -e;
                if (row.bonus != 0.0f) {
                    e = p * grt_fma(row.bonus, (z - row.lse) + row.entropy, row.slope);
                    d[i] = hit ? row.slope - e : -e;
                }
                if (hit && a.check) grt_store(a.logits + row0 + r, z);
            }
            grt_store_vec(to + (int64_t)r * a.stride + c + k, d);
        }
    }
}

// Gradients of the logits of 128 active rows and a strip.
template <class G>
GRT_DEV void logprob_dz(const LogprobBwdArgs& a) {
    using S = typename G::Type;
    GRT_DYNAMIC_SHARED(raw);
    LogprobBwdShared<G>& s = *(LogprobBwdShared<G>*)raw;
    const int count = grt_load(a.count);
    int m, n;
    grt_tile_order(grt_block_x(), grt_tiles(a.rows, HEAD_BM), grt_tiles(a.cols, GRT_VOCAB_STRIP), m, n);
    const int row0 = m * HEAD_BM, col0 = a.first + n * GRT_VOCAB_STRIP;
    if (row0 >= count) return;
    if (grt_tid() < HEAD_BM && row0 + grt_tid() < count) {
        const int at = grt_load(a.index + row0 + grt_tid());
        LogprobRow row = {grt_load(a.target + at), grt_load(a.lse + at),
                          grt_mul(grt_load(a.dlogp + at), a.inv_temperature), 0.0f, 0.0f};
        if (a.dentropy) {
            row.bonus = grt_mul(grt_load(a.dentropy + at), a.inv_temperature);
            row.entropy = grt_load(a.held_entropy + at);
        }
        s.rows[grt_tid()] = row;
    }
    const grt_term<S> term = {{(const S*)a.active, a.hidden, count}, {(const S*)a.w, a.hidden, a.vocab}, a.hidden};
    G g;
    g.clear();
    g.multiply(s.gemm, term, grt_no_term<S>(), row0, col0);
    GRT_ROLLED for (int first = 0; first < HEAD_BM; first += HEAD_ROWS) {
        if (row0 + first >= count) break;
        head_stage(g, s.strip, a.table, first, col0, a.vocab, a.inv_temperature);
        const int left = count - row0 - first;
        if (a.check) {
            float* to = a.strips + (int64_t)3 * n * a.rows + row0 + first;
            for (int r = grt_tid() / GRT_STRIP_LANES; r < HEAD_ROWS; r += HEAD_THREADS / GRT_STRIP_LANES) {
                grt_lse stats = grt_lse_strip(s.strip.row(r));
                if (grt_tid() % GRT_STRIP_LANES == 0 && r < left) grt_lse_store(to + r, a.rows, stats);
            }
        }
        logprob_store_dz<S>(a, s.strip, s.rows + first, row0 + first, left, col0);
    }
}

template <class G, int SHARED_32, int SHARED_64>
GRT_DEV void logprob_bwd_dz(const LogprobBwdArgs& a) {
    static_assert(sizeof(LogprobBwdShared<G>) == (GRT_WAVE == 32 ? SHARED_32 : SHARED_64),
                  "mirrored in src/ops/gpu/linear_logprob.rs");
    logprob_dz<G>(a);
}
GRT_KERNEL(linear_logprob_bwd_dz_bf16, LogprobBwdArgs, HEAD_THREADS) {
    logprob_bwd_dz<HeadTile<GRT_ALONG, GRT_ALONG>, 68096, 37376>(a);
}
GRT_KERNEL(linear_logprob_bwd_dz_odd_bf16, LogprobBwdArgs, HEAD_THREADS) {
    logprob_bwd_dz<HeadTileOdd<GRT_ALONG, GRT_ALONG>, 37376, 37376>(a);
}
GRT_KERNEL(linear_logprob_bwd_dz_f32, LogprobBwdArgs, HEAD_THREADS) {
    logprob_bwd_dz<HeadSingle<GRT_ALONG, GRT_ALONG>, 37376, 37376>(a);
}
GRT_KERNEL(linear_logprob_bwd_dz_odd_f32, LogprobBwdArgs, HEAD_THREADS) {
    logprob_bwd_dz<HeadSingleOdd<GRT_ALONG, GRT_ALONG>, 37376, 37376>(a);
}

// Runs of columns on their way to a matrix of singles [rows,cols], from element (m0,n0) on.
template <int VEC>
struct logprob_out {
    float* to;
    int64_t cols;
    int rows, m0, n0;
    bool add, vectors;

    GRT_DEV_MEMBER void operator()(int row, int col, float (&v)[VEC]) const {
        const int m = m0 + row, n = n0 + col;
        if (m >= rows || n >= cols) return;
        float* p = to + m * cols + n;
        if (vectors) {
            GRT_UNROLL for (int i = 0; i < VEC; i += 4) {
                float x[4] = {0, 0, 0, 0};
                if (add) grt_load_vec(p + i, x);
                GRT_UNROLL for (int c = 0; c < 4; c++) x[c] += v[i + c];
                grt_store_vec(p + i, x);
            }
        } else {
            GRT_UNROLL for (int c = 0; c < VEC; c++)
                if (n + c < cols) grt_store(p + c, add ? grt_load(p + c) + v[c] : v[c]);
        }
    }
};

// Statistics of the chunk's tiles from those of its strips, for 128 active rows.
GRT_DEV void logprob_tiles(const LogprobBwdArgs& a, int row0, int count) {
    const int row = row0 + grt_tid();
    if (grt_tid() >= HEAD_BM || row >= count) return;
    for (int t = 0; t < grt_tiles(a.cols, GRT_VOCAB_TILE); t++) {
        const int tile = a.first / GRT_VOCAB_TILE + t;
        const float* strips = a.strips + (int64_t)3 * GRT_STRIPS * t * a.rows;
        grt_lse all = logprob_row(strips, grt_strips(a.vocab, tile), a.rows, row);
        grt_lse_store(a.parts + (int64_t)3 * tile * a.rows + row, a.rows, all);
    }
}

// sums[rows,H] (+)= dz[rows,cols] W[cols,H].
template <class G, int SHARED_32, int SHARED_64>
GRT_DEV void logprob_sums(const LogprobBwdArgs& a) {
    using S = typename G::Type;
    static_assert(sizeof(typename G::Shared) == (GRT_WAVE == 32 ? SHARED_32 : SHARED_64),
                  "mirrored in src/ops/gpu/linear_logprob.rs");
    GRT_DYNAMIC_SHARED(raw);
    typename G::Shared& shared = *(typename G::Shared*)raw;
    const int count = grt_load(a.count);
    int m, n;
    grt_tile_order(grt_block_x(), grt_tiles(a.rows, HEAD_BM), grt_tiles(a.hidden, G::BN), m, n);
    const int row0 = m * HEAD_BM, col0 = n * G::BN;
    if (row0 >= count) return;
    if (a.check && n == 0) logprob_tiles(a, row0, count);
    const S* w = (const S*)a.w + (int64_t)a.first * a.hidden;
    const grt_term<S> term = {{(const S*)a.dz, a.stride, count}, {w, a.hidden, a.hidden}, a.cols};
    G g;
    g.clear();
    g.multiply(shared, term, grt_no_term<S>(), row0, col0);
    logprob_out<G::VEC> out = {a.sums, a.hidden, count, row0, col0, a.first > 0, a.hidden % G::VEC == 0};
    g.vectors(shared, out);
}

// dw[cols,H] += dz[rows,cols]^T h[rows,H].
template <class G, int SHARED_32, int SHARED_64>
GRT_DEV void logprob_dw(const LogprobBwdArgs& a) {
    using S = typename G::Type;
    static_assert(sizeof(typename G::Shared) == (GRT_WAVE == 32 ? SHARED_32 : SHARED_64),
                  "mirrored in src/ops/gpu/linear_logprob.rs");
    GRT_DYNAMIC_SHARED(raw);
    typename G::Shared& shared = *(typename G::Shared*)raw;
    const int count = grt_load(a.count);
    if (count == 0) return;
    int m, n;
    grt_tile_order(grt_block_x(), grt_tiles(a.cols, HEAD_BM), grt_tiles(a.hidden, G::BN), m, n);
    const int row0 = m * HEAD_BM, col0 = n * G::BN;
    const grt_term<S> term = {{(const S*)a.dz, a.stride, a.cols}, {(const S*)a.active, a.hidden, a.hidden}, count};
    G g;
    g.clear();
    g.multiply(shared, term, grt_no_term<S>(), row0, col0);
    float* dw = a.dw + (int64_t)a.first * a.hidden;
    logprob_out<G::VEC> out = {dw, a.hidden, a.cols, row0, col0, true, a.hidden % G::VEC == 0};
    g.vectors(shared, out);
}

GRT_KERNEL(linear_logprob_bwd_sums_bf16, LogprobBwdArgs, HEAD_THREADS) {
    logprob_sums<HeadTile<GRT_ALONG, GRT_ACROSS>, 65536, 32768>(a);
}
GRT_KERNEL(linear_logprob_bwd_sums_odd_bf16, LogprobBwdArgs, HEAD_THREADS) {
    logprob_sums<HeadTileOdd<GRT_ALONG, GRT_ACROSS>, 32768, 32768>(a);
}
GRT_KERNEL(linear_logprob_bwd_sums_f32, LogprobBwdArgs, HEAD_THREADS) {
    logprob_sums<HeadSingle<GRT_ALONG, GRT_ACROSS>, 33792, 33792>(a);
}
GRT_KERNEL(linear_logprob_bwd_sums_odd_f32, LogprobBwdArgs, HEAD_THREADS) {
    logprob_sums<HeadSingleOdd<GRT_ALONG, GRT_ACROSS>, 33792, 33792>(a);
}
GRT_KERNEL(linear_logprob_bwd_dw_bf16, LogprobBwdArgs, HEAD_THREADS) {
    logprob_dw<HeadTile<GRT_ACROSS, GRT_ACROSS>, 65536, 32768>(a);
}
GRT_KERNEL(linear_logprob_bwd_dw_odd_bf16, LogprobBwdArgs, HEAD_THREADS) {
    logprob_dw<HeadTileOdd<GRT_ACROSS, GRT_ACROSS>, 32768, 32768>(a);
}
GRT_KERNEL(linear_logprob_bwd_dw_f32, LogprobBwdArgs, HEAD_THREADS) {
    logprob_dw<HeadSingle<GRT_ACROSS, GRT_ACROSS>, 33792, 33792>(a);
}
GRT_KERNEL(linear_logprob_bwd_dw_odd_f32, LogprobBwdArgs, HEAD_THREADS) {
    logprob_dw<HeadSingleOdd<GRT_ACROSS, GRT_ACROSS>, 33792, 33792>(a);
}

// Rounds an active row's sums to its place in dh. A block has a row.
template <class S>
GRT_DEV void logprob_scatter(const LogprobBwdArgs& a) {
    const int n = grt_block_x();
    if (n >= grt_load(a.count)) return;
    const float* from = a.sums + (int64_t)n * a.hidden;
    S* to = (S*)a.dh + (int64_t)grt_load(a.index + n) * a.hidden;
    if (a.hidden % 8 == 0) {
        constexpr int N = grt_vec<S>::N;
        for (int c = N * grt_tid(); c < a.hidden; c += N * grt_threads()) {
            float x[N];
            GRT_UNROLL for (int k = 0; k < N; k += 4) {
                float y[4];
                grt_load_vec(from + c + k, y);
                GRT_UNROLL for (int i = 0; i < 4; i++) x[k + i] = y[i];
            }
            grt_store_vec(to + c, x);
        }
    } else {
        for (int c = grt_tid(); c < a.hidden; c += grt_threads())
            grt_store(to + c, grt_load(from + c));
    }
}
GRT_KERNEL(linear_logprob_bwd_scatter_f32, LogprobBwdArgs, 128) { logprob_scatter<float>(a); }
GRT_KERNEL(linear_logprob_bwd_scatter_bf16, LogprobBwdArgs, 128) { logprob_scatter<grt_bf16>(a); }

// Overwrites what the rollout said of an active row with what was found here. A thread has a row.
GRT_KERNEL(linear_logprob_bwd_check, LogprobBwdArgs, 64) {
    const int n = grt_block_x() * grt_threads() + grt_tid();
    if (n >= grt_load(a.count)) return;
    const int row = grt_load(a.index + n);
    grt_lse all = logprob_row(a.parts, a.tiles, a.rows, n);
    grt_store(a.logp + row, grt_lse_logp(all, grt_load(a.logits + n)));
    grt_store(a.entropy + row, grt_lse_entropy(all));
}
