// The negative evidence lower bound of a VAE with a Bernoulli decoder and a Gaussian posterior:
// both terms and their gradients in one parallel pass.
#pragma once

#include "elbokit/bernoulli.h"
#include "elbokit/gaussian_kl.h"

namespace elbokit {

struct VaeLossTotals {
  BernoulliTotals reconstruction;
  KlTotals kl;
};

namespace cpu {
// Row i of the loss has row i of both terms, so bernoulli.rows == kl.rows.
template <class T>
VaeLossTotals vae_loss(const BernoulliArgs<T>& bernoulli, const GaussianKlArgs<T>& kl);
}  // namespace cpu

}  // namespace elbokit
