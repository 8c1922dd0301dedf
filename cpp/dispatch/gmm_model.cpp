#include "dispatch/gmm_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <type_traits>

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
void PreparedGmm<T>::assign(const GmmParameters& p) {
  set_shape(p);
  place_centers(p);
  set_log_constants(p);
  if (model_.family == Family::full)
    pack_full(p);
  else
    pack_diag(p);
}

template <class T>
void PreparedGmm<T>::set_shape(const GmmParameters& p) {
  const bool tied = p.covariance == Covariance::tied;
  const bool full = tied || p.covariance == Covariance::full;
  const Family family = full ? Family::full : Family::diag;
  const std::int64_t d = p.n_features, k = p.n_components;
  if (model_.n_components == k && model_.n_features == d && model_.family == family &&
      tied == (full && model_.factor_stride == 0))
    return;
  model_.family = family;
  model_.n_features = d;
  model_.n_components = k;
  model_.padded_features = full && column_tile(d) > 1 ? whole_tiles(d) : d;
  model_.padded_components = whole_tiles(k);
  center_.assign(model_.padded_components * model_.padded_features, T(0));
  residual_.resize(k * d);
  exact_log_const_.resize(k);
  drop_below_.resize(k);
  exact_bias_.resize(d);
  log_const_.assign(model_.padded_components, -std::numeric_limits<T>::infinity());
  if (full) {
    const std::int64_t tile = column_tile(d);
    std::int64_t size = 0;  // of one packed factor
    for (std::int64_t i = 0; i < model_.padded_features; i += tile) size += (i + tile) * tile;
    model_.factor_stride = tied ? 0 : size;
    factor_.assign(tied ? size : k * size, T(0));
    bias_.assign(k * model_.padded_features, T(0));
  } else {
    model_.factor_stride = d * 3 * kTile;
    factor_.assign(model_.padded_components / kTile * model_.factor_stride, T(0));
    bias_.clear();
  }
  model_.center = center_.data();
  model_.log_const = log_const_.data();
  model_.drop_below = drop_below_.data();
  model_.factor = factor_.data();
  model_.bias = bias_.data();
}

template <class T>
void PreparedGmm<T>::place_centers(const GmmParameters& p) {
  const std::int64_t d = p.n_features;
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
  std::vector<double>& log_const = exact_log_const_;
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
  for (std::int64_t k = 0; k < p.n_components; ++k)
    log_const_[k] = static_cast<T>((log_const[k] - model_.log_base) * kLog2E);
  const double total = std::accumulate(p.weights, p.weights + p.n_components, 0.0);
  for (std::int64_t k = 0; k < p.n_components; ++k)
    drop_below_[k] = static_cast<T>(kDropped<T> * p.weights[k] / total);
}

template <class T>
void PreparedGmm<T>::pack_full(const GmmParameters& p) {
  const std::int64_t d = p.n_features, padded = model_.padded_features;
  const std::int64_t tile = column_tile(d);
  for (std::int64_t k = 0; k < (p.covariance == Covariance::tied ? 1 : p.n_components); ++k) {
    T* out = factor_.data() + k * model_.factor_stride;
    for (std::int64_t i = 0; i < padded; i += tile)
      for (std::int64_t j = 0; j < i + tile; ++j)
        for (std::int64_t c = i; c < i + tile; ++c, ++out)
          if (j <= c && c < d) *out = static_cast<T>(kScale * factor_entry(p, k, j, c));
  }
  if (std::is_same_v<T, double>) return;  // nothing was rounded
  for (std::int64_t k = 0; k < p.n_components; ++k) {
    std::fill(exact_bias_.begin(), exact_bias_.end(), 0.0);
    for (std::int64_t j = 0; j < d; ++j)
      for (std::int64_t i = j; i < d; ++i)
        exact_bias_[i] += factor_entry(p, k, j, i) * residual(k)[j];
    for (std::int64_t i = 0; i < d; ++i)
      bias_[k * padded + i] = static_cast<T>(kScale * exact_bias_[i]);
  }
}

template <class T>
void PreparedGmm<T>::pack_diag(const GmmParameters& p) {
  constexpr std::int64_t tile = kTile;
  const std::int64_t d = p.n_features;
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
