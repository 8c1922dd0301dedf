// Diagonal covariance: one precision per component and feature.
#pragma once

#include "kernels/gmm_distance.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T>
struct DiagFamily {
  static constexpr int tile = kTile;

  template <bool Compensated>
  static void logits(const GmmModel<T>& model, const T* x, std::ptrdiff_t ld,
                     const LogitRows<T>& out) {
    constexpr std::int64_t flush_mask = 31;
    for (std::int64_t k = 0; k < model.n_components; k += tile) {
      const T* factor = model.factor + (k / tile) * model.factor_stride;
      Distance<T, Compensated> distance[tile][kRowVectors];
      for (std::int64_t j = 0; j < model.n_features; ++j, factor += 3 * tile) {
        Vec<T> value[kRowVectors];
        for (int v = 0; v < kRowVectors; ++v) {
          value[v] = load(x + j * ld + v * kLanes<T>);
          pin(value[v]);
        }
        for (int c = 0; c < tile; ++c)
          for (int v = 0; v < kRowVectors; ++v)
            distance[c][v].add_square(
                whiten(value[v], factor[c], factor[tile + c], factor[2 * tile + c]));
        if (Compensated && (j & flush_mask) == flush_mask)
          for (auto& row : distance)
            for (auto& each : row) each.flush();
      }
      for (int c = 0; c < tile; ++c)
        for (int v = 0; v < kRowVectors; ++v)
          distance[c][v].store_logit(model.log_const[k + c], out, (k + c) * out.ld + v * kLanes<T>);
    }
  }

  static void moments(const GmmModel<T>& model, std::int64_t k, const T* x, std::ptrdiff_t ld,
                      std::int64_t rows, const T* r, T* /*scratch*/, double* first,
                      double* second) {
    const T* const center = model.center + k * model.padded_features;
    const std::int64_t d = model.n_features;
    for (std::int64_t j = 0; j < d; j += tile) {
      // Features past the last repeat it; their sums are not read.
      std::int64_t feature[tile];
      for (int c = 0; c < tile; ++c) feature[c] = j + c < d ? j + c : d - 1;
      Vec<T> sums[2 * tile] = {};  // of the differences, then of their squares
      for (std::int64_t n = 0; n < rows; n += kLanes<T>) {
        Vec<T> w = load(r + n);
        pin(w);
        for (int c = 0; c < tile; ++c) {
          const Vec<T> difference = load(x + feature[c] * ld + n) - center[feature[c]];
          const Vec<T> weighted = w * difference;
          sums[c] += weighted;
          sums[tile + c] += weighted * difference;
        }
      }
      T total[2 * tile];
      reduce_add_all(sums, total);
      for (int c = 0; c < tile && j + c < d; ++c) {
        first[j + c] += total[c];
        second[j + c] += total[tile + c];
      }
    }
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
