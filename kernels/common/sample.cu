// The next token of each row from raw logits, with the log-probability that the training head computes
// for it, to the bit (grt_logsumexp.h). sample_tiles walks the vocabulary with the whole device, a
// block per tile and row; then one block per row chooses: sample_pick among all tokens by position,
// sample_truncate among the most likely ones, by bisection over the order of the logits. Nothing is
// sorted here, and no sum has an order that depends on more than the row.
//
// B rows, V vocabulary; `tiles` of GRT_VOCAB_TILE columns each.
#include "../include/grt.h"
#include "../include/grt_cut.h"
#include "../include/grt_logsumexp.h"
#include "../include/grt_philox.h"
#include "../include/grt_reduce.h"

// Tiles of the largest vocabulary: 2^20 tokens.
#define SAMPLE_TILES CUT_TILES
// Threads of sample_tiles: 8 for each strip.
#define SAMPLE_THREADS 64
// Words of the table per row: step, sample, token, and where its seen tokens begin and end.
#define SAMPLE_ROW_WORDS 5
// Numbers per row and tile in `parts`: see SamplePart.
#define SAMPLE_PARTS 6

struct SampleArgs {
    const void* logits; // [B,V], raw
    // Forbidden tokens (see grt_forbidden), and from word `row_words` on the rows' entries, and seen
    // tokens of each row, ascending, each once. Words count from the table's beginning.
    const int* table;
    int* token;
    float* logp;
    float* lse;
    float* entropy;
    float* parts;  // [B, SAMPLE_PARTS, tiles]
    float* z;      // [B, tiles * GRT_VOCAB_TILE] what is chosen from, if `keep`
    double top_p;
    double log_min_p; // minus infinity: off
    int rows;
    int vocab;
    int tiles;
    int row_words;
    int top_k; // 0: off
    int greedy;
    int keep;
    float inv_temperature;
    float penalty; // 1: off
    uint32_t key0; // of Philox
    uint32_t key1;
    float inv_penalty; // 1 / penalty, rounded
};
static_assert(sizeof(SampleArgs) == 128, "mirrored in src/ops/gpu/sample.rs");

// What sample_tiles finds out about a tile: statistics of the distribution (three numbers), then what
// is chosen from, penalties applied: its top, its sum, and the place of the first largest.
enum SamplePart { PART_TOP, PART_SUM, PART_WEIGHTED, CHOICE_TOP, CHOICE_SUM, CHOICE_AT };

GRT_DEV float* sample_part(const SampleArgs& a, int row, SamplePart part) {
    return a.parts + ((int64_t)row * SAMPLE_PARTS + part) * a.tiles;
}

// Prepared logits of a tile into shared memory, GRT_FORBIDDEN beyond the vocabulary.
template <class S>
GRT_DEV void sample_load_tile(const SampleArgs& a, int row, int tile, float* z) {
    constexpr int N = grt_vec<S>::N;
    const S* from = (const S*)a.logits + (int64_t)row * a.vocab + tile * GRT_VOCAB_TILE;
    int left = a.vocab - tile * GRT_VOCAB_TILE;
    for (int c = grt_tid() * N; c < GRT_VOCAB_TILE; c += grt_threads() * N) {
        float x[N];
        if (a.vocab % N == 0 && c < left) {
            grt_load_vec(from + c, x);
            GRT_UNROLL for (int i = 0; i < N; i++) z[c + i] = grt_prepared(x[i], a.inv_temperature);
        } else {
            GRT_UNROLL for (int i = 0; i < N; i++)
                z[c + i] = c + i < left ? grt_prepared(grt_load(from + c + i), a.inv_temperature)
                                        : GRT_FORBIDDEN;
        }
    }
    grt_sync();
    grt_word_range words = grt_forbidden(a.table, tile);
    for (int i = words.from + grt_tid(); i < words.to; i += grt_threads())
        z[grt_load(a.table + i) - tile * GRT_VOCAB_TILE] = GRT_FORBIDDEN;
    grt_sync();
}

// x / penalty to the last bit, without a division's slow path, whose call would put registers into local
// memory: one correction of the product with the reciprocal (Markstein, IBM J. Res. Dev. 34, 1990).
GRT_DEV float sample_quotient(float x, const SampleArgs& a) {
    float q = grt_mul(x, a.inv_penalty);
    return grt_fma(grt_fma(-q, a.penalty, x), a.inv_penalty, q);
}

// Makes tokens of the tile that the row has seen less likely, or more.
GRT_DEV void sample_penalise(const SampleArgs& a, int row, int tile, float* z) {
    const int* entry = a.table + a.row_words + row * SAMPLE_ROW_WORDS;
    int first = tile * GRT_VOCAB_TILE;
    int end = grt_load(entry + 4);
    // The first seen token of the tile.
    int lo = grt_load(entry + 3), hi = end;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (grt_load(a.table + mid) < first) lo = mid + 1;
        else hi = mid;
    }
    for (int i = lo + grt_tid(); i < end; i += grt_threads()) {
        int t = grt_load(a.table + i);
        if (t >= first + GRT_VOCAB_TILE) break;
        float x = z[t - first];
        if (x > GRT_FORBIDDEN) z[t - first] = x > 0.0f ? sample_quotient(x, a) : grt_mul(x, a.penalty);
    }
    grt_sync();
}

// Statistics of the tile in shared memory, in every thread, of which there are 64.
GRT_DEV grt_lse sample_tile_lse(const float* z, int num_strips, grt_lse* strips) {
    int strip = grt_tid() / GRT_STRIP_LANES;
    grt_lse s = grt_lse_strip(z + strip * GRT_VOCAB_STRIP);
    if (grt_tid() % GRT_STRIP_LANES == 0) strips[strip] = s;
    grt_sync();
    s = grt_lse_combine(num_strips, [&](int i) { return strips[i]; });
    grt_sync();
    return s;
}

// The smallest of the block's numbers, in every thread.
GRT_DEV int sample_block_min(int x, int* scratch) {
    GRT_UNROLL for (int m = GRT_WAVE / 2; m; m >>= 1) {
        int other = grt_shfl_xor(x, m);
        x = other < x ? other : x;
    }
    if (grt_lane() == 0) scratch[grt_wave()] = x;
    grt_sync();
    for (int i = 0; i < grt_waves(); i++) x = scratch[i] < x ? scratch[i] : x;
    grt_sync();
    return x;
}

struct SampleTileShared {
    alignas(16) float z[GRT_VOCAB_TILE];
    grt_lse strips[GRT_STRIPS];
    int least[SAMPLE_THREADS / GRT_WAVE];
};

template <class S>
GRT_DEV void sample_tiles(const SampleArgs& a) {
    GRT_SHARED(SampleTileShared, s);
    int tile = grt_block_x(), row = grt_block_y(), strips = grt_strips(a.vocab, tile);
    sample_load_tile<S>(a, row, tile, s.z);
    grt_lse all = sample_tile_lse(s.z, strips, s.strips);
    grt_lse choice = all;
    if (a.penalty != 1.0f) {
        sample_penalise(a, row, tile, s.z);
        choice = sample_tile_lse(s.z, strips, s.strips);
    }
    int at = GRT_VOCAB_TILE;
    if (a.greedy) {
        for (int c = grt_tid(); c < GRT_VOCAB_TILE && at == GRT_VOCAB_TILE; c += SAMPLE_THREADS)
            if (s.z[c] == choice.top) at = c;
        at = sample_block_min(at, s.least);
    }
    if (a.keep) {
        float* to = a.z + ((int64_t)row * a.tiles + tile) * GRT_VOCAB_TILE;
        GRT_ROLLED for (int c = 4 * grt_tid(); c < GRT_VOCAB_TILE; c += 4 * SAMPLE_THREADS)
            grt_store_vec(to + c, {s.z[c], s.z[c + 1], s.z[c + 2], s.z[c + 3]});
    }
    if (grt_tid() == 0) {
        grt_lse_store(sample_part(a, row, PART_TOP) + tile, a.tiles, all);
        grt_store(sample_part(a, row, CHOICE_TOP) + tile, choice.top);
        grt_store(sample_part(a, row, CHOICE_SUM) + tile, choice.sum);
        grt_store((int*)sample_part(a, row, CHOICE_AT) + tile, at);
    }
}

GRT_KERNEL(sample_tiles_f32, SampleArgs, SAMPLE_THREADS) { sample_tiles<float>(a); }
GRT_KERNEL(sample_tiles_bf16, SampleArgs, SAMPLE_THREADS) { sample_tiles<grt_bf16>(a); }

struct SampleStatsShared {
    grt_lse_share tiles[SAMPLE_TILES];
};

// The largest of `tiles` numbers in global memory, in every thread.
GRT_DEV float sample_top(const float* tops, int tiles, grt_block_scratch& scratch) {
    float top = grt_load(tops);
    for (int i = grt_tid(); i < tiles; i += grt_threads()) top = grt_max(top, grt_load(tops + i));
    return grt_block_max(top, scratch);
}

// Statistics of the row, in thread 0, which stores log-sum-exp and entropy. What grt_lse_combine does
// over the tiles, but the shares are computed side by side.
GRT_DEV void sample_statistics(const SampleArgs& a, int row, SampleStatsShared& s, grt_lse& all,
                               grt_block_scratch& scratch) {
    const float* tops = sample_part(a, row, PART_TOP);
    float top = sample_top(tops, a.tiles, scratch);
    for (int i = grt_tid(); i < a.tiles; i += grt_threads())
        s.tiles[i] = grt_lse_beside(grt_lse_load(tops + i, a.tiles), top);
    grt_sync();
    if (grt_tid() == 0) {
        all = {top, 0, 0};
        for (int i = 0; i < a.tiles; i++) grt_lse_add(all, s.tiles[i]);
        grt_store(a.lse + row, grt_lse_log(all));
        grt_store(a.entropy + row, grt_lse_entropy(all));
    }
    grt_sync();
}

// Stores the token and its log-probability in the full distribution. For thread 0.
template <class S>
GRT_DEV void sample_answer(const SampleArgs& a, int row, int token, const grt_lse& all) {
    float raw = grt_load((const S*)a.logits + (int64_t)row * a.vocab + token);
    grt_store(a.token + row, token);
    grt_store(a.logp + row, grt_lse_logp(all, grt_prepared(raw, a.inv_temperature)));
}

// The row's random number.
GRT_DEV double sample_uniform(const SampleArgs& a, int row) {
    const int* entry = a.table + a.row_words + row * SAMPLE_ROW_WORDS;
    uint32_t step = (uint32_t)grt_load(entry), sample = (uint32_t)grt_load(entry + 1);
    uint32_t token = (uint32_t)grt_load(entry + 2);
    return grt_unit(grt_philox(a.key0, a.key1, step, sample, token, 0).w[0]);
}

// The first of n weights at which their running sum passes the target, or else the last one above 0.
// The target becomes what of it is left at that weight.
template <class Weight>
GRT_DEV int sample_pass(int n, const Weight& weight, double& target) {
    double passed = 0, left = target;
    int found = 0;
    for (int i = 0; i < n; i++) {
        double w = weight(i);
        if (!(w > 0)) continue;
        found = i;
        left = target - passed;
        passed += w;
        if (passed > target) break;
    }
    target = left;
    return found;
}

// Groups of 8 threads, each of which has 8 columns of a tile.
#define PICK_GROUPS 16
#define PICK_THREADS (8 * PICK_GROUPS)

struct SamplePickShared {
    SampleStatsShared stats;
    grt_lse all;
    double weight[SAMPLE_TILES];
    double thread[PICK_THREADS];
    double group[PICK_GROUPS];
    alignas(16) float z[GRT_VOCAB_TILE];
    grt_block_scratch scratch;
    int least[PICK_THREADS / GRT_WAVE];
    double target;
    int tile;
};

// The tile of the choice, in s.tile; what is left of the target in it, in s.target.
GRT_DEV void sample_pick_tile(const SampleArgs& a, int row, float top, SamplePickShared& s) {
    const float* tops = sample_part(a, row, CHOICE_TOP);
    const float* sums = sample_part(a, row, CHOICE_SUM);
    for (int i = grt_tid(); i < a.tiles; i += PICK_THREADS)
        s.weight[i] = (double)grt_load(sums + i) * grt_exp_weight(grt_load(tops + i) - top);
    grt_sync();
    if (grt_tid() == 0) {
        double total = 0;
        for (int i = 0; i < a.tiles; i++) total += s.weight[i];
        s.target = sample_uniform(a, row) * total;
        s.tile = sample_pass(a.tiles, [&](int i) { return s.weight[i]; }, s.target);
    }
    grt_sync();
}

// The column of the choice within s.tile, in thread 0.
template <class S>
GRT_DEV int sample_pick_column(const SampleArgs& a, int row, float top, SamplePickShared& s) {
    int tile = s.tile;
    sample_load_tile<S>(a, row, tile, s.z);
    if (a.penalty != 1.0f) sample_penalise(a, row, tile, s.z);
    auto weight = [&](int c) { return (double)grt_exp_weight(s.z[c] - top); };
    double mass = 0;
    for (int c = 8 * grt_tid(); c < 8 * grt_tid() + 8; c++) mass += weight(c);
    s.thread[grt_tid()] = mass;
    grt_sync();
    if (grt_tid() < PICK_GROUPS) {
        mass = 0;
        for (int i = 0; i < 8; i++) mass += s.thread[8 * grt_tid() + i];
        s.group[grt_tid()] = mass;
    }
    grt_sync();
    if (grt_tid() > 0) return 0;
    double target = s.target;
    int first = 8 * sample_pass(PICK_GROUPS, [&](int i) { return s.group[i]; }, target);
    first = 8 * (first + sample_pass(8, [&](int i) { return s.thread[first + i]; }, target));
    return first + sample_pass(8, [&](int i) { return weight(first + i); }, target);
}

// The first of the largest.
GRT_DEV int sample_pick_first(const SampleArgs& a, int row, float top, int* scratch) {
    const float* tops = sample_part(a, row, CHOICE_TOP);
    int tile = a.tiles;
    for (int i = grt_tid(); i < a.tiles && tile == a.tiles; i += PICK_THREADS)
        if (grt_load(tops + i) == top) tile = i;
    tile = sample_block_min(tile, scratch);
    return tile * GRT_VOCAB_TILE + grt_load((const int*)sample_part(a, row, CHOICE_AT) + tile);
}

template <class S>
GRT_DEV void sample_pick(const SampleArgs& a) {
    GRT_SHARED(SamplePickShared, s);
    int row = grt_block_x(), token = 0;
    sample_statistics(a, row, s.stats, s.all, s.scratch);
    float top = sample_top(sample_part(a, row, CHOICE_TOP), a.tiles, s.scratch);
    if (a.greedy) {
        token = sample_pick_first(a, row, top, s.least);
    } else {
        sample_pick_tile(a, row, top, s);
        token = s.tile * GRT_VOCAB_TILE + sample_pick_column<S>(a, row, top, s);
    }
    if (grt_tid() == 0) sample_answer<S>(a, row, token, s.all);
}

GRT_KERNEL(sample_pick_f32, SampleArgs, PICK_THREADS) { sample_pick<float>(a); }
GRT_KERNEL(sample_pick_bf16, SampleArgs, PICK_THREADS) { sample_pick<grt_bf16>(a); }

struct SampleCutShared {
    grt_cut_shared cut;
    union {
        SampleStatsShared stats;
        double weight[SAMPLE_TILES];
    };
    grt_lse all;
    grt_block_scratch scratch;
};

// The weight of all tokens together.
GRT_DEV double sample_total(const SampleArgs& a, int row, float top, SampleCutShared& s) {
    const float* sums = sample_part(a, row, CHOICE_SUM);
    for (int i = grt_tid(); i < a.tiles; i += CUT_THREADS)
        s.weight[i] = (double)grt_load(sums + i) * grt_exp_weight(s.cut.tops[i] - top);
    grt_sync();
    double total = 0;
    for (int i = 0; i < a.tiles; i++) total += s.weight[i];
    grt_sync();
    return total;
}

// Begins at a key below which nothing can be chosen, near what can, and takes the rest to hand if it
// is not too much.
GRT_DEV void sample_begin(const SampleArgs& a, grt_cut& r, double wanted, grt_cut_shared& s) {
    const uint32_t least = grt_key(GRT_FORBIDDEN) + 1;
    r.key = least;
    r.ties = 0x7fffffff;
    r.listed = false;
    auto down = [&](float depth) {
        uint32_t key = grt_key(r.top - depth);
        r.key = key > least ? key : least;
    };
    grt_mass x;
    if (a.top_k > 0) {
        uint32_t key = a.top_k <= r.tiles ? grt_cut_kth_top(r.tiles, a.top_k, s) : least;
        r.key = key > least ? key : least;
        x = grt_cut_above(r, r.key, s);
    } else if (a.top_p < 1) {
        float depth = 4;
        for (;;) {
            down(depth);
            x = grt_cut_above(r, r.key, s);
            if (x.mass >= wanted || r.key == least || depth > 128.0f) break;
            depth *= 2;
        }
    } else {
        down(0.1f - (float)a.log_min_p);
        x = grt_cut_above(r, r.key, s);
    }
    if (x.count <= CUT_LIST) grt_cut_gather(r, r.key, 0xffffffffu, {0, 0}, s);
}

template <class S>
GRT_DEV void sample_truncate(const SampleArgs& a) {
    GRT_SHARED(SampleCutShared, s);
    int row = grt_block_x();
    sample_statistics(a, row, s.stats, s.all, s.scratch);
    const float* tops = sample_part(a, row, CHOICE_TOP);
    grt_cut r;
    r.z = a.z + (int64_t)row * a.tiles * GRT_VOCAB_TILE;
    r.tiles = a.tiles;
    r.top = sample_top(tops, a.tiles, s.scratch);
    for (int i = grt_tid(); i < a.tiles; i += CUT_THREADS) s.cut.tops[i] = grt_load(tops + i);
    grt_sync();
    double target = a.top_k == 0 && a.top_p < 1 ? a.top_p * sample_total(a, row, r.top, s) : 0;
    sample_begin(a, r, target, s.cut);
    if (a.top_k > 0) {
        grt_cut_to(r, [&](int count, double) { return count >= a.top_k; }, s.cut);
        if (a.top_p < 1) target = a.top_p * grt_cut_left(r, s.cut).mass;
    }
    if (a.top_p < 1) grt_cut_to(r, [&](int, double mass) { return mass >= target; }, s.cut);
    if (a.log_min_p > -1e300) grt_cut_below(r, a.log_min_p);
    target = sample_uniform(a, row) * grt_cut_left(r, s.cut).mass;
    grt_cut_to(r, [&](int, double mass) { return mass > target; }, s.cut);
    int token = grt_cut_place(r, r.key, r.ties, s.cut);
    if (grt_tid() == 0) sample_answer<S>(a, row, token, s.all);
}

GRT_KERNEL(sample_truncate_f32, SampleArgs, CUT_THREADS) { sample_truncate<float>(a); }
GRT_KERNEL(sample_truncate_bf16, SampleArgs, CUT_THREADS) { sample_truncate<grt_bf16>(a); }
