// Symmetric products z z^T of rows of a block, by tiles of four.
#pragma once

#include "kernels/gmm_block.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T>
struct SymmetricProduct {
  T *root, *z;  // (rows), what z was multiplied by; (padded, ld)
  std::ptrdiff_t ld;
  std::int64_t rows;  // whole groups

  // sum = z_i z_j^T for a tile; the lower triangle alone if Diagonal.
  template <bool Diagonal>
  void tile(std::int64_t i, std::int64_t j, T* sum) const {
    // Half the tile at a time where registers are few.
    if constexpr (kVectorRegisters >= 32) {
      columns<Diagonal, 0, kTile>(i, j, sum);
    } else {
      columns<Diagonal, 0, kTile / 2>(i, j, sum);
      columns<Diagonal, kTile / 2, kTile / 2>(i, j, sum);
    }
  }

  // Columns From .. From + Width - 1 of the tile.
  template <bool Diagonal, int From, int Width>
  void columns(std::int64_t i, std::int64_t j, T* sum) const {
    Vec<T> product[kTile * Width] = {};
    const T* const left_row = z + i * ld;
    const T* const right_row = z + (j + From) * ld;
    for (std::int64_t n = 0; n < rows; n += kLanes<T>) {
      Vec<T> right[Width];
      for (int b = 0; b < Width; ++b) {
        right[b] = load(right_row + b * ld + n);
        pin(right[b]);
      }
      unrolled<kTile>([&](auto a) ELBOKIT_INLINE_LAMBDA {
        constexpr int width = !Diagonal          ? Width
                              : a < From         ? 0
                              : a < From + Width ? a - From + 1
                                                 : Width;
        Vec<T> left = load(left_row + a * ld + n);
        pin(left);
        for (int b = 0; b < width; ++b) product[a * Width + b] += left * right[b];
      });
    }
    T total[kTile * Width];
    reduce_add_all(product, total);
    for (int a = 0; a < kTile; ++a)
      for (int b = 0; b < Width; ++b) sum[a * kTile + From + b] = total[a * Width + b];
  }

  // Adds a tile of sums to the lower triangle of (d, d).
  static ELBOKIT_INLINE void add_tile(std::int64_t d, std::int64_t i, std::int64_t j, const T* sum,
                                      double* second) {
    double* const to = second + i * d + j;
    if (j < i && i + kTile <= d) {
      for (int a = 0; a < kTile; ++a)
        for (int b = 0; b < kTile; ++b) to[a * d + b] += sum[a * kTile + b];
    } else {
      for (int a = 0; a < kTile && i + a < d; ++a)
        for (int b = 0; b < kTile && j + b <= i + a; ++b) to[a * d + b] += sum[a * kTile + b];
    }
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
