// Pairs of bfloat16 as cuda_bf16.h has them, for the emulator.

#pragma once

#include "cuda_runtime.h"

struct __nv_bfloat162 {
    std::uint16_t x, y;
};

namespace emulated {

inline float from_bf16(std::uint16_t bits) {
    const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

inline std::uint16_t to_bf16(float value) {
    std::uint32_t word;
    memcpy(&word, &value, sizeof word);
    if (isnan(value)) return 0x7FFF;
    return static_cast<std::uint16_t>((word + 0x7FFF + ((word >> 16) & 1)) >> 16);
}

// One of two numbers; NaN only if both are, as the hardware has it.
template <class Bits, class To>
Bits one_of(Bits a, Bits b, To to, bool larger) {
    if (isnan(to(a))) return b;
    if (isnan(to(b))) return a;
    return (to(a) < to(b)) == larger ? b : a;
}

}  // namespace emulated

inline __nv_bfloat162 __hmax2(__nv_bfloat162 a, __nv_bfloat162 b) {
    return {emulated::one_of(a.x, b.x, emulated::from_bf16, true), emulated::one_of(a.y, b.y, emulated::from_bf16, true)};
}

inline __nv_bfloat162 __hmin2(__nv_bfloat162 a, __nv_bfloat162 b) {
    return {emulated::one_of(a.x, b.x, emulated::from_bf16, false), emulated::one_of(a.y, b.y, emulated::from_bf16, false)};
}

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {emulated::to_bf16(x), emulated::to_bf16(y)}; }
