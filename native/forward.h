// The forward pass of a crew over its sequences: x and h against packed panels, with (2) to (7) on each finished group of tiles.
#pragma once
#include <array>

#include "pack.h"

namespace longshort::LS_ISA {

inline constexpr double LN_EPS = 1e-5;
inline constexpr int64_t FAR = 4 << 20;  // bytes of a tape that the second-level caches do not keep until backward

template <class N, Gates K>
struct Forward {
  using M = Packed<N, K>;
  using S = typename N::S;
  using E = typename N::E;
  using C = typename N::C;
  using U = typename N::U;
  static constexpr int G = M::G, L = M::L, GV = M::GV;

  struct Moments {
    C mean, rstd;
  };

  const M& m;
  const Layer& l;
  const Input& in;
  const Output& out;
  const Crew& crew;
  const Order order;
  const bool pre_mode, copies, plain;
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
  C* x_worth;               // bytes: what a step is worth in each row of x
  C* c_rows;                // layer norm: c_t before (7) [n][Hp]
  Moments* moments;         // layer norm: of a step's rows of W_ih x + b, of W_hh h + b and of c_t [n][3]
  size_t bytes;

  Forward(const M& m, const Input& in, const Output& out, const Crew& crew, char* base)
      : m(m), l(m.l), in(in), out(out), crew(crew), order{in, crew}, pre_mode(wants_pre()),
        copies(sizeof(S) != sizeof(E) || l.I % KP<N>), plain(is_plain(l, in)),
        wide(m.wide), T(in.T), B(in.B), H(l.H), P(l.P) {
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
    hh = a.take<C>(l.layer_norm ? n * wide + L : 0);  // a gate of the last panel is read as a whole vector
    c_rows = a.take<C>(l.layer_norm ? n * m.Hp : 0);
    moments = a.take<Moments>(l.layer_norm ? n * 3 : 0);
    for (int r = 0; r < crew.size; r++) {  // each member has its own
      auto* xr = a.take<const U*>(rows);
      E* xc = a.take<E>(copies ? rows * m.Iu() * KP<N> : 0);
      C* xw = a.take<C>(KP<N> == 4 ? rows : 0);
      if (r == crew.rank) x_rows = xr, x_copy = xc, x_worth = xw;
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
        plain ? gates<true>(t, n, done, now) : gates<false>(t, n, done, now);
        if (l.projection) {
          crew.wait();
          project(t, n, now);
        }
        crew.wait();
        done += n;
      }
    }
    finish();
    settle();
  }
  int64_t tape_bytes() const { return crew.starts[T] * (G * H * int64_t(sizeof(S)) + H * int64_t(sizeof(C))); }

  void start() {
    const Step<false> into[2] = {{*this, 0, 0}, {*this, 0, 1}};
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
        const Vec<C> h0 = in.h0 ? load<C>((const S*)in.h0 + b * P + v, n) : Vec<C>{};
        for (const auto& step : into) step.carry(int(slot), v, n, h0, reset);
      }
      for (int64_t v = 0; v < m.Hp; v += L)
        store<C>(c + slot * m.Hp + v, reset || !in.c0 ? Vec<C>{} : load<C>((const C*)in.c0 + b * H + v, int(H - v < L ? H - v : L)));
    }
  }
  void point_at_x(int64_t s0, int64_t s1) {
    int64_t row = 0;
    for (int64_t s = s0; s < s1; s++) {
      const int64_t t = order.t(s);
      const int n = order.alive(t);
      for (int slot = 0; slot < n; slot++, row++) {
        const S* x = (const S*)in.x + order.x(t, slot);
        if (copies) {
          E* to = x_copy + row * m.Iu() * KP<N>;
          if constexpr (KP<N> == 4) x_worth[row] = to_bytes(to, x);
          else M::elements(to, x, l.I);
          for (int64_t k = l.I; k < m.Iu() * KP<N>; k++) to[k] = E{};
          x = (const S*)to;
        }
        x_rows[row] = (const U*)x;
      }
    }
  }

  // A row of x in steps of a 127th of its largest entry; returns the step.
  C to_bytes(E* to, const S* x) const {
    Vec<C> most{}, none{};
    for (int64_t v = 0; v < l.I; v += L) {
      const Vec<C> d = load<C>(x + v, int(std::min<int64_t>(L, l.I - v)));
      most = pick<C>(most < d, d, most), most = pick<C>(most < -d, -d, most), none += d - d;
    }
    C top = sum<C>(none);  // zero, or NaN where an entry is no number
    for (int i = 0; i < L; i++) top = most[i] > top ? most[i] : top;
    const C by = top > 0 ? 1 / top : C(0);
    for (int64_t v = 0; v < l.I; v += L) {
      uint8_t all[L];
      const int n = int(std::min<int64_t>(L, l.I - v));
      store<C>(all, load<C>(x + v, n) * by);
      memcpy(to + v, all, n);
    }
    return top / 127;
  }
  // (1) or a part of it, for `w` rows and a panel, or two side by side (`vectors` in all).
  void product(int64_t w, int64_t hb, int64_t vectors, const C* init, int64_t ld_init, int64_t x0, int64_t h0, int now, C* to, int64_t ld) const {
    const U* const* const x = x0 < 0 ? nullptr : x_rows + x0;
    const U* const* const h = h0 < 0 ? nullptr : h_rows[now] + h0;
    if constexpr (KP<N> == 4) {
      static constexpr auto h_worth = [] {
        std::array<C, GROUP_ROWS> steps{};
        steps.fill(C(1) / 127);
        return steps;
      }();
      BytePart<N> parts[2];
      int n = 0;
      if (x) parts[n++] = {x, m.Iu(), m.panel_ih(hb), m.zero_ih + hb * GV, m.worth_ih + hb * GV, x_worth + x0};
      if (h) parts[n++] = {h, m.Pu(), m.panel_hh(hb), m.zero_hh + hb * GV, m.worth_hh + hb * GV, h_worth.data()};
      Kernel<N>::byte_gates(w, vectors, init, ld_init, parts, n, to, ld);
    } else {
      Kernel<N>::gates(w, vectors, init, ld_init, x, m.Iu(), m.panel_ih(hb), h, m.Pu(), m.panel_hh(hb), to, ld);
    }
  }

  void input_products(int64_t s0, int64_t s1) {
    int64_t rows = 0;
    for (int64_t s = s0; s < s1; s++) rows += order.alive(order.t(s));
    for (int64_t hb = mine(m.nb, crew.rank); hb < mine(m.nb, crew.rank + 1); hb++)
      product(rows, hb, m.vectors(hb), m.bias + hb * GV, 0, 0, -1, 0, pre + hb * GV, wide);
  }

  struct Panel {
    int64_t hb, v, pitch, vectors;
    int n;
    Panel(const M& m, int64_t hb) : hb(hb), v(hb * L), pitch(m.pitch_of(hb)), vectors(m.vectors(hb)), n(m.tail(hb)) {}
  };

  // Lines (2) to (9) of one step. Everything is at hand in locals: a store through a pointer may alias any member, which the next row
  // would then have to read again. Plain: no options to ask for.
  template <bool Plain>
  struct Step {
    const M& m;
    const Layer& l;
    const Input& in;
    const Order order;
    const int32_t* rows;
    const int64_t at0, next, ahead, H, P, Hp, Pp;  // at0: where step t begins; next: the step after it; ahead: where that begins
    C *c, *h_raw;
    E *h, *mh;
    S *y, *kept;
    C* cells;
    const bool far;  // the tape is larger than those caches
    Step(const Forward& f, int64_t t, int now)
        : m(f.m), l(f.l), in(f.in), order(f.order), rows(f.crew.rows), at0(f.order.row(t)), next(f.in.reverse ? t - 1 : t + 1),
          ahead(next >= 0 && next < f.T ? order.row(next) : at0), H(f.H), P(f.P), Hp(f.m.Hp), Pp(f.m.Pp), c(f.c), h_raw(f.h_raw), h(f.h[now ^ 1]), mh(f.mh), y((S*)f.out.y), kept((S*)f.out.gates),
          cells((C*)f.out.cells), far(H % L == 0 && (uintptr_t(kept) | uintptr_t(cells)) % 64 == 0 && f.tape_bytes() > FAR) {}

    // For what the next step leaves of this vector.
    LS_INLINE void ask_ahead(int slot, const Panel& p) const {
      const int64_t at = ahead + rows[slot];
      ask(y + at * P + p.v, 1);
      if (far) return;
      for (int g = 0; g < G && kept; g++) ask(kept + (at * G + g) * H + p.v, 1);
      if (cells) ask(cells + at * H + p.v, 1);
    }
    LS_INLINE Unit<K, C> unit(int slot, const Panel& p, const C* a) const {
      Unit<K, C> u;
      for (int g = 0; g < G; g++) u.q[g] = load<C>(a + g * p.pitch);
      u.c0 = load<C>(c + slot * Hp + p.v);
      if constexpr (!Plain) set_options(u, m, in, at0 + rows[slot], p.v, p.n);
      return u;
    }
    template <class T>
    LS_INLINE void leave(T* to, Vec<C> value, int n) const {
      far ? store_far<C>(to, value) : store<C>(to, value, n);
    }
    // The tape of all gates but o.
    LS_INLINE void keep(const Unit<K, C>& u, int slot, const Panel& p) const {
      if (kept)
        for (int g = 0; g + 1 < G; g++) leave(kept + ((at0 + rows[slot]) * G + g) * H + p.v, u.q[g], p.n);
    }
    // (6), (7), (9) of c_t and of what is shown of it, the rest of the tape, and m_t to where it goes.
    LS_INLINE void finish(Unit<K, C>& u, int slot, const Panel& p, Vec<C> shown) const {
      const int64_t at = at0 + rows[slot];
      const Vec<C> mt = u.expose(shown);
      if (kept) leave(kept + (at * G + G - 1) * H + p.v, u.q[G - 1], p.n);
      Vec<C> ct = u.c1;
      bool reset = false;
      if constexpr (!Plain) {
        if (l.zone_c) {
          const Vec<C> c0 = load<C>(c + slot * Hp + p.v);
          ct = zoneout<C>(C(l.zone_c), in.zone_c ? in.zone_c + at * H + p.v : nullptr, p.n, c0, ct);  // (9)
        }
        reset = order.reset(next, slot);
      }
      if (cells) leave(cells + at * H + p.v, ct, p.n);
      store<C>(c + slot * Hp + p.v, reset ? Vec<C>{} : ct);
      if constexpr (!Plain)
        if (l.projection) return store<C>(mh + slot * Hp + p.v, within(mt, p.n));
      emit(slot, p.v, p.n, mt, reset);
    }
    LS_INLINE void emit(int slot, int64_t v, int n, Vec<C> value, bool reset) const {
      const int64_t at = (at0 + rows[slot]) * P + v;
      if constexpr (!Plain)
        if (l.zone_h) {
          value = zoneout<C>(C(l.zone_h), in.zone_h ? in.zone_h + at : nullptr, n, load<C>(h_raw + slot * Pp + v), rounded(value));
        }
      store<C>(y + at, value, n);
      value = within(value, n);
      if constexpr (Plain) store<C>(h + slot * Pp + v, sizeof(E) == sizeof(S) ? value : rounded(value));
      else carry(slot, v, n, rounded(value), reset);
    }
    // h_t to where the next step finds it.
    LS_INLINE void carry(int slot, int64_t v, int n, Vec<C> value, bool reset) const {
      if (reset) value = Vec<C>{};
      if (l.zone_h) store<C>(h_raw + slot * Pp + v, value);
      if (in.drop_h) value = pick<C>(load_mask<C>(in.drop_h + rows[slot] * P + v, n), value * C(l.scale_h), Vec<C>{});
      store<C>(h + slot * Pp + v, value);
    }
    // Nothing beyond the last unit: where products read several at once, its neighbour would be one of them. 0 * inf is not 0.
    LS_INLINE static Vec<C> within(Vec<C> v, int n) { return KP<N> > 1 && n < L ? tail<C>(v, n) : v; }
    LS_INLINE static Vec<C> rounded(Vec<C> v) {  // as a tensor would hold it
      if constexpr (sizeof(S) == sizeof(C)) return v;
      S all[L];
      store<C>(all, v);
      return load<C>(all);
    }
  };

  // (2) to (9) on the tiles of a panel, in two loops: the chain of operations of one row is long, and several rows fit in flight.
  template <bool Plain>
  LS_INLINE static void fuse(const Step<Plain>& step, const Panel& p, int r0, int w, C* tile, C* c1) {
    constexpr int o = Rows<K>::o;
    for (int r = 0; r < w; r++) {
      step.ask_ahead(r0 + r, p);
      auto u = step.unit(r0 + r, p, tile + r * GV);
      u.carousel();
      step.keep(u, r0 + r, p);
      if (!Plain) store<C>(tile + r * GV + o * p.pitch, u.q[o]);
      store<C>(c1 + r * L, u.c1);
    }
    for (int r = 0; r < w; r++) {
      Unit<K, C> u;
      u.q[o] = load<C>(tile + r * GV + o * p.pitch), u.c1 = load<C>(c1 + r * L);
      step.finish(u, r0 + r, p, u.c1);
    }
  }
  template <bool Plain>
  void gates(int64_t t, int n, int64_t done, int now) {
    alignas(64) C tile[GROUP_ROWS * GV], c1[GROUP_ROWS * L];
    const Step<Plain> step(*this, t, now);
    const int64_t first = mine(m.nb, crew.rank), last = mine(m.nb, crew.rank + 1);
    const Groups full(n, G), rest(n, m.vectors(m.nb - 1));
    const int64_t span = LS_REGISTERS == 16 && n == 1 ? 2 : 1, stops = ceil_div(last - first, span);
    for (int64_t i = 0; i < stops; i++) {
      const int64_t from = first + span * (t % 2 ? stops - 1 - i : i);  // to and fro: what was read last is still in cache
      const int64_t to = std::min(from + span, last);
      for (int64_t hb = from, many; hb < to; hb += many) {
        many = to - hb == 2 && m.vectors(hb + 1) == G ? 2 : 1;
        const int64_t vectors = many == 2 ? 2 * G : m.vectors(hb);
        const Groups& groups = hb + 1 < m.nb ? full : rest;
        for (int64_t k = 0; k < groups.tiles; k += GROUP) {  // (1)
          const int64_t r0 = groups.first(k), w = groups.first(k + GROUP) - r0;
          const bool norm = l.layer_norm, fused = !pre_mode;
          const C* init = norm ? m.bias_hh + hb * GV : fused ? m.bias + hb * GV : pre + (done + r0) * wide + hb * GV;
          product(w, hb, vectors, init, norm || fused ? 0 : wide, fused ? r0 : -1, r0, now, norm ? hh + r0 * wide + hb * GV : tile, norm ? wide : GV);
          for (int64_t b = 0; b < many && !norm; b++) fuse(step, Panel(m, hb + b), int(r0), int(w), tile + b * GV, c1);
        }
      }
    }
    if (!l.layer_norm) return;
    crew.wait();
    normalised<Plain>(step, t, mine(n, crew.rank), mine(n, crew.rank + 1), done);
  }
  // Mean and 1 / deviation of rows [from, to), `width` wide, over the entries that stand for a unit; `kind`: their place in moments.
  // Row after row in each loop, so that the sums of several are under way at a time.
  template <class Real>
  void take_moments(const C* rows, int64_t width, int64_t count, int64_t from, int64_t to, int kind, Real real) {
    for (int64_t r = from; r < to; r++) {
      Vec<C> total{};
      for (int64_t v = 0; v < width; v += L) total += load<C>(rows + r * width + v);
      moments[r * 3 + kind].mean = sum<C>(total) / C(count);
    }
    for (int64_t r = from; r < to; r++) {
      Vec<C> square{};
      const C mean = moments[r * 3 + kind].mean;
      for (int64_t v = 0; v < width; v += L) {
        const Vec<C> d = real(v, load<C>(rows + r * width + v) - mean);
        square += d * d;
      }
      moments[r * 3 + kind].rstd = C(1) / std::sqrt(sum<C>(square) / C(count) + C(LN_EPS));
    }
  }
  // Layer norm's way through (1) to (9), for slots [from, to).
  template <bool Plain>
  void normalised(const Step<Plain>& step, int64_t t, int64_t from, int64_t to, int64_t done) {
    constexpr int o = Rows<K>::o;
    const auto of_gates = [&](int64_t v, Vec<C> d) { return m.only_real(v, d); };
    const C* const ih = pre + done * wide;
    take_moments(ih, wide, G * H, from, to, 0, of_gates);
    take_moments(hh, wide, G * H, from, to, 1, of_gates);
    for (int64_t slot = from; slot < to; slot++) {
      const int64_t at = order.row(t, int(slot));
      const Moments x = moments[slot * 3], h = moments[slot * 3 + 1];
      S *const keep_x = out.norm_ih ? (S*)out.norm_ih + at * wide : nullptr, *const keep_h = (S*)out.norm_hh + at * wide;
      if (keep_x) {
        const int64_t next = (step.ahead + step.rows[slot]) * wide;
        ask((const S*)out.norm_ih + next, wide), ask((const S*)out.norm_hh + next, wide);
      }
      if (out.stats) ((C*)out.stats)[at * 4] = x.rstd, ((C*)out.stats)[at * 4 + 1] = h.rstd;
      C* const row = hh + slot * wide;
      const C *const ih_row = ih + slot * wide, *const gain_x = m.gain_ih, *const gain_h = m.gain_hh;
      for (int64_t v = 0, end = wide; v < end; v += L) {  // (1)
        const Vec<C> nx = (load<C>(ih_row + v) - x.mean) * x.rstd, nh = (load<C>(row + v) - h.mean) * h.rstd;
        if (keep_x) store<C>(keep_x + v, nx), store<C>(keep_h + v, nh);
        store<C>(row + v, nx * load<C>(gain_x + v) + nh * load<C>(gain_h + v));
      }
    }
    for (int64_t slot = from; slot < to; slot++)
      for (int64_t hb = 0; hb < m.nb; hb++) {
        const Panel p(m, hb);
        C* a = hh + slot * wide + hb * GV;
        step.ask_ahead(int(slot), p);
        auto u = step.unit(int(slot), p, a);
        u.carousel();
        step.keep(u, int(slot), p);
        if (!Plain) store<C>(a + o * p.pitch, u.q[o], int(p.pitch));
        store<C>(c_rows + slot * m.Hp + p.v, tail<C>(u.c1, p.n));
      }
    take_moments(c_rows, m.Hp, H, from, to, 2, [&](int64_t v, Vec<C> d) { return tail<C>(d, m.tail(v / L)); });
    for (int64_t slot = from; slot < to; slot++) {
      const Moments c = moments[slot * 3 + 2];
      if (out.stats) {
        C* s = (C*)out.stats + order.row(t, int(slot)) * 4;
        s[2] = c.mean, s[3] = c.rstd;
      }
      for (int64_t hb = 0; hb < m.nb; hb++) {
        const Panel p(m, hb);
        Unit<K, C> u;
        u.q[o] = load<C>(hh + slot * wide + hb * GV + o * p.pitch), u.c1 = load<C>(c_rows + slot * m.Hp + p.v);
        step.finish(u, int(slot), p, (u.c1 - c.mean) * c.rstd * load<C>(m.gain_c + p.v));
      }
    }
  }
  void project(int64_t t, int n, int now) {
    const auto b = m.hr_blocks();
    const Step<false> step(*this, t, now);
    for (int64_t j = mine(b.count(), crew.rank); j < mine(b.count(), crew.rank + 1); j++)
      b.times(m.hr, j, m_rows, n, {1, b.K, b.K, 0}, [&](int64_t slot, int64_t v, Vec<C> value) {  // (8)
        step.emit(int(slot), v, int(P - v < L ? P - v : L), value, order.reset(step.next, int(slot)));
      });
  }

  // The last states, and zeros beyond each length.
  void finish() {
    for (int64_t slot = mine(crew.n, crew.rank); slot < mine(crew.n, crew.rank + 1); slot++) {
      const int64_t b = crew.rows[slot], len = crew.len[slot], last = in.reverse ? 0 : len - 1;
      const auto leave = [](auto* to, const auto* from, int64_t n) { from ? memcpy(to, from, n * sizeof(*to)) : memset(to, 0, n * sizeof(*to)); };
      leave((S*)out.hn + b * P, len ? (const S*)out.y + order.row(last, int(slot)) * P : in.h0 ? (const S*)in.h0 + b * P : nullptr, P);
      leave((C*)out.cn + b * H, len ? c + slot * m.Hp : in.c0 ? (const C*)in.c0 + b * H : nullptr, H);
      for (int64_t t = in.sizes ? T : len; t < T; t++) {
        const int64_t at = t * B + b;
        memset((S*)out.y + at * P, 0, P * sizeof(S));
        if (out.gates) memset((S*)out.gates + at * G * H, 0, G * H * sizeof(S));
        if (out.cells) memset((C*)out.cells + at * H, 0, H * sizeof(C));
      }
    }
  }
};

}  // namespace longshort::LS_ISA
