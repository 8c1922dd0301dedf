// Greedy k-means++ (Arthur & Vassilvitskii 2007, as scikit-learn has it).
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "dispatch/kmeans_tasks.h"

namespace elbokit::cpu {

// The first row of which the sum of the weights up to it exceeds u times their sum.
template <class T>
std::int64_t choose_by_weight(const KMeansRows<T>& rows, double u) {
  const std::int64_t last = rows.n_samples - 1;
  if (!rows.sample_weight)
    return std::min(last, static_cast<std::int64_t>(u * static_cast<double>(rows.n_samples)));
  double total = 0, sum = 0;
  for (std::int64_t n = 0; n <= last; ++n) total += rows.sample_weight[n];
  for (std::int64_t n = 0; n < last; ++n)
    if ((sum += rows.sample_weight[n]) > u * total) return n;
  return last;
}

// Chooses rows with probability in proportion to w_n closest[n], the squared distance to the
// nearest center so far. Of `trials` rows that one is taken which leaves the least in sum. A row's
// distances to the candidates are not kept: the center that was taken last is evaluated anew,
// beside the next candidates, and what they would leave is kept per run of rows. Keeps its memory
// from problem to problem.
template <class T>
class KMeansSeeder {
 public:
  explicit KMeansSeeder(const KMeansRowTasks<T>& tasks) : tasks_(tasks) {}

  // Chooses all seeds. `closest` is scratch for a value per row.
  void run(const KMeansOptions& options, const double* uniforms, T* closest, std::int64_t* seeds,
           KMeansCheck check) {
    seeds[0] = choose_by_weight(tasks_.rows(), uniforms[0]);
    if (options.n_clusters == 1) return;
    start(options.n_trials, closest);
    take_first(seeds[0]);
    for (std::int64_t k = 1; k < options.n_clusters; ++k) {
      seeds[k] = take_next(uniforms + 1 + (k - 1) * options.n_trials);
      check();
    }
  }

 private:
  void start(std::int64_t trials, T* closest) {
    trials_ = trials;
    closest_ = closest;
    kernel_ = ELBOKIT_KERNEL(kmeans_seed<T>);
    centers_.resize((trials + 1) * tasks_.rows().n_features);
    sums_.resize(tasks_.runs());
    prefix_.resize(tasks_.runs());
    potentials_.resize(tasks_.runs() * (trials + 1));
    candidates_.resize(trials);
    left_.resize(trials + 1);
    std::fill_n(closest, tasks_.rows().n_samples, std::numeric_limits<T>::infinity());
  }

  void take_first(std::int64_t row) {
    set_center(0, row);
    tasks_.run(tasks_.cost(1), [&](const KMeansChunk<T>& chunk, std::int64_t) {
      kernel_(chunk, {1, centers_.data(), closest_, sums_.data()});
    });
  }

  std::int64_t take_next(const double* uniforms) {
    const std::int64_t stride = trials_ + 1;
    double sum = 0;
    for (std::size_t run = 0; run < sums_.size(); ++run) prefix_[run] = sum += sums_[run];
    for (std::int64_t t = 0; t < trials_; ++t) candidates_[t] = locate(uniforms[t] * sum);
    for (std::int64_t t = 0; t < trials_; ++t) set_center(1 + t, candidates_[t]);
    tasks_.run(tasks_.cost(stride), [&](const KMeansChunk<T>& chunk, std::int64_t) {
      kernel_(chunk, {stride, centers_.data(), closest_, potentials_.data()});
    });
    std::fill(left_.begin(), left_.end(), 0.0);
    for (std::size_t run = 0; run < sums_.size(); ++run)
      for (std::int64_t c = 0; c < stride; ++c) left_[c] += potentials_[run * stride + c];
    const std::int64_t best = std::min_element(left_.begin() + 1, left_.end()) - left_.begin();
    for (std::size_t run = 0; run < sums_.size(); ++run)
      sums_[run] = potentials_[run * stride + best];
    set_center(0, candidates_[best - 1]);
    return candidates_[best - 1];
  }

  void set_center(std::int64_t center, std::int64_t row) {
    const KMeansRows<T>& rows = tasks_.rows();
    for (std::int64_t j = 0; j < rows.n_features; ++j)
      centers_[center * rows.n_features + j] =
          rows.x.row(row)[j * rows.x.col_stride] - tasks_.pivot()[j];
  }

  // The first row at which the running sum reaches `target`.
  std::int64_t locate(double target) {
    const KMeansRows<T>& rows = tasks_.rows();
    const std::int64_t last_run = tasks_.runs() - 1;
    const std::int64_t run = std::min<std::int64_t>(
        last_run, std::lower_bound(prefix_.begin(), prefix_.end(), target) - prefix_.begin());
    const std::int64_t begin = run * kSeedRun;
    const std::int64_t end = std::min(rows.n_samples, begin + kSeedRun);
    // The center that was taken last has yet to reach these rows; the run's sum stays as it is.
    kernel_(tasks_.chunk(begin, end, 0), {1, centers_.data(), closest_, sums_.data()});
    double sum = run == 0 ? 0.0 : prefix_[run - 1];
    for (std::int64_t n = begin; n < end - 1; ++n) {
      const T weight = rows.sample_weight ? rows.sample_weight[n] : T(1);
      if ((sum += weight * closest_[n]) >= target) return n;
    }
    return end - 1;
  }

  const KMeansRowTasks<T>& tasks_;
  std::int64_t trials_ = 0;
  T* closest_ = nullptr;
  std::vector<T> centers_;                          // the last one taken, then the candidates
  std::vector<double> sums_, prefix_, potentials_;  // per run of rows
  std::vector<std::int64_t> candidates_;
  std::vector<double> left_;  // by each candidate
  void (*kernel_)(const KMeansChunk<T>&, const KMeansSeeding<T>&) = nullptr;
};

}  // namespace elbokit::cpu
