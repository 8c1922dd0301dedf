// Sums in twice the precision.
#pragma once

#include "math/value.h"

namespace elbokit::ELBOKIT_LEVEL {

// Adds a term to the sum high + low; what high cannot hold goes to low (Knuth 1969).
ELBOKIT_INLINE void add_exactly(double& high, double& low, double term) {
  const double sum = high + term;
  const double term_rounded = sum - high;
  low += (high - (sum - term_rounded)) + (term - term_rounded);
  high = sum;
}

// (high + low) / divisor, correctly rounded but for rare cases: the mean of equal numbers is that
// number.
ELBOKIT_INLINE double divide(double high, double low, double divisor) {
  const double quotient = (high + low) / divisor;
  const double rest = __builtin_fma(-quotient, divisor, high) + low;
  return quotient + rest / divisor;
}

}  // namespace elbokit::ELBOKIT_LEVEL
