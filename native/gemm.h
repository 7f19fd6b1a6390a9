// Matrix products on packed operands: acc[R rows][NV vectors] += sum over k of a(row, k) * b[k][NV vectors], in registers.
// Whatever the shape and the number of threads, an element is summed over k in the same order.
#pragma once
#include <algorithm>

#include "lstm.h"
#include "simd.h"

namespace longshort::LS_ISA {

// Rows of a tile: accumulators + NV (or R) operands + 1 fit the registers.
template <int NV>
inline constexpr int R_MAX = NV > 4 ? 1 : LS_REGISTERS == 32 ? (NV == 4 ? 6 : 8) : NV == 4 ? 3 : NV == 3 ? 4 : 6;

// A packed panel of nv vectors is [K][nv V], but with 16 registers four vectors lie as two strips, [2][K][2 V]: up to three rows take both
// at once, four to six rows one after the other. So 16 rows are three tiles that read 64 bytes for 12 products, not six that read 128.
// Two panels side by side are one of twice as many strips: for a single row, whose few sums would wait for each other.
inline constexpr int64_t strip(int64_t nv) { return nv > 4 ? strip(nv / 2) : LS_REGISTERS == 16 && nv == 4 ? 2 : nv; }
// Where entry c of row k of a panel is, in units; L: lanes.
inline constexpr int64_t place(int64_t nv, int64_t K, int64_t L, int64_t k, int64_t c) {
  const int64_t w = strip(nv) * L;
  return (c / w * K + k) * w + c % w;
}

template <class N>
inline constexpr int KP = sizeof(typename N::U) / sizeof(typename N::E);  // elements of k in a unit
template <class N>
inline constexpr int64_t units(int64_t k) {
  return (k + KP<N> - 1) / KP<N>;
}

template <class N>
LS_INLINE typename N::E element(typename N::S v) {
  if constexpr (sizeof(typename N::E) == sizeof(v)) return v;
  else return widen(v);
}
template <class N>
LS_INLINE Vec<typename N::C> load_units(const typename N::U* p) {
  Vec<typename N::C> v;
  memcpy(&v, p, LS_BYTES);
  return v;
}
template <class N>
LS_INLINE Vec<typename N::C> fma(Vec<typename N::C> b, typename N::U a, Vec<typename N::C> acc) {
#if LS_BYTES_TOO
  if constexpr (KP<N> == 4)  // integers in the same registers
    return (Vec<float>)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32(int(a)), (__m512i)b);
  else
#endif
#if defined(__AVX512BF16__)
  if constexpr (KP<N> == 2) {
    __m512i both = _mm512_set1_epi32(int(a));
#if defined(__clang__)
    asm("" : "+v"(both));  // clang 16 never ends where it sees that these are one pair of bfloat16 in all places
#endif
    return (Vec<float>)_mm512_dpbf16_ps((__m512)acc, (__m512bh)b, (__m512bh)both);
  } else
#endif
    return acc + b * a;
}

template <class N, int R, int NV>
struct Tile {
  using C = typename N::C;
  using U = typename N::U;
  static constexpr int STRIP = strip(NV), W = STRIP * V<C>;
  Vec<C> acc[R][NV];

  LS_INLINE void zero() {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < NV; v++) acc[r][v] = Vec<C>{};
  }
  LS_INLINE void load_from(const C* p, int64_t ld) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < NV; v++) acc[r][v] = load<C>(p + r * ld + v * V<C>);
  }
  LS_INLINE void add_from(const C* p, int64_t ld) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < NV; v++) acc[r][v] += load<C>(p + r * ld + v * V<C>);
  }
  LS_INLINE void store_to(C* p, int64_t ld) const {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < NV; v++) store<C>(p + r * ld + v * V<C>, acc[r][v]);
  }
  // a(r, k): unit k of row r; b: [K][W], its rows `ld` apart, strips `gap`
  template <class A>
  LS_INLINE void add(int64_t K, A a, const U* b, int64_t ld, int64_t gap) {
    const auto at = [&](int v) { return load_units<N>(b + v / STRIP * gap + v % STRIP * V<C>); };
    for (int64_t k = 0; k < K; k++, b += ld) {
      if constexpr (LS_REGISTERS == 32 || NV < R) {  // the operand that is fewer stays in registers
        Vec<C> bv[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) bv[v] = at(v);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
          for (int v = 0; v < NV; v++) acc[r][v] = fma<N>(bv[v], a(r, k), acc[r][v]);
      } else {
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) {
          const Vec<C> bv = at(v);
#pragma GCC unroll 8
          for (int r = 0; r < R; r++) acc[r][v] = fma<N>(bv, a(r, k), acc[r][v]);
        }
      }
    }
  }
  LS_INLINE void add_rows(int64_t K, const U* const* rows, int64_t from, const U* b, int64_t gap) {
    const U* a[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) a[r] = rows[r] + from;
    add(K, [&](int r, int64_t k) { return a[r][k]; }, b, W, gap);
  }
};

// n things in `parts` parts as equal as may be: part i is [cut(n, parts, i), cut(n, parts, i + 1)).
LS_INLINE int64_t cut(int64_t n, int64_t parts, int64_t i) { return n * i / parts; }
LS_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// The same parts in another order, the larger ones last, with one division for all of them.
struct Even {
  int64_t size, first_larger;
  LS_INLINE Even(int64_t n, int64_t parts)
      : size(parts > 1 ? uint32_t(n) / uint32_t(parts) : n), first_larger(parts - (n - size * parts)) {}
  LS_INLINE int64_t operator()(int64_t i) const { return i * size + std::max<int64_t>(i - first_larger, 0); }
};

// Calls f with R as a compile-time constant.
template <int NV, class F>
LS_INLINE void with_rows(int64_t w, F f) {
  switch (w) {
#define LS_CASE(R) \
  case R:          \
    if constexpr (R <= R_MAX<NV>) f.template operator()<R, NV>(); \
    break;
    LS_CASE(1) LS_CASE(2) LS_CASE(3) LS_CASE(4) LS_CASE(5) LS_CASE(6) LS_CASE(7) LS_CASE(8)
#undef LS_CASE
  }
}
// Calls f with R and NV as compile-time constants, the first row and the first vector, for tiles of a panel over `w` rows.
template <class F>
LS_INLINE void with_tiles(int64_t w, int64_t nv, F f) {
  const auto rows = [&]<int NV>(int64_t v0) {
    const int64_t count = ceil_div(w, R_MAX<NV>);
    const Even tile(w, count);
    for (int64_t i = 0; i < count; i++) {
      const int64_t r0 = tile(i);
      with_rows<NV>(tile(i + 1) - r0, [&]<int R, int>() { f.template operator()<R, NV>(r0, v0); });
    }
  };
  if constexpr (strip(4) == 2)
    if (nv == 4 && w > R_MAX<4>) return rows.template operator()<2>(0), rows.template operator()<2>(2);
  switch (nv) {
    case 1: return rows.template operator()<1>(0);
    case 2: return rows.template operator()<2>(0);
    case 3: return rows.template operator()<3>(0);
    case 4: return rows.template operator()<4>(0);
  }
  if constexpr (strip(4) == 2) {  // two panels for a single row
    if (nv == 6) return rows.template operator()<6>(0);
    if (nv == 8) return rows.template operator()<8>(0);
  }
}
LS_INLINE constexpr int64_t row_limit(int64_t nv) { return LS_REGISTERS == 32 ? (nv == 4 ? R_MAX<4> : R_MAX<3>) : nv == 3 ? R_MAX<3> : R_MAX<2>; }
// Tiles are done in groups: a strip is read again while it is near, and what follows the product does several tiles at a time.
inline constexpr int64_t GROUP = 4, GROUP_ROWS = GROUP * (LS_REGISTERS == 32 ? 8 : 6);
struct Groups {  // of the tiles over n rows of a panel: from tile i on, rows [first(i), first(i + GROUP))
  int64_t tiles;
  Even tile;
  LS_INLINE Groups(int64_t n, int64_t nv) : tiles(ceil_div(n, row_limit(nv))), tile(n, tiles) {}
  LS_INLINE int64_t first(int64_t i) const { return tile(std::min(i, tiles)); }
};

// The sum of a product cut into runs along each row of its left side.
struct Segments {
  int64_t n, K, last, step;
};
inline constexpr int64_t LONGEST = 512;  // units

// One of the two products of (1) in bytes: what stands for 128 in each row of W, and what an integer is worth there and in this row.
template <class N>
struct BytePart {
  const typename N::U* const* rows;
  int64_t K;
  const typename N::U* b;
  const typename N::C *zero, *worth, *row_worth;
};

// The kernels proper, not inlined, so that each exists once per number format and shape: `w` rows of a panel of `nv` vectors.
template <class N>
struct Kernel {
  using C = typename N::C;
  using U = typename N::U;

  // out[w][nv V] = init + x part + h part, over consecutive panels of b; either row list may be null.
  [[gnu::noinline]] static void gates(int64_t w, int64_t nv, const C* init, int64_t ld_init, const U* const* x, int64_t Kx, const U* bx,
                                      const U* const* h, int64_t Kh, const U* bh, C* out, int64_t ld_out) {
    with_tiles(w, nv, [&]<int R, int NV>(int64_t r0, int64_t v0) {
      Tile<N, R, NV> t;
      const int64_t at = v0 * V<C>;
      t.load_from(init + r0 * ld_init + at, ld_init);
      if (x) t.add_rows(Kx, x + r0, 0, bx + at * Kx, t.W * Kx);
      if (h) t.add_rows(Kh, h + r0, 0, bh + at * Kh, t.W * Kh);
      t.store_to(out + r0 * ld_out + at, ld_out);
    });
  }
  // The same from bytes.
  [[gnu::noinline]] static void byte_gates(int64_t w, int64_t nv, const C* init, int64_t ld_init, const BytePart<N>* parts, int count,
                                           C* out, int64_t ld_out) {
    with_tiles(w, nv, [&]<int R, int NV>(int64_t r0, int64_t) {  // with 32 registers only: no strips
      for (int i = 0; i < count; i++) {
        const BytePart<N>& p = parts[i];
        Tile<N, R, NV> t;
        t.load_from(p.zero, 0);
        t.add_rows(p.K, p.rows + r0, 0, p.b, t.W * p.K);
        for (int r = 0; r < R; r++)
          for (int v = 0; v < NV; v++) {
            const Vec<C> n = __builtin_convertvector((Int<C>)t.acc[r][v], Vec<C>) * (load<C>(p.worth + v * V<C>) * p.row_worth[r0 + r]);
            C* to = out + (r0 + r) * ld_out + v * V<C>;
            store<C>(to, n + load<C>(i ? to : init + (r0 + r) * ld_init + v * V<C>));
          }
      }
    });
  }
  // out[w][nv V] = sum of a over segments: runs of `seg.K` units, `seg.step` units apart in each row, the last one `seg.last` long.
  // Long sums are made of shorter ones, so that rounding does not add up over all of K.
  [[gnu::noinline]] static void rows(int64_t w, int64_t nv, const U* const* a, const Segments& seg, const U* b, C* out) {
    const int64_t run = std::max<int64_t>(1, LONGEST / seg.K);
    const int64_t ld = nv * V<C>, K = (seg.n - 1) * seg.K + seg.last;
    with_tiles(w, nv, [&]<int R, int NV>(int64_t r0, int64_t v0) {
      Tile<N, R, NV> t;
      const U* p = b + v0 * V<C> * K;
      C* const to = out + r0 * ld + v0 * V<C>;
      for (int64_t s = 0; s < seg.n;) {
        t.zero();
        for (const int64_t end = std::min(s + run, seg.n); s < end; s++, p += seg.K * t.W)
          t.add_rows(s + 1 < seg.n ? seg.K : seg.last, a + r0, s * seg.step, p, t.W * K);
        if (s > run) t.add_from(to, ld);
        t.store_to(to, ld);
      }
    });
  }
  // sums[w][nv V] += a^T b, a [K][w], b [K][nv V], its rows `ld` apart
  [[gnu::noinline]] static void outer(int64_t w, int64_t nv, const U* a, int64_t K, const U* b, int64_t ld, C* sums) {
    with_tiles(w, nv, [&]<int R, int NV>(int64_t r0, int64_t v0) {
      Tile<N, R, NV> t;
      const int64_t step = w, width = nv * V<C>;
      const U* const from = a + r0;
      C* const to = sums + r0 * width + v0 * V<C>;
      t.load_from(to, width);
      t.add(K, [&](int r, int64_t k) { return from[k * step + r]; }, b + v0 * V<C>, ld, t.W);
      t.store_to(to, width);
    });
  }
};

// A right-hand matrix [K, N], its columns padded to vectors and cut into blocks of at most four: block j is a panel [K units][nv(j) V].
template <class N>
struct Blocks {
  int64_t K, cols;  // K in units
  int64_t vectors() const { return ceil_div(cols, V<typename N::C>); }
  int64_t count() const { return ceil_div(vectors(), 4); }
  int64_t v0(int64_t j) const { return cut(vectors(), count(), j); }
  int64_t nv(int64_t j) const { return v0(j + 1) - v0(j); }
  int64_t at(int64_t j) const { return v0(j) * V<typename N::C> * K; }
  int64_t size() const { return vectors() * V<typename N::C> * K; }

  // Packs block j from line(k), a row of the matrix or null for zeros; `all` rows.
  template <class F>
  void pack(typename N::U* dst, int64_t j, int64_t all, F line) const {
    constexpr int64_t L = V<typename N::C>;
    const int64_t w = strip(nv(j)) * L, end = v0(j + 1) * L;
    for (int64_t k = 0; k < K * KP<N>; k++) {
      const typename N::S* src = k < all ? line(k) : nullptr;
      for (int64_t c0 = v0(j) * L; c0 < end; c0 += w) {
        auto* d = (typename N::E*)(dst + c0 * K + k / KP<N> * w) + k % KP<N>;
        const int64_t real = cols - c0 < w ? cols - c0 : w;
        for (int64_t c = 0; c < real; c++) d[c * KP<N>] = src ? element<N>(src[c0 + c]) : typename N::E{};
        for (int64_t c = std::max<int64_t>(real, 0); c < w; c++) d[c * KP<N>] = typename N::E{};
      }
    }
  }
  // Packs a part of the blocks from the transpose of the matrix, [cols][rows].
  void pack_columns(typename N::U* dst, int64_t part, int64_t parts, const typename N::S* src, int64_t rows) const {
    constexpr int64_t L = V<typename N::C>;
    for (int64_t j = cut(count(), parts, part); j < cut(count(), parts, part + 1); j++) {
      auto* d = (typename N::E*)(dst + at(j));
      const int64_t w = nv(j) * L, c0 = v0(j) * L, step = strip(nv(j)) * L;
      for (int64_t c = 0; c < w; c++)
        for (int64_t k = 0, to = place(nv(j), K, L, 0, c); k < K * KP<N>; k++)
          d[(to + k / KP<N> * step) * KP<N> + k % KP<N>] = k < rows && c0 + c < cols ? element<N>(src[(c0 + c) * rows + k]) : typename N::E{};
    }
  }

  // out[row][columns of block j] = sum of a over the segments.
  template <class O>
  void times(const typename N::U* b, int64_t j, const typename N::U* const* rows, int64_t n, const Segments& seg, O out) const {
    using C = typename N::C;
    alignas(64) C tile[GROUP_ROWS * 4 * V<C>];
    const Groups groups(n, nv(j));
    for (int64_t i = 0; i < groups.tiles; i += GROUP) {
      const int64_t r0 = groups.first(i), w = groups.first(i + GROUP) - r0;
      Kernel<N>::rows(w, nv(j), rows + r0, seg, b + at(j), tile);
      for (int64_t r = 0; r < w; r++)
        for (int64_t v = 0; v < nv(j); v++)
          out(r0 + r, (v0(j) + v) * V<C>, load<C>(tile + (r * nv(j) + v) * V<C>));
    }
  }
};

// The left-hand operand of a product over rows, sum over k of a[k][m] * b[k][n]: columns m in tiles of at most R, tile [K][R].
template <class N>
struct Outer {
  using U = typename N::U;
  using E = typename N::E;
  int64_t M, limit;  // limit: rows of a tile, row_limit of the widest b it will meet
  int64_t tiles() const { return ceil_div(M, limit); }

  // Writes row k of a; every row up to a whole unit must be written.
  LS_INLINE void put(U* dst, int64_t rows, int64_t k, const E* src) const {
    const int64_t K = units<N>(rows), n = tiles();
    for (int64_t i = 0; i < n; i++) {
      const int64_t m0 = cut(M, n, i), w = cut(M, n, i + 1) - m0;
      E* t = (E*)dst + (m0 * K + (k / KP<N>)*w) * KP<N> + k % KP<N>;
      if constexpr (KP<N> == 1) with_rows<1>(w, [&]<int R, int>() { memcpy(t, src + m0, R * sizeof(E)); });
      else
        for (int64_t r = 0; r < w; r++) t[r * KP<N>] = src[m0 + r];
    }
  }
  // sums[M][nv V] += a^T b
  void add(int64_t nv, const U* a, int64_t rows, const U* b, int64_t ld, typename N::C* sums) const {
    const int64_t K = units<N>(rows), n = tiles();
    for (int64_t i = 0; i < n; i++) {
      const int64_t m0 = cut(M, n, i);
      Kernel<N>::outer(cut(M, n, i + 1) - m0, nv, a + m0 * K, K, b, ld, sums + m0 * nv * V<typename N::C>);
    }
  }
};

// b[rows][w] of elements, its rows `ld` apart, to units in the same place or in `tmp`: pairs of rows interleaved where a unit holds two.
template <class N>
struct Paired {
  const typename N::U* b;
  int64_t ld;
  LS_INLINE Paired(const typename N::E* rows_of_b, int64_t rows, int64_t w, int64_t stride, typename N::U* tmp) {
    if constexpr (KP<N> == 1) b = rows_of_b, ld = stride;
    else {
      b = tmp, ld = w;
      const auto* p = (const uint16_t*)rows_of_b;
      for (int64_t k = 0; k + 1 < rows; k += 2, p += 2 * stride)
        for (int64_t c = 0; c < w; c++) tmp[k / 2 * w + c] = uint32_t(p[c]) | uint32_t(p[stride + c]) << 16;
      for (int64_t c = 0; rows % 2 && c < w; c++) tmp[rows / 2 * w + c] = p[c];
    }
  }
};

}  // namespace longshort::LS_ISA
