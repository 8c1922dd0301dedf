// The kernel of the KL divergence of Gaussians with full covariance.
#pragma once

#include "common/loss.h"
#include "elbokit/gaussian_kl_full.h"

namespace elbokit::cuda {

// The sum of the KL over all rows goes to `outputs`. An entry of the diagonal that is not positive
// gives NaN: the KL of its row and its own gradient. Needs loss_workspace().
template <class T>
void gaussian_kl_full(const Queue& queue, const GaussianKlFullArgs<T>& args,
                      const LossOutputs<T>& outputs);

}  // namespace elbokit::cuda
