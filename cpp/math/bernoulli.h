// The Bernoulli decoder's negative log-likelihood on logits.
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class V>
struct BernoulliTerm {
  V loss, grad;
};

// e^-|l|: the long first half of a term, for loops that split it.
template <class V>
ELBOKIT_INLINE V bernoulli_power(V logit) {
  return exp_nonpositive(-abs(logit));
}

// With logit l, target t in [0, 1], weight p of the positive class, and off = 1 - t, on = p t:
//   loss = off log(1 + e^l) + on log(1 + e^-l),
//   d loss / d l = off sigmoid(l) - on sigmoid(-l).
// p = 1 is -log p(t | l); PyTorch's binary_cross_entropy_with_logits defines p. Written through
// e^-|l|, which never overflows, as a sum of terms of one sign, so that nothing cancels. `scale` is
// a factor of the derivative; `both` is off + on; `power` is bernoulli_power(l).
template <class V>
ELBOKIT_INLINE BernoulliTerm<V> bernoulli_term(V logit, V power, V off, V on, V both, V scale) {
  const Bits<V> sign = bit_cast<Bits<V>>(logit) & ~(~Bits<V>{} >> 1);
  const V wrong = select(sign == Bits<V>{}, off, on);  // the weight of the class that is denied
  const Logistic<V> unit = logistic(power);
  return {abs(logit) * wrong + both * unit.log,
          (wrong - both * unit.share) * bit_cast<V>(bit_cast<Bits<V>>(scale) ^ sign)};
}

// The same for p = 1.
template <class V>
ELBOKIT_INLINE BernoulliTerm<V> bernoulli_term(V logit, V power, V target, V scale) {
  const V one = constant<V>(1);
  return bernoulli_term(logit, power, one - target, target, one, scale);
}

}  // namespace elbokit::ELBOKIT_LEVEL
