#include "elbokit/categorical.h"

#include "bindings/bindings.h"
#include "bindings/loss_args.h"

namespace elbokit::bindings {

namespace {

std::int64_t divided(std::int64_t whole, std::int64_t by, const char* what) {
  if (by <= 0 || whole % by != 0)
    throw py::value_error("`" + std::string(what) + "` is " + std::to_string(by) +
                          ", expected a divisor of " + std::to_string(whole));
  return whole / by;
}

py::tuple categorical_loss(const py::object& logits, const py::array& target,
                           const OptionalArray& mask, const py::object& weight,
                           std::int64_t n_samples, std::int64_t n_classes, double scale,
                           const py::object& sample_out, const py::object& grad_out) {
  const View view = view_of(logits, "logits", false);
  const CategoricalTotals totals = with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    CategoricalArgs<T> args{};
    args.rows = view.rows;
    args.classes = n_classes;
    args.inner = divided(view.cols, n_classes, "n_classes");
    args.rows_per_sample = divided(view.rows, n_samples, "n_samples");
    args.logits = operand<T>(logits, "logits", args.rows, view.cols);
    if (args.logits.col_stride != 1) throw py::value_error("`logits` has repeated columns");
    const std::int64_t n = args.rows * args.inner;
    args.target = contiguous<const std::int64_t>(target, "target", {n});
    if (mask) args.mask = contiguous<const std::uint8_t>(*mask, "mask", {n});
    args.weight = vector_of<const T>(weight, "weight", n_samples);
    args.sample_loss = vector_of<T>(sample_out, "sample_out", n_samples);
    args.grad = result(grad_out, "grad_out", args.rows, view.cols);
    args.scale = static_cast<T>(scale);
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
