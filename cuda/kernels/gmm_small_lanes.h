// The lanes of a warp that share a mixture.
#pragma once

#include "common/simt.h"

namespace elbokit::cuda {

// All lanes of the warp, or an aligned power of two of them. The whole warp takes part in what they
// do together, whatever becomes of it.
struct MixtureLanes {
  int width = kWarp;

  ELBOKIT_DEVICE int index() const { return lane_index() & (width - 1); }

  // Every lane gets the same bits.
  ELBOKIT_DEVICE double sum(double value) const {
    for (int mask = width / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
  }

  // NaN is passed over.
  ELBOKIT_DEVICE double largest(double value) const {
    for (int mask = width / 2; mask > 0; mask /= 2) {
      const double other = shuffle_xor(value, mask);
      value = other > value ? other : value;
    }
    return value;
  }

  // Bit i: the predicate of lane i of them.
  ELBOKIT_DEVICE unsigned ballot(bool predicate) const {
    return (cuda::ballot(predicate) >> (lane_index() - index())) & (~0u >> (kWarp - width));
  }

  // The largest of the warp's mixtures.
  ELBOKIT_DEVICE std::int64_t most(std::int64_t of_mixture) const {
    for (int mask = width; mask < kWarp; mask *= 2) {
      const std::int64_t other = shuffle_xor(of_mixture, mask);
      of_mixture = other > of_mixture ? other : of_mixture;
    }
    return of_mixture;
  }
};

}  // namespace elbokit::cuda
