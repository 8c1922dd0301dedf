// KL of diagonal Gaussians: one launch for the rows, a second one adds up the blocks' sums.
#pragma once

#include "common/loss.h"
#include "elbokit/gaussian_kl.h"

namespace elbokit::cuda {

// Adds to args.dimensions, if it is there. `partial` has dimensions_partial(cols) elements.
template <class T>
void add_to_dimensions(const Queue& queue, const GaussianKlArgs<T>& args, double* partial);

inline std::int64_t dimensions_partial(std::int64_t cols) { return kColumnChunks * 3 * cols; }

// Bytes that the functions below need, with sums over dimensions or without.
std::size_t gaussian_kl_workspace(std::int64_t cols, bool dimensions);

template <class T>
void gaussian_kl(const Queue& queue, const GaussianKlArgs<T>& args, const LossOutputs<T>& outputs);
template <class T>
void gaussian_kl_backward(const Queue& queue, const GaussianKlBackwardArgs<T>& args);

}  // namespace elbokit::cuda
