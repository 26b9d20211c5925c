// Shuffles, sums, barriers, asynchronous copies and the matrix vocabulary give what plain loops give,
// whatever the order of threads.
#include "check.h"

#include <stdlib.h>

#include <algorithm>

struct ShuffleArgs {
    const float* x;
    float* y;
    int* z;
    int64_t mask;
};
GRT_KERNEL(shuffles, ShuffleArgs, 128) {
    int t = grt_block_x() * grt_threads() + grt_tid();
    float v = grt_load(a.x + t);
    grt_store(a.y + 2 * t, grt_shfl_xor(v, (int)a.mask));
    grt_store(a.y + 2 * t + 1, grt_shfl(v, (grt_lane() + 3) % GRT_WAVE));
    grt_store(a.z + 2 * t, grt_shfl_xor(t, (int)a.mask));
    grt_store(a.z + 2 * t + 1, grt_shfl(t, 5));
}

static void test_shuffles() {
    const int n = 3 * 128;
    std::vector<float> x(n), y(2 * n);
    std::vector<int> z(2 * n);
    for (int i = 0; i < n; i++) x[i] = small_number(i);
    for (int mask = 1; mask < GRT_WAVE; mask *= 2) {
        ShuffleArgs args = {x.data(), y.data(), z.data(), mask};
        std::string failed = launch("shuffles", {3}, 128, 0, args, {all(x), all(y), all(z)});
        expect(failed.empty(), "shuffles: %s", failed.c_str());
        for (int t = 0; t < n; t++) {
            int base = t / GRT_WAVE * GRT_WAVE, lane = t % GRT_WAVE;
            expect(y[2 * t] == x[base + (lane ^ mask)], "shfl_xor %d of thread %d", mask, t);
            expect(y[2 * t + 1] == x[base + (lane + 3) % GRT_WAVE], "shfl of thread %d", t);
            expect(z[2 * t] == base % 128 + (lane ^ mask) + t / 128 * 128, "int shfl_xor of %d", t);
            expect(z[2 * t + 1] == base + 5, "int shfl of thread %d", t);
        }
    }
}

struct SumArgs {
    const float* x;
    float* y;
    int64_t cols;
};
GRT_KERNEL(row_sums, SumArgs, 1024) {
    GRT_SHARED(grt_block_scratch, scratch);
    const float* row = a.x + grt_block_x() * a.cols;
    float s = 0, top = -1e30f;
    for (int64_t i = grt_tid(); i < a.cols; i += grt_threads()) {
        s += grt_load(row + i);
        top = grt_max(top, grt_load(row + i));
    }
    s = grt_block_sum(s, scratch);
    top = grt_block_max(top, scratch);
    if (grt_tid() == grt_threads() - 1) {
        grt_store(a.y + 2 * grt_block_x(), s);
        grt_store(a.y + 2 * grt_block_x() + 1, top);
    }
}

static void test_sums() {
    const int rows = 9, cols = 1237;
    std::vector<float> x(rows * cols), y(2 * rows);
    for (size_t i = 0; i < x.size(); i++) x[i] = small_number((uint32_t)i);
    SumArgs args = {x.data(), y.data(), cols};
    for (uint32_t threads : {64u, 256u, 1024u})
        for (uint32_t seed = 0; seed < 4; seed++) {
            emu::set_seed(seed);
            std::fill(y.begin(), y.end(), -1.0f);
            std::string failed = launch("row_sums", {rows}, threads, 0, args, {all(x), all(y)});
            expect(failed.empty(), "sums: %s", failed.c_str());
            for (int r = 0; r < rows; r++) {
                float sum = 0, top = -1e30f;
                for (int c = 0; c < cols; c++) {
                    sum += x[r * cols + c];
                    top = fmaxf(top, x[r * cols + c]);
                }
                expect(y[2 * r] == sum, "sum of row %d: %g, expected %g", r, y[2 * r], sum);
                expect(y[2 * r + 1] == top, "maximum of row %d: %g", r, y[2 * r + 1]);
            }
        }
    emu::set_seed(7);
}

// c = a b by one wave for each pair of loads; every tile lies inside a larger one, at (16, 32).
struct TileArgs {
    const grt_bf16 *left, *right;  // 16 x 16: a[m][k], b[k][n]
    float* c;
    int left_trans, right_trans;
};
GRT_KERNEL(tile_product, TileArgs, 64) {
    using Tile = grt_tile<48, 64>;
    GRT_SHARED(Tile, ta);
    GRT_SHARED(Tile, tb);
    for (int i = grt_tid(); i < 256; i += grt_threads()) {
        int r = i / 16, c = i % 16;
        uint16_t x = grt_round_bf16(grt_load(a.left + i)), y = grt_round_bf16(grt_load(a.right + i));
        // grt_load_b reads rows of n, grt_load_b_trans rows of k.
        if (a.left_trans) *ta.ptr(16 + c, 32 + r) = x;
        else *ta.ptr(16 + r, 32 + c) = x;
        if (a.right_trans) *tb.ptr(16 + r, 32 + c) = y;
        else *tb.ptr(16 + c, 32 + r) = y;
    }
    grt_sync();
    if (grt_wave() != 0) return;
    grt_frag_a fa;
    grt_frag_b fb;
    grt_frag_c fc = {};
    if (a.left_trans) grt_load_a_trans(fa, ta, 16, 32);
    else grt_load_a(fa, ta, 16, 32);
    if (a.right_trans) grt_load_b_trans(fb, tb, 16, 32);
    else grt_load_b(fb, tb, 16, 32);
    grt_mma(fc, fa, fb);
    grt_mma(fc, fa, fb);
    for (int i = 0; i < GRT_ACC; i++) grt_store(a.c + 16 * grt_acc_row(i) + grt_acc_col(i), fc.v[i]);
}

struct ChainArgs {
    const grt_bf16 *x, *y, *z;
    float* c;
};
// (x y) z: the first product becomes the left factor of the second.
GRT_KERNEL(tile_chain, ChainArgs, 128) {
    using Tile = grt_tile<16, 16>;
    GRT_SHARED(Tile, tx);
    GRT_SHARED(Tile, ty);
    GRT_SHARED(Tile, tz);
    using Scratch = Tile[128 / GRT_WAVE];
    GRT_SHARED(Scratch, scratch);
    for (int i = grt_tid(); i < 256; i += grt_threads()) {
        *tx.ptr(i / 16, i % 16) = grt_round_bf16(grt_load(a.x + i));
        *ty.ptr(i / 16, i % 16) = grt_round_bf16(grt_load(a.y + i));
        *tz.ptr(i / 16, i % 16) = grt_round_bf16(grt_load(a.z + i));
    }
    grt_sync();
    grt_frag_a fa;
    grt_frag_b fb;
    grt_frag_c first = {}, second = {};
    grt_load_a(fa, tx, 0, 0);
    grt_load_b_trans(fb, ty, 0, 0);
    grt_mma(first, fa, fb);
    grt_acc_to_a(fa, first, scratch[grt_wave()]);
    grt_load_b_trans(fb, tz, 0, 0);
    grt_mma(second, fa, fb);
    // Sums and maxima of rows, where the slots say that the rows are.
    float sum[GRT_ROW_SLOTS] = {}, top[GRT_ROW_SLOTS];
    for (int s = 0; s < GRT_ROW_SLOTS; s++) top[s] = -1e30f;
    for (int i = 0; i < GRT_ACC; i++) {
        sum[grt_slot(i)] += second.v[i];
        top[grt_slot(i)] = grt_max(top[grt_slot(i)], second.v[i]);
    }
    float* c = a.c + grt_wave() * (256 + 32);
    for (int i = 0; i < GRT_ACC; i++) grt_store(c + 16 * grt_acc_row(i) + grt_acc_col(i), second.v[i]);
    for (int s = 0; s < GRT_ROW_SLOTS; s++) {
        float all = grt_row_sum(sum[s]), best = grt_row_max(top[s]);
        grt_store(c + 256 + grt_slot_row(s), all);
        grt_store(c + 272 + grt_slot_row(s), best);
    }
}

static void test_tiles() {
    std::vector<uint16_t> x(256), y(256), z(256);
    std::vector<float> c(256);
    for (int i = 0; i < 256; i++) {
        x[i] = to_bf16(small_number(i));
        y[i] = to_bf16(small_number(i + 1000));
        z[i] = to_bf16((float)((i * 7) % 5 - 2));
    }
    auto f = [](uint16_t h) {
        uint32_t u = (uint32_t)h << 16;
        float v;
        memcpy(&v, &u, 4);
        return v;
    };
    std::vector<float> product(256);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++)
            for (int k = 0; k < 16; k++) product[16 * m + n] += f(x[16 * m + k]) * f(y[16 * k + n]);
    for (int form = 0; form < 4; form++) {
        TileArgs args = {(grt_bf16*)x.data(), (grt_bf16*)y.data(), c.data(), form & 1, form >> 1};
        std::string failed = launch("tile_product", {1}, 64, 0, args, {all(x), all(y), all(c)});
        expect(failed.empty(), "tile_product: %s", failed.c_str());
        for (int i = 0; i < 256; i++)
            expect(c[i] == 2 * product[i], "form %d, element (%d,%d): %g, expected %g", form, i / 16,
                   i % 16, c[i], 2 * product[i]);
    }
    // x is made small, so that the first product is exact in bf16.
    for (int i = 0; i < 256; i++) x[i] = to_bf16((float)((i * 5) % 3 - 1)), y[i] = to_bf16((float)((i * 3) % 7 - 3));
    const int waves = 128 / GRT_WAVE, part = 256 + 32;
    std::vector<float> chain(waves * part);
    ChainArgs args = {(grt_bf16*)x.data(), (grt_bf16*)y.data(), (grt_bf16*)z.data(), chain.data()};
    std::string failed = launch("tile_chain", {1}, 128, 0, args, {all(x), all(y), all(z), all(chain)});
    expect(failed.empty(), "tile_chain: %s", failed.c_str());
    for (int m = 0; m < 16; m++) {
        float row[16] = {}, first[16] = {}, sum = 0, top = -1e30f;
        for (int n = 0; n < 16; n++)
            for (int k = 0; k < 16; k++) first[n] += f(x[16 * m + k]) * f(y[16 * k + n]);
        for (int n = 0; n < 16; n++) {
            for (int k = 0; k < 16; k++) row[n] += first[k] * f(z[16 * k + n]);
            sum += row[n];
            top = fmaxf(top, row[n]);
        }
        for (int w = 0; w < waves; w++) {
            for (int n = 0; n < 16; n++)
                expect(chain[w * part + 16 * m + n] == row[n], "chain (%d,%d): %g, expected %g", m, n,
                       chain[w * part + 16 * m + n], row[n]);
            expect(chain[w * part + 256 + m] == sum, "row sum %d: %g", m, chain[w * part + 256 + m]);
            expect(chain[w * part + 272 + m] == top, "row maximum %d", m);
        }
    }
}

// Rows go through shared memory, two groups of copies under way.
struct StageArgs {
    const float* x;
    float* y;
    int rows, cols;
};
GRT_KERNEL(staged_copy, StageArgs, 64) {
    GRT_DYNAMIC_SHARED(bytes);
    float* stage = (float*)bytes;
    int per_row = grt_threads() * 4;
    for (int r = 0; r < 2; r++) {
        int at = r * per_row + grt_tid() * 4;
        grt_async_copy16(stage + at, a.x + r * a.cols + grt_tid() * 4, r < a.rows && grt_tid() * 4 < a.cols);
        grt_async_commit();
    }
    for (int r = 0; r < a.rows; r++) {
        grt_async_wait<1>();
        grt_sync();
        // Another thread's copy.
        int c = grt_threads() * 4 - 1 - grt_tid() * 4;
        for (int i = 0; i < 4; i++)
            if (c - i < a.cols) grt_store(a.y + r * a.cols + c - i, stage[(r & 1) * per_row + c - i]);
        grt_sync();
        int next = r + 2;
        grt_async_copy16(stage + (next & 1) * per_row + grt_tid() * 4, a.x + next * a.cols + grt_tid() * 4,
                         next < a.rows && grt_tid() * 4 < a.cols);
        grt_async_commit();
    }
}

static void test_copies() {
    const int rows = 7, cols = 200;
    float* x = (float*)aligned_alloc(64, rows * cols * 4 + 64);
    std::vector<float> y(rows * cols);
    for (int i = 0; i < rows * cols; i++) x[i] = small_number(i);
    for (uint32_t seed = 0; seed < 8; seed++) {
        emu::set_seed(seed);
        StageArgs args = {x, y.data(), rows, cols};
        std::string failed = launch("staged_copy", {1}, 64, 2 * 64 * 16, args,
                                    {emu::range(x, rows * cols * 4), all(y)});
        expect(failed.empty(), "staged_copy: %s", failed.c_str());
        for (int i = 0; i < rows * cols; i++) expect(y[i] == x[i], "copy of element %d: %g", i, y[i]);
    }
    free(x);
}

struct MarkArgs {
    int* y;
};
GRT_KERNEL(marks, MarkArgs, 64) {
    if (grt_tid() == 0) grt_store(a.y + grt_block_x(), grt_block_x() + 1);
}

// More OS threads than processors, so that one is often held up between taking a block and running it,
// while the others end the launch.
static void test_short_launches() {
    const int blocks = 64;
    std::vector<int> y(blocks);
    for (int i = 0; i < 20000; i++) {
        std::fill(y.begin(), y.end(), 0);
        MarkArgs args = {y.data()};
        std::string failed = launch("marks", {blocks}, 64, 0, args, {all(y)});
        expect(failed.empty(), "marks: %s", failed.c_str());
        for (int b = 0; b < blocks; b++) expect(y[b] == b + 1, "launch %d, block %d", i, b);
    }
}

int main() {
    setenv("GRT_EMU_THREADS", "8", 1);
    test_short_launches();
    test_shuffles();
    test_sums();
    test_tiles();
    test_copies();
    return finish("collectives");
}
