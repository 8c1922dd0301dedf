// Mixtures of few features: one pass over the rows with everything in registers and shared memory.
#pragma once

#include "kernels/gmm.h"

namespace elbokit::cuda {

// Whether the functions below take these mixtures.
bool gmm_is_small(const GmmData& data, const GmmMixtures& mixtures, bool wide,
                  const Device& device);

std::size_t gmm_small_workspace(const GmmData& data, const GmmMixtures& mixtures, bool wide,
                                const Device& device);

// As gmm_statistics.
template <class T>
void gmm_small_statistics(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                          const GmmStatistics& statistics);

}  // namespace elbokit::cuda
