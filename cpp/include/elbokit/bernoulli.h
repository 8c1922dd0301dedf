// Bernoulli negative log-likelihood on logits (binary cross-entropy with logits), value and
// gradient in one pass.
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"

namespace elbokit {

// All operands are (rows, cols); a null one is 1 everywhere. T, the type computed in, is float for
// logits narrower than that. A null output is not computed.
template <class T>
struct BernoulliArgs {
  std::int64_t rows, cols;
  Operand logits, target;
  T target_scale;  // targets are this times what lies in memory: 1 / 255 for bytes
  Operand weight, pos_weight;
  Operand mask;                // an element of mask 0 counts as nothing, whatever its logit
  Vector<const T> row_weight;  // optional
  Matrix<T> elementwise;       // optional: the loss of each element; col_stride 1
  Vector<T> row_loss;          // optional: the loss of each row
  Result grad;                 // optional: d loss / d logits * scale; may lie over logits
  T scale;
  bool count;   // whether to count targets out of range
  bool stream;  // grad exceeds the caches: write past them
};

struct BernoulliTotals {
  double loss = 0;
  std::int64_t out_of_range = 0;  // targets below 0 or above 1 that are not masked, if asked for

  BernoulliTotals& operator+=(const BernoulliTotals& other) {
    loss += other.loss;
    out_of_range += other.out_of_range;
    return *this;
  }
  friend BernoulliTotals operator+(BernoulliTotals a, const BernoulliTotals& b) { return a += b; }
};

#define ELBOKIT_DECLARE(level)                                                                   \
  namespace level {                                                                              \
  template <class T>                                                                             \
  BernoulliTotals bernoulli_loss(const BernoulliArgs<T>&, std::int64_t begin, std::int64_t end); \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {
// The sum of the loss over all elements.
template <class T>
BernoulliTotals bernoulli_loss(const BernoulliArgs<T>& args);
}  // namespace cpu

}  // namespace elbokit
