#include "elbokit/gaussian_kl_full.h"

#include "bindings/bindings.h"
#include "bindings/loss_args.h"

namespace elbokit::bindings {

namespace {

py::tuple gaussian_kl_full(const py::object& mu, const py::object& scale_tril,
                           const py::object& row_weight, double scale, const py::object& row_out,
                           const py::object& grad_mu, const py::object& grad_scale_tril) {
  if (grad_mu.is_none() != grad_scale_tril.is_none())
    throw py::value_error("`grad_mu` and `grad_scale_tril` go together; one of them is None");
  const View view = view_of(mu, "mu", false);
  const KlFullTotals totals = with_computed_type(view, [&](auto value) {
    using T = decltype(value);
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
