// The sums over one row of logits from which every term is computed, relative to the largest logit
// so far.
//
// With x = z - student_max and u = t - teacher_max of the student's logits z and the teacher's t:
//     student_sum = sum e^x             teacher_sum = sum e^u
//     teacher_student = sum e^u (u - x) student_teacher = sum e^x (x - u)
//     student_self = sum e^x x          teacher_self = sum e^u u
// In the sums of a whole row, student_teacher is sum e^x (x - (t - there)). `there` is teacher_max
// or, if one probability of the student is above 1/2, the teacher's logit at the student's largest,
// which then adds exactly 0: the gradient is computed from the small numbers that the other columns
// add. Because sums are relative to both maxima, an offset common to all logits of a row has no
// effect. First max is subtracted from z, then the difference is multiplied by log2(e). One fused
// multiply-add would save an instruction, but the largest logit would become 2^(rounding) instead
// of 1: nll could be below 0, and the gradient of a label with p near 1 would have no correct
// digits.

#pragma once

#include "token_terms_vectors.cuh"

namespace token_terms {

constexpr int THREADS = 512;
constexpr int WARP = 32;
constexpr int WARPS = THREADS / WARP;
constexpr unsigned WHOLE_WARP = 0xFFFFFFFFu;
constexpr int N_SUMS = 6;
constexpr double SURE = 2;  // if student_sum is below this, the largest probability is above 1/2

template <class Float>
struct Sums {
    float student_max, teacher_max;
    Float student_sum, teacher_sum, teacher_student, student_teacher, student_self, teacher_self;
    float there;
};

// The sums of no logits. The maxima are finite, so that no difference of two maxima is NaN.
template <class Float>
__device__ __forceinline__ Sums<Float> no_sums() {
    return {PADDING, PADDING, 0, 0, 0, 0, 0, 0, 0};
}

// The same sums relative to other maxima, which are at least as large as the present ones.
template <bool TEACHER, bool ENTROPY, class Float>
__device__ __forceinline__ void rebase(Sums<Float>& sums, float student_max, float teacher_max) {
    const Float student_rise = static_cast<Float>(student_max) - sums.student_max;
    const Float student_factor = exp_fast(-static_cast<float>(student_rise));
    if (ENTROPY)
        sums.student_self =
            fma(-student_rise, sums.student_sum, sums.student_self) * student_factor;
    if (TEACHER) {
        const Float teacher_rise = static_cast<Float>(teacher_max) - sums.teacher_max;
        const Float teacher_factor = exp_fast(-static_cast<float>(teacher_rise));
        const Float gap = student_rise - teacher_rise;
        sums.teacher_student = fma(gap, sums.teacher_sum, sums.teacher_student) * teacher_factor;
        sums.student_teacher = fma(-gap, sums.student_sum, sums.student_teacher) * student_factor;
        if (ENTROPY)
            sums.teacher_self =
                fma(-teacher_rise, sums.teacher_sum, sums.teacher_self) * teacher_factor;
        sums.teacher_sum *= teacher_factor;
        sums.teacher_max = teacher_max;
    }
    sums.student_sum *= student_factor;
    sums.student_max = student_max;
}

// The largest logit of some words, or `least` if that is larger. NaN is ignored here: it makes
// every sum NaN.
template <Type type, int N>
__device__ __forceinline__ float largest_of(const unsigned (&words)[N], float least) {
    unsigned largest = words[0];
#pragma unroll
    for (int i = 1; i < N; ++i) largest = Format<type>::larger(largest, words[i]);
    float z[2];
    Format<type>::unpack(largest, z);
    least = fmaxf(least, z[0]);
    return Format<type>::PER_WORD == 2 ? fmaxf(least, z[1]) : least;
}

// Adds logits of both rows. -inf gives the right sums in a student alone, without entropy; in all
// other cases `smallest` must show that there was one.
template <Type type, bool TEACHER, bool ENTROPY, int N>
__device__ __forceinline__ void add(Sums<float>& sums, unsigned& smallest,
                                    const unsigned (&student)[N], const unsigned (&teacher)[N]) {
    constexpr int PER_WORD = Format<type>::PER_WORD;
    rebase<TEACHER, ENTROPY>(sums, largest_of<type>(student, sums.student_max),
                             TEACHER ? largest_of<type>(teacher, sums.teacher_max) : 0.f);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        float z[2], t[2];
        Format<type>::unpack(student[i], z);
        if (TEACHER) Format<type>::unpack(teacher[i], t);
        if (TEACHER || ENTROPY) smallest = Format<type>::smaller(smallest, student[i]);
        if (TEACHER) smallest = Format<type>::smaller(smallest, teacher[i]);
#pragma unroll
        for (int j = 0; j < PER_WORD; ++j) {
            const float x = z[j] - sums.student_max;
            const float student_weight = exp_fast(x);
            sums.student_sum += student_weight;
            if (ENTROPY) sums.student_self = fmaf(student_weight, x, sums.student_self);
            if (!TEACHER) continue;
            const float u = t[j] - sums.teacher_max;
            const float teacher_weight = exp_fast(u);
            const float gap = u - x;
            sums.teacher_sum += teacher_weight;
            sums.teacher_student = fmaf(teacher_weight, gap, sums.teacher_student);
            sums.student_teacher = fmaf(student_weight, -gap, sums.student_teacher);
            if (ENTROPY) sums.teacher_self = fmaf(teacher_weight, u, sums.teacher_self);
        }
    }
}

// Every thread of the block gets the two maxima over its threads. Between two calls the block must
// synchronise: threads may still be reading the results of the earlier call.
__device__ __forceinline__ void block_max(float& student, float& teacher) {
    __shared__ float of_warp[2][WARPS];
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        student = fmaxf(student, __shfl_xor_sync(WHOLE_WARP, student, distance));
        teacher = fmaxf(teacher, __shfl_xor_sync(WHOLE_WARP, teacher, distance));
    }
    if (threadIdx.x % WARP == 0) {
        of_warp[0][threadIdx.x / WARP] = student;
        of_warp[1][threadIdx.x / WARP] = teacher;
    }
    __syncthreads();
    for (int warp = 0; warp < WARPS; ++warp) {
        student = fmaxf(student, of_warp[0][warp]);
        teacher = fmaxf(teacher, of_warp[1][warp]);
    }
}

// Adds up the block's sums, which are relative to the same maxima, always in the same order. Thread
// 0 writes `total`, in shared memory, and only thread 0 may read it. Between two calls the block
// must synchronise.
__device__ __forceinline__ void block_sum(Sums<double>& total, const Sums<double>& own) {
    __shared__ double of_warp[WARPS][N_SUMS];
    double part[N_SUMS] = {own.student_sum,     own.teacher_sum,  own.teacher_student,
                           own.student_teacher, own.student_self, own.teacher_self};
#pragma unroll 1
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int k = 0; k < N_SUMS; ++k) part[k] += __shfl_xor_sync(WHOLE_WARP, part[k], distance);
    }
    if (threadIdx.x % WARP == 0) {
#pragma unroll
        for (int k = 0; k < N_SUMS; ++k) of_warp[threadIdx.x / WARP][k] = part[k];
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
#pragma unroll 1
    for (int warp = 1; warp < WARPS; ++warp) {
#pragma unroll
        for (int k = 0; k < N_SUMS; ++k) part[k] += of_warp[warp][k];
    }
    total = {own.student_max, own.teacher_max, part[0], part[1],  part[2],
             part[3],         part[4],         part[5], own.there};
}

// `total` of all threads' logits, as in block_sum. Every thread gets the maxima in its `own`.
__device__ __forceinline__ void block_merge(Sums<double>& total, Sums<double>& own) {
    float student_max = own.student_max, teacher_max = own.teacher_max;
    block_max(student_max, teacher_max);
    rebase<true, true>(own, student_max, teacher_max);
    own.there = teacher_max;
    block_sum(total, own);
}

// For every thread of the block: the teacher's logit where the student's is `student_max`; the
// largest if there are several; 0 if it is infinite. Between this and another block_max the block
// must synchronise.
template <Type type>
__device__ __forceinline__ float teacher_at(const void* student, const void* teacher,
                                            std::int64_t vocabulary, float student_max) {
    float there = -INFINITY, unused = 0;
#pragma unroll 1
    for (std::int64_t column = threadIdx.x; teacher && column < vocabulary; column += THREADS)
        if (value<type>(student, column) == student_max)
            there = fmaxf(there, value<type>(teacher, column));
    block_max(there, unused);
    return there - there == 0 ? there : 0;
}

// Computes again, with exp_full and relative to the student's largest column, those sums of `total`
// from which the gradient is computed if one probability of the student is above 1/2. Not inlined,
// and neither is careful_sums: they would increase the number of registers of the loops that call
// them.
template <Type type>
__device__ __noinline__ void sure_sums(Sums<double>& total, const void* student,
                                       const void* teacher, std::int64_t vocabulary) {
    const float student_max = total.student_max,
                there = teacher_at<type>(student, teacher, vocabulary, student_max);
    float self = 0;
    float gap = 0;
#pragma unroll 1
    for (std::int64_t column = threadIdx.x; column < vocabulary; column += THREADS) {
        const float x = value<type>(student, column) - student_max;
        if (x < SMALLEST_LOG) continue;
        const float weight = exp_full(x);
        self = fmaf(weight, x, self);
        if (teacher) gap = fmaf(weight, x - (value<type>(teacher, column) - there), gap);
    }
    const Sums<double> before = total;
    block_sum(total, {student_max, 0, 0, 0, 0, gap, self, 0, 0});
    if (threadIdx.x > 0) return;
    const double own_gap = total.student_teacher;
    const double own_self = total.student_self;
    total = before;
    total.student_teacher = own_gap;
    total.student_self = own_self;
    total.there = there;
}

// Writes the predictions of a row to its column of the table, which has a number for each of n rows;
// NaN in a row without a distribution. `total` is the row's, with entropies. Not inlined, and called
// last, so that the caller keeps no register for later.
template <Type type>
__device__ __noinline__ void write_predictions(float* table, std::int64_t n,
                                               const Sums<double>& total, const void* student,
                                               std::int64_t vocabulary) {
    __shared__ Sums<double> found;
    const float student_max = total.student_max;
    float squared = 0, column_below_0 = -INFINITY, unused = 0;
#pragma unroll 1
    for (std::int64_t column = threadIdx.x; column < vocabulary; column += THREADS) {
        const float x = value<type>(student, column) - student_max;
        if (x == 0) column_below_0 = fmaxf(column_below_0, -static_cast<float>(column));
        if (x < SMALLEST_LOG) continue;
        squared = fmaf(exp_full(x) * x, x, squared);
    }
    block_max(column_below_0, unused);
    block_sum(found, {0, 0, 0, 0, 0, 0, squared, 0, 0});
    if (threadIdx.x > 0) return;
    const double log_sum = log(total.student_sum);
    const double drop = total.student_self / total.student_sum;
    const double mean = found.student_self / total.student_sum;
    table[LOG_P_SQUARED * n] = static_cast<float>(mean - 2 * log_sum * drop + log_sum * log_sum);
    table[ARG_MAX * n] = mean == mean ? -column_below_0 : NAN;
}

// `total` of a row that has -inf or logits so large that fp32 sums of differences overflow. Both
// rows are read twice, differences and sums are in double, and a column with weight 0 is left out
// of its sum, not multiplied. If the largest logit is -inf or +inf, its own weight is NaN, as it
// must be.
template <Type type>
__device__ __noinline__ void careful_sums(Sums<double>& total, const void* student,
                                          const void* teacher, std::int64_t vocabulary) {
    float student_max = -INFINITY, teacher_max = -INFINITY;
#pragma unroll 1
    for (std::int64_t column = threadIdx.x; column < vocabulary; column += THREADS) {
        student_max = fmaxf(student_max, value<type>(student, column));
        if (teacher) teacher_max = fmaxf(teacher_max, value<type>(teacher, column));
    }
    block_max(student_max, teacher_max);
    __syncthreads();
    const float there = teacher_at<type>(student, teacher, vocabulary, student_max);
    Sums<double> own = {student_max, teacher_max, 0, 0, 0, 0, 0, 0, there};
#pragma unroll 1
    for (std::int64_t column = threadIdx.x; column < vocabulary; column += THREADS) {
        const double x = static_cast<double>(value<type>(student, column)) - student_max;
        const float student_weight = x < SMALLEST_LOG ? 0.f : exp_fast(static_cast<float>(x));
        own.student_sum += student_weight;
        if (student_weight != 0) own.student_self += student_weight * x;
        if (!teacher) continue;
        const double t = value<type>(teacher, column), u = t - teacher_max;
        const float teacher_weight = u < SMALLEST_LOG ? 0.f : exp_fast(static_cast<float>(u));
        own.teacher_sum += teacher_weight;
        if (teacher_weight != 0) own.teacher_student += teacher_weight * (u - x);
        if (teacher_weight != 0) own.teacher_self += teacher_weight * u;
        if (student_weight != 0) own.student_teacher += student_weight * (x - (t - there));
    }
    block_sum(total, own);
}

}  // namespace token_terms
