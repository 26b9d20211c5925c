// Kernels by name, and their launches on all OS threads. Blocks are handed out in an order of their
// own, since none may rely on another. Never returns before the launch has ended.
#include "executor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "block.h"

namespace emu {

static Kernel* kernels = nullptr;

Kernel::Kernel(const char* name, const char* file, void (*entry)(const void*), size_t args_size,
               int max_threads)
    : name(name), file(file), entry(entry), args_size(args_size), max_threads(max_threads),
      next(kernels), twice(false) {
    if (Kernel* other = find_kernel(name)) {
        other->twice = true;
        fprintf(stderr, "emulator: kernel %s is in %s and in %s\n", name, other->file, file);
    }
    kernels = this;
}

Kernel* find_kernel(const char* name) {
    for (Kernel* k = kernels; k; k = k->next)
        if (strcmp(k->name, name) == 0) return k->twice ? nullptr : k;
    return nullptr;
}

static uint32_t number(const char* variable, uint32_t otherwise) {
    const char* text = getenv(variable);
    return text && *text ? (uint32_t)strtoul(text, nullptr, 0) : otherwise;
}

static std::atomic<int64_t> chosen_seed{-1};

uint32_t seed() {
    int64_t s = chosen_seed;
    return s >= 0 ? (uint32_t)s : number("GRT_EMU_SEED", 20261121);
}
void set_seed(uint32_t s) { chosen_seed = s; }

// The launch that runs and the threads that take blocks of it. Lives as long as the process.
struct Pool {
    std::mutex one_launch;
    std::mutex mutex;
    std::condition_variable begin, end;
    const Launch* launch = nullptr;
    uint64_t generation = 0;
    uint64_t num_blocks = 0, stride = 1;
    std::atomic<uint64_t> taken{0};
    std::atomic<bool> stop{false};
    int working = 0, helpers = 0;
    Failure failure;
    Block* own = nullptr;  // of the thread that launches
};

static Pool& pool() {
    static Pool* p = new Pool();
    return *p;
}

// `launch` is the one that the thread joined: when its last block is taken, `p.launch` is null already.
static void take_blocks(Pool& p, Block* b, const Launch& launch) {
    for (;;) {
        uint64_t i = p.taken.fetch_add(1);
        if (i >= p.num_blocks || p.stop) return;
        block_run(b, launch, i * p.stride % p.num_blocks);
        if (b->failure.kind == FailureKind::NONE) continue;
        std::lock_guard<std::mutex> lock(p.mutex);
        p.stop = true;
        if (p.failure.kind == FailureKind::NONE) p.failure = b->failure;
        return;
    }
}

static void helper(Pool& p) {
    Block* b = block_new();
    uint64_t seen = 0;
    for (;;) {
        const Launch* joined;
        {
            std::unique_lock<std::mutex> lock(p.mutex);
            p.begin.wait(lock, [&] { return p.launch && p.generation != seen; });
            seen = p.generation;
            joined = p.launch;
            p.working++;
        }
        take_blocks(p, b, *joined);
        std::lock_guard<std::mutex> lock(p.mutex);
        if (--p.working == 0) p.end.notify_one();
    }
}

// A stride that visits every block once.
static uint64_t stride_of(uint64_t n, uint32_t seed) {
    if (seed == 0 || n < 3) return 1;
    uint64_t s = (uint64_t)seed * 2654435761u % n | 1;
    while (std::__gcd(s, n) != 1) s += 2;
    return s % n ? s % n : 1;
}

static Failure refuse(const std::string& why) { return {FailureKind::BAD_LAUNCH, why}; }

static Failure check_launch(const Launch& l) {
    std::string name = l.kernel->name;
    uint64_t blocks = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
    if (blocks == 0) return refuse("kernel " + name + ": a grid without blocks");
    if (l.grid.x > 0x7fffffffu || l.grid.y > 65535 || l.grid.z > 65535)
        return refuse("kernel " + name + ": the grid is larger than 2147483647 x 65535 x 65535");
    if (l.threads == 0 || l.threads % 64 != 0)
        return refuse("kernel " + name + ": " + std::to_string(l.threads) +
                      " threads, must be a multiple of 64");
    if ((int)l.threads > l.kernel->max_threads)
        return refuse("kernel " + name + ": " + std::to_string(l.threads) +
                      " threads, was built for at most " + std::to_string(l.kernel->max_threads));
    if (l.dynamic_shared > MAX_SHARED)
        return refuse("kernel " + name + ": " + std::to_string(l.dynamic_shared) +
                      " bytes of dynamic shared memory, a block has " + std::to_string(MAX_SHARED));
    return Failure();
}

static void sort_ranges(std::vector<Range>& r) {
    std::sort(r.begin(), r.end(), [](const Range& x, const Range& y) { return x.begin < y.begin; });
    size_t n = 0;
    for (const Range& x : r) {
        if (n && x.begin <= r[n - 1].end) r[n - 1].end = std::max(r[n - 1].end, x.end);
        else r[n++] = x;
    }
    r.resize(n);
}

Failure run(Launch launch) {
    Failure refused = check_launch(launch);
    if (refused.kind != FailureKind::NONE) return refused;
    sort_ranges(launch.ranges);
    Pool& p = pool();
    std::lock_guard<std::mutex> one(p.one_launch);
    if (!p.own) p.own = block_new();
    uint64_t blocks = (uint64_t)launch.grid.x * launch.grid.y * launch.grid.z;
    bool many;
    {
        std::lock_guard<std::mutex> lock(p.mutex);
        p.launch = &launch;
        p.num_blocks = blocks;
        p.stride = stride_of(blocks, launch.seed);
        p.taken = 0;
        p.stop = false;
        p.failure = Failure();
        p.generation++;
        // Waking another thread takes as long as a few thousand threads of a short kernel.
        many = blocks > 1 && blocks * launch.threads >= 4096;
        int wanted = (int)number("GRT_EMU_THREADS", std::thread::hardware_concurrency()) - 1;
        for (; many && p.helpers < wanted; p.helpers++)
            std::thread([&p] { helper(p); }).detach();
    }
    if (many) p.begin.notify_all();
    take_blocks(p, p.own, launch);
    std::unique_lock<std::mutex> lock(p.mutex);
    p.launch = nullptr;
    p.end.wait(lock, [&] { return p.working == 0; });
    return p.failure;
}

std::string launch(const char* name, Grid grid, uint32_t threads, size_t dynamic_shared,
                   const void* args, size_t args_size, std::vector<Range> ranges) {
    Launch l;
    l.kernel = find_kernel(name);
    if (!l.kernel) return std::string("no kernel is called ") + name;
    if (l.kernel->args_size != args_size)
        return std::string("kernel ") + name + " takes " + std::to_string(l.kernel->args_size) +
               " bytes of arguments, not " + std::to_string(args_size);
    l.grid = grid;
    l.threads = threads;
    l.dynamic_shared = dynamic_shared;
    l.args = args;
    l.ranges = std::move(ranges);
    l.seed = seed();
    return run(std::move(l)).message;
}

}  // namespace emu
