// A first run of a kernel: sums of rows by a block each.
#include <stdio.h>

#include "../../include/grt_reduce.h"

struct SumArgs {
    const float* x;
    float* y;
    int64_t cols;
};
GRT_KERNEL(row_sum, SumArgs, 256) {
    GRT_SHARED(grt_block_scratch, scratch);
    const float* row = a.x + grt_block_x() * a.cols;
    float s = 0;
    for (int64_t i = grt_tid(); i < a.cols; i += grt_threads()) s += grt_load(row + i);
    s = grt_block_sum(s, scratch);
    if (grt_tid() == 0) grt_store(a.y + grt_block_x(), s);
}

int main() {
    const int rows = 33, cols = 1000;
    std::vector<float> x(rows * cols), y(rows);
    for (size_t i = 0; i < x.size(); i++) x[i] = (float)(i % 17);
    SumArgs args = {x.data(), y.data(), cols};
    std::string failed = emu::launch("row_sum", {rows}, 256, 0, &args, sizeof args,
                                     {emu::range(x.data(), 4 * x.size()), emu::range(y.data(), 4 * rows)});
    if (!failed.empty()) {
        printf("%s\n", failed.c_str());
        return 1;
    }
    for (int r = 0; r < rows; r++) {
        float want = 0;
        for (int c = 0; c < cols; c++) want += x[r * cols + c];
        if (y[r] != want) {
            printf("row %d: %g, expected %g\n", r, y[r], want);
            return 1;
        }
    }
    printf("ok\n");
}
