// Mixture of Gaussians: the gradient of a weighted sum of log-densities, in the rows and in the
// parameters. It is the responsibility-weighted gradient of the components' log-densities.
#pragma once

#include "elbokit/gmm.h"

namespace elbokit {

// The gradient of sum_n grad_n log p(x_n), in the shapes of x and of the parameters; null: not
// wanted. With r the responsibilities, d_nk = x_n - mean_k and Lambda_k = P_k P_k^T:
//   x                    -grad_n sum_k r_nk Lambda_k d_nk
//   weights              sum_n grad_n N_k(x_n) / p(x_n)
//   means                Lambda_k sum_n grad_n r_nk d_nk
//   precisions_cholesky  sum_n grad_n r_nk (diag(1 / P_k,ii) - triu(d_nk d_nk^T P_k)), for diag its
//                        diagonal, summed over k (tied) or the diagonal (spherical)
// Rows with p(x_n) = 0 count for nothing. The parameters' gradients are wanted all or none.
template <class T>
struct GmmGradient {
  Matrix<T> x;  // col_stride 1
  T *weights, *means, *precisions_cholesky;
};

namespace cpu {

// Of n_mixtures independent mixtures. grad is what the rows bring as sample_weight, of any sign.
// The same bits for any number of threads.
template <class T>
void gmm_gradient(std::int64_t n_mixtures, const GmmRows<T>* rows, const GmmParameters* parameters,
                  const GmmGradient<T>* gradients);

}  // namespace cpu

}  // namespace elbokit
