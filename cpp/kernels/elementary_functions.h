// The elementary functions by name, for the kernels of both back ends.
#pragma once

#include "elbokit/elementary.h"
#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class V>
ELBOKIT_INLINE V evaluate(Elementary function, V x) {
  switch (function) {
    case Elementary::exp:
      return exp(x);
    case Elementary::expm1:
      return expm1(x);
    case Elementary::exp_nonpositive:
      return exp_nonpositive(x);
    case Elementary::exp2_nonpositive:
      return exp2_nonpositive(x);
    case Elementary::log:
      return log(x);
    case Elementary::log1p:
      return log1p(x);
    case Elementary::log1p_unit:
      return log1p_unit(x);
    case Elementary::logistic_share:
      return logistic_share(x);
  }
  return x;
}

}  // namespace elbokit::ELBOKIT_LEVEL
