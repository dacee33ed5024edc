// Per-token terms of a student (and a teacher) on rows of logits, and their gradient: the contract
// of the kernel, for the CPU and for GPUs.
//
// One row of student logits z [V] gives p = softmax(z), one of teacher logits t [V] q = softmax(t):
//   lse = log sum exp z
//   nll = lse - z[label]
//   entropy = -sum p log p
//   kl_teacher_student = KL(q || p) = sum q (log q - log p)
//   kl_student_teacher = KL(p || q) = sum p (log p - log q)
//   arg_max = the column of the largest z, the first of equal ones
//   log_p_squared = sum p (log p)^2
//
// stats    reads both logits once (a GPU reads a row again if one probability of the student is
//          above 1/2) and writes the table [N_STATS, n] in fp32, one row for each name of Row. Rows
//          of the teacher are 0 without a teacher, entropies are 0 unless asked for. If the two
//          predictions, arg_max and log_p_squared, are asked for, the table has two more rows, and
//          the entropies are computed too. Predictions have no gradient. ARG_MAX is exact up to a
//          vocabulary of 2^24. (A GPU reads the row a second time for them.)
//          lse is LSE + LSE_LOW: the low part is what rounding to fp32 lost.
//          The numbers to which the gradients of entropy and kl_student_teacher cancel are stored
//          themselves, also in two parts. With TOP the student's largest logit z_r and
//          TEACHER_AT_TOP the teacher's logit t_r there (0 if it is infinite):
//              DROP = sum p (z - z_r)          GAP = sum p ((z - t) - (z_r - t_r))
//          (On a GPU, if no p is above 1/2, TEACHER_AT_TOP is the largest t; this changes no
//          gradient.)
// dlogits  reads both logits once and writes the gradient [n, V], contiguous, in the type of the
//          logits, given the upstream gradient of each table row (only those of LSE, NLL, both KL
//          and ENTROPY are read). With upstream l (lse), c (nll), a (kl_teacher_student),
//          b (kl_student_teacher), h (entropy) of one row, where c = 0 if the label is ignored:
//              dz = p (c + a + l + b ((z - t) - (z_r - t_r) - GAP) - h ((z - z_r) - DROP))
//                   - a q - c onehot(label)
//          The term of b is p (log p - log q - kl_student_teacher), that of h is
//          -p (log p + entropy).
//          Sums are in fp32 or wider, the label's column is computed in double, and each number is
//          rounded once, when it is stored. If an upstream gradient is 0 its term is left out
//          (0 * inf is 0 here): if a is 0 the teacher's probability is not computed, if a and b are
//          0 the teacher's row is not read.
//
// stats_and_dlogits  both for an upstream gradient that is known before the logits are read, as that
//          of a loss which is linear in the table's rows: a row's gradient is written while its
//          logits are in the cache. The table has the bits of stats. The gradient has those of
//          dlogits, but on a CPU for logits of 16 bits: there the exponentials of the forward pass
//          are used again, so that the number before it is rounded to 16 bits differs by up to
//          4e-7 of its terms, and one stored number in about 10,000 by a unit of its last place.
//
// Special cases, for one row; other rows are not affected:
//   -inf at v in both            v contributes 0 everywhere
//   -inf at v, student only      kl_teacher_student = +inf; everything else and the gradient finite
//   -inf at v, teacher only      kl_student_teacher = +inf; if b != 0 the gradient row is not
//                                finite, and NaN at v
//   -inf at the label            nll = +inf, its gradient finite
//   all -inf, any +inf, any NaN  NaN: every output of that tensor, every output of both tensors,
//                                and the gradient row
//   p or q below e^-86           may be replaced by exactly 0
//   KL rounded below 0           0; NaN stays NaN
//   label = ignore_index         nll = teacher_nll = 0 and c = 0; the rest as for any row. With
//                                skip_ignored the row is not read: outputs 0, gradient 0
//   label outside [0, V)         never used as an index: nll = teacher_nll = NaN, and the gradient
//                                row is NaN if c != 0
//   upstream all 0               gradient row exactly 0, logits not read
//   n = 0                        nothing is done
//   offsets                      64 bit; a row stride is any number of elements, the column stride
//                                is 1
// The bits of the results do not depend on the number of threads, on the row's place in the batch
// or on its alignment, and are the same on every run.
// CPU: AVX2 and AVX-512 give the same bits. CUDA: the same bits for one shape, type, build and
// device model; there are no atomic additions of floats.

#pragma once

#include <cstdint>

namespace token_terms {

enum Row {
    LSE,
    NLL,
    TEACHER_LSE,
    TEACHER_NLL,
    KL_TEACHER_STUDENT,
    KL_STUDENT_TEACHER,
    ENTROPY,
    TEACHER_ENTROPY,
    LSE_LOW,
    TEACHER_LSE_LOW,
    TOP,
    TEACHER_AT_TOP,
    GAP,
    GAP_LOW,
    DROP,
    DROP_LOW,
    N_STATS,
    ARG_MAX = N_STATS,
    LOG_P_SQUARED,
    N_STATS_AND_PREDICTIONS
};

enum Type { FLOAT32, BFLOAT16, FLOAT16 };

// Which rows of the table are computed; each has those before it too.
enum Wanted { TERMS, WITH_ENTROPIES, WITH_PREDICTIONS };

struct Problem {
    const void* student;          // [n, V] of `type`
    const void* teacher;          // the same, or null: no teacher
    const std::int64_t* labels;   // [n], contiguous
    std::int64_t student_stride;  // elements from one row to the next
    std::int64_t teacher_stride;
    std::int64_t n;
    std::int64_t vocabulary;  // V > 0
    std::int64_t ignore_index;
    Type type;
    bool skip_ignored;
};

// The two functions compute rows [begin, end) on the CPU; they are compiled once for each
// instruction set.
struct CpuKernel {
    const char* name;
    void (*stats)(const Problem&, Wanted, float* table, std::int64_t begin, std::int64_t end);
    void (*dlogits)(const Problem&, const float* table, const float* upstream, void* gradient,
                    std::int64_t begin, std::int64_t end);
    // `scratch`: scratch_floats() floats, of this thread alone. Without predictions.
    void (*both)(const Problem&, Wanted, float* table, const float* upstream, void* gradient,
                 float* scratch, std::int64_t begin, std::int64_t end);
    std::int64_t (*scratch_floats)(const Problem&);
};

// On a GPU: launched on `stream` (a cudaStream_t) of `device`, without allocation or
// synchronisation, so that a CUDA graph can capture it. `workspace` is device memory of
// cuda_workspace() floats, or null if that is 0. Returns null, or the text of a CUDA error; nothing
// is launched then.
std::int64_t cuda_workspace(const Problem&, int device);
const char* cuda_stats(const Problem&, Wanted, float* table, float* workspace, int device,
                       void* stream);
const char* cuda_dlogits(const Problem&, const float* table, const float* upstream, void* gradient,
                         int device, void* stream);
const char* cuda_stats_and_dlogits(const Problem&, Wanted, float* table, float* workspace,
                                   const float* upstream, void* gradient, int device, void* stream);

}  // namespace token_terms
