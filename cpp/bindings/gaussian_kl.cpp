#include "elbokit/gaussian_kl.h"

#include "bindings/bindings.h"
#include "bindings/fast_call.h"
#include "bindings/loss_args.h"
#include "bindings/plain_losses.h"

namespace elbokit::bindings {

namespace {

py::tuple gaussian_kl(const py::object& mu, const py::object& logvar, const py::object& prior_mu,
                      const py::object& prior_logvar, double free_bits,
                      const py::object& row_weight, double scale, const py::object& row_out,
                      const py::object& charged_out, const py::object& grad_mu,
                      const py::object& grad_logvar, const py::object& dimensions) {
  const View view = view_of(mu, "mu", false);
  const KlTotals totals = with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    auto args = kl_forward_args<T>(view, mu, logvar, prior_mu, prior_logvar, free_bits);
    args.row_weight = vector_of<const T>(row_weight, "row_weight", args.rows);
    args.row_kl = vector_of<T>(row_out, "row_out", args.rows);
    args.row_charged = vector_of<T>(charged_out, "charged_out", args.rows);
    set_kl_outputs<T>(args, scale, grad_mu, grad_logvar, dimensions);
    expect_computed_type(args);
    const py::gil_scoped_release release;
    return cpu::gaussian_kl(args);
  });
  return py::make_tuple(totals.kl, totals.charged);
}

void gaussian_kl_backward(const py::object& mu, const py::object& logvar,
                          const py::object& prior_mu, const py::object& prior_logvar,
                          double free_bits, const py::object& factor,
                          const py::object& charged_factor, const py::object& grad_mu,
                          const py::object& grad_logvar, const py::object& grad_prior_mu,
                          const py::object& grad_prior_logvar) {
  const View view = view_of(mu, "mu", false);
  with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    auto args = kl_backward_args<T>(view, mu, logvar, prior_mu, prior_logvar, free_bits);
    const auto output = [&](const auto& a, const char* name) {
      return matrix_of<T>(a, name, args.rows, args.cols);
    };
    args.factor = vector_of<const T>(factor, "factor", args.rows);
    args.charged_factor = vector_of<const T>(charged_factor, "charged_factor", args.rows);
    args.grad_mu = output(grad_mu, "grad_mu");
    args.grad_logvar = output(grad_logvar, "grad_logvar");
    args.grad_prior_mu = output(grad_prior_mu, "grad_prior_mu");
    args.grad_prior_logvar = output(grad_prior_logvar, "grad_prior_logvar");
    const py::gil_scoped_release release;
    cpu::gaussian_kl_backward(args);
  });
}

// Returns (charged KL, grads), with grads (mu, logvar, prior_mu, prior_logvar) or None.
py::object plain_gaussian_kl(const py::handle& mu, const py::handle& logvar,
                             const py::handle& prior_mu, const py::handle& prior_logvar,
                             const py::handle& weight, const py::handle& free_bits,
                             const py::handle& reduction, bool grad_enabled) {
  const auto m = plain_tensor(mu, true);
  if (!m) return py::none();
  const auto v = plain_tensor(logvar, true);
  const auto scale = plain_scale(reduction, *m);
  const auto floor = plain_factor(free_bits);
  if (!v || !scale || !floor || !same_kind(*m, *v)) return py::none();
  const PlainPrior prior(prior_mu, prior_logvar, *m, grad_enabled);
  const PlainWeight factors(weight, *m, grad_enabled);
  if (!prior.plain() || !factors.plain()) return py::none();
  const bool grads =
      grad_enabled && (requires_grad(mu) || requires_grad(logvar) || prior.wants_grad());
  const NewTensor loss = new_number(m->element());
  const PlainGradient d_mu(grads, mu, *m), d_logvar(grads, logvar, *v);
  PlainPriorGradients d_prior(prior, prior_mu, prior_logvar);
  with_plain_type(*m, [&](auto value) {
    using T = decltype(value);
    auto args = plain_kl_args<T>(*m, *v, *floor, *scale, d_mu, d_logvar);
    args.row_weight = factors.vector<T>();
    prior.set(args);
    d_prior.set(args);
    T* const out = static_cast<T*>(loss.data);
    const py::gil_scoped_release release;
    *out = static_cast<T>(cpu::gaussian_kl(args).charged * *scale);
    d_prior.finish<T>();
  });
  return py::make_tuple(loss.tensor,
                        gradients_or_none(grads, d_mu, d_logvar, d_prior.mu(), d_prior.logvar()));
}

}  // namespace

void register_gaussian_kl(py::module_& m) {
  using namespace py::literals;
  m.def("gaussian_kl", &gaussian_kl, "mu"_a, "logvar"_a, "prior_mu"_a, "prior_logvar"_a,
        "free_bits"_a, "row_weight"_a, "scale"_a, "row_out"_a, "charged_out"_a, "grad_mu"_a,
        "grad_logvar"_a, "dimensions"_a);
  m.def("gaussian_kl_backward", &gaussian_kl_backward, "mu"_a, "logvar"_a, "prior_mu"_a,
        "prior_logvar"_a, "free_bits"_a, "factor"_a, "charged_factor"_a, "grad_mu"_a,
        "grad_logvar"_a, "grad_prior_mu"_a, "grad_prior_logvar"_a);
  define_fast<plain_gaussian_kl>(m, "plain_gaussian_kl");
}

}  // namespace elbokit::bindings
