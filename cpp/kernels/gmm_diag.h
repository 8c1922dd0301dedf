// Diagonal covariance: one precision per component and feature.
#pragma once

#include "kernels/gmm_sparse.h"

namespace elbokit::ELBOKIT_LEVEL {

// OneCenter: the components share one center, which is subtracted once for all of them.
template <class T, bool OneCenter = false>
struct DiagFamily {
  static constexpr bool prunable = false, sparse = true, reads_ahead = true;
  static constexpr int tile = kTile;

  template <bool Compensated>
  static void logits(const GmmModel<T>& model, const Block<T>& block, std::int64_t n,
                     const char* ahead) {
    logits<Compensated>(model, block.x + n, block.ld, LogitRows<T>(block, n), ahead);
  }

  // The same from rows that may lie elsewhere. At `ahead`, where given, are as many rows of data,
  // one behind the other, that are asked for while these are worked on.
  template <bool Compensated>
  static void logits(const GmmModel<T>& shared, const T* x, std::ptrdiff_t ld,
                     const LogitRows<T> out, const char* ahead = nullptr) {
    const GmmModel<T> model = shared;  // a copy, which the stores cannot be thought to change
    Largest<T> largest;
    std::int64_t k = 0;
    const auto add_tile = [&](auto width) ELBOKIT_INLINE_LAMBDA {
      if (k == 0 && ahead)
        tile_logits<Compensated, width, true>(model, k, x, ld, out, largest, ahead);
      else
        tile_logits<Compensated, width, false>(model, k, x, ld, out, largest, nullptr);
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
      const auto add = [&](auto width) ELBOKIT_INLINE_LAMBDA {
        for (; i + width <= count; i += width)
          tile_moments<width>(model, components + i, j, block, rows, first, second);
      };
      if constexpr (kVectorRegisters >= 32) add(std::integral_constant<int, 2>{});
      add(std::integral_constant<int, 1>{});
    }
  }

 private:
  // Where a walk over the features has come to.
  struct Walk {
    const T* x;  // (n_features, ld)
    std::ptrdiff_t ld;
    const T* factor;
    const char* ahead;
  };

  // Logits of components k .. k + Width - 1.
  template <bool Compensated, int Width, bool Ahead>
  static ELBOKIT_INLINE void tile_logits(const GmmModel<T>& model, std::int64_t k, const T* x,
                                         std::ptrdiff_t ld, const LogitRows<T> out,
                                         Largest<T>& largest, const char* ahead) {
    Walk walk{x, ld, model.factor + k / tile * model.factor_stride, ahead};
    const auto finish = [&](int c, int v, auto& distance) ELBOKIT_INLINE_LAMBDA {
      largest.row[v] = max(largest.row[v], distance.store_logit(model.log_const[k + c], out,
                                                                (k + c) * out.ld + v * kLanes<T>));
    };
    Vec<T> sum[Width][kRowVectors];
    if constexpr (!Compensated) {
      sum_squares<Width, Ahead>(walk, model.n_features, sum);
      for (int c = 0; c < Width; ++c)
        for (int v = 0; v < kRowVectors; ++v) {
          Distance<T, false> distance;
          distance.add(sum[c][v]);
          finish(c, v, distance);
        }
      return;
    }
    constexpr std::int64_t run = 32;
    Distance<T, Compensated> distance[Width][kRowVectors];
    for (std::int64_t j = 0; j < model.n_features; j += run) {
      const std::int64_t left = model.n_features - j;
      // GCC would keep these in registers, and the sums of three components in memory.
      if constexpr (Width == 3) put_by(distance);
      sum_squares<Width, Ahead>(walk, left < run ? left : run, sum);
      for (int c = 0; c < Width; ++c)
        for (int v = 0; v < kRowVectors; ++v) distance[c][v].add(sum[c][v]);
    }
    for (int c = 0; c < Width; ++c)
      for (int v = 0; v < kRowVectors; ++v) finish(c, v, distance[c][v]);
  }

  // The sums of the squares of the next `count` features, at least one.
  template <int Width, bool Ahead>
  static ELBOKIT_INLINE void sum_squares(Walk& walk, std::int64_t count,
                                         Vec<T> (&sum)[Width][kRowVectors]) {
    Walk at = walk;
    Vec<T> square[Width][kRowVectors];
    for (auto& row : square)
      for (auto& each : row) each = Vec<T>{};
    do {
      if constexpr (Ahead) {
        constexpr int bytes = kRowVectors * kVectorBytes;
        for (int i = 0; i < bytes; i += 64) __builtin_prefetch(at.ahead + i);
        at.ahead += bytes;
      }
      Vec<T> value[kRowVectors];
      for (int v = 0; v < kRowVectors; ++v) {
        value[v] = load(at.x + v * kLanes<T>);
        if (OneCenter) value[v] -= at.factor[0];
        pin(value[v]);
      }
      for (int c = 0; c < Width; ++c)
        for (int v = 0; v < kRowVectors; ++v) {
          const Vec<T> y = whiten(value[v], OneCenter ? T(0) : at.factor[c], at.factor[tile + c],
                                  at.factor[2 * tile + c]);
          square[c][v] += y * y;
        }
      at.x += at.ld;
      at.factor += 3 * tile;
    } while (--count > 0);
    for (int c = 0; c < Width; ++c)
      for (int v = 0; v < kRowVectors; ++v) sum[c][v] = square[c][v];
    walk = at;
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
    Vec<T> sums[N][2 * tile] = {};  // of the differences, then of their squares
    for (std::int64_t n = 0; n < rows; n += kLanes<T>) {
      Vec<T> value[tile];
      for (int c = 0; c < tile; ++c) {
        value[c] = load(x[c] + n);
        if (OneCenter) value[c] -= center[0][c];
        if (N > 1) pin(value[c]);
      }
      for (int i = 0; i < N; ++i) {
        Vec<T> w = load(r[i] + n);
        pin(w);
        for (int c = 0; c < tile; ++c) {
          const Vec<T> difference = OneCenter ? value[c] : value[c] - center[i][c];
          const Vec<T> weighted = w * difference;
          sums[i][c] += weighted;
          sums[i][tile + c] += weighted * difference;
        }
      }
    }
    T total[N][2 * tile];
    for (int i = 0; i < N; ++i) reduce_add_all(sums[i], total[i]);
    for (int i = 0; i < N; ++i)
      add_totals(total[i], d - j, first + components[i] * d + j, second + components[i] * d + j);
  }

  // Adds the sums of those features of a tile that exist.
  static ELBOKIT_INLINE void add_totals(const T* total, std::int64_t features, double* first,
                                        double* second) {
    if (features >= tile) {  // a whole vector each
      for (int c = 0; c < tile; ++c) first[c] += total[c];
      for (int c = 0; c < tile; ++c) second[c] += total[tile + c];
    } else {
      for (int c = 0; c < features; ++c) first[c] += total[c];
      for (int c = 0; c < features; ++c) second[c] += total[tile + c];
    }
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
