// The pivot, and how far the rows spread.
#include "kernels/kmeans_spread.h"

namespace elbokit::cuda {

namespace {

constexpr int kPivotRows = 256;

std::int64_t pivot_rows(std::int64_t n_samples) {
  return std::min(n_samples, std::clamp<std::int64_t>(n_samples / 16, 15, kPivotRows));
}

// A block finds a feature's median among some rows, by counting the values before each.
template <class S>
__global__ void __launch_bounds__(kPivotRows)
    pivot_kernel(TypedRows<S> rows, int count, Computed<S>* pivot) {
  using T = Computed<S>;
  auto* const values = shared_memory<T>();
  const int i = static_cast<int>(threadIdx.x), feature = static_cast<int>(blockIdx.x);
  const T own = rows.at(i < count ? i * rows.n_samples / count : 0, feature);
  values[i] = own;
  block_barrier();
  // A NaN comes last; the rows' spread will tell of it.
  const auto before = [](T a, T b) { return a < b || (b != b && a == a); };
  int rank = 0;
  for (int j = 0; j < count; ++j)
    rank += before(values[j], own) || (j < i && !before(own, values[j]));
  if (i < count && rank == count / 2) pivot[feature] = own;
}

// Each block sums up its rows: every feature less the pivot, all their squares, the weights.
template <class S>
__global__ void __launch_bounds__(kKMeansThreads)
    spread_kernel(TypedRows<S> rows, bool weigh, double* slices) {
  using T = Computed<S>;
  auto* const sums = shared_memory<double>();
  const int thread = static_cast<int>(threadIdx.x), d = rows.n_features;
  const int across = d < kKMeansThreads ? d : kKMeansThreads, down = kKMeansThreads / across;
  const int col = thread % across, part = thread / across;
  const std::int64_t begin = rows.n_samples * blockIdx.x / gridDim.x;
  const std::int64_t end = rows.n_samples * (blockIdx.x + 1) / gridDim.x;
  double* const out = slices + std::int64_t{blockIdx.x} * (d + 2);
  double squares = 0, weights = 0;
  for (int first = 0; first < d; first += across) {
    const int feature = first + col;
    double sum = 0;
    if (part < down && feature < d) {
      const T pivot = rows.pivot[feature];
#pragma unroll 8
      for (std::int64_t row = begin + part; row < end; row += down) {
        const T weight = weigh ? rows.weight_of(row) : T(1);
        const T value = rows.at(row, feature) - pivot;
        sum += static_cast<double>(weight * value);
        squares += static_cast<double>(weight * value * value);
        if (feature == 0) weights += static_cast<double>(weight);
      }
    }
    sums[thread] = sum;
    block_barrier();
    if (part == 0 && feature < d) {
      for (int p = 1; p < down; ++p) sum += sums[p * across + col];
      out[feature] = sum;
    }
    block_barrier();
  }
  squares = block_sum<kKMeansThreads>(squares, sums);
  weights = block_sum<kKMeansThreads>(weights, sums);
  if (thread == 0) out[d] = squares, out[d + 1] = weights;
}

__global__ void __launch_bounds__(kKMeansThreads)
    variance_kernel(const double* totals, int d, double* variance, KMeansStatus* status) {
  const double weights = totals[d + 1];
  double means = 0;
  for (int j = static_cast<int>(threadIdx.x); j < d; j += kKMeansThreads)
    means += (totals[j] / weights) * (totals[j] / weights);
  means = block_sum<kKMeansThreads>(means, shared_memory<double>());
  if (threadIdx.x != 0) return;
  *variance = (totals[d] / weights - means) / d;
  *status = status_of(*variance, 0.0, 0.0, false);
}

}  // namespace

template <class S>
void kmeans_spread(const Queue& queue, const KMeansData& data, const KMeansRun& run) {
  using T = Computed<S>;
  const KMeansMemory<T> memory(Workspace(queue), data, run.options, device_of(queue));
  const TypedRows<S> rows = typed_rows<S>(data, memory.pivot);
  const RowChunks chunks = row_chunks(data.n_samples);
  const int count = static_cast<int>(pivot_rows(data.n_samples));
  launch(queue, {data.n_features}, kPivotRows, sizeof(T) * kPivotRows, pivot_kernel<S>, rows, count,
         memory.pivot);
  const std::int64_t blocks = std::min(memory.n_slices, chunks.count);
  const bool weigh = run.options.weigh_tol && data.sample_weight;
  launch(queue, {blocks}, kKMeansThreads, sizeof(double) * kKMeansThreads, spread_kernel<S>, rows,
         weigh, memory.slices);
  add_slices(queue, memory.slices, blocks, data.n_features + 2, memory.totals);
  launch(queue, {}, kKMeansThreads, sizeof(double) * kKMeansThreads / kWarp, variance_kernel,
         memory.totals, rows.n_features, memory.variance, run.status);
}

#define ELBOKIT_INSTANTIATE(S) \
  template void kmeans_spread<S>(const Queue&, const KMeansData&, const KMeansRun&);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)
ELBOKIT_INSTANTIATE(BFloat16)
ELBOKIT_INSTANTIATE(Float16)

}  // namespace elbokit::cuda
