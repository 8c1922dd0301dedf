#include "kernels/gmm.h"

#include "gmm_args.h"
#include "kernels/gmm_gradient.h"
#include "kernels/gmm_pass.h"

namespace elbokit::cuda_bindings {

namespace {

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
    cuda::gmm_estep<T>(
        queue_of(queue), data_of(x, 0), mixtures_of(parameters),
        {address<T>(log_prob), address<T>(responsibilities), address<std::int64_t>(labels)});
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
