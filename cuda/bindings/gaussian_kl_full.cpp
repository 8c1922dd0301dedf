#include "kernels/gaussian_kl_full.h"

#include "bindings/loss_args.h"
#include "loss_outputs.h"

namespace elbokit::cuda_bindings {

namespace {

void gaussian_kl_full(const py::tuple& queue, const py::object& mu, const py::object& scale_tril,
                      const py::object& row_weight, double scale, const py::object& kl,
                      const py::object& row_out, const py::object& grad_mu,
                      const py::object& grad_scale_tril) {
  const View view = view_of(mu, "mu", false);
  with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    const auto args =
        kl_full_args<T>(view, mu, scale_tril, row_weight, scale, row_out, grad_mu, grad_scale_tril);
    cuda::LossOutputs<T> outputs;
    outputs.scale = scale;
    outputs.kl = numbers<T>(kl, "kl", 1);
    cuda::gaussian_kl_full(queue_of(queue), args, outputs);
  });
}

}  // namespace

void register_gaussian_kl_full(py::module_& m) {
  using namespace py::literals;
  m.def("gaussian_kl_full", &gaussian_kl_full, "queue"_a, "mu"_a, "scale_tril"_a, "row_weight"_a,
        "scale"_a, "kl"_a, "row_out"_a, "grad_mu"_a, "grad_scale_tril"_a);
}

}  // namespace elbokit::cuda_bindings
