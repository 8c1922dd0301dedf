// Squared distances, summed feature by feature for a group of rows.
#pragma once

#include "elbokit/gmm.h"
#include "math/gaussian.h"

namespace elbokit::ELBOKIT_LEVEL {

// Row vectors that one pass of a micro-kernel keeps in registers.
inline constexpr int kRowVectors = kVectorRegisters >= 32 ? 4 : 2;

template <class T>
inline constexpr int kGroup = kRowVectors * kLanes<T>;

// The largest logit of each row of a group so far.
template <class T>
struct Largest {
  Vec<T> row[kRowVectors];

  ELBOKIT_INLINE Largest() {
    for (auto& v : row) v = broadcast<T>(-static_cast<T>(__builtin_huge_val()));
  }
  ELBOKIT_INLINE void store_to(T* to) const {
    for (int v = 0; v < kRowVectors; ++v) store(to + v * kLanes<T>, row[v]);
  }
};

// Longer sums than this are compensated.
inline constexpr std::int64_t kPlainFeatures = 64;

// a + b = sum + error, exactly (Knuth 1969).
template <class V>
ELBOKIT_INLINE void two_sum(V a, V b, V& sum, V& error) {
  sum = a + b;
  const V b_rounded = sum - a;
  error = (a - (sum - b_rounded)) + (b - b_rounded);
}

template <class T, bool Compensated>
class Distance {
 public:
  ELBOKIT_INLINE void add_square(Vec<T> y) { sum_ += y * y; }

  // To be called every few features, and after the last.
  ELBOKIT_INLINE void flush() {
    if constexpr (Compensated) {
      add(sum_);
      sum_ = Vec<T>{};
    }
  }

  // Adds the sum of a few features' squares.
  ELBOKIT_INLINE void add(Vec<T> squares) {
    if constexpr (Compensated) {
      Vec<T> error;
      two_sum(high_, squares, high_, error);
      low_ += error;
    } else {
      sum_ += squares;
    }
  }

  // Writes log_const - distance, and returns it.
  template <class Rows>
  ELBOKIT_INLINE Vec<T> store_logit(T log_const, const Rows out, std::ptrdiff_t at) {
    if constexpr (Compensated) {
      Vec<T> logit, error;
      two_sum(broadcast<T>(log_const), -high_, logit, error);
      store(out.high + at, logit);
      // A weight of 0 makes the logit -inf, and nothing of it may become NaN.
      store(out.low + at, select(logit - logit == Vec<T>{}, error - low_, Vec<T>{}));
      return logit;
    } else {
      const Vec<T> logit = log_const - sum_;
      store(out.high + at, logit);
      return logit;
    }
  }

 private:
  Vec<T> sum_{}, high_{}, low_{};
};

}  // namespace elbokit::ELBOKIT_LEVEL
