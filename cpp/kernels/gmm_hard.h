// Rows of few features that one component explains alone: all their other responsibilities are
// below what the M-step drops (kDropped). Such a row needs no exponential, and counts for its
// component as if it belonged there wholly. Rows are sorted by component and added up run by run;
// those of several components come first, as a block that goes the way of all blocks.
#pragma once

#include "kernels/gmm_pack.h"
#include "kernels/gmm_runs.h"
#include "kernels/gmm_small.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace elbokit::ELBOKIT_LEVEL {

template <class T>
struct HardRowsShape {
  std::int64_t rows;  // that are sorted at once; 0 where it would not pay
  std::ptrdiff_t ld;  // of the rows as they were, each array
  std::int64_t ones;  // and as many zeros as a step of add_moments may overshoot
  std::int64_t size;  // elements of the workspace

  HardRowsShape(const GmmModel<T>& model, std::int64_t block_rows)
      : rows(0), ld(Block<T>::leading_dimension(block_rows)), ones(ld), size(0) {
    constexpr std::int64_t group = kGroup<T>;
    if (model.family != Family::full || model.n_features > kSmallFeatures) return;
    if (block_rows < 8 * group) return;
    // Room for the padding of the shared rows, and for what add_moments' steps overshoot the last
    // run.
    static_assert(group >= 2 * kLanes<T>, "a step of add_moments");
    rows = block_rows - 2 * group;
    size = (model.n_features + 2) * ld + ones + group + Runs::size_of(rows, model.n_components + 1);
  }
};

template <class T, int D>
class HardRows {
 public:
  HardRows(const GmmModel<T>& model, const GmmChunk<T>& chunk, const Block<T>& block,
           std::int64_t block_rows, T* workspace)
      : model_(model),
        chunk_(chunk),
        block_(block),
        shape_(model, block_rows),
        heaviest_(chunk.drop_scale * static_cast<T>(kHeaviest)),
        x_(workspace),
        weight_(x_ + D * shape_.ld),
        label_(weight_ + shape_.ld),
        ones_end_(label_ + shape_.ld + shape_.ones),
        runs_(shape_.rows, model.n_components + 1,
              reinterpret_cast<std::int32_t*>(ones_end_ + group)) {
    const GmmPosterior<T>& out = chunk.posterior;
    // Sorting costs as much as the exponentials of some components, and a look at a group as a
    // few rows.
    possible_ = shape_.rows > 0 && 2 * model.n_components > lanes && chunk.sums &&
                chunk.drop_scale > T(0) && chunk.end - chunk.begin >= 16 * group &&
                !(out.log_prob || out.responsibilities || out.labels || out.grad_x);
    if (possible_) gap_ = gap(model);
  }

  // Whether add() gains anything from row `begin` on: most rows before it, or at first of a group
  // from there on, are hard. Where they were not, a number of blocks goes by.
  bool wanted(std::int64_t begin) {
    constexpr int patience = 16;
    if (!possible_) return false;
    if (mostly_hard_) return true;
    if (wait_-- > 0) return false;
    wait_ = patience;
    const int count = label_group(begin, chunk_.end, 0);
    int shared = 0;
    for (int n = 0; n < count; ++n) shared += label_[n] == static_cast<T>(model_.n_components);
    mostly_hard_ = 2 * shared <= count;
    return mostly_hard_;
  }

  // Adds rows from `begin` on, and returns the first that is left. `add_block(count)` adds the
  // first `count` rows of the block.
  template <class AddBlock>
  std::int64_t add(std::int64_t begin, const AddBlock& add_block) {
    const std::int64_t end = std::min(chunk_.end, begin + shape_.rows), count = end - begin;
    logits_ = weights_ = Vec<T>{};
    for (std::int64_t n = 0; n < count; n += group) label_group(begin + n, end, n);
    sort_rows(count);
    add_runs();
    chunk_.sums->log_likelihood += reduce_add<T>(log_density(logits_, broadcast<T>(1))) +
                                   reduce_add<T>(weights_) * model_.log_base;
    const std::int64_t shared = runs_.size[model_.n_components];
    if (shared > 0) add_block((shared + group - 1) / group * group);
    mostly_hard_ = 2 * shared <= count;
    return end;
  }

 private:
  static constexpr int lanes = kLanes<T>, group = kGroup<T>;

  // Times the mean weight: heavier rows always count as shared.
  static constexpr double kHeaviest = 1024;

  bool weighted() const { return static_cast<bool>(chunk_.rows.sample_weight); }

  // How much larger than the others, in log2 units, the largest logit of a hard row is.
  T gap(const GmmModel<T>& model) const {
    constexpr double least = std::numeric_limits<T>::denorm_min();
    double below = 1;
    for (std::int64_t k = 0; k < model.n_components; ++k)
      if (model.log_const[k] > -std::numeric_limits<T>::infinity())  // else it has no rows
        below = std::min(below, std::max<double>(model.drop_below[k], least));
    return static_cast<T>(std::log2((weighted() ? kHeaviest : 1.0) / below));
  }

  // Packs the group from row `begin` on as the n-th row and the following ones, and labels it.
  // Returns how many rows it has.
  int label_group(std::int64_t begin, std::int64_t end, std::int64_t n) {
    const std::int64_t next = begin + group;
    const int count = static_cast<int>(end < next ? end - begin : group);
    pack_group(model_, chunk_.rows, begin, end, x_ + n, shape_.ld);
    prefetch_rows(chunk_.rows, model_.n_features, next, std::min(next + group, chunk_.end));
    set_weights(chunk_.rows, begin, count, group, weight_ + n);
    find_labels(n);
    return count;
  }

  // The labels of a group: the component of a hard row, n_components for a shared one. Adds the
  // hard rows' weighted logits and weights.
  void find_labels(std::int64_t n) {
    using Family = SmallFamily<T, D>;
    const GmmModel<T> model = model_;
    const Vec<T> nowhere = broadcast<T>(-std::numeric_limits<T>::infinity());
    Vec<T> value[kRowVectors][D], best[kRowVectors], second[kRowVectors], label[kRowVectors] = {};
    Family::load_rows(x_ + n, shape_.ld, value);
    for (int v = 0; v < kRowVectors; ++v) best[v] = second[v] = nowhere;
    Vec<T> this_one{};
    for (std::int64_t k = 0; k < model.n_components; ++k) {
      const typename Family::Component component(model, k);
      for (int v = 0; v < kRowVectors; ++v) {
        const Vec<T> logit = component.logit(value[v]);
        const auto nearer = logit > best[v];
        second[v] = max(select(nearer, best[v], logit), second[v]);
        best[v] = select(nearer, logit, best[v]);
        label[v] = select(nearer, this_one, label[v]);
      }
      this_one += T(1);
    }
    // this_one = n_components. Each comparison is false for NaN.
    const Vec<T> gap = broadcast<T>(gap_), far = broadcast<T>(static_cast<T>(-kFar));
    for (int v = 0; v < kRowVectors; ++v) {
      const std::int64_t at = n + v * lanes;
      const Vec<T> weight = load(weight_ + at);
      label[v] = select(best[v] - second[v] > gap, label[v], this_one);
      label[v] = select(best[v] > far, label[v], this_one);
      if (weighted()) label[v] = select(weight <= heaviest_, label[v], this_one);
      store(label_ + at, label[v]);
      const auto shared = label[v] == this_one;
      const Vec<T> counted = select(shared, Vec<T>{}, weight);
      logits_ += select(shared, Vec<T>{}, best[v]) * counted;
      weights_ += counted;
    }
  }

  // The block's rows = the shared ones and zeros up to a whole group, then those of each component
  // from start[k] on.
  void sort_rows(std::int64_t count) {
    const std::int64_t k_shared = model_.n_components;
    runs_.count(label_, count, k_shared + 1);
    const std::int32_t shared = runs_.size[k_shared];
    const std::int32_t padded = (shared + group - 1) / group * group;
    runs_.start[k_shared] = 0;
    const std::int32_t end = runs_.line_up(k_shared, padded);
    runs_.finish(count);
    for (int j = 0; j < D; ++j) scatter(x_ + j * shape_.ld, count, block_.x + j * block_.ld);
    if (weighted())
      scatter(weight_, count, block_.weight);
    else
      std::fill_n(block_.weight, shared, T(1));
    clear(shared, padded);
    clear(end, end + group);
  }

  void add_runs() {
    if (!ones_are_there_) {
      std::fill(ones_end_ - shape_.ones, ones_end_, T(1));
      std::fill(ones_end_, ones_end_ + group, T(0));
      ones_are_there_ = true;
    }
    for (std::int64_t k = 0; k < model_.n_components; ++k) {
      if (runs_.size[k] == 0) continue;
      const T* const one = ones_end_ - runs_.size[k];
      SmallFamily<T, D>::add_moments(model_, k, block_.x + runs_.start[k], block_.ld, runs_.size[k],
                                     weighted() ? block_.weight + runs_.start[k] : one, one,
                                     *chunk_.sums);
    }
  }

  void scatter(const T* from, std::int64_t count, T* to) const {
    for (std::int64_t n = 0; n < count; ++n) to[runs_.place[n]] = from[n];
  }

  void clear(std::int64_t begin, std::int64_t end) {
    for (int j = 0; j < D; ++j)
      std::fill(block_.x + j * block_.ld + begin, block_.x + j * block_.ld + end, T(0));
    std::fill(block_.weight + begin, block_.weight + end, T(0));
  }

  const GmmModel<T>& model_;
  const GmmChunk<T>& chunk_;
  const Block<T>& block_;
  const HardRowsShape<T> shape_;
  const T heaviest_;
  T gap_{};
  T *const x_, *const weight_, *const label_;  // of rows in the data's order
  T* const ones_end_;                          // ones before it, zeros behind it
  const Runs runs_;                            // of the labels
  Vec<T> logits_{}, weights_{};  // sums over hard rows: of weighted logits, of weights
  bool possible_ = false, mostly_hard_ = false, ones_are_there_ = false;
  int wait_ = 0;
};

}  // namespace elbokit::ELBOKIT_LEVEL
