// The operations of lanes.h in four 128-bit vectors of GCC and Clang, which fit the registers of
// every processor; lanes.h includes this file, inside its namespaces. The compilers would keep
// larger vectors in memory.

typedef float Floats __attribute__((vector_size(16)));
typedef uint32_t Bits __attribute__((vector_size(16)));
typedef uint16_t Halves __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(16)));

struct Lanes {
    Floats v[4];
};
struct Mask {
    Bits m[4];
};

INLINE Floats same(float x) { return Floats{x, x, x, x}; }
INLINE Floats floats(Bits x) { return reinterpret_cast<Floats>(x); }
INLINE Bits bits(Floats x) { return reinterpret_cast<Bits>(x); }
INLINE Bits chosen(Bits mask, Bits yes, Bits no) { return (mask & yes) | (~mask & no); }

// Four of eight 16-bit numbers, as the upper halves of 32-bit numbers.
INLINE Bits upper(Halves x, const bf16*, int half) {
#if defined(__SSE2__)
    const __m128i v = reinterpret_cast<__m128i>(x), zero = _mm_setzero_si128();
    return reinterpret_cast<Bits>(half ? _mm_unpackhi_epi16(zero, v) : _mm_unpacklo_epi16(zero, v));
#else
    Bits r;
    for (int i = 0; i < 4; ++i) r[i] = uint32_t(x[4 * half + i]) << 16;
    return r;
#endif
}
INLINE Floats widened(Halves x, const bf16* kind, int half) { return floats(upper(x, kind, half)); }
INLINE Floats widened(Halves x, const fp16*, int half) {
    const Bits b = upper(x, static_cast<const bf16*>(nullptr), half);
    const Bits magnitude = (b & 0x7fff0000) >> 3;
    const Bits full = Bits(magnitude >= 0x0f800000);               // exponent 31: infinity or NaN
    const Bits finite = bits(floats(magnitude) * same(0x1p112f));  // subnormal numbers too
    return floats((b & 0x80000000) | chosen(full, magnitude | 0x7f800000, finite));
}
INLINE Bits rounded(Floats x, const bf16*) {
    const Bits b = bits(x);
    return chosen(Bits(x != x), b >> 16 | 0x40, (b + 0x7fff + (b >> 16 & 1)) >> 16);
}
// The same as from_float.
INLINE Bits rounded(Floats x, const fp16*) {
    const Bits sign = bits(x) >> 16 & 0x8000;
    const Bits size = bits(x) & 0x7fffffff;
    const Bits normal = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
    const Bits subnormal = bits(floats(size) + same(0.5f)) - 0x3f000000;
    const Bits special = chosen(Bits(size > 0x7f800000), Bits{} + 0x7e00, Bits{} + 0x7c00);
    return sign | chosen(Bits(size >= 0x477ff000), special,
                         chosen(Bits(size >= 0x38800000), normal, subnormal));
}
INLINE Halves packed(Bits a, Bits b) {
#if defined(__SSE2__)
    // SSE4.1 and later have unsigned saturation; here the sign bit is extended first.
    const __m128i low = _mm_srai_epi32(_mm_slli_epi32(reinterpret_cast<__m128i>(a), 16), 16);
    const __m128i high = _mm_srai_epi32(_mm_slli_epi32(reinterpret_cast<__m128i>(b), 16), 16);
    return reinterpret_cast<Halves>(_mm_packs_epi32(low, high));
#else
    Halves r;
    for (int i = 0; i < 4; ++i) {
        r[i] = uint16_t(a[i]);
        r[4 + i] = uint16_t(b[i]);
    }
    return r;
#endif
}

INLINE Lanes all(float x) { return {{same(x), same(x), same(x), same(x)}}; }
INLINE Lanes load(const float* p) {
    Lanes r;
    for (int i = 0; i < 4; ++i) memcpy(&r.v[i], p + 4 * i, 16);
    return r;
}
template <class T>
INLINE Lanes load(const T* p) {
    Halves x[2];
    memcpy(&x[0], p, 16);
    memcpy(&x[1], p + 8, 16);
    return {{widened(x[0], p, 0), widened(x[0], p, 1), widened(x[1], p, 0), widened(x[1], p, 1)}};
}
INLINE void store(Lanes x, float* p) {
    for (int i = 0; i < 4; ++i) memcpy(p + 4 * i, &x.v[i], 16);
}
template <class T>
INLINE void store(Lanes x, T* p) {
    const Halves low = packed(rounded(x.v[0], p), rounded(x.v[1], p));
    const Halves high = packed(rounded(x.v[2], p), rounded(x.v[3], p));
    memcpy(p, &low, 16);
    memcpy(p + 8, &high, 16);
}
template <class T>
INLINE void stream(Lanes x, T* p) {
    store(x, p);
}
INLINE Lanes operator+(Lanes a, Lanes b) {
    Lanes r;
    for (int i = 0; i < 4; ++i) r.v[i] = a.v[i] + b.v[i];
    return r;
}
INLINE Lanes operator-(Lanes a, Lanes b) {
    Lanes r;
    for (int i = 0; i < 4; ++i) r.v[i] = a.v[i] - b.v[i];
    return r;
}
INLINE Lanes operator*(Lanes a, Lanes b) {
    Lanes r;
    for (int i = 0; i < 4; ++i) r.v[i] = a.v[i] * b.v[i];
    return r;
}
INLINE Lanes fused(Lanes a, Lanes b, Lanes c) { return a * b + c; }
INLINE Lanes fused_minus(Lanes a, Lanes b, Lanes c) { return c - a * b; }
INLINE Lanes larger(Lanes x, Lanes top) {
    Lanes r;
    for (int i = 0; i < 4; ++i)
        r.v[i] = floats(chosen(Bits(x.v[i] > top.v[i]), bits(x.v[i]), bits(top.v[i])));
    return r;
}
INLINE Lanes nearest(Lanes x) {
    const Lanes shift = all(0x1.8p23f);
    return (x + shift) - shift;
}
INLINE Mask not_below(Lanes x, float bound) {
    Mask r;
    for (int i = 0; i < 4; ++i) r.m[i] = ~Bits(x.v[i] < same(bound));
    return r;
}
INLINE bool any(Mask m, Mask k) {
    uint64_t halves[2];
    const Bits found =
        ((m.m[0] | m.m[1]) | (m.m[2] | m.m[3])) | ((k.m[0] | k.m[1]) | (k.m[2] | k.m[3]));
    memcpy(halves, &found, 16);
    return (halves[0] | halves[1]) != 0;
}
INLINE Lanes where(Mask m, Lanes x) {
    Lanes r;
    for (int i = 0; i < 4; ++i) r.v[i] = floats(m.m[i] & bits(x.v[i]));
    return r;
}
INLINE Lanes scaled(Lanes x, Lanes n, Mask m) {
    Lanes r;  // 2^n is built from the lowest bits of n + 1.5 2^23, which are n
    for (int i = 0; i < 4; ++i)
        r.v[i] =
            floats(m.m[i] & bits(x.v[i] * floats((bits(n.v[i] + same(0x1.8p23f)) + 127) << 23)));
    return r;
}

#if defined(__SSE2__)
INLINE Doubles widened(Floats x, int half) {
    const __m128 v = reinterpret_cast<__m128>(x);
    return reinterpret_cast<Doubles>(_mm_cvtps_pd(half ? _mm_movehl_ps(v, v) : v));
}
#else
INLINE Doubles widened(Floats x, int half) {
    return Doubles{double(x[2 * half]), double(x[2 * half + 1])};
}
#endif

INLINE Lanes fused_where(Mask m, Lanes a, Lanes b, Lanes c) {
    return fused(a, where(m, b), c);
}  // a is finite
INLINE void add_to(double* sums, Lanes x) {
    for (int i = 0; i < 4; ++i) {
        Doubles sum;
        memcpy(&sum, sums + 2 * i, 16);
        sum = (sum + widened(x.v[i / 2], i % 2)) + widened(x.v[2 + i / 2], i % 2);
        memcpy(sums + 2 * i, &sum, 16);
    }
}
