// One pass over a chunk of rows. Each block small enough for the cache is packed with the vector
// lanes along the rows, gets its log-probabilities, log-sum-exp and responsibilities, and adds its
// statistics, before the next block is read.
#include "elbokit/gmm.h"

#include "kernels/gmm_diag.h"
#include "kernels/gmm_full.h"
#include "kernels/gmm_gradient.h"
#include "kernels/gmm_hard.h"
#include "kernels/gmm_pack.h"
#include "kernels/gmm_prune.h"
#include "kernels/gmm_small.h"
#include "kernels/gmm_statistics.h"
#include "kernels/gmm_tied.h"
#include "kernels/rows.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

// Within a core's second-level cache: most processors with AVX-512 have 1 MiB of it, others half.
constexpr std::int64_t kBlockBytes = (kVectorBytes == 64 ? 768 : 384) * 1024;

// Where a row is so far from every component that what the rounding of its logits lost could itself
// overflow or underflow an exponential, takes the largest out of that too. log p, rounded as its
// largest logit is, does not show it.
template <class T>
void lower_far_rows(std::int64_t n_components, const Block<T>& block, std::int64_t n) {
  // Half a unit in the last place of such a logit is 16.
  const Vec<T> far = broadcast<T>(static_cast<T>(sizeof(T) == 4 ? 0x1p28 : 0x1p57));
  for (const std::int64_t end = n + kGroup<T>; n < end; n += kLanes<T>) {
    const Vec<T> shift = shift_of(block, n);
    if (!greater<T>(-shift, far)) continue;
    const T* const high = block.logits + n;
    T* const low = block.low + n;
    Vec<T> largest = broadcast<T>(-static_cast<T>(__builtin_huge_val()));
    for (std::int64_t k = 0; k < n_components; ++k)
      largest = max(largest, load(high + k * block.ld) - shift + load(low + k * block.ld));
    largest = select(-shift > far, largest, Vec<T>{});
    for (std::int64_t k = 0; k < n_components; ++k)
      store(low + k * block.ld, load(low + k * block.ld) - largest);
  }
}

// Exponentiates the logits of one group of rows, less each row's largest, and finds their sum and
// the factor that makes responsibilities of them, times the rows' weights if `weighted`. Row
// vectors go in pairs: the exponential's chain of operations is long, and two of them fill the
// pipes.
template <class T, bool HasLow>
void exponentiate(std::int64_t n_components, const Block<T> block, std::int64_t n, bool weighted) {
  constexpr int pair = 2;
  static_assert(kRowVectors % pair == 0, "whole pairs in a group");
  if constexpr (HasLow) lower_far_rows(n_components, block, n);
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

// The responsibilities are compared as they would be written, rounding included. A label is exact
// in T up to 2^24 components.
template <class T>
void write_labels(const GmmModel<T>& model, const Vector<std::int64_t>& labels, std::int64_t begin,
                  std::int64_t count, const Block<T>& block) {
  constexpr int lanes = kLanes<T>;
  for (std::int64_t n = 0; n < count; n += lanes) {
    const Vec<T> factor = load(block.factor + n);
    Vec<T> most = factor * load(block.logits + n), label{};
    for (std::int64_t k = 1; k < model.n_components; ++k) {
      const Vec<T> other = factor * load(block.logits + k * block.ld + n);
      label = select(other > most, broadcast<T>(static_cast<T>(k)), label);
      most = select(other > most, other, most);
    }
    T found[lanes];
    store(found, label);
    for (std::int64_t i = 0; i < lanes && n + i < count; ++i)
      labels[begin + n + i] = static_cast<std::int64_t>(found[i]);
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
  if (posterior.labels) write_labels(model, posterior.labels, begin, count, block);
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

// Rows of one block: packed, their logits exponentiated.
template <class T, class FamilyType, bool Compensated>
struct EStep {
  const GmmModel<T>& model;
  const GmmChunk<T>& chunk;
  const Block<T>& block;
  T *kept, *gradient;  // for the gradient in the rows, see kernels/gmm_gradient.h

  // The rows of the group after the one that begins with `row`, if logits() is to ask for them as
  // it goes. All at once, as pack() has to, they keep each other waiting, and what follows them.
  const char* ahead_of(std::int64_t row) const {
    return FamilyType::reads_ahead && dense(chunk.rows.x, model.n_features)
               ? reinterpret_cast<const char*>(chunk.rows.x.row(row + kGroup<T>))
               : nullptr;
  }

  void pack(std::int64_t begin, std::int64_t n) const {
    const std::int64_t row = begin + n, next = row + kGroup<T>;
    pack_group(model, chunk.rows, row, chunk.end, block.x + n, block.ld);
    if (ahead_of(row)) return;
    prefetch_rows(chunk.rows, model.n_features, next,
                  next + kGroup<T> < chunk.end ? next + kGroup<T> : chunk.end);
  }

  void logits(std::int64_t n, const char* ahead = nullptr) const {
    if constexpr (FamilyType::reads_ahead)
      FamilyType::template logits<Compensated>(model, block, n, ahead);
    else
      FamilyType::template logits<Compensated>(model, block, n);
  }

  void responsibilities(std::int64_t n) const {
    exponentiate<T, Compensated>(model.n_components, block, n, chunk.sums != nullptr);
  }

  // Group by group, while a group's data are in the first-level cache.
  void run(std::int64_t begin, std::int64_t count, std::int64_t padded) const {
    for (std::int64_t n = 0; n < padded; n += kGroup<T>) {
      pack(begin, n);
      if (chunk.posterior.grad_x)
        logits_for_gradient(n, ahead_of(begin + n));
      else
        logits(n, ahead_of(begin + n));
      responsibilities(n);
      if (chunk.posterior.grad_x)
        write_gradient<T, FamilyType>(model, chunk.posterior, begin + n, count - n, block, n, kept,
                                      gradient);
    }
  }

  void logits_for_gradient(std::int64_t n, const char* ahead) const {
    if constexpr (std::is_same_v<FamilyType, FullFamily<T>>)
      if (kept) return FamilyType::template logits<Compensated, true>(model, block, n, kept);
    logits(n, ahead);
  }

  // The same of rows that are packed; the first group's logits may be there already.
  void run_packed(std::int64_t padded, bool first_done = false) const {
    for (std::int64_t n = 0; n < padded; n += kGroup<T>) {
      if (n > 0 || !first_done) logits(n);
      responsibilities(n);
    }
  }

  void run_pruned(std::int64_t begin, std::int64_t count, std::int64_t padded,
                  Pruning<T, Compensated>& pruning) const {
    for (std::int64_t n = 0; n < padded; n += kGroup<T>) pack(begin, n);
    if (pruning.unsure()) {
      logits(0);
      if (pruning.in_vain(count)) return run_packed(padded, true);
    }
    if (!pruning.logits(begin, count)) return run_packed(padded);
    for (std::int64_t n = 0; n < padded; n += kGroup<T>) responsibilities(n);
  }
};

// The workspace of a chunk, part behind part.
template <class T>
struct Workspace {
  std::int64_t pruning, pending, gradient, kept, hard, size;  // where they begin, in elements

  Workspace(const GmmModel<T>& model, std::int64_t block_rows)
      : pruning(Block<T>::workspace(model, block_rows)),
        pending(pruning + Pruning<T, false>::workspace(model, block_rows) /
                              static_cast<std::int64_t>(sizeof(T))),
        gradient(pending + Pending<T>::workspace(model)),
        kept(gradient + model.padded_features * kGroup<T>),
        hard(kept + kept_size(model)),
        size(hard + HardRowsShape<T>(model, block_rows).size) {}
};

// Families of many features have no use for HardRows.
template <class T>
struct NoHardRows {
  NoHardRows(const GmmModel<T>&, const GmmChunk<T>&, const Block<T>&, std::int64_t, T*) {}
  static constexpr bool wanted(std::int64_t) { return false; }
  template <class AddBlock>
  static std::int64_t add(std::int64_t begin, const AddBlock&) {
    return begin;
  }
};

template <class T, class FamilyType>
struct HardRowsOf {
  using type = NoHardRows<T>;
};

template <class T, int D>
struct HardRowsOf<T, SmallFamily<T, D>> {
  using type = HardRows<T, D>;
};

template <class T, class FamilyType, bool Compensated>
void run_chunk(const GmmModel<T>& model, const GmmChunk<T>& chunk) {
  const std::int64_t block_rows = gmm_shape(model).block_rows;
  const Workspace<T> at(model, block_rows);
  const Block<T> block(model, block_rows, chunk.workspace);
  const Pending<T> pending(model, chunk.workspace + at.pending);
  const EStep<T, FamilyType, Compensated> estep{
      model, chunk, block, kept_size(model) > 0 ? chunk.workspace + at.kept : nullptr,
      chunk.workspace + at.gradient};
  Pruning<T, Compensated> pruning(model, chunk, block, block_rows, chunk.workspace + at.pruning);
  // The gradient in a row wants responsibilities that are right for the row, not for the sums.
  const bool prune = FamilyType::prunable && !chunk.posterior.grad_x &&
                     Pruning<T, Compensated>::possible(model, chunk);
  typename HardRowsOf<T, FamilyType>::type hard(model, chunk, block, block_rows,
                                                chunk.workspace + at.hard);
  const auto add_packed = [&](std::int64_t padded) {
    estep.run_packed(padded);
    add_statistics<T, FamilyType>(model, chunk, block, pending, chunk.begin, padded);
  };
  for (std::int64_t begin = chunk.begin; begin < chunk.end;) {
    if (hard.wanted(begin)) {
      begin = hard.add(begin, add_packed);
      continue;
    }
    const std::int64_t count = chunk.end - begin < block_rows ? chunk.end - begin : block_rows;
    const std::int64_t padded = (count + kGroup<T> - 1) / kGroup<T> * kGroup<T>;
    set_weights(chunk.rows, begin, count, padded, block.weight);
    if (prune && pruning.wanted())
      estep.run_pruned(begin, count, padded, pruning);
    else
      estep.run(begin, count, padded);
    write_posterior(model, chunk.posterior, begin, count, block);
    if (chunk.sums) add_statistics<T, FamilyType>(model, chunk, block, pending, begin, padded);
    begin += count;
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
  if (model.family == Family::diag && model.one_center)
    return wide ? run_chunk<T, DiagFamily<T, true>, true>(model, chunk)
                : run_chunk<T, DiagFamily<T, true>, false>(model, chunk);
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
