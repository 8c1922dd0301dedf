// The arguments of multi_sample, which the bindings of both back ends take.
#pragma once

#include "bindings/loss_args.h"
#include "elbokit/multi_sample.h"

namespace elbokit::bindings {

// Calls f(MultiSampleArgs<T>) with the type to compute in.
template <class F>
auto with_multi_sample_args(const py::object& logits, const py::object& target,
                            const py::object& mask, const py::object& row_weight,
                            double target_scale, const py::object& mu, const py::object& logvar,
                            const py::object& z, bool importance, double scale,
                            const py::object& row_out, const py::object& grad_logits,
                            const py::object& grad_mu, const py::object& grad_logvar,
                            const py::object& grad_z, F&& f) {
  if (grad_mu.is_none() != grad_logvar.is_none() || grad_mu.is_none() != grad_z.is_none())
    throw py::value_error("`grad_mu`, `grad_logvar` and `grad_z` go together");
  const View view = view_of(logits, "logits", false);
  const View latent = view_of(mu, "mu", false);
  const std::int64_t rows = latent.rows, samples = rows ? view.rows / rows : 0;
  if (samples < 1 || samples * rows != view.rows)
    throw py::value_error("`logits` has " + std::to_string(view.rows) +
                          " rows, expected a positive multiple of the " + std::to_string(rows) +
                          " of `mu`");
  return with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    MultiSampleArgs<T> args{};
    args.samples = samples;
    args.rows = rows;
    args.cols = view.cols;
    args.latent = latent.cols;
    args.logits = operand<T>(logits, "logits", view.rows, args.cols);
    args.target = operand<T>(target, "target", rows, args.cols);
    args.mask = operand<T>(mask, "mask", rows, args.cols);
    args.target_scale = static_cast<T>(target_scale);
    args.mu = operand<T>(mu, "mu", rows, args.latent);
    args.logvar = operand<T>(logvar, "logvar", rows, args.latent);
    args.z = operand<T>(z, "z", view.rows, args.latent);
    args.importance = importance;
    args.row_weight = vector_of<const T>(row_weight, "row_weight", rows);
    args.row_loss = vector_of<T>(row_out, "row_out", rows);
    args.grad_logits = result(grad_logits, "grad_logits", view.rows, args.cols);
    args.grad_mu = matrix_of<T>(grad_mu, "grad_mu", rows, args.latent);
    args.grad_logvar = matrix_of<T>(grad_logvar, "grad_logvar", rows, args.latent);
    args.grad_z = matrix_of<T>(grad_z, "grad_z", view.rows, args.latent);
    args.scale = static_cast<T>(scale);
    return f(args);
  });
}

}  // namespace elbokit::bindings
