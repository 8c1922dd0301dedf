// Sums over the rows: in T over short runs, in double beyond.
#pragma once

#include "kernels/gmm_pass.h"

namespace elbokit::cuda {

// Terms of one sum in T.
inline constexpr int kMostTerms = 512;

// Tiles of a triangle that one block may have.
inline constexpr int kMostTiles = 128;

// Which block has a tile of `all` of them, and what else it has.
struct ScatterSplit {
  std::int64_t begin, tiles;
};
ELBOKIT_INLINE std::int64_t scatter_splits(std::int64_t all) {
  return (all + kMostTiles - 1) / kMostTiles;
}
ELBOKIT_INLINE ScatterSplit scatter_split(std::int64_t all, std::int64_t split) {
  const std::int64_t splits = scatter_splits(all), begin = all * split / splits;
  return {begin, all * (split + 1) / splits - begin};
}
ELBOKIT_INLINE ScatterSplit split_of(std::int64_t all, std::int64_t tile) {
  std::int64_t split = tile * scatter_splits(all) / all;
  ScatterSplit found = scatter_split(all, split);
  while (tile >= found.begin + found.tiles) found = scatter_split(all, ++split);
  return found;
}

struct RowRange {
  std::int64_t begin, end;
};

ELBOKIT_DEVICE RowRange range_of(std::int64_t count, std::int64_t range, std::int64_t ranges) {
  return {count * range / ranges, count * (range + 1) / ranges};
}

// Adds a row of each thread's tile to `sums`, (tiles, kColumns), over the groups of threads that
// share the rows of data, in their order. scratch: a row for each thread. All threads call it;
// those past the last group have no part in it.
template <class T, int kColumns>
ELBOKIT_DEVICE void add_row(const T (&row)[kColumns], int tile, int tiles, int group, int groups,
                            T* scratch, double* sums) {
  const int size = tiles * kColumns;
  block_barrier();
  if (group < groups)
    for (int c = 0; c < kColumns; ++c) scratch[group * size + tile * kColumns + c] = row[c];
  block_barrier();
  for (int e = static_cast<int>(threadIdx.x); e < size; e += static_cast<int>(blockDim.x)) {
    double sum = 0;
    for (int g = 0; g < groups; ++g) sum += static_cast<double>(scratch[g * size + e]);
    sums[e] += sum;
  }
}

}  // namespace elbokit::cuda
