#include "elbokit/categorical.h"

#include "bindings/bindings.h"
#include "bindings/loss_args.h"

namespace elbokit::bindings {

namespace {

py::tuple categorical_loss(const py::object& logits, const py::array& target,
                           const OptionalArray& mask, const py::object& weight,
                           std::int64_t n_samples, std::int64_t n_classes, double scale,
                           const py::object& sample_out, const py::object& grad_out) {
  const View view = view_of(logits, "logits", false);
  const CategoricalTotals totals = with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    auto args = categorical_args<T>(view, logits, weight, n_samples, n_classes, scale, sample_out,
                                    grad_out);
    const std::int64_t n = args.rows * args.inner;
    args.target = contiguous<const std::int64_t>(target, "target", {n});
    if (mask) args.mask = contiguous<const std::uint8_t>(*mask, "mask", {n});
    const py::gil_scoped_release release;
    return cpu::categorical_loss(args);
  });
  return py::make_tuple(totals.loss, totals.outside);
}

}  // namespace

void register_categorical(py::module_& m) {
  using namespace py::literals;
  m.def("categorical_loss", &categorical_loss, "logits"_a, "target"_a, "mask"_a, "weight"_a,
        "n_samples"_a, "n_classes"_a, "scale"_a, "sample_out"_a, "grad_out"_a);
}

}  // namespace elbokit::bindings
