// The gradient of one row on the CPU.

#pragma once

#include "row_sums.h"

namespace token_terms {
namespace INSTRUCTION_SET {

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

// The same for 16 bits, from the exponentials that the forward pass has kept. With S the sum of e^x,
// x = z - the block's top, and e^u, S_t the teacher's:
//   dz = e^x (alpha + b (...) - h (...)) / S - e^u a / S_t
// The division is part of the block's factors. An exponential is rounded to fp32, which 16 bits hide
// but where p and q are near each other. So their products are computed with the rounding errors,
// and the student's largest column, where both may be near 1, is left to the caller.
template <class T, bool Q, bool B, bool H>
static void gradient_of_kept(const T* z, const T* t, const Factors& f, int64_t vocabulary, T* out,
                             bool streamed, const Kept& kept) {
    const double means = f.alpha - (B ? f.b * f.gap : 0) + (H ? f.h * f.drop : 0);
    const Lanes top = all(float(f.top)), difference_at_top = all(float(f.top - f.at_top));
    for (int64_t start = 0; start < vocabulary; start += BLOCK) {
        const int64_t count = vocabulary - start < BLOCK ? vocabulary - start : BLOCK;
        const T *zs = z + start, *ts = B ? t + start : nullptr;
        const double of_s = exp(double(kept.tops[start / BLOCK]) - f.lse);
        const double of_t = Q ? exp(double(kept.teacher_tops[start / BLOCK]) - f.teacher_lse) : 0;
        const Lanes alpha = all(float(means * of_s)), b = all(float(f.b * of_s)),
                    h = all(float(-f.h * of_s)), a = all(float(f.a * of_t));
        const Lanes rest_of_alpha = all(float(means * of_s - double(float(means * of_s)))),
                    rest_of_a = all(float(f.a * of_t - double(float(f.a * of_t))));
        auto at = [&](Lanes own, Lanes other, int64_t j) ALWAYS_INLINE {
            const Lanes e = load(kept.e + start + j);
            const Mask some = not_below(e, SMALLEST);  // else the factor may be infinite
            Lanes factor = alpha;
            if (H) factor = fused(h, own - top, factor);
            if (B) factor = fused(b, (own - other) - difference_at_top, factor);
            if (!Q) return B || H ? where(some, e * factor) : e * factor;
            const Lanes q = load(kept.f + start + j), of_q = a * q;
            // Not fused: the difference of equal products must be 0.
            if (B || H) return where(some, e * factor) - of_q;
            const Lanes small = (e * rest_of_alpha - q * rest_of_a) + fused_minus(a, q, of_q);
            return small - fused_minus(e, alpha, of_q);
        };
        int64_t j = 0;
        if (streamed) {
            for (; j + WIDTH <= count; j += WIDTH)
                stream(at(B || H ? load(zs + j) : all(0), B ? load(ts + j) : all(0), j),
                       out + start + j);
        } else {
            for (; j + WIDTH <= count; j += WIDTH)
                store(at(B || H ? load(zs + j) : all(0), B ? load(ts + j) : all(0), j),
                      out + start + j);
        }
        if (j < count) {
            T last[WIDTH];
            store(at(B || H ? load_some(zs + j, count - j) : all(0),
                     B ? load_some(ts + j, count - j) : all(0), j),
                  last);
            memcpy(out + start + j, last, size_t(count - j) * sizeof(T));
        }
    }
}

// The gradient of one column, in double; c is 0 if it is not the label's. If p is almost 1, p - 1 or
// p - q computed from a rounded p has no correct digits.
template <class T>
static double exact_gradient(T z, T t, const Factors& f) {
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

}  // namespace INSTRUCTION_SET
}  // namespace token_terms
