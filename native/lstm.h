// The contract of the native LSTM: plain structs, no Python, no torch. One layer, one direction.
// Axes: T time, B batch, I input, H hidden, P projected (= H without projection), G gate rows. Tensors belong to the caller, are
// contiguous unless strides are given, and never alias. Null pointers stand for what is absent.
#pragma once
#include <cstddef>
#include <cstdint>

namespace longshort {

enum class Type : int { f32, f64, bf16, i8 };  // i8: f32 whose products are of bytes, forward only, without projection
enum class Gates : int { ifgo, fgo, igo };  // which gates have rows; fgo: coupled, i = 1 - f; igo: no forget gate, f = 1

struct Layer {
  Type type;    // of x, h, y, parameters and gates; states and gradients of parameters are float for bf16
  Gates gates;
  int64_t I, H, P;
  bool bias, peephole, layer_norm, projection;
  double zone_h, zone_c;    // probabilities
  double scale_h, scale_g;  // 1 / (1 - p) of the dropouts
  double clip;              // infinite if there is none
  int64_t rows() const { return (gates == Gates::ifgo ? 4 : 3) * H; }      // G * H
  int peepholes() const { return gates == Gates::ifgo ? 3 : 2; }
  bool operator==(const Layer&) const = default;
};

struct Params {  // in the layer's type
  const void *weight_ih, *weight_hh, *bias_ih, *bias_hh, *weight_hr, *weight_ch, *gain_ih, *gain_hh, *gain_c;
};

struct Input {
  int64_t T, B;
  // Of a packed batch: sequences alive at each step, [T], never rising. Then [T, B, ..] below stands for [rows, ..], step after step,
  // the longest sequence first in each; x_t is not read, and there are neither lengths nor resets.
  const int64_t* sizes;
  const void* x;           // [T, B, I], strides below in elements, the last one 1; x_t is not used where the batch is packed
  int64_t x_t, x_b;
  const int64_t* lengths;  // [B] or null
  const uint8_t* resets;   // [T, B] or null
  const uint8_t *drop_h, *drop_g, *zone_h, *zone_c;  // [B, P], [T, B, H], [T, B, P], [T, B, H], or null
  bool reverse;
  const void *h0, *c0;     // [B, P], [B, H]; in inference null is zero
};

struct Output {
  void *y, *hn, *cn;    // [T, B, P], [B, P], [B, H]
  void *gates, *cells;  // the Tape, [T, B, G*H] and [T, B, H], or null; with layer norm backward makes gates that are not there again
  void *norm_ih, *norm_hh, *stats;  // what layer norm keeps for backward: normalised rows [T, B, width] twice, [T, B, 4]; or null
};

struct Grads {
  const void *dy, *dhn, *dcn;       // [T, B, P], [B, P], [B, H], each may be null (zero)
  void *dx;                         // [T, B, I] contiguous, or null if not wanted
  void *dh0, *dc0;                  // [B, P], [B, H]
  void *weight_ih, *weight_hh, *bias_ih, *bias_hh, *weight_hr, *weight_ch, *gain_ih, *gain_hh, *gain_c;  // float for bf16, or null
  void *flow_h, *flow_c;            // the whole gradient of h_t [T, B, P] and of c_t [T, B, H] after (9), float for bf16, or both null
};

// The part of a batch that a crew of threads runs on its own: `n` sequences, longest first.
struct Barrier {
  int size = 1;
  alignas(64) int arrived = 0;
  alignas(64) int epoch = 0;
  void wait();
};
struct Crew {
  const int32_t* rows;  // indices into the batch
  const int32_t* len;   // their lengths
  const int64_t* starts;  // the row in [T, B, ..] at which each step begins, [T + 1]
  int n, rank, size;
  Barrier* barrier;
  char* scratch;        // shared by the crew, zero is not assumed
  char* sums;           // gradient sums of the parameters, shared by the crew, kept from group to group
  void wait() const {
    if (size > 1) barrier->wait();
  }
};

// One query for each row and head, and what it reads. Axes: R rows, N heads, S keys, W width of a head.
struct Attend {
  int64_t R, N, S, W;
  const float *query, *keys, *values;    // [R, N, W]; [R, N, S, W] twice, strides below in elements, the last one 1
  int64_t k_r, k_n, k_s, v_r, v_n, v_s;
  float scale;                           // of the products
  float *context, *weights;              // [R, N, W]; mean over the heads, [R, S]
};

inline constexpr int FINGERPRINT = 128;  // words

enum class Pass : int { forward, backward, backward_x };  // backward_x: the gradient of x is wanted too

// The entry points of one instruction set.
struct Isa {
  const char* name;
  bool (*has)(Type);
  int (*lanes)(Type);
  int64_t (*width)(const Layer&);  // entries of a row of normalised gates
  size_t (*packed_bytes)(const Layer&, Pass);
  void (*pack)(const Layer&, const Params&, Pass, char* packed, int part, int parts);
  size_t (*forward_bytes)(const Layer&, const Input&, int n, int crew);
  void (*forward)(const Layer&, const char* packed, const Input&, const Output&, const Crew&);
  size_t (*backward_bytes)(const Layer&, Pass, const Input&, int n, int crew);
  size_t (*sums_bytes)(const Layer&, int crew);
  void (*backward)(const Layer&, Pass, const char* packed, const Input&, const Output&, const Grads&, const Crew&);
  void (*reduce)(const Layer&, char* const* sums, int count, int crew, const Grads&, int part, int parts);
  // x W^T + b in floats, W [N, K] packed, part by part (see linear.h). x [M, K], b [N] or null, y [M, N]
  size_t (*linear_bytes)(int64_t N, int64_t K);
  void (*linear_pack)(int64_t N, int64_t K, const float* weight, char* packed, int part, int parts);
  void (*linear)(int64_t N, int64_t K, const char* packed, const float* bias, const float* x, int64_t M, float* y, int part, int parts);
  void (*attend)(const Attend&, int64_t from, int64_t to);  // some rows (see attend.h)
  // Mixes the bytes at p into a fingerprint: any change in them changes it, but for a chance of 2^-32 at most.
  void (*fingerprint)(const void* p, size_t bytes, uint32_t print[FINGERPRINT]);
  void (*activate)(Type, const void* x, int64_t n, void* sigmoid, void* tanh);  // as the cell does, f32 or f64: for tests of accuracy
  double (*peak)(Type, int64_t rounds);  // the matrix kernel on operands that stay in the first-level cache; returns its operations
};

// What the machine offers, best first, and the one in use: the best, or what LONGSHORT_CPU names.
const Isa* const* instruction_sets(int* count);
const Isa& isa();

}  // namespace longshort
