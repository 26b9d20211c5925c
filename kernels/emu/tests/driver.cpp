// An emulated driver library through its vendor's names, found at run time as the runtime finds them:
// memory, streams, events, launches, graphs, injected failures and the broken context. Its kernels are
// in kernels/driver_test.cu.
//
//   driver LIBRARY                runs all of it
//   driver LIBRARY lacks NAME     succeeds when the library has no such function
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "names.h"

static void* library;
static int complaints = 0;

#define EXPECT(condition)                                                  \
    do {                                                                   \
        if (!(condition)) {                                                \
            complaints++;                                                  \
            printf("line %d: %s\n", __LINE__, #condition);                 \
        }                                                                  \
    } while (0)

// The function of that name, called with these arguments.
template <class... Args>
static int call(const char* name, Args... args) {
    void* f = dlsym(library, name);
    if (!f) {
        printf("the library lacks %s\n", name);
        exit(1);
    }
    return ((int (*)(Args...))f)(args...);
}

static std::string last_error() {
    return ((const char* (*)())dlsym(library, "grt_emu_last_error"))();
}
static void reset() { ((void (*)())dlsym(library, "grt_emu_reset"))(); }

struct ScaleArgs {
    uint64_t x;
    int64_t n;
    float by;
    int unused;
};

static uint64_t alloc(size_t bytes) {
    uint64_t p = 0;
    EXPECT(call(ALLOC, &p, bytes) == 0);
    EXPECT(p % 256 == 0);
    return p;
}

static int launch(void* f, uint64_t x, int64_t n, void* stream, unsigned blocks, unsigned shared = 0) {
    ScaleArgs args = {x, n, 2.0f, 0};
    void* params[] = {&args};
    return call(LAUNCH, f, blocks, 1u, 1u, 64u, 1u, 1u, shared, stream, params, (void**)nullptr);
}

static std::vector<float> read(uint64_t x, size_t n, void* stream) {
    std::vector<float> out(n);
    EXPECT(call(COPY_OUT, (void*)out.data(), x, 4 * n, stream) == 0);
    EXPECT(call(STREAM_WAIT, stream) == 0);
    return out;
}

static void test_memory() {
    size_t free_before, free_after, total;
    EXPECT(call(MEMORY_INFO, &free_before, &total) == 0);
    EXPECT(total == 1 << 20 && free_before == total);
    uint64_t p = alloc(1000), q = 0;
    EXPECT(call(MEMORY_INFO, &free_after, &total) == 0);
    EXPECT(free_before - free_after == 1000);
    EXPECT(call(ALLOC, &q, (size_t)1 << 20) == 2);
    EXPECT(last_error().find("1048576 bytes asked") != std::string::npos);
    unsigned char bytes[1000];
    EXPECT(call(FILL, p, (unsigned char)7, (size_t)1000, (void*)nullptr) == 0);
    EXPECT(call(COPY_OUT, (void*)bytes, p, (size_t)1000, (void*)nullptr) == 0);
    EXPECT(bytes[0] == 7 && bytes[999] == 7);
    EXPECT(call(COPY_OUT, (void*)bytes, p + 1, (size_t)1000, (void*)nullptr) == 1);
    EXPECT(call(FREE, p) == 0);
    EXPECT(call(FREE, p) == 1);
}

static void test_graph(void* f, void* stream, uint64_t x) {
    std::vector<float> ones(100, 1.0f);
    EXPECT(call(COPY_IN, x, (const void*)ones.data(), (size_t)400, stream) == 0);
    void *graph = nullptr, *executable = nullptr;
    EXPECT(call(CAPTURE_BEGIN, stream, 0) == 0);
    for (int i = 0; i < 3; i++) EXPECT(launch(f, x, 100, stream, 2) == 0);
    uint64_t none = 0;
    EXPECT(call(ALLOC, &none, (size_t)16) == 900);
    EXPECT(call(CAPTURE_END, stream, &graph) == 0);
    EXPECT(read(x, 100, stream)[0] == 1);  // recorded, not run
    EXPECT(call(INSTANTIATE, &executable, graph, 0ull) == 0);
    EXPECT(call(GRAPH_FREE, graph) == 0);
    for (int i = 0; i < 2; i++) EXPECT(call(GRAPH_LAUNCH, executable, stream) == 0);
    EXPECT(read(x, 100, stream)[99] == 64);
    EXPECT(call(EXEC_FREE, executable) == 0);
    // A wait breaks a capture.
    EXPECT(call(CAPTURE_BEGIN, stream, 0) == 0);
    EXPECT(call(STREAM_WAIT, stream) == 900);
    EXPECT(call(CAPTURE_END, stream, &graph) == 901);
    EXPECT(call(CAPTURE_END, stream, &graph) == 903);
}

static void test_failures(void* f, void* stuck, void* stream, uint64_t x) {
    // One block more than the tensor: what follows it belongs to no allocation.
    EXPECT(launch(f, x, 1000, stream, 4) == 700);
    std::string why = last_error();
    EXPECT(why.find("kernel emu_scale, block (") != std::string::npos);
    EXPECT(why.find("nearest range") != std::string::npos);
    EXPECT(launch(f, x, 100, stream, 2) == 700);
    EXPECT(call(STREAM_WAIT, stream) == 700);
    reset();
    EXPECT(launch(f, x, 100, stream, 2) == 0);
    // The next launch alone is limited to half of it.
    uint64_t half[] = {x, x + 200};
    ((void (*)(const uint64_t*, int))dlsym(library, "grt_emu_allow"))(half, 1);
    EXPECT(launch(f, x, 100, stream, 2) == 700);
    EXPECT(last_error().find("(200 bytes)") != std::string::npos);
    reset();
    EXPECT(launch(f, x, 100, stream, 2) == 0);
    EXPECT(launch(stuck, x, 100, stream, 1) == 719);
    EXPECT(last_error().find("stuck") != std::string::npos);
    reset();
    // Refused launches do not break the context.
    EXPECT(launch(f, x, 100, stream, 0) == 1);
    EXPECT(launch(f, x, 100, stream, 2, 1 << 20) == 1);
    EXPECT(launch(f, x, 100, stream, 2) == 0);
#if GRT_WAVE == 32
    EXPECT(launch(f, x, 100, stream, 2, 100 << 10) == 1);
    EXPECT(call(SET_ATTRIBUTE, f, 8, 100 << 10) == 0);
    EXPECT(launch(f, x, 100, stream, 2, 100 << 10) == 0);
#endif
}

static void test_events(void* stream) {
    void *begin = nullptr, *end = nullptr;
    float ms = -1;
    EXPECT(call(EVENT_NEW, &begin, 0u) == 0);
    EXPECT(call(EVENT_NEW, &end, 0u) == 0);
    EXPECT(call(EVENT_ELAPSED, &ms, begin, end) == 400);
    EXPECT(call(EVENT_RECORD, begin, stream) == 0);
    EXPECT(call(EVENT_RECORD, end, stream) == 0);
    EXPECT(call(EVENT_WAIT, end) == 0);
    EXPECT(call(STREAM_WAIT_EVENT, stream, end, 0u) == 0);
    EXPECT(call(EVENT_ELAPSED, &ms, begin, end) == 0 && ms >= 0);
    EXPECT(call(EVENT_FREE, begin) == 0);
    EXPECT(call(EVENT_FREE, end) == 0);
}

// Every name that the runtime looks up is there.
static void test_names() {
    for (const char* name : ALL_NAMES)
        if (!dlsym(library, name)) {
            complaints++;
            printf("the library lacks %s\n", name);
        }
}

int main(int argc, char** argv) {
    library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (!library) {
        printf("%s\n", argc > 1 ? dlerror() : "names no library");
        return 2;
    }
    if (argc == 4 && strcmp(argv[2], "lacks") == 0) return dlsym(library, argv[3]) ? 1 : 0;
    setenv("GRT_EMU_MEMORY", "1048576", 1);
    setenv("GRT_EMU_FAIL", (std::string(ALLOC) + ":4:2," + LAUNCH + ":1:701").c_str(), 1);
    test_names();
    size_t n;
    EXPECT(call(MEMORY_INFO, &n, &n) == 3);
    EXPECT(call(INIT, 0u) == 0);
    int count = 0;
    EXPECT(call(DEVICE_COUNT, &count) == 0 && count == 1);
    test_memory();
    void *module = nullptr, *f = nullptr, *stuck = nullptr, *stream = nullptr;
    EXPECT(call(MODULE_LOAD, &module, (const void*)"any image") == 0);
    EXPECT(call(FUNCTION, &f, module, "no_such_kernel") == 500);
    EXPECT(call(FUNCTION, &f, module, "emu_scale") == 0);
    EXPECT(call(FUNCTION, &stuck, module, "emu_stuck") == 0);
    EXPECT(call(STREAM_NEW, &stream, 0u) == 0);
    uint64_t x = alloc(400), none = 0;
    EXPECT(call(ALLOC, &none, (size_t)16) == 2);  // injected: the fourth one
    EXPECT(launch(f, x, 100, stream, 2) == 701);  // injected: the first one
    test_graph(f, stream, x);
    test_failures(f, stuck, stream, x);
    test_events(stream);
    EXPECT(call(STREAM_FREE, stream) == 0);
    EXPECT(call(MODULE_FREE, module) == 0);
    EXPECT(call(FREE, x) == 0);
    printf("driver, waves of %d: %s\n", GRT_WAVE, complaints ? "FAILED" : "ok");
    return complaints ? 1 : 0;
}
