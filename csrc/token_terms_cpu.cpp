// The per-token terms on the CPU, compiled once for each instruction set (INSTRUCTION_SET names
// it).

#include "row_gradient.h"
#include "token_terms.h"

namespace token_terms {
namespace INSTRUCTION_SET {

// Larger gradients do not fit the caches: they are written with stores that bypass the caches and
// read no memory first.
constexpr int64_t STREAM_BYTES = 32 << 20;

static inline void fence() {
#if defined(LANES_AVX512) || defined(LANES_AVX2)
    _mm_sfence();
#endif
}

// Called after all rows. While the upper halves of the registers are in use, later code without AVX
// is up to 3 x slower.
static inline void leave() {
#if defined(LANES_AVX512) || defined(LANES_AVX2)
    _mm256_zeroupper();
#endif
}

// A column of the table, with functions that write to it.
struct Column {
    float* first;
    int64_t n;
    void set(Row row, double value) const { first[row * n] = float(value); }
    void set_two_parts(Row high, Row low, double value) const {
        set(high, value);
        const double rest = value - double(first[high * n]);
        set(low, rest == rest ? rest : 0);  // an infinite value has no low part
    }
};

static double not_negative(double kl) { return kl < 0 ? 0 : kl; }  // NaN stays

template <class T>
static double nll(const T* row, int64_t label, bool known, const Side& side, double log_sum) {
    return known ? (double(side.top) - double(to_float(row[label]))) + log_sum : NAN;
}

// `kept` gets the exponentials if KEEP.
template <class T, bool TEACHER, Wanted WANTED, bool KEEP = false>
static void stats_row(const Problem& problem, int64_t row, const Column& out, Kept& kept) {
    constexpr bool ENTROPIES = WANTED >= WITH_ENTROPIES;
    const int64_t label = problem.labels[row];
    const bool ignored = label == problem.ignore_index;
    const bool known = label >= 0 && label < problem.vocabulary;
    constexpr int ROWS = WANTED == WITH_PREDICTIONS ? N_STATS_AND_PREDICTIONS : N_STATS;
    for (int i = 0; i < ROWS; ++i) out.set(Row(i), 0);
    if (ignored && problem.skip_ignored) return;
    const T* z = static_cast<const T*>(problem.student) + row * problem.student_stride;
    const T* t =
        TEACHER ? static_cast<const T*>(problem.teacher) + row * problem.teacher_stride : nullptr;
    Side student, teacher;
    read_row<T, TEACHER, WANTED, KEEP>(z, t, problem.vocabulary, student, teacher, kept);
    kept.column = student.column;
    const Totals s = totals(student);
    const double log_s = log(s.sum);
    out.set_two_parts(LSE, LSE_LOW, double(student.top) + log_s);
    out.set(TOP, double(student.top));
    if (!ignored) out.set(NLL, nll(z, label, known, student, log_s));
    if (ENTROPIES) {
        out.set(ENTROPY, log_s - s.weighted / s.sum);
        out.set_two_parts(DROP, DROP_LOW, s.weighted / s.sum);
    }
    if (WANTED == WITH_PREDICTIONS) {
        // log p = x - log_s; no term is negative.
        out.set(LOG_P_SQUARED,
                s.squared / s.sum - 2 * log_s * (s.weighted / s.sum) + log_s * log_s);
        out.set(ARG_MAX, s.sum == s.sum ? double(student.column) : NAN);
    }
    if (!TEACHER) return;
    const Totals q = totals(teacher);
    const double log_q = log(q.sum);
    out.set_two_parts(TEACHER_LSE, TEACHER_LSE_LOW, double(teacher.top) + log_q);
    if (!ignored) out.set(TEACHER_NLL, nll(t, label, known, teacher, log_q));
    if (ENTROPIES) out.set(TEACHER_ENTROPY, log_q - q.weighted / q.sum);
    out.set(KL_TEACHER_STUDENT, not_negative(q.gap / q.sum - log_q + log_s));
    const double at_top = double(student.other) - double(teacher.top);
    out.set(KL_STUDENT_TEACHER, not_negative((s.gap / s.sum - at_top) - log_s + log_q));
    out.set(TEACHER_AT_TOP, double(student.other));
    out.set_two_parts(GAP, GAP_LOW, s.gap / s.sum);
}

template <class T>
static void fill(T* out, int64_t count, float value) {
    T one;
    from_float(value, &one);
    for (int64_t j = 0; j < count; ++j) out[j] = one;
}

// The gradient in every column, without `kept`.
template <class T>
static void gradient_of_row(const T* z, const T* t, const Factors& f, int64_t vocabulary, T* out,
                            bool streamed, decltype(nullptr)) {
    const bool q = f.a != 0, b = f.b != 0, h = f.h != 0;
    const auto gradient =
        q ? (b ? (h ? gradient_row<T, true, true, true> : gradient_row<T, true, true, false>)
               : (h ? gradient_row<T, true, false, true> : gradient_row<T, true, false, false>))
          : (b ? (h ? gradient_row<T, false, true, true> : gradient_row<T, false, true, false>)
               : (h ? gradient_row<T, false, false, true> : gradient_row<T, false, false, false>));
    gradient(z, t, f, vocabulary, out, streamed);
}

// The same from what the forward pass kept.
template <class T>
static void gradient_of_row(const T* z, const T* t, Factors f, int64_t vocabulary, T* out,
                            bool streamed, const Kept* kept) {
    const bool q = f.a != 0, b = f.b != 0, h = f.h != 0;
    // Two equal rows are summed in another order and must have a gradient of 0.
    if (fabs(f.lse - f.teacher_lse) < 0x1p-40) f.teacher_lse = f.lse;
    const auto gradient = q ? (b ? (h ? gradient_of_kept<T, true, true, true>
                                      : gradient_of_kept<T, true, true, false>)
                                 : (h ? gradient_of_kept<T, true, false, true>
                                      : gradient_of_kept<T, true, false, false>))
                            : (b ? (h ? gradient_of_kept<T, false, true, true>
                                      : gradient_of_kept<T, false, true, false>)
                                 : (h ? gradient_of_kept<T, false, false, true>
                                      : gradient_of_kept<T, false, false, false>));
    const int64_t top = q ? kept->column : 0;
    // Read before the gradient is written, which may be in the same memory.
    const T top_z = z[top], top_t = q ? t[top] : T();
    gradient(z, t, f, vocabulary, out, streamed, *kept);
    if (!q) return;
    f.c = 0;  // as of any column but the label's
    from_float(float(exact_gradient(top_z, top_t, f)), out + top);
}

// The gradient of one row, given its column of the table, and what read_row has kept of it or null.
template <class T, class KeptOrNull>
static void dlogits_row(const Problem& problem, const float* table, const float* upstream,
                        int64_t row, T* out, bool streamed, KeptOrNull kept) {
    const int64_t n = problem.n, vocabulary = problem.vocabulary, label = problem.labels[row];
    const auto stat = [=](Row name) { return double(table[name * n + row]); };
    const auto up = [=](Row name) { return double(upstream[name * n + row]); };
    const bool ignored = label == problem.ignore_index;
    const bool known = label >= 0 && label < vocabulary;
    const bool paired = problem.teacher;
    const double l = up(LSE);
    const double a = paired ? up(KL_TEACHER_STUDENT) : 0;
    const double b = paired ? up(KL_STUDENT_TEACHER) : 0;
    const double h = up(ENTROPY);
    const double c = ignored ? 0 : up(NLL);
    if ((ignored && problem.skip_ignored) || (l == 0 && a == 0 && b == 0 && h == 0 && c == 0))
        return fill(out, vocabulary, 0);
    const Factors f = {c + a + l,
                       a,
                       b,
                       c,
                       h,
                       stat(LSE) + stat(LSE_LOW),
                       stat(TEACHER_LSE) + stat(TEACHER_LSE_LOW),
                       stat(TOP),
                       stat(TEACHER_AT_TOP),
                       stat(GAP) + stat(GAP_LOW),
                       stat(DROP) + stat(DROP_LOW)};
    const double check =
        f.alpha + (b == 0 ? 0 : stat(KL_STUDENT_TEACHER)) + (h == 0 ? 0 : stat(ENTROPY));
    if (check != check || (c != 0 && !known)) return fill(out, vocabulary, NAN);
    const T* z = static_cast<const T*>(problem.student) + row * problem.student_stride;
    const T* t = a != 0 || b != 0
                     ? static_cast<const T*>(problem.teacher) + row * problem.teacher_stride
                     : nullptr;
    // Read before the gradient is written, which may be in the same memory.
    const T label_z = c == 0 ? T() : z[label], label_t = c == 0 || !t ? T() : t[label];
    streamed = streamed && reinterpret_cast<uintptr_t>(out) % 64 == 0;
    gradient_of_row(z, t, f, vocabulary, out, streamed, kept);
    if (c != 0) from_float(float(exact_gradient(label_z, label_t, f)), out + label);
}

template <class T, bool KEEP = false>
static void stats_rows(const Problem& problem, Wanted wanted, float* table, int64_t begin,
                       int64_t end, Kept& kept) {
    const auto one = problem.teacher
                         ? (wanted == TERMS            ? stats_row<T, true, TERMS, KEEP>
                            : wanted == WITH_ENTROPIES ? stats_row<T, true, WITH_ENTROPIES, KEEP>
                                                       : stats_row<T, true, WITH_PREDICTIONS>)
                         : (wanted == TERMS            ? stats_row<T, false, TERMS, KEEP>
                            : wanted == WITH_ENTROPIES ? stats_row<T, false, WITH_ENTROPIES, KEEP>
                                                       : stats_row<T, false, WITH_PREDICTIONS>);
    for (int64_t row = begin; row < end; ++row) one(problem, row, {table + row, problem.n}, kept);
}

template <class T>
static bool is_streamed(const Problem& problem) {
    return problem.n * problem.vocabulary >= STREAM_BYTES / int64_t(sizeof(T));
}

template <class T>
static void dlogits_rows(const Problem& problem, const float* table, const float* upstream,
                         void* gradient, int64_t begin, int64_t end) {
    const bool streamed = is_streamed<T>(problem);
    for (int64_t row = begin; row < end; ++row)
        dlogits_row(problem, table, upstream, row,
                    static_cast<T*>(gradient) + row * problem.vocabulary, streamed, nullptr);
    if (streamed) fence();
}

static int64_t whole_vectors(int64_t vocabulary) {
    return (vocabulary + WIDTH - 1) / WIDTH * WIDTH;
}

static int64_t blocks_of(const Problem& problem) {
    return (problem.vocabulary + BLOCK - 1) / BLOCK;
}

// Exponentials are kept for 16 bits alone: in fp32 their rounding would show.
static int64_t scratch_floats(const Problem& problem) {
    return problem.type == FLOAT32 ? 0
                                   : 2 * (whole_vectors(problem.vocabulary) + blocks_of(problem));
}

static void both_rows(const Problem& problem, Wanted wanted, float* table, const float* upstream,
                      float* gradient, float*, int64_t begin, int64_t end) {
    const bool streamed = is_streamed<float>(problem);
    Kept none = {};
    for (int64_t row = begin; row < end; ++row) {
        stats_rows<float>(problem, wanted, table, row, row + 1, none);
        dlogits_row(problem, table, upstream, row, gradient + row * problem.vocabulary, streamed,
                    nullptr);
    }
    if (streamed) fence();
}

template <class T>
static void both_rows(const Problem& problem, Wanted wanted, float* table, const float* upstream,
                      T* gradient, float* scratch, int64_t begin, int64_t end) {
    const bool streamed = is_streamed<T>(problem);
    const int64_t columns = whole_vectors(problem.vocabulary), blocks = blocks_of(problem);
    Kept kept = {scratch, scratch + columns, scratch + 2 * columns, scratch + 2 * columns + blocks,
                 0};
    for (int64_t row = begin; row < end; ++row) {
        stats_rows<T, true>(problem, wanted, table, row, row + 1, kept);
        dlogits_row(problem, table, upstream, row, gradient + row * problem.vocabulary, streamed,
                    static_cast<const Kept*>(&kept));
    }
    if (streamed) fence();
}

static void stats(const Problem& problem, Wanted wanted, float* table, int64_t begin, int64_t end) {
    const auto rows = problem.type == FLOAT32    ? stats_rows<float>
                      : problem.type == BFLOAT16 ? stats_rows<bf16>
                                                 : stats_rows<fp16>;
    Kept none = {};
    rows(problem, wanted, table, begin, end, none);
    leave();
}

static void dlogits(const Problem& problem, const float* table, const float* upstream,
                    void* gradient, int64_t begin, int64_t end) {
    const auto rows = problem.type == FLOAT32    ? dlogits_rows<float>
                      : problem.type == BFLOAT16 ? dlogits_rows<bf16>
                                                 : dlogits_rows<fp16>;
    rows(problem, table, upstream, gradient, begin, end);
    leave();
}

static void both(const Problem& problem, Wanted wanted, float* table, const float* upstream,
                 void* gradient, float* scratch, int64_t begin, int64_t end) {
    if (problem.type == FLOAT32)
        both_rows(problem, wanted, table, upstream, static_cast<float*>(gradient), scratch, begin,
                  end);
    if (problem.type == BFLOAT16)
        both_rows(problem, wanted, table, upstream, static_cast<bf16*>(gradient), scratch, begin,
                  end);
    if (problem.type == FLOAT16)
        both_rows(problem, wanted, table, upstream, static_cast<fp16*>(gradient), scratch, begin,
                  end);
    leave();
}

#define NAME_OF(x) #x
#define NAME(x) NAME_OF(x)
extern const CpuKernel KERNEL;
const CpuKernel KERNEL = {NAME(INSTRUCTION_SET), stats, dlogits, both, scratch_floats};

}  // namespace INSTRUCTION_SET
}  // namespace token_terms
