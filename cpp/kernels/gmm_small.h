// Full covariance of up to four features: everything of a component stays in registers.
#pragma once

#include "kernels/gmm_block.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T, int D>
struct SmallFamily {
  static constexpr bool prunable = false, sparse = false;
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
      // Read once: the compiler cannot know that the stores below leave them as they are.
      Vec<T> center[D], bias[D], factor[kTriangle];
      for (int i = 0; i < D; ++i) center[i] = broadcast<T>(model.center[k * D + i]);
      for (int i = 0; i < D; ++i) bias[i] = broadcast<T>(model.bias[k * D + i]);
      for (int i = 0; i < kTriangle; ++i)
        factor[i] = broadcast<T>(model.factor[k * model.factor_stride + i]);
      const Vec<T> log_const = broadcast<T>(model.log_const[k]);
      for (int v = 0; v < kRowVectors; ++v) {
        Vec<T> difference[D], distance{};
        for (int j = 0; j < D; ++j) difference[j] = value[j][v] - center[j];
        for (int i = 0; i < D; ++i) {
          Vec<T> y = difference[0] * factor[i * (i + 1) / 2] - bias[i];
          for (int j = 1; j <= i; ++j) y += difference[j] * factor[i * (i + 1) / 2 + j];
          distance += y * y;
        }
        const Vec<T> logit = log_const - distance;
        store(out.high + k * out.ld + v * kLanes<T>, logit);
        largest.row[v] = max(largest.row[v], logit);
      }
    }
    largest.store_to(out.largest);
  }

  // Adds the counts and moments of every component over `rows` rows (whole groups) of a block,
  // from the exponentiated logits: so few features are never worth a look at what can be left out.
  static void moments(const GmmModel<T>& model, const Block<T>& block, std::int64_t rows,
                      const GmmSums& sums) {
    for (std::int64_t k = 0; k < model.n_components; ++k)
      add_moments(model.center + k * D, block, rows, block.logits + k * block.ld, sums.counts[k],
                  sums.first + k * D, sums.second + k * D * D);
  }

 private:
  static void add_moments(const T* center, const Block<T>& block, std::int64_t rows, const T* e,
                          double& count, double* first, double* second) {
    constexpr int kSums = D + kTriangle + 1;
    constexpr int kPadded = kSums <= 4 ? 4 : kSums <= 8 ? 8 : 16;
    static_assert(kSums <= kPadded, "reduce_add_all wants a power of two");
    // Two sets of sums where they are few, so that one addition need not await the last.
    Vec<T> sums[2][kPadded] = {};
    constexpr int kSets = kSums <= 8 ? 2 : 1;
    const T *const x = block.x, *const factor = block.factor;
    const std::ptrdiff_t ld = block.ld;
    for (std::int64_t n = 0; n < rows; n += kSets * kLanes<T>)
      for (int s = 0; s < kSets; ++s) {
        const std::int64_t at = n + s * kLanes<T>;
        const Vec<T> r = load(e + at) * load(factor + at);
        Vec<T> difference[D];
        for (int i = 0; i < D; ++i) difference[i] = load(x + i * ld + at) - center[i];
        for (int i = 0; i < D; ++i) {
          const Vec<T> weighted = r * difference[i];
          sums[s][i] += weighted;
          for (int j = 0; j <= i; ++j) sums[s][D + i * (i + 1) / 2 + j] += weighted * difference[j];
        }
        sums[s][kSums - 1] += r;
      }
    for (int i = 0; i < kSums; ++i) sums[0][i] += sums[1][i];
    T total[kPadded];
    reduce_add_all(sums[0], total);
    count += total[kSums - 1];
    for (int i = 0; i < D; ++i) {
      first[i] += total[i];
      for (int j = 0; j <= i; ++j) second[i * D + j] += total[D + i * (i + 1) / 2 + j];
    }
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
