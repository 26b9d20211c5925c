// Rows that move by an index list: gathered, embedded, written into a cache, and added back. What
// is added to one row comes in ascending order of the list, without atomics: the list is first put in
// order by counting, then one block owns each row of the result. An index outside of its tensor reads
// nothing: it gives a row of NaN, or is not written.
#include "../include/grt_group.h"
#include "../include/grt_math.h"

// y[t] = x[index[t]] for index >= 0; for index < 0 row -(index + 1) of `vision`.
struct GatherArgs {
    const void* x;
    const void* vision;
    const int* index;
    void* y;
    int rows;
    int cols;
    int x_rows;
    int vision_rows;
};
static_assert(sizeof(GatherArgs) == 48, "mirrored in src/ops/gpu/rows.rs");

template <class S>
GRT_DEV void gather_rows(const GatherArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_rows<S>(a.rows, a.cols, [&](auto g) {
        int index = grt_load(a.index + g.row);
        const S* from = (const S*)(index < 0 ? a.vision : a.x);
        int row = index < 0 ? ~index : index; // ~i = -(i + 1)
        S* to = (S*)a.y + g.at;
        if (row < (index < 0 ? a.vision_rows : a.x_rows)) {
            grt_copy_group(from + (int64_t)row * a.cols + g.col, to, g);
        } else {
            float missing[N];
            GRT_UNROLL for (int i = 0; i < N; i++) missing[i] = grt_nan();
            grt_store_group(to, g, missing);
        }
    });
}
GRT_KERNEL(gather_rows_f32, GatherArgs, 256) { gather_rows<float>(a); }
GRT_KERNEL(gather_rows_bf16, GatherArgs, 256) { gather_rows<grt_bf16>(a); }

// y[t] = x[t], plus row -(index[t] + 1) of `from` where index[t] < 0.
struct AddRowsArgs {
    const void* x;
    const void* from;
    const int* index;
    void* y;
    int rows;
    int cols;
    int from_rows;
    int unused;
};
static_assert(sizeof(AddRowsArgs) == 48, "mirrored in src/ops/add_rows.rs");

template <class S>
GRT_DEV void add_rows(const AddRowsArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_rows<S>(a.rows, a.cols, [&](auto g) {
        int index = grt_load(a.index + g.row);
        const S* x = (const S*)a.x + g.at;
        S* to = (S*)a.y + g.at;
        if (index >= 0) {
            grt_copy_group(x, to, g);
            return;
        }
        float sum[N], more[N];
        grt_load_group(x, g, sum);
        if (~index < a.from_rows) {
            grt_load_group((const S*)a.from + (int64_t)~index * a.cols + g.col, g, more);
        } else {
            GRT_UNROLL for (int i = 0; i < N; i++) more[i] = grt_nan();
        }
        GRT_UNROLL for (int i = 0; i < N; i++) sum[i] += more[i];
        grt_store_group(to, g, sum);
    });
}
GRT_KERNEL(add_rows_f32, AddRowsArgs, 256) { add_rows<float>(a); }
GRT_KERNEL(add_rows_bf16, AddRowsArgs, 256) { add_rows<grt_bf16>(a); }

// y[r] = sum over taps k, ascending, of weight[r, k] table[index[r taps + k]], in singles and rounded once.
struct WeightedRowsArgs {
    const void* table;
    const int* index;
    const float* weight;
    void* y;
    int rows;
    int cols;
    int table_rows;
    int taps;
};
static_assert(sizeof(WeightedRowsArgs) == 48, "mirrored in src/ops/weighted_rows.rs");

template <class S>
GRT_DEV void weighted_rows(const WeightedRowsArgs& a) {
    constexpr int N = grt_vec<S>::N;
    grt_rows<S>(a.rows, a.cols, [&](auto g) {
        int64_t first = (int64_t)g.row * a.taps;
        float sum[N] = {};
        for (int k = 0; k < a.taps; k++) {
            int row = grt_load(a.index + first + k);
            float w = grt_load(a.weight + first + k);
            float x[N] = {};
            if ((uint32_t)row < (uint32_t)a.table_rows)
                grt_load_group((const S*)a.table + (int64_t)row * a.cols + g.col, g, x);
            else
                w = grt_nan();
            GRT_UNROLL for (int i = 0; i < N; i++) sum[i] = grt_fma(w, x[i], sum[i]);
        }
        grt_store_group((S*)a.y + g.at, g, sum);
    });
}
GRT_KERNEL(weighted_rows_f32, WeightedRowsArgs, 256) { weighted_rows<float>(a); }
GRT_KERNEL(weighted_rows_bf16, WeightedRowsArgs, 256) { weighted_rows<grt_bf16>(a); }

// cache[row[t]] = x[t]; negative rows are not written.
struct KvWriteArgs {
    const void* x;
    const int* row;
    void* cache;
    int rows;
    int cols;
    int cache_rows;
    int unused;
};
static_assert(sizeof(KvWriteArgs) == 40, "mirrored in src/ops/kv_write.rs");

template <class S>
GRT_DEV void kv_write(const KvWriteArgs& a) {
    grt_rows<S>(a.rows, a.cols, [&](auto g) {
        int row = grt_load(a.row + g.row);
        if (row < 0 || row >= a.cache_rows) return;
        S* to = (S*)a.cache + (int64_t)row * a.cols + g.col;
        grt_copy_group((const S*)a.x + g.at, to, g);
    });
}
GRT_KERNEL(kv_write_f32, KvWriteArgs, 256) { kv_write<float>(a); }
GRT_KERNEL(kv_write_bf16, KvWriteArgs, 256) { kv_write<grt_bf16>(a); }

// The row of the result that an entry of the list means, after all others where it means none: with
// `vision`, the negative entries are meant.
#define SCATTER_NONE 0x7fffffff
GRT_DEV int scatter_row(int index, int vision, int rows) {
    int row = vision ? (index < 0 ? ~index : SCATTER_NONE) : (index < 0 ? SCATTER_NONE : index);
    return row < rows ? row : SCATTER_NONE;
}

// order = the places of the list, sorted by the row that they mean and then by place; those that mean
// none are left out, so the end of `order` keeps what it held (-1). Counting sort without a table:
// an entry's rank is the number of entries before it. That is `count` squared comparisons, about as
// long as reading the rows for lists of 16 thousand.
struct ScatterOrderArgs {
    const int* index;
    int* order;
    int count;
    int rows;
    int vision;
    int unused;
};
static_assert(sizeof(ScatterOrderArgs) == 32, "mirrored in src/ops/gpu/rows.rs");

// Threads that count for one entry together, entries of a block, entries that a block reads at once.
#define SCATTER_TEAM 8
#define SCATTER_ENTRIES (256 / SCATTER_TEAM)
#define SCATTER_TILE 2048

struct scatter_tile {
    int row[SCATTER_TILE];
};

GRT_KERNEL(scatter_order, ScatterOrderArgs, 256) {
    GRT_SHARED(scatter_tile, tile);
    int place = grt_block_x() * SCATTER_ENTRIES + grt_tid() / SCATTER_TEAM;
    int mine = SCATTER_NONE;
    if (place < a.count) mine = scatter_row(grt_load(a.index + place), a.vision, a.rows);
    int before = 0;
    for (int start = 0; start < a.count; start += SCATTER_TILE) {
        for (int i = grt_tid(); i < SCATTER_TILE; i += grt_threads()) {
            int row = SCATTER_NONE;
            if (start + i < a.count)
                row = scatter_row(grt_load(a.index + start + i), a.vision, a.rows);
            tile.row[i] = row;
        }
        grt_sync();
        for (int i = grt_tid() % SCATTER_TEAM; i < SCATTER_TILE; i += SCATTER_TEAM)
            before += tile.row[i] < mine || (tile.row[i] == mine && start + i < place);
        grt_sync();
    }
    GRT_UNROLL for (int m = SCATTER_TEAM / 2; m; m >>= 1) before += grt_shfl_xor(before, m);
    if (grt_tid() % SCATTER_TEAM == 0 && mine != SCATTER_NONE) grt_store(a.order + before, place);
}

// out[row] = sum of dy[t], or out[row] += it where `add` is not 0, over the places t of the list that
// mean the row, in ascending order, in singles and stored once. A block per place of `order`; the first
// one of a row does the row's work. Where places have weights, place t means dy[t / taps] weight[t].
struct ScatterAddArgs {
    const void* dy;
    const int* index;
    const int* order;
    const float* weight;
    void* out;
    int count;
    int cols;
    int add;
    int taps;
};
static_assert(sizeof(ScatterAddArgs) == 56, "mirrored in src/ops/gpu/rows.rs");

// Rows that a thread has under way; with weights fewer, so that all stays in registers.
#define SCATTER_STEP 4
#define SCATTER_WEIGHTED_STEP 2

// A group of the columns of the row that the entry at `first` of the order means.
template <class S, class G, bool WEIGHTED, bool WIDE>
GRT_DEV void scatter_group(const ScatterAddArgs& a, const grt_group<WIDE>& g, int first, int place,
                           int index) {
    constexpr int N = grt_vec<S>::N, STEP = WEIGHTED ? SCATTER_WEIGHTED_STEP : SCATTER_STEP;
    G* out = (G*)a.out + (int64_t)(index < 0 ? ~index : index) * a.cols + g.col;
    float sum[N] = {};
    if (a.add) grt_load_group((const G*)out, g, sum);
    bool more = true;
    for (int at = first; more; at += STEP) {
        float dy[STEP][N], w[STEP];
        bool here[STEP];
        GRT_UNROLL for (int k = 0; k < STEP; k++) {
            int t = at + k < a.count ? grt_load(a.order + at + k) : -1;
            more = more && t >= 0 && grt_load(a.index + t) == index;
            here[k] = more;
            // After the last one the first row is read again, so that no branch parts the loads.
            int from = more ? t : place;
            int64_t row = WEIGHTED ? from / a.taps : from;
            w[k] = WEIGHTED ? grt_load(a.weight + from) : 1.0f;
            grt_load_group((const S*)a.dy + row * a.cols + g.col, g, dy[k]);
        }
        GRT_UNROLL for (int k = 0; k < STEP; k++) {
            GRT_UNROLL for (int i = 0; i < N; i++) {
                float with = WEIGHTED ? grt_fma(w[k], dy[k][i], sum[i]) : sum[i] + dy[k][i];
                sum[i] = here[k] ? with : sum[i];
            }
        }
    }
    grt_store_group(out, g, sum);
}

template <class S, class G, bool WEIGHTED>
GRT_DEV void scatter_add(const ScatterAddArgs& a) {
    constexpr int N = grt_vec<S>::N;
    int first = grt_block_x();
    int place = grt_load(a.order + first);
    if (place < 0) return;
    int index = grt_load(a.index + place);
    if (first > 0 && grt_load(a.index + grt_load(a.order + first - 1)) == index) return;
    for (int col = grt_tid() * N; col < a.cols; col += grt_threads() * N) {
        int left = a.cols - col;
        grt_group<true> whole = {col, 0, col, N};
        grt_group<false> some = {col, 0, col, left < N ? left : N};
        if (a.cols % N == 0) scatter_group<S, G, WEIGHTED>(a, whole, first, place, index);
        else scatter_group<S, G, WEIGHTED>(a, some, first, place, index);
    }
}
GRT_KERNEL(scatter_add_f32, ScatterAddArgs, 256) { scatter_add<float, float, false>(a); }
GRT_KERNEL(scatter_add_bf16, ScatterAddArgs, 256) { scatter_add<grt_bf16, grt_bf16, false>(a); }
GRT_KERNEL(scatter_add_bf16_f32, ScatterAddArgs, 256) {
    scatter_add<grt_bf16, float, false>(a);
}
GRT_KERNEL(weighted_add_f32, ScatterAddArgs, 256) { scatter_add<float, float, true>(a); }
GRT_KERNEL(weighted_add_bf16, ScatterAddArgs, 256) { scatter_add<grt_bf16, grt_bf16, true>(a); }
GRT_KERNEL(weighted_add_bf16_f32, ScatterAddArgs, 256) { scatter_add<grt_bf16, float, true>(a); }
