// Runs a layer on the team: sorts by length, cuts the batch into crews, packs, runs.
#pragma once
#include <memory>

#include "lstm.h"
#include "threads.h"

namespace longshort {

// train: the weights change from call to call, so their packing is not kept for the next one.
void forward(const Layer&, const Params&, const Input&, const Output&, bool train, int threads);
void backward(const Layer&, const Params&, const Input&, const Output&, const Grads&, int threads);

// The weights of one layer, looked at once by who knows that they stay as they are, for calls without gradients.
class Weights {
 public:
  Weights(const Layer&, const Params&, int threads);
  void forward(const Input&, const Output&, int threads) const;  // as the function, without looking at the weights again

 private:
  Layer l_;
  std::shared_ptr<const Scratch> packed_;
};

// A stack of layers, each reading the one below, run one step at a time: weights are packed once, and a step allocates nothing.
class Stream {
 public:
  explicit Stream(int64_t batch, int threads);
  ~Stream();
  // h, c, y belong to the caller: [B, P], [B, H], [B, P]. h and c are the state and are written in place; y is the layer's output.
  void add(const Layer&, const Params&, void* h, void* c, void* y);
  void step(const void* x);  // [B, I]

 private:
  struct Impl;
  Impl* impl_;
};

// y = x W^T + b for the same W again and again, in floats; the rows of x do not see each other.
class Linear {
 public:
  Linear(int64_t N, int64_t K, const float* weight, int threads);  // [N, K], none of them 0; it is packed, and not read again
  void run(const float* x, int64_t M, const float* bias, float* y, int threads) const;  // [M, K], [N] or null, [M, N]

 private:
  int64_t N_, K_;
  Scratch packed_;
};

void attend(const Attend&, int threads);

// The k largest of the sums of each hypothesis and its tokens, for each sentence. Axes: S sentences, W hypotheses of each, V tokens.
struct Best {
  int64_t S, W, V, k;
  const float* logp;        // [S, W, V]
  const double* total;      // [S, W]
  double* value;            // [S, k], the largest first, and of equal ones the first hypothesis and token; -inf where there are fewer
  int64_t *parent, *token;  // [S, k], of the hypotheses and of the tokens
};
bool best(const Best&);  // false: a sum is NaN

}  // namespace longshort
