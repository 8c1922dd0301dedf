// The gradient of log p in the rows: -sum_k r_nk Lambda_k (x_n - mean_k) with Lambda = P P^T, from
// the exponentiated logits of a group of rows.
#pragma once

#include "kernels/gmm_diag.h"
#include "kernels/gmm_full.h"
#include "kernels/gmm_small.h"
#include "kernels/gmm_tied.h"
#include "kernels/rows.h"

namespace elbokit::ELBOKIT_LEVEL {

// Full covariance keeps a group's whitened coordinates of all components from the E-step, unless
// they take more than this, which the second-level cache holds: then they are made anew.
inline constexpr std::int64_t kKeptBytes = 256 * 1024;

// Elements of what is kept.
template <class T>
std::int64_t kept_size(const GmmModel<T>& model) {
  if (model.family != Family::full || model.n_features <= kSmallFeatures) return 0;
  const std::int64_t size = model.n_components * model.padded_features * kGroup<T>;
  return size * static_cast<std::int64_t>(sizeof(T)) <= kKeptBytes ? size : 0;
}

// Each family's sum_k e_nk P_k y_nk over the group of rows at n, where y are the whitened
// coordinates and e the exponentiated logits, to (padded_features, kGroup).
template <class T, class FamilyType>
struct RowGradient;

// Adds P y for the whitened coordinates y of the tile at i to the features down to its diagonal.
template <class T, class Tile>
ELBOKIT_INLINE void add_back(const T* factor, std::int64_t i, const Tile& y, T* to) {
  constexpr int width = sizeof(Tile) / sizeof(y[0]);
  // Where whiten() found the tile: those before it have 4, 8, ... rows.
  factor += 2 * i * (i / kTile + 1);
  for (std::int64_t j = 0; j < i + width; ++j, factor += kTile)
    for (int v = 0; v < kRowVectors; ++v) {
      T* const at = to + j * kGroup<T> + v * kLanes<T>;
      Vec<T> sum = load(at);
      for (int c = 0; c < width; ++c) sum += y[c][v] * factor[c];
      store(at, sum);
    }
}

// Whether all of these exponentials are too small to show beside the largest, which is 1. A row
// that has NaN has it in its sum too.
template <class T>
ELBOKIT_INLINE bool negligible(const Vec<T> (&e)[kRowVectors]) {
  const Vec<T> least = broadcast<T>(static_cast<T>(sizeof(T) == 4 ? 0x1p-64 : 0x1p-128));
  unsigned more = 0;
  for (const auto& v : e) more |= greater<T>(v, least);
  return more == 0;
}

template <class T>
struct RowGradient<T, FullFamily<T>> {
  static void sum(const GmmModel<T>& shared, const Block<T>& block, std::int64_t n, T* to,
                  const T* kept) {
    const GmmModel<T> model = shared;
    for (std::int64_t i = 0; i < model.padded_features * kGroup<T>; i += kLanes<T>)
      store(to + i, Vec<T>{});
    for (std::int64_t k = 0; k < model.n_components; ++k) {
      Vec<T> e[kRowVectors];
      for (int v = 0; v < kRowVectors; ++v)
        e[v] = load(block.logits + k * block.ld + n + v * kLanes<T>);
      if (negligible<T>(e)) continue;
      const T* const factor = model.factor + k * model.factor_stride;
      if (kept) {
        add_kept(model, factor, kept + k * model.padded_features * kGroup<T>, e, to);
        continue;
      }
      FullFamily<T>::template whiten<kRowVectors>(
          model.center + k * model.padded_features, model.bias + k * model.padded_features, factor,
          0, model.n_features, block.x + n, block.ld,
          [&](std::int64_t i, auto& y) ELBOKIT_INLINE_LAMBDA {
            for (auto& coordinate : y)
              for (int v = 0; v < kRowVectors; ++v) coordinate[v] *= e[v];
            add_back(factor, i, y, to);
          });
    }
  }

 private:
  static void add_kept(const GmmModel<T>& model, const T* factor, const T* kept,
                       const Vec<T> (&e)[kRowVectors], T* to) {
    for_each_height(model.n_features, [&](std::int64_t i, auto height) {
      Vec<T> y[height][kRowVectors];
      for (int c = 0; c < height; ++c)
        for (int v = 0; v < kRowVectors; ++v)
          y[c][v] = load(kept + (i + c) * kGroup<T> + v * kLanes<T>) * e[v];
      add_back(factor, i, y, to);
    });
  }
};

template <class T, int D>
struct RowGradient<T, SmallFamily<T, D>> {
  static void sum(const GmmModel<T>& shared, const Block<T>& block, std::int64_t n, T* to,
                  const T*) {
    const GmmModel<T> model = shared;
    Vec<T> sums[D][kRowVectors] = {};
    for (std::int64_t k = 0; k < model.n_components; ++k) {
      const T* const factor = model.factor + k * model.factor_stride;
      for (int v = 0; v < kRowVectors; ++v) {
        const std::int64_t at = n + v * kLanes<T>;
        const Vec<T> e = load(block.logits + k * block.ld + at);
        Vec<T> difference[D];
        for (int j = 0; j < D; ++j)
          difference[j] = load(block.x + j * block.ld + at) - model.center[k * D + j];
        unrolled<D>([&](auto i) ELBOKIT_INLINE_LAMBDA {
          const T* const row = factor + i * (i + 1) / 2;
          Vec<T> y = broadcast<T>(-model.bias[k * D + i]);
          for (int j = 0; j <= i; ++j) y += difference[j] * row[j];
          y *= e;
          for (int j = 0; j <= i; ++j) sums[j][v] += y * row[j];
        });
      }
    }
    for (int j = 0; j < D; ++j)
      for (int v = 0; v < kRowVectors; ++v) store(to + j * kGroup<T> + v * kLanes<T>, sums[j][v]);
  }
};

template <class T, bool OneCenter>
struct RowGradient<T, DiagFamily<T, OneCenter>> {
  static void sum(const GmmModel<T>& shared, const Block<T>& block, std::int64_t n, T* to,
                  const T*) {
    const GmmModel<T> model = shared;
    for (std::int64_t j = 0; j < model.n_features; ++j) {
      Vec<T> sums[kRowVectors];
      feature<true>(model, block, block.x + j * block.ld + n, n, j, sums);
      for (int v = 0; v < kRowVectors; ++v) store(to + j * kGroup<T> + v * kLanes<T>, sums[v]);
    }
  }

  // Sums of feature j, whose values are at x; without the last factor P unless Scaled.
  template <bool Scaled>
  static ELBOKIT_INLINE void feature(const GmmModel<T>& model, const Block<T>& block, const T* x,
                                     std::int64_t n, std::int64_t j, Vec<T> (&sums)[kRowVectors]) {
    constexpr int tile = kTile;
    Vec<T> value[kRowVectors];
    for (int v = 0; v < kRowVectors; ++v) {
      value[v] = load(x + v * kLanes<T>);
      if (OneCenter) value[v] -= model.factor[j * 3 * tile];
      pin(value[v]);
      sums[v] = Vec<T>{};
    }
    const T* e = block.logits + n;
    const T* factor = model.factor + j * 3 * tile;
    std::int64_t k = 0;
    const auto add = [&](int c) ELBOKIT_INLINE_LAMBDA {
      // P y = P^2 (x - center) - P bias: the square costs less than a product in each row.
      const Vec<T> p = broadcast<T>(factor[tile + c]), bias = broadcast<T>(factor[2 * tile + c]);
      const Vec<T> precision = Scaled ? p * p : p, lost = Scaled ? p * bias : bias;
      const Vec<T> center = broadcast<T>(OneCenter ? T(0) : factor[c]);
      for (int v = 0; v < kRowVectors; ++v)
        sums[v] += whiten(value[v], center, precision, lost) * load(e + v * kLanes<T>);
      e += block.ld;
    };
    for (; k + tile <= model.n_components; k += tile, factor += model.factor_stride)
      for (int c = 0; c < tile; ++c) add(c);
    for (int c = 0; k + c < model.n_components; ++c) add(c);
  }
};

// The whitened rows are in the scratch, where the E-step left them.
template <class T>
struct RowGradient<T, TiedFamily<T>> {
  static void sum(const GmmModel<T>& model, const Block<T>& block, std::int64_t n, T* to,
                  const T*) {
    for (std::int64_t i = 0; i < model.padded_features * kGroup<T>; i += kLanes<T>)
      store(to + i, Vec<T>{});
    for_each_height(model.n_features, [&](std::int64_t i, auto height) {
      Vec<T> y[height][kRowVectors];
      for (int c = 0; c < height; ++c)
        RowGradient<T, DiagFamily<T>>::template feature<false>(
            model, block, block.scratch + (i + c) * block.ld + n, n, i + c, y[c]);
      add_back(model.whitener, i, y, to);
    });
  }
};

// The rows of grad_x of a block's group at n, of which `count` exist; row: of the data, the first.
// kept: what the E-step kept of the group, or null. workspace: (padded_features, kGroup).
template <class T, class FamilyType>
[[gnu::noinline]] void write_gradient(const GmmModel<T>& model, const GmmPosterior<T>& posterior,
                                      std::int64_t row, std::int64_t count, const Block<T>& block,
                                      std::int64_t n, const T* kept, T* workspace) {
  constexpr int lanes = kLanes<T>;
  // P and y are scaled by sqrt(log2(e) / 2) each.
  constexpr auto unscaled = static_cast<T>(-2 * 0.69314718055994530942);
  RowGradient<T, FamilyType>::sum(model, block, n, workspace, kept);
  for (std::int64_t v = 0; v < kGroup<T> && v < count; v += lanes, row += lanes) {
    const int height = static_cast<int>(count - v < lanes ? count - v : lanes);
    T grad[lanes] = {};
    for (int i = 0; i < height; ++i) grad[i] = posterior.grad[row + i];
    const Vec<T> sum = load(block.sum + n + v), factor = load(grad) * unscaled / sum;
    const auto none = sum == Vec<T>{};
    for (std::int64_t j = 0; j < model.n_features; j += lanes) {
      const std::int64_t left = model.n_features - j;
      const int width = static_cast<int>(left < lanes ? left : lanes);
      Vec<T> tile[lanes];
      for (int c = 0; c < lanes; ++c)
        tile[c] = c < width
                      ? select(none, Vec<T>{}, factor * load(workspace + (j + c) * kGroup<T> + v))
                      : Vec<T>{};
      transpose<T>(tile);
      for (int i = 0; i < height; ++i) write<T>(posterior.grad_x.row(row + i) + j, tile[i], width);
    }
  }
}

}  // namespace elbokit::ELBOKIT_LEVEL
