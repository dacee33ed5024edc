// The sums over one row of logits, or over two rows, from which every term is computed on the CPU.
//
// A row is read in blocks that fit the first-level cache: first the block's maximum, then its sums
// relative to the row's maximum so far, x = z - max z and u = t - max t, and to t_r, the teacher's
// logit at the student's maximum:
//   S = sum e^x
//   W = sum e^x x, and for predictions sum e^x x^2
//   G = sum e^x (x - (t - t_r)) for the student, sum e^u (u - x) for the teacher
// kl_teacher_student = G_t / S_t - ln S_t + ln S_s, and so on. An offset common to all logits of a
// row has no effect.
//
// If one probability of the student is almost 1, S is 1 plus a small number, and the gradient is
// computed from that small number: the largest column adds exactly 1 to S and 0 to W and G. The few
// columns that are a large part of the rest are added in double, one by one. The others are added
// in fp32 lanes, which are added to sums in double after every GROUP columns.

#pragma once

#include "lanes.h"
#include "token_terms.h"

namespace token_terms {
namespace INSTRUCTION_SET {

constexpr int64_t BLOCK = 2048;  // columns
// Columns that are added in lanes before the lanes are added to sums in double.
constexpr int64_t GROUP = 256;
constexpr int64_t WIDTH = 16;  // lanes
constexpr int64_t SUMS = 8;    // sums in double
// A vector with an x or u above this is added in double. A row has few of them; each takes ten
// times as long.
constexpr float LARGE = -0.5f;
constexpr float SMALLEST = 0x1p-126f;  // an exponential is 0 or not below this

#if defined(__GNUC__)
static inline void prefetch(const void* p) { __builtin_prefetch(p); }
#else
static inline void prefetch(const void*) {}
#endif

// The sums of one row of one tensor so far, relative to `top`.
struct Side {
    double sum[SUMS] = {}, weighted[SUMS] = {}, squared[SUMS] = {}, gap[SUMS] = {};
    float top = -INFINITY;
    int64_t column = 0;  // of the student's top, the first
    float other = 0;  // in the student's: the teacher's logit at the top, or 0 if that is infinite

    // -inf - -inf would be NaN.
    float reference() const { return top == -INFINITY ? 0.0f : top; }
};

// What the forward pass of a row keeps for its gradient: the exponentials of each column, e of the
// student and f of the teacher, relative to the tops of its block.
struct Kept {
    float *e, *f, *tops, *teacher_tops;
    int64_t column;  // the student's largest, the first; known if there is a teacher
};

struct Totals {
    double sum, weighted, squared, gap;
};

static double total(const double* x) {
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

static Totals totals(const Side& side) {
    // A row without a logit above -inf has no distribution; its sum is 0 or NaN.
    return {side.top == -INFINITY ? NAN : total(side.sum), total(side.weighted),
            total(side.squared), total(side.gap)};
}

// value * factor, where inf * 0 is 0.
static double shrunk(double value, double factor) {
    return factor == 0 && value == value ? 0 : value * factor;
}

// Changes the sums of a side to a larger `top`, at which the other tensor's logit is `other`. The
// gaps of the teacher are relative to the student's top too: when the student's top changes,
// `teacher` is the teacher's side; otherwise it is null.
static void raise(Side& side, Side* teacher, float top, float other) {
    // The first rise: every sum is 0 or NaN, and the teacher's gaps are 0, infinite or NaN.
    const bool first = side.top == -INFINITY;
    const double rise = double(top) - double(side.top);
    const double factor = first ? 1 : exp(-rise);
    const double widening = rise - (double(other) - double(side.other));
    side.top = top;
    side.other = other;
    if (first) return;
    for (int i = 0; i < SUMS; ++i) {
        side.squared[i] =
            shrunk(side.squared[i] - rise * (2 * side.weighted[i] - rise * side.sum[i]), factor);
        side.weighted[i] = shrunk(side.weighted[i] - rise * side.sum[i], factor);
        side.gap[i] = shrunk(side.gap[i] - widening * side.sum[i], factor);
        if (teacher) teacher->gap[i] += rise * teacher->sum[i];
        side.sum[i] = shrunk(side.sum[i], factor);
    }
}

// The two largest of some lanes.
struct Tops {
    float first, second;
};

static Tops tops(Lanes lanes) {
    float values[WIDTH];
    store(lanes, values);
    Tops top = {-INFINITY, -INFINITY};
    for (float value : values) {  // without branches: they could not be predicted; NaN is not found
        const float less = value > top.first ? top.first : value;
        top.first = value > top.first ? value : top.first;
        top.second = less > top.second ? less : top.second;
    }
    return top;
}

// `count` < WIDTH columns; the other lanes are -inf, which contributes nothing.
template <class T>
static inline Lanes load_some(const T* p, int64_t count) {
    T padded[WIDTH];
    for (int i = 0; i < WIDTH; ++i) from_float(-INFINITY, padded + i);
    memcpy(padded, p, size_t(count) * sizeof(T));
    return load(padded);
}

// x = z - top and e^x in double, for lanes near the maximum.
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

template <bool TEACHER, bool PREDICTIONS>
static void add_large(Lanes z, Lanes ts, Side& student, Side& teacher) {
    double e[WIDTH], f[WIDTH], x[WIDTH], u[WIDTH];
    float t[WIDTH];
    in_double(z, student.reference(), x, e);
    if (TEACHER) {
        in_double(ts, teacher.reference(), u, f);
        store(ts, t);
    }
    for (int i = 0; i < WIDTH; ++i) {  // where e is 0 the other factor may be infinite
        student.sum[i % SUMS] += e[i];
        if (e[i] != 0) student.weighted[i % SUMS] += e[i] * x[i];
        if (PREDICTIONS && e[i] != 0) student.squared[i % SUMS] += e[i] * x[i] * x[i];
        if (!TEACHER) continue;
        teacher.sum[i % SUMS] += f[i];
        if (f[i] != 0) {
            teacher.weighted[i % SUMS] += f[i] * u[i];
            teacher.gap[i % SUMS] += f[i] * (u[i] - x[i]);
        }
        if (e[i] != 0)
            student.gap[i % SUMS] += e[i] * (x[i] - (double(t[i]) - double(student.other)));
    }
}

// The sums of one group of columns, in lanes, without the vectors that have large columns.
template <bool TEACHER, Wanted WANTED>
struct Group {
    static constexpr bool ENTROPIES = WANTED >= WITH_ENTROPIES,
                          PREDICTIONS = WANTED == WITH_PREDICTIONS;
    Lanes s = all(0), t = s, s_weighted = s, t_weighted = s, s_gap = s, t_gap = s, s_squared = s;

    // Adds a vector unless one of its columns is large: x >= `large` or u >= LARGE. Returns whether
    // it was added. Its exponentials are stored at e_out and f_out unless these are null.
    ALWAYS_INLINE bool add(Lanes z, Lanes ts, const Reference& z_top, const Reference& t_top,
                           Lanes other, float large, float* e_out, float* f_out) {
        const Lanes x = z - z_top.whole, u = ts - t_top.whole;
        if (__builtin_expect(
                any(not_below(x, large), not_below(TEACHER ? u : x, TEACHER ? LARGE : large)), 0))
            return false;
        Mask live, live_t;
        const Lanes e = exponential(z, x, z_top, live);
        if (e_out) store(e, e_out);
        s = s + e;
        if (ENTROPIES) s_weighted = fused_where(live, e, x, s_weighted);
        if (PREDICTIONS) s_squared = fused_where(live, e, x * x, s_squared);
        if (!TEACHER) return true;
        const Lanes f = exponential(ts, u, t_top, live_t);
        if (f_out) store(f, f_out);
        t = t + f;
        t_gap = fused_where(live_t, f, u - x, t_gap);
        s_gap = fused_where(live, e, x - (ts - other), s_gap);
        if (ENTROPIES) t_weighted = fused_where(live_t, f, u, t_weighted);
        return true;
    }

    ALWAYS_INLINE void empty_into(Side& student, Side& teacher) const {
        add_to(student.sum, s);
        if (ENTROPIES) add_to(student.weighted, s_weighted);
        if (PREDICTIONS) add_to(student.squared, s_squared);
        if (!TEACHER) return;
        add_to(teacher.sum, t);
        add_to(teacher.gap, t_gap);
        add_to(student.gap, s_gap);
        if (ENTROPIES) add_to(teacher.weighted, t_weighted);
    }
};

template <class T>
static Tops block_tops(const T* p, int64_t count) {
    Lanes even = all(-INFINITY), odd = even;
    int64_t j = 0;
    for (; j + 2 * WIDTH <= count; j += 2 * WIDTH) {
        even = larger(load(p + j), even);
        odd = larger(load(p + j + WIDTH), odd);
    }
    for (; j + WIDTH <= count; j += WIDTH) even = larger(load(p + j), even);
    if (j < count) odd = larger(load_some(p + j, count - j), odd);
    return tops(larger(even, odd));
}

static bool reaches(Lanes z, float top) { return any(not_below(z, top), not_below(z, top)); }

// The first column where the student's logit is `top`; there is one.
template <class T>
static int64_t first_at(const T* z, int64_t count, float top) {
    int64_t j = 0;
    while (j + WIDTH <= count && !reaches(load(z + j), top)) j += WIDTH;
    while (to_float(z[j]) != top) ++j;
    return j;
}

template <class T>
static float finite_or_0(T logit) {
    const float value = to_float(logit);
    return value - value == 0 ? value : 0;
}

// The bound of x above which a column of the student is added in double. It is LARGE; if one
// probability is almost 1, columns are added in double that are more than e^-0.5 to e^-4 of the sum
// without the top, the smaller the sum the lower the bound. `rest`: the sum so far without the top;
// `next`: the block's largest x below the top.
static float large_from(double rest, double next) {
    if (rest >= 1) return LARGE;
    const double known = log(rest);
    const double log_rest = known > next ? known : next;
    const double near = 1.5 * log_rest + double(LARGE);
    const double far = log_rest - 4;
    const double bound = near > far ? near : far;
    return bound < double(LARGE) ? float(bound) : LARGE;
}

template <class T, bool TEACHER, Wanted WANTED, bool KEEP>
static void read_row(const T* z, const T* t, int64_t vocabulary, Side& student, Side& teacher,
                     const Kept& kept) {
    for (int64_t start = 0; start < vocabulary; start += BLOCK) {
        const int64_t count = vocabulary - start < BLOCK ? vocabulary - start : BLOCK;
        const T *zs = z + start, *ts = TEACHER ? t + start : nullptr;
        const Tops z_tops = block_tops(zs, count),
                   t_tops = TEACHER ? block_tops(ts, count) : z_tops;
        const bool rises = z_tops.first > student.top;
        if (rises) {
            const bool searched = TEACHER || WANTED == WITH_PREDICTIONS;
            const int64_t column = searched ? first_at(zs, count, z_tops.first) : 0;
            student.column = start + column;
            raise(student, TEACHER ? &teacher : nullptr, z_tops.first,
                  TEACHER ? finite_or_0(ts[column]) : 0);
        }
        if (TEACHER && t_tops.first > teacher.top) raise(teacher, nullptr, t_tops.first, 0);
        const Reference z_top(student.reference()), t_top(teacher.reference());
        const float next = rises ? z_tops.second : z_tops.first;
        const Lanes other = all(student.other);
        float *e = KEEP ? kept.e + start : nullptr, *f = KEEP && TEACHER ? kept.f + start : nullptr;
        if (KEEP) kept.tops[start / BLOCK] = student.top;
        if (KEEP && TEACHER) kept.teacher_tops[start / BLOCK] = teacher.top;
        const float large = large_from(total(student.sum) - (rises ? 0 : 1),
                                       double(next) - double(student.reference()));
        for (int64_t first = 0; first < count; first += GROUP) {
            const int64_t end = count - first < GROUP ? count : first + GROUP;
            const auto some = [&](const T* row, int64_t j) {
                return !TEACHER && row == ts ? all(0)
                       : j + WIDTH <= end    ? load(row + j)
                                             : load_some(row + j, end - j);
            };
            Group<TEACHER, WANTED> group;
            // One bit for each vector that was not added. The loop has no call, so that it keeps
            // its registers.
            unsigned left = 0;
            int64_t j = first;
            for (; j + WIDTH <= end; j += WIDTH) {
                // The next block is loaded into the cache while this one is computed.
                for (int64_t ahead = 0; ahead < WIDTH; ahead += 64 / int64_t(sizeof(T))) {
                    prefetch(zs + j + BLOCK + ahead);
                    if (TEACHER) prefetch(ts + j + BLOCK + ahead);
                }
                left = left << 1 | !group.add(load(zs + j), TEACHER ? load(ts + j) : all(0), z_top,
                                              t_top, other, large, KEEP ? e + j : nullptr,
                                              KEEP && TEACHER ? f + j : nullptr);
            }
            if (j < end)
                left = left << 1 | !group.add(some(zs, j), some(ts, j), z_top, t_top, other, large,
                                              KEEP ? e + j : nullptr,
                                              KEEP && TEACHER ? f + j : nullptr);
            group.empty_into(student, teacher);
            for (j = first + (end - first - 1) / WIDTH * WIDTH; left; left >>= 1, j -= WIDTH)
                if (left & 1) {
                    const Lanes own = some(zs, j), others = some(ts, j);
                    Mask live;
                    if (KEEP) store(exponential(own, own - z_top.whole, z_top, live), e + j);
                    if (KEEP && TEACHER)
                        store(exponential(others, others - t_top.whole, t_top, live), f + j);
                    add_large<TEACHER, WANTED == WITH_PREDICTIONS>(own, others, student, teacher);
                }
        }
    }
}

}  // namespace INSTRUCTION_SET
}  // namespace token_terms
