// Sums over a warp and over a block, in an order that does not depend on timing.
#pragma once

#include "common/simt.h"

namespace elbokit::cuda {

// Every lane gets the sum. T: a number, or a struct of numbers with +=.
template <class T>
ELBOKIT_DEVICE T warp_sum(T value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

template <class T>
ELBOKIT_DEVICE T warp_max(T value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const T other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// Every thread gets the sum. `scratch` holds one T per warp; it may be used again after the call.
template <int kThreads, class T>
ELBOKIT_DEVICE T block_sum(T value, T* scratch) {
  static_assert(kThreads % kWarp == 0, "whole warps");
  value = warp_sum(value);
  if constexpr (kThreads > kWarp) {
    if (lane_index() == 0) scratch[warp_index()] = value;
    block_barrier();
    value = scratch[0];
    for (int i = 1; i < kThreads / kWarp; ++i) value += scratch[i];
    block_barrier();
  }
  return value;
}

}  // namespace elbokit::cuda
