// y = x W^T + b, W packed once. An element is summed over k in an order that depends on K alone, so that the rows of x do not see
// each other: a row of y is bit by bit the same whatever rows are beside it, and whatever the number of threads.
#pragma once
#include <vector>

#include "gemm.h"

namespace longshort::LS_ISA {

struct Linear {
  const int64_t N, K;
  Blocks<F32> blocks() const { return {K, N}; }
  size_t bytes() const { return size_t(blocks().size()) * sizeof(float); }

  void pack(const float* weight, float* packed, int part, int parts) const { blocks().pack_columns(packed, part, parts, weight, K); }

  // Part `part` of x [M, K] times the packed weights, and bias [N] or null: to y [M, N].
  void run(const float* packed, const float* bias, const float* x, int64_t M, float* y, int part, int parts) const {
    const Blocks<F32> b = blocks();
    const Segments seg{ceil_div(K, LONGEST), std::min(K, LONGEST), K - (ceil_div(K, LONGEST) - 1) * LONGEST, LONGEST};
    const int64_t cuts = std::min(M, ceil_div(parts, b.count()));  // of the rows, where there are fewer blocks than parts
    std::vector<const float*> rows(M);
    for (int64_t m = 0; m < M; m++) rows[m] = x + m * K;
    for (int64_t i = cut(b.count() * cuts, parts, part); i < cut(b.count() * cuts, parts, part + 1); i++) {
      const int64_t j = i / cuts, from = cut(M, cuts, i % cuts), to = cut(M, cuts, i % cuts + 1);
      b.times(packed, j, rows.data() + from, to - from, seg, [&](int64_t r, int64_t c, Vec<float> v) {
        const int n = int(std::min<int64_t>(V<float>, N - c));
        store<float>(y + (from + r) * N + c, bias ? v + load<float>(bias + c, n) : v, n);
      });
    }
  }
};

}  // namespace longshort::LS_ISA
