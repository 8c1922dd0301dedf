// A batch of mixtures of one shape, as NumPy arrays.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "elbokit/gmm.h"

namespace elbokit::bindings {

inline std::optional<Covariance> find_covariance(const std::string& name) {
  static const std::map<std::string, Covariance> types{{"full", Covariance::full},
                                                       {"tied", Covariance::tied},
                                                       {"diag", Covariance::diag},
                                                       {"spherical", Covariance::spherical}};
  const auto found = types.find(name);
  return found == types.end() ? std::nullopt : std::optional(found->second);
}

inline Covariance covariance_of(const std::string& name) {
  const auto found = find_covariance(name);
  if (!found)
    throw py::value_error("`covariance_type` is '" + name +
                          "', expected 'full', 'tied', 'diag' or 'spherical'");
  return *found;
}

struct BatchShape {
  py::ssize_t size, k, d;
  Covariance covariance;

  // Of the covariances' shape, one mixture.
  py::ssize_t second_size() const { return covariance_size(covariance, k, d); }

  template <class T>
  T* second(const py::array& a, const char* name) const {
    switch (covariance) {
      case Covariance::full:
        return contiguous<T>(a, name, {size, k, d, d});
      case Covariance::tied:
        return contiguous<T>(a, name, {size, d, d});
      case Covariance::diag:
        return contiguous<T>(a, name, {size, k, d});
      default:
        return contiguous<T>(a, name, {size, k});
    }
  }
};

// A batch of mixtures: X (B, N, D), weights (B, K), means (B, K, D), and per mixture what the
// covariance type says.
struct Batch : BatchShape {
  py::ssize_t n = 0;

  Batch(const py::array& X, const py::array& weights, const std::string& covariance_type)
      : BatchShape{0, 0, 0, covariance_of(covariance_type)} {
    expect_dimensions(X, "X", 3);
    expect_dimensions(weights, "weights", 2);
    size = X.shape(0), n = X.shape(1), d = X.shape(2), k = weights.shape(1);
    for (const auto& [name, value] : {std::pair{"samples", n}, {"features", d}})
      if (value == 0)
        throw py::value_error("`X` has 0 " + std::string(name) + ", expected at least 1");
    if (k == 0) throw py::value_error("`weights` has 0 components, expected at least 1");
  }

  std::vector<GmmParameters> parameters(const py::array& weights, const py::array& means,
                                        const py::array& precisions_cholesky) const {
    const double* const w = contiguous<const double>(weights, "weights", {size, k});
    const double* const m = contiguous<const double>(means, "means", {size, k, d});
    const double* const p = second<const double>(precisions_cholesky, "precisions_cholesky");
    std::vector<GmmParameters> all;
    for (py::ssize_t b = 0; b < size; ++b)
      all.push_back({covariance, k, d, w + b * k, m + b * k * d, p + b * second_size()});
    return all;
  }

  template <class T>
  std::vector<GmmRows<T>> rows(const py::array& X, const OptionalArray& sample_weight) const {
    expect<T>(X, "X", {size, n, d});
    if (sample_weight) expect<T>(*sample_weight, "sample_weight", {size, n});
    std::vector<GmmRows<T>> all;
    for (py::ssize_t b = 0; b < size; ++b) {
      GmmRows<T> rows{};
      rows.n_samples = n;
      rows.x = {pointer<const T>(X, "X") + b * stride<T>(X, 0), stride<T>(X, 1), stride<T>(X, 2)};
      if (d == 1) rows.x.col_stride = 1;
      if (sample_weight)
        rows.sample_weight = {
            pointer<const T>(*sample_weight, "sample_weight") + b * stride<T>(*sample_weight, 0),
            stride<T>(*sample_weight, 1)};
      all.push_back(rows);
    }
    return all;
  }
};

}  // namespace elbokit::bindings
