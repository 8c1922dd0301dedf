// The Gaussian components of a mixture, from differences x - mean.
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

// One whitened coordinate: precision (x - center) - bias. Subtracting the center first is exact
// where x is near it; the bias carries what the center's rounding left out.
template <class V, class S>
ELBOKIT_INLINE V whiten(V x, S center, S precision, S bias) {
  return (x - center) * precision - bias;
}

// log p(x) less the model's log_base, from the largest logit (log2 units) and the sum of the
// exponentiated logits less the largest; -inf where no component reaches the point.
template <class V>
ELBOKIT_INLINE V log_density(V largest, V sum) {
  constexpr Lane<V> ln2 = Lane<V>(0.69314718055994530942);
  const V infinity = constant<V>(Lane<V>(__builtin_huge_val()));
  return select(sum > V{}, largest * ln2 + log(sum), select(sum == V{}, -infinity, sum));
}

}  // namespace elbokit::ELBOKIT_LEVEL
