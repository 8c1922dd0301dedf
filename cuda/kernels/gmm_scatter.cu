// Second moments of full and tied covariances, summed up over a chunk's rows about the centers.
#include "kernels/gmm_full.h"
#include "kernels/gmm_scatter.h"

namespace elbokit::cuda {

namespace {

constexpr int kTile = kTileFeatures;
constexpr int kThreads = 256;
constexpr int kListed = 256;

// Where feature f lies in a row in shared memory, so that threads with one tile each after the
// other read 16 bytes each after the other.
ELBOKIT_DEVICE int halved(int f, int tiles) {
  return (f % kTile / 4 * tiles + f / kTile) * 4 + f % 4;
}

template <class T>
ELBOKIT_DEVICE void load_tile(const T* row, int tile, int tiles, T (&to)[kTile]) {
  for (int half = 0; half < 2; ++half) {
    const auto pack = *reinterpret_cast<const Pack<T, 4>*>(row + (half * tiles + tile) * 4);
    for (int i = 0; i < 4; ++i) to[4 * half + i] = pack.at[i];
  }
}

// A block has a component, some 8 x 8 tiles of the lower triangle and a range of the rows. A thread
// has a tile; of few tiles there are several groups of threads that share a batch of rows.
template <class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 2 : 1)
    add_scatter_kernel(ScatterArgs<T> args) {
  const ScatterBlock<T> block(args);
  const int side = static_cast<int>(args.plan.tiles);
  const int begin = block.first_tile(args), tiles = block.last_tile(args) - begin;
  const int threads = static_cast<int>(blockDim.x);
  const int most = threads / tiles, groups = most < args.batch ? most : args.batch;
  const int group = static_cast<int>(threadIdx.x) / tiles;
  const int tile = static_cast<int>(threadIdx.x) % tiles;
  // Tile (i, j) of the triangle.
  int i = 0;
  while (tile_index(i + 1, 0) <= begin + tile) ++i;
  const int j = begin + tile - static_cast<int>(tile_index(i, 0));

  T* const center = block.beyond;                // (features)
  T* const difference = center + args.features;  // (batch, ld)
  T* const weighted = difference + args.batch * args.ld;
  T* const scratch = weighted + args.batch * args.ld;  // (threads, 8)
  for (int f = static_cast<int>(threadIdx.x); f < args.features; f += threads)
    center[f] = block.center(args)[f];
  T sum[kTile][kTile] = {};
  int terms = 0;
  const auto flush = [&] {
#pragma unroll
    for (int a = 0; a < kTile; ++a) {
      add_row(sum[a], tile, tiles, group, groups, scratch,
              block.sums + (std::int64_t{begin} * kTile + a) * kTile, kTile * kTile);
      for (T& value : sum[a]) value = 0;
    }
    terms = 0;
  };
  const auto range = range_of(args.rows.count, blockIdx.y, gridDim.y);
  for (std::int64_t n0 = range.begin; n0 < range.end; n0 += args.listed) {
    const int total = block.list_rows(args, n0, range.end);
    for (int first = 0; first < total; first += args.batch) {
      const int count = total - first < args.batch ? total - first : args.batch;
      for (int at = warp_index(); at < count; at += threads / kWarp) {
        const T* const row = block.row(args, n0 + block.list[first + at]);
        const T weight = block.weight[first + at];
        for (int f = lane_index(); f < args.features; f += kWarp) {
          const T value = f < args.plan.d ? row[f] - center[f] : T(0);
          difference[at * args.ld + halved(f, side)] = value;
          weighted[at * args.ld + halved(f, side)] = weight * value;
        }
      }
      block_barrier();
      if (group < groups)
        for (int at = group; at < count; at += groups) {
          T left[kTile], right[kTile];
          load_tile(weighted + at * args.ld, i, side, left);
          load_tile(difference + at * args.ld, j, side, right);
          for (int a = 0; a < kTile; ++a)
            for (int b = 0; b < kTile; ++b) sum[a][b] += left[a] * right[b];
        }
      terms += count;
      if (terms >= kMostTerms * groups) flush();
      block_barrier();
    }
  }
  if (terms) flush();
}

// The rows of a batch that a block's shared memory holds.
template <class T>
int batch_rows(const Device& device, const GmmPlan& plan, std::size_t beside) {
  int rows = kWarp;
  const std::size_t row = 2 * sizeof(T) * static_cast<std::size_t>(plan.padded + 4);
  while (rows > 1 && rows * row + beside > device.shared_bytes / 2) rows /= 2;
  return rows;
}

}  // namespace

template <class T>
void add_scatter(const Queue& queue, const GmmPlan& plan, const GmmTables<T>& tables,
                 const GmmChunkRows<T>& rows, const T* responsibilities, double* sums) {
  if constexpr (sizeof(T) == 4)
    if (plan.units) return add_full_scatter(queue, plan, tables, rows, responsibilities, sums);
  const std::int64_t splits = plan.scatter_splits();
  const std::int64_t tiles = (plan.scatter_tiles() + splits - 1) / splits;
  const std::size_t beside = ScatterBlock<T>::bytes(kListed) +
                             sizeof(T) * (static_cast<std::size_t>(plan.padded) + kThreads * kTile);
  const int batch = batch_rows<T>(device_of(queue), plan, beside);
  const std::int64_t most = kThreads / tiles;
  const std::int64_t wanted = tiles * (most < batch ? most : batch);
  const int threads = static_cast<int>((wanted + kWarp - 1) / kWarp * kWarp);
  const int features = static_cast<int>(plan.padded), ld = features + 4;
  const std::size_t shared = beside + 2 * sizeof(T) * static_cast<std::size_t>(batch * ld);
  launch(queue,
         {plan.k * splits, static_cast<int>(plan.scatter_ranges), static_cast<int>(plan.mixtures)},
         threads, shared, add_scatter_kernel<T>,
         {plan, tables, rows, responsibilities, sums, static_cast<int>(splits), kListed, batch,
          features, ld});
}

#define ELBOKIT_INSTANTIATE(T)                                                 \
  template void add_scatter(const Queue&, const GmmPlan&, const GmmTables<T>&, \
                            const GmmChunkRows<T>&, const T*, double*);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cuda
