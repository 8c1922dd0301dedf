// The M-step of a mixture of Gaussians: what is decided about a variance, the same way everywhere.
#pragma once

#include "math/value.h"

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

// Whether sums of float32 products are too coarse for a variance, given the features before it:
// below 1024 of their rounding errors, or below what products under 2^-126 lose, which is up to
// 2^-150 of each row: sums of squares that are on average larger than 2^-120 do not show it.
// The error of the log-likelihood grows with the square of the roundings' share: at 1024 it is
// some 3e-6 per row, at 100 2e-4, and the bound falls.
// precision: the factor's diagonal; second, count: what the variance is a quotient of; mass: the
// count of all components.
ELBOKIT_INLINE bool below_float_resolution(double precision, double second, double count,
                                           double mass) {
  return 1.0 / (precision * precision) < (0x1p-13 * second + 0x1p-120 * mass) / count;
}

}  // namespace elbokit::ELBOKIT_LEVEL
