// Sixteen bytes of logits at a time on a GPU: loads, stores, conversions, maximum and minimum of
// packed pairs, exponentials.
//
// A vector is 4 words of 32 bits: 8 logits of a 16-bit type or 4 of fp32. The variant for rows that
// are not on a 16-byte boundary gives the same words to the same threads, so that alignment cannot
// change a bit of a result.

#pragma once

#include "token_terms.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>

namespace token_terms {

constexpr int WORDS = 4;
constexpr float LOG2_E = 1.44269504f;
// A probability below e^this is 0 (token_terms.h allows it). The bound is above fp32's subnormals.
constexpr float SMALLEST_LOG = -86.9f;

// A logit that adds 0 to every sum, used behind the end of a row. Not -inf: 0 * inf would be NaN.
constexpr float PADDING = -0x1p99f;

template <class To, class From>
__device__ __forceinline__ To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "a change of type, not of size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

template <Type type>
struct Format;

template <>
struct Format<FLOAT32> {
    using Bits = unsigned int;
    static constexpr int PER_WORD = 1;
    static constexpr unsigned PADDING_WORD = 0xF1000000u;  // -2^99
    // If a row's largest logit is lower, the padding would change its sums.
    static constexpr float LOWEST_MAX = 0.5f * PADDING;
    static __device__ __forceinline__ void unpack(unsigned word, float* z) {
        z[0] = bits_as<float>(word);
    }
    static __device__ __forceinline__ unsigned pack(const float* z) {
        return bits_as<unsigned>(z[0]);
    }
    static __device__ __forceinline__ unsigned larger(unsigned a, unsigned b) {
        return bits_as<unsigned>(fmaxf(bits_as<float>(a), bits_as<float>(b)));
    }
    static __device__ __forceinline__ unsigned smaller(unsigned a, unsigned b) {
        return bits_as<unsigned>(fminf(bits_as<float>(a), bits_as<float>(b)));
    }
};

// __hmax2 and __hmin2 are one instruction from sm_80 on. On older GPUs the toolkit's headers need
// 25 instructions for a pair of bfloat16, because they treat NaN; the code below needs 7, and NaN
// need not be treated.
template <>
struct Format<BFLOAT16> {
    using Bits = unsigned short;
    static constexpr int PER_WORD = 2;
    static constexpr unsigned PADDING_WORD = 0xF100F100u;
    static constexpr float LOWEST_MAX = 0.5f * PADDING;
    static __device__ __forceinline__ void unpack(unsigned word, float* z) {
        z[0] = bits_as<float>(word << 16);
        z[1] = bits_as<float>(word & 0xFFFF0000u);
    }
    static __device__ __forceinline__ unsigned pack(const float* z) {
        return bits_as<unsigned>(__floats2bfloat162_rn(z[0], z[1]));
    }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    static __device__ __forceinline__ unsigned larger(unsigned a, unsigned b) {
        const float low = fmaxf(bits_as<float>(a << 16), bits_as<float>(b << 16));
        const float high = fmaxf(bits_as<float>(a & 0xFFFF0000u), bits_as<float>(b & 0xFFFF0000u));
        return (bits_as<unsigned>(high) & 0xFFFF0000u) | bits_as<unsigned>(low) >> 16;
    }
    static __device__ __forceinline__ unsigned smaller(unsigned a, unsigned b) {
        const float low = fminf(bits_as<float>(a << 16), bits_as<float>(b << 16));
        const float high = fminf(bits_as<float>(a & 0xFFFF0000u), bits_as<float>(b & 0xFFFF0000u));
        return (bits_as<unsigned>(high) & 0xFFFF0000u) | bits_as<unsigned>(low) >> 16;
    }
#else
    static __device__ __forceinline__ unsigned larger(unsigned a, unsigned b) {
        return bits_as<unsigned>(__hmax2(bits_as<__nv_bfloat162>(a), bits_as<__nv_bfloat162>(b)));
    }
    static __device__ __forceinline__ unsigned smaller(unsigned a, unsigned b) {
        return bits_as<unsigned>(__hmin2(bits_as<__nv_bfloat162>(a), bits_as<__nv_bfloat162>(b)));
    }
#endif
};

template <>
struct Format<FLOAT16> {
    using Bits = unsigned short;
    static constexpr int PER_WORD = 2;
    static constexpr unsigned PADDING_WORD = 0xFBFFFBFFu;  // -65504, the lowest there is
    static constexpr float LOWEST_MAX = -65000.f;          // e^(-65504 + 65000) is 0
    static __device__ __forceinline__ void unpack(unsigned word, float* z) {
        const float2 pair = __half22float2(bits_as<__half2>(word));
        z[0] = pair.x;
        z[1] = pair.y;
    }
    static __device__ __forceinline__ unsigned pack(const float* z) {
        return bits_as<unsigned>(__floats2half2_rn(z[0], z[1]));
    }
    static __device__ __forceinline__ unsigned larger(unsigned a, unsigned b) {
        return bits_as<unsigned>(__hmax2(bits_as<__half2>(a), bits_as<__half2>(b)));
    }
    static __device__ __forceinline__ unsigned smaller(unsigned a, unsigned b) {
        return bits_as<unsigned>(__hmin2(bits_as<__half2>(a), bits_as<__half2>(b)));
    }
};

template <Type type>
constexpr int LOGITS = WORDS * Format<type>::PER_WORD;  // logits of one vector

template <Type type>
__device__ __forceinline__ float value(const void* row, std::int64_t column) {
    using Bits = typename Format<type>::Bits;
    float z[2];
    Format<type>::unpack(__ldg(static_cast<const Bits*>(row) + column), z);
    return z[0];
}

template <Type type>
__device__ __forceinline__ const void* row_of(const void* logits, std::int64_t row,
                                              std::int64_t stride) {
    return static_cast<const typename Format<type>::Bits*>(logits) + row * stride;
}

template <Type type>
__device__ __forceinline__ int logits_of_vector(std::int64_t v, std::int64_t vocabulary) {
    const std::int64_t left = vocabulary - v * LOGITS<type>;
    // 0 or negative behind the row's end.
    return static_cast<int>(left < LOGITS<type> ? left : LOGITS<type>);
}

// Vector `v` of a row that has `vocabulary` logits, loaded one at a time, padded behind the end.
// Not inlined: its many small loads would increase the number of registers of the loops that call
// it.
template <Type type>
__device__ __noinline__ uint4 load_by_logit(const void* row, std::int64_t v,
                                            std::int64_t vocabulary) {
    using Bits = typename Format<type>::Bits;
    constexpr int PER_WORD = Format<type>::PER_WORD;
    const Bits* logits = static_cast<const Bits*>(row) + v * LOGITS<type>;
    const int present = logits_of_vector<type>(v, vocabulary);
    unsigned words[WORDS] = {};
#pragma unroll
    for (int k = 0; k < LOGITS<type>; ++k) {
        const Bits bits =
            k < present ? __ldg(logits + k) : static_cast<Bits>(Format<type>::PADDING_WORD);
        words[k / PER_WORD] |= static_cast<unsigned>(bits) << (16 * (k % PER_WORD));
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

template <Type type>
__device__ __noinline__ void store_by_logit(void* row, std::int64_t v, std::int64_t vocabulary,
                                            uint4 vector) {
    using Bits = typename Format<type>::Bits;
    constexpr int PER_WORD = Format<type>::PER_WORD;
    Bits* logits = static_cast<Bits*>(row) + v * LOGITS<type>;
    const int present = logits_of_vector<type>(v, vocabulary);
    const unsigned words[WORDS] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
    for (int k = 0; k < LOGITS<type>; ++k)
        if (k < present)
            logits[k] = static_cast<Bits>(words[k / PER_WORD] >> (16 * (k % PER_WORD)));
}

// LAST: these logits are not read again soon, so the caches need not keep them.
template <Type type, bool ALIGNED, bool LAST>
__device__ __forceinline__ void load(unsigned* words, const void* row, std::int64_t v,
                                     std::int64_t vocabulary) {
    const uint4* whole = static_cast<const uint4*>(row) + v;
    const uint4 vector = !ALIGNED ? load_by_logit<type>(row, v, vocabulary)
                         : LAST   ? __ldcs(whole)
                                  : __ldg(whole);
    words[0] = vector.x;
    words[1] = vector.y;
    words[2] = vector.z;
    words[3] = vector.w;
}

template <Type type, bool ALIGNED>
__device__ __forceinline__ void store(void* row, std::int64_t v, std::int64_t vocabulary,
                                      const unsigned* words) {
    const uint4 vector = make_uint4(words[0], words[1], words[2], words[3]);
    if (ALIGNED) {
        static_cast<uint4*>(row)[v] = vector;
    } else {
        store_by_logit<type>(row, v, vocabulary, vector);
    }
}

// One row of a problem; `skipped`: it must not be read.
struct TokenRow {
    std::int64_t index;
    const void* student;
    const void* teacher;
    bool skipped;
};

template <Type type>
__device__ __forceinline__ TokenRow row_at(const Problem& problem, std::int64_t index) {
    TokenRow row;
    row.index = index;
    row.student = row_of<type>(problem.student, index, problem.student_stride);
    row.teacher =
        problem.teacher ? row_of<type>(problem.teacher, index, problem.teacher_stride) : nullptr;
    row.skipped = problem.skip_ignored && problem.labels[index] == problem.ignore_index;
    return row;
}

__device__ __forceinline__ bool in_vocabulary(const Problem& problem, std::int64_t label) {
    return label >= 0 && label < problem.vocabulary;
}

// 2^x to 2 units in the last place, exact at 0; results below 2^-126 are 0.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return emulated_ex2(x);
#endif
}

__device__ __forceinline__ float exp_fast(float x) { return exp2_fast(x * LOG2_E); }

// e^x to one unit in the last place, for x from SMALLEST_LOG to 1; NaN for NaN. fp32 gradients
// would show the error of 2 units of exp2_fast. The dozen instructions take no time in fp32: they
// run while the bytes of the logits are moved.
__device__ __forceinline__ float exp_full(float x) {
    // The integer nearest x log2(e), in the low bits of the mantissa.
    const float shifted = fmaf(x, LOG2_E, 0x1.8p23f);
    const float n = shifted - 0x1.8p23f;
    float r = fmaf(n, -0.693359375f, x);
    r = fmaf(n, 2.12194440e-4f, r);
    float y = 1.9875691500e-4f;
    y = fmaf(y, r, 1.3981999507e-3f);
    y = fmaf(y, r, 8.3334519073e-3f);
    y = fmaf(y, r, 4.1665795894e-2f);
    y = fmaf(y, r, 1.6666665459e-1f);
    y = fmaf(y, r, 5.0000001201e-1f);
    y = fmaf(y, r * r, r) + 1.f;
    // A factor, not an addition to the exponent: the sum of NaN's bits and an exponent may be a
    // number.
    return y * bits_as<float>((bits_as<unsigned>(shifted) << 23) + 0x3F800000u);
}

}  // namespace token_terms
