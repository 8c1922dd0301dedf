#include "elbokit/gaussian_loss.h"

#include "bindings/bindings.h"
#include "bindings/fast_call.h"
#include "bindings/loss_args.h"
#include "bindings/plain_losses.h"

namespace elbokit::bindings {

namespace {

py::tuple gaussian_loss(const py::object& mean, const py::object& target, const py::object& logvar,
                        const py::object& mask, const py::object& row_weight, double low,
                        double high, double target_scale, double scale, const py::object& row_out,
                        const py::object& grad_mean, const py::object& grad_logvar,
                        const py::object& row_grad_logvar, const py::object& col_grad_logvar) {
  const View view = view_of(mean, "mean", false);
  const GaussianLossTotals totals = with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    auto args = gaussian_loss_args<T>(view, mean, target, logvar, mask, row_weight, low, high,
                                      target_scale, scale);
    set_gaussian_loss_outputs<T>(args, row_out, grad_mean, grad_logvar, row_grad_logvar,
                                 col_grad_logvar);
    const py::gil_scoped_release release;
    return cpu::gaussian_loss(args);
  });
  return py::make_tuple(totals.loss, totals.grad_logvar);
}

// Whether `logvar` is one number for all of `mean`.
bool is_one_for(const PlainTensor& logvar, const PlainTensor& mean) {
  return logvar.size == 1 && logvar.dimensions <= mean.dimensions && logvar.kind == mean.kind;
}

// Returns (loss, grads), with grads (mean, logvar) or None; `logvar` is None, one number, or of the
// shape of `mean`.
py::object plain_gaussian_loss(const py::handle& mean, const py::handle& target,
                               const py::handle& logvar, double low, double high,
                               const py::handle& reduction, bool grad_enabled) {
  const auto a = plain_tensor(mean, true);
  if (!a) return py::none();
  const auto t = plain_tensor(target);
  const auto scale = plain_scale(reduction, *a);
  if (!t || !scale || !same_kind(*a, *t) || (grad_enabled && requires_grad(target)))
    return py::none();
  std::optional<PlainTensor> v;
  if (!logvar.is_none()) {
    v = plain_of_any_dtype(logvar, true);
    if (!v || (!is_one_for(*v, *a) && !same_kind(*a, *v))) return py::none();
  }
  const bool one = v && is_one_for(*v, *a);
  const bool grads = grad_enabled && requires_grad(mean);
  const bool noise_grads = grad_enabled && v && requires_grad(logvar);
  const NewTensor loss = new_number(a->element());
  const PlainGradient d_mean(grads, mean, *a);
  const PlainGradient d_logvar = v ? PlainGradient(noise_grads, logvar, *v) : PlainGradient();
  with_plain_type(*a, [&](auto value) {
    using T = decltype(value);
    GaussianLossArgs<T> args{};
    args.rows = a->rows;
    args.cols = a->cols();
    args.mean = a->operand();
    args.target = t->operand();
    args.target_scale = 1;
    if (v) args.logvar = v->operand();
    if (one) args.logvar.row_stride = args.logvar.col_stride = 0;
    args.low = static_cast<T>(low);
    args.high = static_cast<T>(high);
    args.scale = static_cast<T>(*scale);
    args.grad_mean = d_mean.result();
    const Result noise_slopes = d_logvar.result();
    if (!one) args.grad_logvar = noise_slopes;
    T* const out = static_cast<T*>(loss.data);
    const py::gil_scoped_release release;
    const GaussianLossTotals totals = cpu::gaussian_loss(args);
    *out = static_cast<T>(totals.loss * *scale);
    if (one && noise_slopes)
      *static_cast<T*>(noise_slopes.data) = static_cast<T>(totals.grad_logvar);
  });
  return py::make_tuple(loss.tensor, gradients_or_none(grads || noise_grads, d_mean, d_logvar));
}

}  // namespace

void register_gaussian_loss(py::module_& m) {
  using namespace py::literals;
  m.def("gaussian_loss", &gaussian_loss, "mean"_a, "target"_a, "logvar"_a, "mask"_a, "row_weight"_a,
        "low"_a, "high"_a, "target_scale"_a, "scale"_a, "row_out"_a, "grad_mean"_a, "grad_logvar"_a,
        "row_grad_logvar"_a, "col_grad_logvar"_a);
  define_fast<plain_gaussian_loss>(m, "plain_gaussian_loss");
}

}  // namespace elbokit::bindings
