// The Bernoulli decoder's negative log-likelihood on logits.
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class V>
struct BernoulliTerm {
  V loss, grad;
};

// With logit l, target t in [0, 1], weight p of the positive class, and off = 1 - t, on = p t:
//   loss = off log(1 + e^l) + on log(1 + e^-l),
//   d loss / d l = off sigmoid(l) - on sigmoid(-l).
// p = 1 is -log p(t | l); PyTorch's binary_cross_entropy_with_logits defines p. Written through
// e^-|l|, which never overflows, as a sum of terms of one sign, so that nothing cancels.
template <class V>
ELBOKIT_INLINE BernoulliTerm<V> bernoulli_term(V logit, V off, V on) {
  const V one = constant<V>(1);
  const V size = abs(logit);
  const V u = exp(-size);
  const auto positive = logit >= V{};
  const V wrong = select(positive, off, on);  // the weight of the class that the logit denies
  const V tail = (off + on) * (u / (one + u));
  return {size * wrong + (off + on) * log1p_unit(u), select(positive, wrong - tail, tail - wrong)};
}

}  // namespace elbokit::ELBOKIT_LEVEL
