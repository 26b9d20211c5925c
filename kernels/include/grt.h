// The only file that spells a vendor. Kernels are written once, against the names here, and built for
// three targets: CUDA (nvcc), HIP (clang, without ROCm), and the host's emulator (kernels/emu), which
// plays either of them. Nothing here is host code; launching is the runtime's job.
//
// Rules for kernels:
//   * one by-value argument struct each (grt_args.h), blocks of one dimension, any grid;
//   * global memory is read and written through grt_load*, grt_store*, grt_async_copy16 only: the
//     emulator checks every address there;
//   * shared memory comes from GRT_SHARED or GRT_DYNAMIC_SHARED; it holds garbage at first;
//   * wave width is GRT_WAVE, 32 or 64, and is spelled nowhere as a number;
//   * no float atomics; every sum has one order;
//   * GRT_ROLLED loops stay loops: the addresses of all their turns would push sums out of the registers.
#pragma once
#include <stdint.h>

#if defined(GRT_EMU)
#if GRT_WAVE != 32 && GRT_WAVE != 64
#error "the emulator needs -DGRT_WAVE=32 or -DGRT_WAVE=64"
#endif
#elif defined(__CUDACC__)
#define GRT_CUDA 1
#define GRT_WAVE 32
#elif defined(__HIP__)
#define GRT_HIP 1
#define GRT_WAVE 64
#else
#error "build kernels with nvcc, with clang -x hip, or for the emulator with -DGRT_EMU"
#endif

// bfloat16 as it lies in memory. Arithmetic is in singles: load, compute, store.
struct grt_bf16 {
    uint16_t bits;
};

// 16 bytes that move together, and 8.
struct alignas(16) grt_u128 {
    uint32_t w[4];
};
struct alignas(8) grt_u64 {
    uint32_t w[2];
};

#if defined(GRT_CUDA)
#define GRT_DEV static __device__ __forceinline__
#define GRT_DEV_MEMBER __device__ __forceinline__
#define GRT_KERNEL(name, Args, threads) \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args a)
#define GRT_SHARED(Type, name) __shared__ Type name
#define GRT_DYNAMIC_SHARED(name)                                    \
    extern __shared__ __align__(128) unsigned char grt_dynamic_[]; \
    unsigned char* name = grt_dynamic_
#define GRT_UNROLL _Pragma("unroll")
#define GRT_ROLLED _Pragma("unroll 1")

GRT_DEV int grt_tid() { return threadIdx.x; }
GRT_DEV int grt_threads() { return blockDim.x; }
GRT_DEV int grt_block_x() { return blockIdx.x; }
GRT_DEV int grt_block_y() { return blockIdx.y; }
GRT_DEV int grt_block_z() { return blockIdx.z; }
GRT_DEV int grt_grid_x() { return gridDim.x; }
GRT_DEV int grt_lane() { return threadIdx.x & 31; }
GRT_DEV void grt_sync() { __syncthreads(); }
// Threads of one wave see each other's shared memory writes after it.
GRT_DEV void grt_sync_wave() { __syncwarp(); }
GRT_DEV float grt_shfl_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
GRT_DEV int grt_shfl_xor(int v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
GRT_DEV float grt_shfl(float v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }
GRT_DEV int grt_shfl(int v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }
// 2^x and log2 x by the special-function unit: about two units in the last place.
GRT_DEV float grt_fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
GRT_DEV float grt_sqrt(float x) { return sqrtf(x); }
GRT_DEV float grt_fma(float x, float y, float z) { return fmaf(x, y, z); }
GRT_DEV double grt_fma64(double x, double y, double z) { return fma(x, y, z); }
GRT_DEV float grt_max(float x, float y) { return fmaxf(x, y); }
GRT_DEV float grt_min(float x, float y) { return fminf(x, y); }
GRT_DEV uint32_t grt_mul_high(uint32_t x, uint32_t y) { return __umulhi(x, y); }
GRT_DEV uint32_t grt_bits(float x) { return __float_as_uint(x); }
GRT_DEV float grt_float(uint32_t x) { return __uint_as_float(x); }

GRT_DEV float grt_load(const float* p) { return *p; }
GRT_DEV double grt_load(const double* p) { return *p; }
GRT_DEV int grt_load(const int* p) { return *p; }
GRT_DEV uint32_t grt_load(const uint32_t* p) { return *p; }
GRT_DEV float grt_load(const grt_bf16* p) { return grt_float((uint32_t)p->bits << 16); }
GRT_DEV grt_u128 grt_load16(const void* p) { return *(const grt_u128*)p; }
GRT_DEV grt_u64 grt_load8(const void* p) { return *(const grt_u64*)p; }
GRT_DEV void grt_store(float* p, float x) { *p = x; }
GRT_DEV void grt_store(double* p, double x) { *p = x; }
GRT_DEV void grt_store(int* p, int x) { *p = x; }
GRT_DEV void grt_store(uint32_t* p, uint32_t x) { *p = x; }
// An assignment of the struct may be taken apart into four stores.
GRT_DEV void grt_store16(void* p, grt_u128 x) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)),
                 "r"(x.w[0]), "r"(x.w[1]), "r"(x.w[2]), "r"(x.w[3])
                 : "memory");
}
GRT_DEV void grt_store_bits(grt_bf16* p, uint16_t bits) { p->bits = bits; }

// Copies 16 bytes from global to shared memory in the background, or writes zeros if not valid.
// They have arrived for this thread after a grt_async_wait that covers their group, and for the block
// after a grt_sync that follows.
GRT_DEV void grt_async_copy16(void* shared, const void* global, bool valid) {
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
                 : "memory");
}
// The same for 8 bytes.
GRT_DEV void grt_async_copy8(void* shared, const void* global, bool valid) {
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    int bytes = valid ? 8 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(global), "r"(bytes)
                 : "memory");
}
GRT_DEV void grt_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most PENDING committed groups of this thread are under way.
template <int PENDING>
GRT_DEV void grt_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#elif defined(GRT_HIP)
#define GRT_DEV static __attribute__((device)) inline __attribute__((always_inline))
#define GRT_DEV_MEMBER __attribute__((device)) inline __attribute__((always_inline))
#define GRT_KERNEL(name, Args, threads)                                                     \
    extern "C" __attribute__((global)) __attribute__((amdgpu_flat_work_group_size(1, threads))) \
    void name(const Args a)
#define GRT_SHARED(Type, name) static __attribute__((shared)) Type name
#define GRT_DYNAMIC_SHARED(name)                                                        \
    extern __attribute__((shared)) __attribute__((aligned(128))) unsigned char grt_dynamic_[]; \
    unsigned char* name = grt_dynamic_
#define GRT_UNROLL _Pragma("unroll")
#define GRT_ROLLED _Pragma("unroll 1")

GRT_DEV int grt_tid() { return __builtin_amdgcn_workitem_id_x(); }
GRT_DEV int grt_threads() { return __builtin_amdgcn_workgroup_size_x(); }
GRT_DEV int grt_block_x() { return __builtin_amdgcn_workgroup_id_x(); }
GRT_DEV int grt_block_y() { return __builtin_amdgcn_workgroup_id_y(); }
GRT_DEV int grt_block_z() { return __builtin_amdgcn_workgroup_id_z(); }
GRT_DEV int grt_grid_x() {
    return __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x();
}
GRT_DEV int grt_lane() {
    return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0));
}
GRT_DEV void grt_sync() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
// A wave runs in lockstep; only the compiler must keep the order.
GRT_DEV void grt_sync_wave() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
    __builtin_amdgcn_wave_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}
GRT_DEV int grt_shfl(int v, int lane) { return __builtin_amdgcn_ds_bpermute(lane << 2, v); }
GRT_DEV float grt_shfl(float v, int lane) {
    return __builtin_bit_cast(float, grt_shfl(__builtin_bit_cast(int, v), lane));
}
GRT_DEV int grt_shfl_xor(int v, int mask) { return grt_shfl(v, grt_lane() ^ mask); }
GRT_DEV float grt_shfl_xor(float v, int mask) { return grt_shfl(v, grt_lane() ^ mask); }
GRT_DEV float grt_fast_exp2(float x) { return __builtin_amdgcn_exp2f(x); }
GRT_DEV float grt_sqrt(float x) { return __builtin_sqrtf(x); }
GRT_DEV float grt_fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
GRT_DEV double grt_fma64(double x, double y, double z) { return __builtin_fma(x, y, z); }
GRT_DEV float grt_max(float x, float y) { return __builtin_fmaxf(x, y); }
GRT_DEV float grt_min(float x, float y) { return __builtin_fminf(x, y); }
GRT_DEV uint32_t grt_mul_high(uint32_t x, uint32_t y) {
    return (uint32_t)(((uint64_t)x * y) >> 32);
}
GRT_DEV uint32_t grt_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
GRT_DEV float grt_float(uint32_t x) { return __builtin_bit_cast(float, x); }

GRT_DEV float grt_load(const float* p) { return *p; }
GRT_DEV double grt_load(const double* p) { return *p; }
GRT_DEV int grt_load(const int* p) { return *p; }
GRT_DEV uint32_t grt_load(const uint32_t* p) { return *p; }
GRT_DEV float grt_load(const grt_bf16* p) { return grt_float((uint32_t)p->bits << 16); }
GRT_DEV grt_u128 grt_load16(const void* p) { return *(const grt_u128*)p; }
GRT_DEV grt_u64 grt_load8(const void* p) { return *(const grt_u64*)p; }
GRT_DEV void grt_store(float* p, float x) { *p = x; }
GRT_DEV void grt_store(double* p, double x) { *p = x; }
GRT_DEV void grt_store(int* p, int x) { *p = x; }
GRT_DEV void grt_store(uint32_t* p, uint32_t x) { *p = x; }
// An assignment of the struct may be taken apart into four stores.
typedef uint32_t grt_words4 __attribute__((ext_vector_type(4)));
GRT_DEV void grt_store16(void* p, grt_u128 x) {
    *(grt_words4*)p = grt_words4{x.w[0], x.w[1], x.w[2], x.w[3]};
}
GRT_DEV void grt_store_bits(grt_bf16* p, uint16_t bits) { p->bits = bits; }

// gfx942 copies to shared memory 4 bytes at a time only; 16 bytes through registers are faster.
GRT_DEV void grt_async_copy16(void* shared, const void* global, bool valid) {
    // A vector, not a struct: the compiler would choose between two addresses, one on the stack.
    typedef uint32_t words __attribute__((ext_vector_type(4)));
    words x = 0;
    if (valid) x = *(const words*)global;
    *(words*)shared = x;
}
GRT_DEV void grt_async_copy8(void* shared, const void* global, bool valid) {
    uint64_t x = 0;
    if (valid) x = *(const uint64_t*)global;
    *(uint64_t*)shared = x;
}
GRT_DEV void grt_async_commit() {}
template <int PENDING>
GRT_DEV void grt_async_wait() {}

#else // the emulator
#include "../emu/emu.h"
#endif

// Rounds to nearest, ties to even; a NaN stays one.
GRT_DEV uint16_t grt_round_bf16(float x) {
    uint32_t u = grt_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
GRT_DEV float grt_widen(grt_bf16 x) { return grt_float((uint32_t)x.bits << 16); }
GRT_DEV float grt_widen(float x) { return x; }
GRT_DEV void grt_store(grt_bf16* p, float x) { grt_store_bits(p, grt_round_bf16(x)); }
// Two bf16 in a word, the first one low.
GRT_DEV uint32_t grt_pack_bf16(float low, float high) {
#if defined(GRT_CUDA)
    uint32_t pair; // one instruction with the same rounding
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return (uint32_t)grt_round_bf16(low) | (uint32_t)grt_round_bf16(high) << 16;
#endif
}
// The product rounded to a single, never fused with an addition that follows.
GRT_DEV float grt_mul(float x, float y) {
#if defined(GRT_CUDA)
    return __fmul_rn(x, y);
#else
    float p = x * y;
#if defined(GRT_HIP)
    asm("" : "+v"(p));
#endif
    return p;
#endif
}
// Rounds a number as a slot of type S would, and widens it again.
template <class S>
GRT_DEV float grt_rounded(float x) {
    return sizeof(S) == 2 ? grt_float((uint32_t)grt_round_bf16(x) << 16) : x;
}

// Vectors of 16 bytes: 4 singles or 8 bf16. The address must be a multiple of 16.
template <class S>
struct grt_vec;
template <>
struct grt_vec<float> {
    static constexpr int N = 4;
};
template <>
struct grt_vec<grt_bf16> {
    static constexpr int N = 8;
};
GRT_DEV void grt_load_vec(const float* p, float (&x)[4]) {
    grt_u128 u = grt_load16(p);
    GRT_UNROLL for (int i = 0; i < 4; i++) x[i] = grt_float(u.w[i]);
}
GRT_DEV void grt_load_vec(const grt_bf16* p, float (&x)[8]) {
    grt_u128 u = grt_load16(p);
    GRT_UNROLL for (int i = 0; i < 4; i++) {
        x[2 * i] = grt_float(u.w[i] << 16);
        x[2 * i + 1] = grt_float(u.w[i] & 0xffff0000u);
    }
}
GRT_DEV void grt_store_vec(float* p, const float (&x)[4]) {
    grt_u128 u;
    GRT_UNROLL for (int i = 0; i < 4; i++) u.w[i] = grt_bits(x[i]);
    grt_store16(p, u);
}
GRT_DEV void grt_store_vec(grt_bf16* p, const float (&x)[8]) {
    grt_u128 u;
    GRT_UNROLL for (int i = 0; i < 4; i++) u.w[i] = grt_pack_bf16(x[2 * i], x[2 * i + 1]);
    grt_store16(p, u);
}

GRT_DEV int grt_wave() { return grt_tid() / GRT_WAVE; }
GRT_DEV int grt_waves() { return (grt_threads() + GRT_WAVE - 1) / GRT_WAVE; }
