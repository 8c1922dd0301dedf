#include "kernels/gmm_products.h"

#include "gmm_attempts.h"

namespace elbokit::cuda_bindings {

void register_gmm_products(py::module_& m) {
  register_attempt<cuda::gmm_products_serves, cuda::gmm_products_workspace,
                   cuda::gmm_products_statistics>(m, "gmm_products");
}

}  // namespace elbokit::cuda_bindings
