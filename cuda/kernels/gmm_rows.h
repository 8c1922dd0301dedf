// Rows of a tile as the threads of a warp own them, and tiles of rows in shared memory.
#pragma once

#include "kernels/gmm_pass.h"

namespace elbokit::cuda {

// kRows rows of a thread, in accesses of up to 16 bytes that are contiguous over the warp.
template <class T, int kRows>
struct WarpRows {
  static constexpr int kVector =
      kRows * static_cast<int>(sizeof(T)) < 16 ? kRows : 16 / static_cast<int>(sizeof(T));
  static constexpr int kBlock = kWarp * kRows;
  // Off a multiple of 32 banks, for features that are stored at once.
  static constexpr int kStride = kBlock + 4;

  // The place in its block of this thread's row i.
  ELBOKIT_DEVICE static int at(int i) {
    return i / kVector * kWarp * kVector + lane_index() * kVector + i % kVector;
  }
  ELBOKIT_DEVICE static void load(const T* from, T (&to)[kRows]) {
    for (int u = 0; u < kRows / kVector; ++u) {
      const auto pack = *reinterpret_cast<const Pack<T, kVector>*>(from + at(u * kVector));
      for (int v = 0; v < kVector; ++v) to[u * kVector + v] = pack.at[v];
    }
  }
};

// Features j0 .. j0 + features - 1 (a multiple of 8) of `block` rows, transposed; 0 where there are
// no such rows or features. A warp takes 4 rows by 8 features at a time: whole sectors of memory,
// and 32 banks.
template <class T>
ELBOKIT_DEVICE void stage_rows(const T* x, std::ptrdiff_t row_stride, std::int64_t rows, int block,
                               std::int64_t j0, std::int64_t features, std::int64_t d, T* to,
                               int stride) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int r = lane_index() % 4, f = lane_index() / 4;
  for (int row0 = 4 * warp_index(); row0 < block; row0 += 4 * warps) {
    const int row = row0 + r;
    const T* const from = x + row * row_stride + j0;
    for (std::int64_t j = f; j < features; j += 8)
      to[j * stride + row] = row < rows && j0 + j < d ? from[j] : T(0);
  }
}

// Rows of a thread so that a block's rows of so many features take at most half of what a block may
// have: two blocks then share a multiprocessor. 0: not even for one row.
template <class T>
int thread_rows(const Device& device, std::int64_t features, std::size_t beside) {
  for (int share = 2; share >= 1; --share)
    for (int rows = kMostThreadRows<T>; rows >= 1; rows /= 2) {
      const std::size_t bytes =
          static_cast<std::size_t>(features * (kWarp * rows + 4)) * sizeof(T) + beside;
      // One block with many rows for each thread is better than two with few.
      if (bytes * share <= device.shared_bytes && (share == 1 || rows == kMostThreadRows<T>))
        return rows;
    }
  return 0;
}

}  // namespace elbokit::cuda
