// Lloyd's iterations: a pass over the rows, the sums of the blocks, the centers. That clusters are
// empty is seen and dealt with on the GPU: the kernel for it finds nothing to do as a rule.
#include "kernels/kmeans_center.h"
#include "kernels/kmeans_sums.h"

namespace elbokit::cuda {

namespace {

constexpr std::size_t kSlicesBytes = std::size_t{256} << 20;

// A block has rows one behind the other, tile by tile.
template <class S>
__global__ void __launch_bounds__(kKMeansThreads, kBlocksEach<Computed<S>>)
    assign_kernel(TypedRows<S> rows, TileShape shape, const Computed<S>* centers,
                  std::int64_t n_clusters, std::int32_t* labels, bool sum, double* slices) {
  using T = Computed<S>;
  auto* const memory = shared_memory<unsigned char>();
  auto& sums = *reinterpret_cast<LabelSums*>(memory);
  const Tile<T> tile(shape, &sums + 1);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t n_sums = n_clusters * (rows.n_features + kExtraSums);
  double* const out = slices + blockIdx.x * (n_sums + 1);
  const std::int64_t tiles = (rows.n_samples + kTileRows - 1) / kTileRows;
  const std::int64_t begin = tiles * blockIdx.x / gridDim.x;
  const std::int64_t end = tiles * (blockIdx.x + 1) / gridDim.x;
  double changed = 0;
  for (std::int64_t at = begin; at < end; ++at) {
    const std::int64_t row = at * kTileRows, left = rows.n_samples - row;
    const int count = static_cast<int>(left < kTileRows ? left : kTileRows);
    T best[kThreadRows];
    std::int32_t label[kThreadRows];
    for (int i = 0; i < kThreadRows; ++i) {
      best[i] = static_cast<T>(__builtin_huge_val());
      label[i] = 0;
    }
    for_each_distance(rows, tile, row, count, centers, n_clusters,
                      [&](std::int64_t center, const T(&distance)[kThreadRows][kTileCenters]) {
                        for (int c = 0; c < kTileCenters; ++c)
                          for (int i = 0; i < kThreadRows; ++i) {
                            const bool nearer = center + c < n_clusters && distance[i][c] < best[i];
                            best[i] = nearer ? distance[i][c] : best[i];
                            label[i] = nearer ? static_cast<std::int32_t>(center + c) : label[i];
                          }
                      });
    for (int i = 0; i < kThreadRows; ++i) {
      const int r = thread + i * kKMeansThreads;
      if (r >= count) {
        label[i] = -1;
        continue;
      }
      changed += labels[row + r] != label[i];
      labels[row + r] = label[i];
    }
    if (sum) add_tile(rows, tile, row, label, n_clusters, at == begin, out, sums);
  }
  block_barrier();
  changed = block_sum<kKMeansThreads>(changed, sums.parts);
  if (sum && thread == 0) out[n_sums] = changed;
}

// Squared distances of rows to the centers of their labels: weighted sums, and the largest, of each
// chunk. Unless they are asked for, they are computed where a cluster is empty.
template <class S>
__global__ void __launch_bounds__(kKMeansThreads)
    own_distances_kernel(TypedRows<S> rows, std::int64_t chunk_rows, CenterArgs<Computed<S>> args,
                         bool asked) {
  using T = Computed<S>;
  if (!asked && !has_empty(args)) return;
  auto* const scratch = shared_memory<Farthest<T>>();
  // So many lanes have a row.
  int lanes = 1;
  while (lanes < kWarp && lanes < rows.n_features) lanes *= 2;
  const int lane = lane_index() % lanes;
  const std::int64_t begin = blockIdx.x * chunk_rows;
  const std::int64_t end =
      begin + chunk_rows < rows.n_samples ? begin + chunk_rows : rows.n_samples;
  double sum = 0;
  Farthest<T> farthest{T(-1), 0};
  for (std::int64_t first = begin; first < end; first += kKMeansThreads / lanes) {
    const std::int64_t row = first + static_cast<int>(threadIdx.x) / lanes;
    const bool inside = row < end;
    double distance = 0;
    if (inside) {
      const T* const center = args.rounded + std::int64_t{args.labels[row]} * rows.n_features;
      for (int j = lane; j < rows.n_features; j += lanes) {
        const T shifted = rows.at(row, j) - rows.pivot[j];
        const double difference = static_cast<double>(shifted) - static_cast<double>(center[j]);
        distance += difference * difference;
      }
    }
    for (int mask = lanes / 2; mask > 0; mask /= 2) distance += shuffle_xor(distance, mask);
    if (!inside || lane != 0) continue;
    sum += static_cast<double>(rows.weight_of(row)) * distance;
    args.distances[row] = static_cast<T>(distance);
    farthest = farther(farthest, {static_cast<T>(distance), row});
  }
  farthest = block_farthest(farthest, scratch);
  sum = block_sum<kKMeansThreads>(sum, reinterpret_cast<double*>(scratch));
  if (threadIdx.x != 0) return;
  args.farthest[blockIdx.x] = farthest.distance;
  args.farthest_row[blockIdx.x] = farthest.row;
  args.inertia[blockIdx.x] = sum;
}

template <class S>
__global__ void __launch_bounds__(kKMeansThreads)
    start_kernel(TypedRows<S> rows, CenterArgs<Computed<S>> args, const std::int64_t* seeds) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kKMeansThreads + threadIdx.x;
  if (i >= args.n_clusters * rows.n_features) return;
  const int feature = static_cast<int>(i % rows.n_features);
  args.rounded[i] = rows.at(seeds[i / rows.n_features], feature) - rows.pivot[feature];
  args.centers[i] = static_cast<double>(args.rounded[i]);
}

template <class T>
__global__ void __launch_bounds__(kKMeansThreads)
    finish_kernel(CenterArgs<T> args, const T* pivot, int n_features) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kKMeansThreads + threadIdx.x;
  if (i < args.n_clusters * n_features)
    args.centers[i] += static_cast<double>(pivot[i % n_features]);
}

std::int64_t blocks_of(std::int64_t threads) {
  return (threads + kKMeansThreads - 1) / kKMeansThreads;
}

// What the functions of a run have in common.
template <class S>
struct Lloyd {
  using T = Computed<S>;
  const Device& device;
  KMeansMemory<T> memory;
  TypedRows<S> rows;
  RowChunks chunks;
  CenterArgs<T> args;

  Lloyd(const Queue& queue, const KMeansData& data, const KMeansRun& run)
      : device(device_of(queue)),
        memory(Workspace(queue), data, run.options, device),
        rows(typed_rows<S>(data, memory.pivot)),
        chunks(row_chunks(data.n_samples)),
        args{run.options.n_clusters, rows.n_features,   run.options.tol,
             chunks.count,           run.labels,        run.centers,
             memory.rounded,         memory.closest,    memory.farthest,
             memory.farthest_row,    memory.potentials, memory.totals,
             memory.variance,        run.status} {}

  void own_distances(const Queue& queue, bool asked) const {
    launch(queue, {chunks.count}, kKMeansThreads, sizeof(Farthest<T>) * kKMeansThreads / kWarp,
           own_distances_kernel<S>, rows, chunks.rows, args, asked);
  }
};

}  // namespace

template <class T>
KMeansMemory<T>::KMeansMemory(Workspace workspace, const KMeansData& data,
                              const KMeansOptions& options, const Device& device) {
  const std::int64_t d = data.n_features, k = options.n_clusters, c = options.n_trials + 1;
  const std::int64_t chunks = row_chunks(data.n_samples).count;
  const std::int64_t sums = std::max(kmeans_sums(data, options), d + 2);
  const auto most = static_cast<std::int64_t>(kSlicesBytes / sizeof(double)) / sums;
  const std::int64_t tiles = (data.n_samples + kTileRows - 1) / kTileRows;
  n_slices = std::max<std::int64_t>(
      1, std::min({tiles, most, std::int64_t{kBlocksEach<T>} * device.multiprocessors}));
  pivot = workspace.take<T>(d);
  rounded = workspace.take<T>(k * d);
  closest = workspace.take<T>(data.n_samples);
  for (T*& each : candidates) each = workspace.take<T>(c * d);
  for (std::int64_t*& each : chosen) each = workspace.take<std::int64_t>(c);
  variance = workspace.take<double>(1);
  potentials = workspace.take<double>(c * chunks);
  farthest = workspace.take<T>(chunks);
  farthest_row = workspace.take<std::int64_t>(chunks);
  totals = workspace.take<double>(sums);
  slices = workspace.take<double>(n_slices * sums);
  used = workspace.used();
}
template struct KMeansMemory<float>;
template struct KMeansMemory<double>;

std::size_t kmeans_workspace(const KMeansData& data, const KMeansOptions& options,
                             const Device& device) {
  return data.element == Element::kFloat64
             ? KMeansMemory<double>(Workspace(), data, options, device).used
             : KMeansMemory<float>(Workspace(), data, options, device).used;
}

void kmeans_start(const Queue& queue, const KMeansData& data, const KMeansRun& run) {
  const DeviceGuard guard(queue);
  with_rows(data.element, [&](auto element) {
    const Lloyd<decltype(element)> lloyd(queue, data, run);
    launch(queue, {blocks_of(run.options.n_clusters * data.n_features)}, kKMeansThreads, 0,
           start_kernel<decltype(element)>, lloyd.rows, lloyd.args, run.seeds);
  });
}

void kmeans_step(const Queue& queue, const KMeansData& data, const KMeansRun& run, bool last) {
  const DeviceGuard guard(queue);
  with_rows(data.element, [&](auto element) {
    using S = decltype(element);
    using T = Computed<S>;
    const Lloyd<S> lloyd(queue, data, run);
    const std::int64_t k = run.options.n_clusters, blocks = lloyd.memory.n_slices;
    const TileShape shape = tile_shape<T>(lloyd.device, data.n_features, sizeof(LabelSums));
    launch(queue, {blocks}, kKMeansThreads, sizeof(LabelSums) + shape.bytes<T>(), assign_kernel<S>,
           lloyd.rows, shape, lloyd.memory.rounded, k, run.labels, !last, lloyd.memory.slices);
    if (last) return;
    add_slices(queue, lloyd.memory.slices, blocks, kmeans_sums(data, run.options),
               lloyd.memory.totals);
    lloyd.own_distances(queue, false);
    launch(queue, {}, kKMeansThreads, sizeof(MoveScratch<T>), move_kernel<S>, lloyd.rows,
           lloyd.args, lloyd.chunks.rows);
  });
}

void kmeans_finish(const Queue& queue, const KMeansData& data, const KMeansRun& run,
                   double* inertia) {
  const DeviceGuard guard(queue);
  with_rows(data.element, [&](auto element) {
    const Lloyd<decltype(element)> lloyd(queue, data, run);
    if (inertia) {
      lloyd.own_distances(queue, true);
      add_slices(queue, lloyd.memory.potentials, lloyd.chunks.count, 1, inertia);
    }
    launch(queue, {blocks_of(run.options.n_clusters * data.n_features)}, kKMeansThreads, 0,
           finish_kernel<Computed<decltype(element)>>, lloyd.args, lloyd.memory.pivot,
           lloyd.rows.n_features);
  });
}

}  // namespace elbokit::cuda
