// Full covariance of up to four features: everything of a component stays in registers.
#pragma once

#include "kernels/gmm_sparse.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T, int D>
struct SmallFamily {
  static constexpr bool prunable = false;
  // Entries of a lower triangle, row by row.
  static constexpr int kTriangle = D * (D + 1) / 2;

  template <bool Compensated>
  static void logits(const GmmModel<T>& shared, const Block<T>& block, std::int64_t n) {
    static_assert(D <= kPlainFeatures, "short sums");
    Vec<T> value[D][kRowVectors];
    for (int j = 0; j < D; ++j)
      for (int v = 0; v < kRowVectors; ++v) {
        value[j][v] = load(block.x + j * block.ld + n + v * kLanes<T>);
        pin(value[j][v]);
      }
    const GmmModel<T> model = shared;  // a copy, which the stores cannot be thought to change
    const LogitRows<T> out(block, n);
    Largest<T> largest;
    for (std::int64_t k = 0; k < model.n_components; ++k) {
      const T* const center = model.center + k * D;
      const T* const bias = model.bias + k * D;
      const T* const factor = model.factor + k * model.factor_stride;
      for (int v = 0; v < kRowVectors; ++v) {
        Vec<T> difference[D], distance{};
        for (int j = 0; j < D; ++j) difference[j] = value[j][v] - center[j];
        for (int i = 0; i < D; ++i) {
          Vec<T> y = broadcast<T>(-bias[i]);
          for (int j = 0; j <= i; ++j) y += difference[j] * factor[i * (i + 1) / 2 + j];
          distance += y * y;
        }
        const Vec<T> logit = model.log_const[k] - distance;
        store(out.high + k * out.ld + v * kLanes<T>, logit);
        largest.row[v] = max(largest.row[v], logit);
      }
    }
    largest.store_to(out.largest);
  }

  // So few features are never worth a list.
  static double sparse_share(const GmmModel<T>&) { return 0; }

  static void add_sparse(const GmmModel<T>&, std::int64_t, const SparseRows<T>&, const Pending<T>&,
                         double*, double*) {}

  // Adds the moments of the given components over `rows` rows (whole groups) of a block.
  static void moments(const GmmModel<T>& model, const std::int32_t* components, std::int64_t count,
                      const Block<T>& block, std::int64_t rows, double* first, double* second) {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t k = components[i];
      add_moments(model.center + k * D, block, rows, block.logits + k * block.ld, first + k * D,
                  second + k * D * D);
    }
  }

 private:
  static void add_moments(const T* center, const Block<T>& block, std::int64_t rows, const T* r,
                          double* first, double* second) {
    constexpr int kSums = D + kTriangle;
    constexpr int kPadded = kSums <= 2 ? 2 : kSums <= 8 ? 8 : 16;
    static_assert(kSums <= kPadded, "reduce_add_all wants a power of two");
    // Two sets of sums where they are few, so that one addition need not await the last.
    Vec<T> sums[2][kPadded] = {};
    constexpr int kSets = kSums <= 8 ? 2 : 1;
    for (std::int64_t n = 0; n < rows; n += kSets * kLanes<T>)
      for (int s = 0; s < kSets; ++s) {
        const std::int64_t at = n + s * kLanes<T>;
        const Vec<T> w = load(r + at);
        Vec<T> difference[D];
        for (int i = 0; i < D; ++i) difference[i] = load(block.x + i * block.ld + at) - center[i];
        for (int i = 0; i < D; ++i) {
          const Vec<T> weighted = w * difference[i];
          sums[s][i] += weighted;
          for (int j = 0; j <= i; ++j) sums[s][D + i * (i + 1) / 2 + j] += weighted * difference[j];
        }
      }
    for (int i = 0; i < kSums; ++i) sums[0][i] += sums[1][i];
    T total[kPadded];
    reduce_add_all(sums[0], total);
    for (int i = 0; i < D; ++i) {
      first[i] += total[i];
      for (int j = 0; j <= i; ++j) second[i * D + j] += total[D + i * (i + 1) / 2 + j];
    }
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
