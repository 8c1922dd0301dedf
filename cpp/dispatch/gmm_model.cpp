#include "dispatch/gmm_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace elbokit::cpu {

namespace {

constexpr double kLog2E = 1.44269504088896340736;
constexpr double kLog2Pi = 1.83787706640934548356;

// Distances are scaled so that logits come out in log2 units: exp is then a power of two.
const double kScale = std::sqrt(0.5 * kLog2E);

std::int64_t whole_tiles(std::int64_t n) { return (n + kTile - 1) / kTile * kTile; }

// Columns of a full factor that are packed together.
std::int64_t column_tile(std::int64_t n_features) {
  return n_features <= kSmallFeatures ? 1 : kTile;
}

// Entry (j, i) of component k's factor P, for either full form.
double factor_entry(const GmmParameters& p, std::int64_t k, std::int64_t j, std::int64_t i) {
  const std::int64_t d = p.n_features;
  const std::int64_t base = p.covariance == Covariance::full ? k * d * d : 0;
  return p.precisions_cholesky[base + j * d + i];
}

double diagonal_entry(const GmmParameters& p, std::int64_t k, std::int64_t j) {
  switch (p.covariance) {
    case Covariance::diag:
      return p.precisions_cholesky[k * p.n_features + j];
    case Covariance::spherical:
      return p.precisions_cholesky[k];
    default:
      return factor_entry(p, k, j, j);
  }
}

}  // namespace

template <class T>
PreparedGmm<T>::PreparedGmm(const GmmParameters& p) {
  const bool full = p.covariance == Covariance::full || p.covariance == Covariance::tied;
  model_.family = full ? Family::full : Family::diag;
  model_.n_features = p.n_features;
  model_.n_components = p.n_components;
  model_.padded_features =
      full && column_tile(p.n_features) > 1 ? whole_tiles(p.n_features) : p.n_features;
  model_.padded_components = whole_tiles(p.n_components);
  place_centers(p);
  set_log_constants(p);
  if (full)
    pack_full(p);
  else
    pack_diag(p);
  model_.center = center_.data();
  model_.log_const = log_const_.data();
  model_.drop_below = drop_below_.data();
  model_.factor = factor_.data();
  model_.bias = bias_.data();
}

template <class T>
void PreparedGmm<T>::place_centers(const GmmParameters& p) {
  const std::int64_t d = p.n_features;
  center_.resize(model_.padded_components * model_.padded_features);
  residual_.resize(p.n_components * d);
  for (std::int64_t k = 0; k < p.n_components; ++k)
    for (std::int64_t j = 0; j < d; ++j) {
      const double mean = p.means[k * d + j];
      T& center = center_[k * model_.padded_features + j];
      center = static_cast<T>(mean);
      residual_[k * d + j] = mean - static_cast<double>(center);
    }
}

template <class T>
void PreparedGmm<T>::set_log_constants(const GmmParameters& p) {
  std::vector<double> log_const(p.n_components);
  for (std::int64_t k = 0; k < p.n_components; ++k) {
    double value = std::log(p.weights[k]) - 0.5 * static_cast<double>(p.n_features) * kLog2Pi;
    if (p.covariance == Covariance::spherical)
      value += static_cast<double>(p.n_features) * std::log(diagonal_entry(p, k, 0));
    else
      for (std::int64_t j = 0; j < p.n_features; ++j) value += std::log(diagonal_entry(p, k, j));
    log_const[k] = value;
  }
  // The largest is taken out in double: rounding it to T would bias every log-probability.
  model_.log_base = *std::max_element(log_const.begin(), log_const.end());
  log_const_.assign(model_.padded_components, -std::numeric_limits<T>::infinity());
  for (std::int64_t k = 0; k < p.n_components; ++k)
    log_const_[k] = static_cast<T>((log_const[k] - model_.log_base) * kLog2E);
  const double total = std::accumulate(p.weights, p.weights + p.n_components, 0.0);
  drop_below_.resize(p.n_components);
  for (std::int64_t k = 0; k < p.n_components; ++k)
    drop_below_[k] = static_cast<T>(kDropped<T> * p.weights[k] / total);
}

template <class T>
void PreparedGmm<T>::pack_full(const GmmParameters& p) {
  const std::int64_t d = p.n_features, padded = model_.padded_features;
  const bool tied = p.covariance == Covariance::tied;
  std::int64_t size = 0;  // of one packed factor
  const std::int64_t tile = column_tile(d);
  for (std::int64_t i = 0; i < padded; i += tile) size += (i + tile) * tile;
  model_.factor_stride = tied ? 0 : size;
  factor_.assign(tied ? size : p.n_components * size, T(0));
  bias_.assign(p.n_components * padded, T(0));
  for (std::int64_t k = 0; k < p.n_components; ++k) {
    T* out = factor_.data() + k * model_.factor_stride;
    for (std::int64_t i = 0; i < padded; i += tile)
      for (std::int64_t j = 0; j < i + tile; ++j)
        for (std::int64_t c = i; c < i + tile; ++c, ++out)
          if (j <= c && c < d) *out = static_cast<T>(kScale * factor_entry(p, k, j, c));
    for (std::int64_t i = 0; i < d; ++i) {
      double bias = 0;
      for (std::int64_t j = 0; j <= i; ++j) bias += factor_entry(p, k, j, i) * residual(k)[j];
      bias_[k * padded + i] = static_cast<T>(kScale * bias);
    }
  }
}

template <class T>
void PreparedGmm<T>::pack_diag(const GmmParameters& p) {
  constexpr std::int64_t tile = kTile;
  const std::int64_t d = p.n_features;
  model_.factor_stride = d * 3 * tile;
  factor_.assign(model_.padded_components / tile * model_.factor_stride, T(0));
  for (std::int64_t k = 0; k < p.n_components; ++k)
    for (std::int64_t j = 0; j < d; ++j) {
      T* const out = factor_.data() + (k / tile) * model_.factor_stride + j * 3 * tile + k % tile;
      const double precision = kScale * diagonal_entry(p, k, j);
      out[0] = center_[k * d + j];
      out[tile] = static_cast<T>(precision);
      out[2 * tile] = static_cast<T>(precision * residual(k)[j]);
    }
}

template class PreparedGmm<float>;
template class PreparedGmm<double>;

}  // namespace elbokit::cpu
