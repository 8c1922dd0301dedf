#include "dispatch/gmm_update.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dispatch/precision_cholesky.h"

namespace elbokit::cpu {

namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

// Products of float32 below 2^-126 lose digits, up to 2^-150 of each row: sums of squares that are
// on average larger than this do not show it.
constexpr double kLeastSquare = 0x1p-120;

// Numbers of variances per component, and of their owners: what is common to the four types.
struct Diagonal {
  std::int64_t owners, each, owner_stride, stride;

  Diagonal(Covariance covariance, std::int64_t k, std::int64_t d) {
    const bool full = covariance == Covariance::full || covariance == Covariance::tied;
    owners = covariance == Covariance::tied ? 1 : k;
    each = covariance == Covariance::spherical ? 1 : d;
    owner_stride = full ? d * d : each;
    stride = full ? d + 1 : 1;
  }
  std::int64_t at(std::int64_t owner, std::int64_t i) const {
    return owner * owner_stride + i * stride;
  }
};

// The variance that is lost in the rounding of the means which it belongs to.
double rounding_of(Covariance covariance, std::int64_t k, std::int64_t d, const double* means,
                   std::int64_t owner, std::int64_t i) {
  const auto square = [&](std::int64_t component, std::int64_t feature) {
    const double rounding = 4.0 * kEpsilon * means[component * d + feature];
    return rounding * rounding;
  };
  double result = 0.0;
  switch (covariance) {
    case Covariance::tied:
      for (std::int64_t c = 0; c < k; ++c) result = std::max(result, square(c, i));
      return result;
    case Covariance::spherical:
      for (std::int64_t j = 0; j < d; ++j) result += square(owner, j);
      return result / static_cast<double>(d);
    default:
      return square(owner, i);
  }
}

// Components with a count of 0 are left out; null: none is.
std::int64_t factor_precisions(Covariance covariance, std::int64_t k, std::int64_t d,
                               const double* covariances, double* factors, const double* counts,
                               bool threads, dispatch::Workspaces<double>& workspaces) {
  if (covariance == Covariance::tied)
    return precision_cholesky(1, d, covariances, factors, nullptr, threads, workspaces);
  if (covariance == Covariance::full)
    return precision_cholesky(k, d, covariances, factors, counts, threads, workspaces);
  const std::int64_t each = covariance == Covariance::diag ? d : 1;
  for (std::int64_t c = 0; c < k; ++c) {
    if (counts && counts[c] == 0.0) continue;
    for (std::int64_t i = c * each; i < (c + 1) * each; ++i) {
      if (!(covariances[i] > 0.0 && std::isfinite(covariances[i]))) return c;
      factors[i] = 1.0 / std::sqrt(covariances[i]);
    }
  }
  return -1;
}

// Sigma = P^-T P^-1 of one upper triangular factor; work holds d * d doubles.
void invert_factor(std::int64_t d, const double* factor, double* covariance, double* work) {
  // Row j of P^-1, from the last one up.
  for (std::int64_t j = d - 1; j >= 0; --j) {
    double* const row = work + j * d;
    std::fill_n(row, d, 0.0);
    row[j] = 1.0;
    for (std::int64_t m = j + 1; m < d; ++m)
      for (std::int64_t i = m; i < d; ++i) row[i] -= factor[j * d + m] * work[m * d + i];
    for (std::int64_t i = j; i < d; ++i) row[i] /= factor[j * d + j];
  }
  std::fill_n(covariance, d * d, 0.0);
  for (std::int64_t m = 0; m < d; ++m)
    for (std::int64_t i = m; i < d; ++i)
      for (std::int64_t j = m; j < d; ++j)
        covariance[i * d + j] += work[m * d + i] * work[m * d + j];
}

}  // namespace

double gmm_empty_below(double mass, std::int64_t n_samples) {
  return 10.0 * kEpsilon * mass / static_cast<double>(n_samples);
}

GmmUpdateOutcome gmm_update(Covariance covariance, std::int64_t k, std::int64_t d,
                            const GmmStatistics& statistics, double reg_covar, double empty_below,
                            const GmmEstimate& estimate) {
  EstimateMemory next(covariance, k, d);
  GmmUpdate update(covariance, k, d);
  const GmmUpdateResult result =
      update.run(statistics, estimate, {reg_covar, empty_below, true}, next.estimate());
  if (result.status != GmmFitStatus::ok) return {result.status, result.component, false};
  const bool coarse = update.below_resolution(statistics, next.estimate());
  next.store(estimate);
  return {result.status, result.component, coarse};
}

void gmm_regularise(Covariance covariance, std::int64_t k, std::int64_t d, const double* means,
                    double reg_covar, double* covariances) {
  const Diagonal diagonal(covariance, k, d);
  for (std::int64_t owner = 0; owner < diagonal.owners; ++owner)
    for (std::int64_t i = 0; i < diagonal.each; ++i) {
      double& variance = covariances[diagonal.at(owner, i)];
      const bool none = variance <= rounding_of(covariance, k, d, means, owner, i);
      variance = (none ? 0.0 : variance) + reg_covar;
    }
}

void gmm_factors(std::int64_t n_mixtures, Covariance covariance, std::int64_t k, std::int64_t d,
                 const double* covariances, double* factors, std::int64_t* failed) {
  const std::int64_t size = covariance_size(covariance, k, d);
  const auto d3 = static_cast<double>(d * d * d);
  const bool many = static_cast<double>(n_mixtures * k) * (20 + d3) > dispatch::kWorthThreads;
  const std::int64_t tasks = std::min<std::int64_t>(n_mixtures, many ? 64 : 1);
  dispatch::for_each_task(tasks > 1, tasks, [&](std::int64_t task, int) {
    dispatch::Workspaces<double> workspaces;
    for (std::int64_t m = task * n_mixtures / tasks; m < (task + 1) * n_mixtures / tasks; ++m)
      failed[m] = factor_precisions(covariance, k, d, covariances + m * size, factors + m * size,
                                    nullptr, tasks == 1, workspaces);
  });
}

void gmm_covariances(Covariance covariance, std::int64_t k, std::int64_t d, const double* factors,
                     double* covariances) {
  const std::int64_t size = covariance_size(covariance, k, d);
  if (covariance == Covariance::diag || covariance == Covariance::spherical) {
    for (std::int64_t i = 0; i < size; ++i) covariances[i] = 1.0 / (factors[i] * factors[i]);
    return;
  }
  std::vector<double> work(d * d);
  for (std::int64_t at = 0; at < size; at += d * d)
    invert_factor(d, factors + at, covariances + at, work.data());
}

GmmUpdateResult GmmUpdate::run(const GmmStatistics& statistics, const GmmEstimate& previous,
                               const GmmUpdateOptions& options, const GmmEstimate& next) {
  if (!set_weights(statistics.counts, options.threshold, next.weights))
    return {GmmFitStatus::no_component, -1};
  move_means(statistics, previous.means, next.means);
  if (covariance_ == Covariance::tied)
    set_tied_covariance(statistics, next.covariances);
  else
    for (std::int64_t k = 0; k < k_; ++k)
      if (alive(k)) set_covariance(statistics, k, next.covariances);
  gmm_regularise(covariance_, k_, d_, next.means, options.reg_covar, next.covariances);
  const std::int64_t singular =
      factor_precisions(covariance_, k_, d_, next.covariances, next.precisions_cholesky,
                        counts_.data(), options.threads, workspaces_);
  if (singular >= 0)
    return {GmmFitStatus::singular_covariance, covariance_ == Covariance::tied ? -1 : singular};
  keep_empty(previous, next);
  return {};
}

bool GmmUpdate::set_weights(const double* counts, double threshold, double* weights) {
  counts_.resize(k_);
  total_ = 0.0;
  for (std::int64_t k = 0; k < k_; ++k) {
    counts_[k] = counts[k] > threshold ? counts[k] : 0.0;
    total_ += counts_[k];
  }
  for (std::int64_t k = 0; k < k_; ++k) weights[k] = counts_[k] / total_;
  return total_ > 0.0;
}

void GmmUpdate::move_means(const GmmStatistics& statistics, const double* previous, double* means) {
  shift_.resize(k_ * d_);
  for (std::int64_t k = 0; k < k_; ++k)
    for (std::int64_t i = k * d_; i < (k + 1) * d_; ++i) {
      shift_[i] = alive(k) ? statistics.first[i] / counts_[k] : 0.0;
      means[i] = previous[i] + shift_[i];
    }
}

void GmmUpdate::set_covariance(const GmmStatistics& statistics, std::int64_t k,
                               double* covariances) const {
  const double* const shift = shift_.data() + k * d_;
  const double count = counts_[k];
  if (covariance_ == Covariance::full) {
    const std::int64_t at = k * d_ * d_;
    for (std::int64_t i = 0; i < d_; ++i)
      for (std::int64_t j = 0; j < d_; ++j)
        covariances[at + i * d_ + j] =
            statistics.second[at + i * d_ + j] / count - shift[i] * shift[j];
  } else if (covariance_ == Covariance::diag) {
    for (std::int64_t i = 0; i < d_; ++i)
      covariances[k * d_ + i] = statistics.second[k * d_ + i] / count - shift[i] * shift[i];
  } else {
    double squares = 0.0;
    for (std::int64_t i = 0; i < d_; ++i) squares += shift[i] * shift[i];
    covariances[k] = (statistics.second[k] / count - squares) / static_cast<double>(d_);
  }
}

void GmmUpdate::set_tied_covariance(const GmmStatistics& statistics, double* covariance) const {
  std::fill_n(covariance, d_ * d_, 0.0);  // between the components
  for (std::int64_t k = 0; k < k_; ++k)
    for (std::int64_t i = 0; i < d_; ++i) {
      const double scaled = counts_[k] * shift_[k * d_ + i];
      for (std::int64_t j = 0; j < d_; ++j) covariance[i * d_ + j] += scaled * shift_[k * d_ + j];
    }
  for (std::int64_t i = 0; i < d_ * d_; ++i)
    covariance[i] = (statistics.second[i] - covariance[i]) / total_;
}

// An empty component keeps its covariance; its mean has not moved.
void GmmUpdate::keep_empty(const GmmEstimate& previous, const GmmEstimate& next) const {
  if (covariance_ == Covariance::tied) return;
  const std::int64_t size = covariance_size(covariance_, 1, d_);
  for (std::int64_t k = 0; k < k_; ++k) {
    if (alive(k)) continue;
    std::copy_n(previous.covariances + k * size, size, next.covariances + k * size);
    std::copy_n(previous.precisions_cholesky + k * size, size, next.precisions_cholesky + k * size);
  }
}

bool GmmUpdate::below_resolution(const GmmStatistics& statistics,
                                 const GmmEstimate& updated) const {
  const Diagonal diagonal(covariance_, k_, d_);
  const double resolution = 4.0 * static_cast<double>(std::numeric_limits<float>::epsilon());
  double pooled = 0.0;
  for (std::int64_t k = 0; k < k_; ++k) pooled += statistics.counts[k];
  for (std::int64_t owner = 0; owner < diagonal.owners; ++owner) {
    if (covariance_ != Covariance::tied && !alive(owner)) continue;
    const double count = covariance_ == Covariance::tied ? pooled : statistics.counts[owner];
    const double averaged = covariance_ == Covariance::spherical ? static_cast<double>(d_) : 1.0;
    for (std::int64_t i = 0; i < diagonal.each; ++i) {
      const std::int64_t at = diagonal.at(owner, i);
      const double scale = statistics.second[at] / averaged;
      const double pivot = updated.precisions_cholesky[at];
      if (1.0 / (pivot * pivot) < (resolution * scale + kLeastSquare * pooled) / count) return true;
    }
  }
  return false;
}

}  // namespace elbokit::cpu
