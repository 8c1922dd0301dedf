#include "elbokit/kmeans.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "dispatch/cpu_level.h"
#include "dispatch/kmeans_lloyd.h"
#include "dispatch/kmeans_seeding.h"
#include "dispatch/threads.h"

namespace elbokit::cpu {

namespace {

// Rows whose median is the pivot: anything near most of the data will do.
constexpr std::int64_t kPivotRows = 256;

std::int64_t pivot_rows(std::int64_t n_samples) {
  return std::min(n_samples, std::clamp<std::int64_t>(n_samples / 16, 15, kPivotRows));
}

// One problem after the other, in one thread's memory. A problem's own loops go to the threads too,
// where they are worth it.
template <class T>
class Solver {
 public:
  Solver() : seeder_(tasks_), lloyd_(tasks_) {}
  Solver(const Solver&) = delete;

  void solve(const KMeansRows<T>& rows, const KMeansOptions& options, const double* uniforms,
             const KMeansResult<T>& result, KMeansCheck check) {
    find_pivot(rows);
    tasks_.assign(rows, pivot_.data(), options.n_clusters);
    const double variance = mean_variance(options.weigh_tol);
    *result.finite = variance - variance == 0.0;
    *result.n_iter = 0;
    if (!*result.finite) return;
    row_memory_.resize(rows.n_samples);
    seeder_.run(options, uniforms, row_memory_.data(), result.seeds, check);
    if (options.max_iter == 0) return;
    lloyd_.start(options.n_clusters, result.seeds, result.labels, row_memory_.data());
    *result.n_iter = lloyd_.run(options.max_iter, options.tol * variance, check);
    lloyd_.write_centers(result.centers);
    if (result.inertia) *result.inertia = lloyd_.inertia();
  }

 private:
  void find_pivot(const KMeansRows<T>& rows) {
    const std::int64_t count = pivot_rows(rows.n_samples);
    pivot_.resize(rows.n_features);
    values_.resize(count);
    for (std::int64_t j = 0; j < rows.n_features; ++j) {
      for (std::int64_t i = 0; i < count; ++i)
        values_[i] = rows.x.row(i * rows.n_samples / count)[j * rows.x.col_stride];
      // A NaN has no place in an order; the rows' spread will tell of it.
      std::nth_element(values_.begin(), values_.begin() + count / 2, values_.end(),
                       [](T a, T b) { return a < b || (b != b && a == a); });
      pivot_[j] = values_[count / 2];
    }
  }

  // The variance of a feature, averaged over the features; weights count if asked for.
  double mean_variance(bool weigh) {
    weigh = weigh && tasks_.rows().sample_weight;
    const auto kernel = ELBOKIT_KERNEL(kmeans_spread<T>);
    const std::int64_t d = tasks_.rows().n_features;
    sums_.assign(tasks_.count() * (d + 1), 0.0);
    tasks_.run(tasks_.cost(1), [&](const KMeansChunk<T>& chunk, std::int64_t task) {
      double* const first = sums_.data() + task * (d + 1);
      kernel(chunk, weigh, first, first + d);
    });
    for (std::int64_t c = 1; c < tasks_.count(); ++c)
      for (std::int64_t j = 0; j <= d; ++j) sums_[j] += sums_[c * (d + 1) + j];
    const KMeansRows<T>& rows = tasks_.rows();
    auto n = static_cast<double>(rows.n_samples);
    if (weigh) {
      n = 0;
      for (std::int64_t i = 0; i < rows.n_samples; ++i) n += rows.sample_weight[i];
    }
    double variance = sums_[d] / n;
    for (std::int64_t j = 0; j < d; ++j) variance -= (sums_[j] / n) * (sums_[j] / n);
    return variance / static_cast<double>(d);
  }

  KMeansRowTasks<T> tasks_;
  KMeansSeeder<T> seeder_;
  KMeansLloyd<T> lloyd_;
  std::vector<T> pivot_, values_, row_memory_;
  std::vector<double> sums_;
};

}  // namespace

template <class T>
void kmeans(std::int64_t n_problems, const KMeansRows<T>* rows, const KMeansOptions& options,
            const double* uniforms, const KMeansResult<T>* results, KMeansCheck check) {
  const std::int64_t draws = kmeans_draws(options);
  constexpr double passes = 10;  // of a typical run
  double cost = 0;
  for (std::int64_t p = 0; p < n_problems; ++p)
    cost += passes * kmeans_cost(rows[p].n_samples, rows[p].n_features, options.n_clusters);
  const bool threads = n_problems > 1 && cost > dispatch::kWorthThreads;
  std::vector<std::unique_ptr<Solver<T>>> solvers(dispatch::kMaxThreads);
  dispatch::for_each_task(threads, n_problems, [&](std::int64_t p, int slot) {
    if (!solvers[slot]) solvers[slot] = std::make_unique<Solver<T>>();
    solvers[slot]->solve(rows[p], options, uniforms + p * draws, results[p], check);
  });
}

#define ELBOKIT_INSTANTIATE(T)                                                                  \
  template void kmeans(std::int64_t, const KMeansRows<T>*, const KMeansOptions&, const double*, \
                       const KMeansResult<T>*, KMeansCheck);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cpu
