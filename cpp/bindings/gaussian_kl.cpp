#include "elbokit/gaussian_kl.h"

#include "bindings/bindings.h"
#include "bindings/loss_args.h"

namespace elbokit::bindings {

namespace {

py::tuple gaussian_kl(const py::array& mu, const py::array& logvar, const OptionalArray& prior_mu,
                      const OptionalArray& prior_logvar, double free_bits,
                      const OptionalArray& row_out, const OptionalArray& charged_out) {
  const KlTotals totals = with_value_type(mu, "mu", [&](auto value) {
    using T = decltype(value);
    auto args = kl_args<T, GaussianKlArgs<T>>(mu, logvar, prior_mu, prior_logvar, free_bits);
    args.row_kl = vector<T>(row_out, "row_out", args.rows);
    args.row_charged = vector<T>(charged_out, "charged_out", args.rows);
    const py::gil_scoped_release release;
    return cpu::gaussian_kl(args);
  });
  return py::make_tuple(totals.kl, totals.charged);
}

void gaussian_kl_backward(const py::array& mu, const py::array& logvar,
                          const OptionalArray& prior_mu, const OptionalArray& prior_logvar,
                          double free_bits, const py::array& factor,
                          const py::array& charged_factor, const py::array& grad_mu,
                          const py::array& grad_logvar, const OptionalArray& grad_prior_mu,
                          const OptionalArray& grad_prior_logvar) {
  with_value_type(mu, "mu", [&](auto value) {
    using T = decltype(value);
    auto args =
        kl_args<T, GaussianKlBackwardArgs<T>>(mu, logvar, prior_mu, prior_logvar, free_bits);
    const auto output = [&](const auto& a, const char* name) {
      return matrix<T>(a, name, args.rows, args.cols);
    };
    args.factor = vector<const T>(factor, "factor", args.rows);
    args.charged_factor = vector<const T>(charged_factor, "charged_factor", args.rows);
    args.grad_mu = output(grad_mu, "grad_mu");
    args.grad_logvar = output(grad_logvar, "grad_logvar");
    args.grad_prior_mu = output(grad_prior_mu, "grad_prior_mu");
    args.grad_prior_logvar = output(grad_prior_logvar, "grad_prior_logvar");
    const py::gil_scoped_release release;
    cpu::gaussian_kl_backward(args);
  });
}

}  // namespace

void register_gaussian_kl(py::module_& m) {
  using namespace py::literals;
  m.def("gaussian_kl", &gaussian_kl, "mu"_a, "logvar"_a, "prior_mu"_a, "prior_logvar"_a,
        "free_bits"_a, "row_out"_a, "charged_out"_a);
  m.def("gaussian_kl_backward", &gaussian_kl_backward, "mu"_a, "logvar"_a, "prior_mu"_a,
        "prior_logvar"_a, "free_bits"_a, "factor"_a, "charged_factor"_a, "grad_mu"_a,
        "grad_logvar"_a, "grad_prior_mu"_a, "grad_prior_logvar"_a);
}

}  // namespace elbokit::bindings
