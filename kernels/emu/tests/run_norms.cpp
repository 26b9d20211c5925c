// Norm kernels, forward and backward, on rows of an even and of an odd length (see run.h).
#include "common/norms.cu"
#include "run.h"

static void run_rows(Outcome& o, int rows, int cols) {
    size_t n = (size_t)rows * cols;
    Tensor<float> x(n), y(n), w(cols), b(cols), dy(n), dx(n), mean(rows), rstd(rows), part(cols);
    fill(x, 1);
    fill(w, 100000);
    fill(b, 200000);
    fill(dy, 300000);
    uint32_t grid = (uint32_t)rows;
    RmsNormArgs rms = {x.data, w.data, y.data, rstd.data, cols, 1e-6f};
    o.launch("rms_norm_fwd_f32", {grid}, 256, 0, rms, {x.range(), w.range(), y.range(), rstd.range()});
    o.add(y);
    LayerNormArgs layer = {x.data, w.data, b.data, y.data, mean.data, rstd.data, cols, 1e-5f};
    o.launch("layer_norm_fwd_f32", {grid}, 256, 0, layer,
             {x.range(), w.range(), b.range(), y.range(), mean.range(), rstd.range()});
    o.add(y);
    LayerNormBwdInputArgs back = {x.data, w.data, mean.data, rstd.data, dy.data, dx.data, cols, 0};
    o.launch("layer_norm_bwd_input_f32", {grid}, 256, 0, back,
             {x.range(), w.range(), mean.range(), rstd.range(), dy.range(), dx.range()});
    o.add(dx);
    FoldRowsArgs fold = {x.data, mean.data, rstd.data, dy.data, part.data, rows, cols};
    uint32_t columns = ((uint32_t)cols + 127) / 128;
    o.launch("fold_rows_f32", {columns}, FOLD_THREADS, 0, fold,
             {x.range(), mean.range(), rstd.range(), dy.range(), part.range()});
    o.add(part);
}

static void run(Outcome& o) {
    run_rows(o, 5, 1024);
    run_rows(o, 5, 333);
}

int main(int argc, char** argv) { return run_orders(argc, argv, run); }
