// The gradient of the terms with respect to the student's logits: one block for a tile of a row.
// Terms whose upstream gradient is 0 are skipped; all threads of a tile take the same branch.

#pragma once

#include "token_terms_vectors.cuh"

namespace token_terms {

constexpr int TILE_THREADS = 256;
constexpr int TILE_VECTORS = 4;  // of one thread
constexpr int TILE_STEP = 2;     // of them at once
// Blocks that must fit on a multiprocessor at the same time, which limits their registers.
constexpr int TILE_BLOCKS = 4;

struct Backward {
    Problem problem;
    const float* table;
    const float* upstream;
    void* gradient;
    std::int64_t first_row;  // of this launch
    unsigned tiles;          // of one row
};

// dz = p (alpha + b ((z - top) - (t - there)) - h (z - top)) - a q - c onehot(label), with the
// means -b gap + h drop in alpha: terms that cancel when one probability of the student is almost 1
// are computed together. rest = alpha - c, for the label's column.
struct Factors {
    float lse, lse_low, teacher_lse, teacher_lse_low;
    float top, there, alpha, rest, a, b, c, h;
    bool all_zero;
};

__device__ __forceinline__ Factors factors_of(const Backward& backward, const TokenRow& row) {
    const std::int64_t n = backward.problem.n;
    const float* table = backward.table + row.index;
    const float* upstream = backward.upstream + row.index;
    Factors f = {};
    if (row.skipped) {
        f.all_zero = true;
        return f;
    }
    const float l = upstream[LSE * n];
    f.h = upstream[ENTROPY * n];
    f.c = backward.problem.labels[row.index] == backward.problem.ignore_index ? 0.f
                                                                              : upstream[NLL * n];
    if (row.teacher) {
        f.a = upstream[KL_TEACHER_STUDENT * n];
        f.b = upstream[KL_STUDENT_TEACHER * n];
        f.teacher_lse = table[TEACHER_LSE * n];
        f.teacher_lse_low = table[TEACHER_LSE_LOW * n];
    }
    f.lse = table[LSE * n];
    f.lse_low = table[LSE_LOW * n];
    f.top = table[TOP * n];
    f.rest = f.a + l;
    // A factor of 0 removes its term, because a gap may be infinite. If a row of the teacher has a
    // NaN, its divergence is NaN.
    if (f.b != 0) {
        const float kl = table[KL_STUDENT_TEACHER * n];
        f.there = table[TEACHER_AT_TOP * n];
        f.rest = fmaf(-f.b, table[GAP * n], fmaf(-f.b, table[GAP_LOW * n], f.rest));
        if (kl != kl) f.rest = kl;
    }
    if (f.h != 0) f.rest = fmaf(f.h, table[DROP * n], fmaf(f.h, table[DROP_LOW * n], f.rest));
    f.alpha = f.c + f.rest;
    f.all_zero = f.c == 0 && f.a == 0 && f.b == 0 && f.h == 0 && l == 0;
    return f;
}

// fp32 uses the exact exponential, because its gradient would show the error of exp2_fast; rounding
// to 16 bits removes it.
template <Type type>
__device__ __forceinline__ float probability(float log_p) {
    return log_p < SMALLEST_LOG ? 0.f : type == FLOAT32 ? exp_full(log_p) : exp_fast(log_p);
}

__device__ __forceinline__ double probability_in_full(double log_p) {
    return log_p < SMALLEST_LOG ? 0 : exp(log_p);
}

// Stores the gradient of the label's column, computed in double: if p is almost 1, p - 1 computed
// from a rounded p has no correct digits. Not inlined: the double exponentials would increase the
// number of registers of the tiles.
template <Type type>
__device__ __noinline__ void store_at_label(const Backward& backward, std::int64_t index,
                                            std::int64_t label) {
    const TokenRow row = row_at<type>(backward.problem, index);
    const Factors f = factors_of(backward, row);
    const double z = value<type>(row.student, label);
    const double t = f.a != 0 || f.b != 0 ? value<type>(row.teacher, label) : 0.f;
    const double p = probability_in_full((z - f.lse) - f.lse_low);
    const double x = z - f.top;
    double dz = f.c * (p - 1);
    double factor = f.rest;
    if (f.h != 0) factor -= f.h * x;
    if (f.b != 0) factor += f.b * (x - (t - f.there));
    if (p != 0) dz += p * factor;
    if (f.a != 0) dz -= f.a * probability_in_full((t - f.teacher_lse) - f.teacher_lse_low);
    using Bits = typename Format<type>::Bits;
    const float pair[2] = {static_cast<float>(dz), 0};
    Bits* out = static_cast<Bits*>(backward.gradient) + index * backward.problem.vocabulary;
    out[label] = static_cast<Bits>(Format<type>::pack(pair));
}

template <Type type, bool A, bool B, bool H>
__device__ __forceinline__ void gradient_of(unsigned* out, const unsigned* student,
                                            const unsigned* teacher, const Factors& f) {
    constexpr int PER_WORD = Format<type>::PER_WORD;
#pragma unroll
    for (int i = 0; i < WORDS; ++i) {
        float z[2], t[2], dz[2];
        Format<type>::unpack(student[i], z);
        if (A || B) Format<type>::unpack(teacher[i], t);
#pragma unroll
        for (int j = 0; j < PER_WORD; ++j) {
            const float log_p = (z[j] - f.lse) - f.lse_low;
            const float p = probability<type>(log_p);
            const float x = z[j] - f.top;
            float factor = f.alpha;
            if (H) factor = fmaf(-f.h, x, factor);
            if (B) factor = fmaf(f.b, x - (t[j] - f.there), factor);
            dz[j] = p * factor;
            if ((H || B) && p == 0) dz[j] = 0;  // not 0 * -inf
            if (A)
                dz[j] = fmaf(-f.a, probability<type>((t[j] - f.teacher_lse) - f.teacher_lse_low),
                             dz[j]);
        }
        out[i] = Format<type>::pack(dz);
    }
}

// The gradient of this thread's vectors of a tile, from vector `v` on.
template <Type type, bool ALIGNED, bool A, bool B, bool H>
__device__ __forceinline__ void tile(const TokenRow& row, const Factors& f, void* out,
                                     std::int64_t v, std::int64_t vocabulary) {
    const std::int64_t vectors = (vocabulary + LOGITS<type> - 1) / LOGITS<type>;
    constexpr int STEP = ALIGNED ? TILE_STEP : 1;
#pragma unroll 1
    for (int step = 0; step < TILE_VECTORS && v < vectors; step += STEP, v += STEP * TILE_THREADS) {
        unsigned student[STEP][WORDS], teacher[STEP][WORDS], words[WORDS];
#pragma unroll
        for (int k = 0; k < STEP; ++k) {
            const std::int64_t own = v + k * TILE_THREADS;
            // No branch between the loads, so that all are in flight at the same time.
            const std::int64_t safe = own < vectors ? own : v;
            load<type, ALIGNED, true>(student[k], row.student, safe, vocabulary);
            if (A || B) load<type, ALIGNED, true>(teacher[k], row.teacher, safe, vocabulary);
        }
#pragma unroll
        for (int k = 0; k < STEP; ++k) {
            gradient_of<type, A, B, H>(words, student[k], teacher[k], f);
            if (v + k * TILE_THREADS < vectors)
                store<type, ALIGNED>(out, v + k * TILE_THREADS, vocabulary, words);
        }
    }
}

template <Type type, bool ALIGNED>
__device__ __forceinline__ void fill(float with, void* out, std::int64_t v,
                                     std::int64_t vocabulary) {
    const float pair[2] = {with, with};
    const unsigned word = Format<type>::pack(pair), words[WORDS] = {word, word, word, word};
#pragma unroll 1
    for (int k = 0; k < TILE_VECTORS && v * LOGITS<type> < vocabulary; ++k, v += TILE_THREADS)
        store<type, ALIGNED>(out, v, vocabulary, words);
}

// The gradient of this thread's vectors of a tile, from vector `v` on.
template <Type type, bool TEACHER, bool ALIGNED>
__device__ __forceinline__ void tile_gradient(const Backward& backward, const TokenRow& row,
                                              const Factors& f, std::int64_t v) {
    const Problem& problem = backward.problem;
    const std::int64_t vocabulary = problem.vocabulary;
    using Bits = typename Format<type>::Bits;
    Bits* out = static_cast<Bits*>(backward.gradient) + row.index * vocabulary;
    if (f.all_zero) return fill<type, ALIGNED>(0.f, out, v, vocabulary);
    if (f.c != 0 && !in_vocabulary(problem, problem.labels[row.index]))
        return fill<type, ALIGNED>(NAN, out, v, vocabulary);
    // With b, the term of h is always computed: another tile function would need too many
    // registers.
    const bool h = f.h != 0;
    if (TEACHER && f.b != 0) {
        if (f.a != 0) {
            tile<type, ALIGNED, true, true, true>(row, f, out, v, vocabulary);
        } else {
            tile<type, ALIGNED, false, true, true>(row, f, out, v, vocabulary);
        }
    } else if (TEACHER && f.a != 0) {
        if (h) {
            tile<type, ALIGNED, true, false, true>(row, f, out, v, vocabulary);
        } else {
            tile<type, ALIGNED, true, false, false>(row, f, out, v, vocabulary);
        }
    } else {
        if (h) {
            tile<type, ALIGNED, false, false, true>(row, f, out, v, vocabulary);
        } else {
            tile<type, ALIGNED, false, false, false>(row, f, out, v, vocabulary);
        }
    }
    if (f.c == 0) return;
    // The thread that stored the label's vector stores the label's column again: two stores of one
    // thread keep their order.
    const std::int64_t label = problem.labels[row.index];
    const std::int64_t from_own = label / LOGITS<type> - v;
    if (from_own >= 0 && from_own < TILE_THREADS * TILE_VECTORS && from_own % TILE_THREADS == 0)
        store_at_label<type>(backward, row.index, label);
}

template <Type type, bool TEACHER, bool ALIGNED>
__global__ void __launch_bounds__(TILE_THREADS, ALIGNED ? TILE_BLOCKS : 2)
    row_gradients(const __grid_constant__ Backward backward) {
    const TokenRow row =
        row_at<type>(backward.problem, backward.first_row + blockIdx.x / backward.tiles);
    const std::int64_t first =
        static_cast<std::int64_t>(blockIdx.x % backward.tiles) * (TILE_THREADS * TILE_VECTORS);
    const Factors f = factors_of(backward, row);
    tile_gradient<type, TEACHER, ALIGNED>(backward, row, f, first + threadIdx.x);
}

}  // namespace token_terms
