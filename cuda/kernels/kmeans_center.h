// New centers from the sums of the labels, by one block; what becomes of empty clusters.
#pragma once

#include "kernels/kmeans_rows.h"
#include "math/exact_sum.h"

namespace elbokit::cuda {

template <class T>
struct CenterArgs {
  std::int64_t n_clusters;
  int n_features;
  double tol;
  std::int64_t n_chunks;
  const std::int32_t* labels;
  double* centers;
  T* rounded;
  T* distances;  // of each row to its own center, where a cluster is empty
  T* farthest;   // (n_chunks) as in KMeansMemory
  std::int64_t* farthest_row;
  double* inertia;  // (n_chunks)
  double* totals;   // (n_clusters, n_features + kExtraSums), then the changed labels
  const double* variance;
  KMeansStatus* status;
};

template <class T>
struct Farthest {
  T distance;
  std::int64_t row;
};

// The first of equals.
template <class T>
ELBOKIT_DEVICE Farthest<T> farther(const Farthest<T>& a, const Farthest<T>& b) {
  return b.distance > a.distance || (b.distance == a.distance && b.row < a.row) ? b : a;
}

// Every thread gets the answer. `scratch` has one for each warp.
template <class T>
ELBOKIT_DEVICE Farthest<T> block_farthest(Farthest<T> own, Farthest<T>* scratch) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2)
    own = farther(own, {shuffle_xor(own.distance, mask), shuffle_xor(own.row, mask)});
  if (lane_index() == 0) scratch[warp_index()] = own;
  block_barrier();
  own = scratch[0];
  for (int w = 1; w < kKMeansThreads / kWarp; ++w) own = farther(own, scratch[w]);
  block_barrier();
  return own;
}

// Whether there is a cluster without rows of positive weight, and centers are to be moved. Each
// warp finds it out by itself.
template <class T>
ELBOKIT_DEVICE bool has_empty(const CenterArgs<T>& args) {
  const std::int64_t cols = args.n_features + kExtraSums;
  if (args.totals[args.n_clusters * cols] == 0) return false;
  bool empty = false;
  for (std::int64_t k = lane_index(); k < args.n_clusters; k += kWarp)
    empty = empty || args.totals[k * cols + args.n_features + 1] == 0;
  return ballot(empty) != 0;
}

template <class T>
struct MoveScratch {
  Farthest<T> farthest[kKMeansThreads / kWarp];
  Farthest<double> largest[kKMeansThreads / kWarp];
  double sums[kKMeansThreads / kWarp];
};

// The rows farthest from their centers become the empty clusters' centers, the farthest first.
template <class S>
ELBOKIT_DEVICE void relocate_empty(const TypedRows<S>& rows, const CenterArgs<Computed<S>>& args,
                                   std::int64_t chunk_rows, MoveScratch<Computed<S>>& scratch) {
  using T = Computed<S>;
  const int thread = static_cast<int>(threadIdx.x), d = rows.n_features;
  const std::int64_t cols = d + kExtraSums;
  bool found_any = false;
  for (std::int64_t k = 0; k < args.n_clusters; ++k) {
    double* const to = args.totals + k * cols;
    if (to[d + 1] != 0) continue;
    Farthest<T> far{T(-1), 0};
    for (std::int64_t c = thread; c < args.n_chunks; c += kKMeansThreads)
      far = farther(far, {args.farthest[c], args.farthest_row[c]});
    far = block_farthest(far, scratch.farthest);
    if (!found_any && far.distance == 0) return;  // every row is at its center
    found_any = true;
    const auto weight = static_cast<double>(rows.weight_of(far.row));
    double* const from = args.totals + args.labels[far.row] * cols;
    for (int j = thread; j < d; j += kKMeansThreads) {
      const double value =
          weight * (static_cast<double>(rows.at(far.row, j)) - static_cast<double>(rows.pivot[j]));
      to[j] = value;
      from[j] -= value;
    }
    if (thread == 0) {
      to[d] = weight;
      from[d] -= weight;
      args.distances[far.row] = T(-1);  // taken
    }
    block_barrier();
    const std::int64_t chunk = far.row / chunk_rows, begin = chunk * chunk_rows;
    const std::int64_t end =
        begin + chunk_rows < rows.n_samples ? begin + chunk_rows : rows.n_samples;
    Farthest<T> next{T(-1), begin};
    for (std::int64_t row = begin + thread; row < end; row += kKMeansThreads)
      next = farther(next, {args.distances[row], row});
    next = block_farthest(next, scratch.farthest);
    if (thread == 0) args.farthest[chunk] = next.distance, args.farthest_row[chunk] = next.row;
    block_barrier();
  }
}

template <class S>
__global__ void __launch_bounds__(kKMeansThreads)
    move_kernel(TypedRows<S> rows, CenterArgs<Computed<S>> args, std::int64_t chunk_rows) {
  using T = Computed<S>;
  auto& scratch = *shared_memory<MoveScratch<T>>();
  const int thread = static_cast<int>(threadIdx.x), d = rows.n_features;
  const std::int64_t cols = d + kExtraSums, n = args.n_clusters * d;
  const double variance = *args.variance;
  const double changed = args.totals[args.n_clusters * cols];
  if (changed == 0) {
    if (thread == 0) *args.status = status_of(variance, 0.0, 0.0, true);
    return;
  }
  if (has_empty(args)) relocate_empty(rows, args, chunk_rows, scratch);
  Farthest<double> most{args.totals[d], 0};
  for (std::int64_t k = thread; k < args.n_clusters; k += kKMeansThreads)
    most = farther(most, {args.totals[k * cols + d], k});
  const std::int64_t largest = block_farthest(most, scratch.largest).row;
  double shift = 0;
  const auto move = [&](std::int64_t i, double to) {
    shift += (to - args.centers[i]) * (to - args.centers[i]);
    args.centers[i] = to;
  };
  for (std::int64_t i = thread; i < n; i += kKMeansThreads) {
    const double* const total = args.totals + i / d * cols;
    if (!(total[d] > 0)) continue;
    move(i, math::divide(total[i % d], 0.0, total[d]));
    args.rounded[i] = static_cast<T>(args.centers[i]);
  }
  block_barrier();
  // What stays empty is shown where the largest cluster is, and takes no rows.
  for (std::int64_t i = thread; i < n; i += kKMeansThreads) {
    if (args.totals[i / d * cols + d] > 0) continue;
    move(i, args.centers[largest * d + i % d]);
    args.rounded[i] = static_cast<T>(__builtin_huge_val());
  }
  shift = block_sum<kKMeansThreads>(shift, scratch.sums);
  if (thread == 0) *args.status = status_of(variance, changed, shift, shift <= args.tol * variance);
}

}  // namespace elbokit::cuda
