// Elementary functions of singles, from additions, multiplications and fused multiply-adds alone: the
// same bits on every target, and those of src/ops/cpu/vecmath.rs, whose polynomials these are. No
// target's mathematical library is called, and no product is left for a compiler to fuse.
//
// The polynomials are minimax fits of our own (Lawson iteration in 40 digits, rounded to singles); the
// bound beside each is the error of the rounded polynomial, relative to the function. Argument
// reductions are those of Cody and Waite, "Software Manual for the Elementary Functions" (1980).
// Over all magnitudes the functions are within 2 units in the last place, grt_sigmoid within 2.5.
#pragma once
#include "grt.h"

// 1.5 * 2^23: adding and subtracting it rounds a small number to the nearest integer.
#define GRT_ROUND 12582912.0f
// Upper bits of ln 2, so that a product with an exponent is exact, and the rest of it.
#define GRT_LN_2_HI 0.693359375f
#define GRT_LN_2_LO -2.12194440e-4f
#define GRT_LOG2_E 1.44269504088896341f

GRT_DEV float grt_infinity() { return grt_float(0x7f800000u); }
GRT_DEV float grt_nan() { return grt_float(0x7fc00000u); }
GRT_DEV float grt_abs(float x) { return grt_float(grt_bits(x) & 0x7fffffffu); }
// The magnitude of x with the sign of y.
GRT_DEV float grt_with_sign(float x, float y) {
    return grt_float((grt_bits(x) & 0x7fffffffu) | (grt_bits(y) & 0x80000000u));
}
// 2^n for -126 <= n <= 127.
GRT_DEV float grt_power_of_two(int n) { return grt_float((uint32_t)(n + 127) << 23); }

// e^x. Overflows to infinity, underflows through the subnormal numbers to 0; NaN passes.
GRT_DEV float grt_exp(float x) {
    // Beyond these bounds the result is 0 or infinity.
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float shifted = grt_fma(x, GRT_LOG2_E, GRT_ROUND);
    float n = shifted - GRT_ROUND;
    float r = grt_fma(n, -GRT_LN_2_LO, grt_fma(n, -GRT_LN_2_HI, x));
    // (e^r - 1 - r) / r^2 on |r| <= ln(2)/2: 5e-9.
    float p = 0.0013813145f;
    p = grt_fma(p, r, 0.008369419f);
    p = grt_fma(p, r, 0.041668456f);
    p = grt_fma(p, r, 0.16666515f);
    p = grt_fma(p, r, 0.49999994f);
    float e = grt_fma(r * r, p, r) + 1.0f;
    // 2^n in two factors, so that neither leaves the range of normal numbers.
    int k = (int)(grt_bits(shifted) - grt_bits(GRT_ROUND));
    int half = k >> 1;
    return e * grt_power_of_two(half) * grt_power_of_two(k - half);
}

// e^x of a softmax weight: grt_exp for x between -87 and 88, and 0 below, so that no result is
// subnormal and one factor carries the power of two. Above 88 it is meaningless.
GRT_DEV float grt_exp_weight(float x) {
    float y = x < -87.0f ? -87.0f : x;
    float shifted = grt_fma(y, GRT_LOG2_E, GRT_ROUND);
    float n = shifted - GRT_ROUND;
    float r = grt_fma(n, -GRT_LN_2_LO, grt_fma(n, -GRT_LN_2_HI, y));
    float p = 0.0013813145f;
    p = grt_fma(p, r, 0.008369419f);
    p = grt_fma(p, r, 0.041668456f);
    p = grt_fma(p, r, 0.16666515f);
    p = grt_fma(p, r, 0.49999994f);
    float e = grt_fma(r * r, p, r) + 1.0f;
    uint32_t k = grt_bits(shifted) - grt_bits(GRT_ROUND);
    return x < -87.0f ? 0.0f : e * grt_float((k + 127u) << 23);
}

// Natural logarithm. Of 0 it is minus infinity, of negative numbers NaN.
GRT_DEV float grt_log(float x) {
    // Subnormal numbers are scaled into the normal range first.
    bool tiny = x < 1.17549435e-38f;
    float scaled = tiny ? x * 8388608.0f : x;
    // x = m * 2^e with m in [1/sqrt 2, sqrt 2); the constant is the bits of 1/sqrt 2.
    int e = (int)(grt_bits(scaled) - 0x3f3504f3u) >> 23;
    float m = grt_float(grt_bits(scaled) - ((uint32_t)e << 23));
    float k = (float)e - (tiny ? 23.0f : 0.0f);
    float f = m - 1.0f;
    // (ln(1+f) - f + f^2/2) / f^3: 3e-9.
    float p = 0.067466386f;
    p = grt_fma(p, f, -0.11675651f);
    p = grt_fma(p, f, 0.11888163f);
    p = grt_fma(p, f, -0.12405589f);
    p = grt_fma(p, f, 0.14219552f);
    p = grt_fma(p, f, -0.16667996f);
    p = grt_fma(p, f, 0.20002119f);
    p = grt_fma(p, f, -0.2500001f);
    p = grt_fma(p, f, 0.33333313f);
    float f2 = f * f;
    float y = grt_fma(k, GRT_LN_2_LO, f2 * f * p);
    y = grt_fma(f2, -0.5f, y) + f;
    y = grt_fma(k, GRT_LN_2_HI, y);
    y = x < grt_infinity() ? y : x; // infinity and NaN
    y = x == 0.0f ? -grt_infinity() : y;
    return x < 0.0f ? grt_nan() : y;
}

// Hyperbolic tangent.
GRT_DEV float grt_tanh(float x) {
    float s = x * x;
    // (tanh(x)/x - 1) / x^2 on |x| <= 0.625: 9e-9.
    float p = -0.0057049864f;
    p = grt_fma(p, s, 0.020639086f);
    p = grt_fma(p, s, -0.053739715f);
    p = grt_fma(p, s, 0.13331442f);
    p = grt_fma(p, s, -0.3333328f);
    float near = grt_fma(x * s, p, x);
    float far = 1.0f - 2.0f / (grt_exp(2.0f * grt_abs(x)) + 1.0f);
    return grt_abs(x) < 0.625f ? near : grt_with_sign(far, x);
}

// Error function.
GRT_DEV float grt_erf(float x) {
    float t = grt_abs(x);
    float s = x * x;
    // erf(x)/x - 1 on |x| <= 15/16: 3e-8.
    float p = -0.0005919418f;
    p = grt_fma(p, s, 0.0049791303f);
    p = grt_fma(p, s, -0.026757035f);
    p = grt_fma(p, s, 0.11281552f);
    p = grt_fma(p, s, -0.37612468f);
    p = grt_fma(p, s, 0.12837915f);
    float near = grt_fma(x, p, x);
    // (ln(erfc t) + t) / t on 15/16 <= t <= 4: 7e-9 of erf. Beyond 4, erf is 1 in singles.
    float t4 = t > 4.0f ? 4.0f : t;
    float q = 0.00021337507f;
    q = grt_fma(q, t4, -0.003209906f);
    q = grt_fma(q, t4, 0.02287369f);
    q = grt_fma(q, t4, -0.105236314f);
    q = grt_fma(q, t4, -0.63573784f);
    q = grt_fma(q, t4, -0.12850855f);
    float far = 1.0f - grt_exp(grt_fma(t4, q, -t4));
    return t < 0.9375f ? near : grt_with_sign(far, x);
}

// Logistic function 1 / (1 + e^-x).
GRT_DEV float grt_sigmoid(float x) { return 1.0f / (1.0f + grt_exp(-x)); }

// Square root of a double that is 0, between 1e-95 and 1e95, or not finite, to a unit in the last
// place or two: Newton's iteration for its reciprocal, from the square root of a single.
GRT_DEV double grt_sqrt64(double x) {
    if (!(x < 1e300) || x == 0.0) return x;
    // Into the range of singles, by an even power of two, and back by half of it.
    double to = 1.0, back = 1.0;
    if (x < 1e-30) to = 1.6069380442589903e60, back = 7.888609052210118e-31;
    if (x > 1e30) to = 6.223015277861142e-61, back = 1.2676506002282294e30;
    double s = x * to;
    double y = (double)(1.0f / grt_sqrt((float)s));
    GRT_UNROLL for (int i = 0; i < 2; i++) y = grt_fma64(0.5 * y, grt_fma64(-s * y, y, 1.0), y);
    return s * y * back;
}
