#include "kernels/categorical.h"

#include "bindings/loss_args.h"
#include "loss_outputs.h"

namespace elbokit::cuda_bindings {

namespace {

void categorical_loss(const py::tuple& queue, const py::object& logits, std::uintptr_t target,
                      const py::object& mask, const py::object& weight, std::int64_t n_samples,
                      std::int64_t n_classes, double scale, const py::object& loss,
                      const py::object& sample_out, const py::object& grad_out) {
  const View view = view_of(logits, "logits", false);
  with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    auto args = categorical_args<T>(view, logits, weight, n_samples, n_classes, scale, sample_out,
                                    grad_out);
    // Contiguous int64, which has no Element.
    args.target = reinterpret_cast<const std::int64_t*>(target);
    if (!mask.is_none()) {
      const View counted = view_of(mask, "mask", 1, args.rows * args.inner, false);
      if (counted.element != Element::kUint8 || counted.col_stride != 1)
        throw py::type_error("`mask` is not contiguous bytes");
      args.mask = reinterpret_cast<const std::uint8_t*>(counted.address);
    }
    cuda::LossOutputs<T> outputs;
    outputs.scale = scale;
    outputs.loss = numbers<T>(loss, "loss", 1);
    cuda::categorical_loss(queue_of(queue), args, outputs);
  });
}

}  // namespace

void register_categorical(py::module_& m) {
  using namespace py::literals;
  m.def("categorical_loss", &categorical_loss, "queue"_a, "logits"_a, "target"_a, "mask"_a,
        "weight"_a, "n_samples"_a, "n_classes"_a, "scale"_a, "loss"_a, "sample_out"_a,
        "grad_out"_a);
}

}  // namespace elbokit::cuda_bindings
