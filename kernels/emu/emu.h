// What grt.h says for CUDA and HIP, for the emulator: kernels become functions of the host, their
// threads fibers. Every address of global memory is checked; copies in the background arrive as late as
// they may. Included by grt.h alone.
#pragma once
#include <math.h>
#include <string.h>

#include "state.h"

#define GRT_DEV static inline __attribute__((unused))
#define GRT_DEV_MEMBER inline
#define GRT_KERNEL(name, Args, threads)                                                      \
    static void name##_body_(const Args& a);                                                 \
    static void name##_entry_(const void* args) { name##_body_(*(const Args*)args); }        \
    static emu::Kernel name##_kernel_(#name, __FILE__, name##_entry_, sizeof(Args), threads); \
    static void name##_body_([[maybe_unused]] const Args& a)
// The first thread that comes here in a block takes the space; the others find it by the key.
#define GRT_SHARED(Type, name)                                                          \
    Type& name = *[](emu::Place place) -> Type* {                                       \
        static const char key = 0;                                                      \
        return (Type*)emu::shared_object(&key, sizeof(Type), alignof(Type), place);     \
    }(emu::Place{__FILE__, __LINE__})
#define GRT_DYNAMIC_SHARED(name) unsigned char* name = emu::block->dynamic_data
#if defined(__clang__)
#define GRT_UNROLL _Pragma("unroll")
#define GRT_ROLLED _Pragma("unroll 1")
#else
#define GRT_UNROLL
#define GRT_ROLLED
#endif
// The caller's place, as two arguments that nobody gives.
#define GRT_EMU_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define GRT_EMU_HERE emu::Place{file, line}

GRT_DEV int grt_tid() { return emu::self->tid; }
GRT_DEV int grt_threads() { return emu::block->num_threads; }
GRT_DEV int grt_block_x() { return (int)emu::block->index[0]; }
GRT_DEV int grt_block_y() { return (int)emu::block->index[1]; }
GRT_DEV int grt_block_z() { return (int)emu::block->index[2]; }
GRT_DEV int grt_grid_x() { return (int)emu::block->grid_x; }
GRT_DEV int grt_lane() { return emu::self->lane; }
GRT_DEV void grt_sync(GRT_EMU_PLACE) { emu::sync_block(GRT_EMU_HERE); }
GRT_DEV void grt_sync_wave(GRT_EMU_PLACE) {
    emu::meet(emu::Meeting::SYNC_WAVE, nullptr, GRT_EMU_HERE);
}

GRT_DEV uint32_t grt_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
GRT_DEV float grt_float(uint32_t x) {
    float f;
    memcpy(&f, &x, 4);
    return f;
}
GRT_DEV uint32_t grt_emu_shuffle(uint32_t v, int lane, emu::Place place) {
    emu::Thread* t = emu::self;
    emu::Wave* w = t->wave;
    w->value[t->lane] = v;
    w->source[t->lane] = (uint8_t)(lane & (GRT_WAVE - 1));
    emu::meet(emu::Meeting::SHUFFLE, nullptr, place);
    return w->result[t->lane];
}
GRT_DEV int grt_shfl(int v, int lane, GRT_EMU_PLACE) {
    return (int)grt_emu_shuffle((uint32_t)v, lane, GRT_EMU_HERE);
}
GRT_DEV float grt_shfl(float v, int lane, GRT_EMU_PLACE) {
    return grt_float(grt_emu_shuffle(grt_bits(v), lane, GRT_EMU_HERE));
}
GRT_DEV int grt_shfl_xor(int v, int mask, GRT_EMU_PLACE) {
    return (int)grt_emu_shuffle((uint32_t)v, grt_lane() ^ mask, GRT_EMU_HERE);
}
GRT_DEV float grt_shfl_xor(float v, int mask, GRT_EMU_PLACE) {
    return grt_float(grt_emu_shuffle(grt_bits(v), grt_lane() ^ mask, GRT_EMU_HERE));
}

// Like the hardware's unit: results below the smallest normal number become zero.
GRT_DEV float grt_fast_exp2(float x) { return x < -126.0f ? 0.0f : exp2f(x); }
GRT_DEV float grt_sqrt(float x) { return __builtin_sqrtf(x); }
GRT_DEV float grt_fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
GRT_DEV double grt_fma64(double x, double y, double z) { return __builtin_fma(x, y, z); }
GRT_DEV float grt_max(float x, float y) { return __builtin_fmaxf(x, y); }
GRT_DEV float grt_min(float x, float y) { return __builtin_fminf(x, y); }
GRT_DEV uint32_t grt_mul_high(uint32_t x, uint32_t y) {
    return (uint32_t)(((uint64_t)x * y) >> 32);
}

GRT_DEV float grt_load(const float* p, GRT_EMU_PLACE) {
    emu::check(p, 4, emu::LOAD, GRT_EMU_HERE);
    return *p;
}
GRT_DEV double grt_load(const double* p, GRT_EMU_PLACE) {
    emu::check(p, 8, emu::LOAD, GRT_EMU_HERE);
    return *p;
}
GRT_DEV int grt_load(const int* p, GRT_EMU_PLACE) {
    emu::check(p, 4, emu::LOAD, GRT_EMU_HERE);
    return *p;
}
GRT_DEV uint32_t grt_load(const uint32_t* p, GRT_EMU_PLACE) {
    emu::check(p, 4, emu::LOAD, GRT_EMU_HERE);
    return *p;
}
GRT_DEV float grt_load(const grt_bf16* p, GRT_EMU_PLACE) {
    emu::check(p, 2, emu::LOAD, GRT_EMU_HERE);
    return grt_float((uint32_t)p->bits << 16);
}
GRT_DEV grt_u128 grt_load16(const void* p, GRT_EMU_PLACE) {
    emu::check(p, 16, emu::LOAD16, GRT_EMU_HERE);
    return *(const grt_u128*)p;
}
GRT_DEV grt_u64 grt_load8(const void* p, GRT_EMU_PLACE) {
    emu::check(p, 8, emu::LOAD16, GRT_EMU_HERE);
    return *(const grt_u64*)p;
}
GRT_DEV void grt_store(float* p, float x, GRT_EMU_PLACE) {
    emu::check(p, 4, emu::STORE, GRT_EMU_HERE);
    *p = x;
}
GRT_DEV void grt_store(double* p, double x, GRT_EMU_PLACE) {
    emu::check(p, 8, emu::STORE, GRT_EMU_HERE);
    *p = x;
}
GRT_DEV void grt_store(int* p, int x, GRT_EMU_PLACE) {
    emu::check(p, 4, emu::STORE, GRT_EMU_HERE);
    *p = x;
}
GRT_DEV void grt_store(uint32_t* p, uint32_t x, GRT_EMU_PLACE) {
    emu::check(p, 4, emu::STORE, GRT_EMU_HERE);
    *p = x;
}
GRT_DEV void grt_store16(void* p, grt_u128 x, GRT_EMU_PLACE) {
    emu::check(p, 16, emu::STORE, GRT_EMU_HERE);
    *(grt_u128*)p = x;
}
GRT_DEV void grt_store_bits(grt_bf16* p, uint16_t bits, GRT_EMU_PLACE) {
    emu::check(p, 2, emu::STORE, GRT_EMU_HERE);
    p->bits = bits;
}

// The target is poisoned now and filled by the wait that covers the copy: who reads too early, or still
// needs what was there, gets a wrong result.
GRT_DEV void grt_async_copy16(void* shared, const void* global, bool valid, GRT_EMU_PLACE) {
    if (valid) emu::check(global, 16, emu::ASYNC, GRT_EMU_HERE);
    emu::async_copy(shared, valid ? global : nullptr, 16, GRT_EMU_HERE);
}
GRT_DEV void grt_async_copy8(void* shared, const void* global, bool valid, GRT_EMU_PLACE) {
    if (valid) emu::check(global, 8, emu::ASYNC, GRT_EMU_HERE);
    emu::async_copy(shared, valid ? global : nullptr, 8, GRT_EMU_HERE);
}
GRT_DEV void grt_async_commit() { emu::async_commit(); }
template <int PENDING>
GRT_DEV void grt_async_wait() {
    emu::async_wait(PENDING);
}

// The primitives of grt_mma.h: all lanes meet, the last one computes (matrix.cpp).
#if GRT_WAVE == 32
GRT_DEV void grt_ldmatrix4(uint32_t (&r)[4], const uint16_t* row, GRT_EMU_PLACE) {
    emu::MatrixArgs args = {r, row, nullptr, nullptr, nullptr};
    emu::meet(emu::Meeting::LDMATRIX, &args, GRT_EMU_HERE);
}
GRT_DEV void grt_ldmatrix4_trans(uint32_t (&r)[4], const uint16_t* row, GRT_EMU_PLACE) {
    emu::MatrixArgs args = {r, row, nullptr, nullptr, nullptr};
    emu::meet(emu::Meeting::LDMATRIX_TRANS, &args, GRT_EMU_HERE);
}
GRT_DEV void grt_mma16816(float* c, const uint32_t* a, const uint32_t* b, GRT_EMU_PLACE) {
    emu::MatrixArgs args = {nullptr, nullptr, c, a, b};
    emu::meet(emu::Meeting::MMA, &args, GRT_EMU_HERE);
}
#else
GRT_DEV void grt_mfma16(float* c, const uint32_t* a, const uint32_t* b, GRT_EMU_PLACE) {
    emu::MatrixArgs args = {nullptr, nullptr, c, a, b};
    emu::meet(emu::Meeting::MFMA, &args, GRT_EMU_HERE);
}
#endif
