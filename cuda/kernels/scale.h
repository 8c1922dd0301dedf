// Gradients that the forward pass computed, times the gradient of the loss.
#pragma once

#include "common/queue.h"
#include "elbokit/matrix.h"

namespace elbokit::cuda {

inline constexpr int kMostScaled = 4;

// out = in * factor * grad for n contiguous elements; `out` may be `in`.
struct Scaled {
  const void* in = nullptr;
  void* out = nullptr;
  Element element = Element::kFloat32;
  std::int64_t n = 0;
  double factor = 1;
  std::int64_t blocks = 0;  // set by scale()
};

struct ScaleArgs {
  const void* grad = nullptr;  // one number in the device's memory
  bool grad_is_double = false;
  Scaled at[kMostScaled];
};

// In one launch, which reads the gradient itself: the host need not know it. What is scaled by
// exactly 1 in place is not touched.
void scale(const Queue& queue, ScaleArgs args);

}  // namespace elbokit::cuda
