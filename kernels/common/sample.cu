// The next token of each row from raw logits, with the log-probability that the training head computes
// for it, to the bit (grt_logsumexp.h). sample_tiles walks the vocabulary with the whole device, a
// block per tile and row; then one block per row chooses: sample_pick among all tokens by position,
// sample_truncate among the most likely ones, by bisection over the order of the logits. Nothing is
// sorted here, and no sum has an order that depends on more than the row.
//
// B rows, V vocabulary; `tiles` of GRT_VOCAB_TILE columns each.
#include "../include/grt.h"
#include "../include/grt_logsumexp.h"
#include "../include/grt_philox.h"
#include "../include/grt_reduce.h"

// Tiles of the largest vocabulary: 2^20 tokens.
#define SAMPLE_TILES 1024
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
    int unused;
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
        if (x > GRT_FORBIDDEN) z[t - first] = x > 0.0f ? x / a.penalty : grt_mul(x, a.penalty);
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
        for (int c = 4 * grt_tid(); c < GRT_VOCAB_TILE; c += 4 * SAMPLE_THREADS)
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
    float sum[SAMPLE_TILES];
    float weighted[SAMPLE_TILES];
    float factor[SAMPLE_TILES];
};

// The largest of `tiles` numbers in global memory, in every thread.
GRT_DEV float sample_top(const float* tops, int tiles, grt_block_scratch& scratch) {
    float top = grt_load(tops);
    for (int i = grt_tid(); i < tiles; i += grt_threads()) top = grt_max(top, grt_load(tops + i));
    return grt_block_max(top, scratch);
}

// Stores log-sum-exp and entropy of the row. What grt_lse_combine does over the tiles, but the factors
// are computed side by side.
GRT_DEV void sample_statistics(const SampleArgs& a, int row, SampleStatsShared& s,
                                grt_block_scratch& scratch) {
    const float* tops = sample_part(a, row, PART_TOP);
    float top = sample_top(tops, a.tiles, scratch);
    for (int i = grt_tid(); i < a.tiles; i += grt_threads()) {
        grt_lse part = grt_lse_load(tops + i, a.tiles);
        s.sum[i] = part.sum;
        s.weighted[i] = part.weighted;
        s.factor[i] = grt_lse_factor(part.top, top);
    }
    grt_sync();
    if (grt_tid() == 0) {
        grt_lse all = {top, 0, 0};
        for (int i = 0; i < a.tiles; i++) grt_lse_add(all, s.sum[i], s.weighted[i], s.factor[i]);
        grt_store(a.lse + row, grt_lse_log(all));
        grt_store(a.entropy + row, grt_lse_entropy(all));
    }
    grt_sync();
}

// Stores the token and its log-probability in the full distribution. For thread 0, which stored the
// log-sum-exp.
template <class S>
GRT_DEV void sample_answer(const SampleArgs& a, int row, int token) {
    float raw = grt_load((const S*)a.logits + (int64_t)row * a.vocab + token);
    grt_store(a.token + row, token);
    grt_store(a.logp + row, grt_prepared(raw, a.inv_temperature) - grt_load(a.lse + row));
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
    sample_statistics(a, row, s.stats, s.scratch);
    float top = sample_top(sample_part(a, row, CHOICE_TOP), a.tiles, s.scratch);
    if (a.greedy) {
        token = sample_pick_first(a, row, top, s.least);
    } else {
        sample_pick_tile(a, row, top, s);
        token = s.tile * GRT_VOCAB_TILE + sample_pick_column<S>(a, row, top, s);
    }
    if (grt_tid() == 0) sample_answer<S>(a, row, token);
}

GRT_KERNEL(sample_pick_f32, SampleArgs, PICK_THREADS) { sample_pick<float>(a); }
GRT_KERNEL(sample_pick_bf16, SampleArgs, PICK_THREADS) { sample_pick<grt_bf16>(a); }

#define CUT_THREADS 512
#define CUT_WAVES (CUT_THREADS / GRT_WAVE)
// Tokens that a block can have at hand.
#define CUT_LIST 4096

// Number and weight of some tokens.
struct SampleMass {
    int count;
    double mass;
};

struct SampleCutShared {
    union {
        SampleStatsShared stats;
        float list[CUT_LIST]; // logits, in order of position
    };
    float tops[SAMPLE_TILES];
    int counts[SAMPLE_TILES];
    int part_count[CUT_WAVES];
    double part_mass[CUT_WAVES];
    grt_block_scratch scratch;
    int chosen;
};

// The unsigned number that orders as x does.
GRT_DEV uint32_t sample_key(float x) {
    uint32_t u = grt_bits(x);
    return u >> 31 ? ~u : u | 0x80000000u;
}
GRT_DEV float sample_unkey(uint32_t key) {
    return grt_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

GRT_DEV double sample_shfl_xor(double x, int mask) {
    int half[2];
    __builtin_memcpy(half, &x, 8);
    half[0] = grt_shfl_xor(half[0], mask);
    half[1] = grt_shfl_xor(half[1], mask);
    __builtin_memcpy(&x, half, 8);
    return x;
}

// A row whose tokens are chosen from in the order of falling logit, then position. The state is the
// same in every thread of the block.
struct SampleRow {
    const float* z; // [tiles * GRT_VOCAB_TILE], prepared, penalties applied
    int tiles;
    float top;
    // What is left to choose from: tokens above `key`, and the first `ties` at it; and all of those.
    uint32_t key;
    int ties;
    // Tokens from list_key on (up to list_end) are at hand; how many, and what is above list_end.
    bool listed;
    uint32_t list_key, list_end;
    int list_count;
    SampleMass list_above;
};

GRT_DEV SampleMass sample_block_mass(SampleMass x, SampleCutShared& s) {
    GRT_UNROLL for (int m = GRT_WAVE / 2; m; m >>= 1) {
        x.count += grt_shfl_xor(x.count, m);
        x.mass += sample_shfl_xor(x.mass, m);
    }
    if (grt_lane() == 0) {
        s.part_count[grt_wave()] = x.count;
        s.part_mass[grt_wave()] = x.mass;
    }
    grt_sync();
    SampleMass sum = {0, 0};
    for (int i = 0; i < CUT_WAVES; i++) {
        sum.count += s.part_count[i];
        sum.mass += s.part_mass[i];
    }
    grt_sync();
    return sum;
}

GRT_DEV void sample_take(SampleMass& x, float z, float top) {
    x.count++;
    x.mass += grt_exp_weight(z - top);
}

// All tokens at or above a key, whatever is left to choose from.
GRT_DEV SampleMass sample_above(const SampleRow& r, uint32_t key, SampleCutShared& s) {
    SampleMass x = {0, 0};
    if (r.listed) {
        for (int i = grt_tid(); i < r.list_count; i += CUT_THREADS)
            if (sample_key(s.list[i]) >= key) sample_take(x, s.list[i], r.top);
        x = sample_block_mass(x, s);
        return {x.count + r.list_above.count, x.mass + r.list_above.mass};
    }
    // A wave per tile, and only tiles that have such a token.
    for (int tile = grt_wave(); tile < r.tiles; tile += CUT_WAVES) {
        if (sample_key(s.tops[tile]) < key) continue;
        const float* from = r.z + (int64_t)tile * GRT_VOCAB_TILE + 4 * grt_lane();
        for (int c = 0; c < GRT_VOCAB_TILE; c += 4 * GRT_WAVE) {
            float z[4];
            grt_load_vec(from + c, z);
            GRT_UNROLL for (int i = 0; i < 4; i++)
                if (sample_key(z[i]) >= key) sample_take(x, z[i], r.top);
        }
    }
    return sample_block_mass(x, s);
}

// The sum over the lanes before this one, and in `all` that over all lanes.
GRT_DEV int sample_before(int x, int& all) {
    int sum = x;
    GRT_UNROLL for (int d = 1; d < GRT_WAVE; d <<= 1) {
        int other = grt_shfl(sum, grt_lane() - d);
        if (grt_lane() >= d) sum += other;
    }
    all = grt_shfl(sum, GRT_WAVE - 1);
    return sum - x;
}

// Counts the tokens of a tile whose keys are in from..=to, and, if `list` is not null, writes their
// logits there in order of position. For a wave.
GRT_DEV int sample_collect(const SampleRow& r, int tile, uint32_t from, uint32_t to, float* list) {
    int count = 0;
    const float* p = r.z + (int64_t)tile * GRT_VOCAB_TILE + 4 * grt_lane();
    for (int c = 0; c < GRT_VOCAB_TILE; c += 4 * GRT_WAVE) {
        float z[4];
        grt_load_vec(p + c, z);
        int own = 0, all = 0;
        GRT_UNROLL for (int i = 0; i < 4; i++)
            own += sample_key(z[i]) >= from && sample_key(z[i]) <= to;
        int at = count + sample_before(own, all);
        count += all;
        if (!list) continue;
        GRT_UNROLL for (int i = 0; i < 4; i++)
            if (sample_key(z[i]) >= from && sample_key(z[i]) <= to) list[at++] = z[i];
    }
    return count;
}

// Brings the tokens with keys from..=to to hand, of which there must be at most CUT_LIST; `above` is
// what lies above them.
GRT_DEV void sample_gather(SampleRow& r, uint32_t from, uint32_t to, SampleMass above,
                           SampleCutShared& s) {
    for (int tile = grt_wave(); tile < r.tiles; tile += CUT_WAVES) {
        bool some = sample_key(s.tops[tile]) >= from;
        int count = some ? sample_collect(r, tile, from, to, nullptr) : 0;
        if (grt_lane() == 0) s.counts[tile] = count;
    }
    grt_sync();
    int count = 0;
    for (int tile = 0; tile < r.tiles; tile++) {
        // Every wave writes its own tiles; each needs the places of all before them.
        if (tile % CUT_WAVES == grt_wave() && s.counts[tile] > 0)
            sample_collect(r, tile, from, to, s.list + count);
        count += s.counts[tile];
    }
    grt_sync();
    r.listed = true;
    r.list_key = from;
    r.list_end = to;
    r.list_count = count;
    r.list_above = above;
}

// Cuts what is left to the shortest beginning of the order that is `enough(count, mass)`; if none is,
// to all of it. Returns what is left without its last ties, and the number of them in `r.ties`.
template <class Enough>
GRT_DEV SampleMass sample_cut(SampleRow& r, const Enough& enough, SampleCutShared& s) {
    bool was_listed = r.listed;
    uint32_t lo = r.key, hi = sample_key(r.top);
    SampleMass beyond = {0, 0}, at_lo = sample_above(r, lo, s);
    // at_lo is what lies at or above lo, beyond what lies above hi.
    while (lo < hi) {
        if (!r.listed && at_lo.count - beyond.count <= CUT_LIST) sample_gather(r, lo, hi, beyond, s);
        uint32_t mid = hi - (hi - lo) / 2;
        SampleMass x = sample_above(r, mid, s);
        if (enough(x.count, x.mass)) {
            lo = mid;
            at_lo = x;
        } else {
            hi = mid - 1;
            beyond = x;
        }
    }
    int same = at_lo.count - beyond.count;
    if (lo == r.key && r.ties < same) same = r.ties;
    double weight = grt_exp_weight(sample_unkey(lo) - r.top);
    int few = 1, many = same;
    while (few < many) {
        int some = few + (many - few) / 2;
        if (enough(beyond.count + some, beyond.mass + some * weight)) many = some;
        else few = some + 1;
    }
    r.listed = was_listed;
    r.key = lo;
    r.ties = many;
    return beyond;
}

// All that is left.
GRT_DEV SampleMass sample_left(const SampleRow& r, SampleCutShared& s) {
    SampleMass x = sample_above(r, r.key, s), beyond = sample_above(r, r.key + 1, s);
    int same = x.count - beyond.count;
    if (r.ties >= same) return x;
    double weight = grt_exp_weight(sample_unkey(r.key) - r.top);
    return {beyond.count + r.ties, beyond.mass + r.ties * weight};
}

// Position of the nth (from 1) of the tokens with this key.
GRT_DEV int sample_place(const SampleRow& r, uint32_t key, int nth, SampleCutShared& s) {
    for (int tile = grt_wave(); tile < r.tiles; tile += CUT_WAVES) {
        bool some = sample_key(s.tops[tile]) >= key;
        int count = some ? sample_collect(r, tile, key, key, nullptr) : 0;
        if (grt_lane() == 0) s.counts[tile] = count;
    }
    if (grt_tid() == 0) s.chosen = 0;
    grt_sync();
    int tile = 0;
    while (tile < r.tiles - 1 && s.counts[tile] < nth) nth -= s.counts[tile++];
    const float* z = r.z + (int64_t)tile * GRT_VOCAB_TILE;
    for (int c = grt_tid(); c < GRT_VOCAB_TILE; c += CUT_THREADS) {
        if (sample_key(grt_load(z + c)) != key) continue;
        int before = 0;
        for (int i = 0; i < c; i++) before += sample_key(grt_load(z + i)) == key;
        if (before == nth - 1) s.chosen = tile * GRT_VOCAB_TILE + c;
    }
    grt_sync();
    return s.chosen;
}

// Key of the k-th largest top of the tiles: at least k tokens reach it.
GRT_DEV uint32_t sample_kth_top(int tiles, int k, SampleCutShared& s) {
    for (int i = grt_tid(); i < tiles; i += CUT_THREADS) {
        int before = 0;
        for (int j = 0; j < tiles; j++)
            before += s.tops[j] > s.tops[i] || (s.tops[j] == s.tops[i] && j < i);
        if (before == k - 1) s.chosen = i;
    }
    grt_sync();
    uint32_t key = sample_key(s.tops[s.chosen]);
    grt_sync();
    return key;
}

// The weight of all tokens together.
GRT_DEV double sample_total(const SampleArgs& a, int row, float top) {
    const float* tops = sample_part(a, row, CHOICE_TOP);
    const float* sums = sample_part(a, row, CHOICE_SUM);
    double total = 0;
    for (int i = 0; i < a.tiles; i++)
        total += (double)grt_load(sums + i) * grt_exp_weight(grt_load(tops + i) - top);
    return total;
}

// Begins at a key below which nothing can be chosen, near what can, and takes the rest to hand if it
// is not too much.
GRT_DEV void sample_begin(const SampleArgs& a, SampleRow& r, double wanted, SampleCutShared& s) {
    const uint32_t least = sample_key(GRT_FORBIDDEN) + 1;
    r.key = least;
    r.ties = 0x7fffffff;
    r.listed = false;
    auto down = [&](float depth) {
        uint32_t key = sample_key(r.top - depth);
        r.key = key > least ? key : least;
    };
    SampleMass x;
    if (a.top_k > 0) {
        uint32_t key = a.top_k <= r.tiles ? sample_kth_top(r.tiles, a.top_k, s) : least;
        r.key = key > least ? key : least;
        x = sample_above(r, r.key, s);
    } else if (a.top_p < 1) {
        float depth = 4;
        for (;;) {
            down(depth);
            x = sample_above(r, r.key, s);
            if (x.mass >= wanted || r.key == least || depth > 128.0f) break;
            depth *= 2;
        }
    } else {
        down(0.1f - (float)a.log_min_p);
        x = sample_above(r, r.key, s);
    }
    if (x.count <= CUT_LIST) sample_gather(r, r.key, 0xffffffffu, {0, 0}, s);
}

// Drops what is less than min_p as likely as the most likely.
GRT_DEV void sample_cut_below(const SampleArgs& a, SampleRow& r) {
    double limit = (double)r.top + a.log_min_p;
    float at = (float)limit;
    uint32_t key = sample_key(at) + ((double)at < limit), top = sample_key(r.top);
    if (key <= r.key) return;
    r.key = key < top ? key : top;
    r.ties = 0x7fffffff;
}

template <class S>
GRT_DEV void sample_truncate(const SampleArgs& a) {
    GRT_SHARED(SampleCutShared, s);
    int row = grt_block_x();
    sample_statistics(a, row, s.stats, s.scratch);
    const float* tops = sample_part(a, row, CHOICE_TOP);
    SampleRow r;
    r.z = a.z + (int64_t)row * a.tiles * GRT_VOCAB_TILE;
    r.tiles = a.tiles;
    r.top = sample_top(tops, a.tiles, s.scratch);
    for (int i = grt_tid(); i < a.tiles; i += CUT_THREADS) s.tops[i] = grt_load(tops + i);
    grt_sync();
    double target = a.top_k == 0 && a.top_p < 1 ? a.top_p * sample_total(a, row, r.top) : 0;
    sample_begin(a, r, target, s);
    if (a.top_k > 0) {
        sample_cut(r, [&](int count, double) { return count >= a.top_k; }, s);
        if (a.top_p < 1) target = a.top_p * sample_left(r, s).mass;
    }
    if (a.top_p < 1) sample_cut(r, [&](int, double mass) { return mass >= target; }, s);
    if (a.log_min_p > -1e300) sample_cut_below(a, r);
    target = sample_uniform(a, row) * sample_left(r, s).mass;
    sample_cut(r, [&](int, double mass) { return mass > target; }, s);
    int token = sample_place(r, r.key, r.ties, s);
    if (grt_tid() == 0) sample_answer<S>(a, row, token);
}

GRT_KERNEL(sample_truncate_f32, SampleArgs, CUT_THREADS) { sample_truncate<float>(a); }
GRT_KERNEL(sample_truncate_bf16, SampleArgs, CUT_THREADS) { sample_truncate<grt_bf16>(a); }
