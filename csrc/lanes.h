// Sixteen fp32 numbers at a time, in the registers of the instruction set that this file is
// compiled for. Column j of a row is always in lane j % 16 and every operation is defined bit for
// bit, so AVX2 and AVX-512 give the same sums. The portable version uses the vector types of the
// compiler; without fused multiply-add it multiplies and then adds, and its last bits differ.
//
// Everything here is static or in the namespace of the instruction set. Otherwise the linker would
// merge two copies of one inline function that were compiled for different processors, and an older
// processor would run the newer one's code.

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define LANES_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define LANES_AVX2 1
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define ALWAYS_INLINE  // inlining every check of every lane would take minutes to compile
#else
#define ALWAYS_INLINE __attribute__((always_inline))
#endif
#define INLINE static inline ALWAYS_INLINE

namespace token_terms {
namespace INSTRUCTION_SET {

struct bf16 {
    uint16_t bits;
};
struct fp16 {
    uint16_t bits;
};

INLINE float to_float(float x) { return x; }

INLINE float to_float(bf16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE float to_float(fp16 x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16;
    const uint32_t exponent = (x.bits >> 10) & 31;
    const uint32_t mantissa = x.bits & 1023;
    if (exponent == 0) {
        const float tiny = float(mantissa) * 0x1p-24f;
        return sign ? -tiny : tiny;
    }
    const uint32_t bits =
        sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE void from_float(float value, float* out) { *out = value; }

INLINE void from_float(float value, bf16* out) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    // To nearest, ties to even. NaN keeps its upper half, with the quiet bit set: rounding could
    // make it an infinity.
    out->bits = value != value ? uint16_t(bits >> 16 | 0x40)
                               : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

INLINE void from_float(float value, fp16* out) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000;
    const uint32_t magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude > 0x7f800000) {  // NaN
        half = 0x7e00;
    } else if (magnitude >= 0x477ff000) {  // 65520 and above round to infinity
        half = 0x7c00;
    } else if (magnitude >= 0x38800000) {  // normal: 10 bits of the 23, to nearest, ties to even
        half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
    } else {  // subnormal: adding 0.5 moves the rounded bits to the end
        float size;
        memcpy(&size, &magnitude, 4);
        size += 0.5f;
        memcpy(&half, &size, 4);
        half -= 0x3f000000;
    }
    out->bits = uint16_t(sign | half);
}

// Each of the three files defines:
//   Lanes   sixteen fp32 numbers, with the functions all, load, store, stream (a store that
//           bypasses the caches), + - *, fused (a b + c), fused_minus (c - a b), larger (the second
//           where the first is NaN), nearest (integer, for |x| < 2^22)
//   Mask    of lanes, with not_below (true for NaN), any, where (0 in the other lanes), fused_where
//           (c in the other lanes, whatever b is there)
//   scaled  x 2^n in the lanes of a mask, 0 in the others; n must be an integer in [-126, 127] in
//           the lanes of the mask
//   add_to  adds lanes i and i + 8, one after the other, to sum i of eight sums in double
#if defined(LANES_AVX512)
#include "lanes_avx512.h"
#elif defined(LANES_AVX2)
#include "lanes_avx2.h"
#else
#include "lanes_portable.h"
#endif

// The rounding error of d = a - b, exactly (Knuth's two-sum); NaN where one of them is infinite.
INLINE Lanes lost(Lanes a, Lanes b, Lanes d) {
    const Lanes back = d - a;
    return (a - (d - back)) - (b + back);
}

// A number that is subtracted from logits (their maximum or their log-sum-exp), so that z - from
// keeps all its digits. A number below 256 is kept as `high`, on a grid of 2^-15, and `low`. From
// 256 on, `base` can be subtracted without rounding from every logit whose exponential is not 0.
struct Reference {
    Lanes whole, base, high, low;
    explicit Reference(double from) {
        const bool far = !(from > -256 && from < 256);
        const double near = far ? 0 : double(int64_t(from * 0x1p15)) * 0x1p-15;
        whole = all(float(from));
        base = all(far ? float(from) : 0.0f);
        high = all(float(near));
        low = all(float(from - (far ? double(float(from)) : near)));
    }
};

// e^(z - from) = 2^n e^r with n = nearest((z - from) log2 e), r = ((z - base) - (n LN2_HIGH +
// high)) - (n LN2_LOW + low). n has 7 bits and LN2_HIGH is on the grid of `high`: their sum is
// exact, and the difference is exact too, or is rounded once at the size of r.  e^r = 1 + r + r^2
// Q(r), |r| <= ln 2 / 2. Q minimises the maximum of the relative error, by linear programming over
// 4001 points; one coefficient after the other was rounded to fp32 and the rest fitted again:
// error 3.2e-9, a nineteenth of an fp32 unit. Below 2^LOWEST = e^-86.6 the result is 0.
constexpr float LOG2_E = 0x1.715476p+0f, LN2_HIGH = 0x1.62e4p-1f, LN2_LOW = 0x1.7f7d1cp-20f,
                LOWEST = -125.0f;
constexpr float Q0 = 0x1.fffffcp-2f, Q1 = 0x1.555492p-3f, Q2 = 0x1.5558aap-5f, Q3 = 0x1.12396cp-7f,
                Q4 = 0x1.6a523cp-10f;

struct Reduced {
    Lanes n, high, tail, r, q;
    Mask live;
};

INLINE Reduced reduced(Lanes z, Lanes x, const Reference& from) {
    Reduced e;
    const Lanes y = x * all(LOG2_E);
    e.live = not_below(y, LOWEST);
    e.n = nearest(y);
    e.high = (z - from.base) - fused(e.n, all(LN2_HIGH), from.high);
    e.tail = fused(e.n, all(LN2_LOW), from.low);
    e.r = e.high - e.tail;
    e.q =
        fused(fused(fused(fused(all(Q4), e.r, all(Q3)), e.r, all(Q2)), e.r, all(Q1)), e.r, all(Q0));
    return e;
}

// e^(z - from), given x = z - from.whole; 0 where that is below the bound. `live`: the lanes where
// it is not.
INLINE Lanes exponential(Lanes z, Lanes x, const Reference& from, Mask& live) {
    const Reduced e = reduced(z, x, from);
    live = e.live;
    return scaled(fused(fused(e.q, e.r, all(1)), e.r, all(1)), e.n, live);
}

// e^(z - from) = 2^n (1 + rest) in the lanes of `live`, 0 elsewhere: `rest` keeps digits that fp32
// 1 + rest would lose.
struct Exponential {
    Lanes n, rest;
    Mask live;
};

INLINE Exponential exponential_in_full(Lanes z, const Reference& from) {
    const Reduced e = reduced(z, z - from.whole, from);
    return {e.n, e.high + (e.r * e.r * e.q - e.tail), e.live};
}

}  // namespace INSTRUCTION_SET
}  // namespace token_terms
