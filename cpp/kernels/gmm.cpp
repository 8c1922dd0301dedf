// One pass over a chunk of rows. Each block small enough for the cache is packed with the vector
// lanes along the rows, gets its log-probabilities, log-sum-exp and responsibilities, and adds its
// statistics, before the next block is read.
#include "elbokit/gmm.h"

#include "kernels/gmm_diag.h"
#include "kernels/gmm_full.h"
#include "kernels/gmm_pack.h"
#include "kernels/gmm_prune.h"
#include "kernels/gmm_small.h"
#include "kernels/gmm_tied.h"
#include "kernels/rows.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

constexpr std::int64_t kMaxBlockRows = 1024;
constexpr std::int64_t kBlockBytes = 768 * 1024;

// Weights of rows [begin, begin + count), 0 up to `padded`.
template <class T>
void set_weights(const GmmRows<T>& rows, std::int64_t begin, std::int64_t count,
                 std::int64_t padded, T* weight) {
  if (rows.sample_weight)
    for (std::int64_t n = 0; n < count; ++n) weight[n] = rows.sample_weight[begin + n];
  else
    for (std::int64_t n = 0; n < padded; n += kLanes<T>) store(weight + n, broadcast<T>(1));
  for (std::int64_t n = count; n < padded; ++n) weight[n] = T(0);
}

// A row that no component reaches has log p = -inf and responsibilities 0.
template <class T>
ELBOKIT_INLINE Vec<T> shift_of(const Block<T>& block, std::int64_t n) {
  const Vec<T> largest = load(block.largest + n);
  return select(largest == broadcast<T>(-static_cast<T>(__builtin_huge_val())), Vec<T>{}, largest);
}

// Exponentiates the logits of one group of rows, less each row's largest, and finds their sum and
// the factor that makes responsibilities of them, times the rows' weights if `weighted`. Row
// vectors go in pairs: the exponential's chain of operations is long, and two of them fill the
// pipes.
template <class T, bool HasLow>
void exponentiate(std::int64_t n_components, const Block<T> block, std::int64_t n, bool weighted) {
  constexpr int pair = 2;
  static_assert(kRowVectors % pair == 0, "whole pairs in a group");
  for (int done = 0; done < kRowVectors; done += pair, n += pair * kLanes<T>) {
    T* const logits = block.logits + n;
    const auto at = [&](std::int64_t k, int v)
                        ELBOKIT_INLINE_LAMBDA { return k * block.ld + v * kLanes<T>; };
    Vec<T> shift[pair], sum[pair] = {};
    for (int v = 0; v < pair; ++v) shift[v] = shift_of(block, n + v * kLanes<T>);
    for (std::int64_t k = 0; k < n_components; ++k)
      for (int v = 0; v < pair; ++v) {
        Vec<T> logit = load(logits + at(k, v)) - shift[v];
        if constexpr (HasLow) logit += load(block.low + n + at(k, v));
        const Vec<T> e = exp2_nonpositive(logit);
        store(logits + at(k, v), e);
        sum[v] += e;
      }
    for (int v = 0; v < pair; ++v) {
      const std::int64_t row = n + v * kLanes<T>;
      store(block.sum + row, sum[v]);
      const Vec<T> numerator = weighted ? load(block.weight + row) : broadcast<T>(1);
      store(block.factor + row, select(sum[v] == Vec<T>{}, Vec<T>{}, numerator / sum[v]));
    }
  }
}

template <class T>
void write_posterior(const GmmModel<T>& model, const GmmPosterior<T>& posterior, std::int64_t begin,
                     std::int64_t count, const Block<T>& block) {
  if (posterior.log_prob)
    for (std::int64_t n = 0; n < count; n += kLanes<T>) {
      T log_prob[kLanes<T>];
      store(log_prob, log_density(shift_of(block, n), load(block.sum + n)));
      for (std::int64_t i = 0; i < kLanes<T> && n + i < count; ++i)
        posterior.log_prob[begin + n + i] = static_cast<T>(log_prob[i] + model.log_base);
    }
  if (!posterior.responsibilities) return;
  constexpr int lanes = kLanes<T>;
  for (std::int64_t n = 0; n < count; n += lanes) {
    const int height = static_cast<int>(count - n < lanes ? count - n : lanes);
    const Vec<T> factor = load(block.factor + n);
    for (std::int64_t k = 0; k < model.n_components; k += lanes) {
      const std::int64_t left = model.n_components - k;
      const int width = static_cast<int>(left < lanes ? left : lanes);
      Vec<T> tile[lanes];
      for (int c = 0; c < lanes; ++c)
        tile[c] = c < width ? factor * load(block.logits + (k + c) * block.ld + n) : Vec<T>{};
      transpose<T>(tile);
      for (int i = 0; i < height; ++i)
        write<T>(posterior.responsibilities.row(begin + n + i) + k, tile[i], width);
    }
  }
}

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

// Rows of one block: packed, their logits exponentiated.
template <class T, class FamilyType, bool Compensated>
struct EStep {
  const GmmModel<T>& model;
  const GmmChunk<T>& chunk;
  const Block<T>& block;

  void pack(std::int64_t begin, std::int64_t n) const {
    const std::int64_t row = begin + n, next = row + kGroup<T>;
    pack_group(model, chunk.rows, row, chunk.end, block.x + n, block.ld);
    prefetch_rows(chunk.rows, model.n_features, next,
                  next + kGroup<T> < chunk.end ? next + kGroup<T> : chunk.end);
  }

  void logits(std::int64_t n) const { FamilyType::template logits<Compensated>(model, block, n); }

  void responsibilities(std::int64_t n) const {
    exponentiate<T, Compensated>(model.n_components, block, n, chunk.sums != nullptr);
  }

  // Group by group, while a group's data are in the first-level cache.
  void run(std::int64_t begin, std::int64_t padded) const {
    for (std::int64_t n = 0; n < padded; n += kGroup<T>) {
      pack(begin, n);
      logits(n);
      responsibilities(n);
    }
  }

  void run_pruned(std::int64_t begin, std::int64_t count, std::int64_t padded,
                  Pruning<T, Compensated>& pruning) const {
    for (std::int64_t n = 0; n < padded; n += kGroup<T>) pack(begin, n);
    const bool done = pruning.logits(begin, count);
    for (std::int64_t n = 0; n < padded; n += kGroup<T>) {
      if (!done) logits(n);
      responsibilities(n);
    }
  }
};

// The workspace of a chunk, part behind part.
template <class T>
struct Workspace {
  std::int64_t pruning, pending, size;  // where they begin, in elements

  Workspace(const GmmModel<T>& model, std::int64_t block_rows)
      : pruning(Block<T>::workspace(model, block_rows)),
        pending(pruning + Pruning<T, false>::workspace(model, block_rows) /
                              static_cast<std::int64_t>(sizeof(T))),
        size(pending + Pending<T>::workspace(model)) {}
};

template <class T, class FamilyType, bool Compensated>
void run_chunk(const GmmModel<T>& model, const GmmChunk<T>& chunk) {
  const std::int64_t block_rows = gmm_shape(model).block_rows;
  const Workspace<T> at(model, block_rows);
  const Block<T> block(model, block_rows, chunk.workspace);
  const Pending<T> pending(model, chunk.workspace + at.pending);
  const EStep<T, FamilyType, Compensated> estep{model, chunk, block};
  Pruning<T, Compensated> pruning(model, chunk, block, block_rows, chunk.workspace + at.pruning);
  const bool prune = FamilyType::prunable && Pruning<T, Compensated>::possible(model, chunk);
  for (std::int64_t begin = chunk.begin; begin < chunk.end; begin += block_rows) {
    const std::int64_t count = chunk.end - begin < block_rows ? chunk.end - begin : block_rows;
    const std::int64_t padded = (count + kGroup<T> - 1) / kGroup<T> * kGroup<T>;
    set_weights(chunk.rows, begin, count, padded, block.weight);
    if (prune && pruning.wanted())
      estep.run_pruned(begin, count, padded, pruning);
    else
      estep.run(begin, padded);
    write_posterior(model, chunk.posterior, begin, count, block);
    if (chunk.sums) add_statistics<T, FamilyType>(model, chunk, block, pending, begin, padded);
  }
  if constexpr (FamilyType::sparse)
    for (std::int64_t k = 0; chunk.sums && k < model.n_components; ++k)
      if (pending.size[k] > 0) flush<T, FamilyType>(model, chunk, pending, k);
}

}  // namespace

template <class T>
GmmShape gmm_shape(const GmmModel<T>& model) {
  const std::int64_t arrays = Block<T>::arrays(model);
  std::int64_t rows = kBlockBytes / (arrays * static_cast<std::int64_t>(sizeof(T)));
  rows = rows / kGroup<T> * kGroup<T>;
  rows = rows < kGroup<T> ? kGroup<T> : rows > kMaxBlockRows ? kMaxBlockRows : rows;
  return {rows, Workspace<T>(model, rows).size};
}

template <class T>
void gmm_chunk(const GmmModel<T>& model, const GmmChunk<T>& chunk) {
  const bool wide = Block<T>::compensated(model);
  if (model.family == Family::diag)
    return wide ? run_chunk<T, DiagFamily<T>, true>(model, chunk)
                : run_chunk<T, DiagFamily<T>, false>(model, chunk);
  if (model.family == Family::tied)
    return wide ? run_chunk<T, TiedFamily<T>, true>(model, chunk)
                : run_chunk<T, TiedFamily<T>, false>(model, chunk);
  switch (model.n_features) {
    case 1:
      return run_chunk<T, SmallFamily<T, 1>, false>(model, chunk);
    case 2:
      return run_chunk<T, SmallFamily<T, 2>, false>(model, chunk);
    case 3:
      return run_chunk<T, SmallFamily<T, 3>, false>(model, chunk);
    case kSmallFeatures:
      return run_chunk<T, SmallFamily<T, kSmallFeatures>, false>(model, chunk);
    default:
      return wide ? run_chunk<T, FullFamily<T>, true>(model, chunk)
                  : run_chunk<T, FullFamily<T>, false>(model, chunk);
  }
}

#define ELBOKIT_INSTANTIATE(T)                     \
  template GmmShape gmm_shape(const GmmModel<T>&); \
  template void gmm_chunk(const GmmModel<T>&, const GmmChunk<T>&);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::ELBOKIT_LEVEL
