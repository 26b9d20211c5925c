// The emulator's own interface: kernels register themselves by name, `launch` runs one. A mistake of a
// kernel comes back as a message; it never ends the process and never throws.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

namespace emu {

// Addresses begin..end that a kernel may read and write.
struct Range {
    uint64_t begin, end;
};
inline Range range(const void* p, size_t bytes) {
    return {(uint64_t)(uintptr_t)p, (uint64_t)(uintptr_t)p + bytes};
}

struct Grid {
    uint32_t x = 1, y = 1, z = 1;
};

// A kernel as GRT_KERNEL registers it, when the program or library that holds it is loaded.
struct Kernel {
    const char* name;
    const char* file;
    void (*entry)(const void* args);
    size_t args_size;
    int max_threads;
    Kernel* next;
    bool twice;  // another kernel has this name

    Kernel(const char* name, const char* file, void (*entry)(const void*), size_t args_size,
           int max_threads);
};
Kernel* find_kernel(const char* name);

enum class FailureKind { NONE, BAD_LAUNCH, ADDRESS, MISALIGNED, STUCK };

struct Failure {
    FailureKind kind = FailureKind::NONE;
    std::string message;
};

// Limits of the machine that is played.
#if GRT_WAVE == 32
constexpr size_t MAX_STATIC_SHARED = 48 << 10, MAX_SHARED = 227 << 10;
#else
constexpr size_t MAX_STATIC_SHARED = 64 << 10, MAX_SHARED = 64 << 10;
#endif

struct Launch {
    const Kernel* kernel = nullptr;
    Grid grid;
    uint32_t threads = 0;
    size_t dynamic_shared = 0;
    const void* args = nullptr;
    std::vector<Range> ranges;  // what it may touch
    uint32_t seed = 0;          // of the order of threads; 0: in order
};
// Runs all blocks of the launch, on all OS threads.
Failure run(Launch launch);

// The seed of GRT_EMU_SEED or a fixed one; `set_seed` replaces it.
uint32_t seed();
void set_seed(uint32_t seed);

// Runs a kernel by its name. Returns what went wrong, or nothing.
std::string launch(const char* name, Grid grid, uint32_t threads, size_t dynamic_shared,
                   const void* args, size_t args_size, std::vector<Range> ranges);

}  // namespace emu
