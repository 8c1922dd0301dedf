// Moments of a chunk's rows about the pivot: responsibilities times u and u^2.
#include "common/reduce.h"
#include "kernels/gmm_products_model.h"

namespace elbokit::cuda {

namespace {

constexpr int kStageRows = 32;  // two steps of the units
constexpr int kSteps = kStageRows / 16;
constexpr int kRunStages = 2;  // of sums that the units add up, which cut off
constexpr int kMergeThreads = 128;

struct MomentArgs {
  ProductShape shape;
  ProductMemory memory;
  GmmChunkRows<float> rows;
  const float* responsibilities;
  std::int64_t ld;
  bool first;  // chunk
};

// Where a block with kAcross warps side by side over the features has what.
template <int kAcross>
struct Block {
  static constexpr int kDown = kProductWarps / kAcross;
  static constexpr int kComponents = kDown * kMomentWidth, kFeatures = kAcross * kMomentWidth;
  static constexpr int kRowTiles = kComponents / 16, kColumnTiles = kFeatures / 8;
  // What a warp brings to shared memory for each stage.
  static constexpr int kColumnsEach = kSteps * kColumnTiles / kProductWarps;
  static constexpr int kRowsEach = kSteps * kRowTiles / kProductWarps;
  // Fragments of one buffer: b fragments of u and of u^2, high parts of both registers, then low
  // ones; a fragments of responsibilities, high, low.
  static constexpr int kValues = kSteps * kColumnTiles * 2 * kWarp;
  static constexpr int kShares = kSteps * kRowTiles * 2 * kWarp;
  static constexpr std::size_t kShared = 2 * (kValues + kShares) * sizeof(Fragment);
};

// The rows and responsibilities of one stage on their way to shared memory. A warp brings the same
// tiles in every stage.
template <int kAcross>
class Stage {
  using B = Block<kAcross>;

 public:
  ELBOKIT_DEVICE Stage(const MomentArgs& args, std::int64_t k0, std::int64_t j0)
      : args_(args), k0_(k0), j0_(j0) {
#pragma unroll
    for (int i = 0; i < B::kColumnsEach; ++i) {
      const std::int64_t j = feature(i);
      const bool there = j < args.shape.n_features;
      pivot_[i] = there ? args.memory.pivot[j] : 0;
      unit_[i] = there ? args.memory.unit[j] : 0;
    }
  }

  // The rows from n0 to the last one before `end`.
  ELBOKIT_DEVICE void load(std::int64_t n0, std::int64_t end) {
    const int t = lane_index() % 4;
#pragma unroll
    for (int i = 0; i < B::kColumnsEach; ++i) {
      const std::int64_t n = n0 + (warp_index() + i * kProductWarps) / B::kColumnTiles * 16 + 2 * t;
      const std::int64_t j = feature(i);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const std::int64_t row = n + e % 2 + e / 2 * 8;
        x_[i][e] = row < end && j < args_.shape.n_features
                       ? args_.rows.x[row * args_.rows.row_stride + j]
                       : pivot_[i];
      }
    }
#pragma unroll
    for (int i = 0; i < B::kRowsEach; ++i) {
      const std::int64_t n = n0 + (warp_index() + i * kProductWarps) / B::kRowTiles * 16 + 2 * t;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const std::int64_t k = component(i) + e % 2 * 8, row = n + e / 2 * 8;
        Pack<float, 2> r{};
        if (k < args_.shape.n_components && row < end)
          r = *reinterpret_cast<const Pack<float, 2>*>(args_.responsibilities + k * args_.ld + row);
        if (row + 1 >= end) r.at[1] = 0;
        r_[i][e] = r;
        counts_[i][e % 2] += r.at[0] + r.at[1];
      }
    }
  }

  ELBOKIT_DEVICE void store(Fragment* values, Fragment* shares) const {
#pragma unroll
    for (int i = 0; i < B::kColumnsEach; ++i) {
      float u[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) u[e] = (x_[i][e] - pivot_[i]) * unit_[i];
      Fragment* const out = values + (warp_index() + i * kProductWarps) * 2 * kWarp + lane_index();
      out[0] = split(u[0], u[1], u[2], u[3]);
      out[kWarp] = split(u[0] * u[0], u[1] * u[1], u[2] * u[2], u[3] * u[3]);
    }
#pragma unroll
    for (int i = 0; i < B::kRowsEach; ++i) {
      Fragment high, low;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const Halves both =
            halves(r_[i][e].at[0] * kResponsibilityScale, r_[i][e].at[1] * kResponsibilityScale);
        high.at[e] = both.high;
        low.at[e] = both.low;
      }
      Fragment* const out = shares + (warp_index() + i * kProductWarps) * 2 * kWarp + lane_index();
      out[0] = high;
      out[kWarp] = low;
    }
  }

  // Counts of all rows so far, by step, then component of the block; for all threads.
  ELBOKIT_DEVICE void counts(float* to) const {
#pragma unroll
    for (int i = 0; i < B::kRowsEach; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float count = counts_[i][half];
        count += shuffle_xor(count, 1);
        count += shuffle_xor(count, 2);
        const int step = (warp_index() + i * kProductWarps) / B::kRowTiles;
        if (lane_index() % 4 == 0)
          to[step * B::kComponents + component(i) - k0_ + half * 8] = count;
      }
  }

 private:
  ELBOKIT_DEVICE std::int64_t feature(int i) const {
    return j0_ + (warp_index() + i * kProductWarps) % B::kColumnTiles * 8 + lane_index() / 4;
  }
  ELBOKIT_DEVICE std::int64_t component(int i) const {
    return k0_ + (warp_index() + i * kProductWarps) % B::kRowTiles * 16 + lane_index() / 4;
  }

  const MomentArgs& args_;
  std::int64_t k0_, j0_;
  float pivot_[B::kColumnsEach], unit_[B::kColumnsEach];
  float x_[B::kColumnsEach][4];
  Pack<float, 2> r_[B::kRowsEach][4];
  float counts_[B::kRowsEach][2] = {};
};

// A thread's part of 2 x 16 components by 4 x 8 features, of u and of u^2: see MomentPlace.
constexpr int kSums = kThreadMoments / 4;
using Moments = float[kSums][4];

template <int kAcross>
ELBOKIT_DEVICE void multiply(const Fragment* values, const Fragment* shares, Moments& sums) {
  using B = Block<kAcross>;
  const int down = warp_index() / kAcross, across = warp_index() % kAcross;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    Fragment high[2], low[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Fragment* const at =
          shares + (step * B::kRowTiles + down * 2 + i) * 2 * kWarp + lane_index();
      high[i] = at[0];
      low[i] = at[kWarp];
    }
#pragma unroll
    for (int column = 0; column < 4; ++column)
#pragma unroll
      for (int kind = 0; kind < 2; ++kind) {
        const Fragment value =
            values[((step * B::kColumnTiles + across * 4 + column) * 2 + kind) * kWarp +
                   lane_index()];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          auto& sum = sums[MomentPlace::sum_of(i, column, kind)];
          add_product<Float16>(sum, low[i].at, value.at[0], value.at[1]);
          add_product<Float16>(sum, high[i].at, value.at[2], value.at[3]);
          add_product<Float16>(sum, high[i].at, value.at[0], value.at[1]);
        }
      }
  }
}

// A block has a tile of components, a tile of features and a range of the rows. While one stage is
// multiplied, the next one is on its way.
template <int kAcross>
__global__ void __launch_bounds__(kProductThreads, 1) product_moments(MomentArgs args) {
  using B = Block<kAcross>;
  const ProductShape& shape = args.shape;
  auto* const values = shared_memory<Fragment>();
  Fragment* const shares = values + 2 * B::kValues;
  const std::int64_t across_all = whole(shape.n_features, B::kFeatures) / B::kFeatures;
  const std::int64_t k0 = blockIdx.x / across_all * B::kComponents;
  const std::int64_t j0 = blockIdx.x % across_all * B::kFeatures;
  const std::int64_t stages = whole(args.rows.count, kStageRows) / kStageRows;
  const std::int64_t begin = stages * blockIdx.y / gridDim.y * kStageRows;
  std::int64_t end = stages * (blockIdx.y + 1) / gridDim.y * kStageRows;
  end = end < args.rows.count ? end : args.rows.count;

  Stage<kAcross> stage(args, k0, j0);
  Moments run = {}, total = {};
  const auto add_run = [&] {
#pragma unroll
    for (int i = 0; i < kSums; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        total[i][e] += run[i][e];
        run[i][e] = 0;
      }
  };
  if (begin < end) {
    stage.load(begin, end);
    stage.store(values, shares);
  }
  block_barrier();
  int turn = 0, pending = 0;
#pragma unroll 1
  for (std::int64_t n0 = begin; n0 < end; n0 += kStageRows, turn ^= 1) {
    const bool more = n0 + kStageRows < end;
    if (more) stage.load(n0 + kStageRows, end);
    multiply<kAcross>(values + turn * B::kValues, shares + turn * B::kShares, run);
    if (more) stage.store(values + (turn ^ 1) * B::kValues, shares + (turn ^ 1) * B::kShares);
    if (++pending == kRunStages) {
      add_run();
      pending = 0;
    }
    block_barrier();
  }
  add_run();

  const auto put = [&](double& to, double value) { to = args.first ? value : to + value; };
  double* const moments = args.memory.moments + blockIdx.y * shape.moments();
#pragma unroll
  for (int i = 0; i < kSums; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      put(moments[MomentPlace::at(blockIdx.x, i * 4 + e, static_cast<int>(threadIdx.x))],
          static_cast<double>(total[i][e]));
  if (j0 != 0) return;
  auto* const counts = reinterpret_cast<float*>(values);  // all have done with them
  stage.counts(counts);
  block_barrier();
  const std::int64_t k = k0 + threadIdx.x;
  if (threadIdx.x < B::kComponents && k < shape.n_components) {
    double count = 0;
    for (int step = 0; step < kSteps; ++step)
      count += static_cast<double>(counts[step * B::kComponents + threadIdx.x]);
    put(args.memory.counts[blockIdx.y * shape.n_components + k], count);
  }
}

// Adds up the ranges, and moves the moments from the pivot to the mean. A block has a component.
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(ProductShape shape, DiagonalMixture source, ProductMemory memory, double least,
                 GmmStatistics statistics, unsigned long long* failures) {
  auto* const scratch = shared_memory<double>();
  const std::int64_t k = blockIdx.x, d = shape.n_features;
  const auto over_ranges = [&](const double* numbers, std::int64_t stride) {
    double sum = 0;
    for (std::int64_t range = 0; range < shape.ranges; ++range) sum += numbers[range * stride];
    return sum;
  };
  const auto moment = [&](std::int64_t j, int kind) {
    const std::int64_t components = shape.block_components(), features = shape.block_features();
    const std::int64_t block = k / components * shape.feature_blocks() + j / features;
    const auto place = MomentPlace::of(shape, static_cast<int>(k % components),
                                       static_cast<int>(j % features), kind);
    return over_ranges(memory.moments + MomentPlace::at(block, place.slot, place.thread),
                       shape.moments()) /
           double{kResponsibilityScale};
  };
  const double count = over_ranges(memory.counts + k, shape.n_components);
  // Of u^2 about the pivot, of x about the mean.
  const auto resolved = [&](double square, double second, double unit) {
    return square >= kLeastSquare * count && square <= kMostCancelled * second * (unit * unit);
  };
  double squares = 0, seconds = 0;
  bool holds = count >= least;
  for (std::int64_t j = threadIdx.x; j < d; j += kMergeThreads) {
    const double unit = static_cast<double>(memory.unit[j]);
    const double shift = source.mixtures.means[k * d + j] - static_cast<double>(memory.pivot[j]);
    const double first = moment(j, 0) / unit, square = moment(j, 1);
    const double second = square / (unit * unit) - shift * (2 * first - count * shift);
    // A component without rows: its mean may be anywhere.
    statistics.first[k * d + j] = count == 0 ? 0 : first - count * shift;
    if (source.mixtures.covariance == Covariance::diag) {
      statistics.second[k * d + j] = count == 0 ? 0 : second;
      holds &= resolved(square, second, unit);
    } else {
      squares += square;
      seconds += second;
    }
  }
  if (!holds && count != 0) atomic_add(failures, 1);
  squares = block_sum<kMergeThreads>(squares, scratch);
  seconds = block_sum<kMergeThreads>(seconds, scratch);
  if (threadIdx.x != 0) return;
  statistics.counts[k] = count;
  if (source.mixtures.covariance != Covariance::spherical) return;
  statistics.second[k] = count == 0 ? 0 : seconds;
  // One precision, so one unit.
  if (count != 0 && !resolved(squares, seconds, static_cast<double>(memory.unit[0])))
    atomic_add(failures, 1);
}

template <int kAcross>
void launch_moments(const Queue& queue, const MomentArgs& args) {
  launch(queue, {args.shape.blocks(), static_cast<int>(args.shape.ranges)}, kProductThreads,
         Block<kAcross>::kShared, product_moments<kAcross>, args);
}

}  // namespace

std::size_t product_moments_shared(const ProductShape& shape) {
  return shape.across == 4 ? Block<4>::kShared : Block<2>::kShared;
}

void add_product_moments(const Queue& queue, const GmmPlan& plan, const ProductShape& shape,
                         const GmmChunkRows<float>& rows, const ProductMemory& memory, bool first) {
  const MomentArgs args{shape, memory, rows, memory.space.logits, plan.ld, first};
  if (shape.across == 4)
    launch_moments<4>(queue, args);
  else
    launch_moments<2>(queue, args);
}

void merge_product_moments(const Queue& queue, const ProductShape& shape, std::int64_t n_samples,
                           const GmmMixtures& mixtures, const ProductMemory& memory,
                           const GmmStatistics& statistics, unsigned long long* failures) {
  const DiagonalMixture source{mixtures, shape.n_features};
  launch(queue, {shape.n_components}, kMergeThreads, sizeof(double) * kMergeThreads / kWarp,
         merge_kernel, shape, source, memory, kLeastCount * static_cast<double>(n_samples),
         statistics, failures);
}

}  // namespace elbokit::cuda
