// The factors of many covariances, with the caller's scratch.
#pragma once

#include "dispatch/workspaces.h"
#include "elbokit/precision_cholesky.h"

namespace elbokit::cpu {

// As the contract's, but leaves out the matrices whose `counts` (optional, n) are 0.
std::int64_t precision_cholesky(std::int64_t n, std::int64_t d, const double* covariances,
                                double* factors, const double* counts, bool threads,
                                dispatch::Workspaces<double>& workspaces);

}  // namespace elbokit::cpu
