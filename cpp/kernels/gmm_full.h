// Full covariance: triangular factors in the E-step, symmetric rank updates in the M-step.
#pragma once

#include "kernels/gmm_distance.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T>
struct FullFamily {
  static constexpr int tile = kTile;

  // Logits of every component for one group of rows: x is (padded_features, ld).
  template <bool Compensated>
  static void logits(const GmmModel<T>& model, const T* x, std::ptrdiff_t ld,
                     const LogitRows<T>& out) {
    constexpr std::int64_t flush_mask = 31;
    for (std::int64_t k = 0; k < model.n_components; ++k) {
      const T* const center = model.center + k * model.padded_features;
      const T* const bias = model.bias + k * model.padded_features;
      const T* factor = model.factor + k * model.factor_stride;
      Distance<T, Compensated> distance[kRowVectors];
      for (std::int64_t i = 0; i < model.padded_features; i += tile) {
        Vec<T> y[tile][kRowVectors];
        for (int c = 0; c < tile; ++c)
          for (int v = 0; v < kRowVectors; ++v) y[c][v] = broadcast<T>(-bias[i + c]);
        for (std::int64_t j = 0; j < i + tile; ++j, factor += tile) {
          for (int v = 0; v < kRowVectors; ++v) {
            Vec<T> difference = load(x + j * ld + v * kLanes<T>) - center[j];
            pin(difference);
            for (int c = 0; c < tile; ++c) y[c][v] += difference * factor[c];
          }
        }
        for (int v = 0; v < kRowVectors; ++v) {
          for (int c = 0; c < tile; ++c) distance[v].add_square(y[c][v]);
          if ((i & flush_mask) == 0) distance[v].flush();
        }
      }
      for (int v = 0; v < kRowVectors; ++v)
        distance[v].store_logit(model.log_const[k], out, k * out.ld + v * kLanes<T>);
    }
  }

  // Adds one component's moments over `rows` rows (whole groups) of a block.
  static void moments(const GmmModel<T>& model, std::int64_t k, const T* x, std::ptrdiff_t ld,
                      std::int64_t rows, const T* r, T* scratch, double* first, double* second) {
    const T* const center = model.center + k * model.padded_features;
    const std::int64_t d = model.n_features;
    T* const root = scratch;    // (rows)
    T* const z = scratch + ld;  // (padded_features, ld): sqrt(r) (x - center)
    for (std::int64_t n = 0; n < rows; n += kLanes<T>) store(root + n, sqrt<T>(load(r + n)));
    for (std::int64_t j = 0; j < model.padded_features; ++j) {
      Vec<T> sum[2] = {};
      for (std::int64_t n = 0; n < rows; n += 2 * kLanes<T>)
        for (int v = 0; v < 2; ++v) {
          const std::int64_t at = n + v * kLanes<T>;
          const Vec<T> w = load(root + at);
          const Vec<T> value = w * (load(x + j * ld + at) - center[j]);
          store(z + j * ld + at, value);
          sum[v] += w * value;
        }
      if (j < d) first[j] += reduce_add<T>(sum[0] + sum[1]);
    }
    for (std::int64_t i = 0; i < d; i += tile)
      for (std::int64_t j = 0; j <= i; j += tile) rank_update(d, i, j, z, ld, rows, second);
  }

 private:
  // second[i.., j..] += z_i z_j^T for a tile, the lower triangle alone.
  static void rank_update(std::int64_t d, std::int64_t i, std::int64_t j, const T* z,
                          std::ptrdiff_t ld, std::int64_t rows, double* second) {
    // Half the tile at a time where registers are few.
    constexpr int width = kVectorRegisters >= 32 ? tile : tile / 2;
    for (int half = 0; half < tile; half += width) {
      Vec<T> product[tile * width] = {};
      for (std::int64_t n = 0; n < rows; n += kLanes<T>) {
        Vec<T> right[width];
        for (int b = 0; b < width; ++b) {
          right[b] = load(z + (j + half + b) * ld + n);
          pin(right[b]);
        }
        for (int a = 0; a < tile; ++a) {
          Vec<T> left = load(z + (i + a) * ld + n);
          pin(left);
          for (int b = 0; b < width; ++b) product[a * width + b] += left * right[b];
        }
      }
      T sum[tile][width];
      reduce_add_all(product, sum[0]);
      for (int a = 0; a < tile; ++a)
        for (int b = 0; b < width; ++b) {
          const std::int64_t row = i + a, col = j + half + b;
          if (row < d && col <= row) second[row * d + col] += sum[a][b];
        }
    }
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
