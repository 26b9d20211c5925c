// Ops that treat every element alone: sums, copies of columns, activations and dropout, forward and
// backward. One group of 16 bytes per thread, each tensor read or written once; nothing is reduced
// here.
#include "../include/grt_group.h"
#include "../include/grt_math.h"
#include "../include/grt_philox.h"

// y = a + b, of n elements.
struct AddArgs {
    const void* a;
    const void* b;
    void* y;
    int64_t n;
};
static_assert(sizeof(AddArgs) == 32, "mirrored in src/ops/add.rs");

template <class S>
GRT_DEV void add_fwd(const AddArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_flat<S>(a.n, [&](auto g) {
        float x[N], y[N];
        grt_load_group((const S*)a.a + g.at, g, x);
        grt_load_group((const S*)a.b + g.at, g, y);
        GRT_UNROLL for (int i = 0; i < N; i++) x[i] += y[i];
        grt_store_group((S*)a.y + g.at, g, x);
    });
}
GRT_KERNEL(add_fwd_f32, AddArgs, 256) { add_fwd<float>(a); }
GRT_KERNEL(add_fwd_bf16, AddArgs, 256) { add_fwd<grt_bf16>(a); }

// g += x, of n elements; g in singles.
struct AccumulateArgs {
    const void* x;
    float* g;
    int64_t n;
};
static_assert(sizeof(AccumulateArgs) == 24, "mirrored in src/ops/accumulate.rs");

template <class S>
GRT_DEV void accumulate(const AccumulateArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_flat<S>(a.n, [&](auto g) {
        float x[N], sum[N];
        grt_load_group((const S*)a.x + g.at, g, x);
        grt_load_group((const float*)a.g + g.at, g, sum);
        GRT_UNROLL for (int i = 0; i < N; i++) sum[i] += x[i];
        grt_store_group(a.g + g.at, g, sum);
    });
}
GRT_KERNEL(accumulate_f32, AccumulateArgs, 256) { accumulate<float>(a); }
GRT_KERNEL(accumulate_bf16, AccumulateArgs, 256) { accumulate<grt_bf16>(a); }

// y = kept y + share x, of n elements.
struct BlendArgs {
    const void* x;
    void* y;
    int64_t n;
    float kept;
    float share;
};
static_assert(sizeof(BlendArgs) == 32, "mirrored in src/ops/blend.rs");

template <class S>
GRT_DEV void blend(const BlendArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_flat<S>(a.n, [&](auto g) {
        float x[N], y[N];
        grt_load_group((const S*)a.x + g.at, g, x);
        grt_load_group((const S*)a.y + g.at, g, y);
        GRT_UNROLL for (int i = 0; i < N; i++) y[i] = grt_fma(a.share, x[i], grt_mul(a.kept, y[i]));
        grt_store_group((S*)a.y + g.at, g, y);
    });
}
GRT_KERNEL(blend_f32, BlendArgs, 256) { blend<float>(a); }
GRT_KERNEL(blend_bf16, BlendArgs, 256) { blend<grt_bf16>(a); }

// y = x rounded to bf16, of n elements: the gradient of a product that was kept in singles.
struct NarrowArgs {
    const float* x;
    void* y;
    int64_t n;
};
static_assert(sizeof(NarrowArgs) == 24, "mirrored in src/ops/matmul.rs");

GRT_KERNEL(matmul_bwd_narrow, NarrowArgs, 256) {
    grt_flat<float>(a.n, [&](auto g) {
        float x[4];
        grt_load_group(a.x + g.at, g, x);
        grt_bf16* y = (grt_bf16*)a.y + g.at;
        GRT_UNROLL for (int i = 0; i < 4; i++)
            if (i < g.count) grt_store(y + i, x[i]);
    });
}

// A matrix [rows, cols] out of one whose rows are from_stride elements apart into one whose rows are
// to_stride apart. Without `from`, zeros. `aligned`: strides and the offsets of the first elements are
// whole groups, so a group may move in one access if it is whole itself.
struct SplitArgs {
    const void* from;
    void* to;
    int from_stride;
    int to_stride;
    int rows;
    int cols;
    int aligned;
    int unused;
};
static_assert(sizeof(SplitArgs) == 40, "mirrored in src/ops/split.rs");

template <class S, bool WIDE>
GRT_DEV void split_group(const SplitArgs& a, const grt_group<WIDE>& g) {
    constexpr int N = grt_vec<S>::N;
    S* to = (S*)a.to + (int64_t)g.row * a.to_stride + g.col;
    if (a.from) {
        grt_copy_group((const S*)a.from + (int64_t)g.row * a.from_stride + g.col, to, g);
    } else {
        float zeros[N] = {};
        grt_store_group(to, g, zeros);
    }
}
template <class S>
GRT_DEV void split_copy(const SplitArgs& a) {
    grt_rows<S>(a.rows, a.cols, [&](auto g) {
        if (a.aligned) split_group<S>(a, g);
        else split_group<S>(a, grt_group<false>{g.at, g.row, g.col, g.count});
    });
}
GRT_KERNEL(split_copy_f32, SplitArgs, 256) { split_copy<float>(a); }
GRT_KERNEL(split_copy_bf16, SplitArgs, 256) { split_copy<grt_bf16>(a); }

// y[t, j rows + i] = x[t, i cols + j] for each of `count` rows t. A thread gathers the group that it
// stores; what its neighbours read beside it is in the cache.
struct TransposeArgs {
    const void* x;
    void* y;
    int count;
    int rows;
    int cols;
    int unused;
};
static_assert(sizeof(TransposeArgs) == 32, "mirrored in src/ops/transpose_columns.rs");

template <class S>
GRT_DEV void transpose_columns(const TransposeArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_rows<S>(a.count, a.rows * a.cols, [&](auto g) {
        const S* x = (const S*)a.x + (g.at - g.col);
        int j = (int)((uint32_t)g.col / (uint32_t)a.rows), i = g.col - j * a.rows;
        float y[N] = {};
        GRT_UNROLL for (int n = 0; n < N; n++) {
            if (n < g.count) y[n] = grt_load(x + i * a.cols + j);
            if (++i == a.rows) i = 0, j++;
        }
        grt_store_group((S*)a.y + g.at, g, y);
    });
}
GRT_KERNEL(transpose_columns_f32, TransposeArgs, 256) { transpose_columns<float>(a); }
GRT_KERNEL(transpose_columns_bf16, TransposeArgs, 256) { transpose_columns<grt_bf16>(a); }

// y = x * w, a weight per column.
struct ScaleColumnsArgs {
    const void* x;
    const float* w;
    void* y;
    int rows;
    int cols;
};
static_assert(sizeof(ScaleColumnsArgs) == 32, "mirrored in src/ops/scale_columns.rs");

template <class S>
GRT_DEV void scale_columns(const ScaleColumnsArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_rows<S>(a.rows, a.cols, [&](auto g) {
        float x[N], w[N];
        grt_load_group((const S*)a.x + g.at, g, x);
        grt_load_group(a.w + g.col, g, w);
        GRT_UNROLL for (int i = 0; i < N; i++) x[i] *= w[i];
        grt_store_group((S*)a.y + g.at, g, x);
    });
}
GRT_KERNEL(scale_columns_f32, ScaleColumnsArgs, 256) { scale_columns<float>(a); }
GRT_KERNEL(scale_columns_bf16, ScaleColumnsArgs, 256) { scale_columns<grt_bf16>(a); }

// y = silu(gate) * up, silu(g) = g * sigmoid(g).
struct SwigluArgs {
    const void* gate;
    const void* up;
    void* y;
    int64_t n;
};
static_assert(sizeof(SwigluArgs) == 32, "mirrored in src/ops/swiglu.rs");

template <class S>
GRT_DEV void swiglu_fwd(const SwigluArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_flat<S>(a.n, [&](auto g) {
        float x[N], u[N];
        grt_load_group((const S*)a.gate + g.at, g, x);
        grt_load_group((const S*)a.up + g.at, g, u);
        GRT_UNROLL for (int i = 0; i < N; i++) x[i] = x[i] * grt_sigmoid(x[i]) * u[i];
        grt_store_group((S*)a.y + g.at, g, x);
    });
}
GRT_KERNEL(swiglu_fwd_f32, SwigluArgs, 256) { swiglu_fwd<float>(a); }
GRT_KERNEL(swiglu_fwd_bf16, SwigluArgs, 256) { swiglu_fwd<grt_bf16>(a); }

// dgate = dy * up * silu'(gate), dup = dy * silu(gate); silu'(g) = s + g s (1 - s).
struct SwigluBwdArgs {
    const void* gate;
    const void* up;
    const void* dy;
    void* dgate;
    void* dup;
    int64_t n;
};
static_assert(sizeof(SwigluBwdArgs) == 48, "mirrored in src/ops/swiglu.rs");

template <class S>
GRT_DEV void swiglu_bwd(const SwigluBwdArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_flat<S>(a.n, [&](auto g) {
        float x[N], u[N], dy[N];
        grt_load_group((const S*)a.gate + g.at, g, x);
        grt_load_group((const S*)a.up + g.at, g, u);
        grt_load_group((const S*)a.dy + g.at, g, dy);
        GRT_UNROLL for (int i = 0; i < N; i++) {
            float s = grt_sigmoid(x[i]);
            float silu = x[i] * s;
            x[i] = dy[i] * u[i] * grt_fma(silu, 1.0f - s, s);
            u[i] = dy[i] * silu;
        }
        grt_store_group((S*)a.dgate + g.at, g, x);
        grt_store_group((S*)a.dup + g.at, g, u);
    });
}
GRT_KERNEL(swiglu_bwd_f32, SwigluBwdArgs, 256) { swiglu_bwd<float>(a); }
GRT_KERNEL(swiglu_bwd_bf16, SwigluBwdArgs, 256) { swiglu_bwd<grt_bf16>(a); }

// y = x * gate(x), or y = dy * (gate(x) + x * gate'(x)) where there is a dy. The kind: 0 the normal
// distribution function, 1 its approximation by tanh, 2 by the logistic function (arXiv 1606.08415).
struct GeluArgs {
    const void* x;
    const void* dy;
    void* y;
    int64_t n;
    int kind;
    int unused;
};
static_assert(sizeof(GeluArgs) == 40, "mirrored in src/ops/gelu.rs");

// The factor of x; sets the slope of the factor.
template <int KIND>
GRT_DEV float gelu_gate(float x, float& slope) {
    if (KIND == 0) {
        slope = 0.39894228f * grt_exp(-0.5f * x * x); // 1 / sqrt(2 pi)
        return grt_fma(0.5f, grt_erf(x * 0.70710678f), 0.5f);
    } else if (KIND == 1) {
        const float c = 0.79788456f; // sqrt(2 / pi)
        float s = x * x;
        float t = grt_tanh(c * grt_fma(x * s, 0.044715f, x));
        float rise = 0.5f * grt_fma(-t, t, 1.0f);
        // Far out the other factor overflows while this one is 0.
        slope = rise == 0.0f ? 0.0f : rise * (c * grt_fma(s, 0.134145f, 1.0f));
        return grt_fma(0.5f, t, 0.5f);
    } else {
        float s = grt_sigmoid(1.702f * x);
        slope = 1.702f * s * (1.0f - s);
        return s;
    }
}

template <class S, int KIND>
GRT_DEV void gelu_fwd(const GeluArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_flat<S>(a.n, [&](auto g) {
        float x[N], slope;
        grt_load_group((const S*)a.x + g.at, g, x);
        GRT_UNROLL for (int i = 0; i < N; i++) x[i] *= gelu_gate<KIND>(x[i], slope);
        grt_store_group((S*)a.y + g.at, g, x);
    });
}
template <class S, int KIND>
GRT_DEV void gelu_bwd(const GeluArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_flat<S>(a.n, [&](auto g) {
        float x[N], dy[N];
        grt_load_group((const S*)a.x + g.at, g, x);
        grt_load_group((const S*)a.dy + g.at, g, dy);
        GRT_UNROLL for (int i = 0; i < N; i++) {
            float slope, gate = gelu_gate<KIND>(x[i], slope);
            x[i] = dy[i] * grt_fma(x[i], slope, gate);
        }
        grt_store_group((S*)a.y + g.at, g, x);
    });
}
template <class S>
GRT_DEV void gelu_fwd_kind(const GeluArgs& a) {
    if (a.kind == 0) gelu_fwd<S, 0>(a);
    else if (a.kind == 1) gelu_fwd<S, 1>(a);
    else gelu_fwd<S, 2>(a);
}
template <class S>
GRT_DEV void gelu_bwd_kind(const GeluArgs& a) {
    if (a.kind == 0) gelu_bwd<S, 0>(a);
    else if (a.kind == 1) gelu_bwd<S, 1>(a);
    else gelu_bwd<S, 2>(a);
}
GRT_KERNEL(gelu_fwd_f32, GeluArgs, 256) { gelu_fwd_kind<float>(a); }
GRT_KERNEL(gelu_fwd_bf16, GeluArgs, 256) { gelu_fwd_kind<grt_bf16>(a); }
GRT_KERNEL(gelu_bwd_f32, GeluArgs, 256) { gelu_bwd_kind<float>(a); }
GRT_KERNEL(gelu_bwd_bf16, GeluArgs, 256) { gelu_bwd_kind<grt_bf16>(a); }

// y = x * scale, or 0 where the generator's word is below the threshold. `key` is (sample, token) of
// every row; `lane` is the generator's lane of the first four columns.
struct DropoutArgs {
    const void* x;
    const int* key;
    void* y;
    int rows;
    int cols;
    uint32_t key0;
    uint32_t key1;
    uint32_t step;
    uint32_t lane;
    uint32_t threshold;
    float scale;
};
static_assert(sizeof(DropoutArgs) == 56, "mirrored in src/ops/dropout.rs");

template <class S>
GRT_DEV void dropout_any(const DropoutArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_rows<S>(a.rows, a.cols, [&](auto g) {
        uint32_t sample = (uint32_t)grt_load(a.key + 2 * (int64_t)g.row);
        uint32_t token = (uint32_t)grt_load(a.key + 2 * (int64_t)g.row + 1);
        float x[N];
        grt_load_group((const S*)a.x + g.at, g, x);
        GRT_UNROLL for (int q = 0; q < N; q += 4) {
            uint32_t lane = a.lane + (uint32_t)(g.col + q) / 4;
            grt_random r = grt_philox(a.key0, a.key1, a.step, sample, token, lane);
            GRT_UNROLL for (int i = 0; i < 4; i++)
                x[q + i] = r.w[i] < a.threshold ? 0.0f : x[q + i] * a.scale;
        }
        grt_store_group((S*)a.y + g.at, g, x);
    });
}
GRT_KERNEL(dropout_f32, DropoutArgs, 256) { dropout_any<float>(a); }
GRT_KERNEL(dropout_bf16, DropoutArgs, 256) { dropout_any<grt_bf16>(a); }
