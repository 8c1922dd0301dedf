// One pass over a chunk of rows. Each block small enough for the cache is packed with the vector
// lanes along the rows, gets its log-probabilities, log-sum-exp and responsibilities, and adds its
// statistics, before the next block is read.
#include "elbokit/gmm.h"

#include "kernels/gmm_diag.h"
#include "kernels/gmm_full.h"
#include "kernels/gmm_pack.h"
#include "kernels/gmm_small.h"
#include "kernels/rows.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

constexpr std::int64_t kMaxBlockRows = 512;
constexpr std::int64_t kBlockBytes = 384 * 1024;

// Leading dimension of the block's arrays: off a power of two, whose rows would share a cache set.
template <class T>
std::ptrdiff_t leading_dimension(std::int64_t block_rows) {
  return block_rows + 64 / static_cast<std::ptrdiff_t>(sizeof(T));
}

template <class T>
bool compensated(const GmmModel<T>& model) {
  return model.n_features > kPlainFeatures;
}

// The block's arrays within the workspace; each begins on a cache line.
template <class T>
struct Block {
  std::ptrdiff_t ld;
  T* x;         // (padded_features, ld)
  T* logits;    // (padded_components, ld), later the responsibilities
  T* low;       // (padded_components, ld): what the logits' rounding lost, or null
  T* weight;    // (ld), 0 past the last row
  T* log_prob;  // (ld), less log_base
  T* scratch;   // (padded_features + 1, ld)

  Block(const GmmModel<T>& model, std::int64_t block_rows, T* workspace)
      : ld(leading_dimension<T>(block_rows)),
        x(workspace),
        logits(x + model.padded_features * ld),
        low(compensated(model) ? logits + model.padded_components * ld : nullptr),
        weight((low ? low : logits) + model.padded_components * ld),
        log_prob(weight + ld),
        scratch(log_prob + ld) {}
};

// Weights of rows [begin, begin + count), 0 up to `padded`.
template <class T>
void set_weights(const GmmRows<T>& rows, std::int64_t begin, std::int64_t count,
                 std::int64_t padded, T* weight) {
  for (std::int64_t n = 0; n < padded; ++n)
    weight[n] = n >= count ? T(0) : rows.sample_weight ? rows.sample_weight[begin + n] : T(1);
}

// Logits of one group of rows to responsibilities, times the rows' weights if `weighted`. Row
// vectors go in pairs: the exponential's chain of operations is long, and two of them fill the
// pipes.
template <class T>
void normalise(std::int64_t n_components, const Block<T>& block, std::int64_t n, bool weighted) {
  constexpr int pair = 2;
  static_assert(kRowVectors % pair == 0, "whole pairs in a group");
  const Vec<T> lowest = broadcast<T>(-static_cast<T>(__builtin_huge_val()));
  for (int done = 0; done < kRowVectors; done += pair, n += pair * kLanes<T>) {
    T* const logits = block.logits + n;
    const auto at = [&](std::int64_t k, int v)
                        ELBOKIT_INLINE_LAMBDA { return k * block.ld + v * kLanes<T>; };
    Vec<T> largest[pair] = {lowest, lowest}, shift[pair], sum[pair] = {}, factor[pair];
    for (std::int64_t k = 0; k < n_components; ++k)
      for (int v = 0; v < pair; ++v) largest[v] = max(largest[v], load(logits + at(k, v)));
    // A row that no component reaches has log p = -inf and responsibilities 0.
    for (int v = 0; v < pair; ++v) shift[v] = select(largest[v] == lowest, Vec<T>{}, largest[v]);
    for (std::int64_t k = 0; k < n_components; ++k)
      for (int v = 0; v < pair; ++v) {
        Vec<T> logit = load(logits + at(k, v)) - shift[v];
        if (block.low) logit += load(block.low + n + at(k, v));
        const Vec<T> r = exp2_nonpositive(logit);
        store(logits + at(k, v), r);
        sum[v] += r;
      }
    for (int v = 0; v < pair; ++v) {
      const std::int64_t row = n + v * kLanes<T>;
      store(block.log_prob + row, log_density(shift[v], sum[v]));
      const Vec<T> numerator = weighted ? load(block.weight + row) : broadcast<T>(1);
      factor[v] = select(sum[v] == Vec<T>{}, Vec<T>{}, numerator / sum[v]);
    }
    for (std::int64_t k = 0; k < n_components; ++k)
      for (int v = 0; v < pair; ++v) store(logits + at(k, v), load(logits + at(k, v)) * factor[v]);
  }
}

template <class T>
void write_posterior(const GmmModel<T>& model, const GmmPosterior<T>& posterior, std::int64_t begin,
                     std::int64_t count, const Block<T>& block) {
  if (posterior.log_prob)
    for (std::int64_t n = 0; n < count; ++n)
      posterior.log_prob[begin + n] = static_cast<T>(block.log_prob[n] + model.log_base);
  if (!posterior.responsibilities) return;
  constexpr int lanes = kLanes<T>;
  for (std::int64_t n = 0; n < count; n += lanes) {
    const int height = static_cast<int>(count - n < lanes ? count - n : lanes);
    for (std::int64_t k = 0; k < model.n_components; k += lanes) {
      const std::int64_t left = model.n_components - k;
      const int width = static_cast<int>(left < lanes ? left : lanes);
      Vec<T> tile[lanes];
      for (int c = 0; c < lanes; ++c)
        tile[c] = c < width ? load(block.logits + (k + c) * block.ld + n) : Vec<T>{};
      transpose<T>(tile);
      for (int i = 0; i < height; ++i)
        write<T>(posterior.responsibilities.row(begin + n + i) + k, tile[i], width);
    }
  }
}

// The sum of term(n) over whole groups of rows, in several chains: one addition need not await the
// last.
template <class T, class F>
T sum_rows(std::int64_t rows, F&& term) {
  Vec<T> sum[kRowVectors] = {};
  for (std::int64_t n = 0; n < rows; n += kGroup<T>)
    for (int v = 0; v < kRowVectors; ++v) sum[v] += term(n + v * kLanes<T>);
  for (int v = 1; v < kRowVectors; ++v) sum[0] += sum[v];
  return reduce_add<T>(sum[0]);
}

template <class T, class FamilyType>
void add_statistics(const GmmModel<T>& model, std::int64_t padded, const Block<T>& block,
                    GmmSums& sums) {
  const std::int64_t d = model.n_features;
  const std::int64_t second_size = model.family == Family::full ? d * d : d;
  for (std::int64_t k = 0; k < model.n_components; ++k) {
    const T* const r = block.logits + k * block.ld;
    const T total = sum_rows<T>(padded, [&](std::int64_t n) { return load(r + n); });
    if (total == T(0)) continue;  // exact: every term that it would add is 0
    sums.counts[k] += total;
    FamilyType::moments(model, k, block.x, block.ld, padded, r, block.scratch, sums.first + k * d,
                        sums.second + k * second_size);
  }
  // A row of weight 0 counts for nothing, even where its log p is -inf.
  const double weight = sum_rows<T>(padded, [&](std::int64_t n) { return load(block.weight + n); });
  const double log_prob = sum_rows<T>(padded, [&](std::int64_t n) {
    const Vec<T> w = load(block.weight + n);
    return select(w == Vec<T>{}, Vec<T>{}, w * load(block.log_prob + n));
  });
  sums.log_likelihood += log_prob + weight * model.log_base;
}

template <class T, class FamilyType, bool Compensated>
void run_chunk(const GmmModel<T>& model, const GmmChunk<T>& chunk) {
  const std::int64_t block_rows = gmm_shape(model).block_rows;
  const Block<T> block(model, block_rows, chunk.workspace);
  for (std::int64_t begin = chunk.begin; begin < chunk.end; begin += block_rows) {
    const std::int64_t count = chunk.end - begin < block_rows ? chunk.end - begin : block_rows;
    const std::int64_t padded = (count + kGroup<T> - 1) / kGroup<T> * kGroup<T>;
    set_weights(chunk.rows, begin, count, padded, block.weight);
    for (std::int64_t n = 0; n < padded; n += kGroup<T>) {
      const std::int64_t row = begin + n, next = row + kGroup<T>;
      pack_group(model, chunk.rows, row, chunk.end, block.x + n, block.ld);
      prefetch_rows(chunk.rows, model.n_features, next,
                    next + kGroup<T> < chunk.end ? next + kGroup<T> : chunk.end);
      const LogitRows<T> out{block.logits + n, block.low ? block.low + n : nullptr, block.ld};
      FamilyType::template logits<Compensated>(model, block.x + n, block.ld, out);
      normalise(model.n_components, block, n, chunk.sums != nullptr);
    }
    write_posterior(model, chunk.posterior, begin, count, block);
    if (chunk.sums) add_statistics<T, FamilyType>(model, padded, block, *chunk.sums);
  }
}

}  // namespace

template <class T>
GmmShape gmm_shape(const GmmModel<T>& model) {
  const std::int64_t arrays =
      2 * model.padded_features + (compensated(model) ? 2 : 1) * model.padded_components + 3;
  std::int64_t rows = kBlockBytes / (arrays * static_cast<std::int64_t>(sizeof(T)));
  rows = rows / kGroup<T> * kGroup<T>;
  rows = rows < kGroup<T> ? kGroup<T> : rows > kMaxBlockRows ? kMaxBlockRows : rows;
  return {rows, arrays * leading_dimension<T>(rows)};
}

template <class T>
void gmm_chunk(const GmmModel<T>& model, const GmmChunk<T>& chunk) {
  const bool wide = compensated(model);
  if (model.family == Family::diag)
    return wide ? run_chunk<T, DiagFamily<T>, true>(model, chunk)
                : run_chunk<T, DiagFamily<T>, false>(model, chunk);
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
