#include "elbokit/gaussian_kl_full.h"

#include "bindings/bindings.h"
#include "bindings/loss_args.h"

namespace elbokit::bindings {

namespace {

py::tuple gaussian_kl_full(const py::object& mu, const py::object& scale_tril,
                           const py::object& row_weight, double scale, const py::object& row_out,
                           const py::object& grad_mu, const py::object& grad_scale_tril) {
  const View view = view_of(mu, "mu", false);
  const KlFullTotals totals = with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    const auto args =
        kl_full_args<T>(view, mu, scale_tril, row_weight, scale, row_out, grad_mu, grad_scale_tril);
    const py::gil_scoped_release release;
    return cpu::gaussian_kl_full(args);
  });
  return py::make_tuple(totals.kl, totals.not_positive);
}

}  // namespace

void register_gaussian_kl_full(py::module_& m) {
  using namespace py::literals;
  m.def("gaussian_kl_full", &gaussian_kl_full, "mu"_a, "scale_tril"_a, "row_weight"_a, "scale"_a,
        "row_out"_a, "grad_mu"_a, "grad_scale_tril"_a);
}

}  // namespace elbokit::bindings
