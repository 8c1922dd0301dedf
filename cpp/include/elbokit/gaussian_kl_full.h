// KL( N(mu, L L^T) || N(0, I) ) for a lower triangular L, and its gradient.
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"

namespace elbokit {

// Entries of L above the diagonal are not read, and have gradient 0.
template <class T>
struct GaussianKlFullArgs {
  std::int64_t rows, dims;
  Matrix<const T> mu;             // (rows, dims)
  Matrix<const T> scale_tril;     // (rows, dims * dims): L of each row; col_stride 1
  Vector<const T> row_weight;     // optional
  Vector<T> row_kl;               // optional
  Matrix<T> grad_mu, grad_scale;  // optional, both, shaped as mu and scale_tril; col_stride 1
  T scale;                        // factor of the gradients
};

struct KlFullTotals {
  double kl = 0;
  std::int64_t not_positive = -1;  // the first row whose diagonal is not positive, or -1
};

#define ELBOKIT_DECLARE(level)                                                    \
  namespace level {                                                               \
  template <class T>                                                              \
  KlFullTotals gaussian_kl_full(const GaussianKlFullArgs<T>&, std::int64_t begin, \
                                std::int64_t end);                                \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {
template <class T>
KlFullTotals gaussian_kl_full(const GaussianKlFullArgs<T>& args);
}  // namespace cpu

}  // namespace elbokit
