// One register function per stem, and what they share.
#pragma once

#include "bindings/arrays.h"
#include "common/queue.h"

namespace elbokit::cuda_bindings {

namespace py = pybind11;
using namespace elbokit::bindings;  // the checks of operands

// (device, stream, address of the workspace, its bytes, owner of the workspace)
inline cuda::Queue queue_of(const py::tuple& given) {
  if (given.size() != 5) throw py::value_error("`queue` is not a description of a queue");
  cuda::Queue queue;
  queue.device = given[0].cast<int>();
  queue.stream = reinterpret_cast<void*>(given[1].cast<std::uintptr_t>());
  queue.workspace = reinterpret_cast<std::byte*>(given[2].cast<std::uintptr_t>());
  queue.workspace_bytes = given[3].cast<std::size_t>();
  return queue;
}

void register_bernoulli(py::module_& m);
void register_categorical(py::module_& m);
void register_elementary(py::module_& m);
void register_gaussian_kl(py::module_& m);
void register_gaussian_kl_full(py::module_& m);
void register_gaussian_loss(py::module_& m);
void register_gmm(py::module_& m);
void register_gmm_fit_many(py::module_& m);
void register_gmm_products(py::module_& m);
void register_gmm_small(py::module_& m);
void register_gmm_sparse(py::module_& m);
void register_gmm_update(py::module_& m);
void register_kmeans(py::module_& m);
void register_logsumexp(py::module_& m);
void register_multi_sample(py::module_& m);
void register_scale(py::module_& m);
void register_vae_loss(py::module_& m);

}  // namespace elbokit::cuda_bindings
