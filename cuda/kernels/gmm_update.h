// The closed-form M-step on the GPU, in double.
#pragma once

#include "kernels/gmm.h"

namespace elbokit::cuda {

// Contiguous, with n_mixtures in front.
struct GmmEstimates {
  double *weights, *means, *covariances, *precisions_cholesky;
};

// How the M-step of one mixture ended: what the caller reads back in each iteration.
struct GmmOutcome {
  double log_likelihood;          // of the E-step
  double gain;                    // log_likelihood + gain: the bound after the M-step
  std::int64_t status;            // GmmFitStatus
  std::int64_t component;         // the singular one
  std::int64_t below_resolution;  // sums of float32 products would be too coarse
  std::int64_t beyond_float;      // the next estimate has numbers that float32 cannot hold
};

struct GmmUpdateArgs {
  Covariance covariance;
  std::int64_t n_mixtures, n_components, n_features;
  GmmStatistics statistics;   // about the means of `previous`
  const double* reg_covar;    // (n_features); spherical: 1
  const double* empty_below;  // (n_mixtures)
  GmmEstimates previous, next;
  GmmOutcome* outcomes;  // (n_mixtures)
};

std::size_t gmm_update_workspace(const GmmUpdateArgs& args);

// As cpu::gmm_update without a prior. A mixture whose M-step fails has next as previous.
void gmm_update(const Queue& queue, const GmmUpdateArgs& args);

}  // namespace elbokit::cuda
