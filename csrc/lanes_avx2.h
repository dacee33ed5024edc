// The operations of lanes.h in two 256-bit registers; that file includes this one, inside its
// namespaces.

struct Lanes {
    __m256 a, b;
};
struct Mask {
    __m256 a, b;
};

INLINE Lanes all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE __m256 widened(__m128i half, const bf16*) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
INLINE __m256 widened(__m128i half, const fp16*) { return _mm256_cvtph_ps(half); }
INLINE Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
template <class T>
INLINE Lanes load(const T* p) {
    return {widened(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), p),
            widened(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)), p)};
}
INLINE __m128i packed(__m256 x, const bf16*) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i chosen = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}
INLINE __m128i packed(__m256 x, const fp16*) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE void store(Lanes x, float* p) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
INLINE void stream(Lanes x, float* p) {
    _mm256_stream_ps(p, x.a);
    _mm256_stream_ps(p + 8, x.b);
}
template <class T>
INLINE void store(Lanes x, T* p) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed(x.a, p));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), packed(x.b, p));
}
template <class T>
INLINE void stream(Lanes x, T* p) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), packed(x.a, p));
    _mm_stream_si128(reinterpret_cast<__m128i*>(p + 8), packed(x.b, p));
}
INLINE Lanes operator+(Lanes x, Lanes y) {
    return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
INLINE Lanes operator-(Lanes x, Lanes y) {
    return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
INLINE Lanes operator*(Lanes x, Lanes y) {
    return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
INLINE Lanes fused(Lanes x, Lanes y, Lanes z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
INLINE Lanes fused_minus(Lanes x, Lanes y, Lanes z) {
    return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
INLINE Lanes larger(Lanes x, Lanes top) {
    return {_mm256_max_ps(x.a, top.a), _mm256_max_ps(x.b, top.b)};
}
INLINE Lanes where(Mask m, Lanes x) { return {_mm256_and_ps(m.a, x.a), _mm256_and_ps(m.b, x.b)}; }
INLINE __m256 nearest(__m256 x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE Lanes nearest(Lanes x) { return {nearest(x.a), nearest(x.b)}; }
INLINE Mask not_below(Lanes x, float bound) {
    const __m256 b = _mm256_set1_ps(bound);
    return {_mm256_cmp_ps(x.a, b, _CMP_NLT_UQ), _mm256_cmp_ps(x.b, b, _CMP_NLT_UQ)};
}
INLINE bool any(Mask m, Mask k) {
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_or_ps(m.a, m.b), _mm256_or_ps(k.a, k.b))) != 0;
}
// x times 2^n, which is built from its bits; NaN stays NaN.
INLINE __m256 scaled(__m256 x, __m256 n, __m256 m) {
    const __m256i power =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_and_ps(m, _mm256_mul_ps(x, _mm256_castsi256_ps(power)));
}
INLINE Lanes scaled(Lanes x, Lanes n, Mask m) {
    return {scaled(x.a, n.a, m.a), scaled(x.b, n.b, m.b)};
}
INLINE Lanes fused_where(Mask m, Lanes x, Lanes y, Lanes z) {
    return fused(x, where(m, y), z);
}  // x is finite
INLINE __m256d add_wide(__m256d sum, __m128 x) { return _mm256_add_pd(sum, _mm256_cvtps_pd(x)); }
INLINE void add_to(double* sums, Lanes x) {
    const __m256d low = add_wide(_mm256_loadu_pd(sums), _mm256_castps256_ps128(x.a));
    const __m256d high = add_wide(_mm256_loadu_pd(sums + 4), _mm256_extractf128_ps(x.a, 1));
    _mm256_storeu_pd(sums, add_wide(low, _mm256_castps256_ps128(x.b)));
    _mm256_storeu_pd(sums + 4, add_wide(high, _mm256_extractf128_ps(x.b, 1)));
}
