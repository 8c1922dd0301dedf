// One mixture with diagonal covariances, as the kernels that use the matrix units see it.
#pragma once

#include "kernels/gmm.h"
#include "kernels/gmm_units.h"

namespace elbokit::cuda {

struct DiagonalMixture {
  GmmMixtures mixtures;
  std::int64_t n_features;

  // 1 / standard deviation.
  ELBOKIT_DEVICE double precision(std::int64_t k, std::int64_t feature) const {
    return mixtures.covariance == Covariance::diag
               ? mixtures.precisions_cholesky[k * n_features + feature]
               : mixtures.precisions_cholesky[k];
  }
};

// Whether the kernels of the matrix units take such data and mixtures at all: many components of
// one mixture, in float.
bool suits_matrix_units(const GmmData& data, const GmmMixtures& mixtures, const Device& device);

// n in whole units.
ELBOKIT_INLINE std::int64_t whole(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

// pivot: the mean of the mixture, rounded, 0 in features past the last one, up to a multiple of
// kWarp; mass: the sum of the weights, unless it is null.
void place_pivot(const Queue& queue, const DiagonalMixture& mixture, float* pivot, double* mass);

// Adds up `n` numbers.
void add_up(const Queue& queue, const double* numbers, std::int64_t n, double* sum);

}  // namespace elbokit::cuda
