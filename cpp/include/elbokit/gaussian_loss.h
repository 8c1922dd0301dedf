// Gaussian negative log-likelihood of a decoder's mean and log-variance, value and gradients in one
// pass.
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"

namespace elbokit {

// All operands are (rows, cols). T, the type computed in, is float for means narrower than that. A
// null output is not computed. Gradients are those of the loss times scale; that in the target is
// minus that in the mean.
template <class T>
struct GaussianLossArgs {
  std::int64_t rows, cols;
  Operand mean, target;
  T target_scale;              // targets are this times what lies in memory: 1 / 255 for bytes
  Operand logvar;              // null: 0
  T low, high;                 // logvar is clamped to them; its gradient is 0 outside
  Operand mask;                // null: 1; an element of mask 0 counts as nothing, whatever it holds
  Vector<const T> row_weight;  // optional
  Vector<T> row_loss;          // optional: the loss of each row
  Result grad_mean;
  // The gradient in logvar: of each element, or summed over a row, down a column, over all.
  Result grad_logvar;
  Vector<T> row_grad_logvar;
  double* col_grad_logvar;  // is added to
  T scale;
  bool stream_mean, stream_logvar;  // the gradient exceeds the caches: write past them
};

struct GaussianLossTotals {
  double loss = 0;
  double grad_logvar = 0;

  GaussianLossTotals& operator+=(const GaussianLossTotals& other) {
    loss += other.loss;
    grad_logvar += other.grad_logvar;
    return *this;
  }
};

#define ELBOKIT_DECLARE(level)                                                     \
  namespace level {                                                                \
  template <class T>                                                               \
  GaussianLossTotals gaussian_loss(const GaussianLossArgs<T>&, std::int64_t begin, \
                                   std::int64_t end);                              \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {
// The sum of the loss over all elements, and of its gradient in logvar if it is asked for.
template <class T>
GaussianLossTotals gaussian_loss(const GaussianLossArgs<T>& args);
}  // namespace cpu

}  // namespace elbokit
