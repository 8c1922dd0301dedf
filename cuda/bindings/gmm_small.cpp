// For the tests alone: callers come by gmm_statistics.
#include "kernels/gmm_small.h"

#include "gmm_device.h"

namespace elbokit::cuda_bindings {

namespace {

struct Arguments {
  cuda::GmmData data;
  cuda::GmmMixtures mixtures;

  Arguments(const py::object& X, std::int64_t n_mixtures, std::int64_t mixture_stride,
            const py::object& sample_weight, const std::string& covariance_type,
            std::int64_t n_components)
      : data(gmm_data(X, n_mixtures, mixture_stride, sample_weight)),
        mixtures{covariance_of(covariance_type), n_components, nullptr, nullptr, nullptr} {}
};

// Bytes of workspace, or None where the mixtures are not small.
std::optional<std::size_t> gmm_small_workspace(const py::tuple& queue, const py::object& X,
                                               std::int64_t n_mixtures,
                                               const std::string& covariance_type,
                                               std::int64_t n_components, bool wide) {
  const Arguments a(X, n_mixtures, 0, py::none(), covariance_type, n_components);
  const cuda::Device& device = cuda::device_of(queue_of(queue));
  if (!cuda::gmm_is_small(a.data, a.mixtures, wide, device)) return std::nullopt;
  return cuda::gmm_small_workspace(a.data, a.mixtures, wide, device);
}

void gmm_small_statistics(const py::tuple& queue, const py::object& X, std::int64_t n_mixtures,
                          std::int64_t mixture_stride, const py::object& sample_weight,
                          const std::string& covariance_type, std::int64_t n_components,
                          const py::object& weights, const py::object& means,
                          const py::object& precisions_cholesky, bool wide,
                          const py::object& counts, const py::object& first_moments,
                          const py::object& second_moments, const py::object& log_likelihood) {
  Arguments a(X, n_mixtures, mixture_stride, sample_weight, covariance_type, n_components);
  const std::int64_t components = n_mixtures * n_components, d = a.data.n_features;
  const std::int64_t size = n_mixtures * covariance_size(a.mixtures.covariance, n_components, d);
  a.mixtures.weights = numbers<double>(weights, "weights", components);
  a.mixtures.means = numbers<double>(means, "means", components * d);
  a.mixtures.precisions_cholesky =
      numbers<double>(precisions_cholesky, "precisions_cholesky", size);
  const GmmStatistics statistics{numbers<double>(counts, "counts", components),
                                 numbers<double>(first_moments, "first_moments", components * d),
                                 numbers<double>(second_moments, "second_moments", size),
                                 numbers<double>(log_likelihood, "log_likelihood", n_mixtures)};
  (wide ? cuda::gmm_small_statistics<double>
        : cuda::gmm_small_statistics<float>)(queue_of(queue), a.data, a.mixtures, statistics);
}

}  // namespace

void register_gmm_small(py::module_& m) {
  using namespace py::literals;
  m.def("gmm_small_workspace", &gmm_small_workspace, "queue"_a, "X"_a, "n_mixtures"_a,
        "covariance_type"_a, "n_components"_a, "wide"_a);
  m.def("gmm_small_statistics", &gmm_small_statistics, "queue"_a, "X"_a, "n_mixtures"_a,
        "mixture_stride"_a, "sample_weight"_a, "covariance_type"_a, "n_components"_a, "weights"_a,
        "means"_a, "precisions_cholesky"_a, "wide"_a, "counts"_a, "first_moments"_a,
        "second_moments"_a, "log_likelihood"_a);
}

}  // namespace elbokit::cuda_bindings
