// What the emulator's own tests share: numbers to fill tensors with, and complaints that are counted.
#pragma once
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include <string>
#include <vector>

#include "../../include/grt_mma.h"
#include "../../include/grt_reduce.h"

static int complaints = 0;

// Prints and counts what is wrong.
static void expect(bool right, const char* format, ...) __attribute__((format(printf, 2, 3)));
static void expect(bool right, const char* format, ...) {
    if (right) return;
    complaints++;
    if (complaints > 20) return;
    va_list list;
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    printf("\n");
}

// The message says each of these.
[[maybe_unused]] static void expect_says(const std::string& message, const std::vector<std::string>& parts) {
    for (const std::string& p : parts)
        expect(message.find(p) != std::string::npos, "expected '%s' in: %s", p.c_str(),
               message.empty() ? "(no error)" : message.c_str());
}

static int finish(const char* test) {
    printf("%s, waves of %d: %s\n", test, GRT_WAVE, complaints ? "FAILED" : "ok");
    return complaints ? 1 : 0;
}

// Small whole numbers and halves: sums of products of these are exact in singles.
[[maybe_unused]] static float small_number(uint32_t i) {
    i = (i + 1) * 2654435761u;
    i ^= i >> 15;
    return (float)((int)(i % 31) - 15) * 0.5f;
}

[[maybe_unused]] static uint16_t to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return (uint16_t)(u >> 16);
}

template <class Args>
static std::string launch(const char* name, emu::Grid grid, uint32_t threads, size_t shared,
                          const Args& args, std::vector<emu::Range> ranges) {
    return emu::launch(name, grid, threads, shared, &args, sizeof args, std::move(ranges));
}
template <class T>
static emu::Range all(const std::vector<T>& v) {
    return emu::range(v.data(), v.size() * sizeof(T));
}
