// The matrix instructions as work of a whole wave: fragments in the layouts of PTX (ldmatrix,
// mma.m16n8k16) and of AMD's matrix instruction calculator (v_mfma_f32_16x16x16_bf16). Products of two
// bf16 are exact in a single; they are added one by one, k ascending.
#include <string.h>

#include "state.h"

namespace emu {

static float low(uint32_t pair) {
    uint32_t u = pair << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static float high(uint32_t pair) {
    uint32_t u = pair & 0xffff0000u;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

// Two neighbours, the first one low in the pair.
static void put_pair(float* to, uint32_t pair) {
    uint64_t two = (uint64_t)(pair & 0xffff0000u) << 32 | (uint32_t)(pair << 16);
    memcpy(to, &two, 8);
}

// Eight columns of a tile. The compiler splits them where the machine's vectors are shorter.
typedef float Columns __attribute__((vector_size(32)));

static inline void read(Columns& c, const float* from) { memcpy(&c, from, 32); }
static inline void write(float* to, const Columns& c) { memcpy(to, &c, 32); }

// c[m] += a[m][k] b[k] for 16 rows and 8 columns; `step` singles lie between rows of b and of c. Four
// rows at a time keep their sums in registers.
static void multiply(float* c, const float (&a)[16][16], const float* b, int step) {
    for (int m = 0; m < 16; m += 4, c += 4 * step) {
        Columns c0, c1, c2, c3, row;
        read(c0, c);
        read(c1, c + step);
        read(c2, c + 2 * step);
        read(c3, c + 3 * step);
        for (int k = 0; k < 16; k++) {
            read(row, b + k * step);
            c0 += a[m][k] * row;
            c1 += a[m + 1][k] * row;
            c2 += a[m + 2][k] * row;
            c3 += a[m + 3][k] * row;
        }
        write(c, c0);
        write(c + step, c1);
        write(c + 2 * step, c2);
        write(c + 3 * step, c3);
    }
}

static const MatrixArgs& lane_args(const Wave& w, int lane) {
    return *(const MatrixArgs*)w.args[lane];
}

#if GRT_WAVE == 32

static void mma16816(const Wave& w) {
    alignas(32) float a[16][16], b[16][8], c[16][8];
    for (int l = 0; l < 32; l++) {
        const MatrixArgs& x = lane_args(w, l);
        int g = l >> 2, t = 2 * (l & 3);
        put_pair(&a[g][t], x.a[0]);
        put_pair(&a[g + 8][t], x.a[1]);
        put_pair(&a[g][t + 8], x.a[2]);
        put_pair(&a[g + 8][t + 8], x.a[3]);
        b[t][g] = low(x.b[0]);
        b[t + 1][g] = high(x.b[0]);
        b[t + 8][g] = low(x.b[1]);
        b[t + 9][g] = high(x.b[1]);
        memcpy(&c[g][t], x.c, 8);
        memcpy(&c[g + 8][t], x.c + 2, 8);
    }
    multiply(c[0], a, b[0], 8);
    for (int l = 0; l < 32; l++) {
        const MatrixArgs& x = lane_args(w, l);
        int g = l >> 2, t = 2 * (l & 3);
        memcpy(x.c, &c[g][t], 8);
        memcpy(x.c + 2, &c[g + 8][t], 8);
    }
}

static void ldmatrix4(const Wave& w, bool trans, Place place) {
    uint16_t tile[4][8][8];
    for (int l = 0; l < 32; l++) {
        const uint16_t* row = lane_args(w, l).row;
        if ((uintptr_t)row % 16 != 0)
            fail(FailureKind::MISALIGNED, place, "ldmatrix: lane %d's row is not 16-byte aligned", l);
        if (!is_shared(row, 16))
            fail(FailureKind::ADDRESS, place, "ldmatrix: lane %d's row is not in shared memory", l);
        memcpy(tile[l >> 3][l & 7], row, 16);
    }
    for (int l = 0; l < 32; l++) {
        int g = l >> 2, t = 2 * (l & 3);
        uint32_t* r = lane_args(w, l).r;
        for (int i = 0; i < 4; i++) {
            uint16_t first = trans ? tile[i][t][g] : tile[i][g][t];
            uint16_t second = trans ? tile[i][t + 1][g] : tile[i][g][t + 1];
            r[i] = (uint32_t)first | (uint32_t)second << 16;
        }
    }
}

#else

static void mfma16(const Wave& w) {
    alignas(32) float a[16][16], b[16][16], c[16][16];
    for (int l = 0; l < 64; l++) {
        const MatrixArgs& x = lane_args(w, l);
        int i = l & 15, k = 4 * (l >> 4);
        put_pair(&a[i][k], x.a[0]);
        put_pair(&a[i][k + 2], x.a[1]);
        b[k][i] = low(x.b[0]);
        b[k + 1][i] = high(x.b[0]);
        b[k + 2][i] = low(x.b[1]);
        b[k + 3][i] = high(x.b[1]);
        for (int j = 0; j < 4; j++) c[k + j][i] = x.c[j];
    }
    multiply(c[0], a, b[0], 16);
    multiply(c[0] + 8, a, b[0] + 8, 16);
    for (int l = 0; l < 64; l++) {
        const MatrixArgs& x = lane_args(w, l);
        for (int j = 0; j < 4; j++) x.c[j] = c[4 * (l >> 4) + j][l & 15];
    }
}

#endif

void work_of_matrices(Wave& w, Place place) {
    (void)place;
#if GRT_WAVE == 32
    if (w.meeting == Meeting::MMA) mma16816(w);
    else ldmatrix4(w, w.meeting == Meeting::LDMATRIX_TRANS, place);
#else
    mfma16(w);
#endif
}

}  // namespace emu
