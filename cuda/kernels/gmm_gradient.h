// The gradient of a weighted sum of log-densities in the rows.
#pragma once

#include "kernels/gmm.h"

namespace elbokit::cuda {

std::size_t gmm_row_gradient_workspace(const GmmData& data, const GmmMixtures& mixtures, bool wide,
                                       const Device& device);

// -sample_weight_n sum_k r_nk Lambda_k (x_n - mean_k), (n_mixtures, n_samples, n_features),
// contiguous; as GmmGradient::x in elbokit/gmm_gradient.h.
template <class T>
void gmm_row_gradient(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                      T* gradient);

// sum_n sample_weight_n N_k(x_n) / p(x_n), for components of so small a weight that it cannot be
// had from their counts; what the sum over the blocks is. partial: (n_mixtures, kWeightBlocks,
// n_components), all 0 before; it stays so for the other components.
inline constexpr int kWeightBlocks = 64;
void gmm_small_weights(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                       double* partial);

}  // namespace elbokit::cuda
