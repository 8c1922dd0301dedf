// The closed-form M-step, in double.
#pragma once

#include <algorithm>
#include <vector>

#include "dispatch/workspaces.h"
#include "elbokit/gmm_fit.h"

namespace elbokit::cpu {

struct GmmUpdateOptions {
  const double* reg_covar;  // one for each variance of a component
  const GmmPrior* prior;    // or null
  double threshold;         // components with a count at or below it are empty
  bool threads;             // whether others than the calling one may help
};

struct GmmUpdateResult {
  GmmFitStatus status = GmmFitStatus::ok;
  std::int64_t component = -1;  // the singular one
};

// An estimate that owns its arrays.
class EstimateMemory {
 public:
  EstimateMemory(Covariance covariance, std::int64_t n_components, std::int64_t n_features)
      : k_(n_components),
        means_(k_ * n_features),
        size_(covariance_size(covariance, k_, n_features)),
        memory_(k_ + means_ + 2 * size_) {
    double* const m = memory_.data();
    estimate_ = {m, m + k_, m + k_ + means_, m + k_ + means_ + size_};
  }
  EstimateMemory(const EstimateMemory&) = delete;

  const GmmEstimate& estimate() const { return estimate_; }

  void store(const GmmEstimate& to) const {
    std::copy_n(estimate_.weights, k_, to.weights);
    std::copy_n(estimate_.means, means_, to.means);
    std::copy_n(estimate_.covariances, size_, to.covariances);
    std::copy_n(estimate_.precisions_cholesky, size_, to.precisions_cholesky);
  }

 private:
  std::int64_t k_, means_, size_;
  std::vector<double> memory_;
  GmmEstimate estimate_;
};

// Keeps its memory from update to update.
class GmmUpdate {
 public:
  GmmUpdate(Covariance covariance, std::int64_t n_components, std::int64_t n_features)
      : covariance_(covariance), k_(n_components), d_(n_features) {}

  // Maximises the expected complete log-likelihood: with m_k = S1_k / N_k about the previous mean
  // c_k, mu_k = c_k + m_k and Sigma_k = S2_k / N_k - m_k m_k^T + reg_covar I, exact for any c_k and
  // free of cancellation as the means settle. tied pools over the components, spherical averages
  // over the features. A prior adds to the statistics what as many observations as it stands for
  // would: its mode has the same formulas.
  GmmUpdateResult run(const GmmStatistics& statistics, const GmmEstimate& previous,
                      const GmmUpdateOptions& options, const GmmEstimate& next);

  // Whether sums of float32 products are too coarse for the covariances made from them: some
  // variance, given the features before it (the pivots of the Cholesky factorisation), is below
  // four rounding errors of the second moment that it came from, or of what products lose that are
  // no longer normal numbers.
  bool below_resolution(const GmmStatistics& statistics, const GmmEstimate& updated) const;

  // The bound after the update less the log-likelihood before it: with Q the expected complete
  // log-likelihood, Q(next) - Q(previous), plus the log-density of the prior at next.
  double gain(const GmmStatistics& statistics, const GmmEstimate& previous,
              const GmmUpdateOptions& options, const GmmEstimate& next) const;

 private:
  GmmStatistics set_counts(const GmmStatistics& statistics, const GmmUpdateOptions& options,
                           const double* previous_means);
  void set_weights(const GmmPrior* prior, double* weights) const;
  void regularise(const GmmUpdateOptions& options, const GmmEstimate& next) const;
  double squares_after(const GmmUpdateOptions& options, const GmmEstimate& next) const;
  void move_means(const GmmStatistics& all, const double* previous, double* means);
  void set_covariance(const GmmStatistics& all, std::int64_t k, double* covariances) const;
  void set_tied_covariance(const GmmStatistics& all, double* covariance) const;
  void keep_empty(const GmmEstimate& previous, const GmmEstimate& next) const;
  bool alive(std::int64_t k) const { return counts_[k] > 0.0; }

  Covariance covariance_;
  std::int64_t k_, d_;
  double total_ = 0.0;
  std::vector<double> counts_;    // 0 where empty
  std::vector<double> shift_;     // m_k, 0 where empty
  std::vector<double> located_;   // what the means are averages over: counts and the prior's
  std::vector<double> divisors_;  // the same for the covariances
  std::vector<double> moments_;   // first and second ones with those of the prior
  dispatch::Workspaces<double> workspaces_;
};

}  // namespace elbokit::cpu
