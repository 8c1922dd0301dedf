#include "kernels/gmm_fit_many.h"

#include "gmm_device.h"

namespace elbokit::cuda_bindings {

namespace {

// X: with offsets all rows, else those of one mixture; the others are mixture_stride apart.
// offsets, outcome: addresses of int64.
void gmm_fit_many(const py::tuple& queue, const py::object& X, std::int64_t n_mixtures,
                  std::int64_t mixture_stride, const py::object& offsets,
                  const py::object& sample_weight, const std::string& covariance_type,
                  std::int64_t n_components, const py::object& weights, const py::object& means,
                  const py::object& covariances, const py::object& precisions_cholesky, double tol,
                  const std::vector<double>& reg_covar, std::int64_t max_iter,
                  const py::object& lower_bound, const py::object& outcome) {
  cuda::GmmFitManyArgs args{};
  args.data = gmm_data(X, n_mixtures, mixture_stride, sample_weight, !offsets.is_none());
  args.offsets = counter(offsets);
  args.covariance = covariance_of(covariance_type);
  args.n_components = n_components;
  args.tol = tol;
  const std::int64_t d = args.data.n_features, components = n_mixtures * n_components;
  if (reg_covar.size() != 1 && static_cast<std::int64_t>(reg_covar.size()) != d)
    throw py::value_error("`reg_covar` has " + std::to_string(reg_covar.size()) +
                          " values, expected 1 or " + std::to_string(d));
  for (std::int64_t i = 0; i < d && i < kSmallFeatures; ++i)
    args.reg_covar[i] = reg_covar[reg_covar.size() == 1 ? 0 : i];
  args.max_iter = max_iter;
  const std::int64_t size = n_mixtures * covariance_size(args.covariance, n_components, d);
  args.estimates = {numbers<double>(weights, "weights", components),
                    numbers<double>(means, "means", components * d),
                    numbers<double>(covariances, "covariances", size),
                    numbers<double>(precisions_cholesky, "precisions_cholesky", size)};
  args.lower_bound = numbers<double>(lower_bound, "lower_bound", n_mixtures);
  args.outcome = counter(outcome);
  cuda::gmm_fit_many(queue_of(queue), args);
}

}  // namespace

void register_gmm_fit_many(py::module_& m) {
  using namespace py::literals;
  m.attr("many_components") = cuda::kManyComponents;
  m.attr("small_features") = kSmallFeatures;
  m.def("gmm_fit_many", &gmm_fit_many, "queue"_a, "X"_a, "n_mixtures"_a, "mixture_stride"_a,
        "offsets"_a, "sample_weight"_a, "covariance_type"_a, "n_components"_a, "weights"_a,
        "means"_a, "covariances"_a, "precisions_cholesky"_a, "tol"_a, "reg_covar"_a, "max_iter"_a,
        "lower_bound"_a, "outcome"_a);
}

}  // namespace elbokit::cuda_bindings
