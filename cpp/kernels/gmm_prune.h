// The E-step of well separated components with full covariance: the first whitened coordinates
// bound a row's distance from below, and rows that are thereby too far to count are not followed
// further; the others are looked at again whenever their coordinates have doubled.
#pragma once

#include "kernels/gmm_full.h"
#include "kernels/gmm_runs.h"

namespace elbokit::ELBOKIT_LEVEL {

// So many coordinates give the bound; 0 where it would cost too much of the whole to pay.
inline std::int64_t prefix_features(std::int64_t n_features) {
  return n_features >= 48 ? 16 : n_features >= 20 ? 8 : 0;
}

template <class T, bool Compensated>
class Pruning {
 public:
  static constexpr int lanes = kLanes<T>, group = kGroup<T>;

  static bool possible(const GmmModel<T>& model, const GmmChunk<T>& chunk) {
    return chunk.drop_scale > T(0) && model.n_components > kTile &&
           prefix_features(model.n_features) > 0;
  }

  // Bytes of the workspace: a bit per row and component, and the rows by their nearest component.
  static std::int64_t workspace(const GmmModel<T>& model, std::int64_t block_rows) {
    if (prefix_features(model.n_features) == 0) return 0;
    const std::int64_t words = (model.n_components + 1) * (block_rows / group);
    const std::int64_t ints = block_rows + Runs::size_of(block_rows, model.n_components);
    return words * 8 + (ints + 1) / 2 * 8;
  }

  Pruning(const GmmModel<T>& model, const GmmChunk<T>& chunk, const Block<T>& block,
          std::int64_t block_rows, void* workspace)
      : model_(model),
        chunk_(chunk),
        block_(block),
        near_(static_cast<std::uint64_t*>(workspace)),
        order_(reinterpret_cast<std::int32_t*>(near_ +
                                               (model.n_components + 1) * (block_rows / group))),
        runs_(block_rows, model.n_components, order_ + block_rows) {}

  // Whether to try: after a failure a number of blocks goes by first.
  bool wanted() {
    if (wait_ == 0) return true;
    --wait_;
    return false;
  }

  // Whether the first group of a block with `count` rows should be looked at before the block is
  // tried: the last one was not pruned.
  bool unsure() const { return !pruned_; }

  // Whether most rows of that group, whose logits are made, are near most components: to try would
  // be in vain.
  bool in_vain(std::int64_t count) {
    const int rows = static_cast<int>(count < group ? count : group);
    find_heaviest(rows);
    std::int64_t near = 0;
    for (std::int64_t k = 0; k < model_.n_components; ++k) {
      const T limit = least_logit(k);
      const T* const logit = block_.logits + k * block_.ld;
      for (int i = 0; i < rows; ++i) near += logit[i] > block_.largest[i] + limit;
    }
    return give_up_if(2 * near > rows * model_.n_components);
  }

  // The logits of `count` packed rows from row `begin` of the data on, -inf for those that the
  // M-step would drop, and the largest of each row. Returns false where too many rows are near too
  // many components to gain: the logits are then still to be made.
  bool logits(std::int64_t begin, std::int64_t count) {
    padded_ = (count + group - 1) / group * group;
    bound_all();
    sort_by_nearest(count);
    for (std::int64_t k = 0; k < model_.n_components; ++k)
      follow<true>(k, begin, order_ + runs_.start[k], runs_.size[k]);
    if (give_up_if(2 * find_near(count) > count * model_.n_components)) return false;
    for (std::int64_t k = 0; k < model_.n_components; ++k) place_nearest(k);
    for (std::int64_t k = 0; k < model_.n_components; ++k) follow_near(k, begin);
    // Only now: of many components, the one that the first coordinates call nearest to a row is
    // now and then another, and far from it.
    return !give_up_if(any_far(block_, padded_));
  }

 private:
  bool give_up_if(bool failed) {
    constexpr int patience = 16;
    pruned_ = !failed;
    if (failed) wait_ = patience;
    return failed;
  }

  // logits = upper bounds of them; nearest (in sum's place) = the component of the largest.
  void bound_all() {
    const GmmModel<T> model = model_;
    const Block<T> block = block_;
    const std::int64_t prefix = prefix_features(model.n_features);
    for (std::int64_t n = 0; n < padded_; n += group) {
      Largest<T> largest;
      Vec<T> nearest[kRowVectors] = {};
      for (std::int64_t k = 0; k < model.n_components; ++k) {
        Distance<T, false> distance[kRowVectors];
        FullFamily<T>::add_squares(
            model.center + k * model.padded_features, model.bias + k * model.padded_features,
            model.factor + k * model.factor_stride, 0, prefix, block.x + n, block.ld, distance);
        const LogitRows<T> out(block.logits + n, nullptr, block.ld);
        for (int v = 0; v < kRowVectors; ++v) {
          const Vec<T> bound =
              distance[v].store_logit(model.log_const[k], out, k * block.ld + v * lanes);
          const auto nearer = bound > largest.row[v];
          largest.row[v] = select(nearer, bound, largest.row[v]);
          nearest[v] = select(nearer, broadcast<T>(static_cast<T>(k)), nearest[v]);
        }
      }
      for (int v = 0; v < kRowVectors; ++v) store(block.sum + n + v * lanes, nearest[v]);
    }
  }

  // order[start[k]] and the following: the rows whose nearest component is k.
  void sort_by_nearest(std::int64_t count) {
    runs_.count(block_.sum, count, model_.n_components);
    runs_.line_up(model_.n_components, 0);
    runs_.finish(count);
    for (std::int64_t n = 0; n < count; ++n) order_[runs_.place[n]] = static_cast<std::int32_t>(n);
  }

  // Makes component k's logits of the listed rows of the block. Those of other than the nearest
  // component (`Own`) are given up as soon as none of them can count.
  template <bool Own>
  void follow(std::int64_t k, std::int64_t begin, const std::int32_t* rows, std::int64_t count) {
    for (std::int64_t i = 0; i < count;)
      i += count - i > lanes ? follow_vectors<Own, 2>(k, begin, rows + i, count - i)
                             : follow_vectors<Own, 1>(k, begin, rows + i, count - i);
  }

  // Features [from, to), with the padding among them, of some listed rows of the block, to the
  // scratch.
  template <int V>
  void pack(std::int64_t begin, const std::int32_t* rows, int count, std::int64_t from,
            std::int64_t to) {
    const std::int64_t end = to < model_.n_features ? to : model_.n_features;
    for (int v = 0; v < V; ++v) {
      const int height = count - v * lanes < lanes ? count - v * lanes : lanes;
      pack_listed(
          chunk_.rows, from, end,
          [&](int i) ELBOKIT_INLINE_LAMBDA { return begin + rows[v * lanes + i]; }, height,
          block_.scratch + v * lanes, V * lanes);
    }
    // Padding has factors of zero, which would not make a zero of what the memory holds.
    for (std::int64_t i = end * V; i < to * V; ++i) store(block_.scratch + i * lanes, Vec<T>{});
  }

  template <bool Own, int V>
  std::int64_t follow_vectors(std::int64_t k, std::int64_t begin, const std::int32_t* rows,
                              std::int64_t count) {
    constexpr int ld = V * lanes;
    const int taken = static_cast<int>(count < ld ? count : ld);
    Distance<T, Compensated> distance[V];
    T high[ld], low[ld] = {};
    const std::int64_t all = model_.padded_features;
    std::int64_t from = 0, to = Own ? all : 2 * prefix_features(model_.n_features);
    for (;;) {
      if (to > all) to = all;
      pack<V>(begin, rows, taken, from, to);
      FullFamily<T>::add_squares(
          model_.center + k * all, model_.bias + k * all,
          model_.factor + k * model_.factor_stride + FullFamily<T>::factor_entries(from), from, to,
          block_.scratch, ld, distance);
      for (int v = 0; v < V; ++v)
        distance[v].store_logit(model_.log_const[k], LogitRows<T>(high, low, 0), v * lanes);
      if (to == all) break;
      const T limit = least_logit(k);
      bool near = false;
      for (int i = 0; i < taken; ++i) near |= high[i] > block_.largest[rows[i]] + limit;
      if (!near) return taken;
      from = to;
      to *= 2;
    }
    for (int i = 0; i < taken; ++i)
      Own ? keep_as_largest(rows[i], high[i], low[i]) : keep_as_logit(k, rows[i], high[i], low[i]);
    return taken;
  }

  // The nearest component's logit waits in the rows' arrays while the bounds are still needed.
  void keep_as_largest(std::int32_t row, T high, T low) {
    block_.largest[row] = high;
    block_.factor[row] = low;
  }

  void keep_as_logit(std::int64_t k, std::int32_t row, T high, T low) {
    block_.logits[k * block_.ld + row] = high;
    if constexpr (Compensated) block_.low[k * block_.ld + row] = low;
    if (high > block_.largest[row]) block_.largest[row] = high;
  }

  // Logits of component k this far below the largest are dropped even in the heaviest row; one unit
  // is for the rounding of the bounds.
  T least_logit(std::int64_t k) const {
    const double share = static_cast<double>(chunk_.drop_scale * model_.drop_below[k]) /
                         static_cast<double>(heaviest_);
    return static_cast<T>(__builtin_log2(share) - 1);
  }

  void find_heaviest(std::int64_t count) {
    heaviest_ = 0;
    for (std::int64_t n = 0; n < count; ++n)
      heaviest_ = block_.weight[n] > heaviest_ ? block_.weight[n] : heaviest_;
  }

  // Marks the rows, other than its own, that are near enough to component k to count; returns how
  // many there are in all.
  std::int64_t find_near(std::int64_t count) {
    find_heaviest(count);
    const std::int64_t words = padded_ / group;
    std::int64_t total = 0;
    for (std::int64_t k = 0; k < model_.n_components; ++k) {
      const T limit = least_logit(k);
      const Vec<T> own = broadcast<T>(static_cast<T>(k));
      const T* const bound = block_.logits + k * block_.ld;
      for (std::int64_t n = 0; n < padded_; n += group) {
        std::uint64_t near = 0;
        for (int v = 0; v < kRowVectors; ++v) {
          const std::int64_t at = n + v * lanes;
          // Its own rows' bounds count as -inf.
          const Vec<T> other =
              select(load(block_.sum + at) == own,
                     broadcast<T>(-static_cast<T>(__builtin_huge_val())), load(bound + at));
          near |= std::uint64_t{greater<T>(other, load(block_.largest + at) + limit)}
                  << (v * lanes);
        }
        if (n + group > count && count - n < 64) near &= (std::uint64_t{1} << (count - n)) - 1;
        near_[k * words + n / group] = near;
        total += __builtin_popcountll(near);
      }
    }
    return total;
  }

  // Component k's logits: those of the rows that it is nearest to; -inf in the others.
  void place_nearest(std::int64_t k) {
    const Vec<T> own = broadcast<T>(static_cast<T>(k));
    const Vec<T> lowest = broadcast<T>(-static_cast<T>(__builtin_huge_val()));
    for (std::int64_t n = 0; n < padded_; n += lanes) {
      const auto is_own = load(block_.sum + n) == own;
      store(block_.logits + k * block_.ld + n, select(is_own, load(block_.largest + n), lowest));
      if constexpr (Compensated)
        store(block_.low + k * block_.ld + n, select(is_own, load(block_.factor + n), Vec<T>{}));
    }
  }

  // Component k's logits of the rows marked near.
  void follow_near(std::int64_t k, std::int64_t begin) {
    const std::int64_t words = padded_ / group;
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < words; ++i)
      for (std::uint64_t rows = near_[k * words + i]; rows != 0; rows &= rows - 1)
        order_[count++] = static_cast<std::int32_t>(i * group + __builtin_ctzll(rows));
    follow<false>(k, begin, order_, count);
  }

  const GmmModel<T>& model_;
  const GmmChunk<T>& chunk_;
  const Block<T>& block_;
  std::uint64_t* near_;  // (n_components, groups of rows)
  std::int32_t* order_;
  Runs runs_;  // of the nearest components
  std::int64_t padded_ = 0;
  T heaviest_ = 0;
  int wait_ = 0;
  bool pruned_ = false;
};

}  // namespace elbokit::ELBOKIT_LEVEL
