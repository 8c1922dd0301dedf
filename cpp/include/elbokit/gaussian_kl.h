// KL( N(mu, diag e^logvar) || N(prior_mu, diag e^prior_logvar) ), and its gradient.
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"
#include "elbokit/whole_vectors.h"

namespace elbokit {

struct KlTotals {
  double kl = 0;       // the divergence
  double charged = 0;  // the divergence with each dimension of each row floored at free_bits

  KlTotals& operator+=(const KlTotals& other) {
    kl += other.kl;
    charged += other.charged;
    return *this;
  }
};

// Inputs are (rows, cols) with col_stride 0 or 1. row_weight is a factor of all but `dimensions`.
// The CPU's kernels take Operands and Results of T alone, and know the gradients in the prior.
template <class T>
struct GaussianKlArgs {
  std::int64_t rows, cols;
  Operand mu, logvar;
  Matrix<const T> prior_mu, prior_logvar;  // both or neither: N(0, I)
  T free_bits;
  Vector<const T> row_weight;     // optional
  Vector<T> row_kl, row_charged;  // optional
  Result grad_mu, grad_logvar;    // optional, both: d charged / d ... * scale
  // Optional beside these, both: each element's, or summed over the rows, (2, cols), to add to.
  Matrix<T> grad_prior_mu, grad_prior_logvar;  // col_stride 1
  double* prior_sums;
  T* prior_work;  // optional, for a prior of one row for all: (3, in_whole_vectors(cols))
  T scale;
  double* dimensions;   // optional, (3, cols): sums over the rows of kl, mu and mu^2, to add to
  bool stream = false;  // the gradients exceed the caches: write past them
};

// Gradient of sum_rows factor * kl + charged_factor * charged.
template <class T>
struct GaussianKlBackwardArgs {
  std::int64_t rows, cols;
  Matrix<const T> mu, logvar;
  Matrix<const T> prior_mu, prior_logvar;  // both or neither
  T free_bits;
  Vector<const T> factor, charged_factor;
  Matrix<T> grad_mu, grad_logvar;              // col_stride 1
  Matrix<T> grad_prior_mu, grad_prior_logvar;  // optional, col_stride 1
};

#define ELBOKIT_DECLARE(level)                                                          \
  namespace level {                                                                     \
  template <class T>                                                                    \
  KlTotals gaussian_kl(const GaussianKlArgs<T>&, std::int64_t begin, std::int64_t end); \
  template <class T>                                                                    \
  void gaussian_kl_backward(const GaussianKlBackwardArgs<T>&, std::int64_t begin,       \
                            std::int64_t end);                                          \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {
template <class T>
KlTotals gaussian_kl(const GaussianKlArgs<T>& args);
template <class T>
void gaussian_kl_backward(const GaussianKlBackwardArgs<T>& args);
}  // namespace cpu

}  // namespace elbokit
