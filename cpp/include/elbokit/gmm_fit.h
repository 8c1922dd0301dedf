// EM for mixtures of Gaussians: whole runs, and the closed-form M-step that they share with the
// initialisation.
#pragma once

#include <vector>

#include "elbokit/gmm.h"

namespace elbokit {

// One mixture's parameters where they are updated; shapes as in GmmParameters, covariances in the
// shape of precisions_cholesky.
struct GmmEstimate {
  double *weights, *means, *covariances, *precisions_cholesky;
};

enum class GmmFitStatus {
  ok,
  singular_covariance,  // of GmmFit::component; -1 for the one of tied
  no_component,         // the density of every sample under every component is zero
  overflow,             // statistics with NaN or infinity, in float64 too
};

// A conjugate prior, as the pseudo-observations that it comes to: Dirichlet on the weights, normal
// on the means given the covariances, inverse Wishart or inverse gamma on those. Up to a constant
//   log p = sum_k a_k log w_k + sum_o b log|P_o| - 1/2 sum_o tr(P_o P_o^T (scale + c M_o)),
// o over the covariances (one for tied), M_o the sum of (mu_k - mean)(mu_k - mean)^T over its
// components. For spherical P_o is a multiple of the identity, and scale is given by its trace.
struct GmmPrior {
  const double* weight_counts;  // (K): a, the Dirichlet's parameters less one
  double mean_count;            // c
  const double* mean;           // (D)
  double covariance_count;      // b
  const double* scale;          // one covariance: (D, D), (D) or 1
  double log_normaliser;        // the constant
};

struct GmmFitOptions {
  double tol;               // converged when the bound changes by less
  const double* reg_covar;  // added to the variances: (D), spherical: 1
  std::int64_t max_iter;
  const GmmPrior* prior = nullptr;  // null: maximum likelihood
};

// Rows and weights of one mixture; the weights in double, whatever the rows are.
template <class T>
struct GmmFitRows {
  std::int64_t n_samples;
  Matrix<const T> x;
  Vector<const double> sample_weight;  // optional
};

// One run. At any time the estimate is the one after the last complete iteration.
struct GmmFit {
  GmmEstimate estimate;  // in: the start
  double lower_bound;    // in: the bound before the first iteration, or -inf; per sample
  std::int64_t n_iter = 0;
  bool converged = false;
  GmmFitStatus status = GmmFitStatus::ok;  // in: others than ok are left as they are
  std::int64_t component = -1;
  bool wide = false;  // float32 could not tell the last iteration's covariances, nor will it now
  std::vector<double>* lower_bounds = nullptr;  // optional: each iteration's is appended
  std::vector<double>* after_m = nullptr;       // optional: and that with the next parameters
};

// How an M-step ended.
struct GmmUpdateOutcome {
  GmmFitStatus status;
  std::int64_t component;  // the singular one
  bool below_resolution;   // sums of float32 products would be too coarse for such covariances
  double log_prior;        // of the previous estimate; 0 without a prior
  double gain;             // log-likelihood + gain: the bound after the step, times the mass
};

// Called on the thread that called gmm_fit, between two iterations or more rarely. What it throws
// ends all runs and leaves gmm_fit.
class GmmFitObserver {
 public:
  virtual ~GmmFitObserver() = default;
  // `change` is that of the bound.
  virtual void iteration(const GmmFit& fit, double change) = 0;
  // While other threads work, about every 50 ms.
  virtual void pause() = 0;
};

namespace cpu {

// Runs EM on n_mixtures mixtures of one shape, each from its estimate until the bound changes by
// less than tol, max_iter iterations are done, or an M-step fails, which ends that run alone. The
// bound of an iteration is that of its E-step, plus the log-density of the prior if there is one,
// per unit of the weights; the M-step then maximises that sum. after_m is the bound with the
// responsibilities of the iteration and the parameters after it. A component with a count at or
// below gmm_empty_below keeps its mean and covariance and gets weight 0, or goes to the mode of the
// prior (for its mean only if mean_count > 0). Where float32 sums cannot resolve a covariance
// the iteration is repeated in double. The same bits for any number of threads, and for a mixture
// alone or in a batch.
template <class T>
void gmm_fit(std::int64_t n_mixtures, Covariance covariance, std::int64_t n_components,
             std::int64_t n_features, const GmmFitRows<T>* rows, const GmmFitOptions& options,
             GmmFit* fits, GmmFitObserver& observer);

// Ten rounding errors of the average sample. scikit-learn adds this to every count; below it that
// term, not the data, would decide where a component goes.
double gmm_empty_below(double mass, std::int64_t n_samples);

// The M-step alone: from statistics about the estimate's means to the next estimate, in its place.
// One that fails leaves it as it was.
GmmUpdateOutcome gmm_update(Covariance covariance, std::int64_t n_components,
                            std::int64_t n_features, const GmmStatistics& statistics,
                            const double* reg_covar, const GmmPrior* prior, double empty_below,
                            const GmmEstimate& estimate);

// Adds reg_covar (D; spherical: 1) to the variances. Those within the rounding of the means are set
// to zero first, so that without regularisation a constant column is always an error, not a matter
// of luck.
void gmm_regularise(Covariance covariance, std::int64_t n_components, std::int64_t n_features,
                    const double* means, const double* reg_covar, double* covariances);

// Factors P of the precisions, Sigma^-1 = P P^T, from the covariances and back; the first for
// n_mixtures one behind the other. failed[m]: the first component of mixture m (0 for tied) whose
// covariance is not positive definite, or -1.
void gmm_factors(std::int64_t n_mixtures, Covariance covariance, std::int64_t n_components,
                 std::int64_t n_features, const double* covariances, double* precisions_cholesky,
                 std::int64_t* failed);
void gmm_covariances(Covariance covariance, std::int64_t n_components, std::int64_t n_features,
                     const double* precisions_cholesky, double* covariances);

}  // namespace cpu

}  // namespace elbokit
