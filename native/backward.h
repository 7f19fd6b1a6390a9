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
  C *ih, *hh, *hr;                                 // [nb][I + 1][GV] (the last row: bias), [nb][P + 1][GV], [H in blocks][P]
  C *see[64], *gain_ih[64], *gain_hh[64], *gain_c[64];  // of each member: [3][Hp], [nb][GV] twice, [Hp]
  size_t bytes;
  Sums(const Packed<N, K>& m, int members, char* base) {
    const Layer& l = m.l;
    Carve a{base};
    ih = a.take<C>(m.nb * (l.I + 1) * GV), hh = a.take<C>(m.nb * (l.P + 1) * GV);
    hr = a.take<C>(l.projection ? m.Hp * l.P : 0);
    for (int r = 0; r < members; r++) {
      see[r] = a.take<C>(l.peephole ? 3 * m.Hp : 0);
      gain_ih[r] = a.take<C>(l.layer_norm ? m.nb * GV : 0), gain_hh[r] = a.take<C>(l.layer_norm ? m.nb * GV : 0);
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
  C *rows, *du, *halves;      // layer norm: da [n][wide], the gradient of (7)'s norm [n][Hp], the two means of each row [n][6]
  E* line;                    // this member's: one row of x or h
  U* pair;                    // this member's: a panel in pairs
  size_t bytes;

  Backward(const M& m, const Input& in, const Output& out, const Grads& gr, const Crew& crew, char* base)
      : m(m), l(m.l), in(in), out(out), gr(gr), crew(crew), order{in, crew}, sums(m, crew.size, crew.sums), wide(m.nb * GV),
        T(in.T), B(in.B), H(l.H), P(l.P), I(l.I), hx(l.P + (l.layer_norm ? 1 : 0)) {
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
    rows = a.take<C>(l.layer_norm ? n * wide : 0), du = a.take<C>(l.layer_norm ? n * m.Hp : 0);
    halves = a.take<C>(l.layer_norm ? n * 6 : 0);
    for (int r = 0; r < crew.size; r++) {
      E* ln = a.take<E>((I > P ? I : P) + 1 + L);
      U* pr = a.take<U>(KPN > 1 ? units<N>(most) * 4 * L : 0);
      if (r == crew.rank) line = ln, pair = pr;
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
        if (l.layer_norm) {
          normalised_rows(t, mine(n, crew.rank), mine(n, crew.rank + 1), done);
        } else {
          for (int slot = 0; slot < n; slot++)
            for (int64_t hb = mine(m.nb, crew.rank); hb < mine(m.nb, crew.rank + 1); hb++) plain_unit(t, slot, hb, done + slot);
        }
        crew.wait();
        const auto b = m.hh_t_blocks();  // (1') to h_{t-1}
        for (int64_t j = mine(b.count(), crew.rank); j < mine(b.count(), crew.rank + 1); j++)
          b.times(m.hh_t, j, rows_of[1] + done, n, m.nb, most * GV / KPN, [&](int64_t slot, int64_t v, Vec<C> value) {
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

  void start() {
    for (int64_t slot = mine(crew.n, crew.rank); slot < mine(crew.n, crew.rank + 1); slot++) {
      const int64_t b = crew.rows[slot];
      for (int64_t v = 0; v < m.Pp; v += L)
        store<C>(dh + slot * m.Pp + v, gr.dhn ? load<C>((const S*)gr.dhn + b * P + v, int(P - v < L ? P - v : L)) : Vec<C>{});
      for (int64_t v = 0; v < m.Hp; v += L)
        store<C>(dc + slot * m.Hp + v, gr.dcn ? load<C>((const C*)gr.dcn + b * H + v, int(H - v < L ? H - v : L)) : Vec<C>{});
    }
  }

  // dh of h_t, its direct part left in dh (9'); what goes to h before zoneout is returned.
  LS_INLINE Vec<C> take_dh(int64_t t, int slot, int64_t v) {
    const int n = int(P - v < L ? P - v : L);
    const int64_t at = (t * B + crew.rows[slot]) * P + v;
    Vec<C> d = load<C>(dh + slot * m.Pp + v);
    if (gr.dy) d += load<C>((const S*)gr.dy + at, n);
    if (!l.zone_h) return d;
    const Vec<C> d1 = zoneout_back<C>(C(l.zone_h), in.zone_h ? in.zone_h + at : nullptr, n, d);
    store<C>(dh + slot * m.Pp + v, d - d1);
    return d1;
  }
  void unproject(int64_t t, int n, int64_t done) {
    for (int64_t slot = mine(n, crew.rank); slot < mine(n, crew.rank + 1); slot++)
      for (int64_t v = 0; v < m.Pp; v += L) store<C>(dh1 + (done + slot) * m.Pp + v, take_dh(t, int(slot), v));
    crew.wait();
    const auto b = m.hr_t_blocks();
    for (int64_t j = mine(b.count(), crew.rank); j < mine(b.count(), crew.rank + 1); j++)
      b.times(m.hr_t, j, dh1_rows + done, n, 1, 0, [&](int64_t slot, int64_t v, Vec<C> value) { store<C>(dm + slot * m.Hp + v, value); });  // (8')
    crew.wait();
  }

  LS_INLINE Unit<K, C> unit(int64_t t, int slot, int64_t hb) const {
    const int64_t b = crew.rows[slot], at = t * B + b, v = hb * L;
    const int n = m.tail(hb);
    Unit<K, C> u;
    for (int g = 0; g < G; g++) u.q[g] = load<C>((const S*)out.gates + at * G * H + g * H + v, n);
    if (order.reset(t, slot)) u.c0 = Vec<C>{};
    else u.c0 = load<C>(order.first(t, slot) ? (const C*)in.c0 + b * H + v : (const C*)out.cells + (order.before(t) * B + b) * H + v, n);
    u.see = l.peephole ? m.see + v : nullptr, u.ld = m.Hp;
    u.clip = C(l.clip), u.clipped = !std::isinf(l.clip);
    u.dropped = in.drop_g, u.scale_g = C(l.scale_g);
    if (in.drop_g) u.kept = load_mask<C>(in.drop_g + at * H + v, n);
    u.c1 = load<C>((const C*)out.cells + at * H + v, n);
    if (l.zone_c) {  // the cell before zoneout: rebuilt where it is not the one kept
      const Vec<C> rebuilt = u.bound(u.bare());
      u.c1 = in.zone_c ? pick<C>(load_mask<C>(in.zone_c + at * H + v, n), rebuilt, u.c1) : rebuilt;
    }
    return u;
  }
  LS_INLINE void keep_m(int64_t hb, int64_t k, Vec<C> value) {
    const auto b = Blocks<N>{most / KPN, H};
    int64_t j = 0;
    while (b.v0(j + 1) <= hb) j++;
    store<C>(mt + b.v0(j) * L * most + k * b.nv(j) * L + (hb - b.v0(j)) * L, value);
  }
  LS_INLINE Vec<C> take_dm(int64_t t, int slot, int64_t hb) {
    return l.projection ? load<C>(dm + slot * m.Hp + hb * L) : take_dh(t, slot, hb * L);
  }
  // dc of c_t to dc before zoneout; the rest, which goes straight to c_{t-1}, is left in `rest`.
  LS_INLINE Vec<C> take_dc(int64_t t, int slot, int64_t hb, Vec<C>& rest) const {
    const Vec<C> d = load<C>(dc + slot * m.Hp + hb * L);
    rest = Vec<C>{};
    if (!l.zone_c) return d;
    const int64_t at = (t * B + crew.rows[slot]) * H + hb * L;
    const Vec<C> d1 = zoneout_back<C>(C(l.zone_c), in.zone_c ? in.zone_c + at : nullptr, m.tail(hb), d);
    rest = d - d1;
    return d1;
  }
  LS_INLINE void leave(int64_t t, int slot, int64_t hb, const Back& b, Vec<C> rest) {
    store<C>(dc + slot * m.Hp + hb * L, order.reset(t, slot) ? Vec<C>{} : b.dc + rest);
    if (l.peephole)
      for (int k = 0; k < l.peepholes(); k++) {
        C* s = sums.see[crew.rank] + k * m.Hp + hb * L;
        store<C>(s, load<C>(s) + b.see[k]);
      }
  }
  LS_INLINE void plain_unit(int64_t t, int slot, int64_t hb, int64_t k) {
    const auto u = unit(t, slot, hb);
    Back b;
    Vec<C> rest;
    const Vec<C> th = tanh<C>(u.c1), dc1 = take_dc(t, slot, hb, rest);
    if (l.projection) keep_m(hb, k, u.q[Rows<K>::o] * th);
    u.carousel_back(dc1 + u.expose_back(take_dm(t, slot, hb), th, b), b);
    leave(t, slot, hb, b, rest);
    for (int g = 0; g < G; g++) store<C>(da[0] + (hb * most + k) * GV + g * L, b.da[g]);
  }

  // Layer norm's way through (7') to (1'), for slots [from, to): sums of a row first, then what needs them; row after row in each loop,
  // so that the sums of several are under way at a time.
  void normalised_rows(int64_t t, int64_t from, int64_t to, int64_t done) {
    constexpr int o = Rows<K>::o;
    for (int64_t slot = from; slot < to; slot++) {
      const C* stats = (const C*)out.stats + (t * B + crew.rows[slot]) * 4;
      Vec<C> s1{}, s2{};
      for (int64_t hb = 0; hb < m.nb; hb++) {
        const auto u = unit(t, int(slot), hb);
        Back b;
        const Vec<C> n = tail<C>((u.c1 - stats[2]) * stats[3], m.tail(hb)), gain = load<C>(m.gain_c + hb * L), th = tanh<C>(n * gain);
        if (l.projection) keep_m(hb, done + slot, u.q[o] * th);
        const Vec<C> d = u.expose_back(take_dm(t, int(slot), hb), th, b), dn = d * gain;
        C* s = sums.gain_c[crew.rank] + hb * L;
        store<C>(s, load<C>(s) + d * n);
        s1 += dn, s2 += dn * n;
        store<C>(du + slot * m.Hp + hb * L, dn), store<C>(rows + slot * wide + hb * GV + o * L, b.da[o]);
      }
      halves[slot * 6] = sum<C>(s1) / C(H), halves[slot * 6 + 1] = sum<C>(s2) / C(H);
    }
    for (int64_t slot = from; slot < to; slot++) {
      const int64_t at = t * B + crew.rows[slot];
      const C* stats = (const C*)out.stats + at * 4;
      C* half = halves + slot * 6;
      Vec<C> s[4] = {};
      for (int64_t hb = 0; hb < m.nb; hb++) {
        const auto u = unit(t, int(slot), hb);
        Back b;
        Vec<C> rest;
        C* row = rows + slot * wide + hb * GV;
        const Vec<C> n = (u.c1 - stats[2]) * stats[3], dc1 = take_dc(t, int(slot), hb, rest);
        b.da[o] = load<C>(row + o * L);
        u.carousel_back(dc1 + tail<C>(stats[3] * (load<C>(du + slot * m.Hp + hb * L) - (half[0] + n * half[1])), m.tail(hb)), b);
        leave(t, int(slot), hb, b, rest);
        for (int g = 0; g < G; g++) {
          store<C>(row + g * L, b.da[g]);
          gain_sums(b.da[g], (const S*)out.norm_ih + at * wide, m.gain_ih, sums.gain_ih[crew.rank], hb * GV + g * L, s);
          gain_sums(b.da[g], (const S*)out.norm_hh + at * wide, m.gain_hh, sums.gain_hh[crew.rank], hb * GV + g * L, s + 2);
        }
      }
      for (int i = 0; i < 4; i++) half[2 + i] = sum<C>(s[i]) / C(G * H);
    }
    for (int64_t slot = from; slot < to; slot++) {
      const int64_t at = t * B + crew.rows[slot];
      const C *stats = (const C*)out.stats + at * 4, *half = halves + slot * 6 + 2;
      leave_da(rows + slot * wide, (const S*)out.norm_ih + at * wide, m.gain_ih, half, stats[0], da[0] + (done + slot) * GV);
      leave_da(rows + slot * wide, (const S*)out.norm_hh + at * wide, m.gain_hh, half + 2, stats[1], da[1] + (done + slot) * GV);
    }
  }
  LS_INLINE static void gain_sums(Vec<C> d, const S* norm, const C* gain, C* dgain, int64_t v, Vec<C>* s) {
    const Vec<C> n = load<C>(norm + v), dn = d * load<C>(gain + v);
    store<C>(dgain + v, load<C>(dgain + v) + d * n);
    s[0] += dn, s[1] += dn * n;
  }
  void leave_da(const C* row, const S* norm, const C* gain, const C* half, C rstd, E* to) {
    for (int64_t hb = 0; hb < m.nb; hb++)
      for (int g = 0; g < G; g++) {
        const int64_t v = hb * GV + g * L;
        const Vec<C> d = load<C>(row + v) * load<C>(gain + v) - (half[0] + load<C>(norm + v) * half[1]);
        store<C>(to + hb * most * GV + g * L, tail<C>(d * rstd, m.tail(hb)));
      }
  }

  // x_t or h_{t-1} of a row as elements, in place or copied to `line`.
  LS_INLINE const E* x_line(int64_t t, int slot) {
    const S* x = (const S*)in.x + t * in.x_t + crew.rows[slot] * in.x_b;
    M::elements(line, x, I);
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
    const S* h = order.first(t, slot) ? (const S*)in.h0 + b * P : (const S*)out.y + (order.before(t) * B + b) * P;
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
      const U* b = paired<N>(da[0] + hb * most * GV, rows, GV, pair);
      x_outer().add(G, ax, rows, b, sums.ih + hb * (I + 1) * GV);
      if (l.layer_norm) b = paired<N>(da[1] + hb * most * GV, rows, GV, pair);
      h_outer().add(G, ah, rows, b, sums.hh + hb * (P + 1) * GV);
    }
    if (l.projection) project_weights(rows);
    if (gr.dx) input_gradients(s0, s1);
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
      const U* bm = paired<N>(mt + at * most, rows, b.nv(j) * L, pair);
      r_outer().add(b.nv(j), ar, rows, bm, sums.hr + at * P);
    }
  }
  void input_gradients(int64_t s0, int64_t s1) {
    const auto b = m.ih_t_blocks();
    int64_t k = 0;
    for (int64_t s = s1 - 1; s >= s0; s--) {
      const int64_t t = order.t(s), n = order.alive(t);
      for (int64_t j = mine(b.count(), crew.rank); j < mine(b.count(), crew.rank + 1); j++)
        b.times(m.ih_t, j, rows_of[0] + k, n, m.nb, most * GV / KPN, [&](int64_t slot, int64_t v, Vec<C> value) {
          store<C>((S*)gr.dx + (t * B + crew.rows[slot]) * I + v, value, int(I - v < L ? I - v : L));
        });
      k += n;
    }
  }

  void finish() {
    for (int64_t slot = mine(crew.n, crew.rank); slot < mine(crew.n, crew.rank + 1); slot++) {
      const int64_t b = crew.rows[slot];
      for (int64_t v = 0; v < m.Pp; v += L) store<C>((S*)gr.dh0 + b * P + v, load<C>(dh + slot * m.Pp + v), int(P - v < L ? P - v : L));
      memcpy((C*)gr.dc0 + b * H, dc + slot * m.Hp, H * sizeof(C));
      for (int64_t t = crew.len[slot]; gr.dx && t < T; t++) memset((S*)gr.dx + (t * B + b) * I, 0, I * sizeof(S));
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
  const auto panel = [&](auto pick_sum, int64_t hb, int64_t cols, C* w, C* bias, int64_t ones) {
    C* first = pick_sum(Sums<N, K>(m, members, parts_sums[0])) + hb * ones * GV;
    for (int i = 1; i < count; i++) {
      const C* s = pick_sum(Sums<N, K>(m, members, parts_sums[i])) + hb * ones * GV;
      for (int64_t k = 0; k < ones * GV; k += L) store<C>(first + k, load<C>(first + k) + load<C>(s + k));
    }
    constexpr int64_t step = 16;
    for (int64_t k0 = 0; k0 < cols; k0 += step)
      for (int g = 0; g < G; g++)
        for (int lane = 0; lane < m.tail(hb); lane++)
          for (int64_t k = k0; k < cols && k < k0 + step; k++) w[m.row(hb, g, lane) * cols + k] = first[k * GV + g * L + lane];
    for (int g = 0; bias && g < G; g++)
      for (int lane = 0; lane < m.tail(hb); lane++) bias[m.row(hb, g, lane)] = first[cols * GV + g * L + lane];
  };
  for (int64_t hb = cut(m.nb, parts, part); hb < cut(m.nb, parts, part + 1); hb++) {
    panel([](const Sums<N, K>& s) { return s.ih; }, hb, l.I, (C*)gr.weight_ih, (C*)gr.bias_ih, l.I + 1);
    panel([](const Sums<N, K>& s) { return s.hh; }, hb, l.P, (C*)gr.weight_hh, l.layer_norm ? (C*)gr.bias_hh : nullptr, l.P + 1);
    for (int g = 0; g < G; g++)
      for (int lane = 0; lane < m.tail(hb); lane++) {
        const int64_t to = m.row(hb, g, lane), at = hb * GV + g * L + lane;
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
