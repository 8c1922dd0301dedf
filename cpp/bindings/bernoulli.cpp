#include "elbokit/bernoulli.h"

#include "bindings/bindings.h"
#include "bindings/fast_call.h"
#include "bindings/loss_args.h"
#include "bindings/plain_losses.h"

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

// Returns (loss, grads), with grads (logits,) or None.
py::object plain_bernoulli_loss(const py::handle& logits, const py::handle& target,
                                const py::handle& reduction, bool grad_enabled) {
  const auto a = plain_tensor(logits);
  if (!a) return py::none();
  const auto t = plain_tensor(target);
  const auto scale = plain_scale(reduction, *a);
  if (!t || !scale || !same_kind(*a, *t) || (grad_enabled && requires_grad(target)))
    return py::none();
  const bool grads = grad_enabled && requires_grad(logits);
  const NewTensor loss = new_number(a->element());
  const PlainGradient d_logits(grads, logits, *a);
  with_plain_type(*a, [&](auto value) {
    using T = decltype(value);
    const auto args = plain_bernoulli_args<T>(*a, *t, *scale, d_logits);
    T* const out = static_cast<T*>(loss.data);
    const py::gil_scoped_release release;
    *out = static_cast<T>(cpu::bernoulli_loss(args).loss * *scale);
  });
  return py::make_tuple(loss.tensor, gradients_or_none(grads, d_logits));
}

}  // namespace

void register_bernoulli(py::module_& m) {
  using namespace py::literals;
  m.def("bernoulli_loss", &bernoulli_loss, "logits"_a, "target"_a, "weight"_a, "pos_weight"_a,
        "mask"_a, "row_weight"_a, "target_scale"_a, "scale"_a, "elementwise_out"_a, "row_out"_a,
        "grad_out"_a, "count"_a = false);
  define_fast<plain_bernoulli_loss>(m, "plain_bernoulli_loss");
}

}  // namespace elbokit::bindings
