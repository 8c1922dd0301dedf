// A block of rows in the cache: packed data, logits and what is kept for each row.
#pragma once

#include "kernels/gmm_distance.h"

namespace elbokit::ELBOKIT_LEVEL {

// More rows would gain nothing.
inline constexpr std::int64_t kMaxBlockRows = 1024;

// The block's arrays within the workspace; each begins on a cache line.
template <class T>
struct Block {
  std::ptrdiff_t ld;
  T* x;                   // (padded_features, ld)
  T* logits;              // (padded_components, ld); exponentiated, later the responsibilities
  T* low;                 // (padded_components, ld): what the logits' rounding lost, or null
  T* weight;              // (ld), 0 past the last row
  T* largest;             // (ld): the row's largest logit
  T* sum;                 // (ld): of the exponentiated logits
  T* factor;              // (ld): what makes responsibilities of the exponentiated logits
  T* scratch;             // (scratch_rows, ld)
  std::int32_t* present;  // (n_components): those that a block has rows of

  static constexpr std::int64_t kRowArrays = 4;

  // Leading dimension: an odd number of cache lines, so that the features of a row take turns with
  // the cache's sets. Of 512 or 1024 rows all would share a few.
  static std::ptrdiff_t leading_dimension(std::int64_t block_rows) {
    constexpr auto line = static_cast<std::ptrdiff_t>(64 / sizeof(T));
    return ((block_rows + line - 1) / line | 1) * line;
  }

  static bool compensated(const GmmModel<T>& model) { return model.n_features > kPlainFeatures; }

  // A diagonal covariance needs no products.
  static std::int64_t scratch_rows(const GmmModel<T>& model) {
    return model.family == Family::diag ? 0 : model.padded_features + 1;
  }

  // How many arrays of leading_dimension() there are.
  static std::int64_t arrays(const GmmModel<T>& model) {
    return model.padded_features + (compensated(model) ? 2 : 1) * model.padded_components +
           kRowArrays + scratch_rows(model);
  }

  // Elements of the whole.
  static std::int64_t workspace(const GmmModel<T>& model, std::int64_t block_rows) {
    return arrays(model) * leading_dimension(block_rows) + model.padded_components;
  }

  Block(const GmmModel<T>& model, std::int64_t block_rows, T* workspace)
      : ld(leading_dimension(block_rows)),
        x(workspace),
        logits(x + model.padded_features * ld),
        low(compensated(model) ? logits + model.padded_components * ld : nullptr),
        weight((low ? low : logits) + model.padded_components * ld),
        largest(weight + ld),
        sum(largest + ld),
        factor(sum + ld),
        scratch(factor + ld),
        present(reinterpret_cast<std::int32_t*>(scratch + scratch_rows(model) * ld)) {}
};

// Where the logits of a group go: component k's at high + k * ld, and the largest of each row. With
// many features the sum's own rounding would reach the responsibilities, so that what it lost is
// kept beside it, in low.
template <class T>
struct LogitRows {
  T *high, *low, *largest;
  std::ptrdiff_t ld;

  LogitRows(T* high_, T* low_, std::ptrdiff_t ld_)
      : high(high_), low(low_), largest(nullptr), ld(ld_) {}
  LogitRows(const Block<T>& block, std::int64_t n)
      : high(block.logits + n),
        low(block.low ? block.low + n : nullptr),
        largest(block.largest + n),
        ld(block.ld) {}
};

// A row that no component reaches has log p = -inf and responsibilities 0.
template <class T>
ELBOKIT_INLINE Vec<T> shift_of(const Block<T>& block, std::int64_t n) {
  const Vec<T> largest = load(block.largest + n);
  return select(largest == broadcast<T>(-static_cast<T>(__builtin_huge_val())), Vec<T>{}, largest);
}

// Whether some row that counts is so far from every component that even a tiny responsibility may
// carry a large square.
template <class T>
bool any_far(const Block<T>& block, std::int64_t padded) {
  unsigned far = 0;
  for (std::int64_t n = 0; n < padded; n += kLanes<T>) {
    const Vec<T> distance =
        select(load(block.weight + n) == Vec<T>{}, Vec<T>{}, -load(block.largest + n));
    far |= greater<T>(distance, broadcast<T>(static_cast<T>(kFar)));
  }
  return far != 0;
}

}  // namespace elbokit::ELBOKIT_LEVEL
