// Both terms of a VAE's bound in one launch; a second one adds up the blocks' sums.
#pragma once

#include "common/loss.h"
#include "elbokit/vae_loss.h"

namespace elbokit::cuda {

// As cpu::vae_loss. Rows' totals are written if kl.row_charged is there, and become
// loss + beta * charged if `outputs` says so. Needs gaussian_kl_workspace() of the latent size.
template <class T>
void vae_loss(const Queue& queue, const BernoulliArgs<T>& bernoulli, const GaussianKlArgs<T>& kl,
              const LossOutputs<T>& outputs);

}  // namespace elbokit::cuda
