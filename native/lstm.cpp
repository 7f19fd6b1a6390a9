// One instruction set's table of entry points; compiled once per instruction set (LS_ISA names it).
#include "attend.h"
#include "backward.h"
#include "linear.h"

namespace longshort::LS_ISA {

// Calls f with the number format and the gate structure as types.
template <bool Bytes = false, class F>
auto with(const Layer& l, F f) {
  const auto gates = [&]<class N>() {
    switch (l.gates) {
      case Gates::fgo: return f.template operator()<N, Gates::fgo>();
      case Gates::igo: return f.template operator()<N, Gates::igo>();
      default: return f.template operator()<N, Gates::ifgo>();
    }
  };
#if LS_BYTES_TOO
  if constexpr (Bytes)
    if (l.type == Type::i8) return gates.template operator()<I8>();
#endif
  switch (l.type) {
    case Type::f64: return gates.template operator()<F64>();
    case Type::bf16: return gates.template operator()<BF16>();
    default: return gates.template operator()<F32>();
  }
}

static Crew measure(int n, int size) { return {nullptr, nullptr, nullptr, n, 0, size, nullptr, nullptr, nullptr}; }

template <class N>
double peak_of(int64_t rounds) {
  using C = typename N::C;
  using U = typename N::U;
  constexpr int64_t K = 64, R = R_MAX<4>;
  alignas(64) static U a[R * K], b[K * 4 * V<C>];
  alignas(64) static C out[R * 4 * V<C>];
  const U* rows[R];
  for (int r = 0; r < R; r++) rows[r] = a + r * K;
  Tile<N, R, 4> t;
  for (int64_t i = 0; i < rounds; i++) {
    t.load_from(out, 4 * V<C>);
    t.add_rows(K, rows, 0, b, t.W * K);
    t.store_to(out, 4 * V<C>);
  }
  return 2. * double(rounds) * R * 4 * V<C> * K * KP<N>;
}

// Each word of the fingerprint follows every 128th word of the data: h = (h ^ word) * odd, and its high bits into its low ones.
static void fingerprint(const void* p, size_t bytes, uint32_t* print) {
  typedef uint32_t Word __attribute__((vector_size(LS_BYTES), aligned(1), may_alias));
  constexpr size_t n = FINGERPRINT * 4 / LS_BYTES, stride = FINGERPRINT * 4;
  Word h[n];
  memcpy(h, print, stride);
  const auto mix = [&](const char* from) {
#pragma GCC unroll 32
    for (size_t i = 0; i < n; i++) {
      h[i] = (h[i] ^ *(const Word*)(from + i * LS_BYTES)) * 0x9e3779b1u;
      h[i] ^= h[i] >> 15;
    }
  };
  size_t at = 0;
  for (; at + stride <= bytes; at += stride) mix((const char*)p + at);
  char rest[stride] = {};
  memcpy(rest, (const char*)p + at, bytes - at);
  mix(rest);
  memcpy(print, h, stride);
}

extern const Isa table;
const Isa table = {
    LS_NAME,
    [](Type t) { return t != Type::i8 || LS_BYTES_TOO; },
    [](Type t) { return t == Type::f64 ? V<double> : V<float>; },
    [](const Layer& l) { return with(l, [&]<class N, Gates K>() { return Packed<N, K>(l, Pass::forward, nullptr).wide; }); },
    [](const Layer& l, Pass pass) {
      return with<true>(l, [&]<class N, Gates K>() { return Packed<N, K>(l, pass, nullptr).bytes; });
    },
    [](const Layer& l, const Params& p, Pass pass, char* packed, int part, int parts) {
      with<true>(l, [&]<class N, Gates K>() { Packed<N, K>(l, pass, packed).pack(p, part, parts); });
    },
    [](const Layer& l, const Input& in, int n, int crew) {
      return with<true>(l, [&]<class N, Gates K>() {
        const Packed<N, K> m(l, Pass::forward, nullptr);
        return Forward<N, K>(m, in, Output{}, measure(n, crew), nullptr).bytes;
      });
    },
    [](const Layer& l, const char* packed, const Input& in, const Output& out, const Crew& crew) {
      with<true>(l, [&]<class N, Gates K>() {
        const Packed<N, K> m(l, Pass::forward, (char*)packed);
        Forward<N, K>(m, in, out, crew, crew.scratch).run();
      });
    },
    [](const Layer& l, Pass pass, const Input& in, int n, int crew) {
      return with(l, [&]<class N, Gates K>() {
        const Packed<N, K> m(l, pass, nullptr);
        return Backward<N, K>(m, in, Output{}, Grads{}, measure(n, crew), nullptr).bytes;
      });
    },
    [](const Layer& l, int crew) {
      return with(l, [&]<class N, Gates K>() { return Sums<N, K>(Packed<N, K>(l, Pass::backward, nullptr), crew, nullptr).bytes; });
    },
    [](const Layer& l, Pass pass, const char* packed, const Input& in, const Output& out, const Grads& gr, const Crew& crew) {
      with(l, [&]<class N, Gates K>() {
        const Packed<N, K> m(l, pass, (char*)packed);
        Backward<N, K>(m, in, out, gr, crew, crew.scratch).run();
      });
    },
    [](const Layer& l, char* const* sums, int count, int crew, const Grads& gr, int part, int parts) {
      with(l, [&]<class N, Gates K>() { reduce<N, K>(Packed<N, K>(l, Pass::backward, nullptr), sums, count, crew, gr, part, parts); });
    },
    [](int64_t N, int64_t K) { return Linear{N, K}.bytes(); },
    [](int64_t N, int64_t K, const float* w, char* packed, int part, int parts) { Linear{N, K}.pack(w, (float*)packed, part, parts); },
    [](int64_t N, int64_t K, const char* packed, const float* b, const float* x, int64_t M, float* y, int part, int parts) {
      Linear{N, K}.run((const float*)packed, b, x, M, y, part, parts);
    },
    attend,
    fingerprint,
    [](Type t, const void* x, int64_t n, void* s, void* h) {
      const auto run = [&]<class C>(const C* from, C* sig, C* th) {
        for (int64_t i = 0; i < n; i += V<C>) {
          const int k = int(std::min<int64_t>(V<C>, n - i));
          const Vec<C> v = load<C>(from + i, k);
          store<C>(sig + i, sigmoid<C>(v), k), store<C>(th + i, LS_ISA::tanh<C>(v), k);
        }
      };
      t == Type::f64 ? run((const double*)x, (double*)s, (double*)h) : run((const float*)x, (float*)s, (float*)h);
    },
    [](Type t, int64_t rounds) {
      return t == Type::f64 ? peak_of<F64>(rounds) : t == Type::bf16 ? peak_of<BF16>(rounds) : peak_of<F32>(rounds);
    },
};

}  // namespace longshort::LS_ISA
