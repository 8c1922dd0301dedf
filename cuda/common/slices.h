// Sums that blocks made apart, each in a slice of its own, and searches among sums.
#pragma once

#include "common/queue.h"
#include "common/reduce.h"

namespace elbokit::cuda {

// out[i] = sum over the slices of slices[slice * n + i], in an order that the shapes fix.
void add_slices(const Queue& queue, const double* slices, std::int64_t n_slices, std::int64_t n,
                double* out);

// The sum over this lane and those before it.
template <class T>
ELBOKIT_DEVICE T warp_running_sum(T value) {
  for (int step = 1; step < kWarp; step *= 2) {
    const T below = shuffle(value, lane_index() < step ? lane_index() : lane_index() - step);
    if (lane_index() >= step) value += below;
  }
  return value;
}

struct Found {
  std::int64_t at;  // -1: nowhere
  double before;    // at: the sum before it; else: the sum of all
};

struct FindScratch {
  double warps[32];
  int owners[32];
  Found found;
};

// The first i < n at which the running sum, `before` at first, reaches the target: exceeds it if
// `strictly`. Called by all threads of the block, which all get the answer.
template <int kThreads, class F>
ELBOKIT_DEVICE Found find_in_block(F&& term, std::int64_t n, double before, double target,
                                   bool strictly, FindScratch* scratch) {
  constexpr int warps = kThreads / kWarp;
  const auto reaches = [&](double sum) { return strictly ? sum > target : sum >= target; };
  const std::int64_t each = (n + kThreads - 1) / kThreads;
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * each;
  const std::int64_t begin = first < n ? first : n, end = begin + each < n ? begin + each : n;
  double own = 0;
  for (std::int64_t i = begin; i < end; ++i) own += term(i);
  const double inside = warp_running_sum(own);
  if (lane_index() == kWarp - 1) scratch->warps[warp_index()] = inside;
  block_barrier();
  double offset = before;
  for (int w = 0; w < warp_index(); ++w) offset += scratch->warps[w];
  const unsigned reached = ballot(begin < end && reaches(offset + inside));
  if (lane_index() == 0)
    scratch->owners[warp_index()] = reached ? warp_index() * kWarp + lowest_bit(reached) : kThreads;
  if (threadIdx.x == kThreads - 1) scratch->found = {-1, offset + inside};
  block_barrier();
  int owner = kThreads;
  for (int w = 0; w < warps; ++w) owner = scratch->owners[w] < owner ? scratch->owners[w] : owner;
  const double below = shuffle(inside, lane_index() == 0 ? 0 : lane_index() - 1);
  if (static_cast<int>(threadIdx.x) == owner) {
    double sum = lane_index() == 0 ? offset : offset + below, next = sum;
    std::int64_t i = begin;
    // Rounding may leave the sum short of the target; then it is the last one.
    for (; i < end; ++i, sum = next) {
      next = sum + term(i);
      if (i == end - 1 || reaches(next)) break;
    }
    scratch->found = {i, sum};
  }
  block_barrier();
  const Found found = scratch->found;
  block_barrier();
  return found;
}

}  // namespace elbokit::cuda
