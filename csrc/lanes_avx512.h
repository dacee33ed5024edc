// The operations of lanes.h in one 512-bit register; that file includes this one, inside its
// namespaces.

struct Lanes {
    __m512 v;
};
struct Mask {
    __mmask16 m;
};

INLINE Lanes all(float x) { return {_mm512_set1_ps(x)}; }
INLINE Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
INLINE Lanes load(const bf16* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
INLINE Lanes load(const fp16* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
INLINE __m256i packed(Lanes x, const bf16*) {
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
    const __m512i chosen = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16));
}
INLINE __m256i packed(Lanes x, const fp16*) {
    return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE void store(Lanes x, float* p) { _mm512_storeu_ps(p, x.v); }
INLINE void stream(Lanes x, float* p) { _mm512_stream_ps(p, x.v); }
template <class T>
INLINE void store(Lanes x, T* p) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed(x, p));
}
template <class T>
INLINE void stream(Lanes x, T* p) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), packed(x, p));
}
INLINE Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
INLINE Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
INLINE Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
INLINE Lanes fused(Lanes a, Lanes b, Lanes c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}  // a b + c
INLINE Lanes fused_minus(Lanes a, Lanes b, Lanes c) {
    return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}  // c - a b
INLINE Lanes larger(Lanes x, Lanes top) { return {_mm512_max_ps(x.v, top.v)}; }
INLINE Lanes nearest(Lanes x) {
    return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
INLINE Mask not_below(Lanes x, float bound) {
    return {_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(bound), _CMP_NLT_UQ)};
}
INLINE bool any(Mask a, Mask b) { return (a.m | b.m) != 0; }
INLINE Lanes where(Mask m, Lanes x) { return {_mm512_maskz_mov_ps(m.m, x.v)}; }
INLINE Lanes scaled(Lanes x, Lanes n, Mask m) { return {_mm512_maskz_scalef_ps(m.m, x.v, n.v)}; }
INLINE Lanes fused_where(Mask m, Lanes a, Lanes b, Lanes c) {
    return {_mm512_mask3_fmadd_ps(a.v, b.v, c.v, m.m)};
}
INLINE void add_to(double* sums, Lanes x) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(x.v));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1));
    _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_add_pd(_mm512_loadu_pd(sums), low), high));
}
