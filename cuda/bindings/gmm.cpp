#include "kernels/gmm.h"

#include "bindings/gmm_batch.h"
#include "kernels/gmm_gradient.h"
#include "kernels/gmm_pass.h"
#include "loss_outputs.h"

namespace elbokit::cuda_bindings {

namespace {

// X comes as (address, element, n_mixtures, n_samples, n_features, mixture stride, row stride,
// owner), everything else as an address of contiguous doubles, 0 for none.
template <class T>
T* address(std::uintptr_t given) {
  return reinterpret_cast<T*>(given);
}

cuda::GmmData data_of(const py::tuple& x, std::uintptr_t sample_weight) {
  if (x.size() != 8) throw py::value_error("`X` is not a description of rows");
  cuda::GmmData data{};
  data.x = address<const void>(x[0].cast<std::uintptr_t>());
  data.element = static_cast<Element>(x[1].cast<int>());
  data.n_mixtures = x[2].cast<std::int64_t>();
  data.n_samples = x[3].cast<std::int64_t>();
  data.n_features = x[4].cast<std::int64_t>();
  data.mixture_stride = x[5].cast<std::ptrdiff_t>();
  data.row_stride = x[6].cast<std::ptrdiff_t>();
  data.sample_weight = address<const double>(sample_weight);
  return data;
}

using Parameters = std::tuple<std::string, std::int64_t, std::uintptr_t, std::uintptr_t,
                              std::uintptr_t>;  // type, components, weights, means, factors

cuda::GmmMixtures mixtures_of(const Parameters& given) {
  const auto& [covariance, components, weights, means, factors] = given;
  return {covariance_of(covariance), components, address<const double>(weights),
          address<const double>(means), address<const double>(factors)};
}

template <class F>
void with_width(bool wide, F&& f) {
  if (wide)
    f(double{});
  else
    f(float{});
}

std::size_t workspace(int device, const py::tuple& x, const Parameters& parameters, bool wide,
                      bool gradient) {
  cuda::Queue queue;
  queue.device = device;
  return (gradient ? cuda::gmm_row_gradient_workspace : cuda::gmm_workspace)(
      data_of(x, 0), mixtures_of(parameters), wide, cuda::device_of(queue));
}

void estep(const py::tuple& queue, const py::tuple& x, const Parameters& parameters, bool wide,
           std::uintptr_t log_prob, std::uintptr_t responsibilities, std::uintptr_t labels) {
  with_width(wide, [&](auto value) {
    using T = decltype(value);
    cuda::gmm_estep<T>(queue_of(queue), data_of(x, 0), mixtures_of(parameters),
                       {address<T>(log_prob), address<T>(responsibilities),
                        address<std::int64_t>(labels)});
  });
}

void statistics(const py::tuple& queue, const py::tuple& x, std::uintptr_t sample_weight,
                const Parameters& parameters, bool wide, std::uintptr_t counts,
                std::uintptr_t first, std::uintptr_t second, std::uintptr_t log_likelihood) {
  with_width(wide, [&](auto value) {
    cuda::gmm_statistics<decltype(value)>(
        queue_of(queue), data_of(x, sample_weight), mixtures_of(parameters),
        {address<double>(counts), address<double>(first), address<double>(second),
         address<double>(log_likelihood)});
  });
}

void row_gradient(const py::tuple& queue, const py::tuple& x, std::uintptr_t grad,
                  const Parameters& parameters, bool wide, std::uintptr_t grad_x) {
  with_width(wide, [&](auto value) {
    using T = decltype(value);
    cuda::gmm_row_gradient<T>(queue_of(queue), data_of(x, grad), mixtures_of(parameters),
                              address<T>(grad_x));
  });
}

void small_weights(const py::tuple& queue, const py::tuple& x, std::uintptr_t grad,
                   const Parameters& parameters, std::uintptr_t partial) {
  cuda::gmm_small_weights(queue_of(queue), data_of(x, grad), mixtures_of(parameters),
                          address<double>(partial));
}

}  // namespace

void register_gmm(py::module_& m) {
  using namespace py::literals;
  m.def("gmm_workspace", &workspace, "device"_a, "X"_a, "parameters"_a, "wide"_a,
        "gradient"_a = false);
  m.def("gmm_estep", &estep, "queue"_a, "X"_a, "parameters"_a, "wide"_a, "log_prob"_a,
        "responsibilities"_a, "labels"_a);
  m.def("gmm_statistics", &statistics, "queue"_a, "X"_a, "sample_weight"_a, "parameters"_a,
        "wide"_a, "counts"_a, "first_moments"_a, "second_moments"_a, "log_likelihood"_a);
  m.def("gmm_row_gradient", &row_gradient, "queue"_a, "X"_a, "grad"_a, "parameters"_a, "wide"_a,
        "grad_X"_a);
  m.attr("gmm_weight_blocks") = cuda::kWeightBlocks;
  m.def("gmm_small_weights", &small_weights, "queue"_a, "X"_a, "grad"_a, "parameters"_a,
        "partial"_a);
  m.def(
      "set_gmm_chunk_bytes", [](std::size_t bytes) { cuda::gmm_chunk_bytes() = bytes; }, "bytes"_a,
      "Bytes of log-probabilities that are there at a time; for tests. By default 24 MiB.");
}

}  // namespace elbokit::cuda_bindings
