// Rows and mixtures as the bindings of the mixtures' kernels take them.
#pragma once

#include "bindings.h"
#include "bindings/gmm_batch.h"
#include "kernels/gmm.h"

namespace elbokit::cuda_bindings {

// X comes as (address, element, n_mixtures, n_samples, n_features, mixture stride, row stride,
// owner), everything else as an address of contiguous doubles, 0 for none.
template <class T>
T* address(std::uintptr_t given) {
  return reinterpret_cast<T*>(given);
}

inline cuda::GmmData data_of(const py::tuple& x, std::uintptr_t sample_weight) {
  if (x.size() != 8) throw py::value_error("`X` is not a description of rows");
  cuda::GmmData data{};
  data.x = address<const void>(x[0].cast<std::uintptr_t>());
  data.element = static_cast<Element>(x[1].cast<int>());
  data.n_mixtures = x[2].cast<std::int64_t>();
  data.n_samples = x[3].cast<std::int64_t>();
  data.n_features = x[4].cast<std::int64_t>();
  data.mixture_stride = x[5].cast<std::ptrdiff_t>();
  data.row_stride = x[6].cast<std::ptrdiff_t>();
  data.sample_weight = address<const double>(sample_weight);
  return data;
}

using Parameters = std::tuple<std::string, std::int64_t, std::uintptr_t, std::uintptr_t,
                              std::uintptr_t>;  // type, components, weights, means, factors

inline cuda::GmmMixtures mixtures_of(const Parameters& given) {
  const auto& [covariance, components, weights, means, factors] = given;
  return {covariance_of(covariance), components, address<const double>(weights),
          address<const double>(means), address<const double>(factors)};
}

}  // namespace elbokit::cuda_bindings
