// Categorical negative log-likelihood on logits (cross-entropy), value and gradient in one pass.
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"

namespace elbokit {

// Logits are (rows, classes, inner); there are rows * inner positions, each with a class to
// predict. Neighbouring rows, rows_per_sample of them, make a sample.
template <class T>
struct CategoricalArgs {
  std::int64_t rows, classes, inner, rows_per_sample;
  Operand logits;              // (rows, classes * inner), columns contiguous
  const std::int64_t* target;  // (rows * inner): the class of each position
  const std::uint8_t* mask;    // optional, the same: where it is 0 a position counts as nothing
  Vector<const T> weight;      // optional: of each sample
  Vector<T> sample_loss;       // optional: the loss of each sample
  Result grad;                 // optional: d loss / d logits * scale
  T scale;
  bool stream;  // grad exceeds the caches: write past them
};

struct CategoricalTotals {
  double loss = 0;
  std::int64_t outside =
      -1;  // the first position whose target is no class; then nothing else counts
};

#define ELBOKIT_DECLARE(level)                                                      \
  namespace level {                                                                 \
  /* Rows [begin, end), which are whole samples if sample_loss is asked for. */     \
  template <class T>                                                                \
  CategoricalTotals categorical_loss(const CategoricalArgs<T>&, std::int64_t begin, \
                                     std::int64_t end);                             \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {
template <class T>
CategoricalTotals categorical_loss(const CategoricalArgs<T>& args);
}  // namespace cpu

}  // namespace elbokit
