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
void PreparedGmm<T>::assign(const GmmParameters& p, bool share_center) {
  set_shape(p);
  place_centers(p, share_center);
  set_log_constants(p);
  switch (model_.family) {
    case Family::full:
      return pack_full(p);
    case Family::diag:
      return pack_diag(p);
    case Family::tied:
      return pack_tied(p);
  }
}

template <class T>
Family PreparedGmm<T>::family_of(const GmmParameters& p) {
  switch (p.covariance) {
    case Covariance::full:
      return Family::full;
    case Covariance::tied:
      return whitening_pays(p) ? Family::tied : Family::full;
    default:
      return Family::diag;
  }
}

// Whether whitening the rows once costs less than each component's own triangle, and loses nothing:
// the whitened coordinates are rounded relative to their distance from the pivot.
template <class T>
bool PreparedGmm<T>::whitening_pays(const GmmParameters& p) {
  constexpr double most_spread = sizeof(T) == 4 ? 16 : 1e4;  // standard deviations
  const auto d = static_cast<double>(p.n_features), k = static_cast<double>(p.n_components);
  if (p.n_features <= kSmallFeatures || d * d + 5 * k * d + k * k / 2 > 0.9 * k * (d * d + 3 * d))
    return false;
  place_pivot(p);
  for (std::int64_t c = 0; c < p.n_components; ++c) {
    std::fill(exact_bias_.begin(), exact_bias_.end(), 0.0);
    for (std::int64_t j = 0; j < p.n_features; ++j) {
      const double offset = p.means[c * p.n_features + j] - static_cast<double>(pivot_[j]);
      for (std::int64_t i = j; i < p.n_features; ++i)
        exact_bias_[i] += std::fabs(factor_entry(p, c, j, i) * offset);
    }
    if (*std::max_element(exact_bias_.begin(), exact_bias_.end()) > most_spread) return false;
  }
  return true;
}

// Whether moments about the pivot, and products with what lies between it and the means, lose no
// more than a few roundings.
template <class T>
bool PreparedGmm<T>::all_near(const GmmParameters& p) {
  constexpr double near = sizeof(T) == 4 ? 2 : 64;  // standard deviations
  if (p.n_components == 1) return false;
  place_pivot(p);
  for (std::int64_t k = 0; k < p.n_components; ++k)
    for (std::int64_t j = 0; j < p.n_features; ++j) {
      const double offset = p.means[k * p.n_features + j] - static_cast<double>(pivot_[j]);
      if (!(std::fabs(offset) * diagonal_entry(p, k, j) <= near)) return false;
    }
  return true;
}

// The pivot: the mean of the mixture, rounded.
template <class T>
void PreparedGmm<T>::place_pivot(const GmmParameters& p) {
  const double total = std::accumulate(p.weights, p.weights + p.n_components, 0.0);
  const auto share = [&](std::int64_t k) {
    return total == 0.0 ? 1.0 / static_cast<double>(p.n_components) : p.weights[k] / total;
  };
  exact_bias_.resize(p.n_features);
  pivot_.assign(whole_tiles(p.n_features), T(0));
  for (std::int64_t j = 0; j < p.n_features; ++j) {
    double mean = 0.0;
    for (std::int64_t k = 0; k < p.n_components; ++k)
      mean += share(k) * p.means[k * p.n_features + j];
    pivot_[j] = static_cast<T>(mean);
  }
}

template <class T>
void PreparedGmm<T>::set_shape(const GmmParameters& p) {
  const Family family = family_of(p);
  const bool shared = family == Family::full && p.covariance == Covariance::tied;
  const std::int64_t d = p.n_features, k = p.n_components;
  if (model_.n_components == k && model_.n_features == d && model_.family == family &&
      shared == (family == Family::full && model_.factor_stride == 0))
    return;
  model_.family = family;
  model_.n_features = d;
  model_.n_components = k;
  model_.padded_features = family != Family::diag && column_tile(d) > 1 ? whole_tiles(d) : d;
  model_.padded_components = whole_tiles(k);
  center_.assign(model_.padded_components * model_.padded_features, T(0));
  residual_.resize(k * d);
  exact_log_const_.resize(k);
  drop_below_.resize(k);
  exact_bias_.resize(d);
  log_const_.assign(model_.padded_components, -std::numeric_limits<T>::infinity());
  const std::int64_t triangle = packed_triangle_size();
  const std::int64_t factors = shared ? 1 : k;
  if (family == Family::full) {
    model_.factor_stride = shared ? 0 : triangle;
    factor_.assign(factors * triangle, T(0));
    bias_.assign(k * model_.padded_features, T(0));
  } else {
    model_.factor_stride = d * 3 * kTile;
    factor_.assign(model_.padded_components / kTile * model_.factor_stride, T(0));
    const bool tied = family == Family::tied;
    bias_.assign(tied ? model_.padded_features : 0, T(0));
    whitener_.assign(tied ? triangle : 0, T(0));
    offset_.assign(tied ? k * model_.padded_features : 0, T(0));
  }
  model_.pivot = pivot_.data();
  model_.whitener = whitener_.data();
  model_.offset = offset_.data();
  model_.center = center_.data();
  model_.log_const = log_const_.data();
  model_.drop_below = drop_below_.data();
  model_.factor = factor_.data();
  model_.bias = bias_.data();
}

template <class T>
std::int64_t PreparedGmm<T>::packed_triangle_size() const {
  const std::int64_t tile = column_tile(model_.n_features);
  std::int64_t size = 0;
  for (std::int64_t i = 0; i < model_.padded_features; i += tile) size += (i + tile) * tile;
  return size;
}

template <class T>
void PreparedGmm<T>::place_centers(const GmmParameters& p, bool share_center) {
  const std::int64_t d = p.n_features;
  model_.one_center = share_center && model_.family != Family::full && all_near(p);
  for (std::int64_t k = 0; k < p.n_components; ++k)
    for (std::int64_t j = 0; j < d; ++j) {
      const double mean = p.means[k * d + j];
      T& center = center_[k * model_.padded_features + j];
      center = model_.one_center ? pivot_[j] : static_cast<T>(mean);
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
  if (model_.log_base == -std::numeric_limits<double>::infinity())
    model_.log_base = 0.0;  // all are
  for (std::int64_t k = 0; k < p.n_components; ++k)
    log_const_[k] = static_cast<T>((log_const[k] - model_.log_base) * kLog2E);
  const double total = std::accumulate(p.weights, p.weights + p.n_components, 0.0);
  for (std::int64_t k = 0; k < p.n_components; ++k)
    drop_below_[k] = static_cast<T>(kDropped<T> * p.weights[k] / total);
}

// Component k's factor, down to the diagonal, tile by tile of its columns.
template <class T>
void PreparedGmm<T>::pack_triangle(const GmmParameters& p, std::int64_t k, T* out) const {
  const std::int64_t d = p.n_features, tile = column_tile(d);
  for (std::int64_t i = 0; i < model_.padded_features; i += tile)
    for (std::int64_t j = 0; j < i + tile; ++j)
      for (std::int64_t c = i; c < i + tile; ++c, ++out)
        if (j <= c && c < d) *out = static_cast<T>(kScale * factor_entry(p, k, j, c));
}

template <class T>
void PreparedGmm<T>::pack_full(const GmmParameters& p) {
  const std::int64_t d = p.n_features, padded = model_.padded_features;
  for (std::int64_t k = 0; k < (p.covariance == Covariance::tied ? 1 : p.n_components); ++k)
    pack_triangle(p, k, factor_.data() + k * model_.factor_stride);
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

// The components in whitened coordinates, as pack_diag packs them.
template <class T>
void PreparedGmm<T>::pack_tied(const GmmParameters& p) {
  constexpr std::int64_t tile = kTile;
  const std::int64_t d = p.n_features;
  pack_triangle(p, 0, whitener_.data());
  for (std::int64_t k = 0; k < p.n_components; ++k) {
    std::fill(exact_bias_.begin(), exact_bias_.end(), 0.0);
    for (std::int64_t j = 0; j < d; ++j) {
      const double offset = p.means[k * d + j] - static_cast<double>(pivot_[j]);
      offset_[k * model_.padded_features + j] = static_cast<T>(offset);
      for (std::int64_t i = j; i < d; ++i)
        exact_bias_[i] += kScale * factor_entry(p, k, j, i) * offset;
    }
    for (std::int64_t j = 0; j < d; ++j) {
      T* const out = factor_.data() + (k / tile) * model_.factor_stride + j * 3 * tile + k % tile;
      out[0] = static_cast<T>(exact_bias_[j]);
      out[tile] = T(1);
      out[2 * tile] = static_cast<T>(exact_bias_[j] - static_cast<double>(out[0]));
    }
  }
}

template class PreparedGmm<float>;
template class PreparedGmm<double>;

}  // namespace elbokit::cpu
