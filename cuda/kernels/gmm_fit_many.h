// Whole runs of EM on many small mixtures, in one launch.
#pragma once

#include "kernels/gmm.h"
#include "kernels/gmm_update.h"

namespace elbokit::cuda {

inline constexpr std::int64_t kManyComponents = 32;

struct GmmFitManyArgs {
  GmmData data;  // with offsets: mixture_stride 0, n_samples all rows, sample_weight (rows)
  const std::int64_t* offsets;  // optional, (n_mixtures + 1): the rows of each mixture
  Covariance covariance;
  std::int64_t n_components;
  double tol, reg_covar[kSmallFeatures];  // reg_covar: for each feature
  std::int64_t max_iter;
  GmmEstimates estimates;  // in: the starts
  double* lower_bound;     // (n_mixtures); in: the bound before the first iteration
  std::int64_t* outcome;   // (n_mixtures, 4): iterations, converged, GmmFitStatus, component
};

// As cpu::gmm_fit without a prior, for up to kSmallFeatures features and kManyComponents
// components. A run that fails has the estimate before that. Needs no workspace. The bits of a
// result do not depend on the other mixtures, but for how many they are and how many rows they have
// in all.
void gmm_fit_many(const Queue& queue, const GmmFitManyArgs& args);

}  // namespace elbokit::cuda
