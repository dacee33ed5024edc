// Sixteen fp32 numbers at a time, in the registers of the instruction set this file is compiled for. Column j of a row is
// always in lane j % 16 and every operation is defined bit for bit, so AVX2 and AVX-512 give the same sums. The portable
// version is plain loops; without fused multiply-add in hardware it multiplies and adds, and its last bits differ.
//
// Everything here is static or in the instruction set's own namespace: two copies of one inline function compiled for
// different processors would be merged by the linker, and the older processor would run the newer one's code.

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
#endif

namespace token_terms {
namespace INSTRUCTION_SET {

struct bf16 { uint16_t bits; };
struct fp16 { uint16_t bits; };

// e^x = 2^n 2^f with n = floor(x log2 e), 2^f = 1 + f (C1 + f (C2 + ...)), fitted on [0, 1] with the rounded coefficients:
// within 6.1e-8 of 2^f, half a unit in the last place. Below 2^LOWEST = e^-86.6 the result is exactly 0.
constexpr float LOG2_E = 0x1.715476p+0f, LOWEST = -125.0f;
constexpr float C1 = 0x1.62e42cp-1f, C2 = 0x1.ebfd3ap-3f, C3 = 0x1.c68af6p-5f, C4 = 0x1.3cfd82p-7f, C5 = 0x1.47373ap-10f,
                C6 = 0x1.c4456ep-13f;

static inline float to_float(float x) { return x; }

static inline float to_float(bf16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline float to_float(fp16 x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, exponent = (x.bits >> 10) & 31, mantissa = x.bits & 1023;
    if (exponent == 0) {
        const float tiny = float(mantissa) * 0x1p-24f;
        return sign ? -tiny : tiny;
    }
    const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline void from_float(float value, float* out) { *out = value; }

static inline void from_float(float value, bf16* out) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    // To nearest, ties to even; NaN keeps its upper half with the quiet bit, or rounding could turn it into an infinity.
    out->bits = value != value ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline void from_float(float value, fp16* out) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude > 0x7f800000) half = 0x7e00;
    else if (magnitude >= 0x477ff000) half = 0x7c00;              // 65520 and above round to infinity
    else if (magnitude >= 0x38800000)                             // normal: 10 bits of the 23, to nearest, ties to even
        half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
    else {                                                        // subnormal: adding 0.5 leaves the rounded bits at the end
        float size;
        memcpy(&size, &magnitude, 4);
        size += 0.5f;
        memcpy(&half, &size, 4);
        half -= 0x3f000000;
    }
    out->bits = uint16_t(sign | half);
}

#if defined(LANES_AVX512)

struct Lanes { __m512 v; };
struct Mask { __mmask16 m; };

static inline Lanes all(float x) { return {_mm512_set1_ps(x)}; }
static inline Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline Lanes load(const bf16* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
static inline Lanes load(const fp16* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
static inline __m256i packed(Lanes x, const bf16*) {
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
    const __m512i chosen = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16));
}
static inline __m256i packed(Lanes x, const fp16*) { return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline void store(Lanes x, float* p) { _mm512_storeu_ps(p, x.v); }
static inline void stream(Lanes x, float* p) { _mm512_stream_ps(p, x.v); }
template <class T> static inline void store(Lanes x, T* p) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed(x, p)); }
template <class T> static inline void stream(Lanes x, T* p) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), packed(x, p)); }
static inline Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Lanes fused(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }           // a b + c
static inline Lanes fused_minus(Lanes a, Lanes b, Lanes c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }    // c - a b
static inline Lanes larger(Lanes x, Lanes top) { return {_mm512_max_ps(x.v, top.v)}; }                      // top where x is NaN
static inline Lanes where(Mask m, Lanes x) { return {_mm512_maskz_mov_ps(m.m, x.v)}; }                      // 0 elsewhere
// sum +- a b in the lanes of m; the others keep sum, whatever b holds there.
static inline Lanes add_product(Lanes sum, Lanes a, Lanes b, Mask m) { return {_mm512_mask3_fmadd_ps(a.v, b.v, sum.v, m.m)}; }
static inline Lanes subtract_product(Lanes sum, Lanes a, Lanes b, Mask m) {
    return {_mm512_mask3_fnmadd_ps(a.v, b.v, sum.v, m.m)};
}
// e^x; `live` where it is not below the bound or NaN.
static inline Lanes exponential(Lanes x, Mask& live) {
    const __m512 y = _mm512_mul_ps(x.v, _mm512_set1_ps(LOG2_E));
    live.m = _mm512_cmp_ps_mask(y, _mm512_set1_ps(LOWEST), _CMP_NLT_UQ);
    // _mm512_reduce_ps would be one instruction for both, but rounds the difference downwards too, unlike AVX2's subtraction.
    const __m512 f = _mm512_sub_ps(y, _mm512_roundscale_ps(y, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(C6), f, _mm512_set1_ps(C5));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(C4));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(C3));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(C2));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(C1));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return {_mm512_maskz_scalef_ps(live.m, p, y)};  // p 2^floor(y)
}

#elif defined(LANES_AVX2)

struct Lanes { __m256 a, b; };
struct Mask { __m256 a, b; };

static inline Lanes all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline __m256 widened(__m128i half, const bf16*) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
static inline __m256 widened(__m128i half, const fp16*) { return _mm256_cvtph_ps(half); }
static inline Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
template <class T> static inline Lanes load(const T* p) {
    return {widened(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), p),
            widened(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)), p)};
}
static inline __m128i packed(__m256 x, const bf16*) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i chosen = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}
static inline __m128i packed(__m256 x, const fp16*) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline void store(Lanes x, float* p) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
static inline void stream(Lanes x, float* p) { _mm256_stream_ps(p, x.a), _mm256_stream_ps(p + 8, x.b); }
template <class T> static inline void store(Lanes x, T* p) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed(x.a, p));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), packed(x.b, p));
}
template <class T> static inline void stream(Lanes x, T* p) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), packed(x.a, p));
    _mm_stream_si128(reinterpret_cast<__m128i*>(p + 8), packed(x.b, p));
}
static inline Lanes operator+(Lanes x, Lanes y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline Lanes operator-(Lanes x, Lanes y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline Lanes operator*(Lanes x, Lanes y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline Lanes fused(Lanes x, Lanes y, Lanes z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
static inline Lanes fused_minus(Lanes x, Lanes y, Lanes z) {
    return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
static inline Lanes larger(Lanes x, Lanes top) { return {_mm256_max_ps(x.a, top.a), _mm256_max_ps(x.b, top.b)}; }
static inline Lanes where(Mask m, Lanes x) { return {_mm256_and_ps(m.a, x.a), _mm256_and_ps(m.b, x.b)}; }
static inline Lanes add_product(Lanes sum, Lanes x, Lanes y, Mask m) { return fused(x, where(m, y), sum); }  // x is 0 outside m
static inline Lanes subtract_product(Lanes sum, Lanes x, Lanes y, Mask m) { return fused_minus(x, where(m, y), sum); }
static inline __m256 exponential(__m256 x, __m256& live) {
    const __m256 y = _mm256_mul_ps(x, _mm256_set1_ps(LOG2_E));
    live = _mm256_cmp_ps(y, _mm256_set1_ps(LOWEST), _CMP_NLT_UQ);
    const __m256 n = _mm256_floor_ps(y), f = _mm256_sub_ps(y, n);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(C6), f, _mm256_set1_ps(C5));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(C4));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(C3));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(C2));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(C1));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
    // p is in [1, 2], or NaN: multiplied by 2^n (n in [-125, 127] where live), so NaN stays one.
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_and_ps(live, _mm256_mul_ps(p, _mm256_castsi256_ps(power)));
}
static inline Lanes exponential(Lanes x, Mask& live) { return {exponential(x.a, live.a), exponential(x.b, live.b)}; }

#else

struct Lanes { float v[16]; };
struct Mask { bool m[16]; };

#define EACH_LANE for (int i = 0; i < 16; ++i)
static inline Lanes all(float x) { Lanes r; EACH_LANE r.v[i] = x; return r; }
template <class T> static inline Lanes load(const T* p) { Lanes r; EACH_LANE r.v[i] = to_float(p[i]); return r; }
template <class T> static inline void store(const Lanes& x, T* p) { EACH_LANE from_float(x.v[i], p + i); }
template <class T> static inline void stream(const Lanes& x, T* p) { store(x, p); }
static inline Lanes operator+(const Lanes& a, const Lanes& b) { Lanes r; EACH_LANE r.v[i] = a.v[i] + b.v[i]; return r; }
static inline Lanes operator-(const Lanes& a, const Lanes& b) { Lanes r; EACH_LANE r.v[i] = a.v[i] - b.v[i]; return r; }
static inline Lanes operator*(const Lanes& a, const Lanes& b) { Lanes r; EACH_LANE r.v[i] = a.v[i] * b.v[i]; return r; }
static inline Lanes fused(const Lanes& a, const Lanes& b, const Lanes& c) { return a * b + c; }
static inline Lanes fused_minus(const Lanes& a, const Lanes& b, const Lanes& c) { return c - a * b; }
static inline Lanes larger(const Lanes& x, const Lanes& top) {
    Lanes r; EACH_LANE r.v[i] = x.v[i] > top.v[i] ? x.v[i] : top.v[i]; return r;
}
static inline Lanes where(const Mask& m, const Lanes& x) { Lanes r; EACH_LANE r.v[i] = m.m[i] ? x.v[i] : 0.0f; return r; }
static inline Lanes add_product(const Lanes& sum, const Lanes& a, const Lanes& b, const Mask& m) { return sum + a * where(m, b); }
static inline Lanes subtract_product(const Lanes& sum, const Lanes& a, const Lanes& b, const Mask& m) {
    return sum - a * where(m, b);
}
static inline Lanes exponential(const Lanes& x, Mask& live) {
    Lanes r;
    EACH_LANE {
        const float y = x.v[i] * LOG2_E;
        const float bounded = y > LOWEST ? (y < 127.0f ? y : 127.0f) : LOWEST;  // an int of NaN or infinity is undefined
        int32_t n = int32_t(bounded);
        n -= float(n) > bounded;
        const float f = bounded - float(n);
        const float p = 1.0f + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))));
        const uint32_t bits = uint32_t(n + 127) << 23;
        float power;
        memcpy(&power, &bits, 4);
        live.m[i] = !(y < LOWEST);
        r.v[i] = y != y ? y : (live.m[i] ? p * power : 0.0f);
    }
    return r;
}
#undef EACH_LANE

#endif

}  // namespace INSTRUCTION_SET
}  // namespace token_terms
