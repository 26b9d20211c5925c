// What a GPU thread, its wave and its block are while they run here: the state that the kernels' side
// (emu.h) and the executor share. Nothing here knows a driver or a vendor.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "executor.h"
#include "fiber.h"

namespace emu {

constexpr int WAVE = GRT_WAVE;
constexpr int MAX_THREADS = 1024;
constexpr int MAX_WAVES = MAX_THREADS / WAVE;
// What fresh shared memory holds, and the target of a copy under way: no sensible number in any type.
constexpr unsigned char POISON = 0xCD;

// Where in a kernel something is asked for.
struct Place {
    const char* file;
    int line;
};

// What the threads of a wave do together.
enum class Meeting : uint8_t { SHUFFLE, SYNC_WAVE, LDMATRIX, LDMATRIX_TRANS, MMA, MFMA };

// A copy to shared memory that has not arrived; `from` is null for zeros.
struct Copy {
    void* to;
    const void* from;
    size_t bytes;
};

struct Wave;

struct Thread {
    int tid, lane;
    Wave* wave;
    Fiber fiber;  // without a stack: it has not begun, or has returned
    Place place;  // of the barrier where it waits
    std::vector<Copy> copies;  // issued and not arrived, oldest first
    std::vector<uint32_t> groups;  // ends of the committed groups in `copies`
};

// Lanes as bits.
using Lanes = uint64_t;
constexpr Lanes ALL_LANES = ~(Lanes)0 >> (64 - WAVE);

struct Wave {
    Thread* threads;  // its lanes
    Lanes ready;      // may run; the next one is found by `order`, from its end
    Lanes in_meeting, at_barrier, done;
    const uint8_t* order;
    int flip;  // exchanges lanes of the order, by exclusive or
    int left;  // of the order
    Meeting meeting;
    Place place;    // of the meeting
    Thread* first;  // who came first to the meeting
    uint32_t value[WAVE], result[WAVE];
    uint8_t source[WAVE];
    void* args[WAVE];
};

// What a lane brings to a matrix meeting; what the meeting does not need is null.
struct MatrixArgs {
    uint32_t* r;          // ldmatrix: the lane's result
    const uint16_t* row;  // ldmatrix: the row that the lane names
    float* c;
    const uint32_t *a, *b;
};

// A static shared object of the running block, known by its place in the source.
struct SharedObject {
    const void* key;
    unsigned char* data;
    size_t size;
};

// A block that runs; one per OS thread, used again and again.
struct Block {
    uint32_t index[3];
    uint32_t grid_x;
    int num_threads;
    Wave* wave;  // whose threads run now
    Wave* runnable[MAX_WAVES];
    int num_runnable;
    int at_barrier, done;
    Range cache[4];  // ranges that were hit last, by kind of access
    const Range* ranges;
    int num_ranges;
    unsigned char *dynamic_data, *shared_begin, *shared_top, *shared_end;
    size_t dynamic_size, static_size;
    std::vector<SharedObject> objects;
    uint32_t rng;
    bool shuffled;
    const Launch* launch;
    Failure failure;
    Fiber scheduler;
    std::vector<Fiber> spare;  // fibers without a thread
    std::vector<uint8_t> orders;  // a few orders of the lanes
    uint32_t orders_seed;         // the seed that they are of
    Thread threads[MAX_THREADS];
    Wave waves[MAX_WAVES];
};

// The thread and block that this OS thread plays.
extern __thread Thread* self __attribute__((tls_model("initial-exec")));
extern __thread Block* block __attribute__((tls_model("initial-exec")));

// Which cached range an access asks first.
enum Access { LOAD, LOAD16, STORE, ASYNC };

// Waits until all lanes of the wave are in the same meeting; the last one does its work.
void meet(Meeting meeting, void* arg, Place place);
void sync_block(Place place);
// Looks the address up in all ranges, or fails the launch.
void check_slow(uintptr_t address, size_t bytes, Access access, Place place);
void* shared_object(const void* key, size_t size, size_t align, Place place);
void async_copy(void* shared, const void* global, size_t bytes, Place place);
void async_commit();
void async_wait(uint32_t pending);
// The work of matrix meetings (matrix.cpp).
void work_of_matrices(Wave& wave, Place place);
bool is_shared(const void* p, size_t bytes);
// Ends the launch: never returns to the kernel.
[[noreturn]] void fail(FailureKind kind, Place place, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

inline void check(const void* p, size_t bytes, Access access, Place place) {
    uintptr_t a = (uintptr_t)p;
    const Range& r = block->cache[access];
    if (__builtin_expect(a < r.begin || a + bytes > r.end || (a & (bytes - 1)), 0))
        check_slow(a, bytes, access, place);
}

}  // namespace emu
