// What the M-steps of all covariance types have in common: a block's place, the means and weights,
// and what it found.
#pragma once

#include <cmath>

#include "common/reduce.h"
#include "elbokit/gmm_fit.h"
#include "kernels/gmm_update.h"
#include "math/gaussian_update.h"

namespace elbokit::cuda::m_step {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / kWarp;

// What a block leaves for its mixture's outcome.
struct Part {
  double gain, mass;
  std::int64_t overflow, coarse, beyond_float, singular;
};

// A block has a covariance: that of a component, or the one of tied.
struct Owner {
  std::int64_t mixture;
  std::int64_t first, number;  // its components, counted through all mixtures
  std::int64_t size;           // entries of the covariance
  double threshold;
  double mass, pooled;  // of all components: without the empty ones, and with them
  double count;         // what the covariance is divided by
};

// What a thread found in its share of the numbers.
struct Found {
  double gain = 0;
  bool finite = true, coarse = false, beyond_float = false, singular = false;
};

inline std::int64_t owners_of(const GmmUpdateArgs& args) {
  return args.covariance == Covariance::tied ? 1 : args.n_components;
}

ELBOKIT_DEVICE bool is_finite(double value) { return value - value == 0.0; }

// Differences of two such numbers may overflow, too.
ELBOKIT_DEVICE bool is_beyond_float(double value) { return std::fabs(value) > 0x1.fffffep126; }

// The count of a component, 0 if it is empty.
ELBOKIT_DEVICE double count_of(const GmmUpdateArgs& args, double threshold, std::int64_t at) {
  const double count = args.statistics.counts[at];
  return count > threshold ? count : 0.0;
}

ELBOKIT_DEVICE Owner owner_of_block(const GmmUpdateArgs& args, std::int64_t size, double* scratch) {
  const bool tied = args.covariance == Covariance::tied;
  const std::int64_t owners = tied ? 1 : args.n_components;
  Owner owner;
  owner.mixture = blockIdx.x / owners;
  owner.first = tied ? owner.mixture * args.n_components : std::int64_t{blockIdx.x};
  owner.number = tied ? args.n_components : 1;
  owner.size = size;
  owner.threshold = args.empty_below[owner.mixture];
  double mass = 0, pooled = 0;
  for (std::int64_t k = threadIdx.x; k < args.n_components; k += kThreads) {
    const std::int64_t at = owner.mixture * args.n_components + k;
    mass += count_of(args, owner.threshold, at);
    pooled += args.statistics.counts[at];
  }
  owner.mass = block_sum<kThreads>(mass, scratch);
  owner.pooled = block_sum<kThreads>(pooled, scratch);
  owner.count = tied ? owner.mass : count_of(args, owner.threshold, owner.first);
  return owner;
}

// Weights and means of the owner's components. shifts: of all means.
ELBOKIT_DEVICE void move(const GmmUpdateArgs& args, const Owner& owner, double* shifts,
                         Found& found) {
  for (std::int64_t k = threadIdx.x; k < owner.number; k += kThreads) {
    const std::int64_t at = owner.first + k;
    const double count = count_of(args, owner.threshold, at);
    const double weight = count / owner.mass;
    args.next.weights[at] = weight;
    if (count != 0.0)
      found.gain += count * (std::log(weight) - std::log(args.previous.weights[at]));
  }
  const std::int64_t d = args.n_features;
  for (std::int64_t i = threadIdx.x; i < owner.number * d; i += kThreads) {
    const std::int64_t at = owner.first * d + i;
    const double count = count_of(args, owner.threshold, owner.first + i / d);
    const double moment = args.statistics.first[at];
    const double shift = count > 0.0 ? moment / count : 0.0, mean = args.previous.means[at] + shift;
    shifts[at] = shift;
    args.next.means[at] = mean;
    found.finite = found.finite && is_finite(moment);
    found.beyond_float = found.beyond_float || is_beyond_float(mean);
  }
}

// An empty component keeps its covariance.
ELBOKIT_DEVICE void keep(const GmmUpdateArgs& args, std::int64_t begin, std::int64_t size,
                         Found& found) {
  for (std::int64_t i = begin + threadIdx.x; i < begin + size; i += kThreads) {
    const double factor = args.previous.precisions_cholesky[i];
    args.next.covariances[i] = args.previous.covariances[i];
    args.next.precisions_cholesky[i] = factor;
    found.beyond_float = found.beyond_float || is_beyond_float(factor);
  }
}

ELBOKIT_DEVICE void store(const Owner& owner, const Found& found, double* scratch, Part* parts) {
  auto* const counter = reinterpret_cast<long long*>(scratch);
  const double gain = block_sum<kThreads>(found.gain, scratch);
  const long long overflow = block_sum<kThreads>(found.finite ? 0LL : 1LL, counter);
  const long long coarse = block_sum<kThreads>(found.coarse ? 1LL : 0LL, counter);
  const long long beyond_float = block_sum<kThreads>(found.beyond_float ? 1LL : 0LL, counter);
  const long long singular = block_sum<kThreads>(found.singular ? 1LL : 0LL, counter);
  if (threadIdx.x == 0)
    parts[blockIdx.x] = {gain,   owner.mass,   overflow + (is_finite(owner.pooled) ? 0 : 1),
                         coarse, beyond_float, singular};
}

}  // namespace elbokit::cuda::m_step
