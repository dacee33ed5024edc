// The per-token terms on the CPU, compiled once for each instruction set (INSTRUCTION_SET names
// it).

#include "row_sums.h"
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

template <class T, bool TEACHER, Wanted WANTED>
static void stats_row(const Problem& problem, int64_t row, const Column& out) {
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
    read_row<T, TEACHER, WANTED>(z, t, problem.vocabulary, student, teacher);
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

// The numbers from which the gradient of one row is computed. Terms that cancel are computed
// together, relative to the student's largest column, `top`, and the teacher's logit there: if one
// probability of the student is almost 1, the gradient of that column is then computed as a small
// number, not as a difference of large ones.
//   dz = p (alpha + b ((z - t) - (top - at_top) - gap) - h ((z - top) - drop)) - a q - c
//   onehot(label)
struct Factors {
    double alpha, a, b, c, h;
    double lse, teacher_lse, top, at_top, gap, drop;
};

template <class T, bool Q, bool B, bool H>
static void gradient_row(const T* z, const T* t, const Factors& f, int64_t vocabulary, T* out,
                         bool streamed) {
    constexpr bool EXACT = sizeof(T) == 4;
    constexpr bool PRECISE = EXACT && !Q && (B || H);
    const Reference lse(f.lse), teacher_lse(f.teacher_lse);
    const double means = f.alpha - (B ? f.b * f.gap : 0) + (H ? f.h * f.drop : 0);
    const double difference_at_top = f.top - f.at_top;
    const Lanes a = all(float(f.a)), b = all(float(f.b)), h = all(float(-f.h)),
                top = all(float(f.top));
    const Lanes alpha = all(float(means)), rest_of_alpha = all(float(means - double(float(means))));
    const Lanes high = all(float(difference_at_top)),
                low = all(float(difference_at_top - double(float(difference_at_top))));
    auto at = [&](Lanes zs, Lanes ts) ALWAYS_INLINE {
        const Exponential p = exponential_in_full(zs, lse);
        Lanes factor = alpha, before = alpha, last = alpha;
        if (H) {
            last = zs - top;
            if (PRECISE) before = fused(h, lost(zs, top, last), before);
            factor = fused(h, last, before);
        }
        if (B) {
            const Lanes difference = zs - ts;
            last = difference - high;
            before = factor;
            if (EXACT) {
                Lanes small = lost(zs, ts, difference) - low;
                if (PRECISE) small = small + lost(difference, high, last);
                before = fused(b, small, factor);
            }
            factor = fused(b, last, before);
        }
        if (PRECISE) {
            // The part lost by rounding the factor is added, so that only the product is rounded.
            const Lanes missed = (before - fused_minus(B ? b : h, last, factor)) + rest_of_alpha;
            return scaled(factor + fused(factor, p.rest, fused(missed, p.rest, missed)), p.n,
                          p.live);
        }
        if (!Q) return scaled(fused(factor, p.rest, factor), p.n, p.live);
        // p and q are kept as power and rest: their difference keeps its digits if both are near 1,
        // and is 0 if they are equal.
        const Exponential q = exponential_in_full(ts, teacher_lse);
        const Lanes of_p = scaled(factor, p.n, p.live), of_q = scaled(a, q.n, q.live);
        return (of_p - of_q) + (where(p.live, of_p * p.rest) - where(q.live, of_q * q.rest));
    };
    constexpr bool both = Q || B;
    int64_t j = 0;
    if (streamed) {
        for (; j + WIDTH <= vocabulary; j += WIDTH)
            stream(at(load(z + j), both ? load(t + j) : all(0)), out + j);
    } else {
        for (; j + WIDTH <= vocabulary; j += WIDTH)
            store(at(load(z + j), both ? load(t + j) : all(0)), out + j);
    }
    if (j < vocabulary) {
        T last[WIDTH];
        store(
            at(load_some(z + j, vocabulary - j), both ? load_some(t + j, vocabulary - j) : all(0)),
            last);
        memcpy(out + j, last, size_t(vocabulary - j) * sizeof(T));
    }
}

// The gradient of the label's column, in double: if p is almost 1, p - 1 computed from a rounded p
// has no correct digits.
template <class T>
static double label_gradient(T z, T t, const Factors& f) {
    const double x = double(to_float(z));
    const double u = double(to_float(t));
    const double log_p = x - f.lse;
    const double p = exp(log_p);
    double factor = f.alpha - f.c;
    if (f.b != 0) factor += f.b * (((x - u) - (f.top - f.at_top)) - f.gap);
    if (f.h != 0) factor -= f.h * ((x - f.top) - f.drop);
    return f.c * expm1(log_p) + (p == 0 ? 0 : p * factor) -
           (f.a == 0 ? 0 : f.a * exp(u - f.teacher_lse));
}

template <class T>
static void fill(T* out, int64_t count, float value) {
    T one;
    from_float(value, &one);
    for (int64_t j = 0; j < count; ++j) out[j] = one;
}

template <class T>
static void dlogits_row(const Problem& problem, const float* table, const float* upstream,
                        int64_t row, T* out, bool streamed) {
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
    streamed = streamed && reinterpret_cast<uintptr_t>(out) % 64 == 0;
    const auto gradient = a != 0 ? (b != 0 ? (h != 0 ? gradient_row<T, true, true, true>
                                                     : gradient_row<T, true, true, false>)
                                           : (h != 0 ? gradient_row<T, true, false, true>
                                                     : gradient_row<T, true, false, false>))
                                 : (b != 0 ? (h != 0 ? gradient_row<T, false, true, true>
                                                     : gradient_row<T, false, true, false>)
                                           : (h != 0 ? gradient_row<T, false, false, true>
                                                     : gradient_row<T, false, false, false>));
    gradient(z, t, f, vocabulary, out, streamed);
    if (c != 0) from_float(float(label_gradient(z[label], t ? t[label] : T(), f)), out + label);
}

template <class T>
static void stats_rows(const Problem& problem, Wanted wanted, float* table, int64_t begin,
                       int64_t end) {
    const auto one = problem.teacher
                         ? (wanted == TERMS            ? stats_row<T, true, TERMS>
                            : wanted == WITH_ENTROPIES ? stats_row<T, true, WITH_ENTROPIES>
                                                       : stats_row<T, true, WITH_PREDICTIONS>)
                         : (wanted == TERMS            ? stats_row<T, false, TERMS>
                            : wanted == WITH_ENTROPIES ? stats_row<T, false, WITH_ENTROPIES>
                                                       : stats_row<T, false, WITH_PREDICTIONS>);
    for (int64_t row = begin; row < end; ++row) one(problem, row, {table + row, problem.n});
}

template <class T>
static void dlogits_rows(const Problem& problem, const float* table, const float* upstream,
                         void* gradient, int64_t begin, int64_t end) {
    const bool streamed = problem.n * problem.vocabulary >= STREAM_BYTES / int64_t(sizeof(T));
    for (int64_t row = begin; row < end; ++row)
        dlogits_row(problem, table, upstream, row,
                    static_cast<T*>(gradient) + row * problem.vocabulary, streamed);
    if (streamed) fence();
}

static void stats(const Problem& problem, Wanted wanted, float* table, int64_t begin, int64_t end) {
    const auto rows = problem.type == FLOAT32    ? stats_rows<float>
                      : problem.type == BFLOAT16 ? stats_rows<bf16>
                                                 : stats_rows<fp16>;
    rows(problem, wanted, table, begin, end);
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

#define NAME_OF(x) #x
#define NAME(x) NAME_OF(x)
extern const CpuKernel KERNEL;
const CpuKernel KERNEL = {NAME(INSTRUCTION_SET), stats, dlogits};

}  // namespace INSTRUCTION_SET
}  // namespace token_terms
