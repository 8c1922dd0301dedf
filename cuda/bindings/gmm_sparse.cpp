#include "kernels/gmm_sparse.h"

#include "gmm_args.h"

namespace elbokit::cuda_bindings {

namespace {

bool may_be_sparse(int device, const py::tuple& x, const Parameters& parameters) {
  cuda::Queue queue;
  queue.device = device;
  return cuda::gmm_may_be_sparse(data_of(x, 0), mixtures_of(parameters), cuda::device_of(queue));
}

std::size_t workspace(const py::tuple& x, const Parameters& parameters) {
  return cuda::gmm_sparse_workspace(data_of(x, 0), mixtures_of(parameters));
}

void statistics(const py::tuple& queue, const py::tuple& x, std::uintptr_t sample_weight,
                const Parameters& parameters, std::uintptr_t counts, std::uintptr_t first,
                std::uintptr_t second, std::uintptr_t log_likelihood, std::uintptr_t failed) {
  cuda::gmm_sparse_statistics(queue_of(queue), data_of(x, sample_weight), mixtures_of(parameters),
                              {address<double>(counts), address<double>(first),
                               address<double>(second), address<double>(log_likelihood)},
                              address<std::int64_t>(failed));
}

}  // namespace

void register_gmm_sparse(py::module_& m) {
  using namespace py::literals;
  m.def("gmm_may_be_sparse", &may_be_sparse, "device"_a, "X"_a, "parameters"_a);
  m.def("gmm_sparse_workspace", &workspace, "X"_a, "parameters"_a);
  m.def("gmm_sparse_statistics", &statistics, "queue"_a, "X"_a, "sample_weight"_a, "parameters"_a,
        "counts"_a, "first_moments"_a, "second_moments"_a, "log_likelihood"_a, "failed"_a);
}

}  // namespace elbokit::cuda_bindings
