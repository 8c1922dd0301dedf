#include "elbokit/vae_loss.h"

#include "bindings/bindings.h"
#include "bindings/loss_args.h"

namespace elbokit::bindings {

namespace {

py::tuple vae_loss(const py::array& logits, const py::array& target, const py::array& mu,
                   const py::array& logvar, double free_bits, double scale,
                   const OptionalArray& reconstruction_out, const OptionalArray& kl_out,
                   const OptionalArray& charged_out, const OptionalArray& grad_logits) {
  const VaeLossTotals totals = with_value_type(logits, "logits", [&](auto value) {
    using T = decltype(value);
    BernoulliArgs<T> bernoulli = bernoulli_args<T>(logits, target, scale);
    bernoulli.row_loss = vector<T>(reconstruction_out, "reconstruction_out", bernoulli.rows);
    bernoulli.grad = matrix<T>(grad_logits, "grad_logits", bernoulli.rows, bernoulli.cols);
    auto kl = kl_args<T, GaussianKlArgs<T>>(mu, logvar, std::nullopt, std::nullopt, free_bits);
    if (kl.rows != bernoulli.rows)
      throw py::value_error("`mu` has " + std::to_string(kl.rows) + " rows, expected " +
                            std::to_string(bernoulli.rows) + " as in `logits`");
    kl.row_kl = vector<T>(kl_out, "kl_out", kl.rows);
    kl.row_charged = vector<T>(charged_out, "charged_out", kl.rows);
    const py::gil_scoped_release release;
    return cpu::vae_loss(bernoulli, kl);
  });
  return py::make_tuple(totals.reconstruction, totals.kl.kl, totals.kl.charged);
}

}  // namespace

void register_vae_loss(py::module_& m) {
  using namespace py::literals;
  m.def("vae_loss", &vae_loss, "logits"_a, "target"_a, "mu"_a, "logvar"_a, "free_bits"_a, "scale"_a,
        "reconstruction_out"_a, "kl_out"_a, "charged_out"_a, "grad_logits"_a);
}

}  // namespace elbokit::bindings
