// Symmetric products z z^T of rows of a block, by tiles of four.
#pragma once

#include "kernels/gmm_block.h"

namespace elbokit::ELBOKIT_LEVEL {

// Calls f(i, height) for each tile of `size` rows; the last may have less than four, and what it
// does not have is not computed.
template <class F>
ELBOKIT_INLINE void for_each_height(std::int64_t size, F&& f) {
  std::int64_t i = 0;
  for (; i + kTile <= size; i += kTile) f(i, std::integral_constant<int, kTile>{});
  if (size - i == 3) f(i, std::integral_constant<int, 3>{});
  if (size - i == 2) f(i, std::integral_constant<int, 2>{});
  if (size - i == 1) f(i, std::integral_constant<int, 1>{});
}

template <class T>
struct SymmetricProduct {
  T *root, *z;  // (rows), what z was multiplied by; (size, ld)
  std::ptrdiff_t ld;
  std::int64_t rows;  // whole groups

  // sum = z_i z_j^T for a tile of Height rows, j <= i; the lower triangle alone if Diagonal.
  template <bool Diagonal, int Height>
  void tile(std::int64_t i, std::int64_t j, T* sum) const {
    if constexpr (Height < kTile) return low_tile<Diagonal, Height>(i, j, sum);
    // Half the tile at a time where registers are few.
    constexpr int half = kVectorRegisters >= 32 ? kTile : kTile / 2;
    columns<Diagonal, 0, half>(i, j, sum);
    if constexpr (half < kTile) columns<Diagonal, half, half>(i, j, sum);
  }

  // Columns From .. From + Width - 1 of a whole tile.
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

  // A tile of less than four rows, all columns at once. With so few sums, those of several vectors
  // are apart: one addition need not await the last.
  template <bool Diagonal, int Height>
  void low_tile(std::int64_t i, std::int64_t j, T* sum) const {
    constexpr int width = Diagonal ? Height : kTile, chains = Height * width;
    constexpr int sets = chains > 4 ? 1 : 2;
    static_assert(kRowVectors % sets == 0, "whole runs of vectors in a group");
    Vec<T> product[sets][kTile * kTile];
    for (auto& set : product)
      for (auto& each : set) each = Vec<T>{};
    const T* const left_row = z + i * ld;
    const T* const right_row = z + j * ld;
    for (std::int64_t n = 0; n < rows; n += sets * kLanes<T>)
      unrolled<sets>([&](auto set) ELBOKIT_INLINE_LAMBDA {
        const std::int64_t at = n + set * kLanes<T>;
        Vec<T> left[Height];
        for (int a = 0; a < Height; ++a) {
          left[a] = load(left_row + a * ld + at);
          pin(left[a]);
        }
        unrolled<width>([&](auto b) ELBOKIT_INLINE_LAMBDA {
          const Vec<T> right = load(right_row + b * ld + at);
          for (int a = Diagonal ? b : 0; a < Height; ++a)
            product[set][a * kTile + b] += left[a] * right;
        });
      });
    for (int set = 1; set < sets; ++set)
      for (int e = 0; e < Height * kTile; ++e) product[0][e] += product[set][e];
    T total[kTile * kTile];
    reduce_add_all(product[0], total);
    for (int e = 0; e < Height * kTile; ++e) sum[e] = total[e];
  }

  // Adds a tile of sums to the lower triangle of (size, size).
  template <int Height>
  static ELBOKIT_INLINE void add_tile(std::int64_t size, std::int64_t i, std::int64_t j,
                                      const T* sum, double* to) {
    to += i * size + j;
    if (j < i) {
      for (int a = 0; a < Height; ++a)
        for (int b = 0; b < kTile; ++b) to[a * size + b] += sum[a * kTile + b];
    } else {
      for (int a = 0; a < Height; ++a)
        for (int b = 0; b <= a; ++b) to[a * size + b] += sum[a * kTile + b];
    }
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
