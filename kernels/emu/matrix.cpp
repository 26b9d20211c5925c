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

// c[M][N] += a[M][16] b[16][N].
template <int M, int N>
static void multiply(float (&c)[M][N], const float (&a)[M][16], const float (&b)[16][N]) {
    for (int m = 0; m < M; m++) {
        float sum[N];
        for (int n = 0; n < N; n++) sum[n] = c[m][n];
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < N; n++) sum[n] += a[m][k] * b[k][n];
        for (int n = 0; n < N; n++) c[m][n] = sum[n];
    }
}

static const MatrixArgs& lane_args(const Wave& w, int lane) {
    return *(const MatrixArgs*)w.args[lane];
}

#if GRT_WAVE == 32

static void mma16816(const Wave& w) {
    float a[16][16], b[16][8], c[16][8];
    for (int l = 0; l < 32; l++) {
        const MatrixArgs& x = lane_args(w, l);
        int g = l >> 2, t = 2 * (l & 3);
        for (int i = 0; i < 4; i++) {
            int row = g + 8 * (i & 1), col = t + 8 * (i >> 1);
            a[row][col] = low(x.a[i]);
            a[row][col + 1] = high(x.a[i]);
            c[g + 8 * (i >> 1)][t + (i & 1)] = x.c[i];
        }
        for (int i = 0; i < 2; i++) {
            b[t + 8 * i][g] = low(x.b[i]);
            b[t + 8 * i + 1][g] = high(x.b[i]);
        }
    }
    multiply(c, a, b);
    for (int l = 0; l < 32; l++) {
        const MatrixArgs& x = lane_args(w, l);
        int g = l >> 2, t = 2 * (l & 3);
        for (int i = 0; i < 4; i++) x.c[i] = c[g + 8 * (i >> 1)][t + (i & 1)];
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
    float a[16][16], b[16][16], c[16][16];
    for (int l = 0; l < 64; l++) {
        const MatrixArgs& x = lane_args(w, l);
        int i = l & 15, k = 4 * (l >> 4);
        for (int j = 0; j < 2; j++) {
            a[i][k + 2 * j] = low(x.a[j]);
            a[i][k + 2 * j + 1] = high(x.a[j]);
            b[k + 2 * j][i] = low(x.b[j]);
            b[k + 2 * j + 1][i] = high(x.b[j]);
        }
        for (int j = 0; j < 4; j++) c[k + j][i] = x.c[j];
    }
    multiply(c, a, b);
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
