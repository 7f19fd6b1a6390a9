// The backward pass of a crew: (9') to (2') per unit from the tape, dh through W_hh^T, and per chunk of steps the products over rows
// that give the gradients of the weights, while the chunk's da is still in cache.
#pragma once
#include "forward.h"

namespace longshort::LS_ISA {

// A crew's sums of the gradients of the parameters, in the order of the packed panels.
template <class N, Gates K>
struct Sums {
  using C = typename N::C;
  static constexpr int G = Packed<N, K>::G, L = Packed<N, K>::L, GV = G * L;
  C *ih, *hh, *hr;                                 // [nb][I + 1][width] (the last row: bias), [nb][P + 1][width], [H in blocks][P]
  C *see[64], *gain_ih[64], *gain_hh[64], *gain_c[64];  // of each member: [3][Hp], [wide] twice, [Hp]
  size_t bytes;
  Sums(const Packed<N, K>& m, int members, char* base) {
    const Layer& l = m.l;
    Carve a{base};
    ih = a.take<C>((l.I + 1) * m.wide), hh = a.take<C>((l.P + 1) * m.wide);
    hr = a.take<C>(l.projection ? m.Hp * l.P : 0);
    for (int r = 0; r < members; r++) {
      see[r] = a.take<C>(l.peephole ? 3 * m.Hp : 0);
      gain_ih[r] = a.take<C>(l.layer_norm ? m.wide : 0), gain_hh[r] = a.take<C>(l.layer_norm ? m.wide : 0);
      gain_c[r] = a.take<C>(l.layer_norm ? m.Hp : 0);
    }
    bytes = a.used;
  }
};

template <class N, Gates K>
struct Backward {
  using M = Packed<N, K>;
  using S = typename N::S;
  using E = typename N::E;
  using C = typename N::C;
  using U = typename N::U;
  using Back = typename Unit<K, C>::Back;
  static constexpr int G = M::G, L = M::L, GV = M::GV, KPN = KP<N>;

  const M& m;
  const Layer& l;
  const Input& in;
  const Output& out;
  const Grads& gr;
  const Crew& crew;
  const Order order;
  const bool plain;
  Sums<N, K> sums;
  const int64_t wide, T, B, H, P, I;
  const int64_t hx;           // columns of h's operand: one more of ones where bias_hh has its own gradient
  int64_t steps, most;        // of a chunk; rows of a chunk, a multiple of the unit
  C *dh, *dc, *dm;            // [n][Pp], [n][Hp], [n][Hp]
  E* da[2];                   // of W_ih and of W_hh (one and the same without layer norm): [nb][most][GV]
  E *dh1, *mt;                // projection: dh before (8') [most][Pp], m [vectors of H in blocks][most]
  const U** rows_of[2];
  const U** dh1_rows;
  U *ax, *ah, *ar;            // x, h_{t-1} and dh1 as left-hand operands
  C *rows, *du, *d_o, *halves;  // layer norm: da [n][wide], the gradient of (7)'s norm [n][Hp], da of o [n][Hp], the two means of each row [n][6]
  E* line;                    // this member's: one row of x or h
  int64_t* places;            // this member's: where each row of a chunk is in [T, B, ..]
  U* pair;                    // this member's: a panel in pairs
  size_t bytes;

  Backward(const M& m, const Input& in, const Output& out, const Grads& gr, const Crew& crew, char* base)
      : m(m), l(m.l), in(in), out(out), gr(gr), crew(crew), order{in, crew},
        plain(is_plain(l, in)),
        sums(m, crew.size, crew.sums), wide(m.wide), T(in.T), B(in.B), H(l.H), P(l.P), I(l.I), hx(l.P + (l.layer_norm ? 1 : 0)) {
    const int64_t n = crew.n, target = 256;
    steps = target / (n ? n : 1);
    steps = steps < 1 ? 1 : steps > T ? T : steps;
    most = units<N>(n * steps) * KPN;
    Carve a{base};
    dh = a.take<C>(n * m.Pp), dc = a.take<C>(n * m.Hp), dm = a.take<C>(l.projection ? n * m.Hp : 0);
    da[0] = a.take<E>(m.nb * most * GV);
    da[1] = l.layer_norm ? a.take<E>(m.nb * most * GV) : da[0];
    rows_of[0] = a.take<const U*>(most), rows_of[1] = a.take<const U*>(most);
    dh1 = a.take<E>(l.projection ? most * m.Pp : 0), mt = a.take<E>(l.projection ? most * m.Hp : 0);
    dh1_rows = a.take<const U*>(l.projection ? most : 0);
    ax = a.take<U>((I + 1) * units<N>(most)), ah = a.take<U>(hx * units<N>(most)), ar = a.take<U>(l.projection ? P * units<N>(most) : 0);
    rows = a.take<C>(l.layer_norm ? n * wide + L : 0), du = a.take<C>(l.layer_norm ? n * m.Hp : 0);
    d_o = a.take<C>(l.layer_norm ? n * m.Hp : 0);
    halves = a.take<C>(l.layer_norm ? n * 6 : 0);
    for (int r = 0; r < crew.size; r++) {
      E* ln = a.take<E>((I > P ? I : P) + 1 + L);
      U* pr = a.take<U>(KPN > 1 ? units<N>(most) * 4 * L : 0);
      auto* pl = a.take<int64_t>(most);
      if (r == crew.rank) line = ln, pair = pr, places = pl;
    }
    bytes = a.used;
  }
  int64_t mine(int64_t n, int of) const { return cut(n, crew.size, of); }
  Outer<N> x_outer() const { return {I + 1, row_limit(G)}; }
  Outer<N> h_outer() const { return {hx, row_limit(G)}; }
  Outer<N> r_outer() const { return {P, row_limit(4)}; }

  void run() {
    for (int64_t k = 0; k < most; k++)
      if (crew.rank == 0) {
        for (int i = 0; i < 2; i++) rows_of[i][k] = (const U*)(da[i] + k * GV);
        if (l.projection) dh1_rows[k] = (const U*)(dh1 + k * m.Pp);
      }
    // Of three gates the last panel may not fill its vectors: what no gate writes there is zero.
    const int64_t used = (m.nb - 1) * GV + G * m.pitch, rest = (wide - used) * int64_t(sizeof(C));
    for (int64_t k = 0; crew.rank == 0 && rest && k < most; k++) memset(da[0] + (m.nb - 1) * (most - 1) * GV + k * GV + used, 0, (wide - used) * sizeof(E));
    for (int64_t slot = 0; crew.rank == 0 && rest && l.layer_norm && slot < crew.n; slot++) memset(rows + slot * wide + used, 0, rest);
    start();
    crew.wait();
    for (int64_t s1 = T; s1 > 0; s1 -= steps) {
      const int64_t s0 = s1 > steps ? s1 - steps : 0;
      int64_t done = 0;
      for (int64_t s = s1 - 1; s >= s0; s--) {
        const int64_t t = order.t(s);
        const int n = order.alive(t);
        if (!n) continue;
        if (l.projection) unproject(t, n, done);
        plain ? gates<true>(t, n, done) : gates<false>(t, n, done);
        crew.wait();
        const auto b = m.hh_t_blocks();  // (1') to h_{t-1}
        for (int64_t j = mine(b.count(), crew.rank); j < mine(b.count(), crew.rank + 1); j++)
          b.times(m.hh_t, j, rows_of[1] + done, n, m.gate_segments(most * GV / KPN), [&](int64_t slot, int64_t v, Vec<C> value) {
            if (v + L > P && m.joint) {  // the columns beyond P are x's
              leave_dx(order.row(t, int(slot)), v - P, value);
              if (v >= P) return;
              value = tail<C>(value, int(P - v));
            }
            C* to = dh + slot * m.Pp + v;
            const int64_t at = crew.rows[slot] * P + v;
            if (in.drop_h) value = pick<C>(load_mask<C>(in.drop_h + at, int(P - v < L ? P - v : L)), value * C(l.scale_h), Vec<C>{});
            if (l.zone_h) value += load<C>(to);
            store<C>(to, order.reset(t, int(slot)) ? Vec<C>{} : value);
          });
        crew.wait();
        done += n;
      }
      if (done) {
        weights(s0, s1, done);
        crew.wait();
      }
    }
    finish();
  }

  // Entries v to v + L of a row of dx; v may begin before the row.
  LS_INLINE void leave_dx(int64_t row, int64_t v, Vec<C> value) {
    S* to = (S*)gr.dx + row * I;
    if (v >= 0) return store<C>(to + v, value, int(I - v < L ? I - v : L));
    S all[L];
    store<C>(all, value);
    for (int64_t k = -v; k < L && v + k < I; k++) to[v + k] = all[k];
  }

  void start() {
    for (int64_t slot = mine(crew.n, crew.rank); slot < mine(crew.n, crew.rank + 1); slot++) {
      const int64_t b = crew.rows[slot];
      for (int64_t v = 0; v < m.Pp; v += L)
        store<C>(dh + slot * m.Pp + v, gr.dhn ? load<C>((const S*)gr.dhn + b * P + v, int(P - v < L ? P - v : L)) : Vec<C>{});
      for (int64_t v = 0; v < m.Hp; v += L)
        store<C>(dc + slot * m.Hp + v, gr.dcn ? load<C>((const C*)gr.dcn + b * H + v, int(H - v < L ? H - v : L)) : Vec<C>{});
    }
  }

  void unproject(int64_t t, int n, int64_t done) {
    const Step<false> step(*this, t);
    for (int64_t slot = mine(n, crew.rank); slot < mine(n, crew.rank + 1); slot++)
      for (int64_t v = 0; v < m.Pp; v += L) store<C>(dh1 + (done + slot) * m.Pp + v, step.take_dh(int(slot), v));
    crew.wait();
    const auto b = m.hr_t_blocks();
    for (int64_t j = mine(b.count(), crew.rank); j < mine(b.count(), crew.rank + 1); j++)
      b.times(m.hr_t, j, dh1_rows + done, n, {1, b.K, b.K, 0}, [&](int64_t slot, int64_t v, Vec<C> value) { store<C>(dm + slot * m.Hp + v, value); });  // (8')
    crew.wait();
  }

  // What lines (9') to (2') of one step read and write, in locals, as in Forward.
  template <bool Plain>
  struct Step {
    const M& m;
    const Layer& l;
    const Input& in;
    const Order order;
    const int32_t* rows;
    const int64_t t, at0, from0, H, P, Hp, Pp;  // at0: where step t begins; from0: the step before it
    const S *dy, *gates, *norm_ih, *norm_hh;
    const C* cells;
    C *dh, *dc, *dm, *see, *flow_h, *flow_c;
    Step(const Backward& b, int64_t t)
        : m(b.m), l(b.l), in(b.in), order(b.order), rows(b.crew.rows), t(t), at0(order.row(t)),
          from0(order.before(t) >= 0 && order.before(t) < b.T ? order.row(order.before(t)) : 0), H(b.H), P(b.P), Hp(b.m.Hp), Pp(b.m.Pp),
          dy((const S*)b.gr.dy), gates((const S*)b.out.gates), norm_ih((const S*)b.out.norm_ih), norm_hh((const S*)b.out.norm_hh),
          cells((const C*)b.out.cells), dh(b.dh), dc(b.dc), dm(b.dm), see(b.sums.see[b.crew.rank]), flow_h((C*)b.gr.flow_h), flow_c((C*)b.gr.flow_c) {}

    // For what the next step reads of units [from, to).
    LS_INLINE void ask_ahead(int slot, int64_t from, int64_t to) const {
      const int64_t at = from0 + rows[slot], further = at + from0 - at0;
      for (int g = 0; g < G && gates; g++) ask(gates + (at * G + g) * H + from, to - from);
      if (dy) ask(dy + at * P + from, to - from);
      if (further > 0) ask(cells + further * H + from, to - from);
    }
    // dh of h_t, its direct part left in dh (9'); what goes to h before zoneout is returned.
    LS_INLINE Vec<C> take_dh(int slot, int64_t v) const {
      const int n = int(P - v < L ? P - v : L);
      const int64_t at = (at0 + rows[slot]) * P + v;
      Vec<C> d = load<C>(dh + slot * Pp + v);
      if (dy) d += load<C>(dy + at, n);
      if (flow_h) store<C>(flow_h + at, d, n);
      if constexpr (!Plain)
        if (l.zone_h) {
          const Vec<C> d1 = zoneout_back<C>(C(l.zone_h), in.zone_h ? in.zone_h + at : nullptr, n, d);
          store<C>(dh + slot * Pp + v, d - d1);
          return d1;
        }
      return d;
    }
    template <bool Norm = false>  // with layer norm the gates may not be kept, and are made again
    LS_INLINE Unit<K, C> unit(int slot, int64_t hb) const {
      const bool again = Norm && !gates;
      const int64_t b = rows[slot], at = at0 + b, v = hb * L;
      const int n = m.tail(hb);
      Unit<K, C> u;
      for (int g = 0; g < G; g++) u.q[g] = again ? sum_of_norms(at, hb, g) : load<C>(gates + (at * G + g) * H + v, n);
      u.c0 = load<C>(order.first(t, slot) ? (const C*)in.c0 + b * H + v : cells + (from0 + b) * H + v, n);
      u.c1 = load<C>(cells + at * H + v, n);
      if constexpr (!Plain) {
        if (order.reset(t, slot)) u.c0 = Vec<C>{};
        set_options(u, m, in, at, v, n);
      }
      if (again) u.open();
      if constexpr (!Plain)
        if (l.zone_c) {  // the cell before zoneout: rebuilt where it is not the one kept
          const Vec<C> rebuilt = u.bound(u.bare());
          u.c1 = in.zone_c ? pick<C>(load_mask<C>(in.zone_c + at * H + v, n), rebuilt, u.c1) : rebuilt;
        }
      if (again) u.see_c(), u.open_o();
      return u;
    }
    LS_INLINE Vec<C> sum_of_norms(int64_t at, int64_t hb, int g) const {  // what layer norm gave a gate in (1)
      const int64_t k = hb * GV + g * m.pitch_of(hb), of = at * m.wide + k;
      const int n = m.tail(hb);
      return tail<C>(load<C>(norm_ih + of, n) * load<C>(m.gain_ih + k) + load<C>(norm_hh + of, n) * load<C>(m.gain_hh + k), n);
    }
    LS_INLINE Vec<C> take_dm(int slot, int64_t hb) const {
      if constexpr (!Plain)
        if (l.projection) return load<C>(dm + slot * Hp + hb * L);
      return take_dh(slot, hb * L);
    }
    // dc of c_t to dc before zoneout; the rest, which goes straight to c_{t-1}, is left in `rest`.
    LS_INLINE Vec<C> take_dc(int slot, int64_t hb, Vec<C>& rest) const {
      const Vec<C> d = load<C>(dc + slot * Hp + hb * L);
      rest = Vec<C>{};
      if constexpr (!Plain)
        if (l.zone_c) {
          const int64_t at = (at0 + rows[slot]) * H + hb * L;
          const Vec<C> d1 = zoneout_back<C>(C(l.zone_c), in.zone_c ? in.zone_c + at : nullptr, m.tail(hb), d);
          rest = d - d1;
          return d1;
        }
      return d;
    }
    // dc1: the gradient of the cell before zoneout; later steps' one of c_t itself is still in dc.
    LS_INLINE void show(int slot, int64_t hb, Vec<C> dc1) const {
      if (!flow_c) return;
      const bool zoned = !Plain && l.zone_c;
      store<C>(flow_c + (at0 + rows[slot]) * H + hb * L, zoned ? load<C>(dc + slot * Hp + hb * L) : dc1, m.tail(hb));
    }
    LS_INLINE void leave(int slot, int64_t hb, const Back& b, Vec<C> rest) const {
      C* to = dc + slot * Hp + hb * L;
      if constexpr (Plain) return store<C>(to, b.dc);
      store<C>(to, order.reset(t, slot) ? Vec<C>{} : b.dc + rest);
      if (l.peephole)
        for (int k = 0; k < l.peepholes(); k++) {
          C* s = see + k * Hp + hb * L;
          store<C>(s, load<C>(s) + b.see[k]);
        }
    }
  };

  template <bool Plain>
  void gates(int64_t t, int n, int64_t done) {
    const Step<Plain> step(*this, t);
    if (l.layer_norm) return normalised<Plain>(step, t, mine(n, crew.rank), mine(n, crew.rank + 1), done);
    const int64_t first = mine(m.nb, crew.rank), last = mine(m.nb, crew.rank + 1);
    E* const to = da[0];
    const int64_t rows_of_panel = most;
    for (int slot = 0; slot < n; slot++) {
      step.ask_ahead(slot, first * L, std::min(last * L, H));
      for (int64_t hb = first; hb < last; hb++) {
        const auto u = step.unit(slot, hb);
        Back b;
        Vec<C> rest;
        const Vec<C> th = tanh<C>(u.c1), later = step.take_dc(slot, hb, rest);
        if (!Plain && l.projection) keep_m(hb, done + slot, u.q[Rows<K>::o] * th);
        const Vec<C> dm = u.expose_back(step.take_dm(slot, hb), th, b), dc1 = u.seen_back(later + dm, b);
        step.show(slot, hb, dc1);
        u.carousel_back(dc1, b);
        step.leave(slot, hb, b, rest);
        const int64_t pitch = m.pitch_of(hb);
        for (int g = 0; g < G; g++) store<C>(to + (hb * rows_of_panel + done + slot) * GV + g * pitch, b.da[g], int(pitch));
      }
    }
  }
  LS_INLINE void keep_m(int64_t hb, int64_t k, Vec<C> value) {
    const auto b = Blocks<N>{most / KPN, H};
    int64_t j = 0;
    while (b.v0(j + 1) <= hb) j++;
    store<C>(mt + b.v0(j) * L * most + k * b.nv(j) * L + (hb - b.v0(j)) * L, value);
  }
  // Layer norm's way through (7') to (1'), for slots [from, to): sums of a row first, then what needs them; row after row in each loop,
  // so that the sums of several are under way at a time.
  template <bool Plain>
  void normalised(const Step<Plain>& step, int64_t t, int64_t from, int64_t to, int64_t done) {
    constexpr int o = Rows<K>::o;
    C* const gain_c = sums.gain_c[crew.rank];
    for (int64_t slot = from; slot < to; slot++) {
      const int64_t next = (step.from0 + step.rows[slot]) * wide;
      step.ask_ahead(int(slot), 0, H), ask((const S*)out.norm_ih + next, wide), ask((const S*)out.norm_hh + next, wide);
      const C* stats = (const C*)out.stats + order.row(t, int(slot)) * 4;
      Vec<C> s1{}, s2{};
      for (int64_t hb = 0; hb < m.nb; hb++) {
        const auto u = step.template unit<true>(int(slot), hb);
        Back b;
        const Vec<C> n = tail<C>((u.c1 - stats[2]) * stats[3], m.tail(hb)), gain = load<C>(m.gain_c + hb * L), th = tanh<C>(n * gain);
        if (!Plain && l.projection) keep_m(hb, done + slot, u.q[o] * th);
        const Vec<C> d = u.expose_back(step.take_dm(int(slot), hb), th, b), dn = d * gain;
        C* s = gain_c + hb * L;
        store<C>(s, load<C>(s) + d * n);
        s1 += dn, s2 += dn * n;
        store<C>(du + slot * m.Hp + hb * L, dn), store<C>(d_o + slot * m.Hp + hb * L, b.da[o]);
      }
      halves[slot * 6] = sum<C>(s1) / C(H), halves[slot * 6 + 1] = sum<C>(s2) / C(H);
    }
    for (int64_t slot = from; slot < to; slot++) {
      const int64_t at = order.row(t, int(slot));
      const C* stats = (const C*)out.stats + at * 4;
      C* half = halves + slot * 6;
      C* const row = rows + slot * wide;
      for (int64_t hb = 0; hb < m.nb; hb++) {
        const auto u = step.template unit<true>(int(slot), hb);
        Back b;
        Vec<C> rest;
        const Vec<C> n = (u.c1 - stats[2]) * stats[3], later = step.take_dc(int(slot), hb, rest);
        b.da[o] = load<C>(d_o + slot * m.Hp + hb * L);
        const Vec<C> dn = stats[3] * (load<C>(du + slot * m.Hp + hb * L) - (half[0] + n * half[1]));
        const Vec<C> dc1 = u.seen_back(later + tail<C>(dn, m.tail(hb)), b);
        step.show(int(slot), hb, dc1);
        u.carousel_back(dc1, b);
        step.leave(int(slot), hb, b, rest);
        const int64_t pitch = m.pitch_of(hb);
        for (int g = 0; g < G; g++) store<C>(row + hb * GV + g * pitch, b.da[g], int(pitch));
      }
    }
    for (int64_t slot = from; slot < to;)
      slot += to - slot >= 4 ? gain_sums<4>(t, slot) : gain_sums<1>(t, slot);
    for (int64_t slot = from; slot < to; slot++) {
      const int64_t at = order.row(t, int(slot));
      const C *stats = (const C*)out.stats + at * 4, *half = halves + slot * 6 + 2;
      leave_da(rows + slot * wide, (const S*)out.norm_ih + at * wide, m.gain_ih, half, stats[0], da[0] + (done + slot) * GV);
      leave_da(rows + slot * wide, (const S*)out.norm_hh + at * wide, m.gain_hh, half + 2, stats[1], da[1] + (done + slot) * GV);
    }
  }
  // The gradients of the gains from R rows of da, and each row's two means for either product.
  template <int R>
  int gain_sums(int64_t t, int64_t slot) {
    const S *x[R], *h[R];
    for (int r = 0; r < R; r++) {
      const int64_t at = order.row(t, int(slot) + r) * wide;
      x[r] = (const S*)out.norm_ih + at, h[r] = (const S*)out.norm_hh + at;
    }
    const C *const da = rows + slot * wide, *const gain_x = m.gain_ih, *const gain_h = m.gain_hh;
    C *const dgain_x = sums.gain_ih[crew.rank], *const dgain_h = sums.gain_hh[crew.rank];
    Vec<C> s[R][4] = {};
    for (int64_t v = 0, w = wide; v < w; v += L) {
      const Vec<C> gx = load<C>(gain_x + v), gh = load<C>(gain_h + v);
      Vec<C> sx = load<C>(dgain_x + v), sh = load<C>(dgain_h + v);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const Vec<C> d = load<C>(da + r * w + v), nx = load<C>(x[r] + v), nh = load<C>(h[r] + v), dx = d * gx, dh = d * gh;
        sx += d * nx, sh += d * nh;
        s[r][0] += dx, s[r][1] += dx * nx, s[r][2] += dh, s[r][3] += dh * nh;
      }
      store<C>(dgain_x + v, sx), store<C>(dgain_h + v, sh);
    }
    for (int r = 0; r < R; r++)
      for (int i = 0; i < 4; i++) halves[(slot + r) * 6 + 2 + i] = sum<C>(s[r][i]) / C(G * H);
    return R;
  }
  void leave_da(const C* row, const S* norm, const C* gain, const C* half, C rstd, E* to) const {
    for (int64_t hb = 0; hb < m.nb; hb++)
      for (int64_t v = hb * GV, end = v + m.width(hb); v < end; v += L) {
        const Vec<C> d = load<C>(row + v) * load<C>(gain + v) - (half[0] + load<C>(norm + v) * half[1]);
        store<C>(to + hb * (most - 1) * GV + v, m.only_real(v, d * rstd));
      }
  }

  // x_t or h_{t-1} of a row as elements, in place or copied to `line`.
  LS_INLINE const E* x_line(int64_t t, int slot) {
    M::elements(line, (const S*)in.x + order.x(t, slot), I);
    line[I] = one();
    return line;
  }
  static E one() {
    if constexpr (sizeof(E) == 2) return E{0x3f80};
    else return E(1);
  }
  const E* h_line(int64_t t, int slot) {
    const int64_t b = crew.rows[slot];
    line[P] = one();
    if (order.reset(t, slot)) {
      memset(line, 0, P * sizeof(E));
      return line;
    }
    const S* h = order.first(t, slot) ? (const S*)in.h0 + b * P : (const S*)out.y + order.row(order.before(t), slot) * P;
    if (!in.drop_h) M::elements(line, h, P);
    else
      for (int64_t v = 0; v < P; v += L) {
        const int n = int(P - v < L ? P - v : L);
        store<C>(line + v, pick<C>(load_mask<C>(in.drop_h + b * P + v, n), load<C>(h + v, n) * C(l.scale_h), Vec<C>{}), n);
      }
    return line;
  }

  // Gradients of the weights and of x from the rows of a chunk.
  void weights(int64_t s0, int64_t s1, int64_t rows) {
    int64_t k = 0;
    for (int64_t s = s1 - 1; s >= s0; s--) {
      const int64_t t = order.t(s);
      for (int slot = 0, n = order.alive(t); slot < n; slot++, k++)
        if (k * crew.size / rows == crew.rank) {
          x_outer().put(ax, rows, k, x_line(t, slot));
          h_outer().put(ah, rows, k, h_line(t, slot));
          if (l.projection) r_outer().put(ar, rows, k, dh1 + k * m.Pp);
        }
    }
    if (rows % KPN && crew.rank == 0) {  // an odd row's partner
      memset(line, 0, ((I > P ? I : P) + 1) * sizeof(E));
      x_outer().put(ax, rows, rows, line), h_outer().put(ah, rows, rows, line);
    }
    crew.wait();
    for (int64_t hb = mine(m.nb, crew.rank); hb < mine(m.nb, crew.rank + 1); hb++) {
      const int64_t w = m.width(hb), nv = m.vectors(hb);
      Paired<N> b(da[0] + hb * most * GV, rows, w, GV, pair);
      x_outer().add(nv, ax, rows, b.b, b.ld, sums.ih + hb * (I + 1) * GV);
      if (l.layer_norm) b = Paired<N>(da[1] + hb * most * GV, rows, w, GV, pair);
      h_outer().add(nv, ah, rows, b.b, b.ld, sums.hh + hb * (P + 1) * GV);
    }
    if (l.projection) project_weights(rows);
    if (gr.dx && !m.joint) input_gradients(s0, s1, rows);
  }
  void project_weights(int64_t rows) {
    const auto b = Blocks<N>{most / KPN, H};
    if (rows % KPN && crew.rank == 0) {
      memset(line, 0, P * sizeof(E));
      r_outer().put(ar, rows, rows, line);
    }
    crew.wait();
    for (int64_t j = mine(b.count(), crew.rank); j < mine(b.count(), crew.rank + 1); j++) {
      const int64_t at = b.v0(j) * L;
      const Paired<N> bm(mt + at * most, rows, b.nv(j) * L, b.nv(j) * L, pair);
      r_outer().add(b.nv(j), ar, rows, bm.b, bm.ld, sums.hr + at * P);
    }
  }
  void input_gradients(int64_t s0, int64_t s1, int64_t rows) {
    int64_t k = 0;
    for (int64_t s = s1 - 1; s >= s0; s--) {
      const int64_t t = order.t(s);
      for (int slot = 0, n = order.alive(t); slot < n; slot++) places[k++] = order.row(t, slot);
    }
    const auto b = m.ih_t_blocks();
    for (int64_t j = mine(b.count(), crew.rank); j < mine(b.count(), crew.rank + 1); j++)
      b.times(m.ih_t, j, rows_of[0], rows, m.gate_segments(most * GV / KPN),
              [&](int64_t row, int64_t v, Vec<C> value) { leave_dx(places[row], v, value); });
  }

  void finish() {
    for (int64_t slot = mine(crew.n, crew.rank); slot < mine(crew.n, crew.rank + 1); slot++) {
      const int64_t b = crew.rows[slot];
      for (int64_t v = 0; v < m.Pp; v += L) store<C>((S*)gr.dh0 + b * P + v, load<C>(dh + slot * m.Pp + v), int(P - v < L ? P - v : L));
      memcpy((C*)gr.dc0 + b * H, dc + slot * m.Hp, H * sizeof(C));
      for (int64_t t = crew.len[slot]; gr.dx && !in.sizes && t < T; t++) memset((S*)gr.dx + (t * B + b) * I, 0, I * sizeof(S));
    }
  }
};

// Adds the crews' sums in order and writes them as torch has them.
template <class N, Gates K>
void reduce(const Packed<N, K>& m, char* const* parts_sums, int count, int members, const Grads& gr, int part, int parts) {
  using C = typename N::C;
  const Layer& l = m.l;
  constexpr int G = Packed<N, K>::G, L = V<C>, GV = G * L;
  const auto gather = [&](auto pick_sum, int64_t at) {
    C total = 0;
    for (int i = 0; i < count; i++) total += pick_sum(Sums<N, K>(m, members, parts_sums[i]))[at];
    return total;
  };
  const auto members_sum = [&](auto pick_sum, int64_t at) {
    C total = 0;
    for (int i = 0; i < count; i++)
      for (int r = 0; r < members; r++) total += pick_sum(Sums<N, K>(m, members, parts_sums[i]), r)[at];
    return total;
  };
  const auto panel = [&](auto pick_sum, int64_t hb, int64_t cols, C* to, C* bias, int64_t ones) {
    C* first = pick_sum(Sums<N, K>(m, members, parts_sums[0])) + hb * ones * GV;
    for (int i = 1; i < count; i++) {
      const C* s = pick_sum(Sums<N, K>(m, members, parts_sums[i])) + hb * ones * GV;
      for (int64_t k = 0; k < ones * m.width(hb); k += L) store<C>(first + k, load<C>(first + k) + load<C>(s + k));
    }
    const int64_t w = m.width(hb);
    constexpr int64_t step = 16;
    for (int64_t k0 = 0; k0 < cols; k0 += step)
      for (int64_t at = 0; at < w; at++)
        if (const int64_t r = m.row(hb, at); r >= 0)
          for (int64_t k = k0; k < cols && k < k0 + step; k++) to[r * cols + k] = first[k * w + at];
    for (int64_t at = 0; bias && at < w; at++)
      if (const int64_t r = m.row(hb, at); r >= 0) bias[r] = first[cols * w + at];
  };
  for (int64_t hb = cut(m.nb, parts, part); hb < cut(m.nb, parts, part + 1); hb++) {
    panel([](const Sums<N, K>& s) { return s.ih; }, hb, l.I, (C*)gr.weight_ih, (C*)gr.bias_ih, l.I + 1);
    panel([](const Sums<N, K>& s) { return s.hh; }, hb, l.P, (C*)gr.weight_hh, l.layer_norm ? (C*)gr.bias_hh : nullptr, l.P + 1);
    for (int64_t v = 0; v < m.width(hb); v++) {
      const int64_t to = m.row(hb, v), at = hb * GV + v;
      if (to < 0) continue;
      if (gr.bias_hh && !l.layer_norm) ((C*)gr.bias_hh)[to] = ((C*)gr.bias_ih)[to];
      if (!l.layer_norm) continue;
      ((C*)gr.gain_ih)[to] = members_sum([](const Sums<N, K>& s, int r) { return s.gain_ih[r]; }, at);
      ((C*)gr.gain_hh)[to] = members_sum([](const Sums<N, K>& s, int r) { return s.gain_hh[r]; }, at);
    }
    for (int64_t h = hb * L; h < hb * L + m.tail(hb); h++) {
      for (int k = 0; l.peephole && k < l.peepholes(); k++)
        ((C*)gr.weight_ch)[k * l.H + h] = members_sum([](const Sums<N, K>& s, int r) { return s.see[r]; }, k * m.Hp + h);
      if (l.layer_norm) ((C*)gr.gain_c)[h] = members_sum([](const Sums<N, K>& s, int r) { return s.gain_c[r]; }, h);
    }
  }
  if (!l.projection) return;
  const auto b = Blocks<N>{1, l.H};
  for (int64_t j = cut(b.count(), parts, part); j < cut(b.count(), parts, part + 1); j++)
    for (int64_t p = 0; p < l.P; p++)
      for (int64_t c = 0; c < b.nv(j) * L && b.v0(j) * L + c < l.H; c++)
        ((C*)gr.weight_hr)[p * l.H + b.v0(j) * L + c] =
            gather([](const Sums<N, K>& s) { return s.hr; }, b.v0(j) * L * l.P + p * b.nv(j) * L + c);
}

}  // namespace longshort::LS_ISA
