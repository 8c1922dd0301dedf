#include "kernels/vae_loss.h"

#include "bindings/loss_args.h"
#include "kernels/gaussian_kl.h"
#include "loss_outputs.h"

namespace elbokit::cuda_bindings {

namespace {

void vae_loss(const py::tuple& queue, const py::object& logits, const py::object& target,
              const py::object& mask, const py::object& row_weight, double target_scale,
              const py::object& mu, const py::object& logvar, const py::object& prior_mu,
              const py::object& prior_logvar, std::optional<double> beta, double free_bits,
              double scale, bool by_row, const py::object& total, const py::object& reconstruction,
              const py::object& kl, const py::object& grad_logits, const py::object& grad_mu,
              const py::object& grad_logvar, const py::object& dimensions,
              const py::object& out_of_range) {
  const View view = view_of(logits, "logits", false);
  const View latent = view_of(mu, "mu", false);
  if (latent.rows != view.rows)
    throw py::value_error("`mu` has " + std::to_string(latent.rows) + " rows, expected " +
                          std::to_string(view.rows) + " as in `logits`");
  with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    BernoulliArgs<T> bernoulli = bernoulli_args<T>(view, logits, target, target_scale, scale);
    bernoulli.mask = operand<T>(mask, "mask", bernoulli.rows, bernoulli.cols);
    bernoulli.row_weight = vector_of<const T>(row_weight, "row_weight", bernoulli.rows);
    bernoulli.count = !out_of_range.is_none();
    bernoulli.grad = result(grad_logits, "grad_logits", bernoulli.rows, bernoulli.cols);
    auto kl_terms = kl_forward_args<T>(latent, mu, logvar, prior_mu, prior_logvar, free_bits);
    kl_terms.row_weight = bernoulli.row_weight;
    set_kl_outputs<T>(kl_terms, scale, grad_mu, grad_logvar, dimensions);
    cuda::LossOutputs<T> outputs;
    outputs.scale = scale;
    outputs.weighed = beta.has_value();
    outputs.beta = static_cast<T>(beta.value_or(0));
    outputs.out_of_range = counter(out_of_range);
    const std::int64_t n = by_row ? view.rows : 1;
    T* const total_out = numbers<T>(total, "total", n);
    T* const reconstruction_out = numbers<T>(reconstruction, "reconstruction", n);
    T* const kl_out = numbers<T>(kl, "kl", n);
    if (by_row) {
      bernoulli.row_loss = {reconstruction_out, 1};
      kl_terms.row_kl = {kl_out, 1};
      kl_terms.row_charged = {total_out, 1};
    } else {
      outputs.total = total_out;
      outputs.loss = reconstruction_out;
      outputs.kl = kl_out;
    }
    cuda::vae_loss(queue_of(queue), bernoulli, kl_terms, outputs);
  });
}

}  // namespace

void register_vae_loss(py::module_& m) {
  using namespace py::literals;
  m.def("vae_loss", &vae_loss, "queue"_a, "logits"_a, "target"_a, "mask"_a, "row_weight"_a,
        "target_scale"_a, "mu"_a, "logvar"_a, "prior_mu"_a, "prior_logvar"_a, "beta"_a,
        "free_bits"_a, "scale"_a, "by_row"_a, "total"_a, "reconstruction"_a, "kl"_a,
        "grad_logits"_a, "grad_mu"_a, "grad_logvar"_a, "dimensions"_a, "out_of_range"_a);
}

}  // namespace elbokit::cuda_bindings
