// What the seeding begins with.
#pragma once

#include "kernels/kmeans_rows.h"

namespace elbokit::cuda {

// Finds the pivot, the median of some rows, and the mean variance, which goes to the status too.
template <class S>
void kmeans_spread(const Queue& queue, const KMeansData& data, const KMeansRun& run);

}  // namespace elbokit::cuda
