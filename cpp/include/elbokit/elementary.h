// The elementary functions of cpp/math/elementary.h over an array: for tests of their accuracy.
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"

namespace elbokit {

// logistic_share: x / (1 + x), which the losses take from e^-|logit|.
enum class Elementary {
  exp,
  expm1,
  exp_nonpositive,
  exp2_nonpositive,
  log,
  log1p,
  log1p_unit,
  logistic_share
};

#define ELBOKIT_DECLARE(level)                                     \
  namespace level {                                                \
  template <class T>                                               \
  void elementary(Elementary, std::int64_t n, const T* x, T* out); \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {
template <class T>
void elementary(Elementary function, std::int64_t n, const T* x, T* out);
}  // namespace cpu

}  // namespace elbokit
