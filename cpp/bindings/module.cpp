#include "bindings/bindings.h"

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  using namespace elbokit::bindings;
  m.doc() = "The compiled CPU kernels of elbokit. Their contracts: cpp/include/elbokit.";
  register_bernoulli(m);
  register_buffer(m);
  register_categorical(m);
  register_elementary(m);
  register_gaussian_kl(m);
  register_gaussian_kl_full(m);
  register_gaussian_loss(m);
  register_gmm(m);
  register_gmm_fit(m);
  register_gmm_split(m);
  register_kmeans(m);
  register_logsumexp(m);
  register_multi_sample(m);
  register_plain_tensors(m);
  register_precision_cholesky(m);
  register_system(m);
  register_vae_loss(m);
}
