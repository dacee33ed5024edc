// Per-token terms of a student (and a teacher) on rows of logits, and their gradient: what every caller may rely on.
//
// One row of student logits z [V] gives p = softmax(z), one of teacher logits t [V] gives q = softmax(t):
//   lse = log sum exp z         nll = lse - z[label]                     entropy = -sum p log p
//   kl_teacher_student = KL(q || p) = sum q (log q - log p)              kl_student_teacher = KL(p || q)
//
// stats    reads both logits once (a GPU rereads a row whose student is sure) and writes table [N_STATS, n] in fp32, one row for
//          each name of Row. Rows of the teacher are 0 without a teacher, entropies 0 unless asked for. lse is LSE + LSE_LOW: the
//          low part is what rounding to fp32 lost. What the gradients of entropy and kl_student_teacher cancel to is kept as it
//          is, in two such parts: with TOP the largest logit z_r of the student and TEACHER_AT_TOP = t_r (0 where infinite)
//              DROP = sum p (z - z_r)          GAP = sum p ((z - t) - (z_r - t_r))
//          (a GPU, where no p is above 1/2: TEACHER_AT_TOP is the largest t, which changes no gradient).
// dlogits  reads both logits once and writes the gradient [n, V], contiguous, in the logits' type, given the upstream
//          gradient of each table row (only LSE, NLL, both KL and ENTROPY are read). With upstream l, c, a
//          (kl_teacher_student), b (kl_student_teacher), h of one row, c = 0 where the label is ignored:
//              dz = p (c + a + l + b ((z - t) - (z_r - t_r) - GAP) - h ((z - z_r) - DROP)) - a q - c onehot(label)
//          of which b's term is p (log p - log q - kl_student_teacher), h's -p (log p + entropy).
//          Sums in fp32 or wider, the label's column in full, one rounding at the store. A factor of 0 drops its term
//          (0 * inf is 0 here): without a the teacher's probability is not computed, without a and b its row is not read.
//
// Edges, one row at a time; no row feels another:
//   -inf at v in both            v contributes 0 everywhere
//   -inf at v, student only      kl_teacher_student = +inf; everything else and the gradient finite
//   -inf at v, teacher only      kl_student_teacher = +inf; the gradient row is not finite, and NaN at v, if b != 0
//   -inf at the label            nll = +inf, its gradient finite
//   all -inf, any +inf, any NaN  every output of that tensor and every joint one NaN, and the gradient row
//   p or q below e^-86           may be taken as exactly 0
//   KL rounded below 0           0; NaN stays NaN
//   label = ignore_index         nll = teacher_nll = 0 and c = 0; the rest as for any row. With skip_ignored the row is not
//                                read: outputs 0, gradient 0
//   label outside [0, V)         never used as an index: nll = teacher_nll = NaN, gradient row NaN if c != 0
//   upstream all 0               gradient row exactly 0, logits not read
//   n = 0                        nothing is done
//   offsets                      64 bit; a row stride is any number of elements, the column stride is 1
// The same bits whatever the number of threads, the row's place in the batch or its alignment, and on every run.
// CPU: the same with AVX2 and AVX-512. CUDA: for one shape, type, build and device model; no float atomics.

#pragma once

#include <cstdint>

namespace token_terms {

enum Row { LSE, NLL, TEACHER_LSE, TEACHER_NLL, KL_TEACHER_STUDENT, KL_STUDENT_TEACHER, ENTROPY, TEACHER_ENTROPY, LSE_LOW,
           TEACHER_LSE_LOW, TOP, TEACHER_AT_TOP, GAP, GAP_LOW, DROP, DROP_LOW, N_STATS };

enum Type { FLOAT32, BFLOAT16, FLOAT16 };

struct Problem {
    const void* student;             // [n, V] of `type`
    const void* teacher;             // the same, or null: no teacher
    const std::int64_t* labels;      // [n], contiguous
    std::int64_t student_stride;     // elements from one row to the next
    std::int64_t teacher_stride;
    std::int64_t n;
    std::int64_t vocabulary;         // V > 0
    std::int64_t ignore_index;
    Type type;
    bool skip_ignored;
};

// Rows [begin, end) on the CPU; one such pair is compiled for each instruction set.
struct CpuKernel {
    const char* name;
    void (*stats)(const Problem&, bool entropy, float* table, std::int64_t begin, std::int64_t end);
    void (*dlogits)(const Problem&, const float* table, const float* upstream, void* gradient, std::int64_t begin,
                    std::int64_t end);
};

// On a GPU: launched on `stream` (a cudaStream_t) of `device`, without allocation or synchronisation, so that a CUDA graph
// can capture it. `workspace` is device memory of cuda_workspace() floats, or null where that is 0.
// Returns null, or the CUDA error in words; nothing is launched then.
std::int64_t cuda_workspace(const Problem&, int device);
const char* cuda_stats(const Problem&, bool entropy, float* table, float* workspace, int device, void* stream);
const char* cuda_dlogits(const Problem&, const float* table, const float* upstream, void* gradient, int device, void* stream);

}  // namespace token_terms
