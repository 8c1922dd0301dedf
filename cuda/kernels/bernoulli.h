// The kernel of the Bernoulli loss, which can take a Gaussian KL along in the same launch.
#pragma once

#include "common/loss.h"
#include "elbokit/bernoulli.h"
#include "elbokit/gaussian_kl.h"

namespace elbokit::cuda {

// Launches the rows of both terms and returns the number of blocks, each of which has written its
// sums. kl.rows may be 0.
template <class T>
std::int64_t launch_bernoulli(const Queue& queue, const BernoulliArgs<T>& args,
                              const GaussianKlArgs<T>& kl, LossSums* sums);

// The sum of the loss over all elements goes to `outputs`. Needs loss_workspace().
template <class T>
void bernoulli_loss(const Queue& queue, const BernoulliArgs<T>& args,
                    const LossOutputs<T>& outputs);

}  // namespace elbokit::cuda
