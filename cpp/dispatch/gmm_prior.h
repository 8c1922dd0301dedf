// Logarithms of densities of a mixture's parameters, and the moments that a prior stands for.
#pragma once

#include "elbokit/gmm_fit.h"

namespace elbokit::cpu {

// Adds to moments about `about` (K, D) those of the prior's pseudo-observations.
void gmm_add_prior(Covariance covariance, std::int64_t n_components, std::int64_t n_features,
                   const GmmPrior& prior, const double* about, double* first, double* second);

// sum_k a_k log w_k + sum_o b_o log|P_o| over those where a_k or b_o is not 0.
double gmm_log_normalisers(Covariance covariance, std::int64_t n_components,
                           std::int64_t n_features, const double* weight_counts,
                           const double* covariance_counts, const GmmEstimate& estimate);

// sum_o tr(P_o P_o^T second_o), for the second moments of all components.
double gmm_squares(Covariance covariance, std::int64_t n_components, std::int64_t n_features,
                   const double* precisions_cholesky, const double* second, bool threads);

// The log-density of the prior at an estimate.
double gmm_log_prior(Covariance covariance, std::int64_t n_components, std::int64_t n_features,
                     const GmmPrior& prior, const GmmEstimate& estimate, bool threads);

}  // namespace elbokit::cpu
