// Mixtures of Gaussians on the GPU: the E-step, and the sufficient statistics of one E- and M-step.
// The mathematics and the shapes are those of elbokit/gmm.h; here all pointers are the device's.
#pragma once

#include "common/queue.h"
#include "elbokit/gmm.h"

namespace elbokit::cuda {

// The rows of n_mixtures mixtures.
struct GmmData {
  std::int64_t n_mixtures, n_samples, n_features;
  const void* x;  // (n_mixtures, n_samples, n_features), columns contiguous
  Element element;
  std::ptrdiff_t mixture_stride, row_stride;  // in elements; either may be 0
  const double* sample_weight;                // optional: (n_mixtures, n_samples), contiguous
};

// Their parameters, contiguous, shaped as in GmmParameters with n_mixtures in front.
struct GmmMixtures {
  Covariance covariance;
  std::int64_t n_components;
  const double *weights, *means, *precisions_cholesky;
};

// Each optional, contiguous: (n_mixtures, n_samples), (n_mixtures, n_samples, n_components) and
// again (n_mixtures, n_samples).
template <class T>
struct GmmRowOutputs {
  T *log_prob, *responsibilities;
  std::int64_t* labels;
};

// T is float for rows of float32 and narrower, double for rows of float64, or for rows of float32
// whose sums float cannot resolve. Sample weights may be negative. Sums are in double, as in
// GmmStatistics, with n_mixtures in front, and the same bits for the same device and shapes.
std::size_t gmm_workspace(const GmmData& data, const GmmMixtures& mixtures, bool wide,
                          const Device& device);
template <class T>
void gmm_estep(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
               const GmmRowOutputs<T>& outputs);
template <class T>
void gmm_statistics(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                    const GmmStatistics& statistics);

}  // namespace elbokit::cuda
