// Choosing from a row in the order of falling logit, then position, by weight e^z: the row is cut to the
// beginning of that order, once and again, by bisection over the order of the logits. Nothing is sorted.
// Weights are singles, their sums doubles, in an order that depends on the row alone. One block has the
// row, in tiles of GRT_VOCAB_TILE; src/ops/cpu/choose.rs does the same by other means.
#pragma once
#include "grt.h"
#include "grt_logsumexp.h"

// Threads of the block.
#define CUT_THREADS 512
#define CUT_WAVES (CUT_THREADS / GRT_WAVE)
// Tiles of the longest row.
#define CUT_TILES 1024
// Items that a block can have at hand.
#define CUT_LIST 4096

// Number and weight of some items.
struct grt_mass {
    int count;
    double mass;
};

struct grt_cut_shared {
    float list[CUT_LIST];  // logits, in order of position
    float tops[CUT_TILES]; // the largest of each tile
    int counts[CUT_TILES];
    int part_count[CUT_WAVES];
    double part_mass[CUT_WAVES];
    int chosen;
};

// The unsigned number that orders as x does.
GRT_DEV uint32_t grt_key(float x) {
    uint32_t u = grt_bits(x);
    return u >> 31 ? ~u : u | 0x80000000u;
}
GRT_DEV float grt_unkey(uint32_t key) {
    return grt_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

GRT_DEV double grt_shfl_xor(double x, int mask) {
    int half[2];
    __builtin_memcpy(half, &x, 8);
    half[0] = grt_shfl_xor(half[0], mask);
    half[1] = grt_shfl_xor(half[1], mask);
    __builtin_memcpy(&x, half, 8);
    return x;
}

// A row whose items are chosen from in the order of falling logit, then position. The state is the
// same in every thread of the block.
struct grt_cut {
    const float* z; // [tiles * GRT_VOCAB_TILE], prepared, penalties applied
    int tiles;
    float top;
    // What is left to choose from: items above `key`, and the first `ties` at it.
    uint32_t key;
    int ties;
    // Items from list_key on (up to list_end) are at hand; how many, and what is above list_end.
    bool listed;
    uint32_t list_key, list_end;
    int list_count;
    grt_mass list_above;
};

GRT_DEV grt_mass grt_cut_sum(grt_mass x, grt_cut_shared& s) {
    GRT_UNROLL for (int m = GRT_WAVE / 2; m; m >>= 1) {
        x.count += grt_shfl_xor(x.count, m);
        x.mass += grt_shfl_xor(x.mass, m);
    }
    if (grt_lane() == 0) {
        s.part_count[grt_wave()] = x.count;
        s.part_mass[grt_wave()] = x.mass;
    }
    grt_sync();
    grt_mass sum = {0, 0};
    for (int i = 0; i < CUT_WAVES; i++) {
        sum.count += s.part_count[i];
        sum.mass += s.part_mass[i];
    }
    grt_sync();
    return sum;
}

GRT_DEV void grt_cut_take(grt_mass& x, float z, float top) {
    x.count++;
    x.mass += grt_exp_weight(z - top);
}

// All items at or above a key, whatever is left to choose from.
GRT_DEV grt_mass grt_cut_above(const grt_cut& r, uint32_t key, grt_cut_shared& s) {
    grt_mass x = {0, 0};
    if (r.listed) {
        for (int i = grt_tid(); i < r.list_count; i += CUT_THREADS)
            if (grt_key(s.list[i]) >= key) grt_cut_take(x, s.list[i], r.top);
        x = grt_cut_sum(x, s);
        return {x.count + r.list_above.count, x.mass + r.list_above.mass};
    }
    // A wave per tile, and only tiles that have such a item.
    for (int tile = grt_wave(); tile < r.tiles; tile += CUT_WAVES) {
        if (grt_key(s.tops[tile]) < key) continue;
        const float* from = r.z + (int64_t)tile * GRT_VOCAB_TILE + 4 * grt_lane();
        for (int c = 0; c < GRT_VOCAB_TILE; c += 4 * GRT_WAVE) {
            float z[4];
            grt_load_vec(from + c, z);
            GRT_UNROLL for (int i = 0; i < 4; i++)
                if (grt_key(z[i]) >= key) grt_cut_take(x, z[i], r.top);
        }
    }
    return grt_cut_sum(x, s);
}

// The sum over the lanes before this one, and in `all` that over all lanes.
GRT_DEV int grt_wave_before(int x, int& all) {
    int sum = x;
    GRT_UNROLL for (int d = 1; d < GRT_WAVE; d <<= 1) {
        int other = grt_shfl(sum, grt_lane() - d);
        if (grt_lane() >= d) sum += other;
    }
    all = grt_shfl(sum, GRT_WAVE - 1);
    return sum - x;
}

// Counts the items of a tile whose keys are in from..=to, and, if `list` is not null, writes their
// logits there in order of position. For a wave.
GRT_DEV int grt_cut_collect(const grt_cut& r, int tile, uint32_t from, uint32_t to, float* list) {
    int count = 0;
    const float* p = r.z + (int64_t)tile * GRT_VOCAB_TILE + 4 * grt_lane();
    for (int c = 0; c < GRT_VOCAB_TILE; c += 4 * GRT_WAVE) {
        float z[4];
        grt_load_vec(p + c, z);
        int own = 0, all = 0;
        GRT_UNROLL for (int i = 0; i < 4; i++)
            own += grt_key(z[i]) >= from && grt_key(z[i]) <= to;
        int at = count + grt_wave_before(own, all);
        count += all;
        if (!list) continue;
        GRT_UNROLL for (int i = 0; i < 4; i++)
            if (grt_key(z[i]) >= from && grt_key(z[i]) <= to) list[at++] = z[i];
    }
    return count;
}

// Brings the items with keys from..=to to hand, of which there must be at most CUT_LIST; `above` is
// what lies above them.
GRT_DEV void grt_cut_gather(grt_cut& r, uint32_t from, uint32_t to, grt_mass above,
                           grt_cut_shared& s) {
    for (int tile = grt_wave(); tile < r.tiles; tile += CUT_WAVES) {
        bool some = grt_key(s.tops[tile]) >= from;
        int count = some ? grt_cut_collect(r, tile, from, to, nullptr) : 0;
        if (grt_lane() == 0) s.counts[tile] = count;
    }
    grt_sync();
    int count = 0;
    for (int tile = 0; tile < r.tiles; tile++) {
        // Every wave writes its own tiles; each needs the places of all before them.
        if (tile % CUT_WAVES == grt_wave() && s.counts[tile] > 0)
            grt_cut_collect(r, tile, from, to, s.list + count);
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
GRT_DEV grt_mass grt_cut_to(grt_cut& r, const Enough& enough, grt_cut_shared& s) {
    bool was_listed = r.listed;
    uint32_t lo = r.key, hi = grt_key(r.top);
    grt_mass beyond = {0, 0}, at_lo = grt_cut_above(r, lo, s);
    // at_lo is what lies at or above lo, beyond what lies above hi.
    while (lo < hi) {
        if (!r.listed && at_lo.count - beyond.count <= CUT_LIST) grt_cut_gather(r, lo, hi, beyond, s);
        uint32_t mid = hi - (hi - lo) / 2;
        grt_mass x = grt_cut_above(r, mid, s);
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
    double weight = grt_exp_weight(grt_unkey(lo) - r.top);
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
GRT_DEV grt_mass grt_cut_left(const grt_cut& r, grt_cut_shared& s) {
    grt_mass x = grt_cut_above(r, r.key, s), beyond = grt_cut_above(r, r.key + 1, s);
    int same = x.count - beyond.count;
    if (r.ties >= same) return x;
    double weight = grt_exp_weight(grt_unkey(r.key) - r.top);
    return {beyond.count + r.ties, beyond.mass + r.ties * weight};
}

// Position of the nth (from 1) of the items with this key.
GRT_DEV int grt_cut_place(const grt_cut& r, uint32_t key, int nth, grt_cut_shared& s) {
    for (int tile = grt_wave(); tile < r.tiles; tile += CUT_WAVES) {
        bool some = grt_key(s.tops[tile]) >= key;
        int count = some ? grt_cut_collect(r, tile, key, key, nullptr) : 0;
        if (grt_lane() == 0) s.counts[tile] = count;
    }
    if (grt_tid() == 0) s.chosen = 0;
    grt_sync();
    int tile = 0;
    while (tile < r.tiles - 1 && s.counts[tile] < nth) nth -= s.counts[tile++];
    const float* z = r.z + (int64_t)tile * GRT_VOCAB_TILE;
    for (int c = grt_tid(); c < GRT_VOCAB_TILE; c += CUT_THREADS) {
        if (grt_key(grt_load(z + c)) != key) continue;
        int before = 0;
        for (int i = 0; i < c; i++) before += grt_key(grt_load(z + i)) == key;
        if (before == nth - 1) s.chosen = tile * GRT_VOCAB_TILE + c;
    }
    grt_sync();
    return s.chosen;
}

// Key of the k-th largest top of the tiles: at least k items reach it.
GRT_DEV uint32_t grt_cut_kth_top(int tiles, int k, grt_cut_shared& s) {
    for (int i = grt_tid(); i < tiles; i += CUT_THREADS) {
        int before = 0;
        for (int j = 0; j < tiles; j++)
            before += s.tops[j] > s.tops[i] || (s.tops[j] == s.tops[i] && j < i);
        if (before == k - 1) s.chosen = i;
    }
    grt_sync();
    uint32_t key = grt_key(s.tops[s.chosen]);
    grt_sync();
    return key;
}

// Drops what is less than e^log_min as heavy as the heaviest.
GRT_DEV void grt_cut_below(grt_cut& r, double log_min) {
    double limit = (double)r.top + log_min;
    float at = (float)limit;
    uint32_t key = grt_key(at) + ((double)at < limit), top = grt_key(r.top);
    if (key <= r.key) return;
    r.key = key < top ? key : top;
    r.ties = 0x7fffffff;
}
