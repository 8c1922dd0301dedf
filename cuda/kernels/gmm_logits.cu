// Logits of a chunk's rows under every component, (components, rows).
#include "kernels/gmm_full.h"
#include "kernels/gmm_rows.h"

namespace elbokit::cuda {

namespace {

constexpr int kMostWarps = 8;
constexpr int kTile = kTileFeatures;
constexpr int kDiagFeatures = 16;  // at once

template <class T>
struct LogitArgs {
  GmmPlan plan;
  GmmTables<T> tables;
  GmmChunkRows<T> rows;
  T* logits;
  T* scratch;  // of all blocks, for rows that shared memory does not hold
};

template <class T, int kRows>
ELBOKIT_DEVICE void store_logits(const LogitArgs<T>& args, std::int64_t m, std::int64_t k,
                                 std::int64_t row0, const T (&sum)[kRows]) {
  const T log_const = args.tables.log_const[m * args.plan.k + k];
  T* const out = args.logits + (m * args.plan.k + k) * args.plan.ld + row0;
  for (int i = 0; i < kRows; ++i) {
    const int at = WarpRows<T, kRows>::at(i);
    if (row0 + at < args.rows.count) out[at] = log_const - sum[i];
  }
}

// One 8 x 8 tile of P and 8 of a center on their way from memory to the warp.
template <class T>
struct FactorTile {
  Pack<T, 2> factor;
  T center;

  ELBOKIT_DEVICE static FactorTile load(const T* factor, const T* center) {
    return {*reinterpret_cast<const Pack<T, 2>*>(factor + 2 * lane_index()),
            center[lane_index() % kTile]};
  }
  ELBOKIT_DEVICE void store(T* to) const {
    *reinterpret_cast<Pack<T, 2>*>(to + 2 * lane_index()) = factor;
    if (lane_index() < kTile) to[kTile * kTile + lane_index()] = center;
  }
  static constexpr int kSize = kTile * kTile + kTile;
};

// The block keeps its rows; each warp takes components of its own, so that warps never wait for
// each other. A thread makes 8 whitened coordinates of its rows at a time.
template <class T, int kRows, bool kShared>
__global__ void __launch_bounds__(kMostWarps* kWarp, sizeof(T) == 4 ? 2 : 1)
    triangular_logits(LogitArgs<T> args) {
  using Rows = WarpRows<T, kRows>;
  const GmmPlan& plan = args.plan;
  const std::int64_t m = blockIdx.z, row0 = std::int64_t{blockIdx.x} * Rows::kBlock;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  T* const tiles = shared_memory<T>() + 2 * FactorTile<T>::kSize * warp_index();
  T* x = shared_memory<T>() + 2 * FactorTile<T>::kSize * warps;
  if constexpr (!kShared)
    x = args.scratch +
        ((m * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * plan.padded * Rows::kStride;
  stage_rows(args.rows.x + m * args.rows.mixture_stride + row0 * args.rows.row_stride,
             args.rows.row_stride, args.rows.count - row0, Rows::kBlock, 0, plan.padded, plan.d, x,
             Rows::kStride);
  block_barrier();
  const std::int64_t first = std::int64_t{blockIdx.y} * warps + warp_index();
  int turn = 0;  // while one tile is in use, the next one goes to the other place
  for (std::int64_t k = first; k < plan.k; k += std::int64_t{gridDim.y} * warps) {
    const std::int64_t which = m * plan.factors() + (plan.factors() == 1 ? 0 : k);
    const T* factor = args.tables.factor + which * plan.factor_size();
    const T* const center = args.tables.center + (m * plan.k + k) * plan.padded;
    const T* const bias = args.tables.bias + (m * plan.k + k) * plan.padded;
    const T* const last = factor + plan.factor_size() - kTile * kTile;
    T sum[kRows] = {};
    FactorTile<T> next = FactorTile<T>::load(factor, center);
    for (std::int64_t t = 0; t < plan.tiles; ++t) {
      T y[kTile][kRows];
      for (int c = 0; c < kTile; ++c)
        for (int i = 0; i < kRows; ++i) y[c][i] = -bias[t * kTile + c];
      for (std::int64_t b = 0; b <= t; ++b, turn ^= 1) {
        T* const tile = tiles + turn * FactorTile<T>::kSize;
        next.store(tile);
        warp_barrier();
        if (factor != last) factor += kTile * kTile;
        next = FactorTile<T>::load(factor, center + (b < t ? b + 1 : 0) * kTile);
        const T* const rows = x + b * kTile * Rows::kStride;
        // Unrolled, it would keep more in registers than there are.
#pragma unroll 1
        for (int j = 0; j < kTile; ++j) {
          T value[kRows];
          Rows::load(rows + j * Rows::kStride, value);
          const auto p = *reinterpret_cast<const Pack<T, kTile>*>(tile + j * kTile);
          const T middle = tile[kTile * kTile + j];
          for (int i = 0; i < kRows; ++i) value[i] -= middle;
          for (int c = 0; c < kTile; ++c)
            for (int i = 0; i < kRows; ++i) y[c][i] += value[i] * p.at[c];
        }
      }
      const std::int64_t left = plan.d - t * kTile;
      const T expected =
          static_cast<T>(kExpectedSquare) * static_cast<T>(left < kTile ? left : kTile);
      for (int i = 0; i < kRows; ++i) {
        for (int c = 0; c < kTile; ++c) sum[i] += y[c][i] * y[c][i];
        sum[i] -= expected;
      }
    }
    store_logits<T, kRows>(args, m, k, row0, sum);
  }
}

// A warp has four components; rows and parameters pass by, some features at a time.
template <class T, int kRows>
__global__ void __launch_bounds__(kMostWarps* kWarp) diagonal_logits(LogitArgs<T> args) {
  using Rows = WarpRows<T, kRows>;
  constexpr int width = kThreadComponents;
  const GmmPlan& plan = args.plan;
  const std::int64_t m = blockIdx.z, row0 = std::int64_t{blockIdx.x} * Rows::kBlock;
  const int warps = static_cast<int>(blockDim.x) / kWarp, components = width * warps;
  const std::int64_t k0 = std::int64_t{blockIdx.y} * components;
  T* const x = shared_memory<T>();
  T* const table = x + kDiagFeatures * Rows::kStride;
  T sum[width][kRows] = {};
  for (std::int64_t j0 = 0; j0 < plan.d; j0 += kDiagFeatures) {
    const int features =
        static_cast<int>(plan.d - j0 < kDiagFeatures ? plan.d - j0 : kDiagFeatures);
    block_barrier();
    stage_rows(args.rows.x + m * args.rows.mixture_stride + row0 * args.rows.row_stride,
               args.rows.row_stride, args.rows.count - row0, Rows::kBlock, j0,
               (features + 7) / 8 * 8, plan.d, x, Rows::kStride);
    for (int line = warp_index(); line < 3 * features; line += warps)
      if (lane_index() < components)
        table[line * components + lane_index()] =
            k0 + lane_index() < plan.k
                ? args.tables.table[((m * plan.d + j0) * 3 + line) * plan.k + k0 + lane_index()]
                : T(0);
    block_barrier();
    for (int j = 0; j < features; ++j) {
      T value[kRows];
      Rows::load(x + j * Rows::kStride, value);
      const auto* const entries = reinterpret_cast<const Pack<T, width>*>(
          table + 3 * j * components + width * warp_index());
      const Pack<T, width> center = entries[0], precision = entries[warps],
                           bias = entries[2 * warps];
      for (int c = 0; c < width; ++c)
        for (int i = 0; i < kRows; ++i) {
          const T y = math::whiten(value[i], center.at[c], precision.at[c], bias.at[c]);
          sum[c][i] += y * y;
        }
    }
    const T expected = static_cast<T>(kExpectedSquare) * static_cast<T>(features);
    for (auto& each : sum)
      for (T& value : each) value -= expected;
  }
#pragma unroll
  for (int c = 0; c < width; ++c) {
    const std::int64_t k = k0 + width * warp_index() + c;
    if (k < plan.k) store_logits<T, kRows>(args, m, k, row0, sum[c]);
  }
}

std::int64_t parts(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

template <class T, int kRows, bool kShared>
void launch_triangular(const Queue& queue, const LogitArgs<T>& args) {
  using Rows = WarpRows<T, kRows>;
  const GmmPlan& plan = args.plan;
  const std::int64_t warps = plan.k < kMostWarps ? plan.k : kMostWarps;
  const std::int64_t blocks = parts(args.rows.count, Rows::kBlock);
  const std::size_t shared =
      sizeof(T) * (2 * FactorTile<T>::kSize * warps + (kShared ? plan.padded * Rows::kStride : 0));
  launch(
      queue,
      {blocks, kShared ? component_blocks(queue, blocks * plan.mixtures, parts(plan.k, warps)) : 1,
       static_cast<int>(plan.mixtures)},
      static_cast<int>(warps) * kWarp, shared, triangular_logits<T, kRows, kShared>, args);
}

template <class T>
void launch_diagonal(const Queue& queue, const LogitArgs<T>& args) {
  constexpr int rows = kMostThreadRows<T>;
  using Rows = WarpRows<T, rows>;
  const GmmPlan& plan = args.plan;
  const std::int64_t fours = parts(plan.k, kThreadComponents);
  const std::int64_t warps = fours < kMostWarps ? fours : kMostWarps;
  const std::size_t shared =
      sizeof(T) * kDiagFeatures * (Rows::kStride + 3 * kThreadComponents * warps);
  launch(queue,
         {parts(args.rows.count, Rows::kBlock), static_cast<int>(parts(fours, warps)),
          static_cast<int>(plan.mixtures)},
         static_cast<int>(warps) * kWarp, shared, diagonal_logits<T, rows>, args);
}

}  // namespace

int component_blocks(const Queue& queue, std::int64_t blocks, std::int64_t most) {
  const std::int64_t wanted = parts(std::int64_t{4} * device_of(queue).multiprocessors, blocks);
  return static_cast<int>(wanted < most ? wanted : most);
}

template <class T>
std::int64_t logits_scratch(const GmmPlan& plan, const Device& device) {
  const std::size_t beside = sizeof(T) * 2 * FactorTile<T>::kSize * kMostWarps;
  if (!plan.triangular || plan.units || thread_rows<T>(device, plan.padded, beside)) return 0;
  return plan.mixtures * parts(plan.chunk, kWarp) * plan.padded * WarpRows<T, 1>::kStride;
}

template <class T>
void make_logits(const Queue& queue, const GmmPlan& plan, const GmmTables<T>& tables,
                 const GmmChunkRows<T>& rows, T* scratch, T* logits) {
  const LogitArgs<T> args{plan, tables, rows, logits, scratch};
  if (!plan.triangular) return launch_diagonal(queue, args);
  if constexpr (sizeof(T) == 4)
    if (plan.units) return make_full_logits(queue, plan, tables, rows, logits);
  const std::size_t beside = sizeof(T) * 2 * FactorTile<T>::kSize * kMostWarps;
  switch (thread_rows<T>(device_of(queue), plan.padded, beside)) {
    case 8:
      if constexpr (kMostThreadRows<T> >= 8) launch_triangular<T, 8, true>(queue, args);
      return;
    case 4:
      return launch_triangular<T, 4, true>(queue, args);
    case 2:
      return launch_triangular<T, 2, true>(queue, args);
    case 1:
      return launch_triangular<T, 1, true>(queue, args);
    default:
      return launch_triangular<T, 1, false>(queue, args);
  }
}

#define ELBOKIT_INSTANTIATE(T)                                                 \
  template std::int64_t logits_scratch<T>(const GmmPlan&, const Device&);      \
  template void make_logits(const Queue&, const GmmPlan&, const GmmTables<T>&, \
                            const GmmChunkRows<T>&, T*, T*);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cuda
