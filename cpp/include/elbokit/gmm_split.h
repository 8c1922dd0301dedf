// Features in two parts, of many Gaussians in many ways: the marginal of the one part (observed)
// and the conditional of the other (hidden) given it.
#pragma once

#include <cstdint>

namespace elbokit::cpu {

// Factors P are upper triangular, Sigma^-1 = P P^T, (n_matrices, d, d). order (n_splits, d) has the
// n_observed = o observed features first, then the m = d - o hidden ones. Outputs, for each
// split and matrix:
//   observed (o, o)     the factor of Sigma_oo^-1
//   hidden (m, m)       the factor P_mm of the conditional precision
//   regression (m, o)   B of the conditional mean mu_m + B (x_o - mu_o)
//   covariances (m, m)  of the conditional
//
// With the features in the new order P = [[P_oo, P_om], [0, P_mm]] has it all, and
// B = -P_mm^-T P_om^T. P gets that order by its rows, and its triangle back by an RQ decomposition:
// no covariance is formed, which would square the condition number.
void gmm_split(std::int64_t n_splits, std::int64_t n_matrices, std::int64_t n_features,
               std::int64_t n_observed, const double* factors, const std::int64_t* order,
               double* observed, double* hidden, double* regression, double* covariances);

}  // namespace elbokit::cpu
