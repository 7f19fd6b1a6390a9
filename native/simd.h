// Vectors of numbers: a thin layer over the compilers' vector extension, and the elementary functions that an LSTM needs.
// Compiled once per instruction set: LS_ISA is its namespace, LS_BYTES the width of a vector.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LS_INLINE [[gnu::always_inline]] inline
#if defined(__AVX512F__) || defined(__aarch64__)
#define LS_REGISTERS 32
#else
#define LS_REGISTERS 16
#endif
#if defined(__AVX512VNNI__)
#define LS_BYTES_TOO 1  // products of bytes
#else
#define LS_BYTES_TOO 0
#endif

namespace longshort::LS_ISA {

struct bf16 {
  uint16_t bits;
};

// A vector of C (float or double), its integers of the same width, and the type of an unaligned one in memory.
template <class C>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Vec __attribute__((vector_size(LS_BYTES)));
  typedef float Mem __attribute__((vector_size(LS_BYTES), aligned(4), may_alias));
  typedef int32_t Int __attribute__((vector_size(LS_BYTES)));
  typedef uint32_t Bits __attribute__((vector_size(LS_BYTES)));
  typedef uint16_t Half __attribute__((vector_size(LS_BYTES / 2)));
  typedef uint16_t HalfMem __attribute__((vector_size(LS_BYTES / 2), aligned(2), may_alias));
  typedef int8_t Byte __attribute__((vector_size(LS_BYTES / 4), aligned(1), may_alias));
};
template <>
struct Lanes<double> {
  typedef double Vec __attribute__((vector_size(LS_BYTES)));
  typedef double Mem __attribute__((vector_size(LS_BYTES), aligned(8), may_alias));
  typedef int64_t Int __attribute__((vector_size(LS_BYTES)));
  typedef uint64_t Bits __attribute__((vector_size(LS_BYTES)));
  typedef int8_t Byte __attribute__((vector_size(LS_BYTES / 8), aligned(1), may_alias));
};
template <class C>
using Vec = typename Lanes<C>::Vec;
template <class C>
using Int = typename Lanes<C>::Int;
template <class C>
using Bits = typename Lanes<C>::Bits;  // of any number, a NaN too: arithmetic on them wraps around
template <class C>
inline constexpr int V = LS_BYTES / sizeof(C);

// A vector of integers as a constant in memory: entry i is f(i).
template <class C, auto F>
LS_INLINE Int<C> integers() {
  struct Table {
    alignas(LS_BYTES) decltype(Int<C>{}[0] + 0) v[V<C>];
    constexpr Table() : v{} {
      for (int i = 0; i < V<C>; i++) v[i] = F(i);
    }
  };
  static constexpr Table table;
  Int<C> r;
  memcpy(&r, table.v, LS_BYTES);
  return r;
}

// Entries of a and then b, in a constant order: entry i is entry F(i) of both.
#if defined(__clang__)
template <class C, auto F, size_t... I>
LS_INLINE Vec<C> arranged(Vec<C> a, Vec<C> b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, F(int(I))...);
}
template <class C, auto F>
LS_INLINE Vec<C> arrange(Vec<C> a, Vec<C> b) {
  return arranged<C, F>(a, b, std::make_index_sequence<V<C>>());
}
#else
template <class C, auto F>
LS_INLINE Vec<C> arrange(Vec<C> a, Vec<C> b) {
  return __builtin_shuffle(a, b, integers<C, F>());
}
#endif

template <class C>
LS_INLINE Vec<C> set(C v) {
  return Vec<C>{} + v;
}
template <class C>
LS_INLINE Vec<C> pick(Int<C> mask, Vec<C> a, Vec<C> b) {  // mask ? a : b
  return mask ? a : b;
}
template <class C>
LS_INLINE Vec<C> clamp(Vec<C> x, C lo, C hi) {  // a NaN stays: of two operands the instructions then return the second
#if defined(__AVX512F__)
  if constexpr (LS_BYTES == 64 && sizeof(C) == 4)
    return (Vec<C>)_mm512_min_ps(_mm512_set1_ps(hi), _mm512_max_ps(_mm512_set1_ps(lo), (__m512)x));
#elif defined(__AVX2__)
  if constexpr (sizeof(C) == 4) return (Vec<C>)_mm256_min_ps(_mm256_set1_ps(hi), _mm256_max_ps(_mm256_set1_ps(lo), (__m256)x));
#endif
  x = pick<C>(x < lo, set<C>(lo), x);
  return pick<C>(x > hi, set<C>(hi), x);
}

// ---- memory: tensors hold S (float, double, bf16), arithmetic is in C; n < V is a tail, and nothing beyond it is touched ----

LS_INLINE float widen(bf16 v) {
  uint32_t u = uint32_t(v.bits) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
LS_INLINE float widen(float v) { return v; }
LS_INLINE double widen(double v) { return v; }

template <class C>
LS_INLINE Vec<C> load(const C* p) {
  return *(const typename Lanes<C>::Mem*)p;
}
template <class C>
LS_INLINE Vec<C> load(const bf16* p) {
  static_assert(sizeof(C) == 4);
  const auto h = *(const Lanes<float>::HalfMem*)p;
  return (Vec<C>)(__builtin_convertvector(h, Int<C>) << 16);
}
template <class C>
LS_INLINE void store(C* p, Vec<C> v) {
  *(typename Lanes<C>::Mem*)p = v;
}
template <class C>
LS_INLINE void store(bf16* p, Vec<C> v) {  // to nearest even; a NaN stays one
  static_assert(sizeof(C) == 4);
#if defined(__AVX512BF16__)
  if constexpr (LS_BYTES == 64) {
    const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &h, 32);
    return;
  }
#endif
  const Bits<C> u = (Bits<C>)v;
  const Bits<C> even = (u + 0x7fff + ((u >> 16) & 1)) >> 16, nan = (u >> 16) | 0x40;
  const Bits<C> r = (v == v) ? even : nan;
  *(Lanes<float>::HalfMem*)p = __builtin_convertvector(r, Lanes<float>::Half);
}
// Whole aligned lines of the cache, written past it: they are not read first, and push nothing out. `settle` ends such writing.
template <class C, class S>
LS_INLINE void store_far(S* p, Vec<C> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == sizeof(C) && LS_BYTES == 64) return _mm512_stream_ps((float*)p, (__m512)v);
#endif
  store<C>(p, v);
}
// Asks for n entries of far memory to be in the second-level cache a step later, to be read there or written (a store waits for its line).
template <class S>
LS_INLINE void ask(const S* p, int64_t n) {
  for (int64_t k = 0; k < n; k += 64 / int64_t(sizeof(S))) __builtin_prefetch(p + k, 0, 2);
}
LS_INLINE void settle() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}
// Bytes of the left side of a product: 128 + 127 v for v in [-1, 1].
template <class C>
LS_INLINE void store(uint8_t* p, Vec<C> v) {
  const Int<C> q = __builtin_convertvector(clamp<C>(v, -1, 1) * C(127) + C(128.5), Int<C>);  // rounded: they are positive
  for (int i = 0; i < V<C>; i++) p[i] = uint8_t(q[i]);
}
template <class C, class S>
LS_INLINE Vec<C> load(const S* p, int n) {
  if (__builtin_expect(n >= V<C>, 1)) return load<C>(p);
#if defined(__AVX512F__)
  if constexpr (LS_BYTES == 64 && sizeof(C) == 4 && sizeof(S) == 4) return (Vec<C>)_mm512_maskz_loadu_ps((1u << n) - 1, p);
#endif
  alignas(LS_BYTES) S all[V<C>] = {};
  for (int i = 0; i < n; i++) all[i] = p[i];
  return load<C>(all);
}
template <class C, class S>
LS_INLINE void store(S* p, Vec<C> v, int n) {
  if (__builtin_expect(n >= V<C>, 1)) return store<C>(p, v);
#if defined(__AVX512F__)
  if constexpr (LS_BYTES == 64 && sizeof(C) == 4 && sizeof(S) == 4) return _mm512_mask_storeu_ps(p, (1u << n) - 1, (__m512)v);
#endif
  alignas(LS_BYTES) S all[V<C>];
  store<C>(all, v);
  for (int i = 0; i < n; i++) p[i] = all[i];
}
template <class C>
LS_INLINE Int<C> load_mask(const uint8_t* p, int n) {  // bools to all ones or all zeros
#if defined(__AVX512F__)
  if constexpr (LS_BYTES == 64 && sizeof(C) == 4) {
    const __m128i v = n >= V<C> ? _mm_loadu_si128((const __m128i*)p) : _mm_maskz_loadu_epi8((1u << n) - 1, p);
    return (Int<C>)_mm512_movm_epi32(_mm_test_epi8_mask(v, v));
  }
#endif
  typename Lanes<C>::Byte b = {};
  if (n >= V<C>) b = *(const typename Lanes<C>::Byte*)p;
  else
    for (int i = 0; i < n; i++) b[i] = int8_t(p[i]);
  return __builtin_convertvector(b, Int<C>) != 0;
}
template <class C, int W = V<C> / 2>
LS_INLINE C sum(Vec<C> v) {  // by halves, in a fixed order
  if constexpr (W == 0) return v[0];
  else return sum<C, W / 2>(v + arrange<C, [](int i) { return i ^ W; }>(v, v));
}
template <class C>
LS_INLINE Vec<C> tail(Vec<C> v, int n) {  // zero from lane n on
  return n >= V<C> ? v : pick<C>(integers<C, [](int i) { return i; }>() < n, v, Vec<C>{});
}

// Transposes V vectors in place: log2(V) rounds of interleaving the first half with the second.
template <class C>
LS_INLINE void transpose(Vec<C>* r) {
  constexpr int n = V<C>;
  for (int round = 1; round < n; round *= 2) {
    Vec<C> s[n];
#pragma GCC unroll 16
    for (int i = 0; i < n / 2; i++) {
      s[2 * i] = arrange<C, [](int k) { return k / 2 + k % 2 * n; }>(r[i], r[i + n / 2]);
      s[2 * i + 1] = arrange<C, [](int k) { return n / 2 + k / 2 + k % 2 * n; }>(r[i], r[i + n / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; i++) r[i] = s[i];
  }
}

// ---- exp, sigmoid, tanh. Range reduction after Cody & Waite 1980: x = n ln 2 + r, |r| <= ln(2) / 2, exp(x) = 2^n (1 + p(r)).
// float: p(r) = r + r^2 q(r), q the polynomial of degree 4 through the Chebyshev nodes: 2.5e-8 relative; sigmoid 2 ulp, tanh 3 ulp.
// double: the Taylor series to r^13, 5e-18 relative; sigmoid and tanh 4 ulp. (tests/native measures them.)

template <class C>
struct Exp {
  Vec<C> p, scale;  // exp(x) - 1 = scale * p + (scale - 1)
};
LS_INLINE Exp<float> exp_parts(Vec<float> x) {  // |x| <= 89
  const Vec<float> shift = x * 0x1.715476p+0f + 0x1.8p23f, n = shift - 0x1.8p23f;
  Vec<float> r = x - n * 0x1.62e4p-1f;
  r = r - n * 0x1.7f7d1cp-20f;
  Vec<float> q = r * 0x1.6d113cp-10f + 0x1.120ba2p-7f;
  q = q * r + 0x1.55551ap-5f;
  q = q * r + 0x1.5554dcp-3f;
  q = q * r + 0.5f;
  return {q * (r * r) + r, (Vec<float>)(((Bits<float>)shift << 23) + 0x3f800000)};
}
LS_INLINE Exp<double> exp_parts(Vec<double> x) {  // |x| <= 710
  const Vec<double> shift = x * 0x1.71547652b82fep+0 + 0x1.8p52, n = shift - 0x1.8p52;
  Vec<double> r = x - n * 0x1.62e42fefa0000p-1;
  r = r - n * 0x1.cf79abc9e3b3ap-40;
  constexpr double fact[] = {6227020800., 479001600., 39916800., 3628800., 362880., 40320., 5040., 720., 120., 24., 6., 2.};
  Vec<double> q = set<double>(1 / fact[0]);
  for (int k = 1; k < 12; k++) q = q * r + 1 / fact[k];
  return {q * (r * r) + r, (Vec<double>)(((Bits<double>)shift << 52) + 0x3ff0000000000000)};
}
template <class C>
LS_INLINE Vec<C> divide(Vec<C> a, Vec<C> b) {  // b finite, and not below 1 in magnitude
#if defined(__AVX512F__)
  if constexpr (LS_BYTES == 64 && sizeof(C) == 4) {  // 14 bits and one step of Newton's: half the time of a division
    const __m512 r = _mm512_rcp14_ps((__m512)b), e = _mm512_mul_ps((__m512)a, r);
    return (Vec<C>)_mm512_fmadd_ps(_mm512_fnmadd_ps((__m512)b, e, (__m512)a), r, e);
  }
#endif
  return a / b;
}
template <class C>
LS_INLINE Vec<C> sigmoid(Vec<C> x) {  // at least 1e-38, or 1e-308
  constexpr C most = sizeof(C) == 4 ? C(87) : C(708);
  const auto [p, scale] = exp_parts(-clamp<C>(x, -most, most));
  return divide<C>(set<C>(1), C(1) + (scale * p + scale));
}
template <class C>
LS_INLINE Vec<C> tanh(Vec<C> x) {
  constexpr C most = sizeof(C) == 4 ? C(20) : C(44);
  const auto [p, scale] = exp_parts(clamp<C>(x + x, -most, most));
  const Vec<C> e = scale * p + (scale - C(1));
  return divide<C>(e, e + C(2));
}

// ---- what tensors hold (S), what products multiply (E, in units U of K elements), what the rest is computed in (C) ----

struct F32 {
  using S = float;
  using E = float;
  using C = float;
  using U = float;
};
struct F64 {
  using S = double;
  using E = double;
  using C = double;
  using U = double;
};
struct BF16 {
  using S = bf16;
  using C = float;
#if defined(__AVX512BF16__)
  using E = bf16;  // vdpbf16ps multiplies pairs
  using U = uint32_t;
#else
  using E = float;
  using U = float;
#endif
};

// Both sides of a product are bytes: four of k in a unit, the left side unsigned (128 is zero), W in steps of a 127th of the largest
// entry of each of its rows. Sums are exact integers.
struct I8 {
  using S = float;
  using E = uint8_t;
  using C = float;
  using U = uint32_t;
};

}  // namespace longshort::LS_ISA
