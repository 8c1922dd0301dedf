#include "elbokit/kmeans.h"

#include <algorithm>
#include <vector>

#include "dispatch/cpu_level.h"
#include "dispatch/kmeans_lloyd.h"
#include "dispatch/kmeans_seeding.h"
#include "dispatch/threads.h"

namespace elbokit::cpu {

namespace {

// Rows whose median is the pivot: anything near most of the data will do.
constexpr std::int64_t kPivotRows = 256;

template <class T>
std::vector<T> find_pivot(const KMeansRows<T>& rows) {
  const std::int64_t count = std::min(rows.n_samples, kPivotRows);
  std::vector<T> pivot(rows.n_features), values(count);
  for (std::int64_t j = 0; j < rows.n_features; ++j) {
    for (std::int64_t i = 0; i < count; ++i)
      values[i] = rows.x.row(i * rows.n_samples / count)[j * rows.x.col_stride];
    // A NaN has no place in an order; the rows' spread will tell of it.
    std::nth_element(values.begin(), values.begin() + count / 2, values.end(),
                     [](T a, T b) { return a < b || (b != b && a == a); });
    pivot[j] = values[count / 2];
  }
  return pivot;
}

// The variance of a feature, averaged over the features; weights do not count.
template <class T>
double mean_variance(const KMeansRowTasks<T>& tasks) {
  const auto kernel = ELBOKIT_KERNEL(kmeans_spread<T>);
  const std::int64_t d = tasks.rows().n_features;
  std::vector<double> sums(tasks.count() * (d + 1));
  tasks.run(tasks.cost(1), [&](const KMeansChunk<T>& chunk, std::int64_t task) {
    double* const first = sums.data() + task * (d + 1);
    kernel(chunk, first, first + d);
  });
  for (std::int64_t c = 1; c < tasks.count(); ++c)
    for (std::int64_t j = 0; j <= d; ++j) sums[j] += sums[c * (d + 1) + j];
  const auto n = static_cast<double>(tasks.rows().n_samples);
  double variance = sums[d] / n;
  for (std::int64_t j = 0; j < d; ++j) variance -= (sums[j] / n) * (sums[j] / n);
  return variance / static_cast<double>(d);
}

template <class T>
void solve(const KMeansRows<T>& rows, const KMeansOptions& options, const double* uniforms,
           const KMeansResult<T>& result, KMeansCheck check) {
  const std::vector<T> pivot = find_pivot(rows);
  const KMeansRowTasks<T> tasks(rows, pivot.data(), options.n_clusters);
  const double variance = mean_variance(tasks);
  *result.finite = variance - variance == 0.0;
  *result.n_iter = 0;
  if (!*result.finite) return;
  std::vector<T> row_memory(rows.n_samples);
  kmeans_plusplus(tasks, options, uniforms, row_memory.data(), result.seeds, check);
  if (options.max_iter == 0) return;
  KMeansLloyd<T> lloyd(tasks, options.n_clusters, result.labels, row_memory.data());
  lloyd.start(result.seeds);
  *result.n_iter = lloyd.run(options.max_iter, options.tol * variance, check);
  lloyd.write_centers(result.centers);
  if (result.inertia) *result.inertia = lloyd.inertia();
}

}  // namespace

template <class T>
void kmeans(std::int64_t n_problems, const KMeansRows<T>* rows, const KMeansOptions& options,
            const double* uniforms, const KMeansResult<T>* results, KMeansCheck check) {
  const std::int64_t draws = kmeans_draws(options);
  // A problem's own loops go to the threads too, where they are worth it.
  dispatch::for_each_task(n_problems > 1, n_problems, [&](std::int64_t p, int) {
    solve(rows[p], options, uniforms + p * draws, results[p], check);
  });
}

#define ELBOKIT_INSTANTIATE(T)                                                                  \
  template void kmeans(std::int64_t, const KMeansRows<T>*, const KMeansOptions&, const double*, \
                       const KMeansResult<T>*, KMeansCheck);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cpu
