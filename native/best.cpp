// The best ways to go on with a search: the few largest of many sums, found by looking at most of them only once.
#include <algorithm>
#include <cmath>
#include <limits>

#include "run.h"

namespace longshort {

bool best(const Best& b) {
  constexpr int64_t BLOCK = 64;
  constexpr float none = -std::numeric_limits<float>::infinity();
  for (int64_t s = 0; s < b.S; s++) {
    double* const value = b.value + s * b.k;
    int64_t *const parent = b.parent + s * b.k, *const token = b.token + s * b.k;
    int64_t n = 0;
    for (int64_t w = 0; w < b.W; w++) {
      const double base = b.total[s * b.W + w];
      const float* const row = b.logp + (s * b.W + w) * b.V;
      for (int64_t from = 0; from < b.V; from += BLOCK) {
        const int64_t to = std::min(b.V, from + BLOCK);
        const float least = n < b.k ? none : std::nextafter(float(value[b.k - 1] - base), none);  // what is not above cannot win
        int above = 0;
        for (int64_t v = from; v < to; v++) above |= !(row[v] <= least);
        if (!above) continue;
        for (int64_t v = from; v < to; v++) {
          const double sum = base + row[v];
          if (std::isnan(sum)) return false;
          if (sum == none || (n == b.k && sum <= value[n - 1])) continue;
          int64_t at = n < b.k ? n++ : n - 1;
          for (; at > 0 && value[at - 1] < sum; at--) value[at] = value[at - 1], parent[at] = parent[at - 1], token[at] = token[at - 1];
          value[at] = sum, parent[at] = w, token[at] = v;
        }
      }
    }
    for (; n < b.k; n++) value[n] = none, parent[n] = 0, token[n] = 0;
  }
  return true;
}

}  // namespace longshort
