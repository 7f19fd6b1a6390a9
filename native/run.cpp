#include "run.h"

#include "kept.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace longshort {

#if defined(__x86_64__)
namespace baseline { extern const Isa table; }
namespace avx2 { extern const Isa table; }
namespace avx512 { extern const Isa table; }
namespace avx512bf16 { extern const Isa table; }
const Isa* const* instruction_sets(int* count) {
  static const std::vector<const Isa*> have = [] {
    std::vector<const Isa*> v;
    __builtin_cpu_init();
    const bool a2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool a5 = a2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (a5 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) v.push_back(&avx512bf16::table);
    if (a5) v.push_back(&avx512::table);
    if (a2) v.push_back(&avx2::table);
    v.push_back(&baseline::table);
    return v;
  }();
  *count = int(have.size());
  return have.data();
}
#else
namespace baseline { extern const Isa table; }
const Isa* const* instruction_sets(int* count) {
  static const Isa* const have[] = {&baseline::table};
  *count = 1;
  return have;
}
#endif

const Isa& isa() {
  static const Isa& chosen = []() -> const Isa& {
    int count = 0;
    const Isa* const* have = instruction_sets(&count);
    const char* cap = std::getenv("LONGSHORT_CPU");
    if (!cap || !*cap) return *have[0];
    std::string names;
    for (int i = 0; i < count; i++) {
      if (!std::strcmp(have[i]->name, cap)) return *have[i];
      names += std::string(i ? ", " : "") + have[i]->name;
    }
    throw std::invalid_argument("LONGSHORT_CPU must name an instruction set of this machine: " + names + "; got '" + cap + "'.");
  }();
  return chosen;
}

namespace {

// Threads for so many operations: fewer than `least` are done sooner than the others can be told.
int worth(double work, double least, int threads) { return work < least ? 1 : std::clamp(threads, 1, 64); }

// Crews and their groups of sequences: crew i runs groups i, i + crews, ... one after another.
struct Plan {
  int crews, size;
  std::vector<int32_t> rows, len;            // crew by crew, each longest first
  std::vector<int64_t> starts;               // of each step in [T, B, ..], and where they end
  std::vector<std::vector<std::pair<int, int>>> groups;  // of each crew: [from, to) in rows
  std::vector<int> sizes;                    // of the groups, each once
  mutable std::vector<Barrier> barriers;

  Plan(const Layer& l, const Input& in, int threads) {
    const int64_t B = in.B;
    std::vector<int64_t> lengths(B, in.sizes ? 0 : in.T);
    for (int64_t b = 0; in.lengths && b < B; b++) {
      lengths[b] = in.lengths[b];
      if (lengths[b] < 0 || lengths[b] > in.T)  // Python looks first, but not from a compiled graph
        throw std::invalid_argument("lengths must lie in 0..T = 0.." + std::to_string(in.T) + ", got " + std::to_string(lengths[b]) + ".");
    }
    int64_t row = 0;
    for (int64_t t = 0; t < in.T; t++) {
      starts.push_back(row);
      row += in.sizes ? in.sizes[t] : B;
      for (int64_t b = 0; in.sizes && b < in.sizes[t]; b++) lengths[b]++;
    }
    starts.push_back(row);
    const auto alive = std::accumulate(lengths.begin(), lengths.end(), int64_t(0));
    const bool ragged = in.lengths || in.sizes;
    const double work = 2. * double(alive) * double(l.rows()) * double(l.I + l.P);
    threads = worth(work, 4e5, threads);
    crews = int(std::clamp<int64_t>(B / 4, 1, threads));
    const int64_t vectors = (l.H + isa().lanes(l.type) - 1) / isa().lanes(l.type);
    size = int(std::clamp<int64_t>(threads / crews, 1, vectors));
    std::vector<int32_t> order(B);
    std::iota(order.begin(), order.end(), 0);
    if (ragged) std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return lengths[a] > lengths[b]; });
    const double panel = double(isa().packed_bytes(l, Pass::forward));
    const int64_t group = panel < 400e3 ? 144 : 1 << 30;
    for (int c = 0; c < crews; c++) {
      const int from = int(rows.size());
      if (ragged)
        for (int64_t i = c; i < B; i += crews) rows.push_back(order[i]);
      else
        for (int64_t i = B * c / crews; i < B * (c + 1) / crews; i++) rows.push_back(order[i]);
      const int64_t n = int64_t(rows.size()) - from, parts = std::max<int64_t>(1, (n + group - 1) / group);
      auto& g = groups.emplace_back();
      for (int64_t p = 0; p < parts; p++) {
        g.emplace_back(from + int(n * p / parts), from + int(n * (p + 1) / parts));
        const int n_group = g.back().second - g.back().first;
        if (std::find(sizes.begin(), sizes.end(), n_group) == sizes.end()) sizes.push_back(n_group);
      }
    }
    barriers.resize(crews);
    for (auto& b : barriers) b.size = size;
    for (const int32_t b : rows) len.push_back(int32_t(lengths[b]));
  }
  int threads() const { return crews * size; }
  // The most that `bytes_of` says for any group: fewer sequences may run more steps in a chunk, and need more.
  template <class F>
  size_t most(F bytes_of) const {
    size_t bytes = 0;
    for (const int n : sizes) bytes = std::max(bytes, bytes_of(n));
    return bytes;
  }

  template <class F>
  void each(char* const* scratch, char* const* sums, F f) const {
    team_run(threads(), [&](int id) {
      const int c = id / size;
      for (const auto& [from, to] : groups[c]) {
        const Crew crew{rows.data() + from, len.data() + from, starts.data(), to - from, id % size, size, &barriers[c], scratch[c], sums ? sums[c] : nullptr};
        f(crew);
        crew.wait();
      }
    });
  }
};

struct Pieces {  // one piece of scratch per crew
  std::vector<std::unique_ptr<Scratch>> all;
  std::vector<char*> data;
  Pieces(int n, size_t bytes) {
    for (int i = 0; i < n; i++) all.push_back(std::make_unique<Scratch>(bytes)), data.push_back(all.back()->data());
  }
};

void run(const Plan& plan, const Layer& l, const char* packed, const Input& in, const Output& out) {
  const Isa& a = isa();
  const Pieces scratch(plan.crews, plan.most([&](int k) { return a.forward_bytes(l, in, k, plan.size); }));
  plan.each(scratch.data.data(), nullptr, [&](const Crew& crew) { a.forward(l, packed, in, out, crew); });
}

}  // namespace

void forward(const Layer& l, const Params& p, const Input& in, const Output& out, bool train, int threads) {
  const Isa& a = isa();
  const Plan plan(l, in, threads);
  std::shared_ptr<const Scratch> packed;
  if (const int n = plan.threads(); !train) {  // inference: the same weights again and again
    packed = packed_weights(l, p, n);
  } else {
    packed = std::make_shared<Scratch>(a.packed_bytes(l, Pass::forward));
    team_run(n, [&](int i) { a.pack(l, p, Pass::forward, packed->data(), i, n); });
  }
  run(plan, l, packed->data(), in, out);
}

Weights::Weights(const Layer& l, const Params& p, int threads)
    : l_(l), packed_(packed_weights(l, p, worth(double(l.rows()) * double(l.I + l.P), 4e5, threads))) {}
void Weights::forward(const Input& in, const Output& out, int threads) const { run(Plan(l_, in, threads), l_, packed_->data(), in, out); }

void backward(const Layer& l, const Params& p, const Input& in, const Output& out, const Grads& gr, int threads) {
  const Isa& a = isa();
  const Plan plan(l, in, threads);
  const Pass pass = gr.dx ? Pass::backward_x : Pass::backward;
  const Scratch packed(a.packed_bytes(l, pass));
  const int n = plan.threads();
  const size_t bytes = a.sums_bytes(l, plan.size);
  const Pieces sums(plan.crews, bytes),
      scratch(plan.crews, plan.most([&](int k) { return a.backward_bytes(l, pass, in, k, plan.size); }));
  team_run(n, [&](int i) {
    a.pack(l, p, pass, packed.data(), i, n);
    if (i % plan.size == 0) std::memset(sums.data[i / plan.size], 0, bytes);
  });
  plan.each(scratch.data.data(), sums.data.data(), [&](const Crew& crew) { a.backward(l, pass, packed.data(), in, out, gr, crew); });
  team_run(n, [&](int i) { a.reduce(l, sums.data.data(), plan.crews, plan.size, gr, i, n); });
}

struct Stream::Impl {
  struct Level {
    Layer l;
    Input in;
    Output out;
    Scratch packed;
    Plan plan;
    Pieces scratch;
    Level(const Layer& layer, const Params& p, const Input& input, const Output& output, int threads)
        : l(layer), in(input), out(output), packed(isa().packed_bytes(l, Pass::forward)), plan(l, in, threads),
          scratch(plan.crews, plan.most([&](int n) { return isa().forward_bytes(l, in, n, plan.size); })) {
      isa().pack(l, p, Pass::forward, packed.data(), 0, 1);
    }
  };
  int64_t batch;
  int threads;
  std::vector<std::unique_ptr<Level>> levels;
};

Stream::Stream(int64_t batch, int threads) : impl_(new Impl{batch, threads, {}}) {}
Stream::~Stream() { delete impl_; }
void Stream::add(const Layer& l, const Params& p, void* h, void* c, void* y) {
  Input in{};
  in.T = 1, in.B = impl_->batch, in.x_b = l.I, in.x_t = l.I * in.B, in.h0 = h, in.c0 = c;
  if (!impl_->levels.empty()) in.x = impl_->levels.back()->out.y;
  Output out{};
  out.y = y, out.hn = h, out.cn = c;
  impl_->levels.push_back(std::make_unique<Impl::Level>(l, p, in, out, impl_->threads));
}
void Stream::step(const void* x) {
  impl_->levels.front()->in.x = x;
  for (const auto& v : impl_->levels)
    v->plan.each(v->scratch.data.data(), nullptr, [&](const Crew& crew) { isa().forward(v->l, v->packed.data(), v->in, v->out, crew); });
}

Linear::Linear(int64_t N, int64_t K, const float* weight, int threads) : N_(N), K_(K), packed_(isa().linear_bytes(N, K), 1.25) {
  const int n = worth(double(N) * double(K), 1e5, threads);
  team_run(n, [&](int i) { isa().linear_pack(N, K, weight, packed_.data(), i, n); });
}
void Linear::run(const float* x, int64_t M, const float* bias, float* y, int threads) const {
  const int n = worth(2. * double(M) * double(N_) * double(K_), 4e6, threads);
  team_run(n, [&](int i) { isa().linear(N_, K_, packed_.data(), bias, x, M, y, i, n); });
}

void attend(const Attend& a, int threads) {
  const int n = int(std::clamp<int64_t>(worth(4. * double(a.R * a.N) * double(a.S * a.W), 4e6, threads), 1, std::max<int64_t>(a.R, 1)));
  team_run(n, [&](int i) { isa().attend(a, a.R * i / n, a.R * (i + 1) / n); });
}

}  // namespace longshort
