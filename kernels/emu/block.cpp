// Runs the threads of a block as fibers: a thread runs until it must wait, then another thread of its
// wave goes on, then another wave, in an order that the seed shuffles. A wave runs as far ahead of the
// others as barriers allow, so what a barrier should have ordered comes out of order when it is missing.
#include "block.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace emu {

__thread Thread* self = nullptr;
__thread Block* block = nullptr;

// Bytes after each shared object that no one may write.
static const size_t FENCE = 128;
static const size_t SHARED_SPACE = MAX_SHARED + (64 << 10);
static const int ORDERS = 16;

static uint32_t random(Block* b) {
    uint32_t x = b->rng;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return b->rng = x;
}

// The orders of lanes that the blocks of a launch draw from. Orders are read from their end; with seed
// 0 the lanes come in order.
static void shuffle_orders(Block* b, uint32_t seed) {
    if (b->orders_seed == seed) return;
    b->orders_seed = seed;
    b->rng = seed;
    for (int o = 0; o < ORDERS; o++) {
        uint8_t* order = &b->orders[(size_t)o * WAVE];
        for (int i = 0; i < WAVE; i++) order[i] = (uint8_t)(WAVE - 1 - i);
        if (seed == 0) continue;
        for (int i = WAVE - 1; i > 0; i--)
            std::swap(order[i], order[random(b) % (uint32_t)(i + 1)]);
    }
}

Block* block_new() {
    Block* b = new Block();
    void* p = mmap(nullptr, SHARED_SPACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    b->shared_begin = (unsigned char*)p;
    b->shared_end = b->shared_begin + SHARED_SPACE;
    for (int i = 0; i < MAX_THREADS; i++) {
        Thread& t = b->threads[i];
        t.tid = i;
        t.lane = i % WAVE;
        t.wave = &b->waves[i / WAVE];
        if (t.lane == 0) t.wave->threads = &t;
    }
    b->orders.resize((size_t)ORDERS * WAVE);
    b->orders_seed = 1;
    shuffle_orders(b, 0);
    return b;
}

// Makes lanes ready, in a new order. No other lane of the wave may be ready.
static inline void make_ready(Block* b, Wave* w, Lanes lanes) {
    w->ready = lanes;
    w->left = WAVE;
    w->order = &b->orders[0];
    w->flip = 0;
    if (!b->shuffled) return;
    uint32_t r = random(b);
    w->order += (r >> 8) % ORDERS * WAVE;
    w->flip = (int)(r % WAVE);
}

static int num_waves(const Block* b) { return b->num_threads / WAVE; }

// All waves may run, in a new order.
static void all_runnable(Block* b) {
    int n = num_waves(b);
    for (int i = 0; i < n; i++) b->runnable[i] = &b->waves[n - 1 - i];
    if (b->shuffled)
        for (int i = n - 1; i > 0; i--)
            std::swap(b->runnable[i], b->runnable[random(b) % (uint32_t)(i + 1)]);
    b->num_runnable = n;
    b->wave = b->runnable[--b->num_runnable];
}

static Thread* pick(Block* b) {
    while (!b->wave->ready) {
        if (!b->num_runnable) return nullptr;
        b->wave = b->runnable[--b->num_runnable];
    }
    Wave* w = b->wave;
    for (;;) {
        int lane = w->order[--w->left] ^ w->flip;
        Lanes bit = (Lanes)1 << lane;
        if (!(w->ready & bit)) continue;
        w->ready ^= bit;
        return &w->threads[lane];
    }
}

[[noreturn]] static void leave(Block* b) {
    Fiber abandoned;
    fiber_switch(abandoned, b->scheduler);
    __builtin_unreachable();
}

static std::string text(const char* format, ...) {
    char buffer[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(buffer, sizeof buffer, format, list);
    va_end(list);
    return buffer;
}

static const char* base_name(const char* file) {
    const char* slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

static std::string where(const Block* b, int tid, Place place) {
    return text("kernel %s, block (%u,%u,%u), thread %d (wave %d, lane %d), %s:%d",
                b->launch->kernel->name, b->index[0], b->index[1], b->index[2], tid, tid / WAVE,
                tid % WAVE, base_name(place.file), place.line);
}

void fail(FailureKind kind, Place place, const char* format, ...) {
    char buffer[512];
    va_list list;
    va_start(list, format);
    vsnprintf(buffer, sizeof buffer, format, list);
    va_end(list);
    Block* b = block;
    b->failure.kind = kind;
    b->failure.message = where(b, self->tid, place) + ": " + buffer;
    leave(b);
}

static const char* meeting_name(Meeting m) {
    switch (m) {
        case Meeting::SHUFFLE: return "a shuffle";
        case Meeting::SYNC_WAVE: return "grt_sync_wave";
        case Meeting::LDMATRIX: return "ldmatrix";
        case Meeting::LDMATRIX_TRANS: return "ldmatrix.trans";
        case Meeting::MMA: return "mma";
        case Meeting::MFMA: return "mfma";
    }
    return "?";
}

static int count(Lanes lanes) { return __builtin_popcountll(lanes); }
static int lowest(Lanes lanes) { return __builtin_ctzll(lanes); }

// No thread can go on: says who waits where and who is missing.
[[noreturn]] static void fail_stuck(Block* b) {
    std::string message =
        text("kernel %s, block (%u,%u,%u) is stuck: %d of %d threads wait in grt_sync, %d have returned;",
             b->launch->kernel->name, b->index[0], b->index[1], b->index[2], b->at_barrier,
             b->num_threads, b->done);
    int shown = 0;
    for (int i = 0; i < num_waves(b) && shown < 4; i++) {
        const Wave& w = b->waves[i];
        if (!w.in_meeting) continue;
        shown++;
        message += text(" in wave %d %d of %d lanes wait in %s at %s:%d (thread %d first);", i,
                        count(w.in_meeting), WAVE, meeting_name(w.meeting),
                        base_name(w.place.file), w.place.line, w.first->tid);
        if (w.done) message += text(" thread %d has returned;", w.threads[lowest(w.done)].tid);
        if (!w.at_barrier) continue;
        const Thread& t = w.threads[lowest(w.at_barrier)];
        message += text(" thread %d waits in grt_sync at %s:%d;", t.tid, base_name(t.place.file),
                        t.place.line);
    }
    for (int i = 0; i < num_waves(b); i++) {
        const Wave& w = b->waves[i];
        if (!w.at_barrier) continue;
        const Thread& t = w.threads[lowest(w.at_barrier)];
        message += text(" thread %d is at grt_sync, %s:%d", t.tid, base_name(t.place.file),
                        t.place.line);
        break;
    }
    b->failure = {FailureKind::STUCK, message};
    leave(b);
}

// All threads that have not returned are at a barrier: they go on. Lanes of a wave must be at the same
// one.
static void release_barrier(Block* b) {
    for (int i = 0; i < num_waves(b); i++) {
        Wave& w = b->waves[i];
        const Thread* first = w.at_barrier ? &w.threads[lowest(w.at_barrier)] : nullptr;
        for (Lanes rest = w.at_barrier; rest; rest &= rest - 1) {
            const Thread* t = &w.threads[lowest(rest)];
            if (t->place.line == first->place.line) continue;
            b->failure = {FailureKind::STUCK,
                          where(b, t->tid, t->place) +
                              text(": a different grt_sync than thread %d's at line %d", first->tid,
                                   first->place.line)};
            leave(b);
        }
        make_ready(b, &w, w.at_barrier);
        w.at_barrier = 0;
    }
    b->at_barrier = 0;
    all_runnable(b);
}

static void thread_main();

// Goes on in another thread until this one is picked again.
static void switch_away(Block* b, Thread* from) {
    Thread* next = pick(b);
    if (next == from) return;
    if (!next) fail_stuck(b);
    self = next;
    if (!next->fiber.stack) {
        if (b->spare.empty()) b->spare.push_back(fiber_new(0));
        next->fiber = b->spare.back();
        b->spare.pop_back();
        fiber_begin(next->fiber, next->tid, thread_main);
    }
    fiber_switch(from->fiber, next->fiber);
}

// A fiber plays threads that have not begun, one after another, until it must go on in one that waits.
static void thread_main() {
    for (;;) {
        Block* b = block;
        Thread* t = self;
        b->launch->kernel->entry(b->launch->args);
        if (!fiber_intact(t->fiber)) fail(FailureKind::BAD_LAUNCH, {"", 0}, "stack overflow");
        t->wave->done |= (Lanes)1 << t->lane;
        b->done++;
        if (b->at_barrier && b->at_barrier + b->done == b->num_threads) release_barrier(b);
        Fiber mine = t->fiber;
        t->fiber = Fiber();
        Thread* next = pick(b);
        if (next && !next->fiber.stack) {
            next->fiber = mine;
            self = next;
            continue;
        }
        b->spare.push_back(mine);
        if (next) {
            self = next;
            fiber_switch(mine, next->fiber);
        }
        if (b->done < b->num_threads) fail_stuck(b);
        leave(b);
    }
}

void meet(Meeting meeting, void* arg, Place place) {
    Thread* t = self;
    Wave* w = t->wave;
    Block* b = block;
    if (w->in_meeting == 0) {
        w->meeting = meeting;
        w->place = place;
        w->first = t;
    } else if (__builtin_expect(w->meeting != meeting || w->place.line != place.line, 0)) {
        fail(FailureKind::STUCK, place, "%s, while thread %d of the wave is in %s at %s:%d",
             meeting_name(meeting), w->first->tid, meeting_name(w->meeting),
             base_name(w->place.file), w->place.line);
    }
    w->args[t->lane] = arg;
    Lanes bit = (Lanes)1 << t->lane;
    w->in_meeting |= bit;
    if (w->in_meeting != ALL_LANES) {
        switch_away(b, t);
        return;
    }
    w->in_meeting = 0;
    if (meeting == Meeting::SHUFFLE) {
        for (int i = 0; i < WAVE; i++) w->result[i] = w->value[w->source[i]];
    } else if (meeting != Meeting::SYNC_WAVE) {
        work_of_matrices(*w, place);
    }
    make_ready(b, w, ALL_LANES ^ bit);
}

void sync_block(Place place) {
    Thread* t = self;
    Block* b = block;
    t->wave->at_barrier |= (Lanes)1 << t->lane;
    t->place = place;
    if (++b->at_barrier + b->done == b->num_threads) release_barrier(b);
    switch_away(b, t);
}

void async_copy(void* shared, const void* global, size_t bytes, Place place) {
    if ((uintptr_t)shared % bytes != 0)
        fail(FailureKind::MISALIGNED, place, "the target of an asynchronous copy is not %zu-byte aligned",
             bytes);
    if (!is_shared(shared, bytes))
        fail(FailureKind::ADDRESS, place, "the target of an asynchronous copy is not shared memory");
    memset(shared, POISON, bytes);
    self->copies.push_back({shared, global, bytes});
}

void async_commit() { self->groups.push_back((uint32_t)self->copies.size()); }

void async_wait(uint32_t pending) {
    Thread* t = self;
    if (t->groups.size() <= pending) return;
    size_t arrived = t->groups.size() - pending;
    uint32_t end = t->groups[arrived - 1];
    for (uint32_t i = 0; i < end; i++) {
        const Copy& c = t->copies[i];
        if (c.from) memcpy(c.to, c.from, c.bytes);
        else memset(c.to, 0, c.bytes);
    }
    t->copies.erase(t->copies.begin(), t->copies.begin() + end);
    t->groups.erase(t->groups.begin(), t->groups.begin() + (long)arrived);
    for (uint32_t& g : t->groups) g -= end;
}

bool is_shared(const void* p, size_t bytes) {
    const Block* b = block;
    const unsigned char* q = (const unsigned char*)p;
    return q >= b->shared_begin && q + bytes <= b->shared_top;
}

void* shared_object(const void* key, size_t size, size_t align, Place place) {
    Block* b = block;
    for (const SharedObject& o : b->objects)
        if (o.key == key) return o.data;
    uintptr_t at = (uintptr_t)b->shared_top + FENCE;
    if (align < 16) align = 16;
    at = (at + align - 1) & ~(uintptr_t)(align - 1);
    b->static_size += (size + 15) & ~(size_t)15;
    if (b->static_size > MAX_STATIC_SHARED || b->static_size + b->dynamic_size > MAX_SHARED)
        fail(FailureKind::BAD_LAUNCH, place,
             "%zu bytes of static and %zu of dynamic shared memory are more than the %zu and %zu in "
             "all that a block has",
             b->static_size, b->dynamic_size, MAX_STATIC_SHARED, MAX_SHARED);
    unsigned char* data = (unsigned char*)at;
    memset(b->shared_top, POISON, (size_t)(data + size + FENCE - b->shared_top));
    b->shared_top = data + size;
    b->objects.push_back({key, data, size});
    return data;
}

void check_slow(uintptr_t a, size_t bytes, Access access, Place place) {
    Block* b = block;
    const char* what = access == STORE ? "store" : access == ASYNC ? "asynchronous copy" : "load";
    if (a & (bytes - 1))
        fail(FailureKind::MISALIGNED, place, "%s of %zu bytes at %#zx is misaligned", what, bytes,
             (size_t)a);
    const Range* end = b->ranges + b->num_ranges;
    const Range* after = std::upper_bound(b->ranges, end, (uint64_t)a,
                                          [](uint64_t x, const Range& r) { return x < r.begin; });
    if (after != b->ranges && a + bytes <= after[-1].end) {
        b->cache[access] = after[-1];
        return;
    }
    if (access != ASYNC && is_shared((const void*)a, bytes)) return;
    const Range* below = after != b->ranges ? after - 1 : nullptr;
    const Range* above = after != end ? after : nullptr;
    bool use_below = below && (!above || a - below->end < above->begin - a);
    const Range* nearest = use_below ? below : above;
    if (!nearest)
        fail(FailureKind::ADDRESS, place, "%s of %zu bytes at %#zx; the launch may touch nothing",
             what, bytes, (size_t)a);
    fail(FailureKind::ADDRESS, place,
         "%s of %zu bytes at %#zx, %zu bytes %s the nearest range %#zx..%#zx (%zu bytes)", what,
         bytes, (size_t)a, use_below ? (size_t)(a - below->end) : (size_t)(above->begin - a),
         use_below ? "after the end of" : "before", (size_t)nearest->begin, (size_t)nearest->end,
         (size_t)(nearest->end - nearest->begin));
}

// Shared memory that should still be poison around each object was written.
static bool fences_hold(const Block* b) {
    const unsigned char* p = b->dynamic_data + b->dynamic_size;
    for (size_t i = 0; i <= b->objects.size(); i++) {
        for (size_t j = 0; j < FENCE; j++)
            if (p[j] != POISON) return false;
        if (i < b->objects.size()) p = b->objects[i].data + b->objects[i].size;
    }
    return true;
}

static void prepare(Block* b, const Launch& launch, uint64_t index) {
    b->launch = &launch;
    b->index[0] = (uint32_t)(index % launch.grid.x);
    b->index[1] = (uint32_t)(index / launch.grid.x % launch.grid.y);
    b->index[2] = (uint32_t)(index / launch.grid.x / launch.grid.y);
    b->grid_x = launch.grid.x;
    b->num_threads = (int)launch.threads;
    b->at_barrier = b->done = 0;
    b->ranges = launch.ranges.data();
    b->num_ranges = (int)launch.ranges.size();
    for (Range& r : b->cache) r = {1, 0};
    b->failure = Failure();
    b->dynamic_data = b->shared_begin;
    b->dynamic_size = launch.dynamic_shared;
    b->static_size = 0;
    b->objects.clear();
    b->shared_top = b->shared_begin + b->dynamic_size;
    memset(b->shared_begin, POISON, b->dynamic_size + FENCE);
    b->shuffled = launch.seed != 0;
    shuffle_orders(b, launch.seed);
    b->rng = (uint32_t)((launch.seed + index * 0x9e3779b9u) * 2654435761u) | 1;
    for (int i = 0; i < b->num_threads; i++) {
        Thread& t = b->threads[i];
        t.copies.clear();
        t.groups.clear();
        if (t.fiber.stack) b->spare.push_back(t.fiber);
        t.fiber = Fiber();
    }
    for (int i = 0; i < num_waves(b); i++) {
        Wave& w = b->waves[i];
        w.in_meeting = w.at_barrier = w.done = 0;
        make_ready(b, &w, ALL_LANES);
    }
    all_runnable(b);
}

void block_run(Block* b, const Launch& launch, uint64_t index) {
    block = b;
    prepare(b, launch, index);
    Thread* first = pick(b);
    if (b->spare.empty()) b->spare.push_back(fiber_new(0));
    first->fiber = b->spare.back();
    b->spare.pop_back();
    fiber_begin(first->fiber, first->tid, thread_main);
    self = first;
    fiber_switch(b->scheduler, first->fiber);
    if (b->failure.kind == FailureKind::NONE && !fences_hold(b))
        b->failure = {FailureKind::ADDRESS,
                      text("kernel %s, block (%u,%u,%u): shared memory was written beyond the end of "
                           "an object",
                           launch.kernel->name, b->index[0], b->index[1], b->index[2])};
    // A fiber that was abandoned in the middle keeps its stack for the next block.
    for (int i = 0; i < b->num_threads; i++) {
        Thread& t = b->threads[i];
        if (t.fiber.stack) b->spare.push_back(t.fiber);
        t.fiber = Fiber();
    }
    block = nullptr;
    self = nullptr;
}

}  // namespace emu
