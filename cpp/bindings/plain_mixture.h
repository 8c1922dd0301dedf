// A mixture and its rows as plain tensors, of one dtype and without batch dimensions.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "bindings/gmm_batch.h"
#include "bindings/plain_losses.h"

namespace elbokit::bindings {

class PlainMixture {
 public:
  // Nothing for what has to go the long way.
  static std::optional<PlainMixture> of(const py::handle& x, const py::handle& weights,
                                        const py::handle& means, const py::handle& factors,
                                        const py::handle& covariance_type) {
    if (!PyUnicode_Check(covariance_type.ptr())) return {};
    const char* const name = PyUnicode_AsUTF8(covariance_type.ptr());
    if (!name) {
      PyErr_Clear();
      return {};
    }
    const auto covariance = find_covariance(name);
    const auto rows = plain_tensor(x, true), w = plain_tensor(weights), m = plain_tensor(means),
               p = plain_tensor(factors);
    if (!covariance || !rows || !w || !m || !p || rows->dimensions != 2) return {};
    const std::int64_t k = w->size, d = rows->cols();
    const auto is = [&](const PlainTensor& tensor, std::initializer_list<std::int64_t> shape) {
      return tensor.kind == rows->kind &&
             std::equal(shape.begin(), shape.end(), tensor.shape, tensor.shape + tensor.dimensions);
    };
    const bool fit = *covariance == Covariance::full   ? is(*p, {k, d, d})
                     : *covariance == Covariance::tied ? is(*p, {d, d})
                     : *covariance == Covariance::diag ? is(*p, {k, d})
                                                       : is(*p, {k});
    if (!fit || !is(*w, {k}) || !is(*m, {k, d})) return {};
    return PlainMixture(*covariance, *rows, *w, *m, *p);
  }

  const PlainTensor& x() const { return x_; }
  const PlainTensor& weights() const { return weights_; }
  const PlainTensor& means() const { return means_; }
  const PlainTensor& factors() const { return factors_; }

  template <class T>
  GmmRows<T> rows() const {
    GmmRows<T> made{};
    made.n_samples = x_.rows;
    made.x = x_.matrix<T>();
    return made;
  }

  GmmParameters parameters() const {
    if (wide_.empty())
      return {covariance_,
              weights_.size,
              x_.cols(),
              static_cast<const double*>(weights_.data),
              static_cast<const double*>(means_.data),
              static_cast<const double*>(factors_.data)};
    const double* const means = wide_.data() + weights_.size;
    return {covariance_, weights_.size, x_.cols(), wide_.data(), means, means + means_.size};
  }

  // Of larger factors the rows lie so near their means that squares of float32 differences
  // underflow: gradients are then computed in double.
  static constexpr double kLargestPrecision = 0x1p50;
  bool squares_are_normal() const {
    const double* const p = parameters().precisions_cholesky;
    return x_.kind == TorchKind::kFloat64 ||
           std::all_of(p, p + factors_.size, [](double each) { return each <= kLargestPrecision; });
  }

 private:
  PlainMixture(Covariance covariance, const PlainTensor& x, const PlainTensor& weights,
               const PlainTensor& means, const PlainTensor& factors)
      : covariance_(covariance), x_(x), weights_(weights), means_(means), factors_(factors) {
    if (x.kind == TorchKind::kFloat64) return;
    wide_.reserve(weights.size + means.size + factors.size);
    for (const PlainTensor* tensor : {&weights_, &means_, &factors_}) {
      const auto* const data = static_cast<const float*>(tensor->data);
      wide_.insert(wide_.end(), data, data + tensor->size);
    }
  }

  Covariance covariance_;
  PlainTensor x_, weights_, means_, factors_;
  std::vector<double> wide_;  // the parameters, unless they are double
};

}  // namespace elbokit::bindings
