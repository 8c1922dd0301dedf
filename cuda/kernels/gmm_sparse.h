// Statistics of mixtures of many components of which few matter to each row, as is usual where
// there are many features. The result is that of gmm_statistics to the rounding of float.
//
// Products on the matrix units, in bfloat16, bound every logit from above and below. A component
// whose upper bound says that its responsibility is at most kSparseDropped of its share of the
// weights is left out of a row; the logits of the others are computed from differences, in float.
// Rows keep lists of those, components find their rows by bit masks, and nothing of size rows x
// components leaves a block but one bit each. Few rows may have longer lists.
#pragma once

#include "kernels/gmm.h"

namespace elbokit::cuda {

inline constexpr double kSparseDropped = 0x1p-44;

// Of a component that keeps at least so much of the count that its weight promised, 2^-32 of the
// count is lost at most.
inline constexpr double kSparseKept = 0x1p-12;

// Whether the functions below take these mixtures: one mixture, diag or spherical.
bool gmm_sparse_serves(const GmmData& data, const GmmMixtures& mixtures, const Device& device);

std::size_t gmm_sparse_workspace(const GmmData& data, const GmmMixtures& mixtures,
                                 const Device& device);

// As gmm_statistics<float>. *failed, on the device, counts what did not fit: rows to which more
// than 32 components matter, beyond one of 32 rows; rows whose values are not finite; and
// components that got less than kSparseKept of what their weight promised. Unless it is 0 the
// statistics are void: call gmm_statistics.
void gmm_sparse_statistics(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                           const GmmStatistics& statistics, std::int64_t* failed);

}  // namespace elbokit::cuda
