// The Bernoulli decoder's negative log-likelihood on logits.
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class V>
struct BernoulliTerm {
  V loss, grad;
};

// Written through e^-|l|, which never overflows, as a sum of terms of one sign, so that nothing
// cancels. `wrong` is the weight of the class that the logit denies, `weight` that of both.
template <class V, class Mask>
ELBOKIT_INLINE BernoulliTerm<V> bernoulli_term(V size, Mask positive, V wrong, V tail, V rest) {
  const V slope = wrong - tail;
  return {size * wrong + rest, select(positive, slope, -slope)};
}

// With logit l, target t in [0, 1], weight p of the positive class, and off = 1 - t, on = p t:
//   loss = off log(1 + e^l) + on log(1 + e^-l),
//   d loss / d l = off sigmoid(l) - on sigmoid(-l).
// PyTorch's binary_cross_entropy_with_logits defines p.
template <class V>
ELBOKIT_INLINE BernoulliTerm<V> bernoulli_term(V logit, V off, V on) {
  const V size = abs(logit), both = off + on;
  const auto positive = logit >= V{};
  const Logistic<V> unit = logistic(size);
  return bernoulli_term(size, positive, select(positive, off, on), both * unit.sigmoid,
                        both * unit.softplus);
}

// The same for p = 1: -log p(t | l).
template <class V>
ELBOKIT_INLINE BernoulliTerm<V> bernoulli_term(V logit, V target) {
  const V size = abs(logit);
  const auto positive = logit >= V{};
  const Logistic<V> unit = logistic(size);
  return bernoulli_term(size, positive, select(positive, constant<V>(1) - target, target),
                        unit.sigmoid, unit.softplus);
}

}  // namespace elbokit::ELBOKIT_LEVEL
