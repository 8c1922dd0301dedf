#include "kernels/gaussian_loss.h"

#include "bindings/loss_args.h"
#include "loss_outputs.h"

namespace elbokit::cuda_bindings {

namespace {

void gaussian_loss(const py::tuple& queue, const py::object& mean, const py::object& target,
                   const py::object& logvar, const py::object& mask, const py::object& row_weight,
                   double low, double high, double target_scale, double scale,
                   const py::object& loss, const py::object& row_out, const py::object& grad_mean,
                   const py::object& grad_logvar, const py::object& total_grad_logvar,
                   const py::object& row_grad_logvar, const py::object& col_grad_logvar) {
  const View view = view_of(mean, "mean", false);
  with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    auto args = gaussian_loss_args<T>(view, mean, target, logvar, mask, row_weight, low, high,
                                      target_scale, scale);
    set_gaussian_loss_outputs<T>(args, row_out, grad_mean, grad_logvar, row_grad_logvar,
                                 col_grad_logvar);
    cuda::LossOutputs<T> outputs;
    outputs.scale = scale;
    outputs.loss = numbers<T>(loss, "loss", 1);
    outputs.grad_logvar = numbers<T>(total_grad_logvar, "total_grad_logvar", 1);
    cuda::gaussian_loss(queue_of(queue), args, outputs);
  });
}

}  // namespace

void register_gaussian_loss(py::module_& m) {
  using namespace py::literals;
  m.def("gaussian_loss_workspace", &cuda::gaussian_loss_workspace, "cols"_a, "by_column"_a);
  m.def("gaussian_loss", &gaussian_loss, "queue"_a, "mean"_a, "target"_a, "logvar"_a, "mask"_a,
        "row_weight"_a, "low"_a, "high"_a, "target_scale"_a, "scale"_a, "loss"_a, "row_out"_a,
        "grad_mean"_a, "grad_logvar"_a, "total_grad_logvar"_a, "row_grad_logvar"_a,
        "col_grad_logvar"_a);
}

}  // namespace elbokit::cuda_bindings
