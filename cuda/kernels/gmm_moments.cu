// Sums over a chunk's rows: weights, their first moments and, for diagonal covariances, their
// second ones, about the centers.
#include "kernels/gmm_sums.h"

namespace elbokit::cuda {

namespace {

constexpr int kFour = 4;
constexpr int kMostGroups = 8;

template <class T>
struct MomentArgs {
  GmmPlan plan;
  GmmTables<T> tables;
  GmmChunkRows<T> rows;
  const T* responsibilities;
  double* sums;
};

// A block has a tile of components by a tile of features and a range of the rows; a thread four by
// four of these, and of few there are several groups of threads that share the rows. Rows in which
// a warp's components have no responsibility are left out.
template <class T, bool kSquares>
__global__ void __launch_bounds__(256) add_moments_kernel(MomentArgs<T> args) {
  const GmmPlan& plan = args.plan;
  const std::int64_t m = blockIdx.z;
  const std::int64_t k0 = blockIdx.x / plan.feature_tiles() * kMomentTile;
  const std::int64_t j0 = blockIdx.x % plan.feature_tiles() * kMomentTile;
  const int fours_k = static_cast<int>(plan.fours(plan.k));
  const int fours_j = static_cast<int>(plan.fours(plan.d));
  const int threads = static_cast<int>(blockDim.x), warps = threads / kWarp;
  const int tiles = fours_k * fours_j, groups = threads / tiles;
  const int group = static_cast<int>(threadIdx.x) / tiles;
  const int tile = static_cast<int>(threadIdx.x) % tiles;
  const bool active = group < groups;
  const int k = tile / fours_j * kFour, j = tile % fours_j * kFour;  // within the block's
  const int ldr = kFour * fours_k + kFour, ldx = kFour * fours_j + kFour;
  T* const r = shared_memory<T>();  // (32 rows, components)
  T* const x = r + kWarp * ldr;     // (32 rows, features)
  T* const scratch = x + kWarp * ldx;
  const auto range = range_of(args.rows.count, blockIdx.y, gridDim.y);

  // Of one group a warp has some of the components; of several, all.
  const int from = groups > 1 ? 0 : warp_index() * kWarp / fours_j;
  const int last = groups > 1 ? fours_k - 1 : (warp_index() * kWarp + kWarp - 1) / fours_j;
  const int to = last < fours_k ? last + 1 : fours_k;
  unsigned mine = 0;
  for (int n = group; n < kWarp; n += groups) mine |= 1u << n;
  if (!active) mine = 0;

  T center[kFour][kFour];
  for (int a = 0; a < kFour; ++a)
    for (int b = 0; b < kFour; ++b)
      center[a][b] = k0 + k + a < plan.k && j0 + j + b < plan.d
                         ? args.tables.center[(m * plan.k + k0 + k + a) * plan.padded + j0 + j + b]
                         : T(0);
  const T* const all = args.responsibilities + m * plan.k * plan.ld;
  double* const sums =
      args.sums + ((m * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * tiles * kMomentRows * 4;
  T sum[kMomentRows][kFour] = {};
  int terms = 0;
  const auto flush = [&] {
#pragma unroll
    for (int i = 0; i < (kSquares ? kMomentRows : 1 + kFour); ++i) {
      add_row(sum[i], tile, tiles, group, groups, scratch, sums + i * tiles * kFour);
      for (T& value : sum[i]) value = 0;
    }
    terms = 0;
  };
  for (std::int64_t n0 = range.begin; n0 < range.end; n0 += kWarp) {
    const int count = static_cast<int>(range.end - n0 < kWarp ? range.end - n0 : kWarp);
    block_barrier();
    for (int c = warp_index(); c < kFour * fours_k; c += warps)
      r[lane_index() * ldr + c] = lane_index() < count && k0 + c < plan.k
                                      ? all[(k0 + c) * plan.ld + n0 + lane_index()]
                                      : T(0);
    for (int n = warp_index(); n < count; n += warps) {
      const T* const row =
          args.rows.x + m * args.rows.mixture_stride + (n0 + n) * args.rows.row_stride + j0;
      for (int c = lane_index(); c < kFour * fours_j; c += kWarp)
        x[n * ldx + c] = j0 + c < plan.d ? row[c] : T(0);
    }
    block_barrier();
    bool any = false;
    for (int c = from; c < to; ++c) {
      const auto pack =
          *reinterpret_cast<const Pack<T, kFour>*>(r + lane_index() * ldr + kFour * c);
      for (int a = 0; a < kFour; ++a) any |= pack.at[a] != T(0);
    }
    for (unsigned left = ballot(any) & mine; left; left &= left - 1) {
      const int n = lowest_bit(left);
      const auto weight = *reinterpret_cast<const Pack<T, kFour>*>(r + n * ldr + k);
      const auto value = *reinterpret_cast<const Pack<T, kFour>*>(x + n * ldx + j);
      for (int a = 0; a < kFour; ++a) {
        sum[0][a] += weight.at[a];
        for (int b = 0; b < kFour; ++b) {
          const T difference = value.at[b] - center[a][b], weighted = weight.at[a] * difference;
          sum[1 + a][b] += weighted;
          if constexpr (kSquares) sum[1 + kFour + a][b] += weighted * difference;
        }
      }
    }
    if (++terms == kMostTerms * groups / kWarp) flush();
  }
  if (terms) flush();
}

}  // namespace

template <class T>
void add_moments(const Queue& queue, const GmmPlan& plan, const GmmTables<T>& tables,
                 const GmmChunkRows<T>& rows, const T* responsibilities, double* sums) {
  const MomentArgs<T> args{plan, tables, rows, responsibilities, sums};
  const int tiles = static_cast<int>(plan.moment_tiles());
  const int groups = 256 / tiles < kMostGroups ? 256 / tiles : kMostGroups;
  const int threads = (tiles * groups + kWarp - 1) / kWarp * kWarp;
  const auto fours = static_cast<std::size_t>(plan.fours(plan.k) + plan.fours(plan.d));
  const std::size_t shared =
      sizeof(T) * kFour * (kWarp * (fours + 2) + static_cast<std::size_t>(threads));
  launch(queue,
         {plan.component_tiles() * plan.feature_tiles(), static_cast<int>(plan.moment_ranges),
          static_cast<int>(plan.mixtures)},
         threads, shared,
         plan.triangular ? add_moments_kernel<T, false> : add_moments_kernel<T, true>, args);
}

#define ELBOKIT_INSTANTIATE(T)                                                 \
  template void add_moments(const Queue&, const GmmPlan&, const GmmTables<T>&, \
                            const GmmChunkRows<T>&, const T*, double*);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cuda
