#include "elbokit/vae_loss.h"

#include "bindings/bindings.h"
#include "bindings/fast_call.h"
#include "bindings/loss_args.h"
#include "bindings/plain_losses.h"

namespace elbokit::bindings {

namespace {

// Either one number per row, which are there already, or `scale` times the sums. The total is that
// of the terms, or without `beta` the charged KL alone, for a caller who weighs it.
template <class T>
void write_terms(const VaeLossTotals& totals, std::optional<double> beta, double scale,
                 std::int64_t rows, bool by_row, T* total, T* reconstruction, T* kl) {
  if (!by_row) {
    rows = 1;
    *reconstruction = static_cast<T>(totals.reconstruction.loss * scale);
    *kl = static_cast<T>(totals.kl.kl * scale);
    *total = static_cast<T>(totals.kl.charged * scale);
  }
  if (beta)
    for (std::int64_t i = 0; i < rows; ++i)
      total[i] = reconstruction[i] + static_cast<T>(*beta) * total[i];
}

std::int64_t vae_loss(const py::object& logits, const py::object& target, const py::object& mask,
                      const py::object& row_weight, double target_scale, const py::object& mu,
                      const py::object& logvar, const py::object& prior_mu,
                      const py::object& prior_logvar, std::optional<double> beta, double free_bits,
                      double scale, bool by_row, const py::object& total_out,
                      const py::object& reconstruction_out, const py::object& kl_out,
                      const py::object& grad_logits, const py::object& grad_mu,
                      const py::object& grad_logvar, const py::object& dimensions) {
  const View view = view_of(logits, "logits", false);
  const View latent = view_of(mu, "mu", false);
  if (latent.rows != view.rows)
    throw py::value_error("`mu` has " + std::to_string(latent.rows) + " rows, expected " +
                          std::to_string(view.rows) + " as in `logits`");
  return with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    BernoulliArgs<T> bernoulli = bernoulli_args<T>(view, logits, target, target_scale, scale);
    bernoulli.mask = operand<T>(mask, "mask", bernoulli.rows, bernoulli.cols);
    bernoulli.row_weight = vector_of<const T>(row_weight, "row_weight", bernoulli.rows);
    bernoulli.count = !dimensions.is_none();
    bernoulli.grad = result(grad_logits, "grad_logits", bernoulli.rows, bernoulli.cols);
    auto kl = kl_forward_args<T>(latent, mu, logvar, prior_mu, prior_logvar, free_bits);
    kl.row_weight = bernoulli.row_weight;
    const auto term = [&](const py::object& given, const char* name) {
      const Matrix<T> out = matrix_of<T>(given, name, by_row ? view.rows : 1, 1);
      if (out.row_stride != 1)
        throw py::value_error("`" + std::string(name) + "` is not contiguous");
      return out.data;
    };
    T* const total = term(total_out, "total_out");
    T* const reconstruction = term(reconstruction_out, "reconstruction_out");
    T* const divergence = term(kl_out, "kl_out");
    set_kl_outputs<T>(kl, scale, grad_mu, grad_logvar, dimensions);
    expect_computed_type(kl);
    if (by_row) {
      bernoulli.row_loss = {reconstruction, 1};
      kl.row_kl = {divergence, 1};
      kl.row_charged = {total, 1};
    }
    const py::gil_scoped_release release;
    const VaeLossTotals totals = cpu::vae_loss(bernoulli, kl);
    write_terms(totals, beta, scale, view.rows, by_row, total, reconstruction, divergence);
    return totals.reconstruction.out_of_range;
  });
}

// Whether an operand, if it is given, has a number of the computed type or a byte for each element.
bool of_elements(const PlainOptional& operand, const PlainTensor& elements) {
  if (!operand.given()) return true;
  return operand.plain() && same_shape(*operand, elements) &&
         (operand->kind == elements.kind || operand->kind == TorchKind::kBytes);
}

// What a VAE's loss is given, as plain tensors.
struct PlainVaeLoss {
  // Nothing for what has to go the long way.
  static std::optional<PlainVaeLoss> of(const py::handle& logits, const py::handle& target,
                                        const py::handle& mu, const py::handle& logvar,
                                        const py::handle& prior_mu, const py::handle& prior_logvar,
                                        const py::handle& mask, const py::handle& weight,
                                        const py::handle& target_scale, const py::handle& free_bits,
                                        const py::handle& reduction, bool grad_enabled) {
    const auto floor = plain_factor(free_bits), of_target = plain_factor(target_scale);
    if (!floor || !of_target) return {};
    const auto a = plain_tensor(logits);
    if (!a) return {};
    const auto m = plain_tensor(mu, true), v = plain_tensor(logvar, true);
    const PlainOptional t(target), shown(mask);
    const auto scale = plain_scale(reduction, *a);
    if (!m || !v || !scale || !t.given() || !of_elements(t, *a) || !of_elements(shown, *a) ||
        !same_kind(*m, *v) || a->kind != m->kind || a->rows != m->rows)
      return {};
    const PlainPrior prior(prior_mu, prior_logvar, *m, grad_enabled);
    const PlainWeight factors(weight, *a, grad_enabled);
    if (!prior.plain() || !factors.plain()) return {};
    return PlainVaeLoss{{logits, mu, logvar, prior_mu, prior_logvar},
                        *a,
                        *m,
                        *v,
                        t,
                        shown,
                        prior,
                        factors,
                        *scale,
                        *floor,
                        *of_target};
  }

  bool prior_wants_grad() const { return prior.wants_grad(); }

  // Calls f(total, reconstruction, kl, d_logits, d_mu, d_logvar, d_prior_mu, d_prior_logvar). Those
  // of the KL are `of_kl` times its own. For `beta`, see write_terms.
  template <class F>
  py::object run(std::optional<double> beta, double of_kl, bool need_logits, bool need_latent,
                 F&& f) const {
    NewTensor terms[3];
    for (auto& term : terms) term = new_number(a.element());
    const PlainGradient d_logits(need_logits, given.logits, a), d_mu(need_latent, given.mu, m),
        d_logvar(need_latent, given.logvar, v);
    PlainPriorGradients d_prior(prior, given.prior_mu, given.prior_logvar);
    with_plain_type(a, [&](auto value) {
      using T = decltype(value);
      auto bernoulli = plain_bernoulli_args<T>(a, *t, scale, d_logits);
      bernoulli.target_scale = static_cast<T>(of_target);
      if (shown.given()) bernoulli.mask = shown->operand();
      bernoulli.row_weight = factors.vector<T>();
      auto kl = plain_kl_args<T>(m, v, floor, of_kl * scale, d_mu, d_logvar);
      kl.row_weight = bernoulli.row_weight;
      prior.set(kl);
      d_prior.set(kl);
      T* out[3];
      for (int i = 0; i < 3; ++i) out[i] = static_cast<T*>(terms[i].data);
      const py::gil_scoped_release release;
      const VaeLossTotals totals = cpu::vae_loss(bernoulli, kl);
      write_terms(totals, beta, scale, 1, false, out[0], out[1], out[2]);
      d_prior.finish<T>();
    });
    return f(terms[0].tensor, terms[1].tensor, terms[2].tensor, d_logits, d_mu, d_logvar,
             d_prior.mu(), d_prior.logvar());
  }

  struct Given {
    py::handle logits, mu, logvar, prior_mu, prior_logvar;
  } given;
  PlainTensor a, m, v;
  PlainOptional t, shown;
  PlainPrior prior;
  PlainWeight factors;
  double scale, floor, of_target;
};

// Returns (total, reconstruction, kl, grads), with grads of the total (logits, mu, logvar,
// prior_mu, prior_logvar) or None.
py::object plain_vae_loss(const py::handle& logits, const py::handle& target, const py::handle& mu,
                          const py::handle& logvar, const py::handle& prior_mu,
                          const py::handle& prior_logvar, const py::handle& mask,
                          const py::handle& weight, const py::handle& target_scale,
                          const py::handle& beta, const py::handle& free_bits,
                          const py::handle& reduction, bool grad_enabled) {
  const auto of_kl = plain_factor(beta);
  if (!of_kl) return py::none();
  const auto loss = PlainVaeLoss::of(logits, target, mu, logvar, prior_mu, prior_logvar, mask,
                                     weight, target_scale, free_bits, reduction, grad_enabled);
  if (!loss) return py::none();
  bool grads = false;
  if (grad_enabled) {
    grads = requires_grad(logits);
    const bool latent = requires_grad(mu) || requires_grad(logvar) || loss->prior_wants_grad();
    if (grads != latent || requires_grad(target)) return py::none();
  }
  return loss->run(of_kl, *of_kl, grads, grads,
                   [&](const py::object& total, const py::object& reconstruction,
                       const py::object& kl, const auto&... gradients) {
                     return py::make_tuple(total, reconstruction, kl,
                                           gradients_or_none(grads, gradients...));
                   });
}

// Returns (total, reconstruction, kl, d_logits, d_mu, d_logvar), gradients None where not needed:
// of the reconstruction, and of the charged KL.
py::object plain_vae_parts(const py::handle& logits, const py::handle& target, const py::handle& mu,
                           const py::handle& logvar, const py::handle& prior_mu,
                           const py::handle& prior_logvar, const py::handle& mask,
                           const py::handle& weight, const py::handle& target_scale,
                           const py::handle& beta, const py::handle& free_bits,
                           const py::handle& reduction, bool need_logits, bool need_latent) {
  const auto of_kl = beta.is_none() ? std::nullopt : plain_factor(beta);
  if (!beta.is_none() && !of_kl) return py::none();
  const auto loss = PlainVaeLoss::of(logits, target, mu, logvar, prior_mu, prior_logvar, mask,
                                     weight, target_scale, free_bits, reduction, false);
  if (!loss) return py::none();
  return loss->run(of_kl, 1, need_logits, need_latent,
                   [&](const py::object& total, const py::object& reconstruction,
                       const py::object& kl, const PlainGradient& d_logits,
                       const PlainGradient& d_mu, const PlainGradient& d_logvar, const auto&...) {
                     return py::make_tuple(total, reconstruction, kl, d_logits.tensor(),
                                           d_mu.tensor(), d_logvar.tensor());
                   });
}

}  // namespace

void register_vae_loss(py::module_& m) {
  using namespace py::literals;
  m.def("vae_loss", &vae_loss, "logits"_a, "target"_a, "mask"_a, "row_weight"_a, "target_scale"_a,
        "mu"_a, "logvar"_a, "prior_mu"_a, "prior_logvar"_a, "beta"_a, "free_bits"_a, "scale"_a,
        "by_row"_a, "total_out"_a, "reconstruction_out"_a, "kl_out"_a, "grad_logits"_a, "grad_mu"_a,
        "grad_logvar"_a, "dimensions"_a);
  define_fast<plain_vae_loss>(m, "plain_vae_loss");
  define_fast<plain_vae_parts>(m, "plain_vae_parts");
}

}  // namespace elbokit::bindings
