// The Gaussian decoder's negative log-likelihood, per element.
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class V>
struct GaussianNoise {
  V inverse;  // 1 / sigma
  V offset;   // log sigma + 1/2 log(2 pi)
};

template <class V>
ELBOKIT_INLINE GaussianNoise<V> gaussian_noise(V logvar) {
  const V half = logvar * Lane<V>(0.5);
  return {exp(-half), half + Lane<V>(0.91893853320467274178)};
}

template <class V>
struct ClampedNoise {
  GaussianNoise<V> noise;
  V passes;  // bits: all of them where gradients pass the clamp, none where its slope is 0

  // A product with 0 would let infinite gradients through, as NaN.
  ELBOKIT_INLINE V through(V grad) const {
    return bit_cast<V>(bit_cast<Bits<V>>(grad) & bit_cast<Bits<V>>(passes));
  }
};

// Of a log-variance that is clamped to [low, high]; written so that NaN passes.
template <class V>
ELBOKIT_INLINE ClampedNoise<V> clamped_noise(V logvar, V low, V high) {
  const auto below = (logvar < low);
  const auto above = (logvar > high);
  const V clamped = select(below, low, select(above, high, logvar));
  const V all = bit_cast<V>(~Bits<V>{});
  return {gaussian_noise<V>(clamped), select(below, V{}, select(above, V{}, all))};
}

template <class V>
struct GaussianTerm {
  V loss, grad_mean, grad_logvar;
};

// -log N(x | m, e^v) = 1/2 (log(2 pi) + v + (m - x)^2 e^-v), given m - x.
// The square is taken of (m - x) e^(-v / 2): that overflows later than e^-v does.
template <class V>
ELBOKIT_INLINE GaussianTerm<V> gaussian_term(V difference, GaussianNoise<V> noise) {
  const V z = difference * noise.inverse, half = z * z * Lane<V>(0.5);
  return {half + noise.offset, z * noise.inverse, constant<V>(Lane<V>(0.5)) - half};
}

}  // namespace elbokit::ELBOKIT_LEVEL
