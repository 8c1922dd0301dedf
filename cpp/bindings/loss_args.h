// Arguments that the losses' bindings share.
#pragma once

#include "bindings/arrays.h"
#include "elbokit/bernoulli.h"
#include "elbokit/gaussian_kl.h"

namespace elbokit::bindings {

// Calls f(T{}) with the type to compute in: that of the operand, or float if it is narrower.
template <class F>
auto with_computed_type(const View& view, F&& f) {
  return view.element == Element::kFloat64 ? f(double{}) : f(float{});
}

template <class T>
BernoulliArgs<T> bernoulli_args(const View& view, const py::handle& logits,
                                const py::handle& target, double target_scale, double scale) {
  BernoulliArgs<T> args{};
  args.rows = view.rows;
  args.cols = view.cols;
  args.logits = operand<T>(logits, "logits", args.rows, args.cols);
  args.target = operand<T>(target, "target", args.rows, args.cols);
  args.target_scale = static_cast<T>(target_scale);
  args.scale = static_cast<T>(scale);
  return args;
}

// Args: GaussianKlArgs or GaussianKlBackwardArgs.
template <class T, class Args>
Args kl_args(const View& view, const py::handle& mu, const py::handle& logvar,
             const py::handle& prior_mu, const py::handle& prior_logvar, double free_bits) {
  if (prior_mu.is_none() != prior_logvar.is_none())
    throw py::value_error("`prior_mu` and `prior_logvar` go together; one of them is None");
  Args args{};
  args.rows = view.rows;
  args.cols = view.cols;
  args.mu = matrix_of<const T>(mu, "mu", args.rows, args.cols);
  args.logvar = matrix_of<const T>(logvar, "logvar", args.rows, args.cols);
  args.prior_mu = matrix_of<const T>(prior_mu, "prior_mu", args.rows, args.cols);
  args.prior_logvar = matrix_of<const T>(prior_logvar, "prior_logvar", args.rows, args.cols);
  args.free_bits = static_cast<T>(free_bits);
  return args;
}

// What the forward writes beside the terms.
template <class T>
void set_kl_outputs(GaussianKlArgs<T>& args, double scale, const py::handle& grad_mu,
                    const py::handle& grad_logvar, const py::handle& dimensions) {
  if (grad_mu.is_none() != grad_logvar.is_none())
    throw py::value_error("`grad_mu` and `grad_logvar` go together; one of them is None");
  args.grad_mu = matrix_of<T>(grad_mu, "grad_mu", args.rows, args.cols);
  args.grad_logvar = matrix_of<T>(grad_logvar, "grad_logvar", args.rows, args.cols);
  args.scale = static_cast<T>(scale);
  const Matrix<double> sums = matrix_of<double>(dimensions, "dimensions", 3, args.cols);
  if (sums && sums.row_stride != args.cols)
    throw py::value_error("`dimensions` is not C-contiguous");
  args.dimensions = sums.data;
}

}  // namespace elbokit::bindings
