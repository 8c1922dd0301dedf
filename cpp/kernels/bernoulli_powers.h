// The first half of the Bernoulli loss of a span.
#pragma once

#include "kernels/rows.h"
#include "kernels/spans.h"
#include "math/bernoulli.h"

namespace elbokit::ELBOKIT_LEVEL {

// e^-|l| of each element, in a loop of its own: in one loop, the chain from the logit to the loss
// is longer than what a core looks ahead over several vectors.
template <class T>
class BernoulliPowers {
 public:
  void fill(const T* logits, int n) {
    for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
      store(powers_ + i, bernoulli_power<Vec<T>>(read(logits + i, count)));
    });
  }
  ELBOKIT_INLINE Vec<T> operator[](std::int64_t i) const { return load(powers_ + i); }

 private:
  alignas(kVectorBytes) T powers_[kSpan];
};

}  // namespace elbokit::ELBOKIT_LEVEL
