#include "kernels/gaussian_kl.h"

#include "bindings/loss_args.h"
#include "loss_outputs.h"

namespace elbokit::cuda_bindings {

namespace {

void gaussian_kl(const py::tuple& queue, const py::object& mu, const py::object& logvar,
                 const py::object& prior_mu, const py::object& prior_logvar, double free_bits,
                 const py::object& row_weight, double scale, const py::object& kl,
                 const py::object& charged, const py::object& row_kl, const py::object& row_charged,
                 const py::object& grad_mu, const py::object& grad_logvar,
                 const py::object& dimensions) {
  const View view = view_of(mu, "mu", false);
  with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    auto args = kl_forward_args<T>(view, mu, logvar, prior_mu, prior_logvar, free_bits);
    args.row_weight = vector_of<const T>(row_weight, "row_weight", args.rows);
    args.row_kl = vector_of<T>(row_kl, "row_kl", args.rows);
    args.row_charged = vector_of<T>(row_charged, "row_charged", args.rows);
    set_kl_outputs<T>(args, scale, grad_mu, grad_logvar, dimensions);
    cuda::LossOutputs<T> outputs;
    outputs.scale = scale;
    outputs.kl = numbers<T>(kl, "kl", 1);
    outputs.charged = numbers<T>(charged, "charged", 1);
    cuda::gaussian_kl(queue_of(queue), args, outputs);
  });
}

void gaussian_kl_backward(const py::tuple& queue, const py::object& mu, const py::object& logvar,
                          const py::object& prior_mu, const py::object& prior_logvar,
                          double free_bits, const py::object& factor,
                          const py::object& charged_factor, const py::object& grad_mu,
                          const py::object& grad_logvar, const py::object& grad_prior_mu,
                          const py::object& grad_prior_logvar) {
  const View view = view_of(mu, "mu", false);
  with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    auto args = kl_backward_args<T>(view, mu, logvar, prior_mu, prior_logvar, free_bits);
    args.factor = vector_of<const T>(factor, "factor", args.rows);
    args.charged_factor = vector_of<const T>(charged_factor, "charged_factor", args.rows);
    args.grad_mu = matrix_of<T>(grad_mu, "grad_mu", args.rows, args.cols);
    args.grad_logvar = matrix_of<T>(grad_logvar, "grad_logvar", args.rows, args.cols);
    args.grad_prior_mu = matrix_of<T>(grad_prior_mu, "grad_prior_mu", args.rows, args.cols);
    args.grad_prior_logvar =
        matrix_of<T>(grad_prior_logvar, "grad_prior_logvar", args.rows, args.cols);
    cuda::gaussian_kl_backward(queue_of(queue), args);
  });
}

}  // namespace

void register_gaussian_kl(py::module_& m) {
  using namespace py::literals;
  m.def("gaussian_kl_workspace", &cuda::gaussian_kl_workspace, "cols"_a, "dimensions"_a);
  m.def("gaussian_kl", &gaussian_kl, "queue"_a, "mu"_a, "logvar"_a, "prior_mu"_a, "prior_logvar"_a,
        "free_bits"_a, "row_weight"_a, "scale"_a, "kl"_a, "charged"_a, "row_kl"_a, "row_charged"_a,
        "grad_mu"_a, "grad_logvar"_a, "dimensions"_a);
  m.def("gaussian_kl_backward", &gaussian_kl_backward, "queue"_a, "mu"_a, "logvar"_a, "prior_mu"_a,
        "prior_logvar"_a, "free_bits"_a, "factor"_a, "charged_factor"_a, "grad_mu"_a,
        "grad_logvar"_a, "grad_prior_mu"_a, "grad_prior_logvar"_a);
}

}  // namespace elbokit::cuda_bindings
