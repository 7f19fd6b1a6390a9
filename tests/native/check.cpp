// The kernels without Python, meant for the sanitizers: every variant and odd size on buffers of exact length, gradients against
// differences, thread counts against each other, and the accuracy of sigmoid and tanh.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "run.h"

using namespace longshort;

namespace {

int failures = 0;
void expect(bool ok, const char* what, double got) {
  if (ok) return;
  std::printf("FAILED %s: %g\n", what, got);
  failures++;
}

std::mt19937 random_bits(1);
std::vector<double> normal(size_t n, double scale = 0.5) {
  std::normal_distribution<double> d(0, scale);
  std::vector<double> v(n);
  for (auto& x : v) x = d(random_bits);
  return v;
}
std::vector<uint8_t> coins(size_t n, double p) {
  std::bernoulli_distribution d(p);
  std::vector<uint8_t> v(n);
  for (auto& x : v) x = d(random_bits);
  return v;
}

struct Case {
  Layer l;
  int64_t T, B, N;  // N: rows of [T, B, ..]
  bool masks, reverse, show_gates = true;
  int threads;
  std::vector<double> p[9], x, h0, c0;
  std::vector<int64_t> lengths, sizes;
  std::vector<uint8_t> resets, drop_h, drop_g, zone_h, zone_c;
  std::vector<double> y, hn, cn, gates, cells, norm_ih, norm_hh, stats, wy, wh, wc, dx, dh0, dc0, flow_h, flow_c, dp[9];

  Case(const Layer& layer, int64_t T, int64_t B, bool ragged, bool packed, bool masks, bool reverse, int threads)
      : l(layer), T(T), B(B), N(T * B), masks(masks), reverse(reverse), threads(threads) {
    for (int64_t t = 0; packed && t < T; t++) sizes.push_back(t ? std::uniform_int_distribution<int64_t>(1, sizes.back())(random_bits) : B);
    if (packed) N = std::accumulate(sizes.begin(), sizes.end(), int64_t(0));
    const int64_t rows = l.rows();
    const size_t entries[9] = {size_t(rows * l.I), size_t(rows * l.P), l.bias ? size_t(rows) : 0, l.bias ? size_t(rows) : 0,
                             l.projection ? size_t(l.P * l.H) : 0, l.peephole ? size_t(l.peepholes() * l.H) : 0,
                             l.layer_norm ? size_t(rows) : 0, l.layer_norm ? size_t(rows) : 0, l.layer_norm ? size_t(l.H) : 0};
    for (int i = 0; i < 9; i++) p[i] = normal(entries[i], 0.5 / std::sqrt(i < 2 ? 1. + double(l.P) / 4 : 1.)), dp[i].resize(entries[i]);
    x = normal(N * l.I), h0 = normal(B * l.P), c0 = normal(B * l.H);
    if (ragged) {
      lengths.resize(B), resets = coins(T * B, 0.2);
      for (auto& n : lengths) n = std::uniform_int_distribution<int64_t>(0, T)(random_bits);
    }
    if (masks) drop_h = coins(B * l.P, 0.7), drop_g = coins(N * l.H, 0.7), zone_h = coins(N * l.P, 0.3), zone_c = coins(N * l.H, 0.3);
    y.resize(N * l.P), hn.resize(B * l.P), cn.resize(B * l.H), gates.resize(N * rows), cells.resize(N * l.H);
    const int64_t wide = isa().width(l);
    if (l.layer_norm) norm_ih.resize(N * wide), norm_hh.resize(N * wide), stats.resize(N * 4);
    wy = normal(y.size()), wh = normal(hn.size()), wc = normal(cn.size());
    dx.resize(x.size()), dh0.resize(h0.size()), dc0.resize(c0.size()), flow_h.resize(y.size()), flow_c.resize(cells.size());
  }
  template <class V>
  static auto* at(V& v) { return v.empty() ? nullptr : v.data(); }
  Params params() { return {at(p[0]), at(p[1]), at(p[2]), at(p[3]), at(p[4]), at(p[5]), at(p[6]), at(p[7]), at(p[8])}; }
  Input input() {
    return {T, B, at(sizes), x.data(), B * l.I, l.I, at(lengths), at(resets), at(drop_h), at(drop_g), at(zone_h), at(zone_c), reverse, h0.data(), c0.data()};
  }
  Output output() {
    return {y.data(), hn.data(), cn.data(), show_gates ? gates.data() : nullptr, cells.data(), at(norm_ih), at(norm_hh), at(stats)};
  }
  double loss() {
    longshort::forward(l, params(), input(), output(), true, threads);
    double sum = 0;
    for (size_t i = 0; i < y.size(); i++) sum += y[i] * wy[i];
    for (size_t i = 0; i < hn.size(); i++) sum += hn[i] * wh[i];
    for (size_t i = 0; i < cn.size(); i++) sum += cn[i] * wc[i];
    return sum;
  }
  void gradients() {
    loss();
    const Grads g{wy.data(), wh.data(), wc.data(), dx.data(), dh0.data(), dc0.data(), at(dp[0]), at(dp[1]), at(dp[2]),
                  at(dp[3]), at(dp[4]), at(dp[5]), at(dp[6]), at(dp[7]), at(dp[8]), flow_h.data(), flow_c.data()};
    longshort::backward(l, params(), input(), output(), g, threads);
  }
  // Along one random direction of all inputs at once: the difference quotient against the gradients.
  void check(const char* name, int bits) {
    gradients();
    std::vector<std::pair<std::vector<double>*, std::vector<double>>> all = {{&x, dx}, {&h0, dh0}, {&c0, dc0}};
    for (int i = 0; i < 9; i++) all.push_back({&p[i], dp[i]});
    double slope = 0, size = 0;
    std::vector<std::vector<double>> ways;
    for (auto& [v, g] : all) {
      ways.push_back(normal(v->size(), 1));
      for (size_t i = 0; i < v->size(); i++) slope += ways.back()[i] * g[i], size += g[i] * g[i];
    }
    const double step = 1e-6;
    const auto moved = [&](double by) {
      for (size_t k = 0; k < all.size(); k++)
        for (size_t i = 0; i < all[k].first->size(); i++) (*all[k].first)[i] += by * ways[k][i];
      return loss();
    };
    const double up = moved(step), down = moved(-2 * step);
    moved(step);
    const double error = std::fabs((up - down) / (2 * step) - slope) / (1 + std::sqrt(size));
    std::string all_of = std::string(name) + " T B I H =";
    for (const int64_t n : {T, B, l.I, l.H}) all_of += " " + std::to_string(n);
    all_of += " gates " + std::to_string(int(l.gates)) + " variant " + std::to_string(bits);
    expect(error < 1e-6, all_of.c_str(), error);
    gradients();
    const std::vector<double> was_y = y, was_dx = dx, was_dw = dp[0];
    if (l.layer_norm) {
      show_gates = false, gradients();
      double off = 0;
      for (size_t i = 0; i < dx.size(); i++) off = std::max(off, std::fabs(dx[i] - was_dx[i]));
      for (size_t i = 0; i < dp[0].size(); i++) off = std::max(off, std::fabs(dp[0][i] - was_dw[i]));
      expect(off < 1e-12 * (1 + std::sqrt(size)), "gates made again", off);
      show_gates = true;
    }
    const int before = threads;
    gradients();
    expect(dp[0] == was_dw && dx == was_dx, "gradients repeat", 0);
    for (threads = 1; threads <= 3; threads++) {
      loss();
      expect(y == was_y, "outputs do not depend on threads", threads);
    }
    threads = before;
  }
};

template <class C>
void accuracy(const Isa& a, double allowed_sigmoid, double allowed_tanh) {
  const Type type = sizeof(C) == 4 ? Type::f32 : Type::f64;
  constexpr C inf = std::numeric_limits<C>::infinity();
  std::vector<C> x = {inf, -inf, std::numeric_limits<C>::quiet_NaN(), C(1e30), C(-1e30)};
  const size_t special = x.size();
  for (int64_t i = -200000; i <= 200000; i++) x.push_back(C(i) * C(1e-4) * (i % 7 ? C(1) : C(1e-4)));
  std::vector<C> s(x.size()), t(x.size());
  a.activate(type, x.data(), int64_t(x.size()), s.data(), t.data());
  double worst[2] = {};
  for (size_t i = special; i < x.size(); i++) {
    const long double want[2] = {1 / (1 + std::exp(-(long double)x[i])), std::tanh((long double)x[i])};
    const C got[2] = {s[i], t[i]};
    for (int k = 0; k < 2; k++) {
      const long double ulp = std::max((long double)std::numeric_limits<C>::min(),
                                       std::ldexp((long double)std::numeric_limits<C>::epsilon(), std::ilogb(want[k])));
      const double e = double(std::fabs(got[k] - want[k]) / ulp);
      if (!(e <= worst[k])) worst[k] = std::isnan(e) ? HUGE_VAL : e;
    }
  }
  std::printf("%s, %s: sigmoid %.2f ulp, tanh %.2f ulp\n", a.name, sizeof(C) == 4 ? "float" : "double", worst[0], worst[1]);
  expect(worst[0] <= allowed_sigmoid, "sigmoid", worst[0]), expect(worst[1] <= allowed_tanh, "tanh", worst[1]);
  for (const int big : {0, 3}) {
    expect(s[big] == 1 && s[big + 1] < C(1e-37), "sigmoid far out", s[big + 1]);
    expect(t[big] == 1 && t[big + 1] == -1, "tanh far out", t[big]);
  }
  expect(std::isnan(s[2]) && std::isnan(t[2]), "NaN", s[2]);
}

void fingerprints(const Isa& a) {
  using Print = std::vector<uint32_t>;
  const auto print_of = [&](const std::vector<uint8_t>& v) {
    Print p(FINGERPRINT, 1);
    a.fingerprint(v.data(), v.size(), p.data());
    return p;
  };
  for (const size_t n : {size_t(1), size_t(63), size_t(512), size_t(513), size_t(3000)}) {
    std::vector<uint8_t> v(n);
    for (auto& b : v) b = uint8_t(random_bits());
    const Print was = print_of(v);
    expect(was == print_of(v), "a fingerprint repeats", double(n));
    for (size_t i = 0; i < n; i += 1 + n / 50)
      for (int bit = 0; bit < 8; bit++) {
        v[i] ^= uint8_t(1 << bit);
        expect(was != print_of(v), "a fingerprint sees one bit", double(i));
        v[i] ^= uint8_t(1 << bit);
      }
    if (n < 4) continue;
    for (size_t i = 3; i < n; i += 4) v[i] ^= 0x80;  // all signs
    expect(was != print_of(v), "a fingerprint sees all signs turned", double(n));
  }
}

// Inference in floats and in bytes beside inference in doubles: the same but for the rounding.
void formats(int64_t T, int64_t B, int64_t I, int64_t H, Gates gates, bool norm) {
  Layer l{Type::f64, gates, I, H, H, true, norm, norm, false, 0, 0, 1, 1, std::numeric_limits<double>::infinity()};
  const int64_t rows = l.rows();
  const double s = 0.5 / std::sqrt(double(H));
  const std::vector<double> all[] = {normal(rows * I, s), normal(rows * H, s), normal(rows, s), normal(l.peepholes() * H, s), normal(rows, 0.3), normal(T * B * I, 1)};
  const auto run = [&]<class C>(Type type, C) {
    l.type = type;
    std::vector<C> v[6], y(T * B * H), hn(B * H), cn(B * H);
    for (int i = 0; i < 6; i++) v[i].assign(all[i].begin(), all[i].end());
    const C *ch = norm ? v[3].data() : nullptr, *gain = norm ? v[4].data() : nullptr;
    const Params p{v[0].data(), v[1].data(), v[2].data(), v[2].data(), nullptr, ch, gain, gain, gain};
    const Input in{T, B, nullptr, v[5].data(), B * I, I, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, false, nullptr, nullptr};
    const Output out{y.data(), hn.data(), cn.data(), nullptr, nullptr, nullptr, nullptr, nullptr};
    longshort::forward(l, p, in, out, false, 2);
    const auto before = std::make_tuple(y, hn, cn);
    for (auto* u : {&y, &hn, &cn}) std::fill(u->begin(), u->end(), C(7));
    Weights(l, p, 1).forward(in, out, 2);
    expect(before == std::make_tuple(y, hn, cn), "weights that were packed once give the same bits", double(H));
    return std::vector<double>(y.begin(), y.end());
  };
  const auto exact = run(Type::f64, double());
  const auto compare = [&](const std::vector<double>& y, double allowed, const char* what) {
    double error = 0, size = 0;
    for (size_t i = 0; i < y.size(); i++) error += std::pow(y[i] - exact[i], 2), size += std::pow(exact[i], 2);
    expect(error <= allowed * allowed * size, what, std::sqrt(error / size));
  };
  compare(run(Type::f32, float()), 1e-5, "floats");
  if (isa().has(Type::i8)) compare(run(Type::i8, float()), 0.05, "bytes");
}

// Rows of a linear layer beside their sums in doubles, and each of them alone and with other numbers of threads.
void linear(int64_t M, int64_t N, int64_t K, bool bias) {
  const auto floats = [](size_t n) {
    const auto v = normal(n);
    return std::vector<float>(v.begin(), v.end());
  };
  const auto w = floats(N * K), b = floats(bias ? N : 0), x = floats(M * K);
  const float* const at_b = bias ? b.data() : nullptr;
  const Linear layer(N, K, w.data(), 2);
  const auto run = [&](int64_t from, int64_t rows, int threads) {
    const std::vector<float> own(x.begin() + from * K, x.begin() + (from + rows) * K);  // of exact length
    std::vector<float> y(rows * N, std::numeric_limits<float>::quiet_NaN());
    layer.run(own.data(), rows, at_b, y.data(), threads);
    return y;
  };
  const auto all = run(0, M, 1);
  double error = 0, size = 0;
  for (int64_t m = 0; m < M; m++)
    for (int64_t n = 0; n < N; n++) {
      double sum = bias ? b[n] : 0;
      size += sum * sum;
      for (int64_t k = 0; k < K; k++) {
        const double term = double(x[m * K + k]) * double(w[n * K + k]);
        sum += term, size += term * term;  // terms, for their sum may be next to nothing
      }
      error += std::pow(all[m * N + n] - sum, 2);
    }
  const double allowed = std::ldexp(std::sqrt(double(K) + 1), -23);  // K roundings of a sum that wanders: about 2^-24 * sqrt(K / 6)
  expect(error <= allowed * allowed * size, "a linear layer", std::sqrt(error / size));
  for (int threads = 1; threads <= 3; threads++) expect(run(0, M, threads) == all, "a linear layer does not depend on threads", threads);
  for (int64_t m = 0; m < M; m++)
    expect(run(m, 1, 1) == std::vector<float>(all.begin() + m * N, all.begin() + (m + 1) * N), "rows do not see each other", double(m));
}

// What queries read beside the formula in doubles, and each row alone and with other numbers of threads.
void attention(int64_t R, int64_t N, int64_t S, int64_t W) {
  const auto floats = [](size_t n) {
    const auto v = normal(n, 1);
    return std::vector<float>(v.begin(), v.end());
  };
  const auto query = floats(R * N * W), keys = floats(R * N * S * W), values = floats(R * N * S * W);
  const auto run = [&](int64_t from, int64_t rows, int threads) {
    const auto part = [&](const std::vector<float>& v, int64_t n) { return std::vector<float>(v.begin() + from * n, v.begin() + (from + rows) * n); };
    const auto q = part(query, N * W), k = part(keys, N * S * W), v = part(values, N * S * W);  // of exact length
    std::vector<float> context(rows * N * W, std::numeric_limits<float>::quiet_NaN()), weights(rows * S, std::numeric_limits<float>::quiet_NaN());
    attend({rows, N, S, W, q.data(), k.data(), v.data(), N * S * W, S * W, W, N * S * W, S * W, W, float(1 / std::sqrt(W)), context.data(), weights.data()}, threads);
    context.insert(context.end(), weights.begin(), weights.end());
    return context;
  };
  const auto all = run(0, R, 1);
  double error = 0;
  for (int64_t r = 0; r < R; r++) {
    std::vector<double> mean(S);
    for (int64_t n = 0; n < N; n++) {
      const int64_t at = (r * N + n) * W;
      std::vector<double> p(S);
      double total = 0;
      for (int64_t s = 0; s < S; s++) {
        for (int64_t w = 0; w < W; w++) p[s] += double(query[at + w]) * double(keys[at * S + s * W + w]);
        total += p[s] = std::exp(p[s] / std::sqrt(W));
      }
      for (int64_t s = 0; s < S; s++) mean[s] += p[s] / total / double(N);
      for (int64_t w = 0; w < W; w++) {
        double read = 0;
        for (int64_t s = 0; s < S; s++) read += p[s] / total * double(values[at * S + s * W + w]);
        error = std::max(error, std::abs(read - all[at + w]));
      }
    }
    for (int64_t s = 0; s < S; s++) error = std::max(error, std::abs(mean[s] - all[R * N * W + r * S + s]));
  }
  expect(error < 2e-6, "attention", error);
  for (int threads = 2; threads <= 3; threads++) expect(run(0, R, threads) == all, "attention does not depend on threads", threads);
  for (int64_t r = 0; r < R; r++) {
    const auto alone = run(r, 1, 1);
    expect(std::equal(alone.begin(), alone.begin() + N * W, all.begin() + r * N * W) && std::equal(alone.begin() + N * W, alone.end(), all.begin() + R * N * W + r * S),
           "attention: rows do not see each other", double(r));
  }
}

// The largest sums beside those of a sort, on buffers of exact length; equal ones, infinite ones, and one that is not a number.
void largest(int64_t S, int64_t W, int64_t V, int64_t k) {
  auto logp = normal(S * W * V, 1), total = normal(S * W, 1);
  std::vector<float> x(S * W * V);
  for (size_t i = 0; i < x.size(); i++) x[i] = i % 5 ? float(std::round(4 * logp[i])) : -std::numeric_limits<float>::infinity();
  std::vector<double> value(S * k);
  std::vector<int64_t> parent(S * k), token(S * k);
  const Best job{S, W, V, k, x.data(), total.data(), value.data(), parent.data(), token.data()};
  expect(best(job), "the largest sums are numbers", double(V));
  for (int64_t s = 0; s < S; s++) {
    std::vector<std::pair<double, int64_t>> all;
    for (int64_t i = 0; i < W * V; i++) all.emplace_back(-(total[s * W + i / V] + x[s * W * V + i]), i);
    std::sort(all.begin(), all.end());
    for (int64_t i = 0; i < k; i++) {
      const double want = i < W * V ? -all[i].first : -std::numeric_limits<double>::infinity();
      const bool same = value[s * k + i] == want && (std::isinf(want) || parent[s * k + i] * V + token[s * k + i] == all[i].second);
      expect(same, "the largest sums", value[s * k + i]);
    }
  }
  x.back() = std::numeric_limits<float>::quiet_NaN();
  expect(!best(job), "a sum that is not a number is seen", double(V));
}

}  // namespace

int main() {
  std::printf("instruction set %s\n", isa().name);
  int have = 0;
  const Isa* const* all = instruction_sets(&have);
  for (int i = 0; i < have; i++) accuracy<float>(*all[i], 2.5, 3), accuracy<double>(*all[i], 3, 4), fingerprints(*all[i]);
  const int64_t sizes[][4] = {{0, 3, 2, 5}, {4, 0, 2, 5}, {1, 1, 1, 1}, {5, 7, 3, 9}, {3, 13, 63, 63}, {4, 5, 9, 100}, {40, 2, 5, 33}, {5, 129, 2, 9}, {3, 300, 1, 7}, {4, 19, 10, 21}, {3, 23, 5, 46}};
  const double inf = std::numeric_limits<double>::infinity();
  for (const auto& [T, B, I, H] : sizes)
    for (int kind = 0; kind < 3; kind++)
      for (int bits = 0; bits < 16; bits++) {
        const bool peephole = bits & 1, norm = bits & 2, projection = bits & 4, noise = bits & 8;
        const Layer l{Type::f64, Gates(kind), I, H, projection ? H / 2 + 1 : H, bits % 3 != 0, peephole, norm, projection,
                      noise ? 0.3 : 0., noise ? 0.2 : 0., noise ? 1 / 0.7 : 1., noise ? 1 / 0.7 : 1., bits % 5 == 4 && T * B * H < 500 ? 0.5 : inf};  // differences fail at a kink
        Case(l, T, B, bits % 2 == 1, bits % 4 == 2 && T * B > 0, noise && kind != 1, bits % 4 >= 2, 1 + bits % 3).check("gradient", bits);
      }
  for (const auto& [T, B, I, H] : sizes)
    for (int kind = 0; kind < 3; kind++)
      for (const bool norm : {false, true}) formats(T, B, I, H, Gates(kind), norm && H > 5);
  for (const int64_t M : {0, 1, 2, 7, 13, 70})
    for (const int64_t N : {1, 17, 64, 100, 300})
      for (const int64_t K : {1, 63, 512, 1100}) linear(M, N, K, (M + N + K) % 2);
  for (const int64_t R : {0, 1, 9})
    for (const int64_t N : {1, 3})
      for (const int64_t S : {1, 16, 35})
        for (const int64_t W : {1, 20, 64}) attention(R, N, S, W);
  attention(70, 4, 80, 64);
  for (const int64_t W : {1, 3})
    for (const int64_t V : {1, 63, 64, 200})
      for (const int64_t k : {1, 4, 300}) largest(2, W, V, k);
  std::printf(failures ? "%d failures\n" : "all hold\n", failures);
  return failures != 0;
}
