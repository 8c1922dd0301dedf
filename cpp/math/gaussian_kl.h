// KL divergence of two Gaussians with diagonal covariance, per dimension.
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

// KL( N(mu, e^logvar) || N(m, e^s) ) = 1/2 (e^d - 1 - d + (mu - m)^2 e^-s),  d = logvar - s.
// (Kingma & Welling 2014, appendix B, for m = s = 0.)
template <class V>
struct GaussianKl {
  V difference;  // mu - m
  V precision;   // e^-s
  V excess;      // e^d - 1
  V kl;

  ELBOKIT_INLINE V grad_mu() const { return difference * precision; }
  ELBOKIT_INLINE V grad_logvar() const { return excess * Lane<V>(0.5); }
  ELBOKIT_INLINE V grad_prior_mu() const { return -grad_mu(); }
  ELBOKIT_INLINE V grad_prior_logvar() const {
    return (excess + difference * grad_mu()) * Lane<V>(-0.5);
  }
};

template <class V>
ELBOKIT_INLINE GaussianKl<V> gaussian_kl_term(V difference, V log_ratio, V precision) {
  const V excess = expm1(log_ratio);
  return {difference, precision, excess,
          (excess - log_ratio + difference * difference * precision) * Lane<V>(0.5)};
}

}  // namespace elbokit::ELBOKIT_LEVEL
