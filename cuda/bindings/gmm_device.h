// A batch of mixtures in the GPU's memory, as tensors.
#pragma once

#include "bindings/gmm_batch.h"
#include "kernels/gmm.h"
#include "loss_outputs.h"

namespace elbokit::cuda_bindings {

// The rows of one mixture, of which there are n_mixtures at that distance; or, if they are cut, of
// all.
inline cuda::GmmData gmm_data(const py::object& X, std::int64_t n_mixtures,
                              std::int64_t mixture_stride, const py::object& sample_weight,
                              bool cut = false) {
  View x = view_of(X, "X", false);
  x = view_of(X, "X", x.rows, x.cols, false);
  return {n_mixtures,
          x.rows,
          x.cols,
          reinterpret_cast<const void*>(x.address),
          x.element,
          mixture_stride,
          x.row_stride,
          numbers<double>(sample_weight, "sample_weight", (cut ? 1 : n_mixtures) * x.rows)};
}

}  // namespace elbokit::cuda_bindings
