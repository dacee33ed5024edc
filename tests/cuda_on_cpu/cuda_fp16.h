// Pairs of half precision numbers as cuda_fp16.h has them, for the emulator.

#pragma once

#include "cuda_bf16.h"

struct __half2 {
    std::uint16_t x, y;
};

namespace emulated {

inline float from_half(std::uint16_t bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float value = exponent == 31 ? (mantissa ? NAN : INFINITY)
                                 : exponent ? ldexpf(static_cast<float>(1024 + mantissa), exponent - 25)
                                            : ldexpf(static_cast<float>(mantissa), -24);
    return bits >> 15 ? -value : value;
}

inline std::uint16_t to_half(float value) {
    const std::uint16_t sign = signbit(value) ? 0x8000 : 0;
    const double size = fabs(static_cast<double>(value));
    if (isnan(value)) return 0x7FFF;
    if (size >= 65520) return sign | 0x7C00;
    int exponent;
    frexp(size, &exponent);
    const int step = size < 0x1p-14 ? -24 : exponent - 11;  // of the last place; exact, and nearbyint rounds to even
    const double places = nearbyint(ldexp(size, -step));
    if (size < 0x1p-14) return sign | static_cast<std::uint16_t>(places);
    return static_cast<std::uint16_t>(sign + ((step + 24) << 10) + static_cast<int>(places));
}

}  // namespace emulated

inline __half2 __hmax2(__half2 a, __half2 b) {
    return {emulated::one_of(a.x, b.x, emulated::from_half, true), emulated::one_of(a.y, b.y, emulated::from_half, true)};
}

inline __half2 __hmin2(__half2 a, __half2 b) {
    return {emulated::one_of(a.x, b.x, emulated::from_half, false), emulated::one_of(a.y, b.y, emulated::from_half, false)};
}

inline __half2 __floats2half2_rn(float x, float y) { return {emulated::to_half(x), emulated::to_half(y)}; }
inline float2 __half22float2(__half2 pair) { return {emulated::from_half(pair.x), emulated::from_half(pair.y)}; }
