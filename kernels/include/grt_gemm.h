// The matrix product of one block of threads: a BM x BN tile of C = A B (+ A' B') in singles, from
// factors in global memory. grt_gemm does it for bf16 over the matrix units, grt_gemm_f32 for singles;
// both have the same members, so a kernel (a plain product, the language-model head) is written once:
//
//     using G = grt_gemm<128, 128, 32, 128, 2, 2, 4, GRT_ALONG, GRT_ALONG, GRT_BY_16>;
//     GRT_DYNAMIC_SHARED(raw);
//     typename G::Shared& shared = *(typename G::Shared*)raw;
//     G g;
//     g.clear();
//     g.multiply(shared, term, none, first_row, first_col);   // adds to g's accumulators
//     g.each(f);              // f(row, col, float& value) for the elements that this thread holds
//     g.vectors(shared, f);   // f(row, col, float (&v)[G::VEC]) for runs of VEC columns, coalesced
//
// row and col count from the tile's corner. All threads of the block call multiply and vectors.
// The last parameter says that address, stride and row length of each factor (of both terms) are
// multiples of 16 bytes, or of 8; without either, elements are copied one by one, for odd sizes.
//
// Rows and columns beyond the factors' `outer` are zero in the accumulators; nothing is read there.
//
// Order of sums: one chain per element, ascending in the inner index, 16 at a time for bf16 (what one
// matrix instruction adds), one fused multiply-add at a time for singles. The last 16 are filled with
// zeros, and steps of nothing but zeros change no sum. So the bits of an element depend on its own row
// of A and column of B alone: not on the tile's shape, the grid or the other rows.
#pragma once
#include "grt_mma.h"

// Loops that must not become long code, as the compilers would have it.
#if defined(GRT_EMU)
#define GRT_UNROLL_4
#else
#define GRT_UNROLL_4 _Pragma("unroll 4")
#endif

// How a factor lies in memory: the inner index k along its rows (A as [m][k], weights B as [n][k]) or
// across them (A as [k][m], B as [k][n]).
enum grt_lie { GRT_ALONG, GRT_ACROSS };

// How much of a row is copied at a time.
constexpr int GRT_BY_ELEMENT = 0, GRT_BY_16 = 1, GRT_BY_8 = 2;

// A factor in global memory. `outer` is how many rows of A or columns of B there are.
template <class S>
struct grt_factor {
    const S* data;
    int64_t stride; // elements between two rows in memory
    int outer;
};

// A B over `depth` inner elements. Depth 0 adds nothing and reads nothing.
template <class S>
struct grt_term {
    grt_factor<S> a;
    grt_factor<S> b;
    int depth;
};

template <class S>
GRT_DEV grt_term<S> grt_no_term() {
    return grt_term<S>{{nullptr, 0, 0}, {nullptr, 0, 0}, 0};
}

GRT_DEV int grt_tiles(int size, int tile) { return (size + tile - 1) / tile; }

// Tile number `id` of a grid of tiles: bands of 8 tile rows, column after column, so that blocks that
// run together read few different rows and columns and find them in the cache.
GRT_DEV void grt_tile_order(int id, int tiles_m, int tiles_n, int& m, int& n) {
    const int band = 8 * tiles_n;
    const int first = id / band * 8;
    const int rows = tiles_m - first < 8 ? tiles_m - first : 8;
    const int in_band = id - first * tiles_n;
    n = in_band / rows;
    m = first + in_band - n * rows;
}

// How this thread brings its chunks of 8 bf16 of a factor's next tile into shared memory, where the
// tile lies as in global memory. THREADS threads from FIRST on take part.
template <int OUTER, int DEPTH, int THREADS, int FIRST, grt_lie LIE, int BY>
struct grt_tile_copy {
    static constexpr int ROWS = LIE == GRT_ALONG ? OUTER : DEPTH;
    static constexpr int COLS = LIE == GRT_ALONG ? DEPTH : OUTER;
    static constexpr int PER_ROW = COLS / 8;
    static constexpr int STEP = THREADS / PER_ROW;
    static constexpr int ROUNDS = (ROWS + STEP - 1) / STEP;
    static_assert(THREADS % PER_ROW == 0, "a thread keeps its columns");
    using Tile = grt_tile<ROWS, COLS>;

    const grt_bf16* at; // this thread's first chunk
    int64_t stride;
    int rows_left; // rows of memory from this thread's first on, maybe none
    int cols_left;
    const grt_bf16* safe; // something that may be read

    GRT_DEV_MEMBER static int row() { return (grt_tid() - FIRST) / PER_ROW; }
    GRT_DEV_MEMBER static int col() { return (grt_tid() - FIRST) % PER_ROW * 8; }

    GRT_DEV_MEMBER void begin(const grt_factor<grt_bf16>& f, int first, int depth) {
        const int r = row() + (LIE == GRT_ALONG ? first : 0);
        const int c = col() + (LIE == GRT_ALONG ? 0 : first);
        stride = f.stride;
        at = f.data + r * stride + c;
        safe = f.data;
        rows_left = (LIE == GRT_ALONG ? f.outer : depth) - r;
        cols_left = (LIE == GRT_ALONG ? depth : f.outer) - c;
    }
    GRT_DEV_MEMBER void advance() {
        if (LIE == GRT_ALONG) {
            at += DEPTH;
            cols_left -= DEPTH;
        } else {
            at += DEPTH * stride;
            rows_left -= DEPTH;
        }
    }
    // Whether a chunk, or its second half, has something of the factor.
    GRT_DEV_MEMBER bool valid(int round, int half) const {
        return round * STEP < rows_left && cols_left > 4 * half;
    }
    // True if the tile has this row; known when compiling where all threads have work.
    GRT_DEV_MEMBER static bool exists(int round) {
        return ROUNDS * STEP == ROWS || row() + round * STEP < ROWS;
    }
    GRT_DEV_MEMBER static grt_u128* place(Tile& t, int round) {
        return (grt_u128*)t.ptr(row() + round * STEP, col());
    }
    // A chunk, element by element.
    GRT_DEV_MEMBER grt_u128 gather(int round) const {
        const grt_bf16* from = at + round * STEP * stride;
        grt_u128 x = {{0, 0, 0, 0}};
        GRT_UNROLL for (int c = 0; c < 8; c++) {
            if (round * STEP < rows_left && c < cols_left)
                x.w[c / 2] |= (grt_bits(grt_load(from + c)) >> 16) << (c % 2 * 16);
        }
        return x;
    }
    // Copies in the background where it can.
    GRT_DEV_MEMBER void copy(Tile& t) const {
        GRT_UNROLL for (int i = 0; i < ROUNDS; i++) {
            if (!exists(i)) continue;
            const grt_bf16* from = at + i * STEP * stride;
            grt_u128* to = place(t, i);
            if (BY == GRT_BY_16) {
                grt_async_copy16(to, from, valid(i, 0));
            } else if (BY == GRT_BY_8) {
                grt_async_copy8(to, from, valid(i, 0));
                grt_async_copy8((grt_u64*)to + 1, from + 4, valid(i, 1));
            } else {
                *to = gather(i);
            }
        }
    }
    // The same in two halves, for hardware without copies in the background: nothing waits for the
    // loads before `put`.
    GRT_DEV_MEMBER void fetch(grt_u128 (&x)[ROUNDS]) const {
        GRT_UNROLL for (int i = 0; i < ROUNDS; i++) {
            const grt_bf16* from = at + i * STEP * stride;
            if (BY == GRT_BY_16) {
                x[i] = grt_load16(valid(i, 0) ? from : safe);
            } else if (BY == GRT_BY_8) {
                GRT_UNROLL for (int h = 0; h < 2; h++) {
                    const grt_u64 y = grt_load8(valid(i, h) ? from + 4 * h : safe);
                    x[i].w[2 * h] = y.w[0];
                    x[i].w[2 * h + 1] = y.w[1];
                }
            } else {
                x[i] = gather(i);
            }
        }
    }
    GRT_DEV_MEMBER void put(Tile& t, const grt_u128 (&x)[ROUNDS]) const {
        GRT_UNROLL for (int i = 0; i < ROUNDS; i++) {
            grt_u128 y = x[i];
            GRT_UNROLL for (int w = 0; w < 4; w++)
                y.w[w] = valid(i, BY == GRT_BY_8 ? w / 2 : 0) ? y.w[w] : 0u;
            if (exists(i)) *place(t, i) = y;
        }
    }
};

#if GRT_WAVE == 64
// Four fragments of a factor whose rows in the tile are k (from row): element n of fragment j is column
// col + 4 n + j. A lane reads 4 x 4 elements and exchanges rows and columns.
template <class F, int R, int C>
GRT_DEV void grt_load_four(F* f, const grt_tile<R, C>& t, int row, int col) {
    const int l = grt_lane();
    uint32_t x[4][2];
    GRT_UNROLL for (int i = 0; i < 4; i++)
        grt_load_along(x[i], t, row + 4 * (l >> 4) + i, col + 4 * (l & 15));
    GRT_UNROLL for (int j = 0; j < 4; j++)
        GRT_UNROLL for (int w = 0; w < 2; w++) {
            const uint32_t low = x[2 * w][j / 2], high = x[2 * w + 1][j / 2];
            f[j].r[w] = j % 2 == 0 ? (low & 0xffffu) | high << 16 : low >> 16 | (high & 0xffff0000u);
        }
}
#endif

// Waves that share a block's tile: W_M x W_N waves of 32 lanes, or half as many of 64. Waves beyond
// them copy and do not multiply.
template <int W_M, int W_N>
struct grt_wave_grid {
#if GRT_WAVE == 32
    static constexpr int M = W_M, N = W_N;
#else
    static constexpr int N = W_N % 2 == 0 ? W_N / 2 : W_N;
    static constexpr int M = W_N % 2 != 0 && W_M % 2 == 0 ? W_M / 2 : W_M;
#endif
};

// BM x BN x BK: the tile and how deep a step is. THREADS of the block, W_M x W_N waves of 32 among
// them, RING steps in shared memory (two where copies go through registers), and how the factors lie.
// Threads below COPY_FROM do not copy: where one wave multiplies alone, others should keep it busy.
template <int BM_, int BN_, int BK_, int THREADS_, int W_M, int W_N, int RING, grt_lie LA, grt_lie LB,
          int BY, int COPY_FROM = 0>
struct grt_gemm {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, THREADS = THREADS_, VEC = 8;
    using Type = grt_bf16;
    using Grid = grt_wave_grid<W_M, W_N>;
    // A wave's part of the tile, and the same in fragments.
    static constexpr int WAVE_M = BM / Grid::M, WAVE_N = BN / Grid::N;
    static constexpr int MT = WAVE_M / 16, NT = WAVE_N / 16, KT = BK / 16;
    static_assert(MT * 16 * Grid::M == BM && NT * 16 * Grid::N == BN && KT % 2 == 0, "whole tiles");
    static_assert(Grid::M * Grid::N * GRT_WAVE <= THREADS, "a wave for each part");
#if GRT_WAVE == 32
    static constexpr int STAGES = RING;
#else
    static constexpr int STAGES = 2;
#endif
    using CopyA = grt_tile_copy<BM, BK, THREADS - COPY_FROM, COPY_FROM, LA, BY>;
    using CopyB = grt_tile_copy<BN, BK, THREADS - COPY_FROM, COPY_FROM, LB, BY>;
    struct Ring {
        typename CopyA::Tile a[STAGES];
        typename CopyB::Tile b[STAGES];
    };
    // Rows of a wave's accumulators on their way out; 8 more columns keep its lanes in other banks.
    static constexpr int OUT_STRIDE = WAVE_N + 8;
    struct Out {
        float row[Grid::M * Grid::N][16 * OUT_STRIDE];
    };
    union Shared {
        Ring ring;
        Out out;
    };
    struct Fragments {
        grt_frag_a a[MT];
        grt_frag_b b[NT];
    };

    grt_frag_c acc[MT][NT];

    // Corner of this wave's part.
    GRT_DEV_MEMBER static int wave_row() { return grt_wave() % Grid::M * WAVE_M; }
    GRT_DEV_MEMBER static int wave_col() { return grt_wave() / Grid::M * WAVE_N; }
    // False for a wave that holds no part.
    GRT_DEV_MEMBER static bool works() {
        return Grid::M * Grid::N * GRT_WAVE == THREADS || grt_wave() < Grid::M * Grid::N;
    }
    GRT_DEV_MEMBER static bool copies() { return COPY_FROM == 0 || grt_tid() >= COPY_FROM; }
    GRT_DEV_MEMBER void clear() {
        GRT_UNROLL for (int i = 0; i < MT; i++)
            GRT_UNROLL for (int j = 0; j < NT; j++)
                GRT_UNROLL for (int e = 0; e < GRT_ACC; e++) acc[i][j].v[e] = 0;
    }

    // Where fragment i's row, and fragment j's column, lie in the wave's part. Four fragments read from
    // across rows on waves of 64 share 64 of them: a lane loads four neighbours at once.
    static constexpr bool SHARE_A = GRT_WAVE == 64 && LA == GRT_ACROSS && MT % 4 == 0;
    static constexpr bool SHARE_B = GRT_WAVE == 64 && LB == GRT_ACROSS && NT % 4 == 0;
    GRT_DEV_MEMBER static int part_row(int i, int row) {
        return SHARE_A ? i / 4 * 64 + 4 * row + i % 4 : 16 * i + row;
    }
    GRT_DEV_MEMBER static int part_col(int j, int col) {
        return SHARE_B ? j / 4 * 64 + 4 * col + j % 4 : 16 * j + col;
    }

    // Fragments of the k-th 16 of a step.
    GRT_DEV_MEMBER static void load(Fragments& f, const Ring& ring, int stage, int k) {
        const int row = wave_row(), col = wave_col();
        GRT_UNROLL for (int i = 0; i < MT; i++) {
            if constexpr (LA == GRT_ALONG) grt_load_a(f.a[i], ring.a[stage], row + 16 * i, 16 * k);
            else if constexpr (!SHARE_A) grt_load_a_trans(f.a[i], ring.a[stage], 16 * k, row + 16 * i);
            else if (i % 4 == 0) grt_load_four(&f.a[i], ring.a[stage], 16 * k, row + 16 * i);
        }
        GRT_UNROLL for (int j = 0; j < NT; j++) {
            if constexpr (LB == GRT_ALONG) grt_load_b(f.b[j], ring.b[stage], col + 16 * j, 16 * k);
            else if constexpr (!SHARE_B) grt_load_b_trans(f.b[j], ring.b[stage], 16 * k, col + 16 * j);
            else if (j % 4 == 0) grt_load_four(&f.b[j], ring.b[stage], 16 * k, col + 16 * j);
        }
    }
    GRT_DEV_MEMBER void step(const Fragments& f) {
        GRT_UNROLL for (int i = 0; i < MT; i++)
            GRT_UNROLL for (int j = 0; j < NT; j++) grt_mma(acc[i][j], f.a[i], f.b[j]);
    }

    // Adds the terms' products, the first one's inner elements before the second one's. The block's
    // tile begins at row m0 of A and column n0 of B. Shared memory may be used again after a grt_sync.
    GRT_DEV_MEMBER void multiply(Shared& shared, const grt_term<grt_bf16>& first,
                                 const grt_term<grt_bf16>& second, int m0, int n0) {
        Ring& ring = shared.ring;
        const int tiles_first = grt_tiles(first.depth, BK);
        const int tiles = tiles_first + grt_tiles(second.depth, BK);
        CopyA copy_a;
        CopyB copy_b;
        const grt_term<grt_bf16>& start = tiles_first > 0 ? first : second;
        copy_a.begin(start.a, m0, start.depth);
        copy_b.begin(start.b, n0, start.depth);
#if GRT_WAVE == 32
        int next = 0; // the step to be copied
        int to = 0;   // and its stage
        auto bring = [&]() {
            if (copies() && next < tiles) {
                copy_a.copy(ring.a[to]);
                copy_b.copy(ring.b[to]);
                next++;
                to = to + 1 == STAGES ? 0 : to + 1;
                if (next == tiles_first) {
                    copy_a.begin(second.a, m0, second.depth);
                    copy_b.begin(second.b, n0, second.depth);
                } else {
                    copy_a.advance();
                    copy_b.advance();
                }
            }
            grt_async_commit();
        };
        GRT_UNROLL for (int s = 0; s < STAGES - 1; s++) bring();
        grt_async_wait<STAGES - 2>();
        grt_sync();
        // Fragments are loaded one 16 ahead of their use, over the border between two steps.
        Fragments f[2];
        int stage = 0;
        if (works() && tiles > 0) load(f[0], ring, 0, 0);
        for (int t = 0; t < tiles; t++) {
            GRT_UNROLL for (int k = 0; k < KT; k++) {
                if (k == KT - 1) {
                    // All fragments of this step are in registers: its stage is free after the barrier.
                    stage = stage + 1 == STAGES ? 0 : stage + 1;
                    grt_async_wait<STAGES - 2>();
                    grt_sync();
                }
                if (works() && (k < KT - 1 || t + 1 < tiles))
                    load(f[(k + 1) & 1], ring, stage, (k + 1) % KT);
                if (k == 0) bring();
                if (works()) step(f[k & 1]);
            }
        }
        grt_async_wait<0>();
#else
        // Registers hold the next step while this one is multiplied.
        grt_u128 next_a[CopyA::ROUNDS], next_b[CopyB::ROUNDS];
        auto fetch = [&]() {
            copy_a.fetch(next_a);
            copy_b.fetch(next_b);
        };
        auto put = [&](int t) {
            copy_a.put(ring.a[t & 1], next_a);
            copy_b.put(ring.b[t & 1], next_b);
            if (t + 1 == tiles_first) {
                copy_a.begin(second.a, m0, second.depth);
                copy_b.begin(second.b, n0, second.depth);
            } else {
                copy_a.advance();
                copy_b.advance();
            }
        };
        if (copies() && tiles > 0) {
            fetch();
            put(0);
        }
        grt_sync();
        for (int t = 0; t < tiles; t++) {
            if (copies() && t + 1 < tiles) fetch();
            if (works()) {
                GRT_UNROLL for (int k = 0; k < KT; k++) {
                    Fragments f;
                    load(f, ring, t & 1, k);
                    step(f);
                }
            }
            if (copies() && t + 1 < tiles) put(t + 1);
            grt_sync();
        }
#endif
    }

    // Every element that this thread holds.
    template <class F>
    GRT_DEV_MEMBER void each(F& f) {
        if (!works()) return;
        GRT_UNROLL for (int i = 0; i < MT; i++)
            GRT_UNROLL for (int j = 0; j < NT; j++)
                GRT_UNROLL for (int e = 0; e < GRT_ACC; e++)
                    f(wave_row() + part_row(i, grt_acc_row(e)),
                      wave_col() + part_col(j, grt_acc_col(e)), acc[i][j].v[e]);
    }

    // The same in runs of 8 columns, neighbours in neighbouring lanes: through shared memory.
    template <class F>
    GRT_DEV_MEMBER void vectors(Shared& shared, F& f) {
        grt_sync();
        if (!works()) return;
        float* out = shared.out.row[grt_wave()];
        GRT_UNROLL for (int i = 0; i < MT; i++) {
            GRT_UNROLL for (int j = 0; j < NT; j++)
                GRT_UNROLL for (int e = 0; e < GRT_ACC; e++)
                    out[grt_acc_row(e) * OUT_STRIDE + part_col(j, grt_acc_col(e))] =
                        acc[i][j].v[e];
            grt_sync_wave();
            constexpr int RUNS = WAVE_N / 8;
            // One copy of f's code for each i is enough.
            GRT_ROLLED for (int n = 0; n < 16 * RUNS; n += GRT_WAVE) {
                const int run = n + grt_lane();
                if (16 * RUNS % GRT_WAVE != 0 && run >= 16 * RUNS) break;
                const int row = run / RUNS, col = run % RUNS * 8;
                float v[8];
                GRT_UNROLL for (int c = 0; c < 8; c++) v[c] = out[row * OUT_STRIDE + col + c];
                f(wave_row() + part_row(i, row), wave_col() + col, v);
            }
            grt_sync_wave();
        }
    }
};

// How this thread brings its runs of 4 singles of a factor's next tile into shared memory, where the
// tile lies as [k][outer].
template <int OUTER, int BK, int THREADS, grt_lie LIE, bool ALIGNED>
struct grt_run_copy {
    static constexpr int PER_ROW = (LIE == GRT_ALONG ? BK : OUTER) / 4;
    static constexpr int ROUNDS = OUTER * BK / 4 / THREADS;
    static constexpr int STEP = THREADS / PER_ROW;
    static constexpr int STRIDE = OUTER + 4;
    static_assert(ROUNDS * THREADS * 4 == OUTER * BK && THREADS % PER_ROW == 0, "equal work");

    const float* at;
    int64_t stride;
    int rows_left;
    int cols_left;

    GRT_DEV_MEMBER static int row() { return grt_tid() / PER_ROW; }
    GRT_DEV_MEMBER static int col() { return grt_tid() % PER_ROW * 4; }

    GRT_DEV_MEMBER void begin(const grt_factor<float>& f, int first, int depth) {
        const int r = row() + (LIE == GRT_ALONG ? first : 0);
        const int c = col() + (LIE == GRT_ALONG ? 0 : first);
        stride = f.stride;
        at = f.data + r * stride + c;
        rows_left = (LIE == GRT_ALONG ? f.outer : depth) - r;
        cols_left = (LIE == GRT_ALONG ? depth : f.outer) - c;
    }
    GRT_DEV_MEMBER void fetch(float (&x)[ROUNDS][4]) const {
        GRT_UNROLL for (int i = 0; i < ROUNDS; i++) {
            GRT_UNROLL for (int c = 0; c < 4; c++) x[i][c] = 0;
            if (i * STEP >= rows_left) continue;
            const float* p = at + i * STEP * stride;
            if (ALIGNED) {
                if (cols_left > 0) grt_load_vec(p, x[i]);
            } else {
                GRT_UNROLL for (int c = 0; c < 4; c++)
                    if (c < cols_left) x[i][c] = grt_load(p + c);
            }
        }
    }
    GRT_DEV_MEMBER void advance() {
        if (LIE == GRT_ALONG) {
            at += BK;
            cols_left -= BK;
        } else {
            at += BK * stride;
            rows_left -= BK;
        }
    }
    GRT_DEV_MEMBER static void put(float* tile, const float (&x)[ROUNDS][4]) {
        GRT_UNROLL for (int i = 0; i < ROUNDS; i++) {
            const int r = row() + i * STEP;
            GRT_UNROLL for (int c = 0; c < 4; c++) {
                if (LIE == GRT_ALONG) tile[(col() + c) * STRIDE + r] = x[i][c];
                else tile[r * STRIDE + col() + c] = x[i][c];
            }
        }
    }
};

// The same for singles, without matrix units. A thread holds RM x RN squares of 4 x 4 elements, spread
// evenly over the tile.
template <int BM_, int BN_, int BK_, int RM, int RN, grt_lie LA, grt_lie LB, bool ALIGNED>
struct grt_gemm_f32 {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, VEC = 4;
    static constexpr int THREADS = BM / (4 * RM) * (BN / (4 * RN));
    using Type = float;
    using CopyA = grt_run_copy<BM, BK, THREADS, LA, ALIGNED>;
    using CopyB = grt_run_copy<BN, BK, THREADS, LB, ALIGNED>;
    struct Shared {
        alignas(16) float a[2][BK * CopyA::STRIDE];
        alignas(16) float b[2][BK * CopyB::STRIDE];
    };

    float acc[4 * RM][4 * RN];

    GRT_DEV_MEMBER static int tile_row(int i) {
        return i / 4 * (BM / RM) + grt_tid() / (BN / (4 * RN)) * 4 + i % 4;
    }
    GRT_DEV_MEMBER static int tile_col(int j) {
        return j / 4 * (BN / RN) + grt_tid() % (BN / (4 * RN)) * 4 + j % 4;
    }
    GRT_DEV_MEMBER void clear() {
        GRT_UNROLL for (int i = 0; i < 4 * RM; i++)
            GRT_UNROLL for (int j = 0; j < 4 * RN; j++) acc[i][j] = 0;
    }
    GRT_DEV_MEMBER void step(const float* a, const float* b) {
        GRT_UNROLL_4 for (int k = 0; k < BK; k++) {
            float x[4 * RM], y[4 * RN];
            GRT_UNROLL for (int i = 0; i < 4 * RM; i++) x[i] = a[k * CopyA::STRIDE + tile_row(i)];
            GRT_UNROLL for (int j = 0; j < 4 * RN; j++) y[j] = b[k * CopyB::STRIDE + tile_col(j)];
            GRT_UNROLL for (int i = 0; i < 4 * RM; i++)
                GRT_UNROLL for (int j = 0; j < 4 * RN; j++)
                    acc[i][j] = grt_fma(x[i], y[j], acc[i][j]);
        }
    }
    GRT_DEV_MEMBER void multiply(Shared& shared, const grt_term<float>& first,
                                 const grt_term<float>& second, int m0, int n0) {
        const int tiles_first = grt_tiles(first.depth, BK);
        const int tiles = tiles_first + grt_tiles(second.depth, BK);
        CopyA copy_a;
        CopyB copy_b;
        const grt_term<float>& start = tiles_first > 0 ? first : second;
        copy_a.begin(start.a, m0, start.depth);
        copy_b.begin(start.b, n0, start.depth);
        float next_a[CopyA::ROUNDS][4], next_b[CopyB::ROUNDS][4];
        for (int t = 0; t <= tiles; t++) {
            if (t < tiles) {
                copy_a.fetch(next_a);
                copy_b.fetch(next_b);
                if (t + 1 == tiles_first) {
                    copy_a.begin(second.a, m0, second.depth);
                    copy_b.begin(second.b, n0, second.depth);
                } else {
                    copy_a.advance();
                    copy_b.advance();
                }
            }
            if (t > 0) step(shared.a[(t - 1) & 1], shared.b[(t - 1) & 1]);
            if (t < tiles) {
                CopyA::put(shared.a[t & 1], next_a);
                CopyB::put(shared.b[t & 1], next_b);
            }
            grt_sync();
        }
    }
    template <class F>
    GRT_DEV_MEMBER void each(F& f) {
        GRT_UNROLL for (int i = 0; i < 4 * RM; i++)
            GRT_UNROLL for (int j = 0; j < 4 * RN; j++) f(tile_row(i), tile_col(j), acc[i][j]);
    }
    template <class F>
    GRT_DEV_MEMBER void vectors(Shared&, F& f) {
        GRT_UNROLL for (int i = 0; i < 4 * RM; i++)
            GRT_UNROLL for (int j = 0; j < RN; j++) {
                float v[4];
                GRT_UNROLL for (int c = 0; c < 4; c++) v[c] = acc[i][4 * j + c];
                f(tile_row(i), tile_col(4 * j), v);
            }
    }
};
