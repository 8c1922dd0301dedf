// The M-step of a mixture of Gaussians: what is decided about a variance, the same way everywhere.
#pragma once

#include "math/value.h"

#include <cmath>

namespace elbokit::ELBOKIT_LEVEL {

// The variance that is lost in the rounding of a mean.
ELBOKIT_INLINE double variance_of_rounding(double mean) {
  const double rounding = 4.0 * 0x1p-52 * mean;
  return rounding * rounding;
}

// A variance within the rounding of the means is none, before reg_covar is added.
ELBOKIT_INLINE double regularised(double variance, double rounding, double reg_covar) {
  return (variance <= rounding ? 0.0 : variance) + reg_covar;
}

// A pivot of the Cholesky factorisation, or a variance, that has a precision.
ELBOKIT_INLINE bool is_positive(double pivot) {
  return pivot > 0.0 && pivot < __builtin_huge_val();
}

// How many roundings of the moment that it came from a variance must exceed, given the features
// before it, for float32 sums to tell it. They add up at random, to 2^-23 sqrt(1000 / n) of the
// moment of n rows at most, and put the bound off by a quarter of the square of their share of the
// variance, times the component's weight, and by more while EM is on its way. Measured for 3000
// rows and two components: 3e-6 per row at 1250 roundings, 2e-4, and falling, at 110; for 200,000
// and eight 2e-6 and 4e-5. This keeps it at some 1e-5.
ELBOKIT_INLINE double least_roundings(double count, double mass) {
  const double roundings = 1e5 * std::sqrt(count) / mass;
  return roundings < 4.0 ? 4.0 : roundings < 1024.0 ? roundings : 1024.0;
}

// Whether sums of float32 products are too coarse for a variance, given the features before it:
// below so many roundings, or below what products under 2^-126 lose, which is up to 2^-150 of
// each row: sums of squares that are on average larger than 2^-120 do not show it.
// precision: the factor's diagonal; second, count: what the variance is a quotient of; mass: the
// count of all components.
ELBOKIT_INLINE bool below_float_resolution(double precision, double second, double count,
                                           double mass) {
  const double resolved = least_roundings(count, mass) * 0x1p-23 * second;
  return 1.0 / (precision * precision) < (resolved + 0x1p-120 * mass) / count;
}

}  // namespace elbokit::ELBOKIT_LEVEL
