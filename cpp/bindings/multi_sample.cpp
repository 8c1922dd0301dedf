#include "elbokit/multi_sample.h"

#include "bindings/bindings.h"
#include "bindings/multi_sample_args.h"

namespace elbokit::bindings {

namespace {

double multi_sample(const py::object& logits, const py::object& target, const py::object& mask,
                    const py::object& row_weight, double target_scale, const py::object& mu,
                    const py::object& logvar, const py::object& z, bool importance, double scale,
                    const py::object& row_out, const py::object& grad_logits,
                    const py::object& grad_mu, const py::object& grad_logvar,
                    const py::object& grad_z) {
  return with_multi_sample_args(logits, target, mask, row_weight, target_scale, mu, logvar, z,
                                importance, scale, row_out, grad_logits, grad_mu, grad_logvar,
                                grad_z, [](const auto& args) {
                                  const py::gil_scoped_release release;
                                  return cpu::multi_sample(args);
                                });
}

}  // namespace

void register_multi_sample(py::module_& m) {
  using namespace py::literals;
  m.def("multi_sample", &multi_sample, "logits"_a, "target"_a, "mask"_a, "row_weight"_a,
        "target_scale"_a, "mu"_a, "logvar"_a, "z"_a, "importance"_a, "scale"_a, "row_out"_a,
        "grad_logits"_a, "grad_mu"_a, "grad_logvar"_a, "grad_z"_a);
}

}  // namespace elbokit::bindings
