#include "kernels/gmm_sparse.h"

#include "gmm_attempts.h"

namespace elbokit::cuda_bindings {

void register_gmm_sparse(py::module_& m) {
  register_attempt<cuda::gmm_sparse_serves, cuda::gmm_sparse_workspace,
                   cuda::gmm_sparse_statistics>(m, "gmm_sparse");
}

}  // namespace elbokit::cuda_bindings
