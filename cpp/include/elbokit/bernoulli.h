// Bernoulli negative log-likelihood on logits (binary cross-entropy with logits), value and
// gradient in one pass.
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"

namespace elbokit {

// Inputs are (rows, cols) with col_stride 0 or 1; outputs have col_stride 1. A null output is
// not computed.
template <class T>
struct BernoulliArgs {
  std::int64_t rows, cols;
  Matrix<const T> logits, target;
  Matrix<const T> weight, pos_weight;  // optional
  Matrix<T> elementwise;               // optional: the loss of each element
  Vector<T> row_loss;                  // optional: the loss of each row
  Matrix<T> grad;                      // optional: d loss / d logits * scale
  T scale;
};

#define ELBOKIT_DECLARE(level)                                                          \
  namespace level {                                                                     \
  template <class T>                                                                    \
  double bernoulli_loss(const BernoulliArgs<T>&, std::int64_t begin, std::int64_t end); \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {
// The sum of the loss over all elements.
template <class T>
double bernoulli_loss(const BernoulliArgs<T>& args);
}  // namespace cpu

}  // namespace elbokit
