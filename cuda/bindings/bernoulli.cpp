#include "kernels/bernoulli.h"

#include "bindings/loss_args.h"
#include "loss_outputs.h"

namespace elbokit::cuda_bindings {

namespace {

void bernoulli_loss(const py::tuple& queue, const py::object& logits, const py::object& target,
                    const py::object& weight, const py::object& pos_weight, const py::object& mask,
                    const py::object& row_weight, double target_scale, double scale,
                    const py::object& loss, const py::object& elementwise,
                    const py::object& row_loss, const py::object& grad) {
  const View view = view_of(logits, "logits", false);
  with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    BernoulliArgs<T> args = bernoulli_args<T>(view, logits, target, target_scale, scale);
    args.weight = operand<T>(weight, "weight", args.rows, args.cols);
    args.pos_weight = operand<T>(pos_weight, "pos_weight", args.rows, args.cols);
    args.mask = operand<T>(mask, "mask", args.rows, args.cols);
    args.row_weight = vector_of<const T>(row_weight, "row_weight", args.rows);
    args.elementwise = matrix_of<T>(elementwise, "elementwise", args.rows, args.cols);
    args.row_loss = vector_of<T>(row_loss, "row_loss", args.rows);
    args.grad = result(grad, "grad", args.rows, args.cols);
    cuda::LossOutputs<T> outputs;
    outputs.scale = scale;
    outputs.loss = numbers<T>(loss, "loss", 1);
    cuda::bernoulli_loss(queue_of(queue), args, outputs);
  });
}

}  // namespace

void register_bernoulli(py::module_& m) {
  using namespace py::literals;
  m.attr("loss_workspace") = cuda::loss_workspace();
  m.def("bernoulli_loss", &bernoulli_loss, "queue"_a, "logits"_a, "target"_a, "weight"_a,
        "pos_weight"_a, "mask"_a, "row_weight"_a, "target_scale"_a, "scale"_a, "loss"_a,
        "elementwise"_a, "row_loss"_a, "grad"_a);
}

}  // namespace elbokit::cuda_bindings
