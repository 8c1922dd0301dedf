// The Bernoulli loss of a span as one sum.
#pragma once

#include "kernels/rows.h"
#include "kernels/spans.h"
#include "math/bernoulli.h"

namespace elbokit::ELBOKIT_LEVEL {

// Adds up the terms of at most a span whose logarithms nobody asks for one by one.
template <class T>
class BernoulliSum {
 public:
  // One by one: `= {}` makes GCC clear memory, and read it back.
  ELBOKIT_INLINE BernoulliSum() {
    for (auto& sum : linear_) sum = Vec<T>{};
  }
  // `v` as of for_each_ahead.
  ELBOKIT_INLINE void add(int v, Vec<T> linear, Vec<T> power) {
    linear_[v % kChains] += linear;
    product_[v % kChains].multiply(power);
  }
  ELBOKIT_INLINE T total() const {
    Vec<T> sum{};
    for (int i = 0; i < kChains; ++i) sum += linear_[i] + product_[i].log();
    return reduce_add<T>(sum);
  }

 private:
  static constexpr int kChains = 2;
  static_assert(kSpan / kLanes<T> / kChains + kAhead <= LogProduct<Vec<T>>::kMost, "overflows");

  Vec<T> linear_[kChains];
  LogProduct<Vec<T>> product_[kChains];
};

}  // namespace elbokit::ELBOKIT_LEVEL
