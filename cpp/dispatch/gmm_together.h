// Runs of EM on the same rows, advanced together: one pass over the rows serves an iteration of
// each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "dispatch/gmm_pass.h"
#include "dispatch/gmm_update.h"
#include "dispatch/threads.h"
#include "elbokit/gmm_fit.h"

namespace elbokit::cpu {

// Rows that a core's cache holds need not be shared: such runs go on by themselves, without waiting
// for each other.
inline constexpr std::int64_t kCachedBytes = 1024 * 1024;

// The sums of runs that advance together take at most so much memory; the others wait their turn.
inline constexpr std::int64_t kTogetherBytes = 256 * 1024 * 1024;

// Consecutive mixtures.
struct Range {
  std::int64_t begin, end;
};

template <class T>
bool same_rows(const GmmFitRows<T>& a, const GmmFitRows<T>& b) {
  return a.n_samples == b.n_samples && a.x.data == b.x.data && a.x.row_stride == b.x.row_stride &&
         a.x.col_stride == b.x.col_stride && a.sample_weight.data == b.sample_weight.data &&
         (!a.sample_weight || a.sample_weight.stride == b.sample_weight.stride);
}

// The mixtures that share rows with their neighbours, if these are more than a cache holds.
template <class T>
std::vector<Range> sharing_rows(std::int64_t n_mixtures, const GmmFitRows<T>* rows,
                                std::int64_t n_features) {
  std::vector<Range> all;
  const std::int64_t row_bytes = n_features * static_cast<std::int64_t>(sizeof(T));
  for (std::int64_t begin = 0, end; begin < n_mixtures; begin = end) {
    for (end = begin + 1; end < n_mixtures && same_rows(rows[begin], rows[end]);) ++end;
    if (end > begin + 1 && rows[begin].n_samples * row_bytes > kCachedBytes)
      all.push_back({begin, end});
  }
  return all;
}

// Runner: as in gmm_fit.cpp, with memory for one run. Where there is no room for all runs at once,
// one that ends leaves its place to the next.
template <class T, class Runner, class Rows>
class RunsTogether {
 public:
  // at_once: how many runs may advance together.
  RunsTogether(const Rows& rows, std::int64_t at_once, std::int64_t max_iter,
               std::function<std::unique_ptr<Runner>()> make_runner, GmmFitObserver& observer)
      : rows_(rows),
        at_once_(at_once),
        max_iter_(max_iter),
        make_runner_(std::move(make_runner)),
        observer_(observer) {}

  void run(GmmFit* begin, GmmFit* end) {
    for (GmmFit* next = begin;;) {
      for (; next != end && static_cast<std::int64_t>(runs_.size()) < at_once_; ++next)
        if (next->status == GmmFitStatus::ok && next->n_iter < max_iter_) take(*next);
      if (runs_.empty()) return;
      iterate();
    }
  }

 private:
  struct Run {
    GmmFit* fit;
    std::unique_ptr<Runner> runner;
    GmmUpdateResult result{};
    bool served = false, updated = false;
  };

  void take(GmmFit& fit) {
    std::unique_ptr<Runner> runner;
    if (spare_.empty()) {
      runner = make_runner_();
    } else {
      runner = std::move(spare_.back());
      spare_.pop_back();
    }
    runs_.push_back({&fit, std::move(runner)});
  }

  void iterate() {
    std::vector<typename GmmPass<T>::Together> passes;
    for (Run& run : runs_) {
      run.served = run.runner->serves(*run.fit);
      if (run.served) passes.push_back(run.runner->pass(run.fit->estimate));
    }
    if (!passes.empty())
      GmmPass<T>::run_together(rows_.rows, passes, rows_.mass, [&] { observer_.pause(); });
    dispatch::parallel_for(static_cast<std::int64_t>(runs_.size()), [&](std::int64_t i, int) {
      Run& run = runs_[i];
      run.updated = run.served && run.runner->update(rows_, run.fit->estimate, false, run.result);
    });
    for (Run& run : runs_) {
      if (!run.updated) run.result = run.runner->repeat(rows_, *run.fit, true);
      double change = 0.0;
      const bool more = run.runner->advance(rows_, true, run.result, *run.fit, change);
      if (run.result.status == GmmFitStatus::ok) observer_.iteration(*run.fit, change);
      if (!more) spare_.push_back(std::move(run.runner));
    }
    runs_.erase(
        std::remove_if(runs_.begin(), runs_.end(), [](const Run& run) { return !run.runner; }),
        runs_.end());
  }

  const Rows& rows_;
  std::int64_t at_once_, max_iter_;
  std::function<std::unique_ptr<Runner>()> make_runner_;
  GmmFitObserver& observer_;
  std::vector<Run> runs_;
  std::vector<std::unique_ptr<Runner>> spare_;
};

}  // namespace elbokit::cpu
