// log sum exp, safe for any values: all -inf gives -inf, +inf gives +inf, NaN gives NaN.
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

// What to subtract before exponentiating: the largest value, or 0 where that is infinite.
template <class V>
ELBOKIT_INLINE V logsumexp_shift(V largest) {
  return select(abs(largest) < constant<V>(Lane<V>(__builtin_huge_val())), largest, V{});
}

// log sum exp from the shift and sum exp(a - shift), which is 0, or at least 1, or not finite.
template <class V>
ELBOKIT_INLINE V logsumexp_close(V shift, V sum) {
  const V infinity = constant<V>(Lane<V>(__builtin_huge_val()));
  const V finite = shift + log(sum);
  return select(sum > V{}, select(sum < infinity, finite, sum), select(sum == V{}, -infinity, sum));
}

}  // namespace elbokit::ELBOKIT_LEVEL
