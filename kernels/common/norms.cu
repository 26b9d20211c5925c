// Normalisation of rows and the sums over rows that are the gradients of its parameters. A block owns a
// row, so a row's numbers depend on its length alone; sums over rows go through partial sums of chunks
// of rows at fixed places, each in one order. No sum depends on which block ran first.
#include "../include/grt_group.h"
#include "../include/grt_reduce.h"

// Groups of a row that a thread keeps in registers.
#define NORM_HELD 4

// The groups tid, tid + threads, ... of ROWS rows of one length, walked any number of times. They are
// kept in registers if they are few and aligned; else they are read again on every walk, element by
// element.
template <class S, int ROWS>
struct norm_rows {
    static constexpr int N = grt_vec<S>::N;
    const S* row[ROWS];
    int cols;
    bool held;
    grt_u128 kept[ROWS][NORM_HELD];

    GRT_DEV_MEMBER void start(int length) {
        cols = length;
        held = length % N == 0 && length <= NORM_HELD * N * grt_threads();
        if (!held) return;
        GRT_UNROLL for (int k = 0; k < NORM_HELD; k++) {
            int col = (grt_tid() + k * grt_threads()) * N;
            GRT_UNROLL for (int r = 0; r < ROWS; r++)
                if (col < cols) kept[r][k] = grt_load16(row[r] + col);
        }
    }
    // Calls f(group, elements of every row) for each group.
    template <class F>
    GRT_DEV_MEMBER void each(F f) const {
        float x[ROWS][N];
        if (held) {
            GRT_UNROLL for (int k = 0; k < NORM_HELD; k++) {
                int col = (grt_tid() + k * grt_threads()) * N;
                if (col >= cols) break;
                GRT_UNROLL for (int r = 0; r < ROWS; r++) grt_unpack(kept[r][k], x[r]);
                f(grt_group<true>{col, 0, col, N}, x);
            }
        } else {
            for (int col = grt_tid() * N; col < cols; col += grt_threads() * N) {
                grt_group<false> g = {col, 0, col, cols - col < N ? cols - col : N};
                GRT_UNROLL for (int r = 0; r < ROWS; r++) grt_load_group(row[r] + col, g, x[r]);
                f(g, x);
            }
        }
    }
};

// Two sums over the block at once.
struct norm_pair_scratch {
    float x[1024 / GRT_WAVE];
    float y[1024 / GRT_WAVE];
};
GRT_DEV void norm_pair_sum(float& x, float& y, norm_pair_scratch& s) {
    x = grt_wave_sum(x);
    y = grt_wave_sum(y);
    if (grt_lane() == 0) {
        s.x[grt_wave()] = x;
        s.y[grt_wave()] = y;
    }
    grt_sync();
    x = y = 0;
    for (int i = 0; i < grt_waves(); i++) {
        x += s.x[i];
        y += s.y[i];
    }
}

// y = w * (x * rstd), rstd = 1 / sqrt(mean of x^2 + eps): a block per row.
struct RmsNormArgs {
    const void* x;
    const float* w;
    void* y;
    float* rstd;
    int cols;
    float eps;
};
static_assert(sizeof(RmsNormArgs) == 40, "mirrored in src/ops/rms_norm.rs");

template <class S>
GRT_DEV void rms_norm_fwd(const RmsNormArgs& a) {
    GRT_SHARED(grt_block_scratch, scratch);
    constexpr int N = grt_vec<S>::N;
    int64_t at = (int64_t)grt_block_x() * a.cols;
    norm_rows<S, 1> rows;
    rows.row[0] = (const S*)a.x + at;
    rows.start(a.cols);
    float sum = 0;
    rows.each([&](auto, const auto& x) {
        GRT_UNROLL for (int i = 0; i < N; i++) sum = grt_fma(x[0][i], x[0][i], sum);
    });
    sum = grt_block_sum(sum, scratch);
    float r = 1.0f / grt_sqrt(sum / (float)a.cols + a.eps);
    rows.each([&](auto g, const auto& x) {
        float w[N], y[N];
        grt_load_group(a.w + g.col, g, w);
        GRT_UNROLL for (int i = 0; i < N; i++) y[i] = w[i] * (x[0][i] * r);
        grt_store_group((S*)a.y + at + g.col, g, y);
    });
    if (grt_tid() == 0) grt_store(a.rstd + grt_block_x(), r);
}
GRT_KERNEL(rms_norm_fwd_f32, RmsNormArgs, 512) { rms_norm_fwd<float>(a); }
GRT_KERNEL(rms_norm_fwd_bf16, RmsNormArgs, 512) { rms_norm_fwd<grt_bf16>(a); }

// dx = rstd * (w dy - x * rstd^2 * mean of w dy x): a block per row.
struct RmsNormBwdInputArgs {
    const void* x;
    const float* w;
    const float* rstd;
    const void* dy;
    void* dx;
    int cols;
    int unused;
};
static_assert(sizeof(RmsNormBwdInputArgs) == 48, "mirrored in src/ops/rms_norm.rs");

template <class S>
GRT_DEV void rms_norm_bwd_input(const RmsNormBwdInputArgs& a) {
    GRT_SHARED(grt_block_scratch, scratch);
    constexpr int N = grt_vec<S>::N;
    int64_t at = (int64_t)grt_block_x() * a.cols;
    norm_rows<S, 2> rows;
    rows.row[0] = (const S*)a.x + at;
    rows.row[1] = (const S*)a.dy + at;
    rows.start(a.cols);
    float sum = 0;
    rows.each([&](auto g, const auto& x) {
        float w[N];
        grt_load_group(a.w + g.col, g, w);
        GRT_UNROLL for (int i = 0; i < N; i++) sum = grt_fma(x[0][i] * w[i], x[1][i], sum);
    });
    sum = grt_block_sum(sum, scratch);
    float r = grt_load(a.rstd + grt_block_x());
    float c = sum * r * r / (float)a.cols;
    rows.each([&](auto g, const auto& x) {
        float w[N], dx[N];
        grt_load_group(a.w + g.col, g, w);
        GRT_UNROLL for (int i = 0; i < N; i++)
            dx[i] = r * grt_fma(w[i], x[1][i], -(x[0][i] * c));
        grt_store_group((S*)a.dx + at + g.col, g, dx);
    });
}
GRT_KERNEL(rms_norm_bwd_input_f32, RmsNormBwdInputArgs, 512) { rms_norm_bwd_input<float>(a); }
GRT_KERNEL(rms_norm_bwd_input_bf16, RmsNormBwdInputArgs, 512) { rms_norm_bwd_input<grt_bf16>(a); }

// y = (x - mean) * rstd * w + b with the biased variance: a block per row.
struct LayerNormArgs {
    const void* x;
    const float* w;
    const float* b;
    void* y;
    float* mean;
    float* rstd;
    int cols;
    float eps;
};
static_assert(sizeof(LayerNormArgs) == 56, "mirrored in src/ops/layer_norm.rs");

template <class S>
GRT_DEV void layer_norm_fwd(const LayerNormArgs& a) {
    GRT_SHARED(grt_block_scratch, scratch);
    constexpr int N = grt_vec<S>::N;
    int64_t at = (int64_t)grt_block_x() * a.cols;
    norm_rows<S, 1> rows;
    rows.row[0] = (const S*)a.x + at;
    rows.start(a.cols);
    float sum = 0;
    rows.each([&](auto, const auto& x) {
        GRT_UNROLL for (int i = 0; i < N; i++) sum += x[0][i];
    });
    float m = grt_block_sum(sum, scratch) / (float)a.cols;
    float squares = 0;
    rows.each([&](auto g, const auto& x) {
        GRT_UNROLL for (int i = 0; i < N; i++) {
            float d = i < g.count ? x[0][i] - m : 0.0f;
            squares = grt_fma(d, d, squares);
        }
    });
    float variance = grt_block_sum(squares, scratch) / (float)a.cols;
    float r = 1.0f / grt_sqrt(variance + a.eps);
    rows.each([&](auto g, const auto& x) {
        float w[N], b[N], y[N];
        grt_load_group(a.w + g.col, g, w);
        grt_load_group(a.b + g.col, g, b);
        GRT_UNROLL for (int i = 0; i < N; i++) y[i] = grt_fma((x[0][i] - m) * r, w[i], b[i]);
        grt_store_group((S*)a.y + at + g.col, g, y);
    });
    if (grt_tid() == 0) {
        grt_store(a.mean + grt_block_x(), m);
        grt_store(a.rstd + grt_block_x(), r);
    }
}
GRT_KERNEL(layer_norm_fwd_f32, LayerNormArgs, 512) { layer_norm_fwd<float>(a); }
GRT_KERNEL(layer_norm_fwd_bf16, LayerNormArgs, 512) { layer_norm_fwd<grt_bf16>(a); }

// With x^ = (x - mean) * rstd and g = w dy: dx = rstd * (g - mean of g - x^ * mean of g x^).
struct LayerNormBwdInputArgs {
    const void* x;
    const float* w;
    const float* mean;
    const float* rstd;
    const void* dy;
    void* dx;
    int cols;
    int unused;
};
static_assert(sizeof(LayerNormBwdInputArgs) == 56, "mirrored in src/ops/layer_norm.rs");

template <class S>
GRT_DEV void layer_norm_bwd_input(const LayerNormBwdInputArgs& a) {
    GRT_SHARED(norm_pair_scratch, scratch);
    constexpr int N = grt_vec<S>::N;
    int64_t at = (int64_t)grt_block_x() * a.cols;
    float m = grt_load(a.mean + grt_block_x()), r = grt_load(a.rstd + grt_block_x());
    norm_rows<S, 2> rows;
    rows.row[0] = (const S*)a.x + at;
    rows.row[1] = (const S*)a.dy + at;
    rows.start(a.cols);
    float mean_g = 0, mean_gx = 0;
    rows.each([&](auto g, const auto& x) {
        float w[N];
        grt_load_group(a.w + g.col, g, w);
        // Beyond the row w is 0.
        GRT_UNROLL for (int i = 0; i < N; i++) {
            float g = w[i] * x[1][i];
            mean_g += g;
            mean_gx = grt_fma(g, (x[0][i] - m) * r, mean_gx);
        }
    });
    norm_pair_sum(mean_g, mean_gx, scratch);
    mean_g /= (float)a.cols;
    mean_gx /= (float)a.cols;
    rows.each([&](auto g, const auto& x) {
        float w[N], dx[N];
        grt_load_group(a.w + g.col, g, w);
        GRT_UNROLL for (int i = 0; i < N; i++) {
            float normalised = (x[0][i] - m) * r;
            dx[i] = r * grt_fma(-normalised, mean_gx, grt_fma(w[i], x[1][i], -mean_g));
        }
        grt_store_group((S*)a.dx + at + g.col, g, dx);
    });
}
GRT_KERNEL(layer_norm_bwd_input_f32, LayerNormBwdInputArgs, 512) {
    layer_norm_bwd_input<float>(a);
}
GRT_KERNEL(layer_norm_bwd_input_bf16, LayerNormBwdInputArgs, 512) {
    layer_norm_bwd_input<grt_bf16>(a);
}

// Sums over rows. A block sums a chunk of rows of some columns: 32 groups of columns side by side,
// each by 8 teams that take every eighth row; the teams' sums are then added in order.
#define FOLD_LANES 32
#define FOLD_TEAMS 8
#define FOLD_THREADS (FOLD_LANES * FOLD_TEAMS)
// Rows of a chunk; a constant of src/ops/gpu/fold.rs too.
#define FOLD_ROWS 128
// Rows that a thread has under way.
#define FOLD_STEP 4

// part[chunk, cols] = sum over the chunk's rows of dy * (x - mean) * rstd; no mean is a mean of 0, no
// rstd one of 1. Where there is no x, of dy.
struct FoldRowsArgs {
    const void* x;
    const float* mean;
    const float* rstd;
    const void* dy;
    float* part;
    int rows;
    int cols;
};
static_assert(sizeof(FoldRowsArgs) == 48, "mirrored in src/ops/gpu/fold.rs");

template <int COLS>
struct fold_sums {
    float of[FOLD_TEAMS][COLS];
};

// Adds the rows start + team, start + team + FOLD_TEAMS, ... before `end` of a group of columns.
template <class S, int N, bool WIDE>
GRT_DEV void fold_group(const FoldRowsArgs& a, const grt_group<WIDE>& g, int start, int end,
                        float (&sum)[N]) {
    for (int row = start + grt_tid() / FOLD_LANES; row < end; row += FOLD_STEP * FOLD_TEAMS) {
        float x[FOLD_STEP][N], dy[FOLD_STEP][N], m[FOLD_STEP], r[FOLD_STEP];
        GRT_UNROLL for (int k = 0; k < FOLD_STEP; k++) {
            // Beyond the end the first row is read again, so that no branch parts the loads.
            int t = row + k * FOLD_TEAMS < end ? row + k * FOLD_TEAMS : row;
            int64_t at = (int64_t)t * a.cols + g.col;
            grt_load_group((const S*)a.dy + at, g, dy[k]);
            if (!a.x) continue;
            grt_load_group((const S*)a.x + at, g, x[k]);
            r[k] = a.rstd ? grt_load(a.rstd + t) : 1.0f;
            m[k] = a.mean ? grt_load(a.mean + t) : 0.0f;
        }
        GRT_UNROLL for (int k = 0; k < FOLD_STEP; k++) {
            if (row + k * FOLD_TEAMS >= end) break;
            GRT_UNROLL for (int i = 0; i < N; i++)
                sum[i] = a.x ? grt_fma((x[k][i] - m[k]) * r[k], dy[k][i], sum[i])
                             : sum[i] + dy[k][i];
        }
    }
}

template <class S>
GRT_DEV void fold_rows(const FoldRowsArgs& a) {
    constexpr int N = grt_vec<S>::N;
    GRT_SHARED(fold_sums<FOLD_LANES * N>, sums);
    int lane = grt_tid() % FOLD_LANES, team = grt_tid() / FOLD_LANES;
    int first = grt_block_x() * FOLD_LANES * N, col = first + lane * N;
    int left = a.cols - col;
    int start = grt_block_y() * FOLD_ROWS;
    int end = start + FOLD_ROWS < a.rows ? start + FOLD_ROWS : a.rows;
    float sum[N] = {};
    if (left > 0 && a.cols % N == 0)
        fold_group<S>(a, grt_group<true>{col, 0, col, N}, start, end, sum);
    else if (left > 0)
        fold_group<S>(a, grt_group<false>{col, 0, col, left < N ? left : N}, start, end, sum);
    GRT_UNROLL for (int i = 0; i < N; i++) sums.of[team][lane * N + i] = sum[i];
    grt_sync();
    int c = grt_tid();
    if (c >= FOLD_LANES * N || first + c >= a.cols) return;
    float total = 0;
    GRT_UNROLL for (int i = 0; i < FOLD_TEAMS; i++) total += sums.of[i][c];
    grt_store(a.part + (int64_t)grt_block_y() * a.cols + first + c, total);
}
GRT_KERNEL(fold_rows_f32, FoldRowsArgs, FOLD_THREADS) { fold_rows<float>(a); }
GRT_KERNEL(fold_rows_bf16, FoldRowsArgs, FOLD_THREADS) { fold_rows<grt_bf16>(a); }

// out = sum of the chunks' sums, or out += it where `add` is not 0: a thread per column and team.
struct FoldChunksArgs {
    const float* part;
    float* out;
    int chunks;
    int cols;
    int add;
    int unused;
};
static_assert(sizeof(FoldChunksArgs) == 32, "mirrored in src/ops/gpu/fold.rs");

GRT_KERNEL(fold_chunks, FoldChunksArgs, FOLD_THREADS) {
    GRT_SHARED(fold_sums<FOLD_LANES>, sums);
    int lane = grt_tid() % FOLD_LANES, team = grt_tid() / FOLD_LANES;
    int col = grt_block_x() * FOLD_LANES + lane;
    float sum = 0;
    if (col < a.cols)
        for (int chunk = team; chunk < a.chunks; chunk += FOLD_TEAMS)
            sum += grt_load(a.part + (int64_t)chunk * a.cols + col);
    sums.of[team][lane] = sum;
    grt_sync();
    if (team != 0 || col >= a.cols) return;
    float total = 0;
    GRT_UNROLL for (int i = 0; i < FOLD_TEAMS; i++) total += sums.of[i][lane];
    grt_store(a.out + col, a.add ? grt_load((const float*)a.out + col) + total : total);
}
