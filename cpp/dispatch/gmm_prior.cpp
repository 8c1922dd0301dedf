#include "dispatch/gmm_prior.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "dispatch/threads.h"

namespace elbokit::cpu {

namespace {

// tr(P P^T S) = sum_im S_im P_i P_m^T over the rows of an upper triangular P, with the pairs i < m
// taken twice; row holds d doubles.
double trace(std::int64_t d, const double* factor, const double* second, double* row) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < d; ++i) {
    const double* const own = factor + i * d;
    for (std::int64_t j = i; j < d; ++j) row[j] = second[i * d + i] * own[j];
    for (std::int64_t m = i + 1; m < d; ++m) {
      const double* const other = factor + m * d;
      const double twice = 2.0 * second[i * d + m];
      for (std::int64_t j = m; j < d; ++j) row[j] += twice * other[j];
    }
    for (std::int64_t j = i; j < d; ++j) sum += row[j] * own[j];
  }
  return sum;
}

}  // namespace

void gmm_add_prior(Covariance covariance, std::int64_t n_components, std::int64_t n_features,
                   const GmmPrior& prior, const double* about, double* first, double* second) {
  const std::int64_t d = n_features;
  const std::int64_t one = covariance_size(covariance, 1, d);
  std::vector<double> e(d);
  if (covariance == Covariance::tied)
    for (std::int64_t i = 0; i < one; ++i) second[i] += prior.scale[i];
  for (std::int64_t k = 0; k < n_components; ++k) {
    for (std::int64_t i = 0; i < d; ++i) {
      e[i] = prior.mean[i] - about[k * d + i];
      first[k * d + i] += prior.mean_count * e[i];
    }
    double* const to = covariance == Covariance::tied ? second : second + k * one;
    if (covariance != Covariance::tied)
      for (std::int64_t i = 0; i < one; ++i) to[i] += prior.scale[i];
    for (std::int64_t i = 0; i < d; ++i) {
      const double scaled = prior.mean_count * e[i];
      if (covariance == Covariance::diag)
        to[i] += scaled * e[i];
      else if (covariance == Covariance::spherical)
        to[0] += scaled * e[i];
      else
        for (std::int64_t j = 0; j < d; ++j) to[i * d + j] += scaled * e[j];
    }
  }
}

double gmm_log_normalisers(Covariance covariance, std::int64_t n_components,
                           std::int64_t n_features, const double* weight_counts,
                           const double* covariance_counts, const GmmEstimate& estimate) {
  const std::int64_t d = n_features;
  double sum = 0.0;
  for (std::int64_t k = 0; k < n_components; ++k)
    if (weight_counts[k] != 0.0) sum += weight_counts[k] * std::log(estimate.weights[k]);
  const std::int64_t owners = covariance == Covariance::tied ? 1 : n_components;
  const std::int64_t size = covariance_size(covariance, 1, d);
  const bool matrix = covariance == Covariance::full || covariance == Covariance::tied;
  const std::int64_t stride = matrix ? d + 1 : 1;
  for (std::int64_t o = 0; o < owners; ++o) {
    if (covariance_counts[o] == 0.0) continue;
    double log_det = 0.0;
    for (std::int64_t i = 0; i < size; i += stride)
      log_det += std::log(estimate.precisions_cholesky[o * size + i]);
    if (covariance == Covariance::spherical) log_det *= static_cast<double>(d);
    sum += covariance_counts[o] * log_det;
  }
  return sum;
}

double gmm_squares(Covariance covariance, std::int64_t n_components, std::int64_t n_features,
                   const double* precisions_cholesky, const double* second, bool threads) {
  if (covariance == Covariance::diag || covariance == Covariance::spherical) {
    const std::int64_t size = covariance_size(covariance, n_components, n_features);
    double sum = 0.0;
    for (std::int64_t i = 0; i < size; ++i)
      sum += precisions_cholesky[i] * precisions_cholesky[i] * second[i];
    return sum;
  }
  const std::int64_t d = n_features;
  const std::int64_t owners = covariance == Covariance::tied ? 1 : n_components;
  const double cost = static_cast<double>(owners * d) * static_cast<double>(d * d) / 10.0;
  std::vector<double> traces(owners), rows(owners * d);
  dispatch::for_each_task(
      threads && owners > 1 && cost > dispatch::kWorthThreads, owners, [&](std::int64_t o, int) {
        const std::int64_t at = o * d * d;
        traces[o] = trace(d, precisions_cholesky + at, second + at, &rows[o * d]);
      });
  double sum = 0.0;
  for (const double each : traces) sum += each;
  return sum;
}

double gmm_log_prior(Covariance covariance, std::int64_t n_components, std::int64_t n_features,
                     const GmmPrior& prior, const GmmEstimate& estimate, bool threads) {
  std::vector<double> first(n_components * n_features);
  std::vector<double> second(covariance_size(covariance, n_components, n_features));
  gmm_add_prior(covariance, n_components, n_features, prior, estimate.means, first.data(),
                second.data());
  const std::vector<double> counts(n_components, prior.covariance_count);
  return prior.log_normaliser +
         gmm_log_normalisers(covariance, n_components, n_features, prior.weight_counts,
                             counts.data(), estimate) -
         0.5 * gmm_squares(covariance, n_components, n_features, estimate.precisions_cholesky,
                           second.data(), threads);
}

}  // namespace elbokit::cpu
