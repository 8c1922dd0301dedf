// The Bernoulli decoder's negative log-likelihood on logits.
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class V>
struct BernoulliTerm {
  V loss, grad;
};

// loss = linear + log(1 + power), for loops that take one logarithm of many terms.
template <class V>
struct BernoulliParts {
  V linear, power, grad;
};

// e^-|l|: the long first half of a term, for loops that split it.
template <class V>
ELBOKIT_INLINE V bernoulli_power(V logit) {
  return exp_nonpositive(-abs(logit));
}

template <class V>
ELBOKIT_INLINE Bits<V> sign_bit(V x) {
  return bit_cast<Bits<V>>(x) & ~(~Bits<V>{} >> 1);
}

// x, negated where that is negative.
template <class V>
ELBOKIT_INLINE V with_sign_of(V sign, V x) {
  return bit_cast<V>(bit_cast<Bits<V>>(x) ^ sign_bit(sign));
}

// The weight of the class that the sign of a logit denies.
template <class V>
ELBOKIT_INLINE V denied(V logit, V off, V on) {
  return select(sign_bit(logit) == Bits<V>{}, off, on);
}

// With logit l, target t in [0, 1], weight p of the positive class, and off = 1 - t, on = p t:
//   loss = off log(1 + e^l) + on log(1 + e^-l),
//   d loss / d l = off sigmoid(l) - on sigmoid(-l).
// p = 1 is -log p(t | l); PyTorch's binary_cross_entropy_with_logits defines p. Written through
// e^-|l|, which never overflows, as a sum of terms of one sign, so that nothing cancels. `scale` is
// a factor of the derivative; `both` is off + on; `power` is bernoulli_power(l).
template <class V>
ELBOKIT_INLINE BernoulliTerm<V> bernoulli_term(V logit, V power, V off, V on, V both, V scale) {
  const V wrong = denied(logit, off, on);
  const Logistic<V> unit = logistic(power);
  return {abs(logit) * wrong + both * unit.log,
          (wrong - both * unit.share) * with_sign_of(logit, scale)};
}

// The same for p = 1.
template <class V>
ELBOKIT_INLINE BernoulliTerm<V> bernoulli_term(V logit, V power, V target, V scale) {
  const V one = constant<V>(1);
  return bernoulli_term(logit, power, one - target, target, one, scale);
}

template <class V>
ELBOKIT_INLINE BernoulliParts<V> bernoulli_parts(V logit, V power, V target, V scale) {
  const V wrong = denied(logit, constant<V>(1) - target, target);
  return {abs(logit) * wrong, power, (wrong - logistic_share(power)) * with_sign_of(logit, scale)};
}

// The product of 1 + u over many u in [0, 1], less 1: a sum of log(1 + u) takes one logarithm. The
// 1 is left out so that small u keep their digits: every step is right to two roundings of w.
template <class V>
class LogProduct {
 public:
  // So many factors cannot overflow.
  static constexpr int kMost = sizeof(Lane<V>) == 4 ? 126 : 1022;

  ELBOKIT_INLINE void multiply(V u) { w_ = w_ * u + (w_ + u); }
  ELBOKIT_INLINE V log() const { return log1p(w_); }

 private:
  V w_{};
};

}  // namespace elbokit::ELBOKIT_LEVEL
