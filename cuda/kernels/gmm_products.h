// Statistics of mixtures of many components of which many matter to each row: both steps are
// products on the matrix units. The result is that of gmm_statistics to the rounding of float.
//
// A logit is a product of a row's z^2 and z = x - pivot with coefficients of the component, and the
// moments are products of the responsibilities with the same z^2 and z. Each factor is a sum of two
// float16, 22 bits together; the units sum up 16 terms of a logit, 64 of a moment, and everything
// beyond is summed in float and double. Where z is large beside x - mean digits are lost, so the
// means have to lie near each other.
#pragma once

#include "kernels/gmm.h"

namespace elbokit::cuda {

// Of any component, the squares of (mean - pivot) / standard deviation, times log2(e) / 2, may have
// squares that add up to the square of this: logits are then off by some 2^-22 of it, and a second
// moment by that part of the variance.
inline constexpr double kProductsSpread = 16;

// Whether the functions below take these mixtures: one mixture, diag or spherical.
bool gmm_products_serves(const GmmData& data, const GmmMixtures& mixtures, const Device& device);

std::size_t gmm_products_workspace(const GmmData& data, const GmmMixtures& mixtures,
                                   const Device& device);

// As gmm_statistics<float>. *failed, on the device, counts what did not fit: components beyond
// kProductsSpread, or whose sums lost too many digits; rows with values that are not finite or
// farther from the pivot than 150 of the feature's least standard deviations, or with a weight
// that is negative or beyond 3. Unless it is 0 the statistics are void: call gmm_statistics.
void gmm_products_statistics(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                             const GmmStatistics& statistics, std::int64_t* failed);

}  // namespace elbokit::cuda
