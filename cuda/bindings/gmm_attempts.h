// Bindings of kernels that compute the statistics of some mixtures, and say whether they did.
#pragma once

#include "gmm_args.h"

namespace elbokit::cuda_bindings {

// <name>_serves, <name>_workspace and <name>_statistics of such kernels.
template <auto serves, auto workspace, auto statistics>
void register_attempt(py::module_& m, const std::string& name) {
  using namespace py::literals;
  const auto device_at = [](int index) -> const cuda::Device& {
    cuda::Queue queue;
    queue.device = index;
    return cuda::device_of(queue);
  };
  m.def((name + "_serves").c_str(),
        [=](int device, const py::tuple& x, const Parameters& parameters) {
          return serves(data_of(x, 0), mixtures_of(parameters), device_at(device));
        },
        "device"_a, "X"_a, "parameters"_a);
  m.def((name + "_workspace").c_str(),
        [=](int device, const py::tuple& x, const Parameters& parameters) {
          return workspace(data_of(x, 0), mixtures_of(parameters), device_at(device));
        },
        "device"_a, "X"_a, "parameters"_a);
  m.def((name + "_statistics").c_str(),
        [](const py::tuple& queue, const py::tuple& x, std::uintptr_t sample_weight,
           const Parameters& parameters, std::uintptr_t counts, std::uintptr_t first,
           std::uintptr_t second, std::uintptr_t log_likelihood, std::uintptr_t failed) {
          statistics(queue_of(queue), data_of(x, sample_weight), mixtures_of(parameters),
                     {address<double>(counts), address<double>(first), address<double>(second),
                      address<double>(log_likelihood)},
                     address<std::int64_t>(failed));
        },
        "queue"_a, "X"_a, "sample_weight"_a, "parameters"_a, "counts"_a, "first_moments"_a,
        "second_moments"_a, "log_likelihood"_a, "failed"_a);
}

}  // namespace elbokit::cuda_bindings
