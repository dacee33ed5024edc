// The per-token terms on the CPU, compiled once for each instruction set (INSTRUCTION_SET names it).
//
// A row is read in blocks that stay in the first-level cache: the block's maximum, then its sums in fp32 lanes relative to
// the row's maximum so far, x = z - max z and u = t - max t; after a block the lanes are added to sums in double:
//   S = sum e^x   W = sum e^x x   G = sum of e^x (x - u) for the student, of e^u (u - x) for the teacher
// kl_teacher_student = G_t / S_t - ln S_t + ln S_s, and so on: an offset common to a row's logits never enters.

#include "lanes.h"
#include "token_terms.h"

namespace token_terms {
namespace INSTRUCTION_SET {

constexpr int64_t BLOCK = 2048, WIDTH = 16;
constexpr int64_t STREAM_BYTES = 32 << 20;  // larger gradients leave the caches anyway: written past them, without being read

#if defined(__GNUC__)
static inline void prefetch(const void* p) { __builtin_prefetch(p); }
#else
static inline void prefetch(const void*) {}
#endif

static inline void fence() {
#if defined(LANES_AVX512) || defined(LANES_AVX2)
    _mm_sfence();
#endif
}

// What one tensor's side of a row has summed so far, relative to `top`.
struct Side {
    double sum[WIDTH] = {}, weighted[WIDTH] = {}, gap[WIDTH] = {};
    float top = -INFINITY;
    float reference() const { return top == -INFINITY ? 0.0f : top; }  // -inf - -inf would be NaN
};

struct Totals { double sum, weighted, gap; };

static double total(const double* lanes) {
    double pairs[8];
    for (int i = 0; i < 8; ++i) pairs[i] = lanes[i] + lanes[i + 8];
    return ((pairs[0] + pairs[4]) + (pairs[2] + pairs[6])) + ((pairs[1] + pairs[5]) + (pairs[3] + pairs[7]));
}

static Totals totals(const Side& side) {
    // A side without any logit above -inf has no distribution; its sum is 0, or NaN already.
    return {side.top == -INFINITY ? NAN : total(side.sum), total(side.weighted), total(side.gap)};
}

static double shrunk(double value, double factor) { return factor == 0 && value == value ? 0 : value * factor; }  // inf * 0 = 0

// Move the side's reference up to `top`; the other side's gaps are measured from it too.
static void raise(Side& side, Side* other, float top) {
    if (!(top > side.top)) return;
    const bool first = side.top == -INFINITY;  // every sum is 0 or NaN, and the other's gaps are 0, infinite or NaN
    const double rise = double(top) - double(side.top), factor = first ? 1 : exp(-rise);
    side.top = top;
    if (first) return;
    for (int i = 0; i < WIDTH; ++i) {
        side.weighted[i] = shrunk(side.weighted[i] - rise * side.sum[i], factor);
        if (other) {
            side.gap[i] = shrunk(side.gap[i] - rise * side.sum[i], factor);
            other->gap[i] += rise * other->sum[i];
        }
        side.sum[i] = shrunk(side.sum[i], factor);
    }
}

static inline void add_lanes(double* sums, Lanes lanes) {
    float values[WIDTH];
    store(lanes, values);
    for (int i = 0; i < WIDTH; ++i) sums[i] += double(values[i]);
}

static float largest(Lanes lanes) {
    float values[WIDTH], top = -INFINITY;
    store(lanes, values);
    for (int i = 0; i < WIDTH; ++i) top = values[i] > top ? values[i] : top;
    return top;
}

// `count` < WIDTH columns, the rest -inf, which contributes nothing.
template <class T> static inline Lanes load_some(const T* p, int64_t count) {
    T padded[WIDTH];
    for (int i = 0; i < WIDTH; ++i) from_float(-INFINITY, padded + i);
    memcpy(padded, p, size_t(count) * sizeof(T));
    return load(padded);
}

// The sums of one block, in lanes.
template <bool TEACHER, bool ENTROPIES> struct Block {
    Lanes z_top, t_top, s = all(0), t = all(0), s_weighted = all(0), t_weighted = all(0), s_gap = all(0), t_gap = all(0);

    Block(float student_top, float teacher_top) : z_top(all(student_top)), t_top(all(teacher_top)) {}

    inline void add(Lanes z, Lanes teacher) {
        Mask live, live_t;
        const Lanes x = z - z_top, e = exponential(x, live);
        s = s + e;
        if (ENTROPIES) s_weighted = add_product(s_weighted, e, x, live);
        if (TEACHER) {
            const Lanes u = teacher - t_top, f = exponential(u, live_t), gap = u - x;
            t = t + f;
            t_gap = add_product(t_gap, f, gap, live_t);
            s_gap = subtract_product(s_gap, e, gap, live);
            if (ENTROPIES) t_weighted = add_product(t_weighted, f, u, live_t);
        }
    }

    void into(Side& student, Side& teacher) const {
        add_lanes(student.sum, s);
        if (ENTROPIES) add_lanes(student.weighted, s_weighted);
        if (TEACHER) {
            add_lanes(teacher.sum, t);
            add_lanes(teacher.gap, t_gap);
            add_lanes(student.gap, s_gap);
            if (ENTROPIES) add_lanes(teacher.weighted, t_weighted);
        }
    }
};

template <class T> static float block_top(const T* p, int64_t count) {
    Lanes even = all(-INFINITY), odd = even;
    int64_t j = 0;
    for (; j + 2 * WIDTH <= count; j += 2 * WIDTH) {
        even = larger(load(p + j), even);
        odd = larger(load(p + j + WIDTH), odd);
    }
    for (; j + WIDTH <= count; j += WIDTH) even = larger(load(p + j), even);
    if (j < count) odd = larger(load_some(p + j, count - j), odd);
    return largest(larger(even, odd));
}

template <class T, bool TEACHER, bool ENTROPIES>
static void read_row(const T* z, const T* t, int64_t vocabulary, Side& student, Side& teacher) {
    for (int64_t start = 0; start < vocabulary; start += BLOCK) {
        const int64_t count = vocabulary - start < BLOCK ? vocabulary - start : BLOCK;
        const T *zs = z + start, *ts = TEACHER ? t + start : nullptr;
        raise(student, TEACHER ? &teacher : nullptr, block_top(zs, count));
        if (TEACHER) raise(teacher, &student, block_top(ts, count));
        Block<TEACHER, ENTROPIES> block(student.reference(), teacher.reference());
        int64_t j = 0;
        for (; j + 2 * WIDTH <= count; j += 2 * WIDTH) {
            // The next block comes into the cache while this one is computed.
            for (int64_t ahead = 0; ahead < 2 * WIDTH; ahead += 64 / int64_t(sizeof(T))) {
                prefetch(zs + j + BLOCK + ahead);
                if (TEACHER) prefetch(ts + j + BLOCK + ahead);
            }
            block.add(load(zs + j), TEACHER ? load(ts + j) : all(0));
            block.add(load(zs + j + WIDTH), TEACHER ? load(ts + j + WIDTH) : all(0));
        }
        for (; j + WIDTH <= count; j += WIDTH) block.add(load(zs + j), TEACHER ? load(ts + j) : all(0));
        if (j < count) block.add(load_some(zs + j, count - j), TEACHER ? load_some(ts + j, count - j) : all(0));
        block.into(student, teacher);
    }
}

// A column of the table, and the writes into it.
struct Column {
    float* first;
    int64_t n;
    void set(Row row, double value) const { first[row * n] = float(value); }
    void set_split(Row high, Row low, double value) const {
        set(high, value);
        set(low, value - double(first[high * n]));
    }
};

static double not_negative(double kl) { return kl < 0 ? 0 : kl; }  // NaN stays

template <class T> static double nll(const T* row, int64_t label, bool known, const Side& side, double log_sum) {
    return known ? (double(side.top) - double(to_float(row[label]))) + log_sum : NAN;
}

template <class T, bool TEACHER, bool ENTROPIES>
static void stats_row(const Problem& problem, int64_t row, const Column& out) {
    const int64_t label = problem.labels[row];
    const bool ignored = label == problem.ignore_index, known = label >= 0 && label < problem.vocabulary;
    for (int i = 0; i < N_STATS; ++i) out.set(Row(i), 0);
    if (ignored && problem.skip_ignored) return;
    const T* z = static_cast<const T*>(problem.student) + row * problem.student_stride;
    const T* t = TEACHER ? static_cast<const T*>(problem.teacher) + row * problem.teacher_stride : nullptr;
    Side student, teacher;
    read_row<T, TEACHER, ENTROPIES>(z, t, problem.vocabulary, student, teacher);
    const Totals s = totals(student);
    const double log_s = log(s.sum);
    out.set_split(LSE, LSE_LOW, double(student.top) + log_s);
    if (!ignored) out.set(NLL, nll(z, label, known, student, log_s));
    if (ENTROPIES) out.set(ENTROPY, log_s - s.weighted / s.sum);
    if (!TEACHER) return;
    const Totals q = totals(teacher);
    const double log_q = log(q.sum);
    out.set_split(TEACHER_LSE, TEACHER_LSE_LOW, double(teacher.top) + log_q);
    if (!ignored) out.set(TEACHER_NLL, nll(t, label, known, teacher, log_q));
    if (ENTROPIES) out.set(TEACHER_ENTROPY, log_q - q.weighted / q.sum);
    out.set(KL_TEACHER_STUDENT, not_negative(q.gap / q.sum - log_q + log_s));
    out.set(KL_STUDENT_TEACHER, not_negative(s.gap / s.sum - log_s + log_q));
}

// What the gradient of one row is made of: dz = p (alpha + log_p (b - h) - b log_q) - a q - c onehot(label).
struct Factors {
    double alpha, a, b, c, h;
    double lse, lse_low, teacher_lse, teacher_lse_low;
};

template <class T, bool Q, bool LOG_P, bool LOG_Q>
static void gradient_row(const T* z, const T* t, const Factors& f, int64_t vocabulary, T* out, bool streamed) {
    const Lanes lse = all(float(f.lse)), low = all(float(f.lse_low)), t_lse = all(float(f.teacher_lse)),
                t_low = all(float(f.teacher_lse_low)), alpha = all(float(f.alpha)), a = all(float(f.a)),
                b = all(float(f.b)), b_minus_h = all(float(f.b - f.h));
    auto at = [&](Lanes zs, Lanes ts) {
        Mask live, live_q;
        const Lanes log_p = (zs - lse) - low, p = exponential(log_p, live);
        Lanes factor = LOG_P ? fused(b_minus_h, log_p, alpha) : alpha;
        Lanes q = all(0);
        if (Q || LOG_Q) {
            const Lanes log_q = (ts - t_lse) - t_low;
            if (LOG_Q) factor = fused_minus(b, log_q, factor);
            if (Q) q = exponential(log_q, live_q);
        }
        const Lanes dz = where(live, p * factor);  // where p = 0 the factor may be infinite
        return Q ? fused_minus(a, q, dz) : dz;
    };
    constexpr bool both = Q || LOG_Q;
    int64_t j = 0;
    if (streamed)
        for (; j + WIDTH <= vocabulary; j += WIDTH) stream(at(load(z + j), both ? load(t + j) : all(0)), out + j);
    else
        for (; j + WIDTH <= vocabulary; j += WIDTH) store(at(load(z + j), both ? load(t + j) : all(0)), out + j);
    if (j < vocabulary) {
        T last[WIDTH];
        store(at(load_some(z + j, vocabulary - j), both ? load_some(t + j, vocabulary - j) : all(0)), last);
        memcpy(out + j, last, size_t(vocabulary - j) * sizeof(T));
    }
}

// The label's column in double: p - 1 of a confident token has no digits left once p is rounded.
template <class T> static double label_gradient(T z, T t, const Factors& f) {
    const double log_p = (double(to_float(z)) - f.lse) - f.lse_low, p = exp(log_p);
    double factor = f.alpha - f.c;
    if (f.b != f.h) factor += (f.b - f.h) * log_p;
    const double log_q = (double(to_float(t)) - f.teacher_lse) - f.teacher_lse_low;
    if (f.b != 0) factor -= f.b * log_q;
    return f.c * expm1(log_p) + (p == 0 ? 0 : p * factor) - (f.a == 0 ? 0 : f.a * exp(log_q));
}

template <class T>
static void fill(T* out, int64_t count, float value) {
    T one;
    from_float(value, &one);
    for (int64_t j = 0; j < count; ++j) out[j] = one;
}

template <class T>
static void dlogits_row(const Problem& problem, const float* table, const float* upstream, int64_t row, T* out, bool streamed) {
    const int64_t n = problem.n, vocabulary = problem.vocabulary, label = problem.labels[row];
    const auto stat = [=](Row name) { return double(table[name * n + row]); };
    const auto up = [=](Row name) { return double(upstream[name * n + row]); };
    const bool ignored = label == problem.ignore_index, known = label >= 0 && label < vocabulary, paired = problem.teacher;
    const double l = up(LSE), a = paired ? up(KL_TEACHER_STUDENT) : 0, b = paired ? up(KL_STUDENT_TEACHER) : 0, h = up(ENTROPY),
                 c = ignored ? 0 : up(NLL);
    if ((ignored && problem.skip_ignored) || (l == 0 && a == 0 && b == 0 && h == 0 && c == 0)) return fill(out, vocabulary, 0);
    Factors f = {c + a + l, a, b, c, h, stat(LSE), stat(LSE_LOW), stat(TEACHER_LSE), stat(TEACHER_LSE_LOW)};
    if (b != 0) f.alpha -= b * stat(KL_STUDENT_TEACHER);
    if (h != 0) f.alpha -= h * stat(ENTROPY);
    if (f.alpha != f.alpha || (c != 0 && !known)) return fill(out, vocabulary, NAN);
    const T* z = static_cast<const T*>(problem.student) + row * problem.student_stride;
    const T* t = a != 0 || b != 0 ? static_cast<const T*>(problem.teacher) + row * problem.teacher_stride : nullptr;
    streamed = streamed && reinterpret_cast<uintptr_t>(out) % 64 == 0;
    const bool log_p = b != 0 || h != 0;
    const auto gradient = a != 0 ? (b != 0 ? gradient_row<T, true, true, true> : log_p ? gradient_row<T, true, true, false>
                                                                                         : gradient_row<T, true, false, false>)
                                 : (b != 0 ? gradient_row<T, false, true, true> : log_p ? gradient_row<T, false, true, false>
                                                                                          : gradient_row<T, false, false, false>);
    gradient(z, t, f, vocabulary, out, streamed);
    if (c != 0) from_float(float(label_gradient(z[label], t ? t[label] : T(), f)), out + label);
}

template <class T>
static void stats_rows(const Problem& problem, bool entropy, float* table, int64_t begin, int64_t end) {
    const auto one = problem.teacher ? (entropy ? stats_row<T, true, true> : stats_row<T, true, false>)
                                     : (entropy ? stats_row<T, false, true> : stats_row<T, false, false>);
    for (int64_t row = begin; row < end; ++row) one(problem, row, {table + row, problem.n});
}

template <class T>
static void dlogits_rows(const Problem& problem, const float* table, const float* upstream, void* gradient, int64_t begin,
                         int64_t end) {
    const bool streamed = problem.n * problem.vocabulary >= STREAM_BYTES / int64_t(sizeof(T));
    for (int64_t row = begin; row < end; ++row)
        dlogits_row(problem, table, upstream, row, static_cast<T*>(gradient) + row * problem.vocabulary, streamed);
    if (streamed) fence();
}

static void stats(const Problem& problem, bool entropy, float* table, int64_t begin, int64_t end) {
    const auto rows = problem.type == FLOAT32 ? stats_rows<float> : problem.type == BFLOAT16 ? stats_rows<bf16>
                                                                                           : stats_rows<fp16>;
    rows(problem, entropy, table, begin, end);
}

static void dlogits(const Problem& problem, const float* table, const float* upstream, void* gradient, int64_t begin,
                    int64_t end) {
    const auto rows = problem.type == FLOAT32 ? dlogits_rows<float> : problem.type == BFLOAT16 ? dlogits_rows<bf16>
                                                                                             : dlogits_rows<fp16>;
    rows(problem, table, upstream, gradient, begin, end);
}

#define NAME_OF(x) #x
#define NAME(x) NAME_OF(x)
extern const CpuKernel KERNEL;
const CpuKernel KERNEL = {NAME(INSTRUCTION_SET), stats, dlogits};

}  // namespace INSTRUCTION_SET
}  // namespace token_terms
