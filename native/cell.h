// THE EQUATIONS, as in cell.py: lines (2) to (7) and (9) on one vector of hidden units, and (9') to (2') backward.
// (1) and (8) are matrix products: gemm.h. A mask is all ones where the bool was True.
#pragma once
#include "simd.h"
#include "lstm.h"

namespace longshort::LS_ISA {

// Where each gate's rows are in the weights; -1: none. And the row of a gate's peephole in weight_ch.
template <Gates K>
struct Rows {
  static constexpr bool has_i = K != Gates::fgo, has_f = K != Gates::igo;
  static constexpr int G = has_i && has_f ? 4 : 3, i = has_i ? 0 : -1, f = !has_f ? -1 : has_i ? 1 : 0, g = G - 2, o = G - 1;
  static constexpr int see_i = 0, see_f = has_i ? 1 : 0, see_o = G - 2;
};

template <Gates K, class C>
struct Unit {
  using R = Rows<K>;
  Vec<C> q[R::G];            // forward: a, then the gates; the rows of the weights
  Vec<C> c0, c1;             // c_{t-1}, c_t before zoneout
  const C* see = nullptr;    // weight_ch at this vector, rows `ld` apart, or null
  int64_t ld;
  bool clipped = false;
  C clip;
  bool dropped = false;      // is there a mask on g
  Int<C> kept;               // that mask
  C scale_g;

  LS_INLINE Vec<C> w(int row) const { return load<C>(see + row * ld); }
  LS_INLINE Vec<C> g() const {  // the candidate after its dropout
    return dropped ? pick<C>(kept, q[R::g] * scale_g, Vec<C>{}) : q[R::g];
  }
  LS_INLINE Vec<C> i() const {
    if constexpr (R::has_i) return q[R::i];
    else return C(1) - q[R::f];
  }
  LS_INLINE Vec<C> bare() const {  // c_t before the clip
    if constexpr (R::has_f) return q[R::f] * c0 + i() * g();
    else return c0 + i() * g();
  }
  LS_INLINE Vec<C> bound(Vec<C> c) const { return clipped ? clamp<C>(c, -clip, clip) : c; }

  LS_INLINE void open() {
    if constexpr (R::has_f) q[R::f] = sigmoid<C>(see ? q[R::f] + w(R::see_f) * c0 : q[R::f]);  // (2)
    if constexpr (R::has_i) q[R::i] = sigmoid<C>(see ? q[R::i] + w(R::see_i) * c0 : q[R::i]);  // (3)
    q[R::g] = tanh<C>(q[R::g]);                                                                // (4)
  }
  LS_INLINE void see_c() {
    if (see) q[R::o] = q[R::o] + w(R::see_o) * c1;
  }
  LS_INLINE void carousel() {
    open();
    c1 = bound(bare());  // (5) the carousel
    see_c();
  }
  LS_INLINE void open_o() { q[R::o] = sigmoid<C>(q[R::o]); }  // (6)
  LS_INLINE Vec<C> expose(Vec<C> c) {  // c: c_t, or what layer norm makes of it
    open_o();
    return q[R::o] * tanh<C>(c);    // (7)
  }

  // Backward. In: dm, and dc of c_t from later steps; out: da over the gates' rows, dc of c_{t-1}, and what peepholes add up.
  struct Back {
    Vec<C> da[R::G], dc, see[3];
  };
  LS_INLINE Vec<C> expose_back(Vec<C> dm, Vec<C> th, Back& b) const {  // th: the tanh of (7); returns the gradient of its argument
    b.da[R::o] = dm * th * q[R::o] * (C(1) - q[R::o]);  // (7') (6')
    return dm * q[R::o] * (C(1) - th * th);
  }
  LS_INLINE Vec<C> seen_back(Vec<C> dc1, const Back& b) const { return see ? dc1 + b.da[R::o] * w(R::see_o) : dc1; }
  LS_INLINE void carousel_back(Vec<C> dc1, Back& b) const {  // dc1: all of it, what the output gate saw included
    if (clipped) {
      const Vec<C> c = bare();  // on the bound itself only an exact c_t passes: a tape of bfloat16 gates cannot tell the rest
      dc1 = pick<C>(((c1 < clip) & (c1 > -clip)) | (c == clip) | (c == -clip), dc1, Vec<C>{});
    }
    Vec<C> dg = dc1 * i();  // (5')
    if (dropped) dg = pick<C>(kept, dg * scale_g, Vec<C>{});
    b.da[R::g] = dg * (C(1) - q[R::g] * q[R::g]);  // (4')
    b.dc = R::has_f ? dc1 * q[R::has_f ? R::f : 0] : dc1;
    if constexpr (R::has_i) {
      b.da[R::i] = dc1 * g() * q[R::i] * (C(1) - q[R::i]);  // (3')
      if (see) b.dc = b.dc + b.da[R::i] * w(R::see_i), b.see[R::see_i] = b.da[R::i] * c0;
    }
    if constexpr (R::has_f) {
      const Vec<C> df = R::has_i ? dc1 * c0 : dc1 * (c0 - g());
      b.da[R::f] = df * q[R::f] * (C(1) - q[R::f]);  // (2')
      if (see) b.dc = b.dc + b.da[R::f] * w(R::see_f), b.see[R::see_f] = b.da[R::f] * c0;
    }
    if (see) b.see[R::see_o] = b.da[R::o] * c1;
  }
};

// (9): v0 where the mask says so; without a mask the expectation.
template <class C>
LS_INLINE Vec<C> zoneout(C p, const uint8_t* mask, int n, Vec<C> v0, Vec<C> v1) {
  return mask ? pick<C>(load_mask<C>(mask, n), v0, v1) : p * v0 + (C(1) - p) * v1;
}
// (9'): the part of dv that goes to v1; the rest goes to v0.
template <class C>
LS_INLINE Vec<C> zoneout_back(C p, const uint8_t* mask, int n, Vec<C> dv) {
  return mask ? pick<C>(load_mask<C>(mask, n), Vec<C>{}, dv) : (C(1) - p) * dv;
}

}  // namespace longshort::LS_ISA
