// Second moments of full and tied covariances over a chunk's rows: what the kernels have in common
// that sum them up in floats (gmm_scatter.cu) and on the matrix units (gmm_full_scatter.cu).
#pragma once

#include "common/slices.h"
#include "kernels/gmm_sums.h"

namespace elbokit::cuda {

// Rows of a list that each lane has: a list is of 32 for each of a block's warps at most.
inline constexpr int kWords = 8;

template <class T>
struct ScatterArgs {
  GmmPlan plan;
  GmmTables<T> tables;
  GmmChunkRows<T> rows;
  const T* responsibilities;
  double* sums;
  int splits;
  int listed;               // rows of a list: whole warps, kWords at most for each one of the block
  int batch, features, ld;  // rows in shared memory, their features, padded, and their distance
};

// A block's component, its part of the triangle, and a list of rows in its shared memory.
template <class T>
struct ScatterBlock {
  std::int64_t m, k;
  int split;
  double* sums;     // (tiles of the triangle, 8, 8): see scatter_at
  T* weight;        // (listed): responsibilities that are not 0
  int* list;        // (listed): their rows
  unsigned* found;  // (32)
  T* beyond;        // not in use

  ELBOKIT_DEVICE explicit ScatterBlock(const ScatterArgs<T>& args) {
    m = blockIdx.z, k = blockIdx.x / args.splits;
    split = static_cast<int>(blockIdx.x) % args.splits;
    sums = args.sums + ((m * gridDim.y + blockIdx.y) * args.plan.k + k) * args.plan.factor_size();
    weight = shared_memory<T>();
    list = reinterpret_cast<int*>(weight + args.listed);
    found = reinterpret_cast<unsigned*>(list + args.listed);
    beyond = reinterpret_cast<T*>(found + kWarp);
  }
  static std::size_t bytes(int listed) {
    return (sizeof(T) + sizeof(int)) * static_cast<std::size_t>(listed) + sizeof(unsigned) * kWarp;
  }

  // The block's tiles of the triangle.
  ELBOKIT_DEVICE int first_tile(const ScatterArgs<T>& args, int after = 0) const {
    return static_cast<int>(args.plan.scatter_tiles() * (split + after) / args.splits);
  }
  ELBOKIT_DEVICE int last_tile(const ScatterArgs<T>& args) const { return first_tile(args, 1); }

  ELBOKIT_DEVICE const T* center(const ScatterArgs<T>& args) const {
    return args.tables.center + (m * args.plan.k + k) * args.plan.padded;
  }
  // The n-th row of the chunk.
  ELBOKIT_DEVICE const T* row(const ScatterArgs<T>& args, std::int64_t n) const {
    return args.rows.x + m * args.rows.mixture_stride + n * args.rows.row_stride;
  }

  // Lists the rows that have a responsibility, of those from n0 on and before `end`; returns how
  // many. For all threads.
  ELBOKIT_DEVICE int list_rows(const ScatterArgs<T>& args, std::int64_t n0,
                               std::int64_t end) const {
    const int warps = static_cast<int>(blockDim.x) / kWarp, words = args.listed / kWarp;
    const int lane = lane_index();
    const T* const r = args.responsibilities + (m * args.plan.k + k) * args.plan.ld + n0;
    T loaded[kWords];  // all on their way at once
#pragma unroll
    for (int u = 0; u < kWords; ++u) {
      const int word = warp_index() + u * warps, i = word * kWarp + lane;
      loaded[u] = word < words && n0 + i < end ? r[i] : T(0);
    }
#pragma unroll
    for (int u = 0; u < kWords; ++u) {
      const int word = warp_index() + u * warps;
      const unsigned there = ballot(loaded[u] != T(0));
      if (lane == 0 && word < words) found[word] = there;
    }
    block_barrier();
    const int mine = lane < words ? count_bits(found[lane]) : 0;
    const int through = warp_running_sum(mine), before = through - mine;
    const int total = shuffle(through, kWarp - 1);
#pragma unroll
    for (int u = 0; u < kWords; ++u) {
      const int word = warp_index() + u * warps;
      if (word >= words) break;
      const int first = shuffle(before, word);
      const unsigned lower = found[word] & ((1u << lane) - 1);
      if (loaded[u] == T(0)) continue;
      list[first + count_bits(lower)] = word * kWarp + lane;
      weight[first + count_bits(lower)] = loaded[u];
    }
    block_barrier();
    return total;
  }
};

// Which tile (i, j) is, of those down to the diagonal, row by row.
ELBOKIT_INLINE std::int64_t tile_index(std::int64_t i, std::int64_t j) {
  return i * (i + 1) / 2 + j;
}

// Where the sum of features i and j is.
ELBOKIT_INLINE std::int64_t scatter_at(std::int64_t i, std::int64_t j) {
  constexpr std::int64_t tile = kTileFeatures;
  return (tile_index(i / tile, j / tile) * tile + i % tile) * tile + j % tile;
}

}  // namespace elbokit::cuda
