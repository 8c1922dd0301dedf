// The latent part of an importance weight: posterior N(mu, diag e^logvar), prior N(0, I).
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

// log p(z) - log q(z|x) per dimension: 1/2 ((z - mu)^2 e^-logvar + logvar - z^2), and its gradient.
// (Burda, Grosse & Salakhutdinov 2016, eq. 8; the normalising constants cancel.)
template <class V>
struct LatentRatio {
  V z, difference, pull, logvar;  // pull: (z - mu) e^-logvar

  ELBOKIT_INLINE V log_ratio() const { return (difference * pull + logvar - z * z) * Lane<V>(0.5); }
  ELBOKIT_INLINE V grad_z() const { return pull - z; }
  ELBOKIT_INLINE V grad_mu() const { return -pull; }
  ELBOKIT_INLINE V grad_logvar() const {
    return (constant<V>(1) - difference * pull) * Lane<V>(0.5);
  }
};

template <class V>
ELBOKIT_INLINE LatentRatio<V> latent_ratio(V z, V mu, V logvar, V precision) {
  const V difference = z - mu;
  return {z, difference, difference * precision, logvar};
}

}  // namespace elbokit::ELBOKIT_LEVEL
