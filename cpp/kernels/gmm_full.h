// Full covariance: triangular factors in the E-step, symmetric rank updates in the M-step.
#pragma once

#include "kernels/gmm_product.h"
#include "kernels/gmm_sparse.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T>
struct FullFamily {
  static constexpr bool prunable = true, sparse = true, reads_ahead = false;
  static constexpr int tile = kTile, lanes = kLanes<T>;

  // Logits of every component for the group of rows at n. Keep: the whitened coordinates are left
  // in kept, (n_components, padded_features, kGroup).
  template <bool Compensated, bool Keep = false>
  static void logits(const GmmModel<T>& shared, const Block<T>& block, std::int64_t n,
                     T* kept = nullptr) {
    const GmmModel<T> model = shared;  // a copy, which the stores cannot be thought to change
    const LogitRows<T> out(block, n);
    Largest<T> largest;
    for (std::int64_t k = 0; k < model.n_components; ++k) {
      const T* const center = model.center + k * model.padded_features;
      const T* const bias = model.bias + k * model.padded_features;
      const T* factor = model.factor + k * model.factor_stride;
      Distance<T, Compensated> distance[kRowVectors];
      if constexpr (Keep) {
        T* const to = kept + k * model.padded_features * kGroup<T>;
        add_squares(center, bias, factor, 0, model.n_features, block.x + n, block.ld, distance, to);
      } else {
        add_squares(center, bias, factor, 0, model.n_features, block.x + n, block.ld, distance);
      }
      for (int v = 0; v < kRowVectors; ++v)
        largest.row[v] = max(largest.row[v], distance[v].store_logit(model.log_const[k], out,
                                                                     k * out.ld + v * kLanes<T>));
    }
    largest.store_to(out.largest);
  }

  // Entries of a factor's tiles before coordinate `from`, a tile's first.
  static std::int64_t factor_entries(std::int64_t from) { return from * (from + tile) / 2; }

  // Adds the squares of the whitened coordinates [from, to), from a tile's first; `factor` is at
  // it. The coordinates are left in kept, where one is given.
  template <bool Compensated, int V, class... Kept>
  static ELBOKIT_INLINE void add_squares(const T* center, const T* bias, const T* factor,
                                         std::int64_t from, std::int64_t to, const T* x,
                                         std::ptrdiff_t ld, Distance<T, Compensated> (&distance)[V],
                                         Kept... kept) {
    constexpr std::int64_t flush_mask = 31;
    whiten<V>(center, bias, factor, from, to, x, ld,
              [&](std::int64_t i, const auto& y) ELBOKIT_INLINE_LAMBDA {
                (keep(kept + i * V * kLanes<T>, y), ...);
                for (int v = 0; v < V; ++v) {
                  for (const auto& coordinate : y) distance[v].add_square(coordinate[v]);
                  if ((i & flush_mask) == 0) distance[v].flush();
                }
              });
    for (auto& each : distance) each.flush();
  }

  template <class Tile>
  static ELBOKIT_INLINE void keep(T* to, const Tile& y) {
    for (const auto& coordinate : y)
      for (const auto& v : coordinate) {
        store(to, v);
        to += kLanes<T>;
      }
  }

  // Calls take(i, y) with the whitened coordinates i .. i + 3 of V vectors of rows, tile by tile; y
  // has fewer of them in a last tile that is not full.
  template <int V, class F>
  static ELBOKIT_INLINE void whiten(const T* center, const T* bias, const T* factor,
                                    std::int64_t from, std::int64_t to, const T* x,
                                    std::ptrdiff_t ld, F&& take) {
    std::int64_t i = from;
    for (; i + tile <= to; i += tile) {
      whiten_tile<V, tile>(center, bias, factor, i, x, ld, take);
      factor += (i + tile) * tile;
    }
    if (to - i == 3) whiten_tile<V, 3>(center, bias, factor, i, x, ld, take);
    if (to - i == 2) whiten_tile<V, 2>(center, bias, factor, i, x, ld, take);
    if (to - i == 1) whiten_tile<V, 1>(center, bias, factor, i, x, ld, take);
  }

  template <int V, int Width, class F>
  static ELBOKIT_INLINE void whiten_tile(const T* center, const T* bias, const T* factor,
                                         std::int64_t i, const T* x, std::ptrdiff_t ld, F&& take) {
    // Where there are few sums, those of several coordinates are apart: one addition need not await
    // the last.
    constexpr int sets = Width * V > 4 ? 1 : Width * V > 2 ? 2 : 4;
    static_assert(tile % sets == 0, "whole runs of coordinates before a tile");
    Vec<T> sum[sets][Width][V];
    for (int c = 0; c < Width; ++c)
      for (int v = 0; v < V; ++v) sum[0][c][v] = broadcast<T>(-bias[i + c]);
    for (int set = 1; set < sets; ++set)
      for (int c = 0; c < Width; ++c)
        for (int v = 0; v < V; ++v) sum[set][c][v] = Vec<T>{};
    auto& y = sum[0];
    // Coordinate j in the tile's columns from `first` on.
    const auto add = [&](std::int64_t j, auto first, auto& to) ELBOKIT_INLINE_LAMBDA {
      for (int v = 0; v < V; ++v) {
        Vec<T> difference = load(x + j * ld + v * kLanes<T>) - center[j];
        pin(difference);
        for (int c = first; c < Width; ++c) to[c][v] += difference * factor[c];
      }
      factor += tile;
    };
    for (std::int64_t j = 0; j < i; j += sets)
      unrolled<sets>([&](auto set) ELBOKIT_INLINE_LAMBDA {
        add(j + set, std::integral_constant<int, 0>{}, sum[set]);
      });
    for (int set = 1; set < sets; ++set)
      for (int c = 0; c < Width; ++c)
        for (int v = 0; v < V; ++v) y[c][v] += sum[set][c][v];
    unrolled<Width>([&](auto c) ELBOKIT_INLINE_LAMBDA { add(i + c, c, y); });
    take(i, y);
  }

  // The share of a block's rows up to which a list of them costs less than the whole block.
  static double sparse_share(const GmmModel<T>& model) {
    const auto d = static_cast<double>(model.n_features);
    const auto width = static_cast<double>(Pending<T>::whole_vectors(model.n_features));
    return d * (d / 2 + 3) / (width * (d / 2 + lanes / 2 + 5) + 16 * lanes);
  }

  static void add_sparse(const GmmModel<T>& model, std::int64_t k, const SparseRows<T>& list,
                         const Pending<T>& pending, double* first, double* second) {
    add_sparse_full(model, k, list, pending, first, second);
  }

  // Adds the moments of the given components over `rows` rows (whole groups) of a block.
  static void moments(const GmmModel<T>& model, const std::int32_t* components, std::int64_t count,
                      const Block<T>& block, std::int64_t rows, double* first, double* second) {
    const std::int64_t d = model.n_features;
    const SymmetricProduct<T> z{block.scratch, block.scratch + block.ld, block.ld, rows};
    for (std::int64_t c = 0; c < count; ++c) {
      const std::int64_t k = components[c];
      const T* const r = block.logits + k * block.ld;
      for (std::int64_t n = 0; n < rows; n += kLanes<T>) store(z.root + n, sqrt<T>(load(r + n)));
      for_each_height(d, [&](std::int64_t i, auto height) {
        T sum[tile * tile], linear[tile];
        diagonal_tile<height>(model.center + k * model.padded_features, block.x, i, z, linear, sum);
        for (int a = 0; a < height; ++a) first[k * d + i + a] += linear[a];
        double* const to = second + k * d * d;
        z.template add_tile<height>(d, i, i, sum, to);
        for (std::int64_t j = 0; j < i; j += tile) {
          z.template tile<false, height>(i, j, sum);
          z.template add_tile<height>(d, i, j, sum, to);
        }
      });
    }
  }

 private:
  // Makes rows i .. i + Height - 1 of z; linear = their sums weighted by the roots, sum = z_i
  // z_i^T.
  template <int Height>
  static void diagonal_tile(const T* center, const T* x, std::int64_t i,
                            const SymmetricProduct<T>& product, T* linear, T* sum) {
    const auto [root, z, ld, rows] = product;
    // With few registers the products come in a pass of their own.
    constexpr bool fused = kVectorRegisters >= 32;
    Vec<T> sums[fused ? 16 : tile] = {};
    static_assert(tile + tile * (tile + 1) / 2 <= 16, "linear sums and products");
    for (std::int64_t n = 0; n < rows; n += kLanes<T>) {
      Vec<T> w = load(root + n);
      pin(w);
      Vec<T> value[Height];
      unrolled<Height>([&](auto a) ELBOKIT_INLINE_LAMBDA {
        value[a] = w * (load(x + (i + a) * ld + n) - center[i + a]);
        store(z + (i + a) * ld + n, value[a]);
        pin(value[a]);
        sums[a] += w * value[a];
        if constexpr (fused)
          for (int b = 0; b <= a; ++b) sums[tile + a * (a + 1) / 2 + b] += value[a] * value[b];
      });
    }
    T total[fused ? 16 : tile];
    reduce_add_all(sums, total);
    for (int a = 0; a < Height; ++a) linear[a] = total[a];
    if constexpr (fused) {
      for (int a = 0; a < Height; ++a)
        for (int b = 0; b <= a; ++b) sum[a * tile + b] = total[tile + a * (a + 1) / 2 + b];
    } else {
      product.template tile<true, Height>(i, i, sum);
    }
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
