// Every linear layer, forward and backward, and the gradient of its bias. A kernel is one product of up
// to two terms, C = A B + A' B', with C scaled, given a bias or added to what is there: the low-rank
// adapter is the second term of the same sum, never a product of its own. Which tile a product gets is
// the host's choice by its size and changes no bit. Nothing here splits a sum over blocks.
//
// T tokens, K inner size, N outputs, R rank.
//   forward  y[T,N]  = x[T,K] W[N,K]^T + s[T,R] B[N,R]^T       both factors along the inner index
//   s        s[T,R]  = scale x A[R,K]^T                         the same
//   dx       dx[T,K] = dy[T,N] W[N,K] + ds[T,R] A[R,K]          second factor across it
//   ds       ds[T,R] = scale dy B[N,R]                          the same
//   dw       dw[N,K] += dy[T,N]^T x[T,K]                        both across it
#include "../include/grt_gemm.h"

// What becomes of a sum.
enum MatmulOut {
    MATMUL_STORE = 0, // rounded to the factors' type
    MATMUL_WIDE = 1,  // kept as a single
    MATMUL_ADD = 2,   // added to the single that is there
};

struct MatmulArgs {
    const void* a;
    const void* b;
    const void* a2; // the second term, read if depth2 > 0
    const void* b2;
    const float* bias; // [cols] or null
    void* y;           // [rows, cols]
    int64_t stride_a;  // elements between two rows in memory
    int64_t stride_b;
    int64_t stride_a2;
    int64_t stride_b2;
    int rows;
    int cols;
    int depth;
    int depth2;
    float scale; // of the sum, before the bias
    int out;     // MatmulOut
    int vectors; // 1: rows of y are multiples of 16 bytes, 2: of 4
    int unused;
};
static_assert(sizeof(MatmulArgs) == 112, "mirrored in src/ops/gpu/matmul.rs");

// Scale, bias and rounding of runs of VEC columns.
template <class S, int VEC>
struct matmul_finish {
    const MatmulArgs& a;
    int m0, n0;

    // A run of 8 columns may end in its middle where y has singles.
    GRT_DEV_MEMBER void store(int64_t at, int n, const float (&v)[VEC]) const {
        if (a.out == MATMUL_STORE) {
            GRT_UNROLL for (int i = 0; i < VEC; i += grt_vec<S>::N) {
                float x[grt_vec<S>::N];
                GRT_UNROLL for (int c = 0; c < grt_vec<S>::N; c++) x[c] = v[i + c];
                grt_store_vec((S*)a.y + at + i, x);
            }
            return;
        }
        GRT_UNROLL for (int i = 0; i < VEC; i += 4) {
            if (n + i >= a.cols) break;
            float* to = (float*)a.y + at + i;
            float x[4] = {0, 0, 0, 0};
            if (a.out == MATMUL_ADD) grt_load_vec(to, x);
            GRT_UNROLL for (int c = 0; c < 4; c++) x[c] += v[i + c];
            grt_store_vec(to, x);
        }
    }
    // Of bf16, two at a time.
    GRT_DEV_MEMBER void store_pairs(int64_t at, int n, const float (&v)[VEC]) const {
        GRT_UNROLL for (int c = 0; c < VEC; c += 2) {
            if (n + c >= a.cols) break;
            float x = v[c], y = v[c + 1];
            if (a.bias) {
                x += grt_load(a.bias + n + c);
                y += grt_load(a.bias + n + c + 1);
            }
            grt_store((uint32_t*)((S*)a.y + at + c), grt_pack_bf16(x, y));
        }
    }
    GRT_DEV_MEMBER void store_one(int64_t at, float v) const {
        if (a.out == MATMUL_STORE) grt_store((S*)a.y + at, v);
        else if (a.out == MATMUL_WIDE) grt_store((float*)a.y + at, v);
        else grt_store((float*)a.y + at, grt_load((const float*)a.y + at) + v);
    }
    GRT_DEV_MEMBER void add_bias(int n, float (&v)[VEC]) const {
        GRT_UNROLL for (int i = 0; i < VEC; i += 4) {
            if (n + i >= a.cols) break;
            float x[4];
            grt_load_vec(a.bias + n + i, x);
            GRT_UNROLL for (int c = 0; c < 4; c++) v[i + c] += x[c];
        }
    }
    GRT_DEV_MEMBER void operator()(int row, int col, float (&v)[VEC]) const {
        const int m = m0 + row, n = n0 + col;
        if (m >= a.rows || n >= a.cols) return;
        const int64_t at = (int64_t)m * a.cols + n;
        GRT_UNROLL for (int c = 0; c < VEC; c++) v[c] *= a.scale;
        if (a.vectors == 1) {
            if (a.bias) add_bias(n, v);
            store(at, n, v);
            return;
        }
        if (a.vectors == 2 && a.out == MATMUL_STORE && sizeof(S) == 2) {
            store_pairs(at, n, v);
            return;
        }
        GRT_UNROLL for (int c = 0; c < VEC; c++) {
            if (n + c >= a.cols) break;
            store_one(at + c, a.bias ? v[c] + grt_load(a.bias + n + c) : v[c]);
        }
    }
};

// One block, one tile.
template <class G>
GRT_DEV void matmul_tile(const MatmulArgs& a, typename G::Shared& shared) {
    using S = typename G::Type;
    int m, n;
    grt_tile_order(grt_block_x(), grt_tiles(a.rows, G::BM), grt_tiles(a.cols, G::BN), m, n);
    const grt_term<S> first = {
        {(const S*)a.a, a.stride_a, a.rows}, {(const S*)a.b, a.stride_b, a.cols}, a.depth};
    const grt_term<S> second = {
        {(const S*)a.a2, a.stride_a2, a.rows}, {(const S*)a.b2, a.stride_b2, a.cols}, a.depth2};
    G g;
    g.clear();
    g.multiply(shared, first, second, m * G::BM, n * G::BN);
    matmul_finish<S, G::VEC> finish = {a, m * G::BM, n * G::BN};
    g.vectors(shared, finish);
}

// SHARED: bytes that the host asks for, with waves of 32 and of 64.
template <class G, int SHARED_32, int SHARED_64>
GRT_DEV void matmul_dynamic(const MatmulArgs& a) {
    static_assert(sizeof(typename G::Shared) == (GRT_WAVE == 32 ? SHARED_32 : SHARED_64),
                  "mirrored in src/ops/gpu/matmul.rs");
    GRT_DYNAMIC_SHARED(raw);
    matmul_tile<G>(a, *(typename G::Shared*)raw);
}
template <class G>
GRT_DEV void matmul_static(const MatmulArgs& a) {
    GRT_SHARED(typename G::Shared, shared);
    matmul_tile<G>(a, shared);
}

// Tiles by size of the product: wide and square ones for training, flat ones for few rows (decoding:
// weights stream through once, so many columns of blocks and a deep ring), narrow ones for adapters,
// and one for sizes that allow no vectors. Rows of 8 bytes are met in practice (the 3420 inner elements
// of Qwen2.5-VL's vision tower, adapters of rank 4) and have tiles of their own.
template <grt_lie A, grt_lie B>
using Tile128x256 = grt_gemm<128, 256, 32, 256, 2, 4, 4, A, B, GRT_BY_16>;
template <grt_lie A, grt_lie B, int BY = GRT_BY_16>
using Tile128x128 = grt_gemm<128, 128, 32, 128, 2, 2, 4, A, B, BY>;
template <grt_lie A, grt_lie B, int BY = GRT_BY_16>
using Tile64x64 = grt_gemm<64, 64, 64, 128, 2, 2, 4, A, B, BY>;
// Waves of 64 have no ring: deeper steps keep more of the stream on its way.
constexpr int NARROW_DEPTH = GRT_WAVE == 32 ? 64 : 128;
template <grt_lie A, grt_lie B>
using Tile64x16 = grt_gemm<64, 16, NARROW_DEPTH, 128, 4, 1, 6, A, B, GRT_BY_16>;
template <grt_lie A, grt_lie B>
using Tile16x64 = grt_gemm<16, 64, 64, 128, 1, 4, 8, A, B, GRT_BY_16>;
constexpr int THIN_DEPTH = GRT_WAVE == 32 ? 128 : 512;
template <grt_lie A, grt_lie B>
using Tile16x16 = grt_gemm<16, 16, THIN_DEPTH, 192, 1, 1, 8, A, B, GRT_BY_16, 64>;
template <grt_lie A, grt_lie B>
using TileOdd = grt_gemm<32, 32, 32, 64, 2, 1, 2, A, B, GRT_BY_ELEMENT>;
template <grt_lie A, grt_lie B>
using Single128x128 = grt_gemm_f32<128, 128, 16, 2, 2, A, B, true>;
template <grt_lie A, grt_lie B>
using Single32x32 = grt_gemm_f32<32, 32, 16, 1, 1, A, B, true>;
template <grt_lie A, grt_lie B>
using SingleOdd = grt_gemm_f32<32, 32, 16, 1, 1, A, B, false>;

GRT_KERNEL(matmul_fwd_128x256_bf16, MatmulArgs, 256) {
    matmul_dynamic<Tile128x256<GRT_ALONG, GRT_ALONG>, 98304, 49152>(a);
}
GRT_KERNEL(matmul_fwd_128x128_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile128x128<GRT_ALONG, GRT_ALONG>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_fwd_64x64_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile64x64<GRT_ALONG, GRT_ALONG>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_fwd_64x16_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile64x16<GRT_ALONG, GRT_ALONG>, 61440, 40960>(a);
}
GRT_KERNEL(matmul_fwd_16x64_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile16x64<GRT_ALONG, GRT_ALONG>, 81920, 20480>(a);
}
GRT_KERNEL(matmul_fwd_16x16_bf16, MatmulArgs, 192) {
    matmul_dynamic<Tile16x16<GRT_ALONG, GRT_ALONG>, 65536, 65536>(a);
}
GRT_KERNEL(matmul_fwd_128x128_by8_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile128x128<GRT_ALONG, GRT_ALONG, GRT_BY_8>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_fwd_64x64_by8_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile64x64<GRT_ALONG, GRT_ALONG, GRT_BY_8>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_fwd_odd_bf16, MatmulArgs, 64) {
    matmul_static<TileOdd<GRT_ALONG, GRT_ALONG>>(a);
}
GRT_KERNEL(matmul_fwd_128x128_f32, MatmulArgs, 256) {
    matmul_static<Single128x128<GRT_ALONG, GRT_ALONG>>(a);
}
GRT_KERNEL(matmul_fwd_32x32_f32, MatmulArgs, 64) {
    matmul_static<Single32x32<GRT_ALONG, GRT_ALONG>>(a);
}
GRT_KERNEL(matmul_fwd_odd_f32, MatmulArgs, 64) {
    matmul_static<SingleOdd<GRT_ALONG, GRT_ALONG>>(a);
}

GRT_KERNEL(matmul_bwd_dx_128x256_bf16, MatmulArgs, 256) {
    matmul_dynamic<Tile128x256<GRT_ALONG, GRT_ACROSS>, 98304, 49152>(a);
}
GRT_KERNEL(matmul_bwd_dx_128x128_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile128x128<GRT_ALONG, GRT_ACROSS>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_bwd_dx_64x64_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile64x64<GRT_ALONG, GRT_ACROSS>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_bwd_dx_64x16_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile64x16<GRT_ALONG, GRT_ACROSS>, 61440, 40960>(a);
}
GRT_KERNEL(matmul_bwd_dx_128x128_by8_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile128x128<GRT_ALONG, GRT_ACROSS, GRT_BY_8>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_bwd_dx_64x64_by8_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile64x64<GRT_ALONG, GRT_ACROSS, GRT_BY_8>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_bwd_dx_odd_bf16, MatmulArgs, 64) {
    matmul_static<TileOdd<GRT_ALONG, GRT_ACROSS>>(a);
}
GRT_KERNEL(matmul_bwd_dx_128x128_f32, MatmulArgs, 256) {
    matmul_static<Single128x128<GRT_ALONG, GRT_ACROSS>>(a);
}
GRT_KERNEL(matmul_bwd_dx_32x32_f32, MatmulArgs, 64) {
    matmul_static<Single32x32<GRT_ALONG, GRT_ACROSS>>(a);
}
GRT_KERNEL(matmul_bwd_dx_odd_f32, MatmulArgs, 64) {
    matmul_static<SingleOdd<GRT_ALONG, GRT_ACROSS>>(a);
}

GRT_KERNEL(matmul_bwd_dw_128x256_bf16, MatmulArgs, 256) {
    matmul_dynamic<Tile128x256<GRT_ACROSS, GRT_ACROSS>, 98304, 49152>(a);
}
GRT_KERNEL(matmul_bwd_dw_128x128_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile128x128<GRT_ACROSS, GRT_ACROSS>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_bwd_dw_64x64_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile64x64<GRT_ACROSS, GRT_ACROSS>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_bwd_dw_64x16_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile64x16<GRT_ACROSS, GRT_ACROSS>, 61440, 40960>(a);
}
GRT_KERNEL(matmul_bwd_dw_16x64_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile16x64<GRT_ACROSS, GRT_ACROSS>, 81920, 20480>(a);
}
GRT_KERNEL(matmul_bwd_dw_128x128_by8_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile128x128<GRT_ACROSS, GRT_ACROSS, GRT_BY_8>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_bwd_dw_64x64_by8_bf16, MatmulArgs, 128) {
    matmul_dynamic<Tile64x64<GRT_ACROSS, GRT_ACROSS, GRT_BY_8>, 65536, 32768>(a);
}
GRT_KERNEL(matmul_bwd_dw_odd_bf16, MatmulArgs, 64) {
    matmul_static<TileOdd<GRT_ACROSS, GRT_ACROSS>>(a);
}
GRT_KERNEL(matmul_bwd_dw_128x128_f32, MatmulArgs, 256) {
    matmul_static<Single128x128<GRT_ACROSS, GRT_ACROSS>>(a);
}
GRT_KERNEL(matmul_bwd_dw_32x32_f32, MatmulArgs, 64) {
    matmul_static<Single32x32<GRT_ACROSS, GRT_ACROSS>>(a);
}
GRT_KERNEL(matmul_bwd_dw_odd_f32, MatmulArgs, 64) {
    matmul_static<SingleOdd<GRT_ACROSS, GRT_ACROSS>>(a);
}

struct ColumnSumArgs {
    const void* dy;  // [rows, cols]
    float* db;       // [cols], added to
    int rows;
    int cols;
};
static_assert(sizeof(ColumnSumArgs) == 24, "mirrored in src/ops/gpu/matmul.rs");

// A block adds 32 columns. Thread (r, c) walks rows r, r + LANES, ... of its run of columns; then the
// lanes' sums are added in order. The order depends on the number of rows alone.
template <class S>
GRT_DEV void column_sum(const ColumnSumArgs& a) {
    constexpr int COLS = 32, VEC = grt_vec<S>::N, RUNS = COLS / VEC, LANES = 256 / RUNS;
    using Parts = float[LANES][COLS + 1];
    GRT_SHARED(Parts, part);
    const int run = grt_tid() % RUNS, lane = grt_tid() / RUNS;
    const int col = grt_block_x() * COLS + run * VEC;
    const S* dy = (const S*)a.dy + col;
    float sum[VEC];
    GRT_UNROLL for (int c = 0; c < VEC; c++) sum[c] = 0;
    if (a.cols % VEC == 0) {
        if (col < a.cols) {
            GRT_UNROLL_4 for (int r = lane; r < a.rows; r += LANES) {
                float x[VEC];
                grt_load_vec(dy + (int64_t)r * a.cols, x);
                GRT_UNROLL for (int c = 0; c < VEC; c++) sum[c] += x[c];
            }
        }
    } else {
        for (int r = lane; r < a.rows; r += LANES)
            GRT_UNROLL for (int c = 0; c < VEC; c++)
                if (col + c < a.cols) sum[c] += grt_load(dy + (int64_t)r * a.cols + c);
    }
    GRT_UNROLL for (int c = 0; c < VEC; c++) part[lane][run * VEC + c] = sum[c];
    grt_sync();
    const int mine = grt_block_x() * COLS + grt_tid();
    if (grt_tid() < COLS && mine < a.cols) {
        float total = 0;
        for (int l = 0; l < LANES; l++) total += part[l][grt_tid()];
        grt_store(a.db + mine, grt_load(a.db + mine) + total);
    }
}

GRT_KERNEL(matmul_bwd_bias_f32, ColumnSumArgs, 256) { column_sum<float>(a); }
GRT_KERNEL(matmul_bwd_bias_bf16, ColumnSumArgs, 256) { column_sum<grt_bf16>(a); }
