// How the parameters lie in packed memory, and who packs them. A gate panel is one vector of hidden units with all its gates:
// [K][G][V], so that one tile of the matrix kernel holds everything that (2) to (7) need.
#pragma once
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
  bool backward;
  U *panels, *hr;                        // forward: [nb][I units][GV], then [nb][P units][GV]; W_hr as a right-hand matrix [H, P]
  U *hh_t, *ih_t, *hr_t;                 // backward: right-hand matrices [nb GV, P], [nb GV, I], [P, H]
  C *bias, *bias_hh;                     // [nb][GV]; their sum in the first unless there is layer norm
  C *see, *gain_ih, *gain_hh, *gain_c;   // [3][Hp], [nb][GV] twice, [Hp]
  size_t bytes;

  int64_t Iu() const { return units<N>(l.I); }
  int64_t Pu() const { return units<N>(l.P); }
  Blocks<N> hr_blocks() const { return {units<N>(l.H), l.P}; }
  Blocks<N> hh_t_blocks() const { return {units<N>(nb * GV), l.P}; }
  Blocks<N> ih_t_blocks() const { return {units<N>(nb * GV), l.I}; }
  Blocks<N> hr_t_blocks() const { return {Pu(), l.H}; }
  const U* panel_ih(int64_t hb) const { return panels + hb * Iu() * GV; }
  const U* panel_hh(int64_t hb) const { return panels + (nb * Iu() + hb * Pu()) * GV; }
  int64_t row(int64_t hb, int g, int lane) const { return hb * L + lane < l.H ? g * l.H + hb * L + lane : -1; }
  int tail(int64_t hb) const { return int(hb * L + L <= l.H ? L : l.H - hb * L); }

  Packed(const Layer& l, bool backward, char* base) : l(l), backward(backward) {
    nb = ceil_div(l.H, L), Hp = nb * L, Pp = ceil_div(l.P, L) * L;
    Carve m{base};
    panels = m.take<U>(backward ? 0 : nb * (Iu() + Pu()) * GV);
    hr = m.take<U>(!backward && l.projection ? hr_blocks().size() : 0);
    hh_t = m.take<U>(backward ? hh_t_blocks().size() : 0);
    ih_t = m.take<U>(backward ? ih_t_blocks().size() : 0);
    hr_t = m.take<U>(backward && l.projection ? hr_t_blocks().size() : 0);
    bias = m.take<C>(nb * GV), bias_hh = m.take<C>(nb * GV);
    see = m.take<C>(l.peephole ? 3 * Hp : 0);
    gain_ih = m.take<C>(l.layer_norm ? nb * GV : 0), gain_hh = m.take<C>(l.layer_norm ? nb * GV : 0);
    gain_c = m.take<C>(l.layer_norm ? Hp : 0);
    bytes = m.used;
  }

  static E element(S v) { return longshort::LS_ISA::element<N>(v); }
  static void elements(E* to, const S* from, int64_t n) {
    if constexpr (sizeof(E) == sizeof(S)) memcpy(to, from, n * sizeof(E));
    else
      for (int64_t k = 0; k < n; k++) to[k] = element(from[k]);
  }
  // A panel's part: rows of w [G*H, cols] to [units][G][V].
  void pack_panel(U* dst, int64_t hb, const S* w, int64_t cols) const {
    constexpr int unit = KP<N>;
    E* d = (E*)dst;
    const int64_t all = units<N>(cols), whole = sizeof(S) == sizeof(E) ? cols / unit / L * L : 0;  // squares of L by L units
    for (int64_t k0 = 0; k0 < whole; k0 += L)
      for (int g = 0; g < G; g++) {
        Vec<C> square[L];
        for (int lane = 0; lane < L; lane++) {
          const int64_t r = row(hb, g, lane);
          square[lane] = r < 0 ? Vec<C>{} : load_units<N>((const U*)(w + r * cols + k0 * unit));
        }
        transpose<C>(square);
        for (int k = 0; k < L; k++) memcpy(dst + (k0 + k) * GV + g * L, &square[k], LS_BYTES);
      }
    for (int g = 0; g < G; g++)
      for (int lane = 0; lane < L; lane++) {
        const int64_t r = row(hb, g, lane);
        for (int64_t k = whole * unit; k < all * unit; k++)
          d[((k / unit) * GV + g * L + lane) * unit + k % unit] = r >= 0 && k < cols ? element(w[r * cols + k]) : E{};
      }
  }
  void pack(const Params& p, int part, int parts) const {
    const auto get = [](const void* v, int64_t i) { return v && i >= 0 ? C(widen(((const S*)v)[i])) : C(0); };
    for (int64_t hb = cut(nb, parts, part); hb < cut(nb, parts, part + 1); hb++) {
      if (!backward) {
        pack_panel((U*)panel_ih(hb), hb, (const S*)p.weight_ih, l.I);
        pack_panel((U*)panel_hh(hb), hb, (const S*)p.weight_hh, l.P);
      }
      for (int g = 0; g < G; g++)
        for (int lane = 0; lane < L; lane++) {
          const int64_t to = hb * GV + g * L + lane, from = row(hb, g, lane);
          const C ih = get(p.bias_ih, from), hh = get(p.bias_hh, from);
          bias[to] = l.layer_norm ? ih : ih + hh, bias_hh[to] = hh;
          if (l.layer_norm) gain_ih[to] = get(p.gain_ih, from), gain_hh[to] = get(p.gain_hh, from);
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
        const int64_t r = row(k / GV, int(k % GV / L), int(k % L));
        return r < 0 ? nullptr : weights + r * cols;
      };
    };
    if (backward) {
      each(hh_t_blocks(), hh_t, nb * GV, turned(hh, l.P));
      each(ih_t_blocks(), ih_t, nb * GV, turned(ih, l.I));
    }
    if (l.projection && backward) each(hr_t_blocks(), hr_t, l.P, [&](int64_t k) { return w + k * l.H; });
    if (l.projection && !backward) hr_blocks().pack_columns(hr, part, parts, w, l.H);
  }
};

// The order of the steps, and how many sequences of a crew are alive at each.
struct Order {
  const Input& in;
  const Crew& crew;
  int64_t t(int64_t s) const { return in.reverse ? in.T - 1 - s : s; }
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
