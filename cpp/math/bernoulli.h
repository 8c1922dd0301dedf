// The Bernoulli decoder's negative log-likelihood on logits.
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class V>
struct BernoulliTerm {
  V loss, grad;
};

// With logit l, target t in [0, 1] and weight p of the positive class,
//   loss = (1 - t) l + (1 + (p - 1) t) log(1 + e^-l),
//   d loss / d l = (1 - t) - (1 + (p - 1) t) sigma(-l),
// both through e^-|l|, which never overflows. p = 1 is -log p(t | l). PyTorch's
// binary_cross_entropy_with_logits defines p.
template <class V>
ELBOKIT_INLINE BernoulliTerm<V> bernoulli_term(V logit, V target, V positive_factor) {
  const V one = constant<V>(1);
  const V u = exp(-abs(logit));
  const V softplus = log1p_unit(u) + max(-logit, V{});
  const V sigmoid_of_minus = select(logit < V{}, one, u) / (one + u);
  const V off = one - target;
  return {off * logit + positive_factor * softplus, off - positive_factor * sigmoid_of_minus};
}

}  // namespace elbokit::ELBOKIT_LEVEL
