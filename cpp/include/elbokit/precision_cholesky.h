// The factor of a precision matrix from its covariance: Sigma = L L^T gives P = L^-T, upper
// triangular, with Sigma^-1 = P P^T; and that product.
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"

namespace elbokit {

// covariance and factor are (d, d) and contiguous, of the covariance the lower triangle is read;
// work holds 2 d^2 doubles. False, and factor as it was, if the covariance is not positive
// definite.
// precision_product() reads the upper triangle of the factor.
#define ELBOKIT_DECLARE(level)                                                                     \
  namespace level {                                                                                \
  bool precision_cholesky(std::int64_t d, const double* covariance, double* factor, double* work); \
  void precision_product(std::int64_t d, const double* factor, double* precision);                 \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {
// n matrices (n, d, d). Returns the first that is not positive definite, or -1.
std::int64_t precision_cholesky(std::int64_t n, std::int64_t d, const double* covariances,
                                double* factors);
void precision_product(std::int64_t n, std::int64_t d, const double* factors, double* precisions);
}  // namespace cpu

}  // namespace elbokit
