// Sums over the rows: in T over short runs, in double beyond.
#pragma once

#include "kernels/gmm_pass.h"

namespace elbokit::cuda {

// Terms of one sum in T.
inline constexpr int kMostTerms = 512;

struct RowRange {
  std::int64_t begin, end;
};

ELBOKIT_DEVICE RowRange range_of(std::int64_t count, std::int64_t range, std::int64_t ranges) {
  return {count * range / ranges, count * (range + 1) / ranges};
}

// Adds a row of each thread's tile to `sums`, kColumns for each tile at a distance of `stride`,
// over the groups of threads that share the rows of data, in their order. scratch: a row for each
// thread. All threads call it; those past the last group have no part in it.
template <class T, int kColumns>
ELBOKIT_DEVICE void add_row(const T (&row)[kColumns], int tile, int tiles, int group, int groups,
                            T* scratch, double* sums, int stride = kColumns) {
  const int size = tiles * kColumns;
  block_barrier();
  if (group < groups)
    for (int c = 0; c < kColumns; ++c) scratch[group * size + tile * kColumns + c] = row[c];
  block_barrier();
  for (int e = static_cast<int>(threadIdx.x); e < size; e += static_cast<int>(blockDim.x)) {
    double sum = 0;
    for (int g = 0; g < groups; ++g) sum += static_cast<double>(scratch[g * size + e]);
    sums[e / kColumns * stride + e % kColumns] += sum;
  }
}

}  // namespace elbokit::cuda
