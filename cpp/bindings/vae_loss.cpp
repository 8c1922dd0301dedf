#include "elbokit/vae_loss.h"

#include "bindings/bindings.h"
#include "bindings/loss_args.h"

namespace elbokit::bindings {

namespace {

py::tuple vae_loss(const py::object& logits, const py::object& target, const py::object& mask,
                   const py::object& row_weight, double target_scale, const py::object& mu,
                   const py::object& logvar, const py::object& prior_mu,
                   const py::object& prior_logvar, double free_bits, double scale,
                   const py::object& reconstruction_out, const py::object& kl_out,
                   const py::object& charged_out, const py::object& grad_logits,
                   const py::object& grad_mu, const py::object& grad_logvar,
                   const py::object& dimensions) {
  const View view = view_of(logits, "logits", false);
  const View latent = view_of(mu, "mu", false);
  if (latent.rows != view.rows)
    throw py::value_error("`mu` has " + std::to_string(latent.rows) + " rows, expected " +
                          std::to_string(view.rows) + " as in `logits`");
  const VaeLossTotals totals = with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    BernoulliArgs<T> bernoulli = bernoulli_args<T>(view, logits, target, target_scale, scale);
    bernoulli.mask = operand<T>(mask, "mask", bernoulli.rows, bernoulli.cols);
    bernoulli.row_weight = vector_of<const T>(row_weight, "row_weight", bernoulli.rows);
    bernoulli.row_loss = vector_of<T>(reconstruction_out, "reconstruction_out", bernoulli.rows);
    bernoulli.grad = result(grad_logits, "grad_logits", bernoulli.rows, bernoulli.cols);
    auto kl = kl_args<T, GaussianKlArgs<T>>(latent, mu, logvar, prior_mu, prior_logvar, free_bits);
    kl.row_weight = bernoulli.row_weight;
    set_kl_outputs<T>(kl, scale, kl_out, charged_out, grad_mu, grad_logvar, dimensions);
    const py::gil_scoped_release release;
    return cpu::vae_loss(bernoulli, kl);
  });
  return py::make_tuple(totals.reconstruction.loss, totals.kl.kl, totals.kl.charged,
                        totals.reconstruction.out_of_range);
}

}  // namespace

void register_vae_loss(py::module_& m) {
  using namespace py::literals;
  m.def("vae_loss", &vae_loss, "logits"_a, "target"_a, "mask"_a, "row_weight"_a, "target_scale"_a,
        "mu"_a, "logvar"_a, "prior_mu"_a, "prior_logvar"_a, "free_bits"_a, "scale"_a,
        "reconstruction_out"_a, "kl_out"_a, "charged_out"_a, "grad_logits"_a, "grad_mu"_a,
        "grad_logvar"_a, "dimensions"_a);
}

}  // namespace elbokit::bindings
