// The forward pass of a crew over its sequences: x and h against packed panels, with (2) to (7) on each finished tile.
#pragma once
#include "pack.h"

namespace longshort::LS_ISA {

inline constexpr double LN_EPS = 1e-5;

template <class N, Gates K>
struct Forward {
  using M = Packed<N, K>;
  using S = typename N::S;
  using E = typename N::E;
  using C = typename N::C;
  using U = typename N::U;
  static constexpr int G = M::G, L = M::L, GV = M::GV;

  const M& m;
  const Layer& l;
  const Input& in;
  const Output& out;
  const Crew& crew;
  const Order order;
  const bool pre_mode, copies;
  int64_t steps;            // of a chunk
  const int64_t wide, T, B, H, P;
  E* h[2];                  // operand of the recurrent product: h_{t-1} after reset and dropout, [n][Pp], twice
  const U** h_rows[2];      // [n]
  C *c, *h_raw;             // c_t [n][Hp]; h_{t-1} for zoneout [n][Pp]
  E* mh;                    // m_t for the projection [n][Hp]
  const U** m_rows;
  C *pre, *hh;              // W_ih x + b of a chunk [rows][wide]; W_hh h of a step [n][wide]
  const U** x_rows;         // this thread's: [rows]
  E* x_copy;
  C *c_rows, *means, *rstds;  // layer norm: c_t before (7) [n][Hp]; of each row of a chunk
  size_t bytes;

  Forward(const M& m, const Input& in, const Output& out, const Crew& crew, char* base)
      : m(m), l(m.l), in(in), out(out), crew(crew), order{in, crew}, pre_mode(wants_pre()),
        copies(sizeof(S) != sizeof(E) || l.I % KP<N>), wide(m.nb * GV), T(in.T), B(in.B), H(l.H), P(l.P) {
    // A chunk's input products stay in the second-level cache; more of them only where the panels do not.
    const int64_t n = crew.n, room = wide * m.Iu() * int64_t(sizeof(U)) < (1 << 17) ? 1 << 16 : 1 << 20;
    const int64_t most = pre_mode ? room / (wide * int64_t(sizeof(C))) : 0;
    steps = most / (n ? n : 1);
    steps = steps < 1 ? 1 : steps > T ? T : steps;
    const int64_t rows = n * steps;
    Carve a{base};
    for (auto& v : h) v = a.take<E>(n * m.Pp);
    for (auto& v : h_rows) v = a.take<const U*>(n);
    c = a.take<C>(n * m.Hp);
    h_raw = a.take<C>(l.zone_h ? n * m.Pp : 0);
    mh = a.take<E>(l.projection ? n * m.Hp : 0);
    m_rows = a.take<const U*>(l.projection ? n : 0);
    pre = a.take<C>(pre_mode ? rows * wide : 0);
    hh = a.take<C>(l.layer_norm ? n * wide : 0);
    c_rows = a.take<C>(l.layer_norm ? n * m.Hp : 0);
    means = a.take<C>(l.layer_norm ? rows : 0), rstds = a.take<C>(l.layer_norm ? rows : 0);
    for (int r = 0; r < crew.size; r++) {  // each member has its own
      auto* xr = a.take<const U*>(rows);
      E* xc = a.take<E>(copies ? rows * m.Iu() * KP<N> : 0);
      if (r == crew.rank) x_rows = xr, x_copy = xc;
    }
    bytes = a.used;
  }
  bool wants_pre() const { return l.layer_norm || (crew.size > 1 && in.T > 1) || (crew.n < 6 && in.T > 1); }

  int64_t mine(int64_t n, int of) const { return cut(n, crew.size, of); }  // [mine(n, rank), mine(n, rank + 1)): this thread's share

  void run() {
    start();
    crew.wait();
    int now = 0;
    for (int64_t s0 = 0; s0 < T; s0 += steps) {
      const int64_t s1 = s0 + steps < T ? s0 + steps : T;
      point_at_x(s0, s1);
      if (pre_mode) input_products(s0, s1);
      int64_t done = 0;
      for (int64_t s = s0; s < s1; s++, now ^= 1) {
        const int64_t t = order.t(s);
        const int n = order.alive(t);
        if (!n) continue;
        gates(t, n, done, now);
        if (l.projection) {
          crew.wait();
          project(t, n, now);
        }
        crew.wait();
        done += n;
      }
    }
    finish();
  }

  void start() {
    memset(h[0] + mine(crew.n, crew.rank) * m.Pp, 0, (mine(crew.n, crew.rank + 1) - mine(crew.n, crew.rank)) * m.Pp * sizeof(E));
    memset(h[1] + mine(crew.n, crew.rank) * m.Pp, 0, (mine(crew.n, crew.rank + 1) - mine(crew.n, crew.rank)) * m.Pp * sizeof(E));
    for (int64_t slot = mine(crew.n, crew.rank); slot < mine(crew.n, crew.rank + 1); slot++) {
      const int64_t b = crew.rows[slot];
      const bool reset = crew.len[slot] && order.reset(in.reverse ? crew.len[slot] - 1 : 0, int(slot));
      for (int i = 0; i < 2; i++) h_rows[i][slot] = (const U*)(h[i] + slot * m.Pp);
      if (l.projection) {
        m_rows[slot] = (const U*)(mh + slot * m.Hp);
        memset(mh + slot * m.Hp, 0, m.Hp * sizeof(E));
      }
      for (int64_t v = 0; v < m.Pp; v += L) {
        const int n = int(P - v < L ? P - v : L);
        for (int i = 0; i < 2; i++) carry_h(int(slot), v, n, load<C>((const S*)in.h0 + b * P + v, n), reset, i);
      }
      for (int64_t v = 0; v < m.Hp; v += L)
        store<C>(c + slot * m.Hp + v, reset ? Vec<C>{} : load<C>((const C*)in.c0 + b * H + v, int(H - v < L ? H - v : L)));
    }
  }
  // h_t to where the next step finds it.
  LS_INLINE void carry_h(int slot, int64_t v, int n, Vec<C> value, bool reset, int to) {
    if (reset) value = Vec<C>{};
    if (l.zone_h) store<C>(h_raw + slot * m.Pp + v, value);
    if (in.drop_h) value = pick<C>(load_mask<C>(in.drop_h + crew.rows[slot] * P + v, n), value * C(l.scale_h), Vec<C>{});
    store<C>(h[to] + slot * m.Pp + v, value);
  }

  void point_at_x(int64_t s0, int64_t s1) {
    int64_t row = 0;
    for (int64_t s = s0; s < s1; s++) {
      const int64_t t = order.t(s);
      const int n = order.alive(t);
      for (int slot = 0; slot < n; slot++, row++) {
        const S* x = (const S*)in.x + t * in.x_t + crew.rows[slot] * in.x_b;
        if (copies) {
          E* to = x_copy + row * m.Iu() * KP<N>;
          M::elements(to, x, l.I);
          for (int64_t k = l.I; k < m.Iu() * KP<N>; k++) to[k] = E{};
          x = (const S*)to;
        }
        x_rows[row] = (const U*)x;
      }
    }
  }

  // Calls f(first row, rows) for balanced tiles over n rows.
  template <class F>
  LS_INLINE static void tiles(int64_t n, F f) {
    const int64_t count = ceil_div(n, R_MAX<G>);
    for (int64_t i = 0; i < count; i++) f(cut(n, count, i), cut(n, count, i + 1) - cut(n, count, i));
  }

  void input_products(int64_t s0, int64_t s1) {
    int64_t rows = 0;
    for (int64_t s = s0; s < s1; s++) rows += order.alive(order.t(s));
    for (int64_t hb = mine(m.nb, crew.rank); hb < mine(m.nb, crew.rank + 1); hb++)
      tiles(rows, [&](int64_t r0, int64_t w) {
        Kernel<N>::template gates<G>(w, m.bias + hb * GV, 0, x_rows + r0, m.Iu(), m.panel_ih(hb), nullptr, 0, nullptr,
                                     pre + r0 * wide + hb * GV, wide);
      });
    if (!l.layer_norm) return;
    crew.wait();
    const int64_t from = mine(rows, crew.rank), to = mine(rows, crew.rank + 1);
    statistics(pre, wide, G * H, from, to);
    int64_t row = 0;
    for (int64_t s = s0; s < s1; s++) {
      const int64_t t = order.t(s);
      for (int slot = 0, n = order.alive(t); slot < n; slot++, row++)
        if (row >= from && row < to) scale(pre, row, m.gain_ih, nullptr, out.norm_ih, t * B + crew.rows[slot], 0);
    }
    crew.wait();
  }

  // Mean and 1 / deviation of rows [from, to) over their first `real` entries (of each gate); leaves the rows centred.
  // Row after row in each loop, so that the sums of several are under way at a time.
  void statistics(C* rows, int64_t width, int64_t real, int64_t from, int64_t to) {
    const int64_t step = width == wide ? GV : L;
    for (int64_t r = from; r < to; r++) {
      Vec<C> total{};
      for (int64_t v = 0; v < width; v += L) total += load<C>(rows + r * width + v);
      means[r] = sum<C>(total) / C(real);
    }
    for (int64_t r = from; r < to; r++) {
      Vec<C> square{};
      for (int64_t v = 0; v < width; v += L) {
        const Vec<C> d = tail<C>(load<C>(rows + r * width + v) - means[r], m.tail(v / step));
        store<C>(rows + r * width + v, d);
        square += d * d;
      }
      rstds[r] = C(1) / std::sqrt(sum<C>(square) / C(real) + C(LN_EPS));
    }
  }
  // The rest of the layer norm of a centred row: times its gain, plus another row; keeps what backward needs.
  void scale(C* rows, int64_t r, const C* gain, const C* plus, void* keep, int64_t at, int stat) {
    C* row = rows + r * wide;
    S* kept = keep ? (S*)keep + at * wide : nullptr;
    if (kept) ((C*)out.stats)[at * 4 + stat] = rstds[r];
    for (int64_t v = 0; v < wide; v += L) {
      const Vec<C> d = load<C>(row + v) * rstds[r];
      if (kept) store<C>(kept + v, d);
      store<C>(row + v, plus ? load<C>(plus + v) + d * load<C>(gain + v) : d * load<C>(gain + v));
    }
  }

  void gates(int64_t t, int n, int64_t done, int now) {
    alignas(64) C tile[R_MAX<G> * GV], c1[R_MAX<G> * L];
    for (int64_t hb = mine(m.nb, crew.rank); hb < mine(m.nb, crew.rank + 1); hb++)
      tiles(n, [&](int64_t r0, int64_t w) {  // (1)
        const bool norm = l.layer_norm, fused = !pre_mode;
        const C* init = norm ? m.bias_hh + hb * GV : fused ? m.bias + hb * GV : pre + (done + r0) * wide + hb * GV;
        Kernel<N>::template gates<G>(w, init, norm || fused ? 0 : wide, fused ? x_rows + r0 : nullptr, m.Iu(), m.panel_ih(hb),
                                     h_rows[now] + r0, m.Pu(), m.panel_hh(hb), norm ? hh + r0 * wide + hb * GV : tile, norm ? wide : GV);
        if (norm) return;
        for (int r = 0; r < w; r++) {  // two loops: the chain of operations of one row is long, and several rows fit in flight
          auto u = unit(t, int(r0) + r, hb, tile + r * GV);
          u.carousel();
          for (int g = 0; g < G; g++) store<C>(tile + r * GV + g * L, u.q[g]);
          store<C>(c1 + r * L, u.c1);
        }
        for (int r = 0; r < w; r++) {
          auto u = unit(t, int(r0) + r, hb, tile + r * GV);
          u.c1 = load<C>(c1 + r * L);
          finish_unit(u, t, int(r0) + r, hb, u.c1, now);
        }
      });
    if (!l.layer_norm) return;
    crew.wait();
    const int64_t from = mine(n, crew.rank), to = mine(n, crew.rank + 1);
    statistics(hh, wide, G * H, from, to);
    for (int64_t slot = from; slot < to; slot++) {
      scale(hh, slot, m.gain_hh, pre + (done + slot) * wide, out.norm_hh, t * B + crew.rows[slot], 1);
      for (int64_t hb = 0; hb < m.nb; hb++) {
        C* a = hh + slot * wide + hb * GV;
        auto u = unit(t, int(slot), hb, a);
        u.carousel();
        for (int g = 0; g < G; g++) store<C>(a + g * L, u.q[g]);
        store<C>(c_rows + slot * m.Hp + hb * L, tail<C>(u.c1, m.tail(hb)));
      }
    }
    normalised_cells(t, from, to, now);
  }
  void normalised_cells(int64_t t, int64_t from, int64_t to, int now) {
    statistics(c_rows, m.Hp, H, from, to);
    for (int64_t slot = from; slot < to; slot++) {
      if (out.stats) {
        C* s = (C*)out.stats + (t * B + crew.rows[slot]) * 4;
        s[2] = means[slot], s[3] = rstds[slot];
      }
      for (int64_t hb = 0; hb < m.nb; hb++) {
        auto u = unit(t, int(slot), hb, hh + slot * wide + hb * GV);
        const Vec<C> centred = load<C>(c_rows + slot * m.Hp + hb * L);
        u.c1 = u.bound(u.bare());
        finish_unit(u, t, int(slot), hb, centred * rstds[slot] * load<C>(m.gain_c + hb * L), now);
      }
    }
  }

  LS_INLINE Unit<K, C> unit(int64_t t, int slot, int64_t hb, const C* a) const {
    Unit<K, C> u;
    for (int g = 0; g < G; g++) u.q[g] = load<C>(a + g * L);
    u.c0 = load<C>(c + slot * m.Hp + hb * L);
    u.see = m.l.peephole ? m.see + hb * L : nullptr, u.ld = m.Hp;
    u.clip = C(l.clip), u.clipped = !std::isinf(l.clip);
    u.dropped = in.drop_g, u.scale_g = C(l.scale_g);
    if (in.drop_g) u.kept = load_mask<C>(in.drop_g + (t * B + crew.rows[slot]) * H + hb * L, m.tail(hb));
    return u;
  }
  // (6), (7), (9) of c, the tape, and m_t to where it goes.
  LS_INLINE void finish_unit(Unit<K, C>& u, int64_t t, int slot, int64_t hb, Vec<C> shown, int now) {
    const int n = m.tail(hb);
    const int64_t at = t * B + crew.rows[slot], v = hb * L;
    const Vec<C> mt = u.expose(shown);
    if (out.gates)
      for (int g = 0; g < G; g++) store<C>((S*)out.gates + at * G * H + g * H + v, u.q[g], n);
    Vec<C> ct = u.c1;
    if (l.zone_c) ct = zoneout<C>(C(l.zone_c), in.zone_c ? in.zone_c + at * H + v : nullptr, n, u.c0, ct);  // (9)
    if (out.cells) store<C>((C*)out.cells + at * H + v, ct, n);
    const bool reset = order.reset(in.reverse ? t - 1 : t + 1, slot);
    store<C>(c + slot * m.Hp + v, reset ? Vec<C>{} : ct);
    if (l.projection) store<C>(mh + slot * m.Hp + v, mt);
    else emit(t, slot, v, n, mt, reset, now);
  }
  void project(int64_t t, int n, int now) {
    const auto b = m.hr_blocks();
    for (int64_t j = mine(b.count(), crew.rank); j < mine(b.count(), crew.rank + 1); j++)
      b.times(m.hr, j, m_rows, n, 1, 0, [&](int64_t slot, int64_t v, Vec<C> value) {  // (8)
        emit(t, int(slot), v, int(P - v < L ? P - v : L), value, order.reset(in.reverse ? t - 1 : t + 1, int(slot)), now);
      });
  }
  LS_INLINE void emit(int64_t t, int slot, int64_t v, int n, Vec<C> value, bool reset, int now) {
    const int64_t at = (t * B + crew.rows[slot]) * P + v;
    if constexpr (sizeof(S) != sizeof(C)) value = rounded(value);
    if (l.zone_h) value = zoneout<C>(C(l.zone_h), in.zone_h ? in.zone_h + at : nullptr, n, load<C>(h_raw + slot * m.Pp + v), value);
    store<C>((S*)out.y + at, value, n);
    if constexpr (sizeof(S) != sizeof(C)) value = rounded(value);
    carry_h(slot, v, n, value, reset, now ^ 1);
  }
  LS_INLINE static Vec<C> rounded(Vec<C> v) {
    S all[L];
    store<C>(all, v);
    return load<C>(all);
  }

  // The last states, and zeros beyond each length.
  void finish() {
    for (int64_t slot = mine(crew.n, crew.rank); slot < mine(crew.n, crew.rank + 1); slot++) {
      const int64_t b = crew.rows[slot], len = crew.len[slot], last = in.reverse ? 0 : len - 1;
      const S* h = len ? (const S*)out.y + (last * B + b) * P : (const S*)in.h0 + b * P;
      memcpy((S*)out.hn + b * P, h, P * sizeof(S));
      memcpy((C*)out.cn + b * H, len ? c + slot * m.Hp : (const C*)in.c0 + b * H, H * sizeof(C));
      for (int64_t t = len; t < T; t++) {
        memset((S*)out.y + (t * B + b) * P, 0, P * sizeof(S));
        if (out.gates) memset((S*)out.gates + (t * B + b) * G * H, 0, G * H * sizeof(S));
        if (out.cells) memset((C*)out.cells + (t * B + b) * H, 0, H * sizeof(C));
      }
    }
  }
};

}  // namespace longshort::LS_ISA
