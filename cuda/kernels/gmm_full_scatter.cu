// Second moments of full and tied covariances on the matrix units.
#include <algorithm>

#include "common/async_copy.h"
#include "kernels/gmm_full.h"
#include "kernels/gmm_scatter.h"

namespace elbokit::cuda {

namespace {

constexpr int kMostWarps = kMostUnitTiles;
constexpr int kListed = kWarp * kWarp;  // of at least four warps: see kWords
constexpr int kUnitRows = 8;            // of a product
constexpr int kMostBatch = 4 * kUnitRows;
constexpr int kBatches = 3;  // in shared memory: one in use, the next two on their way
// Rows of a warp that the units sum up, which cut off, and that are then summed up in float.
constexpr int kRunRows = 16, kFloatRows = 4096;
// Of a block with few tiles: several blocks then share a multiprocessor.
constexpr int kWarpsWanted = 6;
constexpr int kDown = kUnitTile / 16, kAcross = kUnitTile / 8;

// A lane's part of a tile: of kDown by kAcross sums of (16, 8).
using Sums = float[kDown][kAcross][4];

// A warp's tile: the products of features x - center, from `down` on and from `across` on. A lane
// has features g of each eight.
class Tile {
 public:
  ELBOKIT_DEVICE Tile(const float* center, int down, int across, int padded)
      : down_(down), across_(across) {
    const auto of = [&](int feature) { return feature < padded ? center[feature] : 0; };
    for (int i = 0; i < 2 * kDown; ++i) left_[i] = of(down + i * 8 + lane_index() / 4);
    for (int j = 0; j < kAcross; ++j) right_[j] = of(across + j * 8 + lane_index() / 4);
  }

  // Adds the products of 8 rows, in an order in which the sums grow. weight: of rows t and t + 4.
  template <bool kDiagonal>
  ELBOKIT_DEVICE void add(const float* x, int ld, const float (&weight)[2], Sums& sums) const {
    const int g = lane_index() / 4, t = lane_index() % 4;
    Parts u[kAcross][2];
    Fragment high[kDown], low[kDown];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float* const row = x + (t + e * 4) * ld + g;
      float right[kAcross];
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
        right[j] = row[across_ + j * 8] - right_[j];
        u[j][e] = split_tf32(right[j]);
      }
#pragma unroll
      for (int i = 0; i < 2 * kDown; ++i) {
        const float left = kDiagonal ? right[i] : row[down_ + i * 8] - left_[i];
        const Parts both = split_tf32(weight[e] * left);
        high[i / 2].at[i % 2 + 2 * e] = both.high;
        low[i / 2].at[i % 2 + 2 * e] = both.low;
      }
    }
    const auto multiply = [&](const Fragment(&factor)[kDown], std::uint32_t Parts::* of) {
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
#pragma unroll
        for (int i = 0; i < kDown; ++i)
          // On the diagonal there is nothing above it.
          if (!kDiagonal || j * 8 < (i + 1) * 16)
            add_product(sums[i][j], factor[i], u[j][0].*of, u[j][1].*of);
    };
    multiply(low, &Parts::high);
    multiply(high, &Parts::low);
    multiply(high, &Parts::high);
  }

 private:
  int down_, across_;
  float left_[2 * kDown], right_[kAcross];
};

// Adds what a warp has to the sums of the 8 x 8 tiles, `side` of them, and begins anew.
ELBOKIT_DEVICE void add_sums(double* to, int side, int down, int across, Sums& sums) {
  constexpr int tile = kTileFeatures;
  double* const mine = to + lane_index() * 2;  // row g, columns 2 t and 2 t + 1
#pragma unroll
  for (int i = 0; i < kDown; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = down * (kUnitTile / tile) + i * 2 + half, first = across * (kUnitTile / tile);
      double* const tiles = mine + tile_index(row, first) * tile * tile;
      const auto at = [&](int j) {
        return reinterpret_cast<Pack<double, 2>*>(tiles + j * tile * tile);
      };
      Pack<double, 2> before[kAcross];  // all on their way at once
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
        if (row < side && first + j <= row) before[j] = *at(j);
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
        for (int e = 0; e < 2; ++e) {
          before[j].at[e] += static_cast<double>(sums[i][j][2 * half + e]);
          sums[i][j][2 * half + e] = 0;
        }
        if (row < side && first + j <= row) *at(j) = before[j];
      }
    }
}

// How the lanes of a warp share rows that they copy, kVector features each: several rows at once,
// if these are short.
template <int kVector>
struct Lanes {
  int rows, row, feature;  // at once, this lane's of them, and where it begins

  ELBOKIT_DEVICE explicit Lanes(int features) {
    const int vectors = features / kVector;
    rows = vectors < kWarp ? kWarp / vectors : 1;
    row = vectors < kWarp ? lane_index() / vectors : 0;
    feature = (lane_index() - row * vectors) * kVector;
    if (row >= rows) feature = features;  // nothing
  }
};

// A block has a component, some tiles of the lower triangle and a range of the rows, a warp a tile;
// of few tiles there are several groups of warps that share a batch of rows.
template <int kVector>
__global__ void __launch_bounds__(kMostWarps* kWarp, 1) full_scatter(ScatterArgs<float> args) {
  const ScatterBlock<float> block(args);
  const int begin = block.first_tile(args), tiles = block.last_tile(args) - begin;
  const int warps = static_cast<int>(blockDim.x) / kWarp, groups = warps / tiles;
  const int group = warp_index() / tiles, tile = begin + warp_index() % tiles;
  const int lane = lane_index(), t = lane % 4;
  int down = 0;
  while (tile_index(down + 1, 0) <= tile) ++down;
  const int across = tile - static_cast<int>(tile_index(down, 0));
  const Tile mine(block.center(args), down * kUnitTile, across * kUnitTile,
                  static_cast<int>(args.plan.padded));

  // Batches of the listed rows; after the last row come zeros.
  float* const all_rows = reinterpret_cast<float*>(block.beyond);
  const auto rows_of = [&](int batch) {
    return all_rows + batch % kBatches * args.batch * args.ld;
  };
  const Lanes<kVector> lanes(args.features);
  const auto bring = [&](std::int64_t n0, int batch, int total) {
    float* const to = rows_of(batch);
    const int first = batch * args.batch;
    for (int i = warp_index() * lanes.rows + lanes.row; i < args.batch && first < total;
         i += warps * lanes.rows) {
      const bool there = first + i < total;
      const float* const row = block.row(args, n0 + (there ? block.list[first + i] : 0));
      for (int f = lanes.feature; f < args.features; f += kWarp * kVector) {
        const bool feature = f < args.plan.d;
        copy_async<kVector>(to + i * args.ld + f, row + (feature ? f : 0), there && feature);
      }
    }
    commit_copies();
  };

  Sums run = {}, sums = {};
  int pending = 0, terms = 0;  // rows of this group in `run`, of all in `sums`
  const auto add_run = [&] {
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          sums[i][j][e] += run[i][j][e];
          run[i][j][e] = 0;
        }
    pending = 0;
  };
  const auto range = range_of(args.rows.count, blockIdx.y, gridDim.y);
  for (std::int64_t n0 = range.begin; n0 < range.end; n0 += kListed) {
    const int total = block.list_rows(args, n0, range.end);
    bring(n0, 0, total);
    bring(n0, 1, total);
    for (int batch = 0; batch * args.batch < total; ++batch) {
      await_copies<1>();
      block_barrier();  // all have theirs, and are done with the batch before
      bring(n0, batch + 2, total);
      const float* const x = rows_of(batch);
      const int first = batch * args.batch, left = total - first;
      const int count = left < args.batch ? left : args.batch;
      for (int n = group * kUnitRows; n < count && group < groups; n += groups * kUnitRows) {
        float weight[2];
        for (int e = 0; e < 2; ++e) {
          const int at = n + t + 4 * e;
          weight[e] = at < count ? block.weight[first + at] : 0;
        }
        if (down == across)
          mine.add<true>(x + n * args.ld, args.ld, weight, run);
        else
          mine.add<false>(x + n * args.ld, args.ld, weight, run);
        if ((pending += kUnitRows) == kRunRows) add_run();
      }
    }
    terms += total;
    if (terms == 0 || (terms < kFloatRows && n0 + kListed < range.end)) continue;
    add_run();
    for (int turn = 0; turn < groups; ++turn) {
      block_barrier();
      if (group == turn)
        add_sums(block.sums, static_cast<int>(args.plan.tiles), down, across, sums);
    }
    terms = 0;
  }
}

}  // namespace

void add_full_scatter(const Queue& queue, const GmmPlan& plan, const GmmTables<float>& tables,
                      const GmmChunkRows<float>& rows, const float* responsibilities,
                      double* sums) {
  const int splits = static_cast<int>(plan.scatter_splits());
  const int tiles = static_cast<int>((plan.scatter_tiles() + splits - 1) / splits);
  const int side = static_cast<int>((plan.d + kUnitTile - 1) / kUnitTile);
  const int features = side * kUnitTile, ld = features + 8;  // 8: off whole turns of the banks
  int batch = kMostBatch;
  const auto shared = [&] {
    return ScatterBlock<float>::bytes(kListed) +
           kBatches * sizeof(float) * static_cast<std::size_t>(batch * ld);
  };
  while (batch > kUnitRows && 2 * shared() > device_of(queue).shared_bytes) batch /= 2;
  const int groups = std::max(std::min(batch / kUnitRows, kWarpsWanted / tiles), 1);
  const auto aligned = [](std::ptrdiff_t floats) { return floats % 4 == 0; };
  const bool vectors = aligned(reinterpret_cast<std::ptrdiff_t>(rows.x) / 4) && aligned(plan.d) &&
                       aligned(rows.row_stride) && aligned(rows.mixture_stride);
  launch(queue,
         {plan.k * splits, static_cast<int>(plan.scatter_ranges), static_cast<int>(plan.mixtures)},
         groups * tiles * kWarp, shared(), vectors ? full_scatter<4> : full_scatter<1>,
         {plan, tables, rows, responsibilities, sums, splits, kListed, batch, features, ld});
}

}  // namespace elbokit::cuda
