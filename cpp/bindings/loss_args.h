// Arguments that the losses' bindings share.
#pragma once

#include "bindings/arrays.h"
#include "elbokit/bernoulli.h"
#include "elbokit/categorical.h"
#include "elbokit/gaussian_kl.h"
#include "elbokit/gaussian_kl_full.h"
#include "elbokit/gaussian_loss.h"

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

// All but means and log-variances. Args: GaussianKlArgs or GaussianKlBackwardArgs.
template <class T, class Args>
Args kl_args(const View& view, const py::handle& prior_mu, const py::handle& prior_logvar,
             double free_bits) {
  if (prior_mu.is_none() != prior_logvar.is_none())
    throw py::value_error("`prior_mu` and `prior_logvar` go together; one of them is None");
  Args args{};
  args.rows = view.rows;
  args.cols = view.cols;
  args.prior_mu = matrix_of<const T>(prior_mu, "prior_mu", args.rows, args.cols);
  args.prior_logvar = matrix_of<const T>(prior_logvar, "prior_logvar", args.rows, args.cols);
  args.free_bits = static_cast<T>(free_bits);
  return args;
}

template <class T>
GaussianKlArgs<T> kl_forward_args(const View& view, const py::handle& mu, const py::handle& logvar,
                                  const py::handle& prior_mu, const py::handle& prior_logvar,
                                  double free_bits) {
  auto args = kl_args<T, GaussianKlArgs<T>>(view, prior_mu, prior_logvar, free_bits);
  args.mu = operand<T>(mu, "mu", args.rows, args.cols);
  args.logvar = operand<T>(logvar, "logvar", args.rows, args.cols);
  return args;
}

template <class T>
GaussianKlBackwardArgs<T> kl_backward_args(const View& view, const py::handle& mu,
                                           const py::handle& logvar, const py::handle& prior_mu,
                                           const py::handle& prior_logvar, double free_bits) {
  auto args = kl_args<T, GaussianKlBackwardArgs<T>>(view, prior_mu, prior_logvar, free_bits);
  args.mu = matrix_of<const T>(mu, "mu", args.rows, args.cols);
  args.logvar = matrix_of<const T>(logvar, "logvar", args.rows, args.cols);
  return args;
}

// What the forward writes beside the terms.
template <class T>
void set_kl_outputs(GaussianKlArgs<T>& args, double scale, const py::handle& grad_mu,
                    const py::handle& grad_logvar, const py::handle& dimensions) {
  if (grad_mu.is_none() != grad_logvar.is_none())
    throw py::value_error("`grad_mu` and `grad_logvar` go together; one of them is None");
  args.grad_mu = result(grad_mu, "grad_mu", args.rows, args.cols);
  args.grad_logvar = result(grad_logvar, "grad_logvar", args.rows, args.cols);
  args.scale = static_cast<T>(scale);
  const Matrix<double> sums = matrix_of<double>(dimensions, "dimensions", 3, args.cols);
  if (sums && sums.row_stride != args.cols)
    throw py::value_error("`dimensions` is not C-contiguous");
  args.dimensions = sums.data;
}

// For the CPU's kernels, once all is set.
template <class T>
void expect_computed_type(const GaussianKlArgs<T>& args) {
  const auto expect = [](const auto& array, const char* name) {
    if (array && array.element != kElement<T>)
      throw py::type_error("`" + std::string(name) + "` has another dtype, expected " +
                           std::string(py::str(py::dtype::of<T>())));
  };
  expect(args.mu, "mu");
  expect(args.logvar, "logvar");
  expect(args.grad_mu, "grad_mu");
  expect(args.grad_logvar, "grad_logvar");
}

inline std::int64_t divided(std::int64_t whole, std::int64_t by, const char* what) {
  if (by <= 0 || whole % by != 0)
    throw py::value_error("`" + std::string(what) + "` is " + std::to_string(by) +
                          ", expected a divisor of " + std::to_string(whole));
  return whole / by;
}

// All but the targets and their mask.
template <class T>
CategoricalArgs<T> categorical_args(const View& view, const py::handle& logits,
                                    const py::handle& weight, std::int64_t n_samples,
                                    std::int64_t n_classes, double scale,
                                    const py::handle& sample_out, const py::handle& grad_out) {
  CategoricalArgs<T> args{};
  args.rows = view.rows;
  args.classes = n_classes;
  args.inner = divided(view.cols, n_classes, "n_classes");
  args.rows_per_sample = divided(view.rows, n_samples, "n_samples");
  args.logits = operand<T>(logits, "logits", args.rows, view.cols);
  if (args.logits.col_stride != 1) throw py::value_error("`logits` has repeated columns");
  args.weight = vector_of<const T>(weight, "weight", n_samples);
  args.sample_loss = vector_of<T>(sample_out, "sample_out", n_samples);
  args.grad = result(grad_out, "grad_out", args.rows, view.cols);
  args.scale = static_cast<T>(scale);
  return args;
}

template <class T>
GaussianKlFullArgs<T> kl_full_args(const View& view, const py::handle& mu,
                                   const py::handle& scale_tril, const py::handle& row_weight,
                                   double scale, const py::handle& row_out,
                                   const py::handle& grad_mu, const py::handle& grad_scale_tril) {
  if (grad_mu.is_none() != grad_scale_tril.is_none())
    throw py::value_error("`grad_mu` and `grad_scale_tril` go together; one of them is None");
  const std::int64_t rows = view.rows, dims = view.cols;
  GaussianKlFullArgs<T> args{};
  args.rows = rows;
  args.dims = dims;
  args.mu = matrix_of<const T>(mu, "mu", rows, dims);
  args.scale_tril = matrix_of<const T>(scale_tril, "scale_tril", rows, dims * dims);
  if (args.scale_tril.col_stride != 1)
    throw py::value_error("`scale_tril` has repeated columns, expected contiguous ones");
  args.row_weight = vector_of<const T>(row_weight, "row_weight", rows);
  args.row_kl = vector_of<T>(row_out, "row_out", rows);
  args.grad_mu = matrix_of<T>(grad_mu, "grad_mu", rows, dims);
  args.grad_scale = matrix_of<T>(grad_scale_tril, "grad_scale_tril", rows, dims * dims);
  args.scale = static_cast<T>(scale);
  return args;
}

// The operands; the outputs are the caller's.
template <class T>
GaussianLossArgs<T> gaussian_loss_args(const View& view, const py::handle& mean,
                                       const py::handle& target, const py::handle& logvar,
                                       const py::handle& mask, const py::handle& row_weight,
                                       double low, double high, double target_scale, double scale) {
  GaussianLossArgs<T> args{};
  args.rows = view.rows;
  args.cols = view.cols;
  args.mean = operand<T>(mean, "mean", args.rows, args.cols);
  args.target = operand<T>(target, "target", args.rows, args.cols);
  args.target_scale = static_cast<T>(target_scale);
  args.logvar = operand<T>(logvar, "logvar", args.rows, args.cols);
  args.low = static_cast<T>(low);
  args.high = static_cast<T>(high);
  args.mask = operand<T>(mask, "mask", args.rows, args.cols);
  args.row_weight = vector_of<const T>(row_weight, "row_weight", args.rows);
  args.scale = static_cast<T>(scale);
  return args;
}

template <class T>
void set_gaussian_loss_outputs(GaussianLossArgs<T>& args, const py::handle& row_out,
                               const py::handle& grad_mean, const py::handle& grad_logvar,
                               const py::handle& row_grad_logvar,
                               const py::handle& col_grad_logvar) {
  args.row_loss = vector_of<T>(row_out, "row_out", args.rows);
  args.grad_mean = result(grad_mean, "grad_mean", args.rows, args.cols);
  args.grad_logvar = result(grad_logvar, "grad_logvar", args.rows, args.cols);
  args.row_grad_logvar = vector_of<T>(row_grad_logvar, "row_grad_logvar", args.rows);
  args.col_grad_logvar = matrix_of<double>(col_grad_logvar, "col_grad_logvar", 1, args.cols).data;
}

}  // namespace elbokit::bindings
