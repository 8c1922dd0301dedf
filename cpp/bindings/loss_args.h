// Arguments that the losses' bindings share.
#pragma once

#include "bindings/arrays.h"
#include "elbokit/bernoulli.h"
#include "elbokit/gaussian_kl.h"

namespace elbokit::bindings {

template <class T>
BernoulliArgs<T> bernoulli_args(const py::array& logits, const py::array& target, double scale) {
  expect_dimensions(logits, "logits", 2);
  BernoulliArgs<T> args{};
  args.rows = logits.shape(0);
  args.cols = logits.shape(1);
  args.logits = matrix<const T>(logits, "logits", args.rows, args.cols);
  args.target = matrix<const T>(target, "target", args.rows, args.cols);
  args.scale = static_cast<T>(scale);
  return args;
}

// Args: GaussianKlArgs or GaussianKlBackwardArgs.
template <class T, class Args>
Args kl_args(const py::array& mu, const py::array& logvar, const OptionalArray& prior_mu,
             const OptionalArray& prior_logvar, double free_bits) {
  expect_dimensions(mu, "mu", 2);
  if (prior_mu.has_value() != prior_logvar.has_value())
    throw py::value_error("`prior_mu` and `prior_logvar` go together; one of them is None");
  Args args{};
  args.rows = mu.shape(0);
  args.cols = mu.shape(1);
  args.mu = matrix<const T>(mu, "mu", args.rows, args.cols);
  args.logvar = matrix<const T>(logvar, "logvar", args.rows, args.cols);
  args.prior_mu = matrix<const T>(prior_mu, "prior_mu", args.rows, args.cols);
  args.prior_logvar = matrix<const T>(prior_logvar, "prior_logvar", args.rows, args.cols);
  args.free_bits = static_cast<T>(free_bits);
  return args;
}

}  // namespace elbokit::bindings
