// One register function per stem.
#pragma once

#include <pybind11/pybind11.h>

namespace elbokit::bindings {

void register_bernoulli(pybind11::module_& m);
void register_buffer(pybind11::module_& m);
void register_categorical(pybind11::module_& m);
void register_elementary(pybind11::module_& m);
void register_gaussian_kl(pybind11::module_& m);
void register_gaussian_kl_full(pybind11::module_& m);
void register_gaussian_loss(pybind11::module_& m);
void register_gmm(pybind11::module_& m);
void register_gmm_fit(pybind11::module_& m);
void register_gmm_split(pybind11::module_& m);
void register_kmeans(pybind11::module_& m);
void register_logsumexp(pybind11::module_& m);
void register_multi_sample(pybind11::module_& m);
void register_plain_tensors(pybind11::module_& m);
void register_precision_cholesky(pybind11::module_& m);
void register_system(pybind11::module_& m);
void register_vae_loss(pybind11::module_& m);

}  // namespace elbokit::bindings
