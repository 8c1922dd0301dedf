#include "bindings.h"

#ifdef ELBOKIT_EMULATION
#include "emulation/simt.h"
#endif

PYBIND11_MODULE(ELBOKIT_MODULE, m, pybind11::mod_gil_not_used()) {
  using namespace elbokit::cuda_bindings;
  using namespace pybind11::literals;
  m.doc() = "The CUDA kernels of elbokit. Their contracts: cpp/include/elbokit and cuda/kernels.";
  m.attr("version") = ELBOKIT_VERSION;
  m.attr("architectures") = ELBOKIT_CUDA_ARCHITECTURES;
#ifdef ELBOKIT_EMULATION
  m.def(
      "set_machine",
      [](unsigned schedule, int multiprocessors, std::size_t shared_bytes, int capability) {
        elbokit::emulation::machine() = {schedule, multiprocessors, shared_bytes, capability};
      },
      "schedule"_a, "multiprocessors"_a = 3, "shared_bytes"_a = 65536, "capability"_a = 75);
#endif
  m.def(
      "describe_device",
      [](int device) {
        elbokit::cuda::Queue queue;
        queue.device = device;
        const elbokit::cuda::Device& found = elbokit::cuda::device_of(queue);
        return pybind11::make_tuple(found.capability, found.name);
      },
      "device"_a);
  register_bernoulli(m);
  register_categorical(m);
  register_elementary(m);
  register_gaussian_kl(m);
  register_gaussian_kl_full(m);
  register_gaussian_loss(m);
  register_gmm(m);
  register_gmm_fit_many(m);
  register_gmm_products(m);
  register_gmm_small(m);
  register_gmm_sparse(m);
  register_gmm_update(m);
  register_kmeans(m);
  register_logsumexp(m);
  register_multi_sample(m);
  register_scale(m);
  register_vae_loss(m);
}
