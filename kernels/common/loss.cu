// The clipped GRPO surrogate with its KL penalty, per token (src/ops/grpo_loss.rs has formulas and
// sources): the weighted sum over tokens, in doubles and in one order, and its derivative.
#include "../include/grt.h"
#include "../include/grt_math.h"

// Columns of one number per token. `reference` is absent where beta is 0. The forward pass writes one number
// to `out`, the backward pass reads it from `dloss` and writes a column.
struct GrpoLossArgs {
    const float* logp;
    const float* old;
    const float* advantage;
    const float* weight;
    const float* reference;
    const float* dloss;
    float* out;
    int tokens;
    int kl_ratio;
    float low;
    float high;
    float beta;
    int unused;
};
static_assert(sizeof(GrpoLossArgs) == 80, "mirrored in src/ops/grpo_loss.rs");

// A token's loss before weighting; sets its derivative.
GRT_DEV float grpo_token(const GrpoLossArgs& a, int t, float& slope) {
    float logp = grt_load(a.logp + t), advantage = grt_load(a.advantage + t);
    float ratio = grt_exp(logp - grt_load(a.old + t));
    bool clipped = (ratio < a.low && advantage < 0.0f) || (ratio > a.high && advantage > 0.0f);
    float bounded = grt_min(grt_max(ratio, a.low), a.high);
    float gain = ratio * advantage;
    float loss = -grt_min(gain, bounded * advantage);
    slope = clipped ? 0.0f : -gain;
    if (!a.reference) return loss;
    float gap = grt_load(a.reference + t) - logp;
    float grown = grt_exp(gap);
    float factor = a.kl_ratio ? ratio : 1.0f;
    float kl = (grown - gap - 1.0f) * factor;
    float through_ratio = a.kl_ratio ? kl : 0.0f;
    slope = grt_fma(a.beta, grt_fma(factor, 1.0f - grown, through_ratio), slope);
    return grt_fma(a.beta, kl, loss);
}

#define LOSS_THREADS 512
struct loss_sums {
    double of[LOSS_THREADS];
};

// One block.
GRT_KERNEL(grpo_loss_fwd_f32, GrpoLossArgs, LOSS_THREADS) {
    GRT_SHARED(loss_sums, sums);
    double sum = 0;
    for (int t = grt_tid(); t < a.tokens; t += LOSS_THREADS) {
        float slope, loss = grpo_token(a, t, slope);
        sum = grt_fma64((double)grt_load(a.weight + t), (double)loss, sum);
    }
    sums.of[grt_tid()] = sum;
    grt_sync();
    for (int half = LOSS_THREADS / 2; half; half >>= 1) {
        if (grt_tid() < half) sums.of[grt_tid()] += sums.of[grt_tid() + half];
        grt_sync();
    }
    if (grt_tid() == 0) grt_store(a.out, (float)sums.of[0]);
}

// A thread per token.
GRT_KERNEL(grpo_loss_bwd_f32, GrpoLossArgs, 256) {
    int t = grt_block_x() * grt_threads() + grt_tid();
    if (t >= a.tokens) return;
    float slope;
    grpo_token(a, t, slope);
    grt_store(a.out + t, grt_load(a.dloss) * grt_load(a.weight + t) * slope);
}
