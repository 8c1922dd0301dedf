// Losses of plain tensors from beginning to end, in one call: what they are given is read, what
// they make is made. Where anything more is asked for they return None, and the caller goes the
// long way, which also has the errors.
#pragma once

#include <cmath>

#include "bindings/plain_tensors.h"
#include "elbokit/bernoulli.h"
#include "elbokit/gaussian_kl.h"

namespace elbokit::bindings {

// The factor from the sum of a loss to what is asked for; nothing where that is no single number.
inline std::optional<double> plain_scale(const py::handle& reduction, const PlainTensor& operand) {
  const auto is = [&](const char* name) {
    return PyUnicode_Check(reduction.ptr()) &&
           PyUnicode_CompareWithASCIIString(reduction.ptr(), name) == 0;
  };
  if (is("sum")) return 1.0;
  if (is("batchmean")) return 1.0 / static_cast<double>(operand.rows);
  if (is("mean")) return 1.0 / static_cast<double>(operand.size);
  return {};
}

// A number that is finite and not negative; anything else has to be looked at.
inline std::optional<double> plain_factor(const py::handle& given) {
  if (!PyFloat_CheckExact(given.ptr()) && !PyLong_CheckExact(given.ptr())) return {};
  const double value = PyFloat_AsDouble(given.ptr());
  if (PyErr_Occurred()) PyErr_Clear();  // an integer of more than 300 digits: -1
  return value >= 0 && std::isfinite(value) ? std::optional(value) : std::nullopt;
}

// Calls f(T{}) with the type of the operands.
template <class F>
void with_plain_type(const PlainTensor& operand, F&& f) {
  operand.element() == Element::kFloat32 ? f(float{}) : f(double{});
}

// A gradient that may not be asked for.
class PlainGradient {
 public:
  PlainGradient() = default;
  PlainGradient(bool wanted, const py::handle& like, const PlainTensor& operand)
      : element_(operand.element()), cols_(operand.cols()) {
    if (wanted) made_ = gradient_like(like, operand);
  }

  const py::object& tensor() const { return made_.tensor; }
  Result result() const { return {made_.data, element_, cols_}; }

 private:
  NewTensor made_{py::none(), nullptr};
  Element element_ = Element::kFloat32;
  std::ptrdiff_t cols_ = 0;
};

template <class T>
BernoulliArgs<T> plain_bernoulli_args(const PlainTensor& logits, const PlainTensor& target,
                                      double scale, const PlainGradient& grad) {
  BernoulliArgs<T> args{};
  args.rows = logits.rows;
  args.cols = logits.cols();
  args.logits = logits.operand();
  args.target = target.operand();
  args.target_scale = 1;
  args.scale = static_cast<T>(scale);
  args.grad = grad.result();
  return args;
}

template <class T>
GaussianKlArgs<T> plain_kl_args(const PlainTensor& mu, const PlainTensor& logvar, double free_bits,
                                double scale, const PlainGradient& grad_mu,
                                const PlainGradient& grad_logvar) {
  GaussianKlArgs<T> args{};
  args.rows = mu.rows;
  args.cols = mu.cols();
  args.mu = mu.operand();
  args.logvar = logvar.operand();
  args.free_bits = static_cast<T>(free_bits);
  args.scale = static_cast<T>(scale);
  args.grad_mu = grad_mu.result();
  args.grad_logvar = grad_logvar.result();
  return args;
}

template <class... Gradients>
py::object gradients_or_none(bool wanted, const Gradients&... gradients) {
  return wanted ? py::object(py::make_tuple(gradients.tensor()...)) : py::object(py::none());
}

}  // namespace elbokit::bindings
