// KL divergence of two Gaussians with diagonal covariance, per dimension.
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

// KL( N(mu, e^logvar) || N(m, e^s) ) = 1/2 (e^d - 1 - d + (mu - m)^2 e^-s),  d = logvar - s.
// (Kingma & Welling 2014, appendix B, for m = s = 0.)
// The square is taken of (mu - m) e^(-s / 2): that overflows later than e^-s does.
template <class V>
struct GaussianKl {
  V z;        // (mu - m) e^(-s / 2)
  V inverse;  // e^(-s / 2)
  V excess;   // e^d - 1
  V kl;

  ELBOKIT_INLINE V grad_mu() const { return z * inverse; }
  ELBOKIT_INLINE V grad_logvar() const { return excess * Lane<V>(0.5); }
  ELBOKIT_INLINE V grad_prior_mu() const { return -grad_mu(); }
  ELBOKIT_INLINE V grad_prior_logvar() const { return (excess + z * z) * Lane<V>(-0.5); }
};

template <class V>
ELBOKIT_INLINE GaussianKl<V> gaussian_kl_term(V difference, V log_ratio, V inverse) {
  const V excess = expm1(log_ratio), z = difference * inverse;
  return {z, inverse, excess, (excess - log_ratio + z * z) * Lane<V>(0.5)};
}

}  // namespace elbokit::ELBOKIT_LEVEL
