// KL divergence of a Gaussian with a full covariance L L^T from N(0, I), for L triangular.
#pragma once

#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

// KL( N(mu, L L^T) || N(0, I) ) = 1/2 (|mu|^2 + |L|_F^2 - k - 2 sum_i log L_ii).
// (Cover & Thomas 2006, section 8.5; log det L L^T = 2 sum_i log L_ii.)
// An entry of mu, or of L below its diagonal, has the term x^2 / 2 and the gradient x; this is the
// term of an entry of the diagonal. L_ii - 1 is exact where the term is small.
template <class V>
struct KlDiagonal {
  V kl, grad;
};

template <class V>
ELBOKIT_INLINE KlDiagonal<V> kl_diagonal_term(V entry) {
  const V one = constant<V>(1), excess = (entry - one) * (entry + one);  // L_ii^2 - 1
  // log() wants a normal number: one below 2^-63 is taken 2^64 times as large.
  const auto small = entry < constant<V>(Lane<V>(0x1p-63));
  const V log_entry = log(select(small, entry * Lane<V>(0x1p64), entry)) -
                      select(small, constant<V>(Lane<V>(44.361419555836499803)), V{});
  return {excess * Lane<V>(0.5) - log_entry, excess / entry};
}

}  // namespace elbokit::ELBOKIT_LEVEL
