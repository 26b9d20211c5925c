// Products on matrix units and in singles, with an inner index of several steps and edges within the
// tiles (see run.h). KERNELS of the copy that are left: fwd 64x64 bf16, fwd 32x32 f32, bwd_bias f32.
#include "common/matmul.cu"
#include "run.h"

template <class S>
static void run_product(Outcome& o, const char* kernel, int tile, uint32_t threads, size_t shared) {
    const int rows = 70, cols = 72, depth = 328;
    Tensor<S> x((size_t)rows * depth), w((size_t)cols * depth), y((size_t)rows * cols);
    Tensor<float> bias(cols);
    fill(x, 7);
    fill(w, 500000);
    fill(bias, 900000);
    MatmulArgs a = {};
    a.a = x.data;
    a.b = w.data;
    a.bias = bias.data;
    a.y = y.data;
    a.stride_a = a.stride_b = depth;
    a.rows = rows;
    a.cols = cols;
    a.depth = depth;
    a.scale = 1;
    a.out = MATMUL_STORE;
    a.vectors = 1;
    uint32_t tiles = (uint32_t)((rows + tile - 1) / tile * ((cols + tile - 1) / tile));
    o.launch(kernel, {tiles}, threads, shared, a, {x.range(), w.range(), bias.range(), y.range()});
    o.add(y);
}

static void run_bias(Outcome& o) {
    const int rows = 300, cols = 40;
    Tensor<float> dy((size_t)rows * cols), db(cols);
    fill(dy, 3);
    ColumnSumArgs a = {dy.data, db.data, rows, cols};
    o.launch("matmul_bwd_bias_f32", {2}, 256, 0, a, {dy.range(), db.range()});
    o.add(db);
}

static void run(Outcome& o) {
    run_product<grt_bf16>(o, "matmul_fwd_64x64_bf16", 64, 128, GRT_WAVE == 32 ? 65536 : 32768);
    run_product<float>(o, "matmul_fwd_32x32_f32", 32, 64, 0);
    run_bias(o);
}

int main(int argc, char** argv) { return run_orders(argc, argv, run); }
