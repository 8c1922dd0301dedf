#include "elbokit/categorical.h"

#include "bindings/bindings.h"
#include "bindings/fast_call.h"
#include "bindings/loss_args.h"
#include "bindings/plain_losses.h"

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

// Whether `target` has the shape of `logits` without the classes.
bool positions_of(const PlainTensor& target, const PlainTensor& logits) {
  if (target.dimensions != logits.dimensions - 1 || target.rows != logits.rows) return false;
  for (std::int64_t i = 1; i < target.dimensions; ++i)
    if (target.shape[i] != logits.shape[i + 1]) return false;
  return true;
}

// Returns (loss, grads), with grads (logits,) or None.
py::object plain_categorical_loss(const py::handle& logits, const py::handle& target,
                                  const py::handle& reduction, bool grad_enabled) {
  const auto a = plain_tensor(logits);
  if (!a || a->dimensions < 2) return py::none();
  const auto t = plain_of_any_dtype(target, false);
  const auto scale = plain_scale(reduction, *a);
  if (!t || !scale || t->kind != TorchKind::kInt64 || !positions_of(*t, *a)) return py::none();
  const bool grads = grad_enabled && requires_grad(logits);
  const NewTensor loss = new_number(a->element());
  const PlainGradient d_logits(grads, logits, *a);
  bool classes = true;
  with_plain_type(*a, [&](auto value) {
    using T = decltype(value);
    CategoricalArgs<T> args{};
    args.rows = a->rows;
    args.classes = a->shape[1];
    args.inner = a->cols() / args.classes;
    args.rows_per_sample = 1;
    args.logits = a->operand();
    args.target = static_cast<const std::int64_t*>(t->data);
    args.grad = d_logits.result();
    args.scale = static_cast<T>(*scale);
    T* const out = static_cast<T*>(loss.data);
    const py::gil_scoped_release release;
    const CategoricalTotals totals = cpu::categorical_loss(args);
    classes = totals.outside < 0;
    *out = static_cast<T>(totals.loss * *scale);
  });
  if (!classes) return py::none();
  return py::make_tuple(loss.tensor, gradients_or_none(grads, d_logits));
}

}  // namespace

void register_categorical(py::module_& m) {
  using namespace py::literals;
  m.def("categorical_loss", &categorical_loss, "logits"_a, "target"_a, "mask"_a, "weight"_a,
        "n_samples"_a, "n_classes"_a, "scale"_a, "sample_out"_a, "grad_out"_a);
  define_fast<plain_categorical_loss>(m, "plain_categorical_loss");
}

}  // namespace elbokit::bindings
