// Second moments of full and tied covariances, summed up over a chunk's rows about the centers.
#include "kernels/gmm_sums.h"

namespace elbokit::cuda {

namespace {

constexpr int kTile = kTileFeatures;
constexpr int kThreads = 256;

template <class T>
struct ScatterArgs {
  GmmPlan plan;
  GmmTables<T> tables;
  GmmChunkRows<T> rows;
  const T* responsibilities;
  double* sums;
  int splits, batch;
};

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

// A block has a component, some 8 x 8 tiles of the lower triangle and a range of the rows: of those
// that have a responsibility it makes a list, and takes them a batch at a time. A thread has a
// tile; of few tiles there are several groups of threads that share a batch.
template <class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 2 : 1)
    add_scatter_kernel(ScatterArgs<T> args) {
  const GmmPlan& plan = args.plan;
  const std::int64_t m = blockIdx.z, k = blockIdx.x / args.splits;
  const int split = static_cast<int>(blockIdx.x) % args.splits;
  const ScatterSplit part = scatter_split(plan.tiles * (plan.tiles + 1) / 2, split);
  const int begin = static_cast<int>(part.begin), tiles = static_cast<int>(part.tiles);
  const int threads = static_cast<int>(blockDim.x), warps = threads / kWarp;
  const int most = threads / tiles, groups = most < args.batch ? most : args.batch;
  const int group = static_cast<int>(threadIdx.x) / tiles;
  const int tile = static_cast<int>(threadIdx.x) % tiles;
  const int side = static_cast<int>(plan.tiles), ld = kTile * side + 4;
  // Tile (i, j) of the triangle, row by row: it is tile (j, i) of the packed one.
  int i = 0;
  while ((i + 1) * (i + 2) / 2 <= begin + tile) ++i;
  const int j = begin + tile - i * (i + 1) / 2;

  T* const center = shared_memory<T>();         // (padded)
  T* const difference = center + kTile * side;  // (batch, ld)
  T* const weighted = difference + args.batch * ld;
  T* const list_weight = weighted + args.batch * ld;  // (threads)
  T* const scratch = list_weight + threads;           // (threads, 8)
  int* const list = reinterpret_cast<int*>(scratch + threads * kTile);
  int* const found = list + threads;  // by each warp

  for (int f = static_cast<int>(threadIdx.x); f < kTile * side; f += threads)
    center[f] = args.tables.center[(m * plan.k + k) * plan.padded + f];
  const T* const r = args.responsibilities + (m * plan.k + k) * plan.ld;
  double* const sums = args.sums +
                       ((m * gridDim.y + blockIdx.y) * plan.k + k) * plan.factor_size() +
                       std::int64_t{begin} * kTile * kTile;
  const auto range = range_of(args.rows.count, blockIdx.y, gridDim.y);
  T sum[kTile][kTile] = {};
  int terms = 0;
  const auto flush = [&] {
#pragma unroll
    for (int a = 0; a < kTile; ++a) {
      add_row(sum[a], tile, tiles, group, groups, scratch, sums + a * tiles * kTile);
      for (T& value : sum[a]) value = 0;
    }
    terms = 0;
  };
  for (std::int64_t n0 = range.begin; n0 < range.end; n0 += threads) {
    const std::int64_t n = n0 + threadIdx.x;
    const T mine = n < range.end ? r[n] : T(0);
    const unsigned there = ballot(mine != T(0));
    if (lane_index() == 0) found[warp_index()] = count_bits(there);
    block_barrier();
    int place = count_bits(there & ((1u << lane_index()) - 1)), total = 0;
    for (int w = 0; w < warps; ++w) {
      if (w < warp_index()) place += found[w];
      total += found[w];
    }
    if (mine != T(0)) {
      list[place] = static_cast<int>(threadIdx.x);
      list_weight[place] = mine;
    }
    block_barrier();
    for (int first = 0; first < total; first += args.batch) {
      const int count = total - first < args.batch ? total - first : args.batch;
      for (int at = warp_index(); at < count; at += warps) {
        const T* const row = args.rows.x + m * args.rows.mixture_stride +
                             (n0 + list[first + at]) * args.rows.row_stride;
        const T weight = list_weight[first + at];
        for (int f = lane_index(); f < kTile * side; f += kWarp) {
          const T value = f < plan.d ? row[f] - center[f] : T(0);
          difference[at * ld + halved(f, side)] = value;
          weighted[at * ld + halved(f, side)] = weight * value;
        }
      }
      block_barrier();
      if (group < groups)
        for (int at = group; at < count; at += groups) {
          T left[kTile], right[kTile];
          load_tile(weighted + at * ld, i, side, left);
          load_tile(difference + at * ld, j, side, right);
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
  const std::int64_t all = plan.tiles * (plan.tiles + 1) / 2;
  const std::int64_t splits = scatter_splits(all);
  const std::int64_t tiles = (all + splits - 1) / splits;
  const std::size_t beside =
      sizeof(T) * (static_cast<std::size_t>(plan.padded) + kThreads * (1 + kTile)) +
      sizeof(int) * (kThreads + kThreads / kWarp);
  const int batch = batch_rows<T>(device_of(queue), plan, beside);
  const std::int64_t most = kThreads / tiles;
  const std::int64_t wanted = tiles * (most < batch ? most : batch);
  const int threads = static_cast<int>((wanted + kWarp - 1) / kWarp * kWarp);
  const std::size_t shared =
      beside + 2 * sizeof(T) * static_cast<std::size_t>(batch * (plan.padded + 4));
  launch(queue,
         {plan.k * splits, static_cast<int>(plan.scatter_ranges), static_cast<int>(plan.mixtures)},
         threads, shared, add_scatter_kernel<T>,
         {plan, tables, rows, responsibilities, sums, static_cast<int>(splits), batch});
}

#define ELBOKIT_INSTANTIATE(T)                                                 \
  template void add_scatter(const Queue&, const GmmPlan&, const GmmTables<T>&, \
                            const GmmChunkRows<T>&, const T*, double*);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cuda
