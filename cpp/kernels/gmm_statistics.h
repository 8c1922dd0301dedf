// What a block's rows add to the sums: counts and moments, without what may be left out, and the
// log-likelihood.
#pragma once

#include "kernels/gmm_sparse.h"

namespace elbokit::ELBOKIT_LEVEL {

// The sum of term(n) over whole groups of rows, in several chains: one addition need not await the
// last.
template <class T, class F>
ELBOKIT_INLINE T sum_rows(std::int64_t rows, F&& term) {
  Vec<T> sum[kRowVectors] = {};
  for (std::int64_t n = 0; n < rows; n += kGroup<T>)
    for (int v = 0; v < kRowVectors; ++v) sum[v] += term(n + v * kLanes<T>);
  for (int v = 1; v < kRowVectors; ++v) sum[0] += sum[v];
  return reduce_add<T>(sum[0]);
}

// Makes component k's responsibilities of the exponentiated logits and returns their sum; the bits
// of above[i] tell which of the i-th group of rows are above the threshold.
template <class T>
T scale_row(const Block<T>& block, std::int64_t k, std::int64_t padded, T below,
            std::uint64_t* above) {
  T* const r = block.logits + k * block.ld;
  const T* const factor = block.factor;
  Vec<T> sum[kRowVectors] = {};
  for (std::int64_t n = 0; n < padded; n += kGroup<T>) {
    std::uint64_t rows = 0;
    for (int v = 0; v < kRowVectors; ++v) {
      const std::int64_t at = n + v * kLanes<T>;
      const Vec<T> value = load(r + at) * load(factor + at);
      store(r + at, value);
      sum[v] += value;
      rows |= std::uint64_t{greater<T>(value, broadcast<T>(below))} << (v * kLanes<T>);
    }
    *above++ = rows;
  }
  for (int v = 1; v < kRowVectors; ++v) sum[0] += sum[v];
  return reduce_add<T>(sum[0]);
}

// Adds what waits of component k.
template <class T, class FamilyType>
void flush(const GmmModel<T>& model, const GmmChunk<T>& chunk, const Pending<T>& pending,
           std::int64_t k) {
  const SparseRows<T> list{chunk.rows, chunk.begin, pending.row + k * kPending,
                           pending.weight + k * kPending, pending.size[k]};
  FamilyType::add_sparse(model, k, list, pending, chunk.sums->first, chunk.sums->second);
  pending.size[k] = 0;
}

// Lets the rows of a block whose bits are set wait for component k.
template <class T, class FamilyType>
void remember(const GmmModel<T>& model, const GmmChunk<T>& chunk, const Block<T>& block,
              const Pending<T>& pending, std::int64_t k, std::int64_t begin, std::int64_t padded,
              const std::uint64_t* above) {
  const T* const r = block.logits + k * block.ld;
  T* const weight = pending.weight + k * kPending;
  std::int32_t* const row = pending.row + k * kPending;
  std::int32_t size = pending.size[k];
  for (std::int64_t n = 0; n < padded; n += kGroup<T>)
    for (std::uint64_t rows = *above++; rows != 0; rows &= rows - 1) {
      const std::int64_t at = n + __builtin_ctzll(rows);
      row[size] = static_cast<std::int32_t>(begin - chunk.begin + at);
      weight[size] = r[at];
      if (++size < kPending) continue;
      pending.size[k] = size;
      flush<T, FamilyType>(model, chunk, pending, k);
      size = 0;
    }
  pending.size[k] = size;
}

// Adds the counts and moments of a block's rows, without what may be left out.
template <class T, class FamilyType>
void add_moments(const GmmModel<T>& model, const GmmChunk<T>& chunk, const Block<T>& block,
                 const Pending<T>& pending, std::int64_t begin, std::int64_t padded) {
  const GmmSums& sums = *chunk.sums;
  const T drop_scale = any_far(block, padded) ? T(0) : chunk.drop_scale;
  const auto most_sparse =
      static_cast<std::int64_t>(FamilyType::sparse_share(model) * static_cast<double>(padded));
  std::uint64_t above[kMaxBlockRows / kGroup<T>];
  std::int64_t dense = 0;
  for (std::int64_t k = 0; k < model.n_components; ++k) {
    const T below = drop_scale * model.drop_below[k];
    const T total = scale_row(block, k, padded, below, above);
    if (total == T(0)) continue;  // exact: every term that it would add is 0
    sums.counts[k] += total;
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < padded / kGroup<T>; ++i) count += __builtin_popcountll(above[i]);
    // NaN is above nothing, and must not be lost.
    if (count > most_sparse || total != total)
      block.present[dense++] = static_cast<std::int32_t>(k);
    else if (count > 0)
      remember<T, FamilyType>(model, chunk, block, pending, k, begin, padded, above);
  }
  FamilyType::moments(model, block.present, dense, block, padded, sums.first, sums.second);
}

// The sum of log p over a block's rows, less log_base, times their weights. Rows of weight 0 count
// for nothing, even where log p is -inf.
template <class T>
double sum_log_density(const Block<T>& block, std::int64_t padded, bool weighted) {
  if (weighted)
    return sum_rows<T>(padded, [&](std::int64_t n) {
      const Vec<T> w = load(block.weight + n);
      return select(w == Vec<T>{}, Vec<T>{},
                    w * log_density(shift_of(block, n), load(block.sum + n)));
    });
  // One logarithm serves the product of a group's sums, each between 1 and the number of
  // components.
  Vec<T> logs{}, shifts{};
  for (std::int64_t n = 0; n < padded; n += kGroup<T>) {
    Vec<T> product = broadcast<T>(1);
    for (std::int64_t at = n; at < n + kGroup<T>; at += kLanes<T>) {
      const auto absent = load(block.weight + at) == Vec<T>{};
      product *= select(absent, broadcast<T>(1), load(block.sum + at));
      shifts += select(absent, Vec<T>{}, shift_of(block, at));
    }
    logs += log_density(Vec<T>{}, product);
  }
  return reduce_add<T>(log_density(shifts, broadcast<T>(1)) + logs);
}

template <class T, class FamilyType>
void add_statistics(const GmmModel<T>& model, const GmmChunk<T>& chunk, const Block<T>& block,
                    const Pending<T>& pending, std::int64_t begin, std::int64_t padded) {
  if constexpr (FamilyType::sparse)
    add_moments<T, FamilyType>(model, chunk, block, pending, begin, padded);
  else
    FamilyType::moments(model, block, padded, *chunk.sums);
  const double weight = sum_rows<T>(padded, [&](std::int64_t n) { return load(block.weight + n); });
  chunk.sums->log_likelihood +=
      sum_log_density(block, padded, static_cast<bool>(chunk.rows.sample_weight)) +
      weight * model.log_base;
}

}  // namespace elbokit::ELBOKIT_LEVEL
