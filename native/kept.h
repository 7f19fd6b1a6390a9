// Packed weights of inference, kept from call to call: a call that brings the same weights need not pack them again. What tells them
// apart is a fingerprint of their contents, so that it does not matter who changed them, or how.
#pragma once
#include <memory>

#include "lstm.h"
#include "threads.h"

namespace longshort {

inline constexpr size_t KEPT_WEIGHTS = size_t(256) << 20;  // bytes at most; who was not used for longest goes first

// The packed weights for the forward pass, by `threads` of the team.
std::shared_ptr<const Scratch> packed_weights(const Layer&, const Params&, int threads);

}  // namespace longshort
