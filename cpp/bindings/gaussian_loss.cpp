#include "elbokit/gaussian_loss.h"

#include "bindings/bindings.h"
#include "bindings/loss_args.h"

namespace elbokit::bindings {

namespace {

py::tuple gaussian_loss(const py::object& mean, const py::object& target, const py::object& logvar,
                        const py::object& mask, const py::object& row_weight, double low,
                        double high, double target_scale, double scale, const py::object& row_out,
                        const py::object& grad_mean, const py::object& grad_logvar,
                        const py::object& row_grad_logvar, const py::object& col_grad_logvar) {
  const View view = view_of(mean, "mean", false);
  const GaussianLossTotals totals = with_computed_type(view, [&](auto value) {
    using T = decltype(value);
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
    args.row_loss = vector_of<T>(row_out, "row_out", args.rows);
    args.grad_mean = result(grad_mean, "grad_mean", args.rows, args.cols);
    args.grad_logvar = result(grad_logvar, "grad_logvar", args.rows, args.cols);
    args.row_grad_logvar = vector_of<T>(row_grad_logvar, "row_grad_logvar", args.rows);
    args.col_grad_logvar = matrix_of<double>(col_grad_logvar, "col_grad_logvar", 1, args.cols).data;
    args.scale = static_cast<T>(scale);
    const py::gil_scoped_release release;
    return cpu::gaussian_loss(args);
  });
  return py::make_tuple(totals.loss, totals.grad_logvar);
}

}  // namespace

void register_gaussian_loss(py::module_& m) {
  using namespace py::literals;
  m.def("gaussian_loss", &gaussian_loss, "mean"_a, "target"_a, "logvar"_a, "mask"_a, "row_weight"_a,
        "low"_a, "high"_a, "target_scale"_a, "scale"_a, "row_out"_a, "grad_mean"_a, "grad_logvar"_a,
        "row_grad_logvar"_a, "col_grad_logvar"_a);
}

}  // namespace elbokit::bindings
