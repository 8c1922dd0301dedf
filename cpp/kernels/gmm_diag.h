// Diagonal covariance: one precision per component and feature.
#pragma once

#include "kernels/gmm_sparse.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T>
struct DiagFamily {
  static constexpr bool prunable = false, sparse = true;
  static constexpr int tile = kTile;

  template <bool Compensated>
  static void logits(const GmmModel<T>& model, const Block<T>& block, std::int64_t n) {
    logits<Compensated>(model, block.x + n, block.ld, LogitRows<T>(block, n));
  }

  // The same from rows that may lie elsewhere.
  template <bool Compensated>
  static void logits(const GmmModel<T>& shared, const T* x, std::ptrdiff_t ld,
                     const LogitRows<T> out) {
    const GmmModel<T> model = shared;  // a copy, which the stores cannot be thought to change
    Largest<T> largest;
    std::int64_t k = 0;
    const auto add_tile = [&](auto width) ELBOKIT_INLINE_LAMBDA {
      tile_logits<Compensated, width>(model, k, x, ld, out, largest);
    };
    for (; k + tile <= model.n_components; k += tile) add_tile(std::integral_constant<int, tile>{});
    if (model.n_components - k == 3) add_tile(std::integral_constant<int, 3>{});
    if (model.n_components - k == 2) add_tile(std::integral_constant<int, 2>{});
    if (model.n_components - k == 1) add_tile(std::integral_constant<int, 1>{});
    largest.store_to(out.largest);
  }

  // The share of a block's rows up to which a list of them costs less than the whole block.
  static double sparse_share(const GmmModel<T>& model) {
    const auto d = static_cast<double>(model.n_features), lanes = static_cast<double>(kLanes<T>);
    const double vectors = static_cast<double>(Pending<T>::whole_vectors(model.n_features)) / lanes;
    return (2 * d - 5) / lanes / (4 + 4 * vectors);
  }

  static void add_sparse(const GmmModel<T>& model, std::int64_t k, const SparseRows<T>& list,
                         const Pending<T>&, double* first, double* second) {
    add_sparse_diag(model, k, list, first, second);
  }

  // Adds the moments of the given components over `rows` rows (whole groups) of a block. A tile of
  // features stays in the first-level cache while the components pass over it.
  static void moments(const GmmModel<T>& model, const std::int32_t* components, std::int64_t count,
                      const Block<T>& block, std::int64_t rows, double* first, double* second) {
    for (std::int64_t j = 0; j < model.n_features; j += tile) {
      std::int64_t i = 0;
      if constexpr (kVectorRegisters >= 32)
        for (; i + 2 <= count; i += 2)
          tile_moments<2>(model, components + i, j, block, rows, first, second);
      for (; i < count; ++i) tile_moments<1>(model, components + i, j, block, rows, first, second);
    }
  }

 private:
  // Logits of components k .. k + Width - 1.
  template <bool Compensated, int Width>
  static ELBOKIT_INLINE void tile_logits(const GmmModel<T>& model, std::int64_t k, const T* x,
                                         std::ptrdiff_t ld, const LogitRows<T> out,
                                         Largest<T>& largest) {
    constexpr std::int64_t flush_mask = 31;
    const T* factor = model.factor + k / tile * model.factor_stride;
    Distance<T, Compensated> distance[Width][kRowVectors];
    for (std::int64_t j = 0; j < model.n_features; ++j, factor += 3 * tile) {
      Vec<T> value[kRowVectors];
      for (int v = 0; v < kRowVectors; ++v) {
        value[v] = load(x + j * ld + v * kLanes<T>);
        pin(value[v]);
      }
      for (int c = 0; c < Width; ++c)
        for (int v = 0; v < kRowVectors; ++v)
          distance[c][v].add_square(
              whiten(value[v], factor[c], factor[tile + c], factor[2 * tile + c]));
      if (Compensated && (j & flush_mask) == flush_mask)
        for (auto& row : distance)
          for (auto& each : row) each.flush();
    }
    for (int c = 0; c < Width; ++c)
      for (int v = 0; v < kRowVectors; ++v)
        largest.row[v] =
            max(largest.row[v], distance[c][v].store_logit(model.log_const[k + c], out,
                                                           (k + c) * out.ld + v * kLanes<T>));
  }

  // The moments of features j .. j + 3 for N components.
  template <int N>
  static void tile_moments(const GmmModel<T>& model, const std::int32_t* components, std::int64_t j,
                           const Block<T>& block, std::int64_t rows, double* first,
                           double* second) {
    const std::int64_t d = model.n_features;
    const T *x[tile], *r[N];
    T center[N][tile];
    for (int c = 0; c < tile; ++c) {
      // Features past the last repeat it; their sums are not read.
      const std::int64_t feature = j + c < d ? j + c : d - 1;
      x[c] = block.x + feature * block.ld;
      for (int i = 0; i < N; ++i)
        center[i][c] = model.center[components[i] * model.padded_features + feature];
    }
    for (int i = 0; i < N; ++i) r[i] = block.logits + components[i] * block.ld;
    Vec<T> sums[2 * tile * N] = {};  // per component: of the differences, then of their squares
    for (std::int64_t n = 0; n < rows; n += kLanes<T>) {
      Vec<T> value[tile];
      for (int c = 0; c < tile; ++c) {
        value[c] = load(x[c] + n);
        if (N > 1) pin(value[c]);
      }
      for (int i = 0; i < N; ++i) {
        Vec<T> w = load(r[i] + n);
        pin(w);
        for (int c = 0; c < tile; ++c) {
          const Vec<T> difference = value[c] - center[i][c];
          const Vec<T> weighted = w * difference;
          sums[2 * tile * i + c] += weighted;
          sums[2 * tile * i + tile + c] += weighted * difference;
        }
      }
    }
    T total[2 * tile * N];
    reduce_add_all(sums, total);
    for (int i = 0; i < N; ++i) {
      const T* const sum = total + 2 * tile * i;
      double* const to_first = first + components[i] * d + j;
      double* const to_second = second + components[i] * d + j;
      if (j + tile <= d) {  // a whole vector each
        for (int c = 0; c < tile; ++c) to_first[c] += sum[c];
        for (int c = 0; c < tile; ++c) to_second[c] += sum[tile + c];
      } else {
        for (int c = 0; j + c < d; ++c) to_first[c] += sum[c];
        for (int c = 0; j + c < d; ++c) to_second[c] += sum[tile + c];
      }
    }
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
