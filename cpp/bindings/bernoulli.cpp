#include "elbokit/bernoulli.h"

#include "bindings/bindings.h"
#include "bindings/loss_args.h"

namespace elbokit::bindings {

namespace {

py::tuple bernoulli_loss(const py::object& logits, const py::object& target,
                         const py::object& weight, const py::object& pos_weight,
                         const py::object& mask, const py::object& row_weight, double target_scale,
                         double scale, const py::object& elementwise_out, const py::object& row_out,
                         const py::object& grad_out, bool count) {
  const View view = view_of(logits, "logits", false);
  const BernoulliTotals totals = with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    BernoulliArgs<T> args = bernoulli_args<T>(view, logits, target, target_scale, scale);
    args.weight = operand<T>(weight, "weight", args.rows, args.cols);
    args.pos_weight = operand<T>(pos_weight, "pos_weight", args.rows, args.cols);
    args.mask = operand<T>(mask, "mask", args.rows, args.cols);
    args.row_weight = vector_of<const T>(row_weight, "row_weight", args.rows);
    args.elementwise = matrix_of<T>(elementwise_out, "elementwise_out", args.rows, args.cols);
    args.row_loss = vector_of<T>(row_out, "row_out", args.rows);
    args.count = count;
    args.grad = result(grad_out, "grad_out", args.rows, args.cols);
    const py::gil_scoped_release release;
    return cpu::bernoulli_loss(args);
  });
  return py::make_tuple(totals.loss, totals.out_of_range);
}

}  // namespace

void register_bernoulli(py::module_& m) {
  using namespace py::literals;
  m.def("bernoulli_loss", &bernoulli_loss, "logits"_a, "target"_a, "weight"_a, "pos_weight"_a,
        "mask"_a, "row_weight"_a, "target_scale"_a, "scale"_a, "elementwise_out"_a, "row_out"_a,
        "grad_out"_a, "count"_a = false);
}

}  // namespace elbokit::bindings
