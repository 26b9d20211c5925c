// Kernels with one mistake each: a wrong result within some orders of threads, or an error that names
// kernel, block and thread.
#include "check.h"

struct MistakeArgs {
    const float* x;
    float* y;
    int64_t n;
};

// y[i] = x[n - 1 - i] through shared memory. The mistake is a template argument: 0 none, 1 no barrier,
// 2 no wait for the copies, 3 a copy that is not committed.
template <int MISTAKE>
static void reverse_body(const MistakeArgs& a) {
    using Row = float[512];
    GRT_SHARED(Row, row);
    int t = grt_tid();
    if (t < 128) grt_async_copy16(row + 4 * t, a.x + 4 * t, true);
    if (MISTAKE != 3) grt_async_commit();
    if (MISTAKE != 2) grt_async_wait<0>();
    if (MISTAKE != 1) grt_sync();
    for (int i = t; i < 512; i += grt_threads()) grt_store(a.y + i, row[511 - i]);
}
GRT_KERNEL(reverse_right, MistakeArgs, 256) { reverse_body<0>(a); }
GRT_KERNEL(reverse_no_barrier, MistakeArgs, 256) { reverse_body<1>(a); }
GRT_KERNEL(reverse_no_wait, MistakeArgs, 256) { reverse_body<2>(a); }
GRT_KERNEL(reverse_no_commit, MistakeArgs, 256) { reverse_body<3>(a); }

// The scratch of a sum is used again: the second barrier of the reduction is what protects it.
template <bool BARRIER>
static void twice_body(const MistakeArgs& a) {
    using Parts = float[16];
    GRT_SHARED(Parts, part);
    float sum = 0;
    for (int round = 0; round < 2; round++) {
        if (grt_lane() == 0) part[grt_wave()] = grt_load(a.x + 32 * round + grt_wave());
        grt_sync();
        for (int i = 0; i < grt_waves(); i++) sum = 2 * sum + part[i];
        if (BARRIER) grt_sync();
    }
    grt_store(a.y + grt_tid(), sum);
}
GRT_KERNEL(twice_right, MistakeArgs, 256) { twice_body<true>(a); }
GRT_KERNEL(twice_no_barrier, MistakeArgs, 256) { twice_body<false>(a); }

// Lanes read what their neighbour wrote.
template <bool BARRIER>
static void neighbour_body(const MistakeArgs& a) {
    using Row = float[256];
    GRT_SHARED(Row, row);
    row[grt_tid()] = grt_load(a.x + grt_tid());
    if (BARRIER) grt_sync_wave();
    grt_store(a.y + grt_tid(), row[grt_tid() ^ 1]);
}
GRT_KERNEL(neighbour_right, MistakeArgs, 256) { neighbour_body<true>(a); }
GRT_KERNEL(neighbour_no_barrier, MistakeArgs, 256) { neighbour_body<false>(a); }

GRT_KERNEL(never_written, MistakeArgs, 256) {
    using Row = uint32_t[256];
    GRT_SHARED(Row, row);
    grt_store(a.y + grt_tid(), grt_float(row[grt_tid()]));
}

GRT_KERNEL(store_beyond, MistakeArgs, 256) {
    int64_t i = grt_block_x() * 256 + grt_tid();
    grt_store(a.y + i, 1.0f);  // without i < a.n
}
GRT_KERNEL(load_before, MistakeArgs, 256) { grt_store(a.y, grt_load(a.x - 1)); }
GRT_KERNEL(load_misaligned, MistakeArgs, 256) { grt_store16(a.y, grt_load16(a.x + 1)); }
GRT_KERNEL(copy_beyond, MistakeArgs, 256) {
    using Row = float[1024];
    GRT_SHARED(Row, row);
    grt_async_copy16(row + 4 * grt_tid(), a.x + 4 * grt_tid(), true);
}
GRT_KERNEL(shared_beyond, MistakeArgs, 256) {
    using Row = float[256];
    GRT_SHARED(Row, row);
    row[grt_tid() + 1] = 1;
}
GRT_KERNEL(too_much_shared, MistakeArgs, 256) {
    using Big = unsigned char[(48 << 10) + 16];
    GRT_SHARED(Big, first);
    GRT_SHARED(Big, second);
    first[grt_tid()] = second[grt_tid()] = 0;
}

GRT_KERNEL(barrier_in_branch, MistakeArgs, 256) {
    if (grt_tid() < 100) grt_sync();
    grt_shfl(1, 0);
}
GRT_KERNEL(returned_lane, MistakeArgs, 256) {
    if (grt_tid() == 77) return;
    grt_shfl(1, 0);
}
GRT_KERNEL(two_collectives, MistakeArgs, 256) {
    if (grt_lane() & 1) grt_sync_wave();
    else grt_shfl(1, 0);
}
GRT_KERNEL(two_barriers, MistakeArgs, 256) {
    if (grt_tid() & 1) grt_sync();
    else
        grt_sync();
}

static std::vector<float> x(1024), y(1024);

static std::string run(const char* name, uint32_t blocks, size_t shared = 0, uint32_t threads = 256) {
    MistakeArgs args = {x.data(), y.data(), 512};
    std::fill(y.begin(), y.end(), -1.0f);
    return launch(name, {blocks}, threads, shared, args,
                  {emu::range(x.data(), 2048), emu::range(y.data(), 2048)});
}

// Of ten orders of threads, how many give something else than the right kernel.
static int wrong_orders(const char* right, const char* mistaken) {
    int wrong = 0;
    for (uint32_t seed = 1; seed <= 10; seed++) {
        emu::set_seed(seed);
        std::string failed = run(right, 1);
        expect(failed.empty(), "%s: %s", right, failed.c_str());
        std::vector<float> want = y;
        failed = run(mistaken, 1);
        expect(failed.empty(), "%s: %s", mistaken, failed.c_str());
        wrong += y != want;
    }
    return wrong;
}

static void test_wrong_results() {
    for (int i = 0; i < 512; i++) x[i] = (float)(i + 1);
    emu::set_seed(3);
    std::string failed = run("reverse_right", 1);
    expect(failed.empty(), "%s", failed.c_str());
    for (int i = 0; i < 512; i++) expect(y[i] == 512 - i, "element %d is %g", i, y[i]);
    const char* pairs[][2] = {{"reverse_right", "reverse_no_barrier"},
                              {"reverse_right", "reverse_no_wait"},
                              {"reverse_right", "reverse_no_commit"},
                              {"twice_right", "twice_no_barrier"},
                              {"neighbour_right", "neighbour_no_barrier"}};
    for (auto& p : pairs) {
        int wrong = wrong_orders(p[0], p[1]);
        expect(wrong >= 5, "%s is wrong in %d of 10 orders only", p[1], wrong);
    }
    failed = run("never_written", 1);
    expect(failed.empty(), "%s", failed.c_str());
    uint32_t bits;
    memcpy(&bits, &y[100], 4);
    expect(bits == 0xCDCDCDCDu, "fresh shared memory holds %#x", bits);
}

static void test_messages() {
    emu::set_seed(11);
    expect_says(run("store_beyond", 3),
                {"kernel store_beyond, block (2,0,0), thread ", "mistakes.cpp:", "store of 4 bytes at 0x",
                 "after the end of the nearest range", "(2048 bytes)"});
    expect_says(run("load_before", 1),
                {"kernel load_before, block (0,0,0), thread ", "load of 4 bytes"});
    expect_says(run("load_misaligned", 1), {"kernel load_misaligned", "misaligned"});
    expect_says(run("copy_beyond", 1),
                {"kernel copy_beyond", "asynchronous copy of 16 bytes", "nearest range"});
    expect_says(run("shared_beyond", 1),
                {"kernel shared_beyond, block (0,0,0)", "beyond the end of an object"});
    expect_says(run("too_much_shared", 1), {"kernel too_much_shared", "static"});
    expect_says(run("barrier_in_branch", 1),
                {"kernel barrier_in_branch, block (0,0,0)", "stuck", "wait in grt_sync", "a shuffle"});
    expect_says(run("returned_lane", 1),
                {"kernel returned_lane", "stuck", "thread 77 has returned", "a shuffle"});
    expect_says(run("two_collectives", 1), {"kernel two_collectives", "grt_sync_wave", "a shuffle"});
    expect_says(run("two_barriers", 1), {"kernel two_barriers", "a different grt_sync"});
    expect_says(run("reverse_right", 1, 0, 96), {"multiple of 64"});
    expect_says(run("reverse_right", 1, 0, 512), {"at most 256"});
    expect_says(run("reverse_right", 1, 300 << 10), {"dynamic shared memory"});
    expect_says(run("no_such_kernel", 1), {"no kernel is called no_such_kernel"});
    // After all that the executor still works.
    std::string failed = run("reverse_right", 1);
    expect(failed.empty() && y[0] == 512, "after failures: %s", failed.c_str());
}

int main() {
    test_wrong_results();
    test_messages();
    return finish("mistakes");
}
