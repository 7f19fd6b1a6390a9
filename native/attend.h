// What queries read: each head of each row the mean of its values, weighted by the softmax of its query's products with their keys.
// Rows and heads do not see each other: what one reads is bit by bit the same whatever is beside it, and whatever the number of threads.
#pragma once
#include <algorithm>
#include <vector>

#include "lstm.h"
#include "simd.h"

namespace longshort::LS_ISA {

inline void attend(const Attend& a, int64_t from, int64_t to) {
  const int64_t S = a.S, W = a.W;
  std::vector<float> share(S);
  float* const p = share.data();
  const auto each = [](int64_t n, auto f) {
    for (int64_t i = 0; i < n; i += V<float>) f(i, int(std::min<int64_t>(V<float>, n - i)));
  };
  for (int64_t r = from; r < to; r++) {
    float* const weights = a.weights + r * S;
    for (int64_t n = 0; n < a.N; n++) {
      const float *q = a.query + (r * a.N + n) * W, *keys = a.keys + r * a.k_r + n * a.k_n, *values = a.values + r * a.v_r + n * a.v_n;
      float peak = -std::numeric_limits<float>::infinity();
      for (int64_t s = 0; s < S; s++) {
        Vec<float> product{};
        each(W, [&](int64_t w, int k) { product += load<float>(q + w, k) * load<float>(keys + s * a.k_s + w, k); });
        p[s] = sum<float>(product) * a.scale;
        peak = std::max(peak, p[s]);
      }
      Vec<float> sums{};
      each(S, [&](int64_t s, int k) {
        const auto [e, scale] = exp_parts(clamp<float>(load<float>(p + s, k) - peak, -87, 87));
        const Vec<float> v = scale * e + scale;
        store<float>(p + s, v, k);
        sums += tail<float>(v, k);
      });
      const float total = sum<float>(sums), part = 1 / float(a.N);
      each(S, [&](int64_t s, int k) {
        const Vec<float> v = load<float>(p + s, k) / total;
        store<float>(p + s, v, k);
        store<float>(weights + s, n ? load<float>(weights + s, k) + v * part : v * part, k);
      });
      each(W, [&](int64_t w, int k) {
        Vec<float> read{};
        for (int64_t s = 0; s < S; s++) read += p[s] * load<float>(values + s * a.v_s + w, k);
        store<float>(a.context + (r * a.N + n) * W + w, read, k);
      });
    }
  }
}

}  // namespace longshort::LS_ISA
