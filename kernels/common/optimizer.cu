// The optimizer: the norm of all gradients with its clipping coefficient, and one step of AdamW in
// place (Loshchilov and Hutter, arXiv 1711.05101). Squares are summed in doubles over chunks at fixed
// places, each sum in one order. Nothing is read back by the host in between.
#include "../include/grt_group.h"
#include "../include/grt_math.h"

// Threads and elements of a chunk; the elements are a constant of src/ops/grad_norm.rs too.
#define NORM_THREADS 256
#define NORM_CHUNK 16384

struct norm_sums {
    double of[NORM_THREADS];
};

// The sum over the block's threads, in a tree over their numbers, in thread 0.
GRT_DEV double norm_tree(double x, norm_sums& sums) {
    sums.of[grt_tid()] = x;
    grt_sync();
    for (int half = NORM_THREADS / 2; half; half >>= 1) {
        if (grt_tid() < half) sums.of[grt_tid()] += sums.of[grt_tid() + half];
        grt_sync();
    }
    return sums.of[0];
}

// sums[block] = the sum of squares of the block's chunk of x.
struct GradSquaresArgs {
    const float* x;
    double* sums;
    int64_t n;
};
static_assert(sizeof(GradSquaresArgs) == 24, "mirrored in src/ops/grad_norm.rs");

// The squares of this thread's elements of a chunk, a whole one or not, four loads under way.
template <bool WHOLE>
GRT_DEV double squares_of_chunk(const float* p, int count) {
    double sum = 0;
    for (int at = grt_tid() * 4; at < count; at += 4 * NORM_THREADS * 4) {
        float x[4][4];
        GRT_UNROLL for (int k = 0; k < 4; k++) {
            int first = at + k * NORM_THREADS * 4;
            int left = count - first;
            grt_load_group(p + first, grt_group<WHOLE>{first, 0, 0, left < 4 ? left : 4}, x[k]);
        }
        GRT_UNROLL for (int k = 0; k < 4; k++) {
            GRT_UNROLL for (int j = 0; j < 4; j++)
                sum = grt_fma64((double)x[k][j], (double)x[k][j], sum);
        }
    }
    return sum;
}

GRT_KERNEL(grad_squares_f32, GradSquaresArgs, NORM_THREADS) {
    GRT_SHARED(norm_sums, tree);
    int64_t start = (int64_t)grt_block_x() * NORM_CHUNK;
    int64_t left = a.n - start;
    double sum = left >= NORM_CHUNK ? squares_of_chunk<true>(a.x + start, NORM_CHUNK)
                                    : squares_of_chunk<false>(a.x + start, (int)left);
    sum = norm_tree(sum, tree);
    if (grt_tid() == 0) grt_store(a.sums + grt_block_x(), sum);
}

// out = (norm, coefficient) of the chunks' sums: one block.
struct GradNormArgs {
    const double* sums;
    float* out;
    double max_norm;
    double eps;
    int count;
    int unused;
};
static_assert(sizeof(GradNormArgs) == 40, "mirrored in src/ops/grad_norm.rs");

GRT_KERNEL(grad_norm_f32, GradNormArgs, NORM_THREADS) {
    GRT_SHARED(norm_sums, tree);
    double sum = 0;
    for (int i = grt_tid(); i < a.count; i += NORM_THREADS) sum += grt_load(a.sums + i);
    sum = norm_tree(sum, tree);
    if (grt_tid() != 0) return;
    double norm = grt_sqrt64(sum);
    double coefficient = a.max_norm / (norm + a.eps);
    // Not a minimum: a norm that is not a number must not pass as "no clipping".
    if (a.max_norm == 0.0 || coefficient > 1.0) coefficient = 1.0;
    grt_store(a.out, (float)norm);
    grt_store(a.out + 1, (float)coefficient);
}

// One step on n elements, the order of operations that of torch.optim.AdamW. `copy`, if there is one,
// becomes the new parameter rounded to bf16.
struct AdamWArgs {
    const float* grad;
    const float* clip;
    float* param;
    float* m;
    float* v;
    grt_bf16* copy;
    int64_t n;
    float decay;
    float rate1;
    float beta2;
    float rate2;
    float root;
    float eps;
    float step_size;
    int unused;
};
static_assert(sizeof(AdamWArgs) == 88, "mirrored in src/ops/adamw.rs");

GRT_KERNEL(adamw_f32, AdamWArgs, 256) {
    // Groups of 8, so that those of the bf16 copy are 16 bytes.
    grt_flat<grt_bf16>(a.n, [&](auto g) {
        float clip = grt_load(a.clip + 1);
        float grad[8], p[8], m[8], v[8];
        grt_load_group(a.grad + g.at, g, grad);
        grt_load_group((const float*)a.param + g.at, g, p);
        grt_load_group((const float*)a.m + g.at, g, m);
        grt_load_group((const float*)a.v + g.at, g, v);
        GRT_UNROLL for (int i = 0; i < 8; i++) {
            float x = grad[i] * clip;
            m[i] = grt_fma(a.rate1, x - m[i], m[i]); // torch's lerp
            v[i] = grt_fma(v[i], a.beta2, a.rate2 * x * x);
            float denominator = grt_sqrt(v[i]) / a.root + a.eps;
            p[i] = grt_fma(p[i], a.decay, -(a.step_size * m[i] / denominator));
        }
        grt_store_group(a.param + g.at, g, p);
        grt_store_group(a.m + g.at, g, m);
        grt_store_group(a.v + g.at, g, v);
        if (a.copy) grt_store_group(a.copy + g.at, g, p);
    });
}
