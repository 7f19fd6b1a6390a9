// How the parameters lie in packed memory, and who packs them. A gate panel is one vector of hidden units with all its gates:
// [K][G][V], or in strips (gemm.h), so that a group of tiles ends with everything that (2) to (7) need. In the last panel, where H is
// no multiple of V, the gates lie closer, `pitch` apart, and so its tile is narrower: 8 units of V = 16 need two vectors, not four.
#pragma once
#include <vector>

#include "cell.h"
#include "gemm.h"

namespace longshort::LS_ISA {

inline size_t aligned(size_t bytes) { return (bytes + 63) & ~size_t(63); }

struct Carve {  // hands out pieces of one block of memory, or only counts them if base is null
  char* base;
  size_t used = 0;
  template <class T>
  T* take(size_t n) {
    T* p = base ? (T*)(base + used) : nullptr;
    used += aligned(n * sizeof(T));
    return p;
  }
};

template <class N, Gates K>
struct Packed {
  using S = typename N::S;
  using E = typename N::E;
  using C = typename N::C;
  using U = typename N::U;
  using R = Rows<K>;
  static constexpr int G = R::G, L = V<C>, GV = G * L;

  const Layer& l;
  int64_t nb, Hp, Pp;  // vectors of hidden units; H and P padded to vectors
  int64_t pitch, wide; // of the last panel: from gate to gate; width of all panels
  Pass pass;
  bool joint;          // W_hh and W_ih are side by side in hh_t, where together they need fewer vectors
  U *panels, *hr;                        // forward: [nb][I units][width], then [nb][P units][width]; W_hr as a right-hand matrix [H, P]
  U *hh_t, *ih_t, *hr_t;                 // backward: right-hand matrices [wide, P], [wide, I], [P, H]
  C *bias, *bias_hh;                     // [wide]; their sum in the first unless there is layer norm
  C *see, *gain_ih, *gain_hh, *gain_c;   // [3][Hp], [wide] twice, [Hp]
  C *zero_ih, *zero_hh, *worth_ih, *worth_hh;  // bytes: see BytePart, [wide]
  C* real;                               // layer norm: 1 where an entry of the last panel stands for a unit, else 0, [width]
  size_t bytes;

  int64_t Iu() const { return units<N>(l.I); }
  int64_t Pu() const { return units<N>(l.P); }
  Blocks<N> hr_blocks() const { return {units<N>(l.H), l.P}; }
  Blocks<N> hh_t_blocks() const { return {units<N>(wide), joint ? l.P + l.I : l.P}; }
  Blocks<N> ih_t_blocks() const { return {units<N>(wide), l.I}; }
  Blocks<N> hr_t_blocks() const { return {Pu(), l.H}; }
  Segments gate_segments(int64_t step) const { return {nb, units<N>(GV), units<N>(width(nb - 1)), step}; }
  const U* panel_ih(int64_t hb) const { return panels + hb * Iu() * GV; }
  const U* panel_hh(int64_t hb) const { return panels + wide * Iu() + hb * Pu() * GV; }
  int64_t pitch_of(int64_t hb) const { return hb + 1 < nb ? L : pitch; }
  int64_t width(int64_t hb) const { return hb + 1 < nb ? GV : wide - hb * GV; }
  int64_t vectors(int64_t hb) const { return width(hb) / L; }
  int64_t row(int64_t hb, int64_t at) const {  // of the weights, at entry `at` of a panel; -1: none
    const int64_t g = at / pitch_of(hb), h = hb * L + at % pitch_of(hb);
    return g < G && h < l.H ? g * l.H + h : -1;
  }
  int tail(int64_t hb) const { return int(hb * L + L <= l.H ? L : l.H - hb * L); }

  Packed(const Layer& l, Pass pass, char* base) : l(l), pass(pass) {
    const bool backward = pass != Pass::forward, dx = pass == Pass::backward_x;
    nb = ceil_div(l.H, L), Hp = nb * L, Pp = ceil_div(l.P, L) * L;
    constexpr int64_t quarter = L < 4 ? 1 : L / 4;
    pitch = ceil_div(tail(nb - 1), quarter) * quarter;
    wide = (nb - 1) * GV + ceil_div(G * pitch, L) * L;
    joint = dx && !l.layer_norm && ceil_div(l.P + l.I, L) < ceil_div(l.P, L) + ceil_div(l.I, L);
    Carve m{base};
    panels = m.take<U>(backward ? 0 : wide * (Iu() + Pu()));
    hr = m.take<U>(!backward && l.projection ? hr_blocks().size() : 0);
    hh_t = m.take<U>(backward ? hh_t_blocks().size() : 0);
    ih_t = m.take<U>(dx && !joint ? ih_t_blocks().size() : 0);
    hr_t = m.take<U>(backward && l.projection ? hr_t_blocks().size() : 0);
    bias = m.take<C>(wide), bias_hh = m.take<C>(wide);
    see = m.take<C>(l.peephole ? 3 * Hp : 0);
    gain_ih = m.take<C>(l.layer_norm ? wide : 0), gain_hh = m.take<C>(l.layer_norm ? wide : 0);
    gain_c = m.take<C>(l.layer_norm ? Hp : 0);
    real = m.take<C>(l.layer_norm ? GV : 0);
    for (C** v : {&zero_ih, &zero_hh, &worth_ih, &worth_hh}) *v = m.take<C>(KP<N> == 4 ? wide : 0);
    bytes = m.used;
  }
  // Zero where entries v to v + L of a row of all panels stand for no unit.
  LS_INLINE Vec<C> only_real(int64_t v, Vec<C> value) const {
    const int64_t last = (nb - 1) * GV;
    return v < last ? value : pick<C>(load<C>(real + v - last) != C(0), value, Vec<C>{});
  }

  static E element(S v) { return longshort::LS_ISA::element<N>(v); }
  static void elements(E* to, const S* from, int64_t n) {
    if constexpr (sizeof(E) == sizeof(S)) memcpy(to, from, n * sizeof(E));
    else
      for (int64_t k = 0; k < n; k++) to[k] = element(from[k]);
  }
  // A panel's part: rows of w [G*H, cols] to [units][width].
  void pack_panel(U* dst, int64_t hb, const S* w, int64_t cols) const {
    constexpr int unit = KP<N>;
    E* d = (E*)dst;
    const int64_t all = units<N>(cols), wd = width(hb);
    const int64_t whole = sizeof(S) == sizeof(E) && tail(hb) == L ? cols / unit / L * L : 0;  // squares of L by L units
    for (int64_t k0 = 0; k0 < whole; k0 += L)
      for (int g = 0; g < G; g++) {
        Vec<C> square[L];
        for (int lane = 0; lane < L; lane++) square[lane] = load_units<N>((const U*)(w + row(hb, g * L + lane) * cols + k0 * unit));
        transpose<C>(square);
        for (int k = 0; k < L; k++) memcpy(dst + place(G, all, L, k0 + k, g * L), &square[k], LS_BYTES);
      }
    for (int64_t at = 0; at < wd; at++) {
      const int64_t r = row(hb, at);
      for (int64_t k = whole * unit; k < all * unit; k++)
        d[place(vectors(hb), all, L, k / unit, at) * unit + k % unit] = r >= 0 && k < cols ? element(w[r * cols + k]) : E{};
    }
  }
  // The same in bytes.
  void pack_bytes(U* dst, int64_t hb, const S* w, int64_t cols, C* zero, C* worth) const {
    int8_t* d = (int8_t*)dst;
    const int64_t wd = width(hb), all = units<N>(cols) * KP<N>;
    for (int64_t at = 0; at < wd; at++) {
      const int64_t r = row(hb, at);
      const S* line = w + r * cols;
      C most = 0, none = 0;  // none: zero, or NaN where an entry is no number
      for (int64_t k = 0; r >= 0 && k < cols; k++) most = std::max(most, std::abs(line[k])), none += line[k] - line[k];
      const C step = most > 0 ? most / 127 : C(1);
      int32_t sum = 0;
      for (int64_t k = 0; k < all; k++) {
        const auto q = int8_t(r >= 0 && k < cols ? std::lrint(line[k] / step) : 0);
        d[(k / KP<N> * wd + at) * KP<N> + k % KP<N>] = q, sum -= 128 * q;
      }
      memcpy(zero + hb * GV + at, &sum, 4), worth[hb * GV + at] = step + none;
    }
  }
  void pack(const Params& p, int part, int parts) const {
    const bool backward = pass != Pass::forward;
    const auto get = [](const void* v, int64_t i) { return v && i >= 0 ? C(widen(((const S*)v)[i])) : C(0); };
    for (int64_t hb = cut(nb, parts, part); hb < cut(nb, parts, part + 1); hb++) {
      if constexpr (KP<N> == 4) {
        pack_bytes((U*)panel_ih(hb), hb, (const S*)p.weight_ih, l.I, zero_ih, worth_ih);
        pack_bytes((U*)panel_hh(hb), hb, (const S*)p.weight_hh, l.P, zero_hh, worth_hh);
      } else if (!backward) {
        pack_panel((U*)panel_ih(hb), hb, (const S*)p.weight_ih, l.I);
        pack_panel((U*)panel_hh(hb), hb, (const S*)p.weight_hh, l.P);
      }
      for (int64_t at = 0; at < width(hb); at++) {
        const int64_t to = hb * GV + at, from = row(hb, at);
        const C ih = get(p.bias_ih, from), hh = get(p.bias_hh, from);
        bias[to] = l.layer_norm ? ih : ih + hh, bias_hh[to] = hh;
        if (l.layer_norm) gain_ih[to] = get(p.gain_ih, from), gain_hh[to] = get(p.gain_hh, from);
        if (l.layer_norm && hb == nb - 1) real[at] = from >= 0;
      }
      for (int64_t h = hb * L; h < hb * L + L; h++) {
        for (int k = 0; l.peephole && k < l.peepholes(); k++) see[k * Hp + h] = get(p.weight_ch, h < l.H ? k * l.H + h : -1);
        if (l.layer_norm) gain_c[h] = get(p.gain_c, h < l.H ? h : -1);
      }
    }
    const auto each = [&](const Blocks<N>& b, U* dst, int64_t k, auto line) {
      for (int64_t j = cut(b.count(), parts, part); j < cut(b.count(), parts, part + 1); j++) b.pack(dst, j, k, line);
    };
    const S *ih = (const S*)p.weight_ih, *hh = (const S*)p.weight_hh, *w = (const S*)p.weight_hr;
    const auto turned = [&](const S* weights, int64_t cols) {  // rows of the weights in the order of the panels
      return [=, this](int64_t k) {
        const int64_t hb = std::min(k / GV, nb - 1), r = row(hb, k - hb * GV);
        return r < 0 ? nullptr : weights + r * cols;
      };
    };
    if (backward && !joint) each(hh_t_blocks(), hh_t, wide, turned(hh, l.P));
    if (pass == Pass::backward_x && !joint) each(ih_t_blocks(), ih_t, wide, turned(ih, l.I));
    if (joint) {
      std::vector<S> both(l.P + l.I);
      const auto left = turned(hh, l.P), right = turned(ih, l.I);
      each(hh_t_blocks(), hh_t, wide, [&](int64_t k) -> const S* {
        if (!left(k)) return nullptr;
        memcpy(both.data(), left(k), l.P * sizeof(S)), memcpy(both.data() + l.P, right(k), l.I * sizeof(S));
        return both.data();
      });
    }
    if (l.projection && backward) each(hr_t_blocks(), hr_t, l.P, [&](int64_t k) { return w + k * l.H; });
    if (l.projection && !backward) hr_blocks().pack_columns(hr, part, parts, w, l.H);
  }
};

// Do lines (2) to (9) need nothing but gates and cells?
inline bool is_plain(const Layer& l, const Input& in) {
  return !l.peephole && !l.projection && !l.zone_h && !l.zone_c && std::isinf(l.clip) && !in.drop_g && !in.drop_h && !in.resets;
}
// What the options of a cell that is not plain need to know of the unit in row `at` of [T, B, ..], hidden unit v and on.
template <class N, Gates K>
LS_INLINE void set_options(Unit<K, typename N::C>& u, const Packed<N, K>& m, const Input& in, int64_t at, int64_t v, int n) {
  using C = typename N::C;
  const Layer& l = m.l;
  u.see = l.peephole ? m.see + v : nullptr, u.ld = m.Hp;
  u.clip = C(l.clip), u.clipped = !std::isinf(l.clip);
  u.dropped = in.drop_g, u.scale_g = C(l.scale_g);
  if (in.drop_g) u.kept = load_mask<C>(in.drop_g + at * l.H + v, n);
}

// The order of the steps, and how many sequences of a crew are alive at each.
struct Order {
  const Input& in;
  const Crew& crew;
  int64_t t(int64_t s) const { return in.reverse ? in.T - 1 - s : s; }
  int64_t row(int64_t t) const { return crew.starts[t]; }  // where step t begins in [T, B, ..]
  int64_t row(int64_t t, int slot) const { return row(t) + crew.rows[slot]; }
  int64_t x(int64_t t, int slot) const { return in.sizes ? row(t, slot) * in.x_b : t * in.x_t + crew.rows[slot] * in.x_b; }
  int alive(int64_t t) const {  // rows are sorted, longest first
    int lo = 0, hi = crew.n;
    while (lo < hi) {
      const int mid = (lo + hi) / 2;
      if (crew.len[mid] > t) lo = mid + 1;
      else hi = mid;
    }
    return lo;
  }
  bool first(int64_t t, int slot) const { return in.reverse ? t == crew.len[slot] - 1 : t == 0; }
  int64_t before(int64_t t) const { return in.reverse ? t + 1 : t - 1; }
  bool reset(int64_t t, int slot) const {  // is the state zeroed before step t
    return in.resets && t >= 0 && t < crew.len[slot] && in.resets[t * in.B + crew.rows[slot]];
  }
};

}  // namespace longshort::LS_ISA
