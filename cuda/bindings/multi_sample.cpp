#include "kernels/multi_sample.h"

#include "bindings/multi_sample_args.h"
#include "loss_outputs.h"

namespace elbokit::cuda_bindings {

namespace {

void multi_sample(const py::tuple& queue, const py::object& logits, const py::object& target,
                  const py::object& mask, const py::object& row_weight, double target_scale,
                  const py::object& mu, const py::object& logvar, const py::object& z,
                  bool importance, double scale, const py::object& loss, const py::object& row_out,
                  const py::object& grad_logits, const py::object& grad_mu,
                  const py::object& grad_logvar, const py::object& grad_z) {
  const auto run = [&](const auto& args) {
    using T = std::remove_const_t<decltype(args.scale)>;
    cuda::LossOutputs<T> outputs;
    outputs.scale = scale;
    outputs.loss = numbers<T>(loss, "loss", 1);
    cuda::multi_sample(queue_of(queue), args, outputs);
  };
  with_multi_sample_args(logits, target, mask, row_weight, target_scale, mu, logvar, z, importance,
                         scale, row_out, grad_logits, grad_mu, grad_logvar, grad_z, run);
}

}  // namespace

void register_multi_sample(py::module_& m) {
  using namespace py::literals;
  m.def("multi_sample_workspace", &cuda::multi_sample_workspace, "samples"_a, "rows"_a);
  m.def("multi_sample", &multi_sample, "queue"_a, "logits"_a, "target"_a, "mask"_a, "row_weight"_a,
        "target_scale"_a, "mu"_a, "logvar"_a, "z"_a, "importance"_a, "scale"_a, "loss"_a,
        "row_out"_a, "grad_logits"_a, "grad_mu"_a, "grad_logvar"_a, "grad_z"_a);
}

}  // namespace elbokit::cuda_bindings
