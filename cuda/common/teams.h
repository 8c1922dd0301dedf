// Teams of threads that share a reduction: how its elements and the teams' work lie in a block.
#pragma once

#include "common/loss.h"

namespace elbokit::cuda {

// Bytes of shared memory that the teams' reductions use.
inline constexpr std::size_t kTeamShared = sizeof(double) * kLossThreads;

// kLanes neighbouring threads: up to a warp, or the block. For elements that lie together; with one
// thread, for teams whose elements lie together.
template <int kLanes>
struct Neighbours {
  static_assert(kLanes <= kWarp || kLanes == kLossThreads, "within a warp, or the block");
  static constexpr int kSize = kLanes;
  static constexpr int kTeams = kLossThreads / kLanes;  // in a block

  static ELBOKIT_DEVICE int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  static ELBOKIT_DEVICE int index() { return static_cast<int>(threadIdx.x) / kLanes; }

  // Every thread gets op over its team. All threads of the block take part.
  template <class V, class Op>
  static ELBOKIT_DEVICE V reduce(V value, Op&& op) {
#pragma unroll
    for (int mask = (kLanes < kWarp ? kLanes : kWarp) / 2; mask > 0; mask /= 2)
      value = op(value, shuffle_xor(value, mask));
    if constexpr (kLanes > kWarp) {
      V* const scratch = shared_memory<V>();
      if (lane_index() == 0) scratch[warp_index()] = value;
      block_barrier();
      value = scratch[0];
      for (int i = 1; i < kLanes / kWarp; ++i) value = op(value, scratch[i]);
      block_barrier();
    }
    return value;
  }
};

// The threads of the same lane in all warps: for teams whose elements lie together, where one
// thread would have too many elements.
struct Columns {
  static constexpr int kSize = kLossThreads / kWarp;
  static constexpr int kTeams = kWarp;

  static ELBOKIT_DEVICE int lane() { return warp_index(); }
  static ELBOKIT_DEVICE int index() { return lane_index(); }

  template <class V, class Op>
  static ELBOKIT_DEVICE V reduce(V value, Op&& op) {
    V* const scratch = shared_memory<V>();
    scratch[threadIdx.x] = value;
    block_barrier();
    value = scratch[lane_index()];
    for (int i = 1; i < kSize; ++i) value = op(value, scratch[i * kWarp + lane_index()]);
    block_barrier();
    return value;
  }
};

// a / b, both at least 0. A division of 64 bits takes several times as long as one of 32.
ELBOKIT_DEVICE std::int64_t quotient(std::int64_t a, std::int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b);
  return a / b;
}

// NaN is passed over: it shows in the sums.
template <class T>
ELBOKIT_DEVICE T larger(T a, T b) {
  return b > a ? b : a;
}

template <class Team, class T>
ELBOKIT_DEVICE T team_largest(T value) {
  return Team::reduce(value, [](T a, T b) { return larger(a, b); });
}

template <class Team>
ELBOKIT_DEVICE double team_total(double value) {
  return Team::reduce(value, [](double a, double b) { return a + b; });
}

}  // namespace elbokit::cuda
