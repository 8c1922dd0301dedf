// The categorical decoder's negative log-likelihood on logits (cross-entropy of a softmax).
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class V>
struct CategoricalTerm {
  V loss;     // log sum_i e^(l_i) - l_t
  V inverse;  // d loss / d l_i = e^(l_i - largest) inverse for i != t,
  V share;    // and -share for i = t
};

// For the target's logit l_t, the largest logit, and rest = sum_{i != t} e^(l_i - largest). The
// target's own term is kept apart, so that a sure and right prediction keeps its digits.
template <class V>
ELBOKIT_INLINE CategoricalTerm<V> categorical_term(V logit, V largest, V rest) {
  const V infinity = constant<V>(Lane<V>(__builtin_huge_val()));
  const V gap = largest - logit;
  const V total = exp_nonpositive(-gap) + rest;
  const V plain = gap + select(total < infinity, log(total), total);
  // If the target's logit is the largest, total = 1 + rest.
  const V small = select(rest < constant<V>(1), rest, constant<V>(1));
  const V loss =
      select(gap == V{}, select(rest <= constant<V>(1), log1p_unit(small), plain), plain);
  const V inverse = constant<V>(1) / total;
  return {loss, inverse, rest * inverse};
}

}  // namespace elbokit::ELBOKIT_LEVEL
