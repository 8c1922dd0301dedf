// The Bernoulli loss of a row as one sum.
#pragma once

#include "kernels/rows.h"
#include "kernels/spans.h"
#include "math/bernoulli.h"

namespace elbokit::ELBOKIT_LEVEL {

// Adds up, span by span, terms whose logarithms nobody asks for one by one.
template <class T>
class BernoulliSum {
 public:
  ELBOKIT_INLINE BernoulliSum() { clear(); }

  // `v` as of for_each_ahead.
  ELBOKIT_INLINE void add(int v, Vec<T> linear, Vec<T> power) {
    linear_[v % kChains] += linear;
    product_[v % kChains].multiply(power);
  }
  ELBOKIT_INLINE void end_span() {
    if (++spans_ == kMostSpans) flush();
  }
  ELBOKIT_INLINE double total() {
    if (spans_ > 0) flush();
    return total_;
  }

 private:
  static constexpr int kChains = 2;
  static constexpr int kMostTerms = kSpan / kLanes<T> / kChains + kAhead;  // of a chain in a span
  // As many as may be summed in T, and whose product does not overflow.
  static constexpr int kMostSpans = kRun / kMostTerms > 1 ? kRun / kMostTerms : 1;
  static_assert(kMostSpans * kMostTerms <= LogProduct<Vec<T>>::kMost, "overflows");

  ELBOKIT_INLINE void flush() {
    Vec<T> sum{};
    for (int i = 0; i < kChains; ++i) sum += linear_[i] + product_[i].log();
    total_ += reduce_add_wide(sum);
    clear();
  }
  // One by one: `= {}` makes GCC clear memory, and read it back.
  ELBOKIT_INLINE void clear() {
    for (int i = 0; i < kChains; ++i) {
      linear_[i] = Vec<T>{};
      product_[i] = LogProduct<Vec<T>>();
    }
    spans_ = 0;
  }

  Vec<T> linear_[kChains];
  LogProduct<Vec<T>> product_[kChains];
  double total_ = 0;
  int spans_;
};

}  // namespace elbokit::ELBOKIT_LEVEL
