// The per-token terms on the CPU, compiled once for each instruction set (INSTRUCTION_SET names it).
//
// A row is read in blocks that stay in the first-level cache: the block's maximum, then its sums relative to the row's maximum
// so far, x = z - max z and u = t - max t:
//   S = sum e^x   W = sum e^x x   G = sum of e^x (x - u) for the student, of e^u (u - x) for the teacher
// kl_teacher_student = G_t / S_t - ln S_t + ln S_s, and so on: an offset common to a row's logits never enters.
//
// Where the student is sure, S is 1 and a little, and the gradient is made of that little. So logits near the maximum, which
// are few, are added in double one by one, and the others in fp32 lanes that are emptied into sums in double before long.

#include "lanes.h"
#include "token_terms.h"

namespace token_terms {
namespace INSTRUCTION_SET {

constexpr int64_t BLOCK = 2048, GROUP = 128, WIDTH = 16, SUMS = 8;  // columns; of lanes emptied at once; lanes; sums in double
constexpr float LARGE = -0.5f;  // a vector with an x or u above it is added in double: a few of a row, each at the price of ten
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

// At the end of all rows: with the upper halves of the registers in use, whatever runs next without AVX is up to 3 x slower.
static inline void leave() {
#if defined(LANES_AVX512) || defined(LANES_AVX2)
    _mm256_zeroupper();
#endif
}

// What one tensor's side of a row has summed so far, relative to `top`.
struct Side {
    double sum[SUMS] = {}, weighted[SUMS] = {}, gap[SUMS] = {};
    float top = -INFINITY;
    float reference() const { return top == -INFINITY ? 0.0f : top; }  // -inf - -inf would be NaN
};

struct Totals { double sum, weighted, gap; };

static double total(const double* x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

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
    for (int i = 0; i < SUMS; ++i) {
        side.weighted[i] = shrunk(side.weighted[i] - rise * side.sum[i], factor);
        if (other) {
            side.gap[i] = shrunk(side.gap[i] - rise * side.sum[i], factor);
            other->gap[i] += rise * other->sum[i];
        }
        side.sum[i] = shrunk(side.sum[i], factor);
    }
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

// Lanes near the maximum, one by one: x = z - top and e^x in double.
static void in_double(Lanes z, float top, double* x, double* e) {
    float values[WIDTH], power[WIDTH], rest[WIDTH];
    const Exponential found = exponential_in_full(z, Reference(top));
    store(z, values);
    store(scaled(all(1), found.n, found.live), power);
    store(found.rest, rest);
    for (int i = 0; i < WIDTH; ++i) {
        x[i] = double(values[i]) - double(top);
        e[i] = power[i] == 0 ? 0 : double(power[i]) * (1 + double(rest[i]));
    }
}

template <bool TEACHER> static void add_large(Lanes z, Lanes ts, Side& student, Side& teacher) {
    double e[WIDTH], f[WIDTH], x[WIDTH], u[WIDTH];
    in_double(z, student.reference(), x, e);
    if (TEACHER) in_double(ts, teacher.reference(), u, f);
    for (int i = 0; i < WIDTH; ++i) {  // where e is 0 the other factor may be infinite
        student.sum[i % SUMS] += e[i];
        if (e[i] != 0) student.weighted[i % SUMS] += e[i] * x[i];
        if (!TEACHER) continue;
        teacher.sum[i % SUMS] += f[i];
        if (f[i] != 0) teacher.weighted[i % SUMS] += f[i] * u[i], teacher.gap[i % SUMS] += f[i] * (u[i] - x[i]);
        if (e[i] != 0) student.gap[i % SUMS] += e[i] * (x[i] - u[i]);
    }
}

// The sums of one group of columns, in lanes, without the vectors that hold large ones.
template <bool TEACHER, bool ENTROPIES> struct Group {
    Lanes s = all(0), t = s, s_weighted = s, t_weighted = s, s_gap = s, t_gap = s;

    // Whether they were added: not where there is a large one.
    ALWAYS_INLINE bool add(Lanes z, Lanes ts, const Reference& z_top, const Reference& t_top) {
        const Lanes x = z - z_top.whole, u = ts - t_top.whole;
        if (__builtin_expect(any(not_below(TEACHER ? larger(x, u) : x, LARGE)), 0)) return false;
        Mask live, live_t;
        const Lanes e = exponential(z, x, z_top, live);
        s = s + e;
        if (ENTROPIES) s_weighted = fused_where(live, e, x, s_weighted);
        if (!TEACHER) return true;
        const Lanes f = exponential(ts, u, t_top, live_t), gap = u - x;
        t = t + f;
        t_gap = fused_where(live_t, f, gap, t_gap);
        s_gap = fused_where(live, e, gap, s_gap);
        if (ENTROPIES) t_weighted = fused_where(live_t, f, u, t_weighted);
        return true;
    }

    ALWAYS_INLINE void empty_into(Side& student, Side& teacher) const {
        add_to(student.sum, s);
        if (ENTROPIES) add_to(student.weighted, s_weighted);
        if (!TEACHER) return;
        add_to(teacher.sum, t);
        add_to(teacher.gap, t_gap);
        add_to(student.gap, all(0) - s_gap);
        if (ENTROPIES) add_to(teacher.weighted, t_weighted);
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
        const Reference z_top(student.reference()), t_top(teacher.reference());
        for (int64_t first = 0; first < count; first += GROUP) {
            const int64_t end = count - first < GROUP ? count : first + GROUP;
            const auto some = [&](const T* row, int64_t j) {
                return !TEACHER && row == ts ? all(0) : j + WIDTH <= end ? load(row + j) : load_some(row + j, end - j);
            };
            Group<TEACHER, ENTROPIES> group;
            unsigned large = 0;  // one bit for each vector; no call in the loop, so that the registers are its own
            int64_t j = first;
            for (; j + WIDTH <= end; j += WIDTH) {
                // The next block comes into the cache while this one is computed.
                for (int64_t ahead = 0; ahead < WIDTH; ahead += 64 / int64_t(sizeof(T))) {
                    prefetch(zs + j + BLOCK + ahead);
                    if (TEACHER) prefetch(ts + j + BLOCK + ahead);
                }
                large = large << 1 | !group.add(load(zs + j), TEACHER ? load(ts + j) : all(0), z_top, t_top);
            }
            if (j < end) large = large << 1 | !group.add(some(zs, j), some(ts, j), z_top, t_top);
            group.empty_into(student, teacher);
            for (j = first + (end - first - 1) / WIDTH * WIDTH; large; large >>= 1, j -= WIDTH)
                if (large & 1) add_large<TEACHER>(some(zs, j), some(ts, j), student, teacher);
        }
    }
}

// A column of the table, and the writes into it.
struct Column {
    float* first;
    int64_t n;
    void set(Row row, double value) const { first[row * n] = float(value); }
    void set_split(Row high, Row low, double value) const {
        set(high, value);
        const double rest = value - double(first[high * n]);
        set(low, rest == rest ? rest : 0);  // an infinite value has none
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
    if (ENTROPIES) out.set_split(ENTROPY, ENTROPY_LOW, log_s - s.weighted / s.sum);
    if (!TEACHER) return;
    const Totals q = totals(teacher);
    const double log_q = log(q.sum);
    out.set_split(TEACHER_LSE, TEACHER_LSE_LOW, double(teacher.top) + log_q);
    if (!ignored) out.set(TEACHER_NLL, nll(t, label, known, teacher, log_q));
    if (ENTROPIES) out.set(TEACHER_ENTROPY, log_q - q.weighted / q.sum);
    out.set(KL_TEACHER_STUDENT, not_negative(q.gap / q.sum - log_q + log_s));
    out.set_split(KL_STUDENT_TEACHER, KL_STUDENT_TEACHER_LOW, not_negative(s.gap / s.sum - log_s + log_q));
}

// What the gradient of one row is made of, with the terms that cancel taken together:
//   dz = p (alpha + b ((z - t) - kl_offset) - h (z - entropy_offset)) - a q - c onehot(label)
//   kl_offset = lse - teacher_lse + kl_student_teacher   entropy_offset = lse - entropy
struct Factors {
    double alpha, a, b, c, h;
    double lse, teacher_lse, kl_offset, entropy_offset;
};

template <class T, bool Q, bool B, bool H>
static void gradient_row(const T* z, const T* t, const Factors& f, int64_t vocabulary, T* out, bool streamed) {
    constexpr bool EXACT = sizeof(T) == 4;
    const Reference lse(f.lse), teacher_lse(f.teacher_lse);
    const Lanes a = all(float(f.a)), b = all(float(f.b)), h = all(float(f.h)), kl_offset = all(float(f.kl_offset)),
                entropy_offset = all(float(f.entropy_offset));
    // What rounding the two offsets loses goes where it is not lost.
    const Lanes alpha = all(float(f.alpha - f.b * (f.kl_offset - double(float(f.kl_offset))) +
                                  f.h * (f.entropy_offset - double(float(f.entropy_offset)))));
    auto at = [&](Lanes zs, Lanes ts) ALWAYS_INLINE {
        const Exponential p = exponential_in_full(zs, lse);
        Lanes factor = alpha;
        if (H) factor = fused_minus(h, zs - entropy_offset, factor);
        if (B) {
            const Lanes difference = zs - ts;
            if (EXACT) factor = fused(b, lost(zs, ts, difference), factor);
            factor = fused(b, difference - kl_offset, factor);
        }
        if (!Q) return scaled(fused(factor, p.rest, factor), p.n, p.live);
        // p and q apart as power and rest: their difference keeps its digits where both are near 1, and is 0 where they are one.
        const Exponential q = exponential_in_full(ts, teacher_lse);
        const Lanes of_p = scaled(factor, p.n, p.live), of_q = scaled(a, q.n, q.live);
        return (of_p - of_q) + (where(p.live, of_p * p.rest) - where(q.live, of_q * q.rest));
    };
    constexpr bool both = Q || B;
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
    const double x = double(to_float(z)), u = double(to_float(t)), log_p = x - f.lse, p = exp(log_p);
    double factor = f.alpha - f.c;
    if (f.b != 0) factor += f.b * ((x - u) - f.kl_offset);
    if (f.h != 0) factor -= f.h * (x - f.entropy_offset);
    return f.c * expm1(log_p) + (p == 0 ? 0 : p * factor) - (f.a == 0 ? 0 : f.a * exp(u - f.teacher_lse));
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
    Factors f = {c + a + l, a, b, c, h, stat(LSE) + stat(LSE_LOW), stat(TEACHER_LSE) + stat(TEACHER_LSE_LOW), 0, 0};
    if (b != 0) f.kl_offset = f.lse - f.teacher_lse + (stat(KL_STUDENT_TEACHER) + stat(KL_STUDENT_TEACHER_LOW));
    if (h != 0) f.entropy_offset = f.lse - (stat(ENTROPY) + stat(ENTROPY_LOW));
    const double check = f.alpha + f.kl_offset + f.entropy_offset;
    if (check != check || (c != 0 && !known)) return fill(out, vocabulary, NAN);
    const T* z = static_cast<const T*>(problem.student) + row * problem.student_stride;
    const T* t = a != 0 || b != 0 ? static_cast<const T*>(problem.teacher) + row * problem.teacher_stride : nullptr;
    streamed = streamed && reinterpret_cast<uintptr_t>(out) % 64 == 0;
    const auto gradient =
        a != 0 ? (b != 0 ? (h != 0 ? gradient_row<T, true, true, true> : gradient_row<T, true, true, false>)
                         : (h != 0 ? gradient_row<T, true, false, true> : gradient_row<T, true, false, false>))
               : (b != 0 ? (h != 0 ? gradient_row<T, false, true, true> : gradient_row<T, false, true, false>)
                         : (h != 0 ? gradient_row<T, false, false, true> : gradient_row<T, false, false, false>));
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
    leave();
}

static void dlogits(const Problem& problem, const float* table, const float* upstream, void* gradient, int64_t begin,
                    int64_t end) {
    const auto rows = problem.type == FLOAT32 ? dlogits_rows<float> : problem.type == BFLOAT16 ? dlogits_rows<bf16>
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
