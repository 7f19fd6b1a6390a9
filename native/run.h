// Runs a layer on the team: sorts by length, cuts the batch into crews, packs, runs.
#pragma once
#include "lstm.h"
#include "threads.h"

namespace longshort {

void forward(const Layer&, const Params&, const Input&, const Output&, int threads);
void backward(const Layer&, const Params&, const Input&, const Output&, const Grads&, int threads);

}  // namespace longshort
