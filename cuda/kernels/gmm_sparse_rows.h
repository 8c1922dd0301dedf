// What the sparse kernels do for a row.
#pragma once

#include "common/reduce.h"
#include "kernels/gmm_sparse_model.h"
#include "math/gaussian.h"

namespace elbokit::cuda {

// -|precision (x - center) - bias|^2 + log_const of some components, by a warp; x lies in shared
// memory.
template <int kCount>
ELBOKIT_DEVICE void exact_logits(const SparseShape& shape, const SparseMemory& memory,
                                 const float* x, const std::int64_t (&k)[kCount],
                                 float (&logits)[kCount]) {
  const std::int64_t d = shape.n_features;
  float distance[kCount] = {};
  for (std::int64_t j = lane_index(); j < d; j += kWarp)
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float* const model = memory.exact + k[i] * 3 * d;
      const float y = math::whiten(x[j], model[j], model[d + j], model[2 * d + j]);
      distance[i] += y * y;
    }
#pragma unroll
  for (int i = 0; i < kCount; ++i) logits[i] = memory.log_const[k[i]] - warp_sum(distance[i]);
}

// Calls f(k) for the components that may matter to a row, in order; of several warps that share
// them, each for those of some words of the mask.
template <class F>
ELBOKIT_DEVICE void for_each_active(const SparseShape& shape, const unsigned* masks, int warp,
                                    int warps, F&& f) {
  for (std::int64_t base = warp; base < shape.words(); base += warps * kWarp) {
    const std::int64_t at = base + lane_index() * warps;
    const unsigned mine = at < shape.words() ? masks[at] : 0;
    for (unsigned some = ballot(mine != 0); some; some &= some - 1) {
      const int lane = lowest_bit(some);
      for (unsigned word = shuffle(mine, lane); word; word &= word - 1)
        f((base + lane * warps) * 32 + lowest_bit(word));
    }
  }
}

// What is found for a row: the largest logit, and the sum of 2 to the others' differences from it.
struct RowSum {
  float largest, sum;
};

// The row that a warp has at the moment.
struct SparseRow {
  std::int64_t at;  // in the chunk
  int i;            // in the block
  const unsigned* masks;
  const float* x;
  double weight;
};

// The i-th row of the block; its values are at x.
ELBOKIT_DEVICE SparseRow sparse_row(const SparseShape& shape, const SparseRows& rows,
                                    const SparseMemory& memory, int i, const float* x) {
  const std::int64_t at = std::int64_t{blockIdx.x} * kSparseRows + i;
  const double* const weight = rows.data.sample_weight;
  return {at, i, memory.masks + at * shape.words(), x, weight ? weight[rows.begin + at] : 1.0};
}

// Its part of the log-likelihood. A sum that is none counts as a failure.
ELBOKIT_DEVICE double log_likelihood_of(const SparseShape& shape, const SparseMemory& memory,
                                        const SparseRow& row, const RowSum& found,
                                        unsigned long long* failed) {
  if (!(found.sum >= 1.0f && found.sum <= static_cast<float>(shape.n_components)))
    atomic_add(failed, 1);
  return row.weight *
         (static_cast<double>(math::log_density(found.largest, found.sum)) + memory.constants[0]);
}

}  // namespace elbokit::cuda
