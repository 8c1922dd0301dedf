#include "kernels/gmm_update.h"

#include "bindings/gmm_batch.h"
#include "loss_outputs.h"

namespace elbokit::cuda_bindings {

namespace {

cuda::GmmUpdateArgs shape_of(const std::string& covariance_type, std::int64_t n_mixtures,
                             std::int64_t n_components, std::int64_t n_features) {
  cuda::GmmUpdateArgs args{};
  args.covariance = covariance_of(covariance_type);
  args.n_mixtures = n_mixtures;
  args.n_components = n_components;
  args.n_features = n_features;
  return args;
}

std::size_t gmm_update_workspace(const std::string& covariance_type, std::int64_t n_mixtures,
                                 std::int64_t n_components, std::int64_t n_features) {
  return cuda::gmm_update_workspace(
      shape_of(covariance_type, n_mixtures, n_components, n_features));
}

// All tensors are float64 and contiguous, described as columns of all their numbers. statistics:
// counts, first and second moments, log-likelihoods; previous, next: weights, means, covariances,
// precisions_cholesky. outcomes: n_mixtures times the six numbers of a GmmOutcome, of which the
// last four are integers.
void gmm_update(const py::tuple& queue, const std::string& covariance_type, std::int64_t n_mixtures,
                std::int64_t n_components, std::int64_t n_features, const py::tuple& statistics,
                const py::object& reg_covar, const py::object& empty_below,
                const py::tuple& previous, const py::tuple& next, const py::object& outcomes) {
  auto args = shape_of(covariance_type, n_mixtures, n_components, n_features);
  const std::int64_t k = n_mixtures * n_components, kd = k * n_features;
  const std::int64_t size = n_mixtures * covariance_size(args.covariance, n_components, n_features);
  const auto estimate = [&](const py::tuple& given) -> cuda::GmmEstimates {
    return {numbers<double>(given[0], "weights", k), numbers<double>(given[1], "means", kd),
            numbers<double>(given[2], "covariances", size),
            numbers<double>(given[3], "precisions_cholesky", size)};
  };
  args.statistics = {numbers<double>(statistics[0], "counts", k),
                     numbers<double>(statistics[1], "first_moments", kd),
                     numbers<double>(statistics[2], "second_moments", size),
                     numbers<double>(statistics[3], "log_likelihood", n_mixtures)};
  const bool spherical = args.covariance == Covariance::spherical;
  args.reg_covar = numbers<double>(reg_covar, "reg_covar", spherical ? 1 : n_features);
  args.empty_below = numbers<double>(empty_below, "empty_below", n_mixtures);
  args.previous = estimate(previous);
  args.next = estimate(next);
  static_assert(sizeof(cuda::GmmOutcome) == 6 * sizeof(double));
  args.outcomes =
      reinterpret_cast<cuda::GmmOutcome*>(numbers<double>(outcomes, "outcomes", 6 * n_mixtures));
  cuda::gmm_update(queue_of(queue), args);
}

}  // namespace

void register_gmm_update(py::module_& m) {
  using namespace py::literals;
  m.def("gmm_update_workspace", &gmm_update_workspace, "covariance_type"_a, "n_mixtures"_a,
        "n_components"_a, "n_features"_a);
  m.def("gmm_update", &gmm_update, "queue"_a, "covariance_type"_a, "n_mixtures"_a, "n_components"_a,
        "n_features"_a, "statistics"_a, "reg_covar"_a, "empty_below"_a, "previous"_a, "next"_a,
        "outcomes"_a);
}

}  // namespace elbokit::cuda_bindings
