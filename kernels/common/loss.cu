// The policy losses with their KL penalty, per token (src/ops/grpo_loss/formula.rs has formulas and
// sources): the weighted sum over tokens, in doubles and in one order, and its derivative.
#include "../include/grt.h"
#include "../include/grt_math.h"

// Columns of one number per token. `reference`, `sampled` and `keep` are absent where the loss does not ask
// for them; `starts` holds the first token of each completion, and the number of tokens. The forward pass
// writes one number to `out`, the backward pass reads it from `dloss` and writes a column.
struct GrpoLossArgs {
    const float* logp;
    const float* old;
    const float* advantage;
    const float* weight;
    const float* reference;
    const float* sampled;
    const float* keep;
    const int* starts;
    const float* dloss;
    float* out;
    double* sums; // per completion
    int tokens;
    int completions;
    int surrogate;  // GRPO_CLIP ...
    int level;      // 0 token, 1 sequence, 2 sequence with the gradient of the token
    int estimator;  // 1, 2, 3
    int kl_ratio;
    int correction; // 0 none, 1 token truncated, 2 token masked, 3 and 4 likewise of sequences
    int off_policy;
    float p0; // of the surrogate
    float p1;
    float p2;
    float p3;
    float beta;
    float drift_most;
    float correction_min;
    float correction_max;
};
static_assert(sizeof(GrpoLossArgs) == 152, "mirrored in src/ops/gpu/grpo_loss.rs");

#define GRPO_CLIP 0
#define GRPO_CISPO 1
#define GRPO_SAPO 2
#define GRPO_VESPO 3
#define GRPO_GEOMETRIC 4
#define GRPO_PLAIN 5

// Logarithms of completion ratios are kept in here.
#define GRPO_LOG_LEAST -18.420680743952367
#define GRPO_LOG_MOST 20.0

// What a whole completion says to each of its tokens.
struct grpo_whole {
    float tokens, mean, factor, phi, geometric;
};

// What a token adds, and its derivatives: of the policy term and of the KL term, each through the ratio
// and past it.
struct grpo_part {
    float loss, through, direct, kl_through, kl_direct, gate;
};

GRT_DEV float grpo_bounded(float x, float low, float high) { return grt_min(grt_max(x, low), high); }

// The side of the clip that takes a gradient away.
GRT_DEV bool grpo_clipped(float x, float low, float high, float advantage) {
    return (x < low && advantage < 0.0f) || (x > high && advantage > 0.0f);
}

// Weight of a token or a completion of another distribution.
GRT_DEV float grpo_cut(const GrpoLossArgs& a, float ratio) {
    if (a.correction % 2) return grpo_bounded(ratio, a.correction_min, a.correction_max);
    return ratio < a.correction_min || ratio > a.correction_max ? 0.0f : ratio;
}

GRT_DEV float grpo_token_correction(const GrpoLossArgs& a, int t) {
    if (a.correction != 1 && a.correction != 2) return 1.0f;
    return grpo_cut(a, grt_exp(grt_load(a.old + t) - grt_load(a.sampled + t)));
}

GRT_DEV float grpo_keep(const GrpoLossArgs& a, int t) { return a.keep ? grt_load(a.keep + t) : 1.0f; }

// The policy term and its derivatives, before factors.
GRT_DEV grpo_part grpo_policy(const GrpoLossArgs& a, float ratio, float log_ratio, float logp,
                              float advantage, const grpo_whole& whole) {
    grpo_part p = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 1.0f};
    if (a.surrogate == GRPO_CLIP) {
        float cap = advantage < 0.0f ? a.p3 : a.p2;
        float capped = grt_min(ratio, cap);
        bool taken = grpo_clipped(capped, a.p0, a.p1, advantage) || ratio > cap;
        p.loss = -grt_min(capped * advantage, grpo_bounded(ratio, a.p0, a.p1) * advantage);
        p.through = taken ? 0.0f : -(ratio * advantage);
    } else if (a.surrogate == GRPO_CISPO) {
        p.direct = -(grpo_bounded(ratio, a.p0, a.p1) * advantage);
        p.loss = p.direct * logp;
    } else if (a.surrogate == GRPO_SAPO) {
        float t = advantage > 0.0f ? a.p0 : a.p1;
        float s = grt_sigmoid(t * (ratio - 1.0f));
        p.loss = -(4.0f / t * s * advantage);
        p.through = -(4.0f * s * (1.0f - s) * advantage * ratio);
    } else if (a.surrogate == GRPO_VESPO) {
        p.direct = -(whole.phi * advantage);
        p.loss = p.direct * logp;
    } else if (a.surrogate == GRPO_GEOMETRIC) {
        p.loss = -(advantage * whole.geometric);
        p.through = p.loss;
        bool taken = grpo_clipped(log_ratio, a.p0, a.p1, advantage) || (advantage == 0.0f && log_ratio < a.p0);
        p.gate = taken ? 0.0f : 1.0f;
    } else {
        p.direct = -advantage;
        p.loss = p.direct * logp;
    }
    return p;
}

// A token's loss before weighting, and its derivatives.
GRT_DEV grpo_part grpo_token(const GrpoLossArgs& a, int t, const grpo_whole& whole) {
    float logp = grt_load(a.logp + t), advantage = grt_load(a.advantage + t);
    float log_ratio = logp - grt_load(a.old + t);
    float ratio = grt_exp(a.level ? whole.mean : log_ratio);
    grpo_part p = grpo_policy(a, ratio, log_ratio, logp, advantage, whole);
    float keep = grpo_keep(a, t), factor = whole.factor;
    if (a.surrogate != GRPO_VESPO) factor *= grpo_token_correction(a, t);
    if (a.surrogate == GRPO_GEOMETRIC) {
        p.gate *= keep;
    } else {
        factor *= keep;
    }
    p.loss *= factor;
    p.through *= factor;
    p.direct *= factor;
    if (!a.reference) return p;
    float gap = grt_load(a.reference + t) - logp;
    float kl = -gap, slope = 1.0f;
    if (a.estimator == 2) {
        kl = 0.5f * gap * gap;
        slope = -gap;
    } else if (a.estimator == 3) {
        float grown = grt_exp(gap);
        kl = grown - gap - 1.0f;
        slope = 1.0f - grown;
    }
    float weight = a.kl_ratio ? ratio : 1.0f;
    kl *= weight;
    p.kl_through = a.kl_ratio ? kl : 0.0f;
    p.kl_direct = weight * slope;
    p.loss = grt_fma(a.beta, kl, p.loss);
    return p;
}

GRT_DEV grpo_whole grpo_nothing() { return {1.0f, 0.0f, 1.0f, 1.0f, 1.0f}; }

#define LOSS_THREADS 512
struct loss_sums {
    double of[LOSS_THREADS];
};

// The sum over a block's threads, for all of them.
GRT_DEV double grpo_total(loss_sums& sums, double mine) {
    grt_sync();
    sums.of[grt_tid()] = mine;
    grt_sync();
    for (int half = LOSS_THREADS / 2; half; half >>= 1) {
        if (grt_tid() < half) sums.of[grt_tid()] += sums.of[grt_tid() + half];
        grt_sync();
    }
    return sums.of[0];
}

GRT_DEV double grpo_held(double x) {
    x = x < GRPO_LOG_LEAST ? GRPO_LOG_LEAST : x;
    return x > GRPO_LOG_MOST ? GRPO_LOG_MOST : x;
}

// The gamma weight of a completion with this sum of log-ratios.
GRT_DEV float grpo_phi(const GrpoLossArgs& a, float log, float advantage) {
    float k = advantage < 0.0f ? a.p2 : a.p0;
    float lambda = grt_max(advantage < 0.0f ? a.p3 : a.p1, 1e-4f);
    log = grpo_bounded(log, (float)GRPO_LOG_LEAST, (float)GRPO_LOG_MOST);
    return grt_exp(grt_fma(-lambda, grt_exp(log), grt_fma(k, log, lambda)));
}

// What the tokens of a block's completion come to together.
GRT_DEV grpo_whole grpo_completion(const GrpoLossArgs& a, loss_sums& sums, int from, int to) {
    grpo_whole whole = grpo_nothing();
    if (from >= to) return whole;
    const float advantage = grt_load(a.advantage + from);
    // Quotients are singles': a division of doubles is a call.
    const float n = (float)(to - from);
    double log = 0, drift = 0, apart = 0, held = 0, bounded = 0, kept = 0;
    for (int t = from + grt_tid(); t < to; t += LOSS_THREADS) {
        float logp = grt_load(a.logp + t), old = grt_load(a.old + t), x = logp - old;
        float drawn = a.sampled ? grt_load(a.sampled + t) : old;
        log += (double)x;
        drift += (double)(drawn - logp);
        apart += (double)(old - drawn);
        if (a.surrogate == GRPO_VESPO) {
            double cut = x < -20.0f ? -20.0 : (x > 20.0f ? 20.0 : (double)x);
            float correction = grpo_token_correction(a, t);
            held += cut + (correction > 0.0f ? grpo_held((double)grt_log(correction)) : GRPO_LOG_LEAST);
        } else if (a.surrogate == GRPO_GEOMETRIC) {
            float inside = grpo_bounded(x, a.p0, a.p1), keep = grpo_keep(a, t);
            float chosen = advantage > 0.0f ? grt_min(x, inside) : grt_max(x, inside);
            bounded += (double)keep * (double)chosen;
            kept += (double)keep;
        }
    }
    whole.tokens = n;
    whole.mean = (float)grpo_total(sums, log) / n;
    if (a.correction > 2) whole.factor = grpo_cut(a, grt_exp((float)grpo_total(sums, apart)));
    if (a.off_policy) {
        bool far = (float)grpo_total(sums, drift) / n > a.drift_most;
        if (advantage < 0.0f && far) whole.factor = 0.0f;
    }
    if (a.surrogate == GRPO_VESPO) whole.phi = grpo_phi(a, (float)grpo_total(sums, held), advantage);
    if (a.surrogate == GRPO_GEOMETRIC) {
        whole.tokens = grt_max((float)grpo_total(sums, kept), 1.0f);
        whole.geometric = grt_exp((float)grpo_total(sums, bounded) / whole.tokens);
    }
    return whole;
}

// One block.
GRT_KERNEL(grpo_loss_fwd_f32, GrpoLossArgs, LOSS_THREADS) {
    GRT_SHARED(loss_sums, sums);
    double sum = 0;
    for (int t = grt_tid(); t < a.tokens; t += LOSS_THREADS) {
        float loss = grpo_token(a, t, grpo_nothing()).loss;
        sum = grt_fma64((double)grt_load(a.weight + t), (double)loss, sum);
    }
    sum = grpo_total(sums, sum);
    if (grt_tid() == 0) grt_store(a.out, (float)sum);
}

// A thread per token.
GRT_KERNEL(grpo_loss_bwd_f32, GrpoLossArgs, 256) {
    int t = grt_block_x() * grt_threads() + grt_tid();
    if (t >= a.tokens) return;
    grpo_part p = grpo_token(a, t, grpo_nothing());
    float slope = grt_fma(a.beta, p.kl_through + p.kl_direct, p.through + p.direct);
    grt_store(a.out + t, grt_load(a.dloss) * grt_load(a.weight + t) * slope);
}

// A block has a completion.
GRT_KERNEL(grpo_loss_whole_fwd_f32, GrpoLossArgs, LOSS_THREADS) {
    GRT_SHARED(loss_sums, sums);
    const int from = grt_load(a.starts + grt_block_x()), to = grt_load(a.starts + grt_block_x() + 1);
    const grpo_whole whole = grpo_completion(a, sums, from, to);
    double sum = 0;
    for (int t = from + grt_tid(); t < to; t += LOSS_THREADS)
        sum = grt_fma64((double)grt_load(a.weight + t), (double)grpo_token(a, t, whole).loss, sum);
    sum = grpo_total(sums, sum);
    if (grt_tid() == 0) grt_store(a.sums + grt_block_x(), sum);
}

// One block adds up the completions.
GRT_KERNEL(grpo_loss_whole_sum_f32, GrpoLossArgs, LOSS_THREADS) {
    GRT_SHARED(loss_sums, sums);
    double sum = 0;
    for (int i = grt_tid(); i < a.completions; i += LOSS_THREADS) sum += grt_load(a.sums + i);
    sum = grpo_total(sums, sum);
    if (grt_tid() == 0) grt_store(a.out, (float)sum);
}

// A block has a completion.
GRT_KERNEL(grpo_loss_whole_bwd_f32, GrpoLossArgs, LOSS_THREADS) {
    GRT_SHARED(loss_sums, sums);
    const int from = grt_load(a.starts + grt_block_x()), to = grt_load(a.starts + grt_block_x() + 1);
    const grpo_whole whole = grpo_completion(a, sums, from, to);
    const bool shares = a.level == 1 || a.surrogate == GRPO_GEOMETRIC;
    float shared = 0.0f;
    if (shares) {
        double sum = 0;
        for (int t = from + grt_tid(); t < to; t += LOSS_THREADS) {
            grpo_part p = grpo_token(a, t, whole);
            float through = grt_fma(a.beta, p.kl_through, p.through);
            sum += (double)(grt_load(a.weight + t) * through);
        }
        shared = (float)grpo_total(sums, sum) / whole.tokens;
    }
    const float dloss = grt_load(a.dloss);
    for (int t = from + grt_tid(); t < to; t += LOSS_THREADS) {
        grpo_part p = grpo_token(a, t, whole);
        float weight = grt_load(a.weight + t);
        float own = p.direct + a.beta * p.kl_direct;
        if (!shares) own = grt_fma(a.beta, p.kl_through + p.kl_direct, p.through + p.direct);
        grt_store(a.out + t, dloss * grt_fma(p.gate, shared, weight * own));
    }
}
