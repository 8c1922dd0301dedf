// Full covariance of up to four features: everything of a component stays in registers.
#pragma once

#include "kernels/gmm_block.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T, int D>
struct SmallFamily {
  static constexpr bool prunable = false, sparse = false, reads_ahead = false;
  // Entries of a lower triangle, row by row.
  static constexpr int kTriangle = D * (D + 1) / 2;

  // One component, read once: the compiler cannot know that stores between its uses leave it as it
  // is.
  struct Component {
    Vec<T> center[D], bias[D], factor[kTriangle], log_const;

    ELBOKIT_INLINE Component(const GmmModel<T>& model, std::int64_t k) {
      for (int i = 0; i < D; ++i) center[i] = broadcast<T>(model.center[k * D + i]);
      for (int i = 0; i < D; ++i) bias[i] = broadcast<T>(model.bias[k * D + i]);
      for (int i = 0; i < kTriangle; ++i)
        factor[i] = broadcast<T>(model.factor[k * model.factor_stride + i]);
      log_const = broadcast<T>(model.log_const[k]);
    }

    ELBOKIT_INLINE Vec<T> logit(const Vec<T> (&value)[D]) const {
      Vec<T> difference[D], logit = log_const;
      for (int j = 0; j < D; ++j) difference[j] = value[j] - center[j];
      for (int i = 0; i < D; ++i) {
        Vec<T> y = difference[0] * factor[i * (i + 1) / 2] - bias[i];
        for (int j = 1; j <= i; ++j) y += difference[j] * factor[i * (i + 1) / 2 + j];
        logit -= y * y;
      }
      return logit;
    }
  };

  // Row vector v of the group at x, whose features lie ld apart.
  ELBOKIT_INLINE static void load_rows(const T* x, std::ptrdiff_t ld,
                                       Vec<T> (&value)[kRowVectors][D]) {
    for (int v = 0; v < kRowVectors; ++v)
      for (int j = 0; j < D; ++j) {
        value[v][j] = load(x + j * ld + v * kLanes<T>);
        pin(value[v][j]);
      }
  }

  template <bool Compensated>
  static void logits(const GmmModel<T>& shared, const Block<T>& block, std::int64_t n) {
    static_assert(D <= kPlainFeatures, "short sums");
    Vec<T> value[kRowVectors][D];
    load_rows(block.x + n, block.ld, value);
    const GmmModel<T> model = shared;  // a copy, which the stores cannot be thought to change
    const LogitRows<T> out(block, n);
    Largest<T> largest;
    for (std::int64_t k = 0; k < model.n_components; ++k) {
      const Component component(model, k);
      for (int v = 0; v < kRowVectors; ++v) {
        const Vec<T> logit = component.logit(value[v]);
        store(out.high + k * out.ld + v * kLanes<T>, logit);
        largest.row[v] = max(largest.row[v], logit);
      }
    }
    largest.store_to(out.largest);
  }

  // Adds the counts and moments of every component over `rows` rows (whole groups) of a block,
  // from the exponentiated logits. Which rows of a component can be left out is not looked at:
  // kernels/gmm_hard.h has taken those out that one component explains.
  static void moments(const GmmModel<T>& model, const Block<T>& block, std::int64_t rows,
                      const GmmSums& sums) {
    for (std::int64_t k = 0; k < model.n_components; ++k)
      add_moments(model, k, block.x, block.ld, rows, block.logits + k * block.ld, block.factor,
                  sums);
  }

  // Those of component k over `rows` rows, whose responsibilities are e times factor.
  static void add_moments(const GmmModel<T>& model, std::int64_t k, const T* x, std::ptrdiff_t ld,
                          std::int64_t rows, const T* e, const T* factor, const GmmSums& to) {
    const T* const center = model.center + k * D;
    constexpr int kSums = D + kTriangle + 1;
    constexpr int kPadded = kSums <= 4 ? 4 : kSums <= 8 ? 8 : 16;
    static_assert(kSums <= kPadded, "reduce_add_all wants a power of two");
    // Two sets of sums where they are few, so that one addition need not await the last.
    Vec<T> sums[2][kPadded] = {};
    constexpr int kSets = kSums <= 8 ? 2 : 1;
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
    to.counts[k] += total[kSums - 1];
    for (int i = 0; i < D; ++i) {
      to.first[k * D + i] += total[i];
      for (int j = 0; j <= i; ++j) to.second[(k * D + i) * D + j] += total[D + i * (i + 1) / 2 + j];
    }
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
