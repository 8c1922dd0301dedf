// The Bernoulli losses of what a thread has in flight, as one sum.
#pragma once

#include "common/plain.h"
#include "math/bernoulli.h"

namespace elbokit::cuda {

// Takes one logarithm of all.
template <class T>
class BernoulliRun {
 public:
  static constexpr int kMost = math::LogProduct<T>::kMost;

  ELBOKIT_DEVICE void add(T linear, T power) {
    linear_ += linear;
    product_.multiply(power);
  }
  ELBOKIT_DEVICE T total() const { return linear_ + product_.log(); }

 private:
  T linear_{};
  math::LogProduct<T> product_;
};

// Adds the losses of a vector of logits to `run` and returns their slopes times `factor`; seen(t)
// is told each target.
template <class T, class L, class X, int N, class Seen>
ELBOKIT_DEVICE Pack<T, N> add_bernoulli(const Pack<L, N>& logits, const Pack<X, N>& target,
                                        T target_scale, T factor, BernoulliRun<T>& run,
                                        Seen&& seen) {
  Pack<T, N> slope;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const T logit = widened<T>(logits.at[i]), t = widened<T>(target.at[i]) * target_scale;
    seen(t);
    const auto parts = math::bernoulli_parts<T>(logit, math::bernoulli_power(logit), t, factor);
    run.add(parts.linear, parts.power);
    slope.at[i] = parts.grad;
  }
  return slope;
}

}  // namespace elbokit::cuda
