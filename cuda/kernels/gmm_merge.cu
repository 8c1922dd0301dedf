// From the sums of all ranges of rows, about the centers, to the statistics, about the means.
#include "kernels/gmm_scatter.h"

namespace elbokit::cuda {

namespace {

constexpr int kThreads = 128;

template <class T>
struct MergeArgs {
  GmmPlan plan;
  const double* means;
  GmmPartials partials;
  double* first;  // about the centers
  GmmStatistics statistics;
};

// Adds up one number over the ranges, in their order.
ELBOKIT_DEVICE double over_ranges(const double* sums, std::int64_t ranges, std::int64_t stride) {
  double sum = 0;
  for (std::int64_t range = 0; range < ranges; ++range) sum += sums[range * stride];
  return sum;
}

// Of component k and feature j: row 0 is that of the weights, then a row of first and one of second
// moments for each component of its four.
ELBOKIT_DEVICE double moment(const GmmPlan& plan, const double* sums, std::int64_t m,
                             std::int64_t k, std::int64_t j, std::int64_t kind) {
  const std::int64_t tiles = plan.moment_tiles();
  const std::int64_t block = k / kMomentTile * plan.feature_tiles() + j / kMomentTile;
  const std::int64_t tile = k % kMomentTile / 4 * plan.fours(plan.d) + j % kMomentTile / 4;
  const std::int64_t row = kind == 0 ? 0 : 1 + 4 * (kind - 1) + k % 4;
  const std::int64_t at =
      ((block * kMomentRows + row) * tiles + tile) * 4 + (kind == 0 ? k : j) % 4;
  return over_ranges(sums + m * plan.moment_ranges * plan.moments_size() + at, plan.moment_ranges,
                     plan.moments_size());
}

// A thread has a feature of a component, and with the first one its count.
template <class T>
__global__ void __launch_bounds__(kThreads) merge_moments(MergeArgs<T> args) {
  const GmmPlan& plan = args.plan;
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, m = blockIdx.z;
  if (e >= plan.k * plan.d) return;
  const std::int64_t k = e / plan.d, j = e % plan.d, at = m * plan.k * plan.d + e;
  const double* const sums = args.partials.moments;
  const double count = moment(plan, sums, m, k, j, 0), shift = residual<T>(args.means[at]);
  const double first = moment(plan, sums, m, k, j, 1);
  if (j == 0) args.statistics.counts[m * plan.k + k] = count;
  args.first[at] = first;
  args.statistics.first[at] = first - count * shift;
  if (plan.covariance == Covariance::diag)
    args.statistics.second[at] =
        moment(plan, sums, m, k, j, 2) - shift * (2 * first - count * shift);
}

// A warp has a component.
template <class T>
__global__ void __launch_bounds__(kThreads) merge_spherical(MergeArgs<T> args) {
  const GmmPlan& plan = args.plan;
  const std::int64_t k = std::int64_t{blockIdx.x} * (kThreads / kWarp) + warp_index();
  const std::int64_t m = blockIdx.z;
  if (k >= plan.k) return;
  double sum = 0;
  for (std::int64_t j = lane_index(); j < plan.d; j += kWarp) {
    const std::int64_t at = (m * plan.k + k) * plan.d + j;
    const double shift = residual<T>(args.means[at]);
    sum += moment(plan, args.partials.moments, m, k, j, 2) -
           shift * (2 * args.first[at] - args.statistics.counts[m * plan.k + k] * shift);
  }
  sum = warp_sum(sum);
  if (lane_index() == 0) args.statistics.second[m * plan.k + k] = sum;
}

// A block has a component, or all of them (tied), and a thread of it an entry of the lower
// triangle.
template <class T>
__global__ void __launch_bounds__(kThreads) merge_scatter(MergeArgs<T> args) {
  const GmmPlan& plan = args.plan;
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, m = blockIdx.z;
  const std::int64_t factors = plan.factors();
  const std::int64_t i = e / plan.d % plan.d, j = e % plan.d, which = e / (plan.d * plan.d);
  if (which >= factors || j > i) return;
  const double* const sums =
      args.partials.scatter + m * plan.scatter_ranges * plan.scatter_size() + scatter_at(i, j);
  double total = 0;
  for (std::int64_t k = which; k < (factors == 1 ? plan.k : which + 1); ++k) {
    const std::int64_t component = m * plan.k + k;
    const double* const first = args.first + component * plan.d;
    const double* const mean = args.means + component * plan.d;
    const double shift_i = residual<T>(mean[i]), shift_j = residual<T>(mean[j]);
    total += over_ranges(sums + k * plan.factor_size(), plan.scatter_ranges, plan.scatter_size()) -
             shift_i * first[j] - shift_j * first[i] +
             args.statistics.counts[component] * shift_i * shift_j;
  }
  double* const out = args.statistics.second + (m * factors + which) * plan.d * plan.d;
  out[i * plan.d + j] = total;
  out[j * plan.d + i] = total;
}

template <class T>
__global__ void __launch_bounds__(kThreads) merge_log_likelihood(MergeArgs<T> args) {
  const GmmPlan& plan = args.plan;
  const std::int64_t m = blockIdx.z;
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < plan.row_blocks; i += kThreads)
    sum += args.partials.log_likelihood[m * plan.row_blocks + i];
  sum = block_sum<kThreads>(sum, shared_memory<double>());
  if (threadIdx.x == 0) args.statistics.log_likelihood[m] = sum;
}

std::int64_t blocks_of(std::int64_t threads) { return (threads + kThreads - 1) / kThreads; }

}  // namespace

template <class T>
void merge_sums(const Queue& queue, const GmmPlan& plan, const double* means,
                const GmmPartials& partials, double* first, const GmmStatistics& statistics) {
  const MergeArgs<T> args{plan, means, partials, first, statistics};
  const int batch = static_cast<int>(plan.mixtures);
  launch(queue, {blocks_of(plan.k * plan.d), 1, batch}, kThreads, 0, merge_moments<T>, args);
  if (plan.covariance == Covariance::spherical)
    launch(queue, {blocks_of(plan.k * kWarp), 1, batch}, kThreads, 0, merge_spherical<T>, args);
  if (plan.triangular)
    launch(queue, {blocks_of(plan.factors() * plan.d * plan.d), 1, batch}, kThreads, 0,
           merge_scatter<T>, args);
  launch(queue, {1, 1, batch}, kThreads, sizeof(double) * kThreads / kWarp, merge_log_likelihood<T>,
         args);
}

template void merge_sums<float>(const Queue&, const GmmPlan&, const double*, const GmmPartials&,
                                double*, const GmmStatistics&);
template void merge_sums<double>(const Queue&, const GmmPlan&, const double*, const GmmPartials&,
                                 double*, const GmmStatistics&);

}  // namespace elbokit::cuda
