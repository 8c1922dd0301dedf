// The kernels of the Gaussian loss.
#pragma once

#include "common/loss.h"
#include "elbokit/gaussian_loss.h"

namespace elbokit::cuda {

// Bytes that gaussian_loss needs, with sums down the columns or without.
std::size_t gaussian_loss_workspace(std::int64_t cols, bool by_column);

// The sum of the loss over all elements, and of its gradient in logvar, go to `outputs`.
template <class T>
void gaussian_loss(const Queue& queue, const GaussianLossArgs<T>& args,
                   const LossOutputs<T>& outputs);

}  // namespace elbokit::cuda
