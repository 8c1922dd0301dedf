#include "dispatch/gmm_update.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dispatch/gmm_prior.h"
#include "dispatch/precision_cholesky.h"
#include "math/gaussian_update.h"

namespace elbokit::cpu {

namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

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
    return portable::variance_of_rounding(means[component * d + feature]);
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
      if (!portable::is_positive(covariances[i])) return c;
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
                            const GmmStatistics& statistics, const double* reg_covar,
                            const GmmPrior* prior, double empty_below,
                            const GmmEstimate& estimate) {
  EstimateMemory next(covariance, k, d);
  GmmUpdate update(covariance, k, d);
  const GmmUpdateOptions options{reg_covar, prior, empty_below, true};
  const GmmUpdateResult result = update.run(statistics, estimate, options, next.estimate());
  if (result.status != GmmFitStatus::ok) return {result.status, result.component, false, 0.0, 0.0};
  const GmmUpdateOutcome outcome{
      result.status, result.component, update.below_resolution(statistics, next.estimate()),
      prior ? gmm_log_prior(covariance, k, d, *prior, estimate, true) : 0.0,
      update.gain(statistics, estimate, options, next.estimate())};
  next.store(estimate);
  return outcome;
}

void gmm_regularise(Covariance covariance, std::int64_t k, std::int64_t d, const double* means,
                    const double* reg_covar, double* covariances) {
  const Diagonal diagonal(covariance, k, d);
  for (std::int64_t owner = 0; owner < diagonal.owners; ++owner)
    for (std::int64_t i = 0; i < diagonal.each; ++i) {
      double& variance = covariances[diagonal.at(owner, i)];
      const double rounding = rounding_of(covariance, k, d, means, owner, i);
      variance = portable::regularised(variance, rounding, reg_covar[i]);
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
  const GmmStatistics all = set_counts(statistics, options, previous.means);
  if (!(total_ > 0.0)) return {GmmFitStatus::no_component, -1};
  set_weights(options.prior, next.weights);
  move_means(all, previous.means, next.means);
  if (covariance_ == Covariance::tied)
    set_tied_covariance(all, next.covariances);
  else
    for (std::int64_t k = 0; k < k_; ++k)
      if (divisors_[k] > 0.0) set_covariance(all, k, next.covariances);
  regularise(options, next);
  const std::int64_t singular =
      factor_precisions(covariance_, k_, d_, next.covariances, next.precisions_cholesky,
                        divisors_.data(), options.threads, workspaces_);
  if (singular >= 0)
    return {GmmFitStatus::singular_covariance, covariance_ == Covariance::tied ? -1 : singular};
  keep_empty(previous, next);
  return {};
}

// Counts with those of the prior; returns the moments with those of the prior.
GmmStatistics GmmUpdate::set_counts(const GmmStatistics& statistics,
                                    const GmmUpdateOptions& options, const double* previous_means) {
  counts_.resize(k_);
  total_ = 0.0;
  for (std::int64_t k = 0; k < k_; ++k) {
    counts_[k] = statistics.counts[k] > options.threshold ? statistics.counts[k] : 0.0;
    total_ += counts_[k];
  }
  located_ = counts_;
  if (covariance_ == Covariance::tied)
    divisors_.assign(1, total_);
  else
    divisors_ = counts_;
  const GmmPrior* const prior = options.prior;
  if (!prior) return statistics;
  for (double& each : located_) each += prior->mean_count;
  for (double& each : divisors_) each += prior->covariance_count;
  const std::int64_t size = covariance_size(covariance_, k_, d_);
  moments_.resize(k_ * d_ + size);
  double* const first = moments_.data();
  double* const second = first + k_ * d_;
  std::copy_n(statistics.first, k_ * d_, first);
  std::copy_n(statistics.second, size, second);
  for (std::int64_t k = 0; k < k_; ++k) {
    if (alive(k)) continue;
    std::fill_n(first + k * d_, d_, 0.0);
    if (covariance_ != Covariance::tied) std::fill_n(second + k * (size / k_), size / k_, 0.0);
  }
  gmm_add_prior(covariance_, k_, d_, *prior, previous_means, first, second);
  return {statistics.counts, first, second, statistics.log_likelihood};
}

void GmmUpdate::set_weights(const GmmPrior* prior, double* weights) const {
  double total = total_;
  for (std::int64_t k = 0; prior && k < k_; ++k) total += prior->weight_counts[k];
  for (std::int64_t k = 0; k < k_; ++k)
    weights[k] = (prior ? counts_[k] + prior->weight_counts[k] : counts_[k]) / total;
}

void GmmUpdate::move_means(const GmmStatistics& all, const double* previous, double* means) {
  shift_.resize(k_ * d_);
  for (std::int64_t k = 0; k < k_; ++k)
    for (std::int64_t i = k * d_; i < (k + 1) * d_; ++i) {
      shift_[i] = located_[k] > 0.0 ? all.first[i] / located_[k] : 0.0;
      means[i] = previous[i] + shift_[i];
    }
}

// S2 / n - (l / n) m m^T for n pseudo-observations of the covariance and l of the mean.
void GmmUpdate::set_covariance(const GmmStatistics& all, std::int64_t k,
                               double* covariances) const {
  const double* const shift = shift_.data() + k * d_;
  const double count = divisors_[k];
  const double part = located_[k] / count;  // 1 without a prior
  if (covariance_ == Covariance::full) {
    const std::int64_t at = k * d_ * d_;
    for (std::int64_t i = 0; i < d_; ++i) {
      const double scaled = part * shift[i];
      for (std::int64_t j = 0; j < d_; ++j)
        covariances[at + i * d_ + j] = all.second[at + i * d_ + j] / count - scaled * shift[j];
    }
  } else if (covariance_ == Covariance::diag) {
    for (std::int64_t i = 0; i < d_; ++i)
      covariances[k * d_ + i] = all.second[k * d_ + i] / count - part * shift[i] * shift[i];
  } else {
    double squares = 0.0;
    for (std::int64_t i = 0; i < d_; ++i) squares += shift[i] * shift[i];
    covariances[k] = (all.second[k] / count - part * squares) / static_cast<double>(d_);
  }
}

void GmmUpdate::set_tied_covariance(const GmmStatistics& all, double* covariance) const {
  std::fill_n(covariance, d_ * d_, 0.0);  // between the components
  for (std::int64_t k = 0; k < k_; ++k)
    for (std::int64_t i = 0; i < d_; ++i) {
      const double scaled = located_[k] * shift_[k * d_ + i];
      for (std::int64_t j = 0; j < d_; ++j) covariance[i * d_ + j] += scaled * shift_[k * d_ + j];
    }
  for (std::int64_t i = 0; i < d_ * d_; ++i)
    covariance[i] = (all.second[i] - covariance[i]) / divisors_[0];
}

// A prior holds every variance up by itself: none is set to zero then.
void GmmUpdate::regularise(const GmmUpdateOptions& options, const GmmEstimate& next) const {
  if (!options.prior)
    return gmm_regularise(covariance_, k_, d_, next.means, options.reg_covar, next.covariances);
  const Diagonal diagonal(covariance_, k_, d_);
  for (std::int64_t owner = 0; owner < diagonal.owners; ++owner)
    for (std::int64_t i = 0; i < diagonal.each; ++i)
      next.covariances[diagonal.at(owner, i)] += options.reg_covar[i];
}

// An empty component keeps its covariance; its mean has not moved.
void GmmUpdate::keep_empty(const GmmEstimate& previous, const GmmEstimate& next) const {
  if (covariance_ == Covariance::tied) return;
  const std::int64_t size = covariance_size(covariance_, 1, d_);
  for (std::int64_t k = 0; k < k_; ++k) {
    if (divisors_[k] > 0.0) continue;
    std::copy_n(previous.covariances + k * size, size, next.covariances + k * size);
    std::copy_n(previous.precisions_cholesky + k * size, size, next.precisions_cholesky + k * size);
  }
}

double GmmUpdate::gain(const GmmStatistics& statistics, const GmmEstimate& previous,
                       const GmmUpdateOptions& options, const GmmEstimate& next) const {
  const bool tied = covariance_ == Covariance::tied;
  const std::vector<double> pooled{total_};
  const double before = gmm_log_normalisers(covariance_, k_, d_, counts_.data(),
                                            tied ? pooled.data() : counts_.data(), previous) -
                        0.5 * gmm_squares(covariance_, k_, d_, previous.precisions_cholesky,
                                          statistics.second, options.threads);
  std::vector<double> weight_counts = counts_;
  for (std::int64_t k = 0; options.prior && k < k_; ++k)
    weight_counts[k] += options.prior->weight_counts[k];
  const double normalisers =
      gmm_log_normalisers(covariance_, k_, d_, weight_counts.data(), divisors_.data(), next);
  const double constant = options.prior ? options.prior->log_normaliser : 0.0;
  return normalisers - 0.5 * squares_after(options, next) + constant - before;
}

// The sum of tr(P P^T S): S is the covariance times its divisor, but for the regularisation.
double GmmUpdate::squares_after(const GmmUpdateOptions& options, const GmmEstimate& next) const {
  const Diagonal diagonal(covariance_, k_, d_);
  const double features = static_cast<double>(d_) / static_cast<double>(diagonal.each);
  double sum = 0.0;
  for (std::int64_t owner = 0; owner < diagonal.owners; ++owner) {
    if (divisors_[owner] == 0.0) continue;
    double added = 0.0;
    for (std::int64_t i = 0; i < diagonal.each; ++i) {
      const std::int64_t at = diagonal.at(owner, i);
      const std::int64_t row = diagonal.stride > 1 ? d_ - i : 1;  // of P, from the diagonal on
      double precision = 0.0;
      for (std::int64_t j = at; j < at + row; ++j)
        precision += next.precisions_cholesky[j] * next.precisions_cholesky[j];
      added += options.reg_covar[i] * precision;
    }
    sum += divisors_[owner] * features * (static_cast<double>(diagonal.each) - added);
  }
  return sum;
}

bool GmmUpdate::below_resolution(const GmmStatistics& statistics,
                                 const GmmEstimate& updated) const {
  const Diagonal diagonal(covariance_, k_, d_);
  double pooled = 0.0;
  for (std::int64_t k = 0; k < k_; ++k) pooled += statistics.counts[k];
  for (std::int64_t owner = 0; owner < diagonal.owners; ++owner) {
    if (covariance_ != Covariance::tied && !alive(owner)) continue;
    // A prior makes the divisor larger, and the share of a rounding error smaller.
    const double count =
        covariance_ == Covariance::tied ? std::max(pooled, divisors_[owner]) : divisors_[owner];
    const double averaged = covariance_ == Covariance::spherical ? static_cast<double>(d_) : 1.0;
    for (std::int64_t i = 0; i < diagonal.each; ++i) {
      const std::int64_t at = diagonal.at(owner, i);
      const double second = statistics.second[at] / averaged;
      if (portable::below_float_resolution(updated.precisions_cholesky[at], second, count, pooled))
        return true;
    }
  }
  return false;
}

}  // namespace elbokit::cpu
