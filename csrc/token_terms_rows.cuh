// The kernels of a GPU: the sums of each row and its column of the table, and both passes in one.
// The division of work is fixed and there are no atomic additions: the same bits on every run.

#pragma once

#include "token_terms_gradient.cuh"
#include "token_terms_sums.cuh"

namespace token_terms {
namespace {

// ---- forward: one block for each row; several, and a second kernel, if rows are too few ----

constexpr int MAX_PARTS = 16;

// Blocks that must fit on a multiprocessor at the same time, which limits their registers: enough
// loads are then in flight to hide the latency of memory.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int ROW_BLOCKS = 1;  // a packed maximum takes several instructions there
#else
constexpr int ROW_BLOCKS = 2;
#endif

struct Part {
    Sums<double> sums;
    std::int64_t wants_care;  // whether careful_sums must compute the row
};

struct Forward {
    Problem problem;
    Wanted wanted;
    float* table;
    Part* partials;          // [n, parts]; null if one block computes a row
    unsigned parts;          // blocks of one row
    std::int64_t first_row;  // of this launch
};

// NaN < 0 is false: NaN stays NaN.
__device__ __forceinline__ double not_below_zero(double kl) { return kl < 0 ? 0 : kl; }

// lse in two parts. The low part is computed from the maximum, not from lse: at 3e38 a double that
// holds the sum of both has no bits left for the log.
__device__ __forceinline__ void write_lse(float* table, std::int64_t n, int lse, int low,
                                          double max, double log_sum) {
    const float high = static_cast<float>(max + log_sum);
    table[lse * n] = high;
    table[low * n] = static_cast<float>((max - high) + log_sum);
}

template <Type type>
__device__ __forceinline__ float nll_of(const Problem& problem, const TokenRow& row,
                                        const void* logits, double max, double log_sum) {
    const std::int64_t label = problem.labels[row.index];
    if (label == problem.ignore_index) return 0;
    if (!in_vocabulary(problem, label)) return NAN;
    return static_cast<float>((max - value<type>(logits, label)) + log_sum);
}

__device__ __forceinline__ void write_two_parts(float* table, std::int64_t n, int high, int low,
                                                double value) {
    table[high * n] = static_cast<float>(value);
    const double rest = value - table[high * n];
    // An infinite value has no low part.
    table[low * n] = rest == rest ? static_cast<float>(rest) : 0;
}

// One thread writes a row's column of the table.
template <Type type>
__device__ __forceinline__ void write_row(const Forward& forward, const TokenRow& row,
                                          const Sums<double>& sums) {
    const Problem& problem = forward.problem;
    const bool entropy = forward.wanted >= WITH_ENTROPIES;
    const std::int64_t n = problem.n;
    float* table = forward.table + row.index;
    const int rows = forward.wanted == WITH_PREDICTIONS ? N_STATS_AND_PREDICTIONS : N_STATS;
    for (int k = 0; k < rows; ++k) table[k * n] = 0;
    if (row.skipped) return;
    const double student_log = log(sums.student_sum);
    write_lse(table, n, LSE, LSE_LOW, sums.student_max, student_log);
    table[NLL * n] = nll_of<type>(problem, row, row.student, sums.student_max, student_log);
    table[TOP * n] = sums.student_max;
    if (entropy) {
        table[ENTROPY * n] = static_cast<float>(student_log - sums.student_self / sums.student_sum);
        write_two_parts(table, n, DROP, DROP_LOW, sums.student_self / sums.student_sum);
    }
    if (!row.teacher) return;
    const double teacher_log = log(sums.teacher_sum);
    const double shift = student_log - teacher_log;
    write_lse(table, n, TEACHER_LSE, TEACHER_LSE_LOW, sums.teacher_max, teacher_log);
    table[TEACHER_NLL * n] = nll_of<type>(problem, row, row.teacher, sums.teacher_max, teacher_log);
    if (entropy)
        table[TEACHER_ENTROPY * n] =
            static_cast<float>(teacher_log - sums.teacher_self / sums.teacher_sum);
    table[KL_TEACHER_STUDENT * n] =
        static_cast<float>(not_below_zero(sums.teacher_student / sums.teacher_sum + shift));
    const double gap = sums.student_teacher / sums.student_sum;
    const double there = static_cast<double>(sums.there) - sums.teacher_max;
    table[KL_STUDENT_TEACHER * n] = static_cast<float>(not_below_zero((gap - there) - shift));
    table[TEACHER_AT_TOP * n] = sums.there;
    write_two_parts(table, n, GAP, GAP_LOW, gap);
}

// Merges the block's sums of a whole row and writes the row. The sums are computed again by
// careful_sums if they cannot be right, by sure_sums if one probability of the student is above
// 1/2.
template <Type type>
__device__ __forceinline__ void finish_row(const Forward& forward, const TokenRow& row,
                                           Sums<double>& own, bool wants_care) {
    __shared__ Sums<double> total;
    if (!row.skipped) {
        block_merge(total, own);
        wants_care |= own.student_max < Format<type>::LOWEST_MAX || own.student_max > -PADDING;
        if (row.teacher)
            wants_care |= own.teacher_max < Format<type>::LOWEST_MAX || own.teacher_max > -PADDING;
        const std::int64_t vocabulary = forward.problem.vocabulary;
        if (__syncthreads_or(wants_care)) {
            careful_sums<type>(total, row.student, row.teacher, vocabulary);
        } else if ((row.teacher || forward.wanted != TERMS) && total.student_sum < SURE) {
            sure_sums<type>(total, row.student, row.teacher, vocabulary);
        }
    }
    if (threadIdx.x == 0) write_row<type>(forward, row, total);
    if (forward.wanted != WITH_PREDICTIONS || row.skipped) return;
    __syncthreads();  // thread 0 may have written `total`
    write_predictions<type>(forward.table + row.index, forward.problem.n, total, row.student,
                            forward.problem.vocabulary);
}

// A thread's sums over the vectors [first, end) of a row. Threads take vectors in turn, VECTORS of
// each row at once and the last few one by one.
template <Type type, bool TEACHER, bool ENTROPY, bool ALIGNED>
__device__ __forceinline__ Sums<float> thread_sums(const TokenRow& row, std::int64_t vocabulary,
                                                   std::int64_t first, std::int64_t end,
                                                   unsigned& smallest) {
    constexpr int VECTORS = TEACHER ? 2 : 4;
    Sums<float> sums = no_sums<float>();
    const std::int64_t whole = vocabulary / LOGITS<type> < end ? vocabulary / LOGITS<type> : end;
    std::int64_t v = first + threadIdx.x;
#pragma unroll 1
    for (; v + (VECTORS - 1) * THREADS < whole; v += VECTORS * THREADS) {
        unsigned student[VECTORS * WORDS], teacher[VECTORS * WORDS];
#pragma unroll
        for (int k = 0; k < VECTORS; ++k) {
            load<type, ALIGNED, false>(student + k * WORDS, row.student, v + k * THREADS,
                                       vocabulary);
            if (TEACHER)
                load<type, ALIGNED, false>(teacher + k * WORDS, row.teacher, v + k * THREADS,
                                           vocabulary);
        }
        add<type, TEACHER, ENTROPY>(sums, smallest, student, teacher);
    }
#pragma unroll 1
    for (; v < end; v += THREADS) {
        unsigned student[WORDS], teacher[WORDS];
        const bool vector = ALIGNED && v < whole;
        if (vector) {
            load<type, true, false>(student, row.student, v, vocabulary);
        } else {
            load<type, false, false>(student, row.student, v, vocabulary);
        }
        if (TEACHER && vector) {
            load<type, true, false>(teacher, row.teacher, v, vocabulary);
        } else if (TEACHER) {
            load<type, false, false>(teacher, row.teacher, v, vocabulary);
        }
        add<type, TEACHER, ENTROPY>(sums, smallest, student, teacher);
    }
    return sums;
}

// The same in double; `wants_care`: they may be wrong, and careful_sums must compute the row.
template <Type type, bool TEACHER, bool ENTROPY, bool ALIGNED>
__device__ __forceinline__ Sums<double> sums_of_part(const TokenRow& row, std::int64_t vocabulary,
                                                     std::int64_t first, std::int64_t end,
                                                     bool& wants_care) {
    unsigned smallest = Format<type>::PADDING_WORD;
    const Sums<float> own =
        thread_sums<type, TEACHER, ENTROPY, ALIGNED>(row, vocabulary, first, end, smallest);
    float z[2];
    Format<type>::unpack(smallest, z);
    wants_care = z[0] < PADDING || (Format<type>::PER_WORD == 2 && z[1] < PADDING);
    return {own.student_max,  own.teacher_max,     own.student_sum,
            own.teacher_sum,  own.teacher_student, own.student_teacher,
            own.student_self, own.teacher_self,    0};
}

template <Type type, bool TEACHER, bool ENTROPY, bool ALIGNED>
__global__ void __launch_bounds__(THREADS, ALIGNED ? ROW_BLOCKS : 1)
    row_sums(const __grid_constant__ Forward forward) {
    const Problem& problem = forward.problem;
    const unsigned parts = forward.parts;
    const unsigned part = blockIdx.x % parts;
    const TokenRow row = row_at<type>(problem, forward.first_row + blockIdx.x / parts);
    Sums<double> sums = no_sums<double>();
    bool wants_care = false;
    if (!row.skipped) {
        const std::int64_t vectors = (problem.vocabulary + LOGITS<type> - 1) / LOGITS<type>;
        const std::int64_t of_part = (vectors + parts - 1) / parts;
        const std::int64_t first = part * of_part;
        const std::int64_t end = first + of_part < vectors ? first + of_part : vectors;
        sums = sums_of_part<type, TEACHER, ENTROPY, ALIGNED>(row, problem.vocabulary, first, end,
                                                             wants_care);
    }
    if (!forward.partials) return finish_row<type>(forward, row, sums, wants_care);
    if (row.skipped) return;
    __shared__ Sums<double> total;
    block_merge(total, sums);
    wants_care = __syncthreads_or(wants_care);
    if (threadIdx.x == 0) forward.partials[row.index * parts + part] = {total, wants_care ? 1 : 0};
}

// The second kernel: thread k loads part k of the block's row, then the row is finished by
// finish_row.
template <Type type>
__global__ void __launch_bounds__(THREADS) merge_parts(const __grid_constant__ Forward forward) {
    const TokenRow row = row_at<type>(forward.problem, forward.first_row + blockIdx.x);
    Sums<double> sums = no_sums<double>();
    bool wants_care = false;
    if (!row.skipped && threadIdx.x < forward.parts) {
        const Part& part = forward.partials[row.index * forward.parts + threadIdx.x];
        sums = part.sums;
        wants_care = part.wants_care != 0;
    }
    finish_row<type>(forward, row, sums, wants_care);
}

// ---- both passes: one block for each row, which is read again while it is in the cache ----

struct Both {
    Forward forward;  // one part
    Backward backward;
    std::int64_t first_row;  // of this launch
};

// Rows are on 16-byte boundaries, and entropies are asked for. The sums and the tiles are those of
// row_sums and row_gradients: the same bits.
template <Type type, bool TEACHER>
__global__ void __launch_bounds__(THREADS, 1) row_both(const __grid_constant__ Both both) {
    const Problem& problem = both.forward.problem;
    const TokenRow row = row_at<type>(problem, both.first_row + blockIdx.x);
    Sums<double> sums = no_sums<double>();
    bool wants_care = false;
    const std::int64_t vectors = (problem.vocabulary + LOGITS<type> - 1) / LOGITS<type>;
    if (!row.skipped)
        sums = sums_of_part<type, TEACHER, true, true>(row, problem.vocabulary, 0, vectors,
                                                       wants_care);
    finish_row<type>(both.forward, row, sums, wants_care);
    __syncthreads();  // thread 0 has written the row's column of the table
    const Factors f = factors_of(both.backward, row);
    constexpr int GROUPS = THREADS / TILE_THREADS;
#pragma unroll 1
    for (unsigned tile = threadIdx.x / TILE_THREADS; tile < both.backward.tiles; tile += GROUPS) {
        const std::int64_t first = static_cast<std::int64_t>(tile) * (TILE_THREADS * TILE_VECTORS);
        tile_gradient<type, TEACHER, true>(both.backward, row, f,
                                           first + threadIdx.x % TILE_THREADS);
    }
}

}  // namespace
}  // namespace token_terms
