// Runs kernels of a tree of kernels, maybe one with a mistake, and prints what came out for several
// orders of threads: a fingerprint of the results, or the emulator's message. tests/emulator.rs holds
// the lines of a copy with a mistake against those of the kernels as they are.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

// A tensor at a multiple of 64 bytes, as the runtime places them.
template <class T>
struct Tensor {
    T* data;
    size_t size;

    explicit Tensor(size_t n) : size(n) {
        data = (T*)aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64);
        memset((void*)data, 0, n * sizeof(T));
    }
    Tensor(const Tensor&) = delete;
    ~Tensor() { free(data); }
    emu::Range range() const { return emu::range(data, size * sizeof(T)); }
};

static float number(size_t i) {
    uint32_t u = (uint32_t)(i + 1) * 2654435761u;
    u ^= u >> 15;
    u *= 2246822519u;
    u ^= u >> 13;
    return (float)(int)(u % 2001) / 1000.0f - 1.0f;
}
static void fill(Tensor<float>& t, size_t from) {
    for (size_t i = 0; i < t.size; i++) t.data[i] = number(from + i);
}
[[maybe_unused]] static void fill(Tensor<grt_bf16>& t, size_t from) {
    for (size_t i = 0; i < t.size; i++) {
        float x = number(from + i);
        uint32_t u;
        memcpy(&u, &x, 4);
        t.data[i].bits = (uint16_t)(u >> 16);
    }
}

// Results of the kernels that ran so far, or the first message.
struct Outcome {
    uint64_t fingerprint = 14695981039346656037ull;
    std::string message;

    template <class T>
    void add(const Tensor<T>& t) {
        const unsigned char* p = (const unsigned char*)t.data;
        for (size_t i = 0; i < t.size * sizeof(T); i++) fingerprint = (fingerprint ^ p[i]) * 1099511628211ull;
    }
    template <class Args>
    void launch(const char* name, emu::Grid grid, uint32_t threads, size_t shared, const Args& args,
                std::vector<emu::Range> ranges) {
        std::string failed = emu::launch(name, grid, threads, shared, &args, sizeof args, ranges);
        if (message.empty()) message = failed;
    }
};

// Prints a line for each of `orders` seeds.
static int run_orders(int argc, char** argv, void (*run)(Outcome&)) {
    int orders = argc > 1 ? atoi(argv[1]) : 1;
    for (int i = 0; i < orders; i++) {
        emu::set_seed(1000 + 77 * (uint32_t)i);
        Outcome o;
        run(o);
        if (o.message.empty()) printf("%016llx\n", (unsigned long long)o.fingerprint);
        else printf("%s\n", o.message.c_str());
    }
    return 0;
}
